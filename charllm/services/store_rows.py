"""The rows of the store: their classes, their tables, and the way from one to the other."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from charllm.data.errors import UserError
from charllm.data.files import sha256

Row = TypeVar("Row")

MIGRATIONS = (
    """
    CREATE TABLE conversations (
        id INTEGER PRIMARY KEY AUTOINCREMENT, profile TEXT NOT NULL, title TEXT NOT NULL,
        variants TEXT NOT NULL, settings TEXT NOT NULL, created REAL NOT NULL, updated REAL NOT NULL
    );
    CREATE TABLE turns (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        conversation INTEGER NOT NULL REFERENCES conversations(id) ON DELETE CASCADE,
        n INTEGER NOT NULL, question TEXT NOT NULL, blind INTEGER NOT NULL,
        hidden INTEGER NOT NULL DEFAULT 0, created REAL NOT NULL
    );
    CREATE INDEX turns_of ON turns(conversation, n);
    CREATE TABLE replies (
        id INTEGER PRIMARY KEY, turn INTEGER NOT NULL REFERENCES turns(id) ON DELETE CASCADE,
        position INTEGER NOT NULL, variant TEXT NOT NULL, text TEXT NOT NULL, prompt TEXT NOT NULL,
        prompt_tokens INTEGER NOT NULL, facts TEXT NOT NULL, tokens INTEGER NOT NULL,
        first_seconds REAL, seconds REAL, stop_reason TEXT NOT NULL, weights TEXT NOT NULL,
        preset TEXT NOT NULL, created REAL NOT NULL
    );
    CREATE INDEX replies_of ON replies(turn, position);
    CREATE TABLE judgements (
        id INTEGER PRIMARY KEY, subject TEXT NOT NULL, rubric TEXT NOT NULL,
        rubric_version TEXT NOT NULL, judge TEXT NOT NULL, prompt_hash TEXT NOT NULL,
        sample INTEGER NOT NULL, score REAL, unscored_reason TEXT NOT NULL, levels TEXT NOT NULL,
        rationale TEXT NOT NULL, flaws TEXT NOT NULL, tokens INTEGER NOT NULL, cost REAL NOT NULL,
        time REAL NOT NULL,
        CHECK ((score IS NULL) = (unscored_reason <> ''))
    );
    CREATE INDEX judgements_of ON judgements(subject);
    CREATE TRIGGER judgements_stay BEFORE UPDATE ON judgements
        BEGIN SELECT RAISE(ABORT, 'a judgement is never overwritten'); END;
    CREATE TABLE votes (
        id INTEGER PRIMARY KEY,
        conversation INTEGER NOT NULL REFERENCES conversations(id) ON DELETE CASCADE,
        turn INTEGER NOT NULL REFERENCES turns(id) ON DELETE CASCADE,
        choice TEXT NOT NULL, shown TEXT NOT NULL, blind INTEGER NOT NULL, voter TEXT NOT NULL,
        created REAL NOT NULL
    );
    CREATE INDEX votes_of ON votes(turn);
    """,
)
"""Each script takes the database from the version of its place to the next."""

NO_CHOICE = ("tie", "all-bad")


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
class Judgement:
    """A score with its evidence, or the reason why there is none.

    ``subject`` is the hash of what was judged (``subject_hash``). A hand score is one whose judge
    is a person: ``person("name")``. ``levels`` gives the probability of each level where known.
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
    cost: float = 0.0
    time: float = 0.0
    id: int = 0

    @property
    def by_hand(self) -> bool:
        return self.judge.startswith("person:")


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
    Judgement: "judgements",
    Vote: "votes",
}
_AS_JSON = {"variants", "settings", "facts", "preset", "levels", "flaws", "shown"}
_AS_TUPLE = {"variants", "facts", "flaws", "shown"}
_AS_BOOL = {"blind", "hidden"}


def person(name: str) -> str:
    """The judge id of a human being."""
    return f"person:{name}"


def subject_hash(profile: str, question: str, reply: str) -> str:
    """What identifies a judged reply: the character, the question and the reply's text."""
    return sha256(json.dumps([profile, question, reply], ensure_ascii=False).encode())


def migrate(db: sqlite3.Connection, path: Path) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise UserError(
            f"{path} was written by a newer charllm. Update charllm, or move the file away.",
            f"{path} は新しい版の charllm で作られています。charllm を更新するか、"
            "ファイルを別の場所へ移してください。",
        )
    for script in MIGRATIONS[version:]:
        for statement in _statements(script):
            db.execute(statement)
    db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _statements(script: str) -> Iterator[str]:
    """One statement after another (each ends its line): ``executescript`` would commit."""
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""


def insert(db: sqlite3.Connection, row: Row) -> Row:
    names = [f.name for f in fields(row) if f.name != "id"]  # type: ignore[arg-type]
    values = [to_column(name, getattr(row, name)) for name in names]
    marks = ", ".join("?" * len(names))
    cursor = db.execute(
        f"INSERT INTO {TABLES[type(row)]} ({', '.join(names)}) VALUES ({marks})", values
    )
    return replace(row, id=cursor.lastrowid)  # type: ignore[type-var]


def to_column(name: str, value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if name in _AS_JSON else value


def from_row(kind: type[Row], row: sqlite3.Row) -> Row:
    values = dict(row)
    for name in values.keys() & _AS_JSON:
        values[name] = json.loads(values[name])
    for name in values.keys() & _AS_TUPLE:
        values[name] = tuple(values[name])
    for name in values.keys() & _AS_BOOL:
        values[name] = bool(values[name])
    return kind(**values)
