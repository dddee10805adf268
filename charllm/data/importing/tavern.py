"""SillyTavern: a file is one chat, a header line and then a message a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from charllm.data.errors import Text
from charllm.data.importing.rejecting import Refused, Unreadable, beginning
from charllm.data.importing.talks import Rows, Talk

HEADER = {"character_name", "user_name", "chat_metadata"}


def fits_tavern(row: Any) -> int:
    return 3 if isinstance(row, dict) and {"mes", "is_user"} <= row.keys() else 0


def tavern_rows(rows: Rows) -> Rows:
    """All messages as one row; what is none of them stays a row that is refused."""
    said: list[Any] = []
    made: Rows = []
    header: dict[str, Any] = {}
    first = 1
    for line, row in rows:
        if isinstance(row, dict) and "mes" in row and row.get("is_system") is not True:
            first = first if said else line
            said.append(row)
        elif isinstance(row, dict) and "mes" not in row and row.keys() & HEADER and not said:
            header = row
        elif isinstance(row, Unreadable):
            made.append((line, row))
        else:
            hidden = isinstance(row, dict) and "mes" in row
            made.append((line, Unreadable(HIDDEN if hidden else NO_MESSAGE, beginning(row))))
    return [(first, {"header": header, "said": said}), *made] if said else made


HIDDEN = Text("a message hidden from the model", "モデルには見せない発言です（is_system）")
NO_MESSAGE = Text("no message", "発言ではありません")


def tavern(row: Any, _: Mapping[str, str]) -> Talk:
    """The swipe that was shown counts; a greeting may come before the first user message."""
    turns = []
    for message in row["said"]:
        swipes, at = message.get("swipes"), message.get("swipe_id")
        shown = isinstance(swipes, list) and isinstance(at, int) and 0 <= at < len(swipes)
        text = swipes[at] if shown else message["mes"]
        if not isinstance(text, str):
            raise Refused("a message is not text", "文字列ではない発言があります")
        turns.append(("user" if message.get("is_user") else "assistant", text))
    spoke = {str(m["name"]): None for m in row["said"] if not m.get("is_user") and m.get("name")}
    character = row["header"].get("character_name") or next(iter(spoke), "")
    meta = {"character": character} if character else {}
    return Talk(turns, meta=meta | ({"characters": list(spoke)} if len(spoke) > 1 else {}))
