"""What a search has done, as it is written down: ``candidates.jsonl``, a line an evaluation.

The file is append-only and the truth: a search that was killed is brought back by asking its
strategy again from the same seed and telling it what stands here. A last line that a kill tore is
dropped; nothing else is ever changed. ``search.json`` beside it keeps what the lines cannot say.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self, TextIO

from charllm.core.merging.coefficients import Coefficients
from charllm.core.merging.genome import Candidate, Vector
from charllm.data.errors import Text, UserError
from charllm.data.files import decode, read_bytes, read_json, write_json
from charllm.data.queries import Split

JOURNAL = "candidates.jsonl"
STATE = "search.json"


@dataclass(frozen=True)
class Outcome:
    """One candidate's result on one query, and what it took.

    ``parts``: every part of the score by name (None: could not be scored; absent: this query is
    not asked for it). ``calls`` went to a judge; ``money`` is in US dollars. ``note`` holds
    evidence to show, such as the reply.
    """

    query: str
    parts: Mapping[str, float | None]
    tokens: int = 0
    calls: int = 0
    money: float = 0.0
    seconds: float = 0.0
    note: str = ""

    def __post_init__(self) -> None:
        wrong = [k for k, v in self.parts.items() if v is not None and not math.isfinite(v)]
        if wrong:
            names = ", ".join(wrong)
            raise UserError(
                f"{self.query}: {names} is no number",
                f"質問 {self.query} の {names} が数値になりませんでした",
            )


@dataclass(frozen=True)
class Failure:
    """Why a candidate has no outcomes."""

    reason: Text


Outcomes = Sequence[Outcome]
Evaluate = Callable[[Candidate, Sequence[str], Split], Outcomes]
"""Scores one candidate on these queries; an exception costs this candidate alone, except
``Stopped`` and ``Paused``. It must be a pure function of its arguments: no counter, no clock."""
EvaluateMany = Callable[[Sequence[Candidate], Sequence[str], Split], Iterable[Outcomes | Failure]]
"""The same for a whole generation, in the candidates' order; what it yields one by one is written
down one by one."""


@dataclass(frozen=True)
class Spent:
    """What evaluating has taken, in all splits."""

    evaluations: int = 0
    queries: int = 0
    tokens: int = 0
    calls: int = 0
    money: float = 0.0

    def plus(self, outcomes: Iterable[Outcome]) -> Spent:
        found = list(outcomes)
        return Spent(
            self.evaluations + 1,
            self.queries + len(found),
            self.tokens + sum(one.tokens for one in found),
            self.calls + sum(one.calls for one in found),
            self.money + math.fsum(one.money for one in found),
        )


@dataclass(frozen=True)
class Entry:
    """A line: a candidate on some queries of one split. ``rung`` 0 is what all were asked."""

    candidate: Candidate
    split: Split
    rung: int
    outcomes: tuple[Outcome, ...] = ()
    failure: Text | None = None

    @property
    def key(self) -> tuple[str, Split, int]:
        return self.candidate.id, self.split, self.rung

    def as_json(self) -> dict[str, Any]:
        one = self.candidate
        return {
            "id": one.id,
            "generation": one.generation,
            "role": one.role,
            "parent": one.parent,
            "origin": one.origin,
            "split": self.split,
            "rung": self.rung,
            "vector": list(one.vector),
            "coefficients": asdict(one.coefficients),
            "outcomes": [vars(outcome) for outcome in self.outcomes],
            "failure": self.failure.as_json() if self.failure else None,
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        mixed = row["coefficients"]
        weights = {group: tuple(values) for group, values in mixed["weights"].items()}
        candidate = Candidate(
            row["id"],
            Coefficients(mixed["method"], weights, dict(mixed["extra"])),
            tuple(row["vector"]),
            row["generation"],
            row["role"],
            row["parent"],
            row.get("origin", ""),  # journals of before there was one
        )
        failure = Text(**row["failure"]) if row["failure"] else None
        outcomes = tuple(Outcome(**one) for one in row["outcomes"])
        return cls(candidate, row["split"], row["rung"], outcomes, failure)


class Journal:
    """The lines of one search, in memory; ``writing`` appends to them on disk too."""

    def __init__(self, folder: Path, writing: bool = False) -> None:
        self.path = folder / JOURNAL
        self.entries: dict[tuple[str, Split, int], Entry] = {}
        self.spent = Spent()
        self.generations: set[int] = set()
        """Those that were begun."""
        for entry in read_entries(self.path):
            self._take(entry)
        self._file: TextIO | None = None
        if writing:
            folder.mkdir(parents=True, exist_ok=True)
            _cut_torn_line(self.path)
            # Kept open and flushed line by line: a kill loses nothing. Not synced: what a power
            # cut takes from the end is only evaluated again.
            self._file = self.path.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def append(self, entry: Entry) -> None:
        """Take an entry and write it down; only where the journal was opened for writing."""
        assert self._file, "opened for reading"
        self._file.write(json.dumps(entry.as_json(), ensure_ascii=False) + "\n")
        self._file.flush()
        self._take(entry)

    def find(self, candidate: str, split: Split, rung: int = 0) -> Entry | None:
        return self.entries.get((candidate, split, rung))

    def outcomes(self, candidate: str, split: Split, rungs: int = 2) -> tuple[Outcome, ...]:
        """All there are of a candidate in one split, or its first ``rungs``; none where one
        failed."""
        found: list[Outcome] = []
        for rung in range(rungs):
            entry = self.find(candidate, split, rung)
            if entry and entry.failure:
                return ()
            found += entry.outcomes if entry else ()
        return tuple(found)

    def failure(self, candidate: str) -> Text | None:
        """The first reason why this candidate failed anywhere."""
        return next(
            (e.failure for e in self.entries.values() if e.candidate.id == candidate and e.failure),
            None,
        )

    def candidates(self) -> list[Candidate]:
        """Every candidate once, in the order of their first evaluation."""
        return list({e.candidate.id: e.candidate for e in self.entries.values()}.values())

    def _take(self, entry: Entry) -> None:
        if entry.key not in self.entries:
            self.entries[entry.key] = entry
            self.generations.add(entry.candidate.generation)
            self.spent = self.spent.plus(entry.outcomes)


@dataclass
class State:
    """What the journal's lines do not say. Saved by ``save``, atomically.

    ``seeds``: ``(first generation, seed)`` of each stretch; a fork adds one. ``settings``: what
    must be the same for the lines to mean the same. ``seconds``: time worked, over all attempts.
    ``opened``: what was chosen each time the report split was opened, forks of it included.
    ``start``: where a warm start begins. ``reporting``: this search itself has opened it.
    ``given``: the mixtures from outside (``injecting.Given``), each with its generation.
    """

    settings: dict[str, Any]
    seeds: list[tuple[int, int]]
    seconds: float = 0.0
    stop: dict[str, Any] | None = None
    opened: list[str] = field(default_factory=list)
    start: Vector | None = None
    reporting: bool = False
    given: list[dict[str, Any]] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        write_json(folder / STATE, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> State | None:
        if not (folder / STATE).exists():
            return None
        data = read_json(folder / STATE)
        start = tuple(data["start"]) if data["start"] else None
        return cls(**{**data, "seeds": [(g, s) for g, s in data["seeds"]], "start": start})


def read_entries(path: Path) -> Iterator[Entry]:
    """The entries of a journal, also of one that is being written: a torn last line is left out.

    ``UserError`` names the first line that is none.
    """
    if not path.exists():
        return
    data = read_bytes(path)
    whole = decode(data[: data.rfind(b"\n") + 1], str(path))
    for number, line in enumerate(whole.split("\n")[:-1], 1):
        try:
            yield Entry.from_json(json.loads(line))
        except (KeyError, TypeError, ValueError, UserError) as error:
            raise UserError(
                f"{path}, line {number}: not a line of a search's journal ({error!r}). Restore the "
                "file as the search wrote it.",
                f"{path} の {number} 行目は探索の記録として読めません。探索が書いたとおりの内容に"
                "戻してください。",
            ) from error


def _cut_torn_line(path: Path) -> None:
    """Drop what stands behind the last line's end: a write that a kill cut short."""
    if path.exists():
        data = path.read_bytes()
        if not data.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(data.rfind(b"\n") + 1)
