"""Append-only files of JSON lines: what is in them stays; a kill costs the last line at most."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def read_lines(path: Path) -> list[Any]:
    """The values in their order; [] where there is no file, without a last line that is torn."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1] if line.strip()]


def append_lines(path: Path, rows: Sequence[Any]) -> None:
    """All rows in one write, so that whoever reads meanwhile sees whole lines."""
    if rows:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with path.open("a", encoding="utf-8") as file:
            file.write(text)


def cut_torn_line(path: Path) -> None:
    """Take away what a kill has left of a last line; to be called before the first append."""
    if path.exists():
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with path.open("r+b") as file:
                file.truncate(whole)
