"""Who may use the accelerator: one holder at a time, over all processes of one installation.

The truth is an operating-system lock on a file, so that a killed holder lets go by itself; beside
it lie a note that says who holds it and a note of everyone who waits. Waiters are served in the
order in which they came; a holder that can give way (the chat) polls ``wanted``.
It does not know what is done with the accelerator, nor whether there is one.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from charllm.data.config import Paths
from charllm.data.errors import Text, UserError
from charllm.data.files import write_json
from charllm.data.locking import FileLock

WAITING_SECONDS = 4.0
"""A waiter that has not asked again for so long is taken to be gone."""

POLL_SECONDS = 0.1


class Busy(UserError):
    """Somebody else holds it (or waits before us); ``holder`` says who, where that is known."""

    def __init__(self, holder: Text) -> None:
        self.holder = holder
        super().__init__(
            f"The accelerator is in use: {holder.en}.",
            f"アクセラレーターは使用中です: {holder.ja}。",
        )


@dataclass(frozen=True)
class Holder:
    who: Text
    pid: int
    since: float


class Lease:
    """The accelerator, asked for by ``who``; a context manager that waits without a limit."""

    def __init__(self, paths: Paths, who: Text) -> None:
        self.who = who
        self._folder = _folder(paths)
        self._lock = FileLock(self._folder / "lock")
        self._ticket = self._folder / f"wanted-{uuid.uuid4().hex}.json"
        self._paths = paths

    def acquire(self, timeout: float = 1.0) -> Self:
        """Wait at most ``timeout`` seconds, then raise ``Busy``.

        The place in the queue is kept between two calls that follow within ``WAITING_SECONDS``.
        """
        deadline = time.monotonic() + timeout
        while True:
            self._queue_up()
            if self._is_first() and self._lock.try_acquire():
                write_json(self._folder / "holder.json", _note(self.who))
                self._ticket.unlink(missing_ok=True)
                return self
            if time.monotonic() >= deadline:
                raise Busy(self._in_the_way())
            time.sleep(POLL_SECONDS)

    def release(self) -> None:
        """Let go, or leave the queue; harmless where neither is the case."""
        self._ticket.unlink(missing_ok=True)
        if self._lock._file is not None:
            (self._folder / "holder.json").unlink(missing_ok=True)
            self._lock.release()

    def __enter__(self) -> Self:
        while True:
            with contextlib.suppress(Busy):
                return self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def _queue_up(self) -> None:
        if self._ticket.exists():
            os.utime(self._ticket)
        else:
            write_json(self._ticket, _note(self.who))

    def _is_first(self) -> bool:
        waiting = _waiting(self._folder)
        return not waiting or waiting[0][1] == self._ticket

    def _in_the_way(self) -> Text:
        held = holder(self._paths)
        if held:
            return held.who
        others = [_text(note) for _, path, note in _waiting(self._folder) if path != self._ticket]
        return others[0] if others else Text("another process", "別のプロセス")


def holder(paths: Paths) -> Holder | None:
    """Who holds the accelerator now, None if nobody does."""
    folder = _folder(paths)
    probe = FileLock(folder / "lock")
    if not probe.path.exists():
        return None
    if probe.try_acquire():
        probe.release()
        return None
    note = _read(folder / "holder.json")
    if note is None:  # between the lock and its note
        return None
    return Holder(_text(note), note["pid"], note["since"])


def wanted(paths: Paths) -> Text | None:
    """Who has waited longest for the accelerator; None if nobody waits."""
    waiting = _waiting(_folder(paths))
    return _text(waiting[0][2]) if waiting else None


def _folder(paths: Paths) -> Path:
    return paths.workspace / "accelerator"


def _note(who: Text) -> dict[str, Any]:
    return {"who": who.as_json(), "pid": os.getpid(), "since": time.time()}


def _text(note: dict[str, Any]) -> Text:
    return Text(note["who"]["en"], note["who"]["ja"])


def _read(path: Path) -> dict[str, Any] | None:
    try:
        note: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:  # its owner has just removed it
        return None
    return note


def _waiting(folder: Path) -> list[tuple[float, Path, dict[str, Any]]]:
    """``(since, file, note)`` of those who still wait, longest first; others' notes are removed."""
    found = []
    for path in folder.glob("wanted-*.json"):
        try:
            silent = time.time() - path.stat().st_mtime
        except FileNotFoundError:  # served meanwhile
            continue
        if silent > WAITING_SECONDS:
            path.unlink(missing_ok=True)
        elif note := _read(path):
            found.append((note["since"], path, note))
    return sorted(found, key=lambda item: (item[0], item[1].name))
