"""An interview run's tables: the five by part, their differences, drift, slopes, correlation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from charllm.core.evaluation.comparison import Ruler
from charllm.core.evaluation.five import CRITERIA, PARTS, Key, Part
from charllm.core.evaluation.five_correlation import WARNING, Correlations
from charllm.core.evaluation.five_measures import MEASURES, MeasureKey
from charllm.core.evaluation.five_scores import MEASURED, Drifted, Figure
from charllm.core.evaluation.interview_report import Interviews, as_json, told
from charllm.core.evaluation.report import LANGUAGES, REPORT, TABLES
from charllm.core.evaluation.tables import VARIANT, Cell, Column, Table, as_csv, latex, markdown
from charllm.data.errors import Language, Text
from charllm.data.files import write_json, write_text

_CRITERION = Column(Text("Criterion", "基準"))
_BY = Column(Text("By", "測り方"))


def write_report(folder: Path, found: Interviews) -> dict[str, Any]:
    """``report.json`` and the tables; gives what a list of runs and the command line show."""
    data = as_json(found)
    write_json(folder / REPORT, data)
    for language in LANGUAGES:
        tables = tables_of(found, language)
        for name, table in tables.items():
            place = folder / TABLES / f"{name}.{language}"
            write_text(place.with_name(place.name + ".md"), markdown(table, language))
            write_text(place.with_name(place.name + ".csv"), as_csv(table, language))
            write_text(place.with_name(place.name + ".tex"), latex(table, language))
        write_text(folder / TABLES / f"all.{language}.md", _page(found, tables, language))
    return data


def tables_of(found: Interviews, language: Language) -> dict[str, Table]:
    """By the names of their files; the names of criteria are cells, in ``language``."""
    tables: dict[str, Table] = {}
    parts: tuple[Part, ...] = ("single", "talk")
    for part in parts:
        of_it = [figure for figure in found.figures if figure.part == part]
        if of_it:
            tables[f"five-{part}"] = five_table(part, of_it, language)
            tables[f"differences-{part}"] = differences_table(part, of_it, language)
    if found.drifts:
        tables["drift"] = drift_table(found.drifts, language)
        tables["slopes"] = slope_table(found.drifts, language)
    for number, (judge, one) in enumerate(found.correlation.items(), 1):
        tables[f"correlation-{number}"] = correlation_table(judge, one, language)
    return tables


def by_turn(found: Interviews, language: Language) -> str:
    """What has to be said first, then means by turn and slopes, as Markdown."""
    drifted = [drift_table(found.drifts, language), slope_table(found.drifts, language)]
    parts = [f"> {text.in_(language)}\n" for text in told(found)]
    parts += [f"## {one.title.in_(language)}\n\n{markdown(one, language)}" for one in drifted]
    return "\n".join(parts)


def five_table(part: Part, figures: Sequence[Figure], language: Language) -> Table:
    """A line a criterion and variant: mean, its scale, what it rests on."""
    rows: list[tuple[Cell, ...]] = []
    for figure in figures:
        low, high = figure.scale
        for one in figure.comparison.summaries:
            rows.append(
                (
                    *_names(figure.criterion, figure.comparison.ruler, language),
                    one.variant,
                    one.mean,
                    f"{low:g}–{high:g}",
                    one.queries,
                    one.replies,
                    one.unscored,
                    one.gated,
                )
            )
    return Table(
        Text(f"The five: {PARTS[part].en}", f"5つの基準: {PARTS[part].ja}"),
        (
            _CRITERION,
            _BY,
            VARIANT,
            Column(Text("Mean", "平均")),
            Column(Text("Scale", "尺度")),
            Column(Text("Questions", "質問数")),
            Column(Text("Replies", "返答数")),
            Column(Text("Unscored", "採点不能")),
            Column(Text("Gated", "ゲート不合格")),
        ),
        tuple(rows),
    )


def differences_table(part: Part, figures: Sequence[Figure], language: Language) -> Table:
    """A line a criterion and pair of variants. Holm's p is over the pairs of one criterion."""
    rows: list[tuple[Cell, ...]] = [
        (
            *_names(figure.criterion, figure.comparison.ruler, language),
            *(one.a, one.b, one.difference, one.queries, one.p, one.p_holm),
        )
        for figure in figures
        for one in figure.comparison.differences
    ]
    return Table(
        Text(f"Paired differences: {PARTS[part].en}", f"対応のある差: {PARTS[part].ja}"),
        (
            _CRITERION,
            _BY,
            Column(Text("A", "A")),
            Column(Text("B", "B")),
            Column(Text("A − B", "A − B")),
            Column(Text("Questions", "質問数")),
            Column(Text("p", "p 値"), "p"),
            Column(Text("p (Holm)", "p 値（Holm）"), "p"),
        ),
        tuple(rows),
    )


