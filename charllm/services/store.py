"""What people and judges have said: conversations, replies, judgements and votes, in SQLite.

Nothing here is overwritten: an edited question hides the turns after it, a regenerated reply
stands beside the earlier one, and the database itself refuses to change a judgement.
It does not know how replies are made, judged or shown.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from charllm.data.errors import UserError
from charllm.services.store_judgements import JudgeCount, Judgements
from charllm.services.store_rows import (
    CHAT,
    NO_CHOICE,
    Conversation,
    Judgement,
    Reply,
    Subject,
    Turn,
    Vote,
    insert,
    person,
    subject_hash,
    to_column,
)

__all__ = [
    "CHAT",
    "Conversation",
    "JudgeCount",
    "Judgement",
    "Reply",
    "Store",
    "Subject",
    "Turn",
    "Vote",
    "person",
    "subject_hash",
]


class Store(Judgements):
    """The database of one installation; may be used from any thread (a connection for each)."""

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
        """Remove it with its turns, replies and votes, and what the desk kept of their text.

        Judgements stay: they name no person, and their subject is a hash.
        """
        with self._write() as db:
            db.execute(
                "DELETE FROM subjects WHERE source = ? AND item IN (SELECT 'reply-' || replies.id "
                "FROM replies JOIN turns ON turns.id = replies.turn WHERE turns.conversation = ?)",
                (CHAT, conversation),
            )
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
