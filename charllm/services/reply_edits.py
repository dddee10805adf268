"""Answers that a person has rewritten: a reply of its own beside the one that the model gave.

Both stay in the store; the edited one is shown, never scored as if the model had said it, and
leads back to the original. It does not know turns that are being answered.
"""

from __future__ import annotations

from dataclasses import replace

from charllm.data.errors import UserError
from charllm.services.store import Reply, Store
from charllm.services.turns import Column, Turn

EDITED = "edited"
"""The stop reason of an edited reply."""
MAX_REPLY = 8000
_ORIGINAL = "original"
"""Names in an edited reply's ``preset`` the reply that the model gave."""


def check_reply(text: str) -> str:
    """The text without surrounding space; ``UserError`` if empty or longer than 8,000."""
    text = text.encode("utf-8", "replace").decode().strip()  # halves of characters become "?"
    if not text:
        raise UserError(
            "The answer is empty. Write what the character should have said.",
            "返答が空です。その人物が言うべきだった言葉を書いてください。",
        )
    if len(text) > MAX_REPLY:
        raise UserError(
            f"The answer has {len(text):,} characters; at most {MAX_REPLY:,} are possible.",
            f"返答が {len(text):,} 文字あります。{MAX_REPLY:,} 文字までです。",
        )
    return text


def editable(turn: Turn, column_id: str, seen: int | None) -> Column:
    """The column whose answer may be edited now; ``UserError`` where there is none.

    ``seen`` is the reply that the editor saw, None for whichever is there.
    """
    column = turn.column(column_id)
    if not turn.done:
        raise UserError(
            "The question is still being answered. Wait for its end, then edit.",
            "まだ答えている途中です。終わってから編集してください。",
        )
    if turn.blind and not turn.vote:
        raise UserError(
            "Vote first: an answer is edited once its author is known.",
            "先に投票してください。どの列の答えか分かってから編集できます。",
        )
    if column is None or column.state != "done" or column.reply_id is None:
        raise UserError(
            "This column has no answer to edit.", "この列には編集できる答えがありません。"
        )
    if seen not in (None, column.reply_id):
        raise UserError(
            "This answer has changed in the meantime. Copy your text and edit the new one.",
            "編集中に、この答えは別の内容に変わりました。"
            "入力した文を控えてから、新しい答えを編集してください。",
        )
    return column


def edited(store: Store, shown: Reply, text: str) -> Reply | None:
    """What to add as a new row so that ``text`` stands for ``shown``; None where it does already.

    An edit that says what the model had said is the way back.
    """
    original = original_of(store, shown)
    if text == shown.text.strip():
        return None
    if text == original.text.strip():
        return original
    return replace(
        original,
        text=text,
        tokens=0,
        first_seconds=None,
        seconds=None,
        stop_reason=EDITED,
        preset={**original.preset, _ORIGINAL: original.id},
    )


def original_of(store: Store, reply: Reply) -> Reply:
    """What the model said where ``reply`` is an edit of it; else the reply itself."""
    known = reply.preset.get(_ORIGINAL)
    return store.reply(known) if reply.stop_reason == EDITED and known else reply


def note_edits(store: Store, turn: Turn) -> None:
    """Give the edited columns of a turn made from the store their originals; take scores off."""
    for column in turn.columns:
        if column.reason == EDITED and column.reply_id is not None:
            column.original = original_of(store, store.reply(column.reply_id)).text
            column.score = None
