"""Verdicts that no model is asked for: what the gate stops, and rows that lack what is needed."""

from __future__ import annotations

from charllm.core.judging.gate import Gate
from charllm.core.judging.records import Item, Judge, Record
from charllm.core.judging.rubric import Rubric
from charllm.core.judging.score import CANCELLED
from charllm.data.errors import Text

LACKING: dict[str, Text] = {
    "gold": Text(
        "the rubric needs the facts the answer rests on, and this row names none",
        "このルーブリックには根拠となる事実が必要ですが、この行にはありません",
    ),
    "history": Text(
        "the rubric needs earlier turns, and this row has none",
        "このルーブリックにはそれまでの会話が必要ですが、この行にはありません",
    ),
}


def unasked(judge: Judge, gate: Gate, rubric: Rubric, item: Item) -> Record | None:
    """The verdict on ``item`` without a call, None where the model has to be asked.

    The lowest level where the gate stops the reply; unscored where its writing was cancelled, and
    where the rubric needs gold facts or earlier turns that the item has not.
    """
    if item.stop_reason == "cancelled":
        return _unscored(judge, item, CANCELLED)
    if found := gate.check(item.reply, query=item.query, stop_reason=item.stop_reason):
        language = gate.profile.language
        return Record(
            item=item.id,
            judge=judge.id,
            rubric=judge.rubric,
            version=judge.version,
            score=float(judge.scale[0]),
            gate=tuple(finding.code for finding in found),
            rationale="\n".join(finding.text.in_(language) for finding in found),
        )
    for need, there in (("gold", item.gold), ("history", item.history)):
        if need in rubric.needs and not there:
            return _unscored(judge, item, LACKING[need])
    return None


def _unscored(judge: Judge, item: Item, why: Text) -> Record:
    return Record(
        item=item.id,
        judge=judge.id,
        rubric=judge.rubric,
        version=judge.version,
        score=None,
        unscored=why,
    )
