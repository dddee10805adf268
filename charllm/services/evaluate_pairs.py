"""Which variant wins how often, from what there is: pair verdicts, scores, blind votes, a file.

Verdicts of pairs lie as JSON lines in an evaluation's folder ``pairs``; without them a judge's
single scores are compared query by query. Nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from charllm.core.evaluation.bradley_terry import Ratings, rate
from charllm.core.evaluation.comparison import query_means
from charllm.core.evaluation.matches import Habits, Match, VoteRow, from_scores, from_votes, habits
from charllm.core.evaluation.pair_runs import PAIRS, RESAMPLES
from charllm.core.evaluation.planned import read_plan
from charllm.core.evaluation.reply_records import read_replies
from charllm.core.evaluation.scoring_replies import read_judged, scored_rows
from charllm.core.evaluation.verdict_files import read_verdicts
from charllm.data.errors import Text, UserError
from charllm.services.runs import Run
from charllm.services.store import Store

VOTES = "votes"
MARGIN = 0.25
"""Points on the judge's scale by which two scores must differ: closer ones are a tie."""


class Source(NamedTuple):
    """Where matches come from: ``pairs:<file>``, ``scores:<judge's key>`` or ``VOTES``."""

    key: str
    label: Text


class Standing(NamedTuple):
    """Ratings, and what the verdicts favour."""

    ratings: Ratings
    habits: Habits


def sources_of(run: Run) -> list[Source]:
    """What an evaluation has to offer: pair verdicts first, then each judge's single scores."""
    found = [
        Source(f"pairs:{path.name}", Text(f"pair verdicts {path.stem}", f"ペア判定 {path.stem}"))
        for path in pair_files(run)
    ]
    for judged in read_judged(run.folder):
        name = " ".join(judged.ruler[:2])
        found.append(
            Source(f"scores:{judged.key}", Text(f"single scores by {name}", f"{name} の個別の点数"))
        )
    return found


def pair_files(run: Run) -> list[Path]:
    return sorted((run.folder / PAIRS).glob("*.jsonl"))


def matches_of(run: Run, key: str) -> list[Match]:
    """The matches of one of ``sources_of``; ``UserError`` where it is gone or its file is wrong."""
    kind, _, name = key.partition(":")
    if kind == "pairs":
        known = {path.name: path for path in pair_files(run)}
        if name in known:
            variants = [one.name for one in read_plan(run.folder).variants]
            return read_verdicts(known[name], variants)
    if kind == "scores":
        return _from_judge(run, name)
    raise UserError(f"There are no verdicts {key!r}.", f"判定「{key}」はありません。")


def _from_judge(run: Run, key: str) -> list[Match]:
    replies = read_replies(run.folder)
    judged = next((one for one in read_judged(run.folder) if one.key == key), None)
    if judged is None:
        raise UserError("This judge has judged nothing here.", "このジャッジの採点がありません。")
    means = query_means(scored_rows(replies, judged))
    texts = {(r.variant, r.query): r.text for r in replies if r.repeat == 0}
    lengthened = []
    for match in from_scores(means, " ".join(judged.ruler[:2]), MARGIN):
        both = (texts.get((match.a, match.query)), texts.get((match.b, match.query)))
        lengthened.append(Match(**{**vars(match), "reply_a": both[0], "reply_b": both[1]}))
    return lengthened


def vote_matches(store: Store, slug: str) -> list[Match]:
    """What visitors of the chat have voted blindly on this character's answers."""
    rows = []
    for talk in store.conversations(slug, limit=-1):
        texts: dict[int, dict[str, str]] = {}
        for vote in store.votes(talk.id):
            if vote.turn not in texts:
                texts[vote.turn] = {one.variant: one.text for one in store.replies(vote.turn)}
            rows.append(
                VoteRow(
                    conversation=str(talk.id),
                    turn=str(vote.turn),
                    choice=vote.choice,
                    shown=vote.shown,
                    voter=vote.voter,
                    blind=vote.blind,
                    replies=texts[vote.turn],
                )
            )
    return from_votes(rows)


def standing(matches: Sequence[Match], *, control_length: bool) -> Standing | None:
    """Ratings and habits, None where no match has a verdict.

    Length can be taken into account only where the replies are known.
    """
    if not any(match.winner for match in matches):
        return None
    known = any(match.lengths for match in matches)
    ratings = rate(matches, control_length=control_length and known, resamples=RESAMPLES)
    return Standing(ratings, habits(matches))
