"""A training run as the page shows it: its events folded into curves, replies and notes.

For whoever looks at runs again and again: only what is new is read, and a curve is told from the
point on that the page has already. It changes nothing.
"""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.services.runs import Cursor, Event, Run, list_runs

SERIES = ("loss", "lr", "grad_norm", "tokens_per_second", "memory_gb")
"""What is measured at every step, beside the held-out loss of each evaluation."""
KEPT = 64
"""Runs that are remembered; a further one puts the one out that was looked at least lately."""


@dataclass(frozen=True)
class Replies:
    """The fixed questions' replies at one evaluation."""

    epoch: float
    samples: tuple[dict[str, Any], ...]

    @property
    def stopped(self) -> int:
        return sum(bool(one.get("stopped")) for one in self.samples)

    @property
    def clean(self) -> int | None:
        """Replies in which the gate found nothing; None where it did not look."""
        looked = [one["gate"] for one in self.samples if "gate" in one]
        return sum(not codes for codes in looked) if looked else None

    @property
    def style(self) -> float | None:
        """Mean share in [0, 1] that reads like the character; gated replies count as 0."""
        looked = [one for one in self.samples if "gate" in one]
        known = [one.get("style") for one in looked]
        if all(value is None for value in known):
            return None
        return sum(value or 0.0 for value in known) / len(known)


@dataclass
class Seen:
    """All that a run's events have said. Lists of ``steps`` and of every series run in parallel.

    ``held_out``: ``(step, epoch, loss)``, step 0 is the base. ``since`` counts how often the run
    went back behind what it had told (a resume): points told before are then told anew.
    """

    steps: list[dict[str, Any]] = field(default_factory=list)
    held_out: list[dict[str, Any]] = field(default_factory=list)
    replies: list[Replies] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)
    shared_prefix: bool | None = None
    total: int = 0
    since: int = 0

    def take(self, event: Event) -> None:
        """Fold one event in; kinds and fields that are not known are left alone."""
        if event.kind in ("metric", "step"):
            self._metric(event.data)
        elif event.kind == "samples":
            self._samples(event.data)
        elif event.kind == "data":
            self.data = event.data
        elif event.kind == "memory":
            self.memory = event.data
        elif event.kind == "batches":
            self.shared_prefix = event.data.get("shared_prefix")

    def _metric(self, data: dict[str, Any]) -> None:
        step = int(data.get("step") or 0)
        epoch = round(float(data.get("epoch") or 0.0), 4)
        self.total = int(data.get("total") or data.get("steps") or self.total)
        place = {"step": step, "epoch": epoch}
        held_out = _number(data.get("eval_loss"))
        if held_out is not None:
            self.held_out = [point for point in self.held_out if point["step"] < step]
            self.held_out.append({**place, "loss": held_out})
        values = {name: _number(data.get(name)) for name in SERIES}
        if values["loss"] is not None:
            self._forget(step)
            self.steps.append({**place, **values})

    def _forget(self, step: int) -> None:
        """A resumed run repeats what it had not saved; what it says now is what counts."""
        if self.steps and self.steps[-1]["step"] >= step:
            self.steps = [point for point in self.steps if point["step"] < step]
            self.held_out = [point for point in self.held_out if point["step"] < step]
            self.since += 1

    def _samples(self, data: dict[str, Any]) -> None:
        epoch = float(data.get("epoch") or 0.0)
        told = Replies(epoch, tuple(data.get("samples") or ()))
        self.replies = [*(one for one in self.replies if one.epoch < epoch), told]

    @property
    def speed(self) -> float | None:
        """Tokens a second: the median over the steps."""
        known = [point["tokens_per_second"] for point in self.steps]
        known = [value for value in known if value is not None]
        return median(known) if known else None

    def curves(self, since: int, have: int) -> dict[str, Any]:
        """The points from ``have`` on, or all of them if ``since`` is not this telling.

        ``start`` is where the first of them stands; held-out points are few and always all told.
        """
        start = have if since == self.since and have <= len(self.steps) else 0
        return {
            "since": self.since,
            "start": start,
            "steps": self.steps[start:],
            "held_out": self.held_out,
            "total": self.total,
        }


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and value == value else None


class TrainView:
    """Follows any number of runs; safe in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[Path, tuple[Cursor, Seen]] = {}

    def of(self, run: Run) -> Seen:
        """What the run has said up to now."""
        with self._lock:
            cursor, seen = self._known.pop(run.folder, (Cursor(), Seen()))
            events, now = run.poll(cursor)
            if events and events[0].n <= cursor.n:  # the file was made anew
                seen = Seen()
            for event in events:
                seen.take(event)
            self._known[run.folder] = (now, seen)
            while len(self._known) > KEPT:
                del self._known[next(iter(self._known))]
            return copy.copy(seen)  # going back replaces its lists, so a copy stays consistent


def queue_of(paths: Paths, run: Run) -> tuple[int, Run | None]:
    """How many queued runs come before this one for the accelerator, and which run holds it."""
    ahead, holder, queued = 0, None, run.status().queued
    for other in list_runs(paths):
        status = other.status()
        if other.id == run.id or not (status.live or status.state == "queued"):
            continue
        if not _takes_accelerator(other):
            continue
        if status.live:
            holder = other
        elif status.queued < queued:
            ahead += 1
    return ahead, holder


def _takes_accelerator(run: Run) -> bool:
    try:
        return _accelerator_of(run)
    except UserError:  # the queue takes no risk with a damaged folder, so it counts
        return True


@lru_cache(maxsize=256)
def _accelerator_of(run: Run) -> bool:
    """As the run's manifest says, which never changes and is slow to read."""
    return run.manifest().accelerator
