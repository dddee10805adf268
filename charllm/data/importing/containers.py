"""A file as rows with their line numbers: JSON Lines, a JSON array, a table, plain text."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from charllm.data.errors import UserError
from charllm.data.files import decode, read_bytes

LARGEST = 200_000_000
"""Bytes; a larger file would not fit into memory several times over."""
LONGEST_CELL = 10_000_000

Kind = Literal["json", "table", "text"]


@dataclass(frozen=True)
class Container:
    """``rows``: ``(line, value)``; a value of a JSON file that could not be parsed is an error.

    A table's rows are dictionaries by ``columns``. Plain text is one row.
    """

    kind: Kind
    rows: list[tuple[int, Any]]
    columns: tuple[str, ...] = ()


class BrokenLine(Exception):
    """Stands in place of a row that is no JSON."""


def open_container(path: Path, names: Collection[str] = ()) -> Container:
    """A table's first line with any of ``names`` in it is its header.

    ``UserError`` where the file is empty, too large, not UTF-8 or not text.
    """
    data = read_bytes(path)
    if len(data) > LARGEST:
        raise UserError(
            f"{path.name} has {len(data) / 1e6:.0f} MB; at most {LARGEST / 1e6:.0f} MB are read. "
            "Split it into several files.",
            f"{path.name} は {len(data) / 1e6:.0f} MB あります。読み込めるのは"
            f" {LARGEST / 1e6:.0f} MB までです。分割してください。",
        )
    if b"\0" in data[:4096] and data[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(
            f"{path.name} is not a text file.", f"{path.name} はテキストファイルではありません。"
        )
    text = decode(data, path.name)
    if not text.strip():
        raise UserError(f"{path.name} is empty.", f"{path.name} は空です。")
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return _table(text, "\t" if suffix == ".tsv" else None, names)
    first = text.lstrip()[:1]
    if first == "[" and (array := _array(text)) is not None:
        return Container("json", array)
    if first in "{[" and _mostly_json(text):
        return Container("json", list(_lines(text)))
    if suffix in (".jsonl", ".json", ".ndjson"):
        return Container("json", list(_lines(text)))
    if suffix in ("", ".txt", ".md") and _looks_like_table(text):
        return _table(text, None, names)
    return Container("text", [(1, text)])


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return BrokenLine()


def _lines(text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, _parse(line)


def _array(text: str) -> list[tuple[int, Any]] | None:
    """The items of one JSON array, each with the line it begins at; None if it is not one."""
    value = _parse(text)
    # One line of a novel is an array, too: of speakers, not of rows.
    if not isinstance(value, list) or all(_is_line(item) for item in value):
        return None
    decoder, rows, at = json.JSONDecoder(), [], text.index("[") + 1
    for item in value:
        while text[at : at + 1].isspace() or text[at : at + 1] == ",":
            at += 1
        rows.append((text.count("\n", 0, at) + 1, item))
        at = decoder.raw_decode(text, at)[1]
    return rows


def _is_line(item: Any) -> bool:
    return isinstance(item, dict) and {"role", "text"} <= item.keys()


def _mostly_json(text: str) -> bool:
    some = [line for line in text.split("\n") if line.strip()][:20]
    return sum(not isinstance(_parse(line), BrokenLine) for line in some) * 2 > len(some)


def _looks_like_table(text: str) -> bool:
    some = [line for line in text.splitlines() if line.strip()][:20]
    return len(some) > 1 and all(line.count("\t") == some[0].count("\t") > 0 for line in some)


def _table(text: str, delimiter: str | None, names: Collection[str]) -> Container:
    """A table; without a header the columns are called 1, 2, …"""
    csv.field_size_limit(LONGEST_CELL)
    delimiter = delimiter or _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows: list[tuple[int, list[str]]] = []
    before = 0
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append((before + 1, cells))
            before = reader.line_num
    except csv.Error as error:
        raise UserError(
            f"The table cannot be read at line {reader.line_num}: {error}.",
            f"表の {reader.line_num} 行目を読めません: {error}。",
        ) from error
    if not rows:
        return Container("table", [])
    head = [cell.strip() for cell in rows[0][1]]
    if set(names) & set(head) or is_header(head, [cells for _, cells in rows[1:21]]):
        columns, body = head, rows[1:]
    else:
        columns, body = [str(n) for n in range(1, len(head) + 1)], rows
    made = [(line, dict(zip(columns, cells, strict=False))) for line, cells in body]
    return Container("table", made, tuple(columns))


def _delimiter(text: str) -> str:
    first = next((line for line in text.splitlines() if line.strip()), "")
    return max((",", "\t", ";"), key=first.count)


_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,24}")


def is_header(cells: list[str], below: list[list[str]]) -> bool:
    """Names of columns: short, different, one of them known, or all of them identifiers above
    cells that are none."""
    from charllm.data.importing.tables import known_field

    names = [cell.strip() for cell in cells]
    if len(set(names)) != len(names) or not all(0 < len(name) <= 40 for name in names):
        return False
    if any(known_field(name) for name in names):
        return True
    rest = [cell.strip() for row in below for cell in row if cell.strip()]
    plain = sum(bool(_IDENTIFIER.fullmatch(cell)) for cell in rest)
    return all(map(_IDENTIFIER.fullmatch, names)) and bool(rest) and plain * 4 < len(rest)
