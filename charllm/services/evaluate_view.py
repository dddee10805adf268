"""An evaluation as the page shows it: its report, or the figures of the part that is there.

A report that the run has written is read as it is. Where the run was stopped before it could write
one, or more has been kept since, its part is worked out here and remembered. It changes nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from charllm.core.evaluation.evaluating import partial
from charllm.core.evaluation.planned import PLAN, read_plan
from charllm.core.evaluation.reply_records import REPLIES
from charllm.core.evaluation.report import REPORT
from charllm.core.evaluation.scoring_replies import JUDGES, RECORDS
from charllm.core.variants import Variant
from charllm.data.files import read_json
from charllm.services.runs import Run

KEPT = 16
"""Partial figures that are remembered."""


@dataclass(frozen=True)
class Told:
    """Figures of an evaluation. ``stored``: its own report; else worked out from the part.

    ``variants`` as the run has planned them.
    """

    report: Mapping[str, Any]
    variants: tuple[Variant, ...]
    stored: bool


def stamp(run: Run, *, growing: bool = False) -> str:
    """What changes whenever the figures may have: the report's time and, unless it is just
    ``growing``, the sizes of what is kept."""
    kept = [run.folder / REPLIES, *sorted((run.folder / JUDGES).glob(f"*/{RECORDS}"))]
    sizes = [] if growing else [path.stat().st_size for path in kept if path.exists()]
    report = run.folder / REPORT
    return f"{run.id} {sizes} {report.stat().st_mtime_ns if report.exists() else 0}"


def is_current(folder: Path) -> bool:
    """Whether there is a report, and nothing was kept after it."""
    report = folder / REPORT
    if not report.exists():
        return False
    kept = [folder / REPLIES, *(folder / JUDGES).glob(f"*/{RECORDS}")]
    written = report.stat().st_mtime_ns
    return all(path.stat().st_mtime_ns <= written for path in kept if path.exists())


class EvaluateView:
    """Reports of any number of evaluations; safe in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, Mapping[str, Any]] = {}

    def of(self, run: Run, *, growing: bool = False, now: bool = False) -> Told | None:
        """The figures, None where there are none yet.

        While replies or verdicts are ``growing`` the last report stands, and the part is worked out
        only where somebody asks (``now``): it costs seconds, and a page looks again and again.
        """
        waits = growing and not now and (run.folder / REPORT).exists()
        if waits or is_current(run.folder):
            return Told(read_json(run.folder / REPORT), _variants(run.folder), True)
        if not (run.folder / PLAN).exists() or not (run.folder / REPLIES).exists():
            return None
        key = stamp(run)
        with self._lock:
            known = self._known.get(key)
        if known is None:
            if growing and not now:
                return None
            known = partial(run.folder)
            with self._lock:
                self._known[key] = known
                while len(self._known) > KEPT:
                    del self._known[next(iter(self._known))]
        return Told(known, _variants(run.folder), False)


@lru_cache(maxsize=KEPT)
def _variants(folder: Path) -> tuple[Variant, ...]:
    """From the plan, which never changes."""
    return read_plan(folder).variants
