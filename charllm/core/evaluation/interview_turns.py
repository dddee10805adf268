"""Interviews as they are kept, and the order in which questions of the set come in them.

``turns.jsonl`` of a run's folder holds a line a turn: who was asked, what, by whom, and the reply
with all that it was made of. Plain data: nothing here runs a model.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from charllm.core.evaluation.five_questions import FOLLOW_UP
from charllm.core.evaluation.kept_lines import read_lines
from charllm.data.dialogue import Message
from charllm.data.errors import Text, UserError
from charllm.data.queries import Query

TURNS = "turns.jsonl"

Focus = Literal["memorisation", "values", "personality", "hallucination", "stability"]
FOCUSES: tuple[Focus, ...] = (
    "memorisation",
    "values",
    "personality",
    "hallucination",
    "stability",
)
"""What an interviewer model is to find out; talks take them in turn."""

AskedBy = Literal["list", "model"]


class Place(NamedTuple):
    """One turn that is wanted. ``talk`` and ``turn`` count from 1."""

    variant: str
    talk: int
    turn: int

    @property
    def key(self) -> str:
        return f"{self.variant}/talk-{self.talk:03d}/{self.turn}"


@dataclass(frozen=True)
class Turn:
    """One question of a talk with its reply. ``query``: its id in the set, "" for a model's own.

    ``failed`` says why there is no reply; such a turn is not part of what is remembered.
    ``facts`` are those looked up, ``weights`` names base and adapter with their hashes.
    """

    variant: str
    talk: int
    turn: int
    question: str
    asked_by: AskedBy
    query: str
    text: str
    stop_reason: str
    prompt: str
    facts: tuple[Mapping[str, Any], ...]
    weights: str
    prompt_tokens: int | None = None
    tokens: int | None = None
    seconds: float = 0.0
    seed: int = 0
    failed: Text | None = None

    @property
    def place(self) -> Place:
        return Place(self.variant, self.talk, self.turn)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "failed": self.failed.as_json() if self.failed else None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Turn:
        failed = data["failed"]
        fixed = {
            "facts": tuple(data["facts"]),
            "failed": Text(failed["en"], failed["ja"]) if failed else None,
        }
        return cls(**{**data, **fixed})


def read_turns(folder: Path) -> list[Turn]:
    """All kept turns in the order in which they came; a line that a kill has torn is left out."""
    return [Turn.from_json(row) for row in read_lines(folder / TURNS)]


def remembered(turns: Iterable[Turn]) -> tuple[Message, ...]:
    """What was said in these turns of one talk, for the prompt of the next."""
    said = []
    for turn in sorted((one for one in turns if one.failed is None), key=lambda one: one.turn):
        said.append(Message(role="user", content=turn.question))
        said.append(Message(role="assistant", content=turn.text))
    return tuple(said)


@dataclass(frozen=True)
class Talk:
    """One interview as it is planned: the question of each turn, for a list or as the way out."""

    number: int
    focus: Focus
    questions: tuple[Query, ...]


def plan_talks(queries: Sequence[Query], talks: int, turns: int, seed: int) -> tuple[Talk, ...]:
    """Questions of the set in the first, third, … turn, follow-ups between, drawn by ``seed``.

    A question comes again only after all others, and not in the same talk as long as there are
    enough. Without follow-ups in the set every turn is a question of it. ``UserError`` where
    there is nothing to open a talk with.
    """
    openers = [query for query in queries if FOLLOW_UP not in query.tags]
    between = [query for query in queries if FOLLOW_UP in query.tags]
    if talks and not openers:
        raise UserError(
            "The query set has only follow-ups: a talk needs a question to begin with.",
            "質問セットに follow-up しかありません。会話を始める質問を加えてください。",
        )
    asked, follow = _Deck(openers, f"{seed}:questions"), _Deck(between, f"{seed}:follow-ups")
    planned = []
    for number in range(1, talks + 1):
        drawn: list[Query] = []
        for turn in range(1, turns + 1):
            drawn.append((follow if between and turn % 2 == 0 else asked).draw(drawn))
        planned.append(Talk(number, FOCUSES[(number - 1) % len(FOCUSES)], tuple(drawn)))
    return tuple(planned)


class _Deck:
    """Drawn to its end, then shuffled anew."""

    def __init__(self, queries: Sequence[Query], seed: str) -> None:
        self._random = random.Random(seed)
        self._all = list(queries)
        self._left: list[Query] = []

    def draw(self, taken: Sequence[Query]) -> Query:
        """A question that is not among ``taken``, unless there is no other."""
        if all(query in taken for query in self._left):
            self._left = list(self._all)
            self._random.shuffle(self._left)
        chosen = next((query for query in self._left if query not in taken), self._left[0])
        self._left.remove(chosen)
        return chosen
