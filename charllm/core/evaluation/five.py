"""The five criteria of Character-LLM, with naturalness and tempo beside them.

Which rubric measures each, and which exchanges can tell anything of it. An exchange is a question
with its reply, asked alone or as a turn of an interview; nothing here asks or judges.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from charllm.core.judging.records import Item
from charllm.data.dialogue import Message
from charllm.data.errors import Text

Key = Literal[
    "memorisation", "values", "personality", "hallucination", "stability", "naturalness", "tempo"
]
Part = Literal["single", "talk"]

PARTS: dict[Part, Text] = {
    "single": Text("Single questions", "単発の質問"),
    "talk": Text("Interviews", "インタビュー"),
}
FIVE: tuple[Key, ...] = ("memorisation", "values", "personality", "hallucination", "stability")


@dataclass(frozen=True)
class Criterion:
    """``rubric`` is a file in ``rubrics/``; every rubric here has the same scale of levels."""

    key: Key
    rubric: str
    label: Text


CRITERIA: dict[Key, Criterion] = {
    one.key: one
    for one in (
        Criterion("memorisation", "factual", Text("Memorisation", "記憶")),
        Criterion("values", "values", Text("Values", "価値観")),
        Criterion("personality", "personality", Text("Personality", "性格")),
        Criterion("hallucination", "hallucination", Text("No hallucination", "作り話のなさ")),
        Criterion("stability", "stability", Text("Stability", "安定性")),
        Criterion("naturalness", "naturalness", Text("Naturalness", "自然さ")),
        Criterion("tempo", "tempo", Text("Tempo", "テンポ")),
    )
}


@dataclass(frozen=True)
class Exchange:
    """A question and its reply. ``unit`` is what hangs together: the query, or the talk.

    ``turn`` counts from 1 in a talk and is 0 outside of one; ``free``: the interviewer's own
    question, not one of the set. ``failed``: there is no reply, and this is why.
    """

    id: str
    variant: str
    part: Part
    unit: str
    question: str
    reply: str
    stop_reason: str = ""
    turn: int = 0
    gold: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    history: tuple[Message, ...] = field(default=())
    free: bool = False
    failed: Text | None = None

    @property
    def place(self) -> str:
        """The same for the same question (or turn) of every variant: what is paired."""
        return f"{self.unit}/{self.turn}" if self.turn else self.unit

    def item(self) -> Item:
        """What a judge is asked about."""
        return Item(
            id=self.id,
            query=self.question,
            reply=self.reply,
            stop_reason=self.stop_reason,
            history=self.history,
            gold=self.gold,
            topic=next(iter(self.tags), ""),
        )


def tells(key: Key, exchange: Exchange) -> bool:
    """Whether this exchange can say something of the criterion.

    Memorisation needs gold facts, stability earlier turns; values are looked for where the
    question touches them: tagged so, or asked by an interviewer who may ask about anything.
    """
    if key == "memorisation":
        return bool(exchange.gold)
    if key == "values":
        return "values" in exchange.tags or exchange.free
    if key == "stability":
        return bool(exchange.history)
    return True


def asked_about(key: Key, exchanges: Iterable[Exchange]) -> list[Exchange]:
    """The exchanges that are judged by this criterion: those with a reply that can tell."""
    return [one for one in exchanges if one.failed is None and tells(key, one)]
