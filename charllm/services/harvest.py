"""From use to data: edits, votes and hand scores become training rows, with their origin.

Supervised rows are dialogues like any other; preference rows have TRL's form ``{"prompt",
"chosen", "rejected"}``. Questions that stand in a query set stay out, so that nothing is trained on
what it is measured with. Every claim that makes no row is told with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from charllm.data import collection
from charllm.data.config import Paths
from charllm.data.dataset_card import DatasetCard
from charllm.data.dialogue import Dialogue, Message
from charllm.data.errors import Text, UserError
from charllm.data.files import check_slug, write_json_lines
from charllm.data.text import near_duplicates
from charllm.services.evidence import KINDS, Answer, Claim, Evidence, Kind
from charllm.services.judged import UNANSWERED
from charllm.services.store import Store

T = TypeVar("T")

THRESHOLD = 5.0
"""Hand scores of so much and more make a supervised row, as in the study."""
GAP = 2.0
"""Hand scores so far apart make a preference."""
CUT_OFF = ("length", "repetition")

HIDDEN = Text("its question was edited later", "質問があとで編集されています")
NO_TEXT = Text("the answer is empty", "答えが空です")
STOPPED = Text("the answer failed or was stopped", "失敗または停止した答えです")
ENDLESS = Text(
    "the answer was cut off; a model would learn not to end",
    "途中で打ち切られた答えです（終わり方を学習できません）",
)
IMPROVED = Text("its edited form is used instead", "編集後の答えを代わりに使います")
LEAK = Text("its question is nearly one of a query set", "質問が評価用の質問とほぼ同じです")
REPEATED = Text("the same row came of another judgement", "同じ行がすでにあります")
SAME_TEXT = Text("both answers say the same", "二つの答えが同じ文です")
CONTRADICTED = Text(
    "another judgement prefers the other answer", "逆の答えを良いとする評価もあります"
)


@dataclass(frozen=True)
class Harvest(Generic[T]):
    """Rows, and every claim that made none: ``(its id, why)``."""

    rows: list[T]
    left_out: list[tuple[str, Text]]

    def reasons(self) -> list[tuple[Text, int]]:
        """The reasons with how often each occurs, the most frequent first."""
        counts: dict[Text, int] = {}
        for _, why in self.left_out:
            counts[why] = counts.get(why, 0) + 1
        return sorted(counts.items(), key=lambda item: -item[1])


def supervised_rows(
    store: Store,
    profile: str,
    paths: Paths,
    *,
    threshold: float = THRESHOLD,
    rubric: str | None = None,
    kinds: Collection[Kind] = KINDS,
) -> Harvest[Dialogue]:
    """Answers that people wrote, chose in a vote, or scored ``threshold`` or more by hand.

    A subject scored by several rubrics has to reach it in each; ``rubric`` takes only one into
    account. Each row's messages are what was sent, as far as the store knows, and the answer.
    """
    claims = list(Evidence(store, profile, paths).good(threshold, rubric))
    kept, left_out = _sift(claims, kinds, paths, _problem, lambda claim: _key(claim.better))
    return Harvest([_dialogue(claim, profile) for claim in kept], left_out)


def preference_rows(
    store: Store,
    profile: str,
    paths: Paths,
    *,
    gap: float = GAP,
    rubric: str | None = None,
    kinds: Collection[Kind] = KINDS,
) -> Harvest[dict[str, Any]]:
    """Pairs from edits (over what the model said), votes (over each other answer) and hand scores.

    Hand scores pair answers to the same question that one person scored at least ``gap`` apart.
    The prompt is the chosen answer's; ``origin.same_prompt`` says whether the rejected one had the
    same. Two claims that contradict each other both stay out.
    """
    claims = list(Evidence(store, profile, paths).pairs(gap, rubric))
    against = {_reverse(claim) for claim in claims if claim.kind in kinds}

    def problem(claim: Claim) -> Text | None:
        found = _problem(claim) or _problem_of_pair(claim)
        return found or (CONTRADICTED if _pair(claim) in against else None)

    kept, left_out = _sift(claims, kinds, paths, problem, _pair)
    return Harvest([_preference(claim) for claim in kept], left_out)


def save_supervised(
    paths: Paths, harvest: Harvest[Dialogue], name: str, profile: str, *, replace: bool = False
) -> DatasetCard:
    """Make the data set ``name``; ``UserError`` where there are no rows, or it exists already."""
    _refuse_empty(harvest)
    card = DatasetCard(name=name, profile=profile, kind="harvested", notes=_notes(harvest))
    return collection.create(paths, name, harvest.rows, card, replace).card


def preferences_path(paths: Paths, name: str) -> Path:
    return paths.datasets / "preferences" / f"{check_slug(name, 'dataset name')}.jsonl"


def save_preferences(
    paths: Paths, harvest: Harvest[dict[str, Any]], name: str, *, replace: bool = False
) -> Path:
    """Write ``datasets/preferences/<name>.jsonl``; ``UserError`` as ``save_supervised``."""
    _refuse_empty(harvest)
    path = preferences_path(paths, name)
    if path.exists() and not replace:
        raise UserError(
            f"{path} exists already. Choose another name.",
            f"{path} はすでにあります。別の名前にしてください。",
        )
    write_json_lines(path, harvest.rows)
    return path


# What stays out


def _sift(
    claims: Sequence[Claim],
    kinds: Collection[Kind],
    paths: Paths,
    problem: Callable[[Claim], Text | None],
    key: Callable[[Claim], Any],
) -> tuple[list[Claim], list[tuple[str, Text]]]:
    """The claims that make rows, the first of those that would make the same one; and the rest."""
    chosen = [claim for claim in claims if claim.kind in kinds]
    leaks = _leaks(paths, [claim.better.question for claim in chosen])
    kept: dict[Any, Claim] = {}
    left_out: list[tuple[str, Text]] = []
    for place, claim in enumerate(chosen):
        why = problem(claim) or (LEAK if place in leaks else None)
        why = why or (REPEATED if key(claim) in kept else None)
        if why is None:
            kept[key(claim)] = claim
        else:
            left_out.append((claim.id, why))
    return list(kept.values()), left_out


def _leaks(paths: Paths, questions: Sequence[str]) -> set[int]:
    """The places of the questions that are near-duplicates of a query of any set."""
    queries = [text for _, text in collection.all_queries(paths)]
    return {place for place, _, _ in near_duplicates(questions, queries)}


def _problem(claim: Claim) -> Text | None:
    """Why the better answer is none to learn from."""
    answer = claim.better
    if answer.replaced:
        return HIDDEN
    if answer.stop_reason in UNANSWERED:
        return STOPPED
    if not answer.text.strip():
        return NO_TEXT
    if answer.stop_reason in CUT_OFF:
        return ENDLESS
    return IMPROVED if answer.improved and claim.worse is None else None


def _problem_of_pair(claim: Claim) -> Text | None:
    """Why the worse answer is none to compare with; one that did not end is."""
    worse = claim.worse
    if worse is None or worse.stop_reason in UNANSWERED:
        return STOPPED
    if not worse.text.strip():
        return NO_TEXT
    return SAME_TEXT if worse.text.strip() == claim.better.text.strip() else None


def _key(answer: Answer) -> tuple[Any, str]:
    return _said(answer.talk), answer.text.strip()


def _pair(claim: Claim) -> Any:
    return (*_key(claim.better), claim.worse.text.strip() if claim.worse else "")


def _reverse(claim: Claim) -> Any:
    worse = claim.worse.text.strip() if claim.worse else ""
    return (_said(claim.better.talk), worse, claim.better.text.strip())


def _said(messages: Iterable[Message]) -> tuple[tuple[str, str], ...]:
    return tuple((message.role, message.content.strip()) for message in messages)


# Rows


def _dialogue(claim: Claim, profile: str) -> Dialogue:
    answer = claim.better
    reply = Message(role="assistant", content=answer.text.strip())
    origin = {"kind": claim.kind, "by": claim.by, "score": claim.score, **answer.origin}
    return Dialogue(
        id=claim.id,
        messages=(*answer.prompt, reply),
        source="harvested",
        meta={"profile": profile, "facts": list(answer.facts), "origin": origin},
    )


def _preference(claim: Claim) -> dict[str, Any]:
    better, worse = claim.better, claim.worse
    assert worse is not None, claim
    return {
        "id": claim.id,
        "prompt": [message.model_dump() for message in better.prompt],
        "chosen": [{"role": "assistant", "content": better.text.strip()}],
        "rejected": [{"role": "assistant", "content": worse.text.strip()}],
        "origin": {
            "kind": claim.kind,
            "by": claim.by,
            "score": claim.score,
            "rejected_score": claim.worse_score,
            "same_prompt": better.prompt == worse.prompt,
            "chosen": better.origin,
            "rejected": worse.origin,
        },
    }


def _refuse_empty(harvest: Harvest[Any]) -> None:
    if not harvest.rows:
        raise UserError(
            "There is nothing to save yet: edit answers, vote, or score by hand first.",
            "保存できる行がまだありません。"
            "先に、答えの編集・投票・手動の採点のいずれかをしてください。",
        )


def _notes(harvest: Harvest[Any]) -> str:
    lines = [f"- {count}: {why.en} / {why.ja}" for why, count in harvest.reasons()]
    return "\n".join(["Left out / 使わなかったもの:", *lines]) if lines else ""
