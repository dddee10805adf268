"""An evaluation's kept replies compared in pairs: asked once, kept line by line, rated.

Verdicts lie in the run's folder as ``pairs/<judge>.jsonl`` in the form of ``verdict_files``, so a
killed judging goes on behind its last line. Nothing is generated again. A judge of pairs has no
quality check: what it favours is counted instead (``matches.habits``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from charllm.core.evaluation.bradley_terry import Ratings, rate
from charllm.core.evaluation.kept_lines import append_lines, cut_torn_line, read_lines
from charllm.core.evaluation.matches import Match, habits
from charllm.core.evaluation.pairwise import Duel, Pairs, duels, open_pair_judge
from charllm.core.evaluation.planned import Planned, read_plan
from charllm.core.evaluation.reply_records import Reply, read_replies
from charllm.core.judging.judges import JudgeConfig
from charllm.core.judging.records import Item, Quote
from charllm.data.config import Paths
from charllm.data.errors import Text, UserError
from charllm.data.files import sha256
from charllm.data.progress import Reporter, Stopped

PAIRS = "pairs"
RESAMPLES = 1000
JUDGING = Text("judging pairs", "ペアを判定しています")


def judge_pairs(
    folder: Path, config: JudgeConfig, reporter: Reporter, paths: Paths, *, against: str = ""
) -> list[Match]:
    """All verdicts of this judge on the run's pairs, those that it gave earlier first.

    ``against``: each variant meets this one only. A stop with "save" ends it with what there is;
    ``Stopped`` when cancelled, ``UserError`` where the judge cannot go on: what it said stays.
    """
    planned = read_plan(folder)
    with closing(open_pair_judge(paths, planned.profile, config)) as judge:
        path = pair_file(folder, judge)
        path.parent.mkdir(exist_ok=True)
        cut_torn_line(path)
        found = read_pairs(path)
        wanted = _open_duels(planned, read_replies(folder), against, found)
        total = len(found) + len(wanted)
        reporter.progress(len(found), total, JUDGING)
        for match in judge.judge(wanted, lambda: bool(reporter.stop_requested())):
            append_lines(path, [match.as_json()])
            found.append(match)
            reporter.progress(len(found), total, JUDGING)
    if reporter.stop_requested() == "cancel":
        raise Stopped
    return found


def quote_pairs(folder: Path, config: JudgeConfig, paths: Paths, *, against: str = "") -> Quote:
    """What the verdicts that are missing will take."""
    planned = read_plan(folder)
    with closing(open_pair_judge(paths, planned.profile, config)) as judge:
        known = read_pairs(pair_file(folder, judge))
        return judge.quote(_open_duels(planned, read_replies(folder), against, known))


def pair_file(folder: Path, judge: Pairs) -> Path:
    """Where this judge's verdicts by this version of its rubric are kept."""
    name = " ".join((judge.id, judge.rubric, judge.version))
    readable = re.sub(r"[^A-Za-z0-9]+", "-", f"{judge.id} {judge.rubric}").strip("-")[:60]
    return folder / PAIRS / f"{readable}-{sha256(name.encode())[:8]}.jsonl"


def read_pairs(path: Path) -> list[Match]:
    """The kept verdicts in their order; a line that a kill has torn is left out."""
    return [Match.from_json(row) for row in read_lines(path)]


def standing(matches: Sequence[Match], *, control_length: bool = False) -> Ratings:
    """Ratings and win matrix with intervals over queries."""
    return rate(matches, control_length=control_length, resamples=RESAMPLES)


def as_json(matches: Sequence[Match], ratings: Ratings) -> dict[str, Any]:
    """Everything about one judge's verdicts but the verdicts themselves."""
    return {
        "matches": len(matches),
        "unscored": ratings.unscored,
        "queries": ratings.queries,
        "ratings": [
            {
                "model": one.model,
                "points": asdict(one.points),
                "wins": one.wins,
                "ties": one.ties,
                "losses": one.losses,
            }
            for one in ratings.ratings
        ],
        "apart": ratings.apart,
        "habits": asdict(habits(matches)) if ratings.n else None,
        "cost": _cost(matches),
    }


def _cost(matches: Sequence[Match]) -> float | None:
    """US dollars, None where a price is not known."""
    costs = [match.cost for match in matches]
    return None if None in costs else sum(cost or 0.0 for cost in costs)


def _open_duels(
    planned: Planned, replies: Sequence[Reply], against: str, known: Sequence[Match]
) -> list[Duel]:
    """The pairs of replies that have no verdict yet; a repeat meets the other's same repeat."""
    if len(planned.variants) < 2:
        raise UserError(
            "There is one variant in this evaluation: nothing can be compared in pairs.",
            "この評価にはバリアントが一つしかないため、ペアで比べられません。",
        )
    asked = {query.id: query for query in planned.queries}
    items: dict[str, list[Item]] = {variant.name: [] for variant in planned.variants}
    clusters = {}
    for reply in sorted(replies, key=lambda one: (one.query, one.repeat)):
        if reply.failed is None:
            query = asked[reply.query]
            name = query.id if not reply.repeat else f"{query.id}#{reply.repeat + 1}"
            clusters[name] = query.id
            items[reply.variant].append(
                Item(name, query.text, reply.text, reply.stop_reason, gold=query.gold)
            )
    there = {(frozenset((match.a, match.b)), match.query) for match in known}
    return [
        duel
        for duel in duels(items, against, clusters)
        if (frozenset((duel.a, duel.b)), duel.query) not in there
    ]
