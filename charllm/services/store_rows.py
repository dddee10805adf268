"""The rows of the store: their classes, their tables, and the way from one to the other."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from charllm.data.dialogue import Message
from charllm.data.files import sha256

Row = TypeVar("Row")

PERSON = "person:"
NO_CHOICE = ("tie", "all-bad")
CHAT = "chat"
"""The source of subjects that are replies of the chat; their item is ``reply-<id>``."""
WITHDRAWN = "withdrawn"
"""The reason in the row by which a person takes a hand score back."""


@dataclass(frozen=True)
class Conversation:
    """``variants`` names the columns; ``settings`` is whatever the chat wants to find again."""

    profile: str
    title: str = ""
    variants: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    created: float = 0.0
    updated: float = 0.0
    id: int = 0


@dataclass(frozen=True)
class Turn:
    """One question; ``n`` counts from 1. Hidden turns were replaced by an edit."""

    conversation: int
    n: int
    question: str
    blind: bool = False
    hidden: bool = False
    created: float = 0.0
    id: int = 0


@dataclass(frozen=True)
class Reply:
    """One variant's answer with all that explains it; ``position`` is its column from 0.

    ``facts`` are ``{"fact", "similarity", "used"}``; times in seconds.
    """

    turn: int
    position: int
    variant: str
    text: str
    prompt: str = ""
    prompt_tokens: int = 0
    facts: tuple[dict[str, Any], ...] = ()
    tokens: int = 0
    first_seconds: float | None = None
    seconds: float | None = None
    stop_reason: str = ""
    weights: str = ""
    preset: dict[str, Any] = field(default_factory=dict)
    created: float = 0.0
    id: int = 0


@dataclass(frozen=True)
class Subject:
    """A reply that judges and people score, as it stood in one ``source``.

    ``source`` is a run, a dataset, an import or ``CHAT``; ``item`` the row's name in it.
    ``subject`` is the hash by which judgements find it: the same text in two sources shares them.
    """

    subject: str
    profile: str
    question: str
    reply: str
    history: tuple[Message, ...] = ()
    gold: tuple[str, ...] = ()
    topic: str = ""
    stop_reason: str = ""
    source: str = ""
    item: str = ""
    created: float = 0.0
    id: int = 0

    @classmethod
    def of(
        cls,
        profile: str,
        question: str,
        reply: str,
        history: Sequence[Message] = (),
        **more: Any,
    ) -> Subject:
        """The subject with its hash; ``more`` are its other fields."""
        subject = subject_hash(profile, question, reply, history)
        return cls(subject, profile, question, reply, tuple(history), **more)


@dataclass(frozen=True)
class Judgement:
    """A score with its evidence, or the reason why there is none.

    ``subject`` is the hash of what was judged (``subject_hash``). A hand score is one whose judge
    is a person: ``person("name")``. ``levels`` gives the probability of each level where known,
    ``parts`` what the score is made of (each in [0, 1]), ``gate`` the codes for which the reply was
    not judged at all. ``tokens`` are all that were used, ``cost`` is in US dollars, None where no
    price is known. ``unscored_ja`` is ``unscored_reason`` in Japanese, "" where nobody gave it.
    """

    subject: str
    rubric: str
    rubric_version: str
    judge: str
    score: float | None = None
    unscored_reason: str = ""
    prompt_hash: str = ""
    sample: int = 0
    levels: dict[str, float] = field(default_factory=dict)
    rationale: str = ""
    flaws: tuple[str, ...] = ()
    tokens: int = 0
    cost: float | None = 0.0
    time: float = 0.0
    id: int = 0
    parts: dict[str, float | None] = field(default_factory=dict)
    gate: tuple[str, ...] = ()
    tokens_in: int = 0
    tokens_out: int = 0
    unscored_ja: str = ""

    @property
    def by_hand(self) -> bool:
        return self.judge.startswith(PERSON)


@dataclass(frozen=True)
class Vote:
    """``choice`` is a variant's name, "tie" or "all-bad"; ``shown`` the order on the screen."""

    conversation: int
    turn: int
    choice: str
    shown: tuple[str, ...]
    blind: bool = True
    voter: str = ""
    created: float = 0.0
    id: int = 0


TABLES: dict[type, str] = {
    Conversation: "conversations",
    Turn: "turns",
    Reply: "replies",
    Subject: "subjects",
    Judgement: "judgements",
    Vote: "votes",
}
_AS_TUPLE = {"variants", "facts", "flaws", "shown", "gold", "gate"}
_AS_JSON = {"settings", "preset", "levels", "parts", "history"} | _AS_TUPLE
_AS_BOOL = {"blind", "hidden"}


def person(name: str) -> str:
    """The judge id of a human being."""
    return f"{PERSON}{name}"


def subject_hash(profile: str, question: str, reply: str, history: Sequence[Message] = ()) -> str:
    """What identifies a judged reply: the character, the question, the reply's text.

    And what was said before, where anything was.
    """
    parts: list[Any] = [profile, question, reply]
    if history:
        parts.append([[message.role, message.content] for message in history])
    return sha256(json.dumps(parts, ensure_ascii=False).encode())


def insert(db: sqlite3.Connection, row: Row) -> Row:
    names, values = columns(row)
    marks = ", ".join("?" * len(names))
    cursor = db.execute(
        f"INSERT INTO {TABLES[type(row)]} ({', '.join(names)}) VALUES ({marks})", values
    )
    return replace(row, id=cursor.lastrowid)  # type: ignore[type-var]


def columns(row: Any) -> tuple[list[str], list[Any]]:
    """The names of a row's columns, without its id, and what goes into them."""
    names = [f.name for f in fields(row) if f.name != "id"]
    return names, [to_column(name, getattr(row, name)) for name in names]


def to_column(name: str, value: Any) -> Any:
    if name not in _AS_JSON:
        return value
    return json.dumps(value, ensure_ascii=False, default=Message.model_dump)


def from_row(kind: type[Row], row: sqlite3.Row) -> Row:
    values = dict(row)
    for name, read in _READERS[kind]:
        values[name] = read(values[name])
    return kind(**values)


def _reader(name: str) -> Callable[[Any], Any] | None:
    """What makes a field of the value in its column, None where both are the same."""
    if name == "history":
        return lambda text: tuple(Message(**m) for m in json.loads(text)) if text != "[]" else ()
    if name in _AS_TUPLE:
        return lambda text: tuple(json.loads(text)) if text != "[]" else ()
    if name in _AS_JSON:
        return json.loads
    return bool if name in _AS_BOOL else None


_READERS: dict[type, list[tuple[str, Callable[[Any], Any]]]] = {
    kind: [(f.name, read) for f in fields(kind) if (read := _reader(f.name))] for kind in TABLES
}
