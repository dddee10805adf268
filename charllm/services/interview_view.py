"""An interview run as the page shows it: its figures, and one interview turn by turn.

A report that the run has written is read as it is; where it was stopped before it could write one,
its part is worked out here when somebody asks. It changes nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from charllm.core.evaluation.five import CRITERIA, Key
from charllm.core.evaluation.interview_exchanges import CONFIG, Plan, read_interviews
from charllm.core.evaluation.interview_report import read_measures
from charllm.core.evaluation.interview_turns import TURNS, Turn, read_turns
from charllm.core.evaluation.interviewing import partial
from charllm.core.evaluation.reply_records import REPLIES
from charllm.core.evaluation.report import REPORT
from charllm.core.evaluation.scoring_replies import JUDGES, RECORDS, read_judged
from charllm.core.judging.records import Record
from charllm.data.config import Paths
from charllm.data.files import read_json
from charllm.services.runs import Run

KEPT = 8
"""Figures and runs that are remembered."""

T = TypeVar("T")


@dataclass(frozen=True)
class Told:
    """Figures of a run. ``stored``: its own report; else worked out from the part."""

    report: Mapping[str, Any]
    stored: bool


class Verdict(NamedTuple):
    """What one judge has said of one turn by one criterion; a record a sample."""

    criterion: Key
    judge: str
    scale: tuple[int, int]
    records: tuple[Record, ...]

    @property
    def score(self) -> float | None:
        """The mean of its samples, None where it gave none."""
        scores = [one.score for one in self.records if one.score is not None]
        return sum(scores) / len(scores) if scores else None


@dataclass(frozen=True)
class Talks:
    """The interviews of a run. ``turns`` by variant and number of the talk, ``verdicts`` and
    ``gates`` by the key of a turn's place."""

    plan: Plan
    turns: Mapping[tuple[str, int], tuple[Turn, ...]]
    verdicts: Mapping[str, tuple[Verdict, ...]]
    gates: Mapping[str, tuple[str, ...]]

    @property
    def numbers(self) -> list[int]:
        """The talks that have begun with any variant."""
        return sorted({number for _, number in self.turns})


class InterviewView:
    """Figures and talks of any number of runs; safe in any thread."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._lock = threading.Lock()
        self._figures: dict[str, Mapping[str, Any]] = {}
        self._talks: dict[str, Talks] = {}

    def figures(self, run: Run, *, now: bool = False) -> Told | None:
        """The figures, None where there are none yet.

        Where the report is older than what is kept it still stands; the part is worked out only
        when asked for (``now``), which takes seconds.
        """
        folder = run.folder
        if now and not is_current(folder) and has_replies(folder):
            made = self._remembered(self._figures, stamp(run), lambda: partial(folder, self._paths))
            return Told(made, stored=False)
        known = self._figures.get(stamp(run))
        if known is not None:
            return Told(known, stored=False)
        return Told(read_json(folder / REPORT), True) if (folder / REPORT).exists() else None

    def talks(self, run: Run) -> Talks | None:
        """The interviews so far, None before the run has planned them."""
        if not (run.folder / CONFIG).exists():
            return None
        return self._remembered(self._talks, stamp(run), lambda: read_talks(run.folder))

    def _remembered(self, known: dict[str, T], key: str, make: Callable[[], T]) -> T:
        with self._lock:
            if key in known:
                return known[key]
        made = make()
        with self._lock:
            known[key] = made
            while len(known) > KEPT:
                del known[next(iter(known))]
        return made


def read_talks(folder: Path) -> Talks:
    """``UserError`` where a file was changed by hand."""
    turns: dict[tuple[str, int], list[Turn]] = {}
    for turn in read_turns(folder):
        turns.setdefault((turn.variant, turn.talk), []).append(turn)
    return Talks(
        plan=read_interviews(folder),
        turns={
            place: tuple(sorted(said, key=lambda one: one.turn)) for place, said in turns.items()
        },
        verdicts=_verdicts(folder),
        gates={one.id: one.gate for one in read_measures(folder) if one.gate},
    )


def _verdicts(folder: Path) -> dict[str, tuple[Verdict, ...]]:
    by_rubric = {one.rubric: one.key for one in CRITERIA.values()}
    found: dict[str, list[Verdict]] = {}
    for judged in read_judged(folder):
        key = by_rubric.get(judged.ruler.rubric)
        if key is None:
            continue
        records: dict[str, list[Record]] = {}
        for record in judged.records:
            records.setdefault(record.item, []).append(record)
        for item, said in records.items():
            one = Verdict(key, judged.ruler.judge, judged.scale, tuple(said))
            found.setdefault(item, []).append(one)
    return {item: tuple(said) for item, said in found.items()}


def stamp(run: Run) -> str:
    """What changes whenever the figures or the talks may have."""
    sizes = [path.stat().st_size for path in _kept(run.folder)]
    return f"{run.id} {sizes} {report_time(run.folder)}"


def report_time(folder: Path) -> int:
    """When the report was written, in ns; 0 where there is none."""
    report = folder / REPORT
    return report.stat().st_mtime_ns if report.exists() else 0


def is_current(folder: Path) -> bool:
    """Whether there is a report, and nothing was kept after it."""
    written = report_time(folder)
    return bool(written) and all(path.stat().st_mtime_ns <= written for path in _kept(folder))


def has_replies(folder: Path) -> bool:
    """Whether anything was answered that figures can be made of."""
    asked = (folder / TURNS).exists() or (folder / REPLIES).exists()
    return asked and (folder / CONFIG).exists()


def _kept(folder: Path) -> list[Path]:
    files = [
        folder / TURNS,
        folder / REPLIES,
        *sorted((folder / JUDGES).glob(f"*/{RECORDS}")),
    ]
    return [path for path in files if path.exists()]
