"""A table's rows, of CSV or of JSON, read by the columns that hold question and reply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from charllm.data.importing.rejecting import refuse_unless
from charllm.data.importing.talks import Talk, rest_of


def table(row: Any, mapping: Mapping[str, str]) -> Talk:
    """``mapping`` is field → column, the fields being those of ``tables.FIELDS``."""
    refuse_unless(isinstance(row, dict), "no row with columns", "列のある行ではありません")
    for name in ("user", "reply"):
        column = mapping[name]
        refuse_unless(column in row, f"no column {column!r}", f"「{column}」という列がありません")
    cells = {field: _cell(row, column) for field, column in mapping.items()}
    asked = "\n".join(filter(None, (cells["user"], cells.get("context", ""))))
    turns = [("system", cells.get("system", "")), ("user", asked), ("assistant", cells["reply"])]
    if cells.get("user2") or cells.get("reply2"):
        turns += [("user", cells.get("user2", "")), ("assistant", cells.get("reply2", ""))]
        turns = turns if cells.get("reply2") else turns[:-1]
    meta = {k: v for k, v in rest_of(row, *mapping.values()).items() if v != ""}
    if cells.get("topic"):
        meta["topic"] = cells["topic"]
    return Talk(turns, cells.get("id", ""), cells.get("source", ""), meta)


def _cell(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    refuse_unless(
        value is None or isinstance(value, str | int | float),
        f"column {column!r} is not text",
        f"「{column}」の列が文字列ではありません",
    )
    return "" if value is None else str(value).strip()


def fits_table(row: Any) -> int:
    return 1 if isinstance(row, dict) and len(row) >= 2 else 0
