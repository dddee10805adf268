"""A file as rows with their line numbers: JSON Lines, a JSON array, a table, plain text."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charllm.data.errors import Text, UserError
from charllm.data.files import decode, read_bytes
from charllm.data.importing.rejecting import Unreadable
from charllm.data.importing.spreadsheets import looks_like_table, read_table
from charllm.data.importing.talks import Kind, Rows

LARGEST = 200_000_000
"""Bytes; a larger file would not fit into memory several times over."""
TABLES = {".csv": "", ".tsv": "\t"}
JSONS = (".jsonl", ".json", ".ndjson")
WRAPPERS = ("data", "rows", "train", "examples", "items", "dialogues")
"""Names under which a JSON object holds the list of its rows."""

NOT_JSON = Text("not JSON", "JSON として読めません")
BREAKS_OFF = Text(
    "not JSON; nothing below could be read", "JSON として読めず、これより下は読み込めません"
)


@dataclass(frozen=True)
class Container:
    """``rows``: ``(line, value)``, an ``Unreadable`` where there is no value.

    A table's rows are dictionaries by ``columns``. Plain text is one row.
    """

    kind: Kind
    rows: Rows
    columns: tuple[str, ...] = ()


def open_container(
    path: Path, names: Collection[str] = (), wanted: Collection[Kind] = ()
) -> Container:
    """What the content says it is; what is no JSON is read as table or text as ``wanted``.

    ``names`` are names of columns that a table's header is known by. ``UserError`` where the file
    is missing, empty, too large, not UTF-8 or not text.
    """
    text, suffix = _text_of(path), path.suffix.lower()
    if (rows := _json(text, suffix in JSONS)) is not None:
        return Container("json", _gathered(rows))
    table = "table" in wanted or suffix in TABLES or looks_like_table(text)
    if table and "text" not in wanted:
        return Container("table", *read_table(text, path.name, TABLES.get(suffix, ""), names))
    if suffix in JSONS and not wanted:
        return Container("json", _lines(text))
    return Container("text", [(1, text)])


def _text_of(path: Path) -> str:
    size = path.stat().st_size if path.is_file() else 0
    if size > LARGEST:
        raise UserError(
            f"{path.name} has {size / 1e6:.0f} MB; at most {LARGEST / 1e6:.0f} MB are read. "
            "Split it into several files.",
            f"{path.name} は {size / 1e6:.0f} MB あります。読み込めるのは"
            f" {LARGEST / 1e6:.0f} MB までです。分割してください。",
        )
    data = read_bytes(path)
    if b"\0" in data[:4096] and data[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(
            f"{path.name} is not a text file. Save a spreadsheet as CSV (UTF-8).",
            f"{path.name} はテキストファイルではありません。表計算のファイルは CSV（UTF-8）で"
            "保存してください。",
        )
    text = decode(data, path.name)
    if not text.strip():
        raise UserError(f"{path.name} is empty.", f"{path.name} は空です。")
    return text


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return Unreadable(NOT_JSON, text)


def _lines(text: str) -> Rows:
    lines = enumerate(text.split("\n"), 1)
    return [(number, _parse(line)) for number, line in lines if line.strip()]


def _json(text: str, named: bool) -> Rows | None:
    """An array's items, an object's rows or each line's value; None where it is no JSON.

    A file ``named`` as JSON Lines is that if any line is; another, if most are.
    """
    start = len(text) - len(text.lstrip())
    if text[start] == "[" and (rows := _items(text, start)) is not None:
        return rows
    if text[start] in "{[" and _mostly_json(text):
        return _lines(text)
    if text[start] == "{" and not isinstance(value := _parse(text), Unreadable):
        return _wrapped(text, start, value)
    rows = _lines(text) if named else []
    return rows if any(isinstance(row, dict | list) for _, row in rows) else None


def _mostly_json(text: str) -> bool:
    some = [line for line in text.split("\n", 200)[:200] if line.strip()][:20]
    values = [_parse(line) for line in some]
    found = sum(isinstance(value, dict | list) for value in values)
    wraps = len(some) == 1 and isinstance(values[0], dict) and _wrapper(values[0])
    return found * 2 > len(some) and not wraps


_GAP = re.compile(r"[\s,]*")


def _items(text: str, start: int) -> Rows | None:
    """The items of the array at ``start`` with their lines; None if that is not the whole text.

    Where it breaks off, what came before is kept and the rest is one unreadable row.
    """
    rows: Rows = []
    decoder, at, seen, line = json.JSONDecoder(), start + 1, 0, 1
    while True:
        at = _GAP.match(text, at).end()  # type: ignore[union-attr]
        if text[at : at + 1] == "]":
            return rows if not text[at + 1 :].strip() else None
        line, seen = line + text.count("\n", seen, at), at
        try:
            item, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            rest = Unreadable(BREAKS_OFF, text[at : at + 1000])
            return [*rows, (line, rest)] if rows else None
        rows.append((line, item))


def _wrapper(value: dict[str, Any]) -> str:
    """The key of the rows that an object holds, "" where it is a row itself."""
    for key in WRAPPERS:
        held = value.get(key)
        if isinstance(held, list) and held and all(isinstance(item, dict) for item in held):
            return key
    return ""


def _wrapped(text: str, start: int, value: Any) -> Rows | None:
    if not isinstance(value, dict):
        return None
    line = text.count("\n", 0, start) + 1
    key = _wrapper(value)
    return _located(text, key, value[key], line) if key else [(line, value)]


def _located(text: str, key: str, items: list[Any], line: int) -> Rows:
    """The items of ``key`` with their lines; all at ``line`` where the key stands elsewhere too."""
    try:
        at = text.index("[", text.index(json.dumps(key)))
        rows = _items(text[: json.JSONDecoder().raw_decode(text, at)[1]], at)
    except ValueError:
        rows = None
    found = [item for _, item in rows or []] == items
    return rows if rows and found else [(line, item) for item in items]


def _gathered(rows: Rows) -> Rows:
    """A file whose rows are the lines of one talk as the one row that they make."""
    values = [row for _, row in rows if not isinstance(row, Unreadable)]
    if len(values) < 2 or len(values) < len(rows):
        return rows
    if all(isinstance(row, dict) and {"role", "text"} <= row.keys() for row in values):
        return [(rows[0][0], values)]
    if all(isinstance(row, dict) and {"role", "content"} <= row.keys() for row in values):
        return [(rows[0][0], {"messages": values})]
    return rows
