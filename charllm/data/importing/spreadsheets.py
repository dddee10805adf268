"""Text as a table: its separator, its header, and rows that fit under it."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Collection

from charllm.data.errors import Text, UserError
from charllm.data.importing.rejecting import Unreadable
from charllm.data.importing.tables import has_both, known_field
from charllm.data.importing.talks import Rows

LONGEST_CELL = 10_000_000
HEADER_WITHIN = 5
"""The header is sought in this many rows: some tables have a title above it."""
LONGEST_NAME = 40

ABOVE = Text("stands above the header", "見出しより上の行です")
UNCLOSED = Text("a quotation mark is not closed", '引用符（"）が閉じていません')

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,24}")


def looks_like_table(text: str) -> bool:
    """Tabs in every line, or a first line that names the columns of question and reply."""
    some = [line for line in text[:20_000].split("\n") if line.strip()][:20]
    if len(some) < 2:
        return False
    tabs = some[0].count("\t")
    return (tabs > 0 and all(line.count("\t") == tabs for line in some[:-1])) or has_both(
        next(csv.reader(some[:1], delimiter=_delimiter(text)))
    )


def read_table(
    text: str, name: str, delimiter: str = "", names: Collection[str] = ()
) -> tuple[Rows, tuple[str, ...]]:
    """``(rows, columns)``; without a header the columns are called 1, 2, …

    A row with all of ``names`` in it is the header. ``UserError`` where no table can be read.
    """
    delimiter = delimiter or _delimiter(text)
    lines = _cells(text, name, delimiter)
    if not lines:
        return [], ()
    place = _header_at([cells for _, cells in lines], names)
    head = lines[place][1] if place >= 0 else [""] * max(len(cells) for _, cells in lines)
    columns = _names(head)
    rows: Rows = [
        (line, Unreadable(ABOVE, delimiter.join(cells))) for line, cells in lines[: max(place, 0)]
    ]
    rows += [(line, _row(columns, cells, delimiter)) for line, cells in lines[place + 1 :]]
    if rows and _is_unclosed(text, lines[-1][0], delimiter):
        rows[-1] = (lines[-1][0], Unreadable(UNCLOSED, delimiter.join(lines[-1][1])))
    return rows, columns


def _cells(text: str, name: str, delimiter: str) -> list[tuple[int, list[str]]]:
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows, before = [], 0
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append((before + 1, cells))
            before = reader.line_num
    except csv.Error as error:
        raise UserError(
            f"{name}: the table cannot be read at line {reader.line_num}: {error}.",
            f"{name}: 表の {reader.line_num} 行目を読めません（{error}）。",
        ) from error
    return rows


def _delimiter(text: str) -> str:
    first = next((line for line in text.split("\n") if line.strip()), "")
    return max((",", "\t", ";"), key=first.count)


def _is_unclosed(text: str, line: int, delimiter: str) -> bool:
    """Whether the last row's quotation mark stays open and so has taken in what follows."""
    last = "\n".join(re.split(r"\r\n|\n|\r", text)[line - 1 :])
    try:
        list(csv.reader(io.StringIO(last, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        return "unexpected end" in str(error)
    return False


def _row(columns: tuple[str, ...], cells: list[str], delimiter: str) -> dict[str, str] | Unreadable:
    if any(cell.strip() for cell in cells[len(columns) :]):
        more = Text(
            f"{len(cells)} cells under {len(columns)} columns: a cell with a separator in it "
            "needs quotation marks",
            f"{len(columns)} 列の表にセルが {len(cells)} 個あります。区切り文字を含むセルは"
            "引用符で囲んでください",
        )
        return Unreadable(more, delimiter.join(cells))
    filled = cells + [""] * (len(columns) - len(cells))
    return dict(zip(columns, filled, strict=False))


def _header_at(rows: list[list[str]], names: Collection[str]) -> int:
    """The place of the header, -1 for none."""
    wanted = {name for name in names if name}
    for place, cells in enumerate(rows[:HEADER_WITHIN]):
        if (wanted and wanted <= {cell.strip() for cell in cells}) or has_both(cells):
            return place
    return 0 if is_header(rows[0], rows[1:21]) else -1


def is_header(cells: list[str], below: list[list[str]]) -> bool:
    """Names of columns: short, one of them known, or all of them identifiers above cells that
    are none."""
    names = [cell.strip() for cell in cells if cell.strip()]
    if not names or any(len(name) > LONGEST_NAME for name in names):
        return False
    if any(known_field(name) for name in names):
        return True
    rest = [cell.strip() for row in below for cell in row if cell.strip()]
    identifiers = sum(bool(_IDENTIFIER.fullmatch(cell)) for cell in rest)
    return all(map(_IDENTIFIER.fullmatch, names)) and bool(rest) and identifiers * 4 < len(rest)


def _names(head: list[str]) -> tuple[str, ...]:
    """Each column's name; its number where it has none, and a number behind one that is taken."""
    seen: Counter[str] = Counter()
    made = []
    for number, cell in enumerate(head, 1):
        name = cell.strip() or str(number)
        seen[name] += 1
        made.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return tuple(made)
