"""What a file is: by its content, with the reason and what else would fit."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from charllm.data.errors import Text, UserError
from charllm.data.importing.containers import Container, open_container
from charllm.data.importing.formats import FORMATS
from charllm.data.importing.rejecting import Unreadable
from charllm.data.importing.tables import guess_mapping

LOOKED_AT = 50


@dataclass(frozen=True)
class Detected:
    """``mapping`` is field → column where there are columns, or ``character`` → a script's.

    ``also``: other formats that fit, best first.
    """

    format: str
    reason: Text
    mapping: dict[str, str] = field(default_factory=dict)
    columns: list[str] = field(default_factory=list)
    also: list[str] = field(default_factory=list)


def detect(path: Path) -> Detected:
    """``UserError`` where nothing known fits."""
    return detect_in(open_container(path), path.name)


def detect_in(container: Container, name: str) -> Detected:
    rows = [row for _, row in container.rows if not isinstance(row, Unreadable)][:LOOKED_AT]
    if container.rows and not rows and container.kind == "json":
        line = container.rows[0][0]
        raise UserError(
            f"{name}, line {line}: not valid JSON, and no other line is.",
            f"{name} は {line} 行目から JSON として読めません。ほかの行も同じです。",
        )
    marks: Counter[str] = Counter()
    for key, known in FORMATS.items():
        if container.kind in known.containers:
            marks[key] = sum(known.fits(row) for row in rows)
    if container.kind == "table":
        marks = Counter({"table": marks["table"] or 1})
    fitting = [key for key, mark in marks.most_common() if mark]
    if not fitting:
        raise UserError(
            f"{name}: none of the known formats fits. Choose one by hand, or save it as a table "
            "with a question and a reply column.",
            f"{name}: 当てはまる形式がありません。形式を手動で選ぶか、質問と返答の列を持つ表に"
            "してください。",
        )
    best = FORMATS[fitting[0]]
    columns = columns_of(container)
    guessed = best.guess(best.rows(container.rows))
    mapping = guess_mapping(columns) | guessed
    return Detected(fitting[0], _reason(container, rows, fitting[0]), mapping, columns, fitting[1:])


def _reason(container: Container, rows: list[Any], name: str) -> Text:
    """Why, and of how many of the rows that is so."""
    known = FORMATS[name]
    if container.kind != "json":
        return known.why
    fit = sum(known.fits(row) > 0 for row in rows)
    return Text(
        f"{known.why.en} ({fit} of the {len(rows)} rows looked at)",
        f"{known.why.ja}（調べた {len(rows)} 行のうち {fit} 行）",
    )


def columns_of(container: Container) -> list[str]:
    if container.columns:
        return list(container.columns)
    seen: dict[str, Any] = {}
    for _, row in container.rows[:LOOKED_AT]:
        if isinstance(row, dict):
            seen.update(dict.fromkeys(map(str, row)))
    return list(seen)
