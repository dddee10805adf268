"""A wait that all workers of a judge share, after its server has said "too many requests"."""

from __future__ import annotations

import threading
import time

FIRST = 2.0
LONGEST_OWN = 60.0
"""Seconds of the first and of the longest pause where the server names none."""


class Pause:
    """May be used from any thread. A pause without a length of its own is twice the one before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until = 0.0
        self._next = FIRST

    def add(self, seconds: float | None) -> None:
        """Nobody asks for ``seconds`` from now; None where the server has named no time."""
        with self._lock:
            now = time.monotonic()
            if seconds is None:
                if self._until > now:  # doubled once a pause, not once a worker
                    return
                seconds, self._next = self._next, min(LONGEST_OWN, 2 * self._next)
            self._until = max(self._until, now + seconds)

    def went_through(self) -> None:
        """A call was answered: the next pause starts small again."""
        with self._lock:
            self._next = FIRST

    @property
    def seconds(self) -> float:
        """What is left of the pause, 0 where there is none."""
        with self._lock:
            return max(0.0, self._until - time.monotonic())

    def wait(self, ended: threading.Event) -> bool:
        """Wait until the pause is over; False where ``ended`` came first."""
        while not ended.is_set() and (left := self.seconds) > 0:
            ended.wait(min(left, 1.0))
        return not ended.is_set()
