"""Result tables as Markdown, CSV and LaTeX, in either language, with intervals or without.

A table is columns and cells; what a cell holds is escaped for each form, so that a variant's name
can break none of them. In CSV an interval is three columns, and numbers keep their digits. LaTeX
uses booktabs; Japanese text in it needs LuaLaTeX or upLaTeX.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from charllm.core.evaluation.bradley_terry import Ratings
from charllm.core.evaluation.comparison import Comparison
from charllm.core.evaluation.stopping import Stopping
from charllm.core.evaluation.two_judges import SideBySide
from charllm.core.statistics import Interval
from charllm.data.errors import Language, Text

Cell = str | int | float | Interval | None
DIGITS = 2


@dataclass(frozen=True)
class Column:
    """``unit`` "share" is shown in percent, "p" as a p value, "points" without decimals."""

    title: Text
    unit: str = ""


@dataclass(frozen=True)
class Table:
    title: Text
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


VARIANT = Column(Text("Variant", "バリアント"))
_N = Column(Text("n", "n"))


def summary_table(comparison: Comparison) -> Table:
    """A line a variant: mean, queries, replies, unscored, gated."""
    ruler = comparison.ruler
    return Table(
        Text(f"Scores by {ruler.judge}, {ruler.rubric}", f"{ruler.judge} による {ruler.rubric}"),
        (
            VARIANT,
            Column(Text("Mean", "平均")),
            Column(Text("Queries", "質問数")),
            Column(Text("Replies", "返答数")),
            Column(Text("Unscored", "採点不能")),
            Column(Text("Gated", "ゲート不合格")),
        ),
        tuple(
            (s.variant, s.mean, s.queries, s.replies, s.unscored, s.gated)
            for s in comparison.summaries
        ),
    )


def difference_table(comparison: Comparison) -> Table:
    """A line a pair of variants: paired difference, p and Holm's p."""
    return Table(
        Text("Paired differences", "対応のある差"),
        (
            Column(Text("A", "A")),
            Column(Text("B", "B")),
            Column(Text("A − B", "A − B")),
            Column(Text("Queries", "質問数")),
            Column(Text("p", "p 値"), "p"),
            Column(Text("p (Holm)", "p 値（Holm）"), "p"),
        ),
        tuple((d.a, d.b, d.difference, d.queries, d.p, d.p_holm) for d in comparison.differences),
    )


def rating_table(ratings: Ratings) -> Table:
    """A line a model, best first: points on Elo's scale, wins, ties, losses."""
    return Table(
        Text("Ratings (Bradley–Terry)", "評点（Bradley–Terry）"),
        (
            Column(Text("Model", "モデル")),
            Column(Text("Rating", "評点"), "points"),
            Column(Text("Wins", "勝")),
            Column(Text("Ties", "分")),
            Column(Text("Losses", "負")),
        ),
        tuple((r.model, r.points, r.wins, r.ties, r.losses) for r in ratings.ratings),
    )


def win_table(ratings: Ratings) -> Table:
    """The share of points that the row's model took from the column's, best first."""
    matrix = ratings.matrix
    order = [matrix.models.index(rating.model) for rating in ratings.ratings]
    names = [matrix.models[i] for i in order]
    return Table(
        Text("Win rates (ties are half a win)", "勝率（引き分けは 0.5 勝）"),
        (
            Column(Text("Model", "モデル")),
            *(Column(Text(name, name), "share") for name in names),
        ),
        tuple((matrix.models[i], *(matrix.share(i, j) for j in order)) for i in order),
    )


def stopping_table(report: Sequence[Stopping]) -> Table:
    """A line for each variant and preset."""
    return Table(
        Text("Stopping and repetition", "終了と繰り返し"),
        (
            VARIANT,
            Column(Text("Preset", "生成設定")),
            _N,
            Column(Text("Ended by itself", "自分で終了"), "share"),
            Column(Text("Median length", "長さの中央値"), "points"),
            Column(Text("Asked", "目安")),
            Column(Text("Within range", "目安の範囲内"), "share"),
            Column(Text("Repeated n-grams", "n-gram の反復"), "share"),
            Column(Text("Loops", "ループ"), "share"),
            Column(Text("Markup leaks", "記号の混入"), "share"),
        ),
        tuple(
            (
                *(s.variant, s.preset, s.n, s.ended, s.length.middle, s.asked),
                *(s.in_range, s.repeated, s.looping, s.leaking),
            )
            for s in report
        ),
    )