def drift_table(drifts: Sequence[Drifted], language: Language) -> Table:
    """A line a criterion, variant and turn: mean over the interviews."""
    rows: list[tuple[Cell, ...]] = [
        (*_names(one.criterion, one.ruler, language), one.variant, at.turn, at.mean, at.mean.n)
        for one in drifts
        for at in one.drift.turns
    ]
    return Table(
        Text("By turn", "ターンごとの平均"),
        (
            _CRITERION,
            _BY,
            VARIANT,
            Column(Text("Turn", "ターン")),
            Column(Text("Mean", "平均")),
            Column(Text("n", "n")),
        ),
        tuple(rows),
    )


def slope_table(drifts: Sequence[Drifted], language: Language) -> Table:
    """A line a criterion and variant: the change a turn, over the interviews."""
    rows: list[tuple[Cell, ...]] = [
        (
            *_names(one.criterion, one.ruler, language),
            *(one.variant, one.drift.slope, one.drift.talks, one.drift.slope.n),
        )
        for one in drifts
    ]
    return Table(
        Text("Drift: change a turn", "変化の傾き（1ターンあたり）"),
        (
            _CRITERION,
            _BY,
            VARIANT,
            Column(Text("Slope", "傾き")),
            Column(Text("Interviews", "インタビュー数")),
            Column(Text("Turns", "ターン数")),
        ),
        tuple(rows),
    )


def correlation_table(judge: str, found: Correlations, language: Language) -> Table:
    """The matrix of rank correlations; – where there is none."""

    def cell(one: str, other: str) -> Cell:
        pair = found.of(one, other)
        return 1.0 if one == other else pair.value if pair else None

    labels = [_label(name).in_(language) for name in found.names]
    name = _judge(judge)
    return Table(
        Text(f"Rank correlations by {name.en}", f"順位相関（{name.ja}）"),
        (_CRITERION, *(Column(Text(label, label)) for label in labels)),
        tuple(
            (label, *(cell(one, other) for other in found.names))
            for label, one in zip(labels, found.names, strict=True)
        ),
    )


def _names(criterion: Key, ruler: Ruler, language: Language) -> tuple[str, str]:
    """The criterion's name, and who or what measured it."""
    by = _label(ruler.rubric) if ruler.judge == MEASURED else Text(ruler.judge, ruler.judge)
    return CRITERIA[criterion].label.in_(language), by.in_(language)


def _label(name: str) -> Text:
    """Of a criterion's key or a measure's."""
    labels: dict[Key | MeasureKey, Text] = {key: one.label for key, one in MEASURES.items()}
    labels.update({key: one.label for key, one in CRITERIA.items()})
    return next((label for key, label in labels.items() if key == name), Text(name, name))


def _judge(judge: str) -> Text:
    return Text("the measures", "機械的な指標") if judge == MEASURED else Text(judge, judge)


def _page(found: Interviews, tables: Mapping[str, Table], language: Language) -> str:
    """All tables on one Markdown page, with what has to be said first."""
    parts = [f"# {found.plan.config.name}\n"]
    parts += [f"> {text.in_(language)}\n" for text in told(found)]
    for name, table in tables.items():
        parts.append(f"## {table.title.in_(language)}\n\n{markdown(table, language)}")
        if name.startswith("correlation"):
            parts.append(f"{WARNING.in_(language)}\n")
    return "\n".join(parts)
