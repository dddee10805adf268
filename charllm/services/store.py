"""What people and judges have said: conversations, replies, judgements and votes, in SQLite.

Nothing here is overwritten: an edited question hides the turns after it, a regenerated reply
stands beside the earlier one, and the database itself refuses to change a judgement.
It does not know how replies are made, judged or shown.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.services.store_rows import (
    NO_CHOICE,
    TABLES,
    Conversation,
    Judgement,
    Reply,
    Row,
    Turn,
    Vote,
    from_row,
    insert,
    migrate,
    person,
    subject_hash,
    to_column,
)

__all__ = [
    "Conversation",
    "Judgement",
    "Reply",
    "Store",
    "Turn",
    "Vote",
    "person",
    "subject_hash",
]


class Store:
    """The database of one installation; may be used from any thread (a connection for each)."""

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

    # Conversations and turns

    def add_conversation(
        self,
        profile: str,
        variants: Sequence[str] = (),
        title: str = "",
        settings: dict[str, Any] | None = None,
    ) -> Conversation:
        now = time.time()
        return self._insert(
            Conversation(profile, title, tuple(variants), settings or {}, created=now, updated=now)
        )

    def conversation(self, conversation: int) -> Conversation:
        """``UserError`` where it does not exist (any more)."""
        return self._one(Conversation, conversation)

    def conversations(self, profile: str | None = None, limit: int = 200) -> list[Conversation]:
        """The newest first; those of one profile, or all."""
        return self._select(
            Conversation,
            "WHERE ? IS NULL OR profile = ? ORDER BY updated DESC, id DESC LIMIT ?",
            (profile, profile, limit),
        )

    def change_conversation(
        self,
        conversation: int,
        *,
        title: str | None = None,
        variants: Sequence[str] | None = None,
        settings: dict[str, Any] | None = None,
    ) -> Conversation:
        """Change what is given; the rest stays."""
        given = {"title": title, "variants": variants, "settings": settings}
        changes: dict[str, Any] = {key: item for key, item in given.items() if item is not None}
        with self._write() as db:
            for column, value in {**changes, "updated": time.time()}.items():
                db.execute(
                    f"UPDATE conversations SET {column} = ? WHERE id = ?",
                    (to_column(column, value), conversation),
                )
        return self.conversation(conversation)

    def delete_conversation(self, conversation: int) -> None:
        """Remove it with its turns, replies and votes; judgements stay, they name no person."""
        with self._write() as db:
            db.execute("DELETE FROM conversations WHERE id = ?", (conversation,))

    def add_turn(self, conversation: int, question: str, blind: bool = False) -> Turn:
        """Append a question; the first one gives an untitled conversation its title."""
        now = time.time()
        with self._write() as db:
            (n,) = db.execute(
                "SELECT COALESCE(MAX(n), 0) + 1 FROM turns WHERE conversation = ? AND NOT hidden",
                (conversation,),
            ).fetchone()
            db.execute(
                "UPDATE conversations SET updated = ?, title = CASE title WHEN '' THEN ? "
                "ELSE title END WHERE id = ?",
                (now, " ".join(question.split())[:60], conversation),
            )
            return insert(db, Turn(conversation, n, question, blind, created=now))

    def turn(self, turn: int) -> Turn:
        return self._one(Turn, turn)

    def turns(self, conversation: int, *, hidden: bool = False) -> list[Turn]:
        """In order; with ``hidden``, also those that edits have replaced."""
        return self._select(
            Turn, "WHERE conversation = ? AND hidden <= ? ORDER BY n, id", (conversation, hidden)
        )

    def hide_turns(self, conversation: int, from_n: int) -> int:
        """Hide turn ``from_n`` and all after it (an edit, a clear); how many there were."""
        with self._write() as db:
            return db.execute(
                "UPDATE turns SET hidden = 1 WHERE conversation = ? AND n >= ? AND NOT hidden",
                (conversation, from_n),
            ).rowcount

    # Replies

    def add_reply(self, reply: Reply) -> Reply:
        """A new reply; an earlier one of the same turn and column stays, but is not current."""
        return self._insert(replace(reply, created=reply.created or time.time()))

    def reply(self, reply: int) -> Reply:
        return self._one(Reply, reply)

    def replies(self, turn: int, *, all_: bool = False) -> list[Reply]:
        """The current reply of each column, in order of columns; or all that ever were."""
        rows = self._select(Reply, "WHERE turn = ? ORDER BY position, id", (turn,))
        return rows if all_ else list({row.position: row for row in rows}.values())

    # Judgements

    def add_judgement(self, judgement: Judgement) -> Judgement:
        """Append; whatever was there of the same judge stays and counts as history."""
        if (judgement.score is None) == (judgement.unscored_reason == ""):
            raise ValueError(f"either a score or a reason why there is none: {judgement}")
        return self._insert(replace(judgement, time=judgement.time or time.time()))

    def judgements(
        self, subject: str, *, judge: str | None = None, rubric: str | None = None
    ) -> list[Judgement]:
        """All of one subject, the oldest first."""
        return self._select(
            Judgement,
            "WHERE subject = ? AND (? IS NULL OR judge = ?) AND (? IS NULL OR rubric = ?) "
            "ORDER BY id",
            (subject, judge, judge, rubric, rubric),
        )

    def hand_scores(self, rubric: str | None = None) -> list[Judgement]:
        """Every judgement by a person, the oldest first."""
        return self._select(
            Judgement,
            "WHERE judge LIKE 'person:%' AND (? IS NULL OR rubric = ?) ORDER BY id",
            (rubric, rubric),
        )

    # Votes

    def add_vote(self, vote: Vote) -> Vote:
        if vote.choice not in (*vote.shown, *NO_CHOICE):
            raise UserError(
                f"{vote.choice!r} is none of the answers shown.",
                f"「{vote.choice}」は表示された回答にありません。",
            )
        return self._insert(replace(vote, created=vote.created or time.time()))

    def votes(self, conversation: int | None = None) -> list[Vote]:
        """The oldest first; a later vote of the same turn is a change of mind, and both stay."""
        return self._select(
            Vote, "WHERE ? IS NULL OR conversation = ? ORDER BY id", (conversation, conversation)
        )

    # The database

    def _connection(self) -> sqlite3.Connection:
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = sqlite3.connect(self.path, timeout=10.0, isolation_level=None)
            db.row_factory = sqlite3.Row
            self._local.db = db
            try:
                db.execute("PRAGMA journal_mode = WAL")
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
