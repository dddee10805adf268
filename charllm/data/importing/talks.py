"""What every reader of a format works with: talks, roles, text, and what a row carries besides."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from charllm.data.errors import Text
from charllm.data.importing.rejecting import Refused, refuse_unless

Kind = Literal["json", "table", "text"]
Rows = list[tuple[int, Any]]
"""``(line, row)``, the line being where the row begins."""

DEEPEST = 50
"""Levels of lists and objects that a row's extra values keep; deeper ones become JSON text."""


@dataclass
class Talk:
    """Turns as (role, text), and what else the row carried. ``id`` "" takes a number.

    ``notes`` say what the reader left out; they are counted over the file.
    """

    turns: list[tuple[str, str]]
    id: str = ""
    source: str = ""
    meta: dict[str, Any] = field(default_factory=dict)
    notes: tuple[Text, ...] = ()


Reader = Callable[[Any, Mapping[str, str]], Talk]


def as_they_are(rows: Rows) -> Rows:
    return rows


def nothing_guessed(rows: Rows) -> dict[str, str]:
    return {}


@dataclass(frozen=True)
class Format:
    """One format: a reader takes one row and gives its talk, or raises ``Refused``.

    ``fits`` says how well a row fits, 0 not at all; ``rows`` makes rows of the file's own, where
    one of them is not one talk; ``guess`` says how the rows are read unless told otherwise.
    """

    label: Text
    containers: tuple[Kind, ...]
    fits: Callable[[Any], int]
    read: Reader
    why: Text
    mappable: bool = False
    rows: Callable[[Rows], Rows] = as_they_are
    guess: Callable[[Rows], dict[str, str]] = nothing_guessed


ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "char": "assistant",
}


def role_of(value: Any) -> str:
    name = str(value).strip().lower()
    if name not in ROLES:
        raise Refused(f"unknown role {name[:30]!r}", f"役割「{name[:30]}」は扱えません")
    return ROLES[name]


def text_of(value: Any, name: str) -> str:
    """Text, or text parts as OpenAI has them."""
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        parts = [part.get("text") for part in value]
        refuse_unless(
            all(isinstance(part, str) for part in parts),
            f"{name} holds more than text",
            f"{name} に文字列以外（画像など）が含まれています",
        )
        value = "".join(parts)
    if not isinstance(value, str):
        raise Refused(f"{name} is not text", f"{name} が文字列ではありません")
    return value


def messages_of(value: Any) -> list[tuple[str, str]]:
    """Turns of a list of messages: role and content, or ShareGPT's from and value."""
    refuse_unless(isinstance(value, list) and value, "no messages", "発言がありません")
    turns = []
    for number, message in enumerate(value, 1):
        refuse_unless(
            isinstance(message, dict),
            f"message {number} is no object",
            f"{number}番目の発言の形が正しくありません",
        )
        who = message.get("role", message.get("from"))
        said = message.get("content", message.get("value"))
        turns.append((role_of(who), text_of(said, f"message {number}")))
    return turns


def id_of(row: Mapping[str, Any], key: str = "id") -> str:
    """The row's own id, "" if it has none."""
    value = row.get(key)
    return str(value) if isinstance(value, str | int | float) else ""


def rest_of(row: Mapping[str, Any], *used: str) -> dict[str, Any]:
    """What the row carries besides what was ``used``."""
    return {str(k): v for k, v in row.items() if k not in used and v is not None}


def has(*names: str) -> Callable[[Any], int]:
    return lambda row: len(names) if isinstance(row, dict) and all(n in row for n in names) else 0


def plain(value: Any, deepest: int = DEEPEST) -> Any:
    """``value`` as UTF-8 JSON can hold it: no NaN, no half characters, no endless depth."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if not isinstance(value, list | dict):
        return value
    if deepest == 0:
        return _as_text(value)
    if isinstance(value, list):
        return [plain(item, deepest - 1) for item in value]
    return {plain(str(key)): plain(item, deepest - 1) for key, item in value.items()}


def _as_text(value: Any) -> str:
    try:
        return str(plain(json.dumps(value, ensure_ascii=False)))
    except RecursionError:
        return "…"
