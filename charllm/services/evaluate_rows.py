"""The kept replies and verdicts of an evaluation by place: where each lies, how long, what score.

A file is read once and then only where it has grown; what a reply said is read from its own bytes
when somebody looks at it, so that twenty thousand of them cost a page nothing. It changes nothing.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from charllm.core.evaluation.planned import Planned, read_plan
from charllm.core.evaluation.reply_records import REPLIES, Reply, Task
from charllm.core.evaluation.scoring_replies import CARD, JUDGES, RECORDS
from charllm.core.judging.records import Record
from charllm.data.files import read_json
from charllm.data.queries import Query

KEPT = 8
"""Evaluations that are remembered; a further one puts out the one looked at least lately."""

Order = Literal["both", "a", "b"]
"""By the size of the difference either way, or with the queries where ``a`` or ``b`` gains first"""


class Line(NamedTuple):
    """Where a line lies in its file, in bytes."""

    offset: int
    size: int


class Kept(NamedTuple):
    """A kept reply; ``length`` in characters. A ``failed`` one says nothing and has no score."""

    task: Task
    line: Line
    length: int
    failed: bool


class Verdict(NamedTuple):
    """One verdict of one judge; ``score`` None: unscored."""

    line: Line
    score: float | None
    gated: bool


@dataclass
class _File:
    """How far a file of JSON lines has been read."""

    path: Path
    read: int = 0

    def news(self) -> tuple[bool, Iterator[tuple[Line, dict[str, Any]]]]:
        """Whether the file was made anew since, and its whole new lines."""
        size = self.path.stat().st_size if self.path.exists() else 0
        anew = size < self.read
        if anew:
            self.read = 0
        return anew, self._lines() if size > self.read else iter(())

    def _lines(self) -> Iterator[tuple[Line, dict[str, Any]]]:
        with self.path.open("rb") as file:
            file.seek(self.read)
            for line in file:
                if not line.endswith(b"\n"):  # still being written
                    return
                place, self.read = Line(self.read, len(line)), self.read + len(line)
                if line.strip():
                    yield place, json.loads(line)


@dataclass
class _Judge:
    file: _File
    verdicts: dict[str, dict[int, Verdict]] = field(default_factory=dict)

    def refresh(self) -> None:
        anew, lines = self.file.news()
        if anew:
            self.verdicts.clear()
        for line, row in lines:
            said = Verdict(line, row["score"], bool(row["gate"]))
            self.verdicts.setdefault(row["item"], {})[row["sample"]] = said


@dataclass(frozen=True)
class Pair:
    """One query under two variants: mean scores of its repeats, None where there are none.

    ``difference`` is ``a - b``. Lengths are means in characters.
    """

    query: str
    a: float | None
    b: float | None
    length_a: float | None
    length_b: float | None

    @property
    def difference(self) -> float | None:
        return None if self.a is None or self.b is None else self.a - self.b


class Rows:
    """One evaluation's replies and verdicts. ``refresh`` reads what is new."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._replies = _File(folder / REPLIES)
        self._judges: dict[str, _Judge] = {}
        self.kept: dict[str, Kept] = {}
        """By ``Task.key``, in the order in which they came."""

    @cached_property
    def planned(self) -> Planned:
        """What is asked, which never changes. ``UserError`` before the run has begun to ask."""
        return read_plan(self.folder)

    @cached_property
    def queries(self) -> dict[str, Query]:
        return {query.id: query for query in self.planned.queries}

    def refresh(self) -> None:
        anew, lines = self._replies.news()
        if anew:
            self.kept.clear()
        for line, row in lines:
            task = Task(row["variant"], row["query"], row["repeat"])
            length = len(row["text"].strip())
            self.kept[task.key] = Kept(task, line, length, row["failed"] is not None)
        for home in (self.folder / JUDGES).glob(f"*/{RECORDS}"):
            self._judges.setdefault(home.parent.name, _Judge(_File(home)))
        for judge in self._judges.values():
            judge.refresh()

    @property
    def judges(self) -> list[str]:
        """Keys of the judges that have said something, in the order in which they came."""
        return sorted(self._judges, key=lambda key: self.card(key)["n"])

    def verdicts(self, judge: str, key: str) -> list[Verdict]:
        """A judge's samples on one reply, [] where it has not been judged."""
        known = self._judges.get(judge)
        return list(known.verdicts.get(key, {}).values()) if known else []

    def score(self, judge: str, key: str) -> float | None:
        """The mean of a reply's samples that have a score."""
        scores = [one.score for one in self.verdicts(judge, key) if one.score is not None]
        return sum(scores) / len(scores) if scores else None

    def pairs(self, judge: str, a: str, b: str, order: Order = "both") -> list[Pair]:
        """Every query that either has answered, in this order; those without a difference last."""
        found: dict[str, tuple[list[Kept], list[Kept]]] = {}
        for one in list(self.kept.values()):  # another thread may just be reading what is new
            if one.task.variant in (a, b):
                sides = found.setdefault(one.task.query, ([], []))
                sides[one.task.variant == b].append(one)
        pairs = [self._pair(judge, query, *sides) for query, sides in found.items()]
        sign = {"a": -1.0, "b": 1.0}.get(order)

        def place(pair: Pair) -> tuple[bool, float]:
            d = pair.difference
            return d is None, 0.0 if d is None else sign * d if sign else -abs(d)

        return sorted(pairs, key=place)

    def _pair(self, judge: str, query: str, a: list[Kept], b: list[Kept]) -> Pair:
        return Pair(query, self._mean(judge, a), self._mean(judge, b), _length(a), _length(b))

    def _mean(self, judge: str, kept: Sequence[Kept]) -> float | None:
        scores = [self.score(judge, one.task.key) for one in kept]
        known = [score for score in scores if score is not None]
        return sum(known) / len(known) if known else None

    def repeats(self, variant: str, query: str) -> list[Kept]:
        """The replies of a variant to one query, in the order of the repeats."""
        found = [one for one in list(self.kept.values()) if one.task[:2] == (variant, query)]
        return sorted(found, key=lambda one: one.task.repeat)

    def reply(self, kept: Kept) -> Reply:
        """All that is kept of a reply, from its own bytes."""
        return Reply.from_json(_at(self.folder / REPLIES, kept.line))

    def records(self, judge: str, key: str) -> list[Record]:
        """All that a judge has said of one reply, a record a sample."""
        path = self.folder / JUDGES / judge / RECORDS
        return [Record.from_json(_at(path, one.line)) for one in self.verdicts(judge, key)]

    def card(self, judge: str) -> dict[str, Any]:
        """Who the judge is, by which rubric and on which scale."""
        card: dict[str, Any] = read_json(self.folder / JUDGES / judge / CARD)
        return card


def _length(kept: Sequence[Kept]) -> float | None:
    there = [one.length for one in kept if not one.failed]
    return sum(there) / len(there) if there else None


def _at(path: Path, line: Line) -> Any:
    with path.open("rb") as file:
        file.seek(line.offset)
        return json.loads(file.read(line.size))


class RowsView:
    """The rows of any number of evaluations; safe in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[Path, Rows] = OrderedDict()

    def of(self, folder: Path) -> Rows:
        """The rows as they are now."""
        with self._lock:
            rows = self._known.pop(folder, None) or Rows(folder)
            rows.refresh()
            self._known[folder] = rows
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
            return rows
