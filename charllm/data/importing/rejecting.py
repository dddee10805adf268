"""Rows that could not be read: where, why, and as a file that a spreadsheet opens."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charllm.data.errors import Text
from charllm.data.files import write_bytes

SHOWN = 200


@dataclass(frozen=True)
class Rejected:
    """A refused row: the line it begins at (from 1), the reason, and how it begins."""

    line: int
    reason: Text
    text: str


@dataclass(frozen=True)
class Unreadable:
    """Stands in place of a row that is none, such as a line that is not JSON."""

    reason: Text
    text: str


class Refused(Exception):
    """Raised while one row is read; becomes a ``Rejected``."""

    def __init__(self, en: str, ja: str) -> None:
        self.reason = Text(en, ja)
        super().__init__(en)


def refuse_unless(condition: Any, en: str, ja: str) -> None:
    if not condition:
        raise Refused(en, ja)


def beginning(row: Any) -> str:
    """How a row begins, as text that can be saved: at most ``SHOWN`` characters."""
    if isinstance(row, str):
        text = row
    else:
        try:
            text = json.dumps(row, ensure_ascii=False, default=str)
        except (RecursionError, ValueError):
            text = "…"
    return text[:SHOWN].encode("utf-8", "backslashreplace").decode("utf-8")


def write_rejected_csv(path: Path, rejected: Sequence[Rejected]) -> None:
    """UTF-8 with a mark, so that spreadsheets read it; no cell can be taken for a formula."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["line", "reason", "理由", "text"])
    for row in rejected:
        cells = (row.reason.en, row.reason.ja, row.text)
        writer.writerow([row.line, *map(_harmless, cells)])
    write_bytes(path, out.getvalue().encode("utf-8-sig", "backslashreplace"))


def _harmless(cell: str) -> str:
    return "'" + cell if cell.lstrip()[:1] in ("=", "+", "-", "@") else cell