def judges_table(found: SideBySide) -> Table:
    """Every two judges on the replies that both scored; no average of theirs exists."""
    return Table(
        Text("Judges side by side", "ジャッジの比較"),
        (
            Column(Text("Judge", "ジャッジ")),
            Column(Text("Other judge", "もう一方")),
            _N,
            Column(Text("Severity (other − judge)", "甘さの差（もう一方 − ジャッジ）")),
            Column(Text("Kappa", "κ")),
            Column(Text("Spearman", "順位相関")),
        ),
        tuple(
            (
                *(" ".join(filter(None, r)) for r in (p.one, p.other)),
                p.n,
                p.severity,
                p.kappa,
                p.spearman,
            )
            for p in found.pairs
        ),
    )


# The three forms


def markdown(table: Table, language: Language, *, intervals: bool = True) -> str:
    """A pipe table; ends in a newline."""
    head = [_md(column.title.in_(language)) for column in table.columns]
    left = [_is_text(table, i) for i in range(len(head))]
    rule = [":---" if text else "---:" for text in left]
    rows = _words(table, intervals, _md, str)
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, rule, *rows))


def latex(table: Table, language: Language, *, intervals: bool = True) -> str:
    """A ``table`` with a caption, in booktabs."""
    head = [_tex(column.title.in_(language)) for column in table.columns]
    align = "".join("l" if _is_text(table, i) else "r" for i in range(len(head)))
    lines = [" & ".join(row) + r" \\" for row in _words(table, intervals, _tex, _tex)]
    # A line that begins with a bracket would be an argument of the line end before it.
    lines = ["{}" + line if line.startswith("[") else line for line in lines]
    return "\n".join(
        [
            r"% \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(table.title.in_(language))}}}",
            rf"\begin{{tabular}}{{{align}}}",
            r"\toprule",
            " & ".join(head) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def as_csv(table: Table, language: Language, *, intervals: bool = True) -> str:
    """Comma-separated with a header, lines ending in ``\\n``; unrounded, shares in [0, 1].

    Text that a spreadsheet would run as a formula is led by an apostrophe.
    """
    wide = [intervals and _has_interval(table, i) for i in range(len(table.columns))]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head: list[str] = []
    for column, apart in zip(table.columns, wide, strict=True):
        title = column.title.in_(language)
        head += [title, f"{title} {_LOW.in_(language)}", f"{title} {_HIGH.in_(language)}"][
            : 3 if apart else 1
        ]
    writer.writerow([_plain(title) for title in head])
    for row in table.rows:
        cells: list[str] = []
        for cell, apart in zip(row, wide, strict=True):
            cells += _three(cell)[: 3 if apart else 1]
        writer.writerow(cells)
    return out.getvalue()


_LOW = Text("95% low", "95%下限")
_HIGH = Text("95% high", "95%上限")


def _is_text(table: Table, i: int) -> bool:
    return any(isinstance(row[i], str) for row in table.rows)


def _has_interval(table: Table, i: int) -> bool:
    return any(isinstance(row[i], Interval) for row in table.rows)


def _words(
    table: Table, intervals: bool, text: Callable[[str], str], number: Callable[[str], str]
) -> list[list[str]]:
    """Every cell as a reader wants it, escaped by ``text`` or ``number``."""
    return [
        [
            text(cell) if isinstance(cell, str) else number(_figure(cell, column.unit, intervals))
            for cell, column in zip(row, table.columns, strict=True)
        ]
        for row in table.rows
    ]


def _figure(cell: float | Interval | None, unit: str, intervals: bool) -> str:
    if not isinstance(cell, Interval):
        return _number(cell, unit)
    value = _number(cell.value, unit)
    if not intervals or cell.low is None or cell.high is None:
        return value
    return f"{value} [{_number(cell.low, unit)}, {_number(cell.high, unit)}]"


def _number(x: float | None, unit: str) -> str:
    if x is None:
        return "–"
    if unit == "p":
        return "< 0.001" if x < 0.001 else f"{x:.3f}"
    if unit == "share":
        return f"{100 * x:.0f}%"
    digits = 0 if isinstance(x, int) or unit == "points" else DIGITS
    return f"{round(x, digits) + 0.0:.{digits}f}".replace("-", "−")


def _three(cell: Cell) -> list[str]:
    """Value, low and high for CSV; "" for what is not known."""
    if isinstance(cell, str):
        return [_plain(cell), "", ""]
    whole = (cell.value, cell.low, cell.high) if isinstance(cell, Interval) else (cell, None, None)
    return ["" if x is None else repr(x) for x in whole]


def _plain(text: str) -> str:
    return f"'{text}" if text[:1] in tuple("=+-@\t\r") else text


def _md(text: str) -> str:
    """Without line breaks, and with what Markdown would take as markup escaped."""
    return re.sub(r"([\\|`*_<>\[\]])", r"\\\1", " ".join(text.split()))


_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "−": "$-$",
    "–": "--",
    "|": r"\textbar{}",
    **{sign: "\\" + sign for sign in "&%$#_{}"},
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(sign, sign) for sign in " ".join(text.split()))
