"""The database's file: a connection for each thread, transactions, rows in and out.

It does not know what the rows mean.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.data.wal import use_wal
from charllm.services.store_migrations import migrate
from charllm.services.store_rows import TABLES, Row, from_row, insert


class Database:
    """One installation's database; may be used from any thread."""

    def __init__(self, paths: Paths) -> None:
        self.path = paths.database
        self._local = threading.local()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._write() as db:
            migrate(db, self.path)

    def close(self) -> None:
        """Close this thread's connection; others close when their threads end."""
        db = getattr(self._local, "db", None)
        if db is not None:
            db.close()
            self._local.db = None

    def _connection(self) -> sqlite3.Connection:
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = sqlite3.connect(self.path, timeout=10.0, isolation_level=None)
            db.row_factory = sqlite3.Row
            self._local.db = db
            try:
                use_wal(db)
            except sqlite3.DatabaseError as error:
                self.close()
                raise _unreadable(self.path, error) from error
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA foreign_keys = ON")
        return db

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """A transaction that has the write lock from its first statement on."""
        db = self._connection()
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")

    def _insert(self, row: Row) -> Row:
        with self._write() as db:
            return insert(db, row)

    def _select(self, kind: type[Row], where: str, values: Sequence[Any]) -> list[Row]:
        rows = self._connection().execute(f"SELECT * FROM {TABLES[kind]} {where}", values)
        return [from_row(kind, row) for row in rows]

    def _one(self, kind: type[Row], id_: int) -> Row:
        rows = self._select(kind, "WHERE id = ?", (id_,))
        if not rows:
            raise UserError(
                f"This {kind.__name__.lower()} ({id_}) does not exist any more.",
                f"この項目（{TABLES[kind]} {id_}）はもうありません。",
            )
        return rows[0]


def _unreadable(path: Path, error: sqlite3.DatabaseError) -> UserError:
    return UserError(
        f"{path} cannot be used as a database ({error}). Move it away; a new one is made then.",
        f"{path} をデータベースとして使えません（{error}）。別の場所へ移すと、新しく作られます。",
    )
