"""A lock between threads and processes: an operating-system lock on one file.

It ends with the process that holds it, so that a killed holder lets go by itself.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from charllm.data.errors import UserError


class FileLock:
    """An advisory lock on one file; it ends with the process that holds it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None

    def try_acquire(self) -> bool:
        """Take the lock if it is free now. A second object in the same process has to wait too."""
        if self._file is not None:
            return False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("ab")
        if not _lock(file):
            file.close()
            return False
        self._file = file
        return True

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    @contextlib.contextmanager
    def hold(self, timeout: float = 30.0) -> Iterator[None]:
        """Wait for the lock at most ``timeout`` seconds (``UserError``), keep it for the block."""
        deadline = time.monotonic() + timeout
        while not self.try_acquire():
            if time.monotonic() > deadline:
                raise UserError(
                    f"{self.path} has been locked for {timeout:.0f} seconds by another charllm. "
                    "Wait for it to finish, or end it.",
                    f"{self.path} が別の charllm に {timeout:.0f} 秒以上ロックされています。"
                    "終わるのを待つか、終了させてください。",
                )
            time.sleep(0.02)
        try:
            yield
        finally:
            self.release()


def _lock(file: IO[bytes]) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # both calls report "somebody else has it" in this way
        return False
    return True
