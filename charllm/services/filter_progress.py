"""What a filter run has judged so far, read from its records bit by bit as they are written.

For whoever looks at runs again and again: only what is new is read. It changes nothing.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from charllm.core.filtering import FilterConfig, Spend, Tally
from charllm.core.judging.records import Record
from charllm.services.filtering import RECORDS
from charllm.services.runs import Run


@dataclass(frozen=True)
class SoFar:
    """``scores``: the means of judged items, those that the gate stopped left out and counted."""

    scores: tuple[float, ...] = ()
    gated: int = 0
    unscored: int = 0
    spend: Spend = field(default_factory=Spend)

    @property
    def items(self) -> int:
        return len(self.scores) + self.gated + self.unscored


class FilterProgress:
    """Follows any number of runs; safe in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers: dict[Path, _Reader] = {}

    def of(self, run: Run, config: FilterConfig) -> SoFar:
        with self._lock:
            reader = self._readers.get(run.folder)
            path = run.folder / RECORDS
            size = path.stat().st_size if path.exists() else 0
            if reader is None or size < reader.offset:  # another file, or a torn line was cut off
                reader = self._readers[run.folder] = _Reader(path, config.judge.samples)
            return reader.read(size)


class _Reader:
    """Where one file has been read to, and what it said up to there."""

    def __init__(self, path: Path, samples: int) -> None:
        self.path = path
        self.offset = 0
        self.tally = Tally(samples)
        self.scores: dict[str, list[float]] = defaultdict(list)
        self.gated: set[str] = set()
        self.known = SoFar()

    def read(self, size: int) -> SoFar:
        if size > self.offset:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            for line in whole.splitlines():
                self._take(Record.from_json(json.loads(line)))
            self.offset += len(whole)
            self.known = self._sum_up()
        return self.known

    def _take(self, record: Record) -> None:
        self.tally.add(record)
        scores = self.scores[record.item]
        if record.gate:
            self.gated.add(record.item)
        elif record.score is not None:
            scores.append(record.score)

    def _sum_up(self) -> SoFar:
        judged = {item: got for item, got in self.scores.items() if item not in self.gated}
        means = tuple(sum(got) / len(got) for got in judged.values() if got)
        unscored = sum(not got for got in judged.values())
        return SoFar(means, len(self.gated), unscored, self.tally.spend)
