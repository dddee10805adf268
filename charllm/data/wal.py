"""SQLite's write-ahead log, switched on where several processes may open a new file at once."""

from __future__ import annotations

import sqlite3
import time

PATIENCE = 10.0
"""Seconds to wait for others that are switching too."""


def use_wal(db: sqlite3.Connection) -> None:
    """Readers and a writer no longer wait for each other; ``sqlite3.Error`` where it cannot be.

    The switch itself is refused at once while another connection has the file, whatever timeout
    the connection has, so it is tried again here.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
