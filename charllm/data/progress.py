"""How long work tells what it does, without knowing who listens.

The services' run folder implements ``Reporter``; a notebook passes ``Silent()``.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

from charllm.data.errors import Text

StopRequest = Literal["", "save", "cancel"]


class Reporter(Protocol):
    def progress(self, done: float, total: float, message: Text) -> None:
        """``done`` of ``total`` units are finished; ``message`` names what is being done now."""

    def event(self, kind: str, **data: Any) -> None:
        """A typed event with JSON-serialisable data (``metric``, ``sample``, …)."""

    def log(self, line: str) -> None:
        """A line for the log file."""

    def stop_requested(self) -> StopRequest:
        """Asked at safe points: "" go on, "save" finish what can be kept, "cancel" drop it."""


class Stopped(Exception):
    """Raised at a safe point when a stop was requested and nothing is to be published.

    ``kept``: what was done lies saved where a resumed run takes it up.
    """

    def __init__(self, *, kept: bool = False) -> None:
        self.kept = kept
        super().__init__()


class Paused(Exception):
    """Raised at a safe point where the user must decide before going on, such as a spent budget.

    Everything done so far is kept; resuming goes on from there.
    """

    def __init__(self, en: str, ja: str) -> None:
        self.text = Text(en, ja)
        super().__init__(en)


class Silent:
    """A reporter nobody listens to."""

    def progress(self, done: float, total: float, message: Text) -> None:
        pass

    def event(self, kind: str, **data: Any) -> None:
        pass

    def log(self, line: str) -> None:
        pass

    def stop_requested(self) -> StopRequest:
        return ""
