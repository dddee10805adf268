"""A run on the command line: submitted, followed to its end, told in progress lines on stderr."""

from __future__ import annotations

import re
import sys
from typing import Any, NamedTuple

from charllm.data.config import Config, Paths
from charllm.data.errors import current_language
from charllm.services import jobs
from charllm.services.runs import Run, Status


class Ended(NamedTuple):
    """A value to print together with an exit status other than 0."""

    value: Any
    status: int


def run_kind(paths: Paths, kind: str, data: Any, *, name: str = "", where: str = "") -> Any:
    """Submit a run and follow it: ``{"run", "status", "result"}``, progress on stderr."""
    config: Config = jobs.config_class(kind).from_data(data, where or kind)
    run = jobs.submit(paths, kind, _as_slug(name) or jobs.default_name(config), config)
    return follow(paths, run)


def _as_slug(name: str) -> str:
    """A run's name from a file's: what cannot be in one becomes a hyphen."""
    return re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-_")[:48]


def follow(paths: Paths, run: Run) -> Any:
    printer = ProgressPrinter(run)
    jobs.follow(paths, run, on_status=printer)
    printer.close()
    status = run.status()
    value = {"run": run.id, "status": status.state, "result": run.result()}
    if status.state == "done":
        return value
    language = current_language()
    if status.error is not None:
        print(f"charllm: {status.error.text.in_(language)}", file=sys.stderr)
        value["error"] = status.error.model_dump()
    return Ended(value, 2 if _users_fault(run) else 1)


def _users_fault(run: Run) -> bool:
    """Whether the stage ended in a ``UserError``, which its last event says."""
    events = run.events()
    return bool(events) and bool(events[-1].data.get("user"))


class ProgressPrinter:
    """A line on stderr: rewritten on a terminal, else one for each message and tenth."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._last: tuple[str, int] | None = None
        self._terminal = sys.stderr.isatty()

    def __call__(self, status: Status) -> None:
        message = status.progress.message.text.in_(current_language()) or status.state
        share = status.progress.share
        step = -1 if share is None else int(share * (100 if self._terminal else 10))
        if (message, step) == self._last:
            return
        self._last = (message, step)
        percent = "" if share is None else f" {share:4.0%}"
        left = "" if status.seconds_left is None else f", {status.seconds_left:.0f} s"
        line = f"{self.run.id}:{percent} {message}{left}"
        print(
            f"\r\033[K{line}" if self._terminal else line,
            end="" if self._terminal else "\n",
            file=sys.stderr,
            flush=True,
        )

    def close(self) -> None:
        if self._terminal:
            print(file=sys.stderr)
