"""A chat turn as the server owns it: one question, several columns, each in its own state.

Pages only look at a turn; closing one changes nothing. It does not decode, score or store.
"""

from __future__ import annotations

import random
import string
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from charllm.core.variants import Variant
from charllm.data.errors import Text

State = Literal["waiting", "writing", "done", "failed"]

NOT_YET = Text(
    "This column has no answer. The reason is shown after the vote.",
    "この列は答えられませんでした。理由は投票後に表示されます。",
)


@dataclass
class Column:
    """One variant's answer to one question. ``id`` is a letter, by position in the turn.

    ``original`` is what the model had said, where a person has edited the answer.
    An answer that is made again is a new object: who still holds the old one (its score may be
    on the way) changes nothing of the new one.
    """

    id: str
    variant: Variant
    kind: str
    preset: str = ""
    state: State = "waiting"
    text: str = ""
    reason: str = ""
    hits: list[dict[str, Any]] = field(default_factory=list)
    threshold: float | None = None
    prompt: str = ""
    prompt_tokens: int = 0
    tokens: int = 0
    first: float | None = None
    seconds: float | None = None
    weights: str = ""
    seed: int = 0
    score: dict[str, Any] | None = None
    error: Text | None = None
    reply_id: int | None = None
    original: str | None = None
    cancelled: bool = False

    @property
    def finished(self) -> bool:
        return self.state in ("done", "failed")

    def as_json(self, hidden: bool) -> dict[str, Any]:
        """What the page may know; while blind, nothing that tells the variants apart."""
        error = NOT_YET if self.error and hidden else self.error
        shown = {
            "id": self.id,
            "state": self.state,
            "text": self.text,
            "reason": self.reason,
            "error": error.as_json() if error else None,
        }
        if hidden:
            return shown
        return {
            **shown,
            "label": self.variant.label.as_json(),
            "kind": self.kind,
            "rag": self.variant.rag,
            "facts": self.hits,
            "threshold": self.threshold,
            "prompt": self.prompt,
            "prompt_tokens": self.prompt_tokens,
            "tokens": self.tokens,
            "first": self.first,
            "seconds": self.seconds,
            "weights": self.weights,
            "preset": self.preset,
            "score": self.score,
            "reply": self.reply_id,
            "original": self.original,
        }


@dataclass
class Turn:
    """A question and its columns. ``version`` grows with every change that a page should see.

    ``lock`` is held around every change of what pages see, for moments only. ``ending`` is held
    while a column's end goes to the store, so that a column ends once and never after its
    conversation was deleted; whoever takes both takes it first.
    """

    id: int
    conversation: int
    profile: str
    language: str
    question: str
    columns: list[Column]
    blind: bool = False
    vote: str = ""
    done: bool = False
    deleted: bool = False
    stage: Text | None = None
    version: int = 0
    scoring: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    ending: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def changed(self) -> None:
        with self.lock:
            self.version += 1

    @property
    def settled(self) -> bool:
        """Nothing more will change by itself: all columns ended and every score arrived."""
        with self.lock:
            return self.done and self.scoring == 0

    def column(self, column_id: str) -> Column | None:
        return next((c for c in self.columns if c.id == column_id), None)

    def open_again(self, fresh: Sequence[Column]) -> None:
        """Put ``fresh`` in the place of the columns of the same letters; they wait for answers."""
        new = {column.id: column for column in fresh}
        with self.lock:
            self.columns = [new.get(column.id, column) for column in self.columns]
            self.done = False
            self.version += 1

    def put(self, column: Column) -> None:
        """Put ``column`` in the place of the one of its letter."""
        with self.lock:
            self.columns = [column if c.id == column.id else c for c in self.columns]
            self.version += 1

    def tell(self, stage: Text | None) -> None:
        """What is being done now, for the page; nothing once all columns have ended."""
        with self.lock:
            if not self.done and self.stage != stage:
                self.stage = stage
                self.version += 1

    def begin(self, column: Column) -> bool:
        """The column's answer begins; False where it was stopped before."""
        with self.lock:
            if column.finished:
                return False
            column.state = "writing"
            self.version += 1
            return True

    def write(self, column: Column, text: str) -> None:
        """More of a column's answer; nothing once it has ended."""
        with self.lock:
            if not column.finished:
                column.text += text
                self.version += 1

    def cancel(self, column_id: str | None = None) -> list[Column]:
        """Ask one column or all to stop; those that need not be waited for to do so.

        Nobody has begun to answer them yet, or a server does, which may be silent for long.
        """
        with self.lock:
            chosen = [c for c in self.columns if column_id in (None, c.id) and not c.finished]
            for column in chosen:
                column.cancelled = True
            return [c for c in chosen if c.state == "waiting" or c.variant.base_url]

    def as_json(self, last: bool) -> dict[str, Any]:
        with self.lock:
            hidden = self.blind and not self.vote
            chosen = self.column(self.vote)
            return {
                "id": self.id,
                "question": self.question,
                "language": self.language,
                "done": self.done,
                "last": last,
                "blind": self.blind,
                "vote": self.vote,
                "vote_label": chosen.variant.label.as_json() if chosen else None,
                "stage": self.stage.as_json() if self.stage else None,
                "columns": [column.as_json(hidden) for column in self.columns],
            }


def arrange(variants: list[Variant], blind: bool, seed: int) -> list[Variant]:
    """The order of the columns: as chosen, or shuffled by ``seed`` when blind."""
    order = list(variants)
    if blind:
        random.Random(seed).shuffle(order)
    return order


def letters(count: int) -> list[str]:
    return list(string.ascii_uppercase[:count])
