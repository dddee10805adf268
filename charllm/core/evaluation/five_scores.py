"""The five as figures: each criterion by the judge's rubric and by the measures, with intervals.

Single questions and interviews are apart: what is resampled is the question there, the talk here.
Two judges, two rubric versions and a measure never share a mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from charllm.core.evaluation.comparison import Comparison, Ruler, Scored, compare
from charllm.core.evaluation.drift import Drift, TurnScore, drift_of
from charllm.core.evaluation.five import CRITERIA, Exchange, Key, Part, tells
from charllm.core.evaluation.five_measures import MEASURES, Measured
from charllm.core.evaluation.five_questions import FOLLOW_UP
from charllm.core.evaluation.scoring_replies import Judged
from charllm.core.judging.score import VERSION
from charllm.core.statistics import at_the_edge

MEASURED = "measured"
"""The judge's name of figures that no judge has given."""


@dataclass(frozen=True)
class Column:
    """One criterion by one ruler, its scale, and the row of each exchange that has a verdict.

    ``gated`` rows have the lowest value; rows without a score are unscored.
    """

    criterion: Key
    ruler: Ruler
    scale: tuple[float, float]
    rows: Mapping[str, Scored]

    @property
    def measured(self) -> bool:
        """Whether a rule gave it, not a judge."""
        return self.ruler.judge == MEASURED


@dataclass(frozen=True)
class Figure:
    """A column's table for one part: means, n, unscored, gated and paired differences."""

    criterion: Key
    part: Part
    scale: tuple[float, float]
    comparison: Comparison


@dataclass(frozen=True)
class Drifted:
    """One variant's drift in one column."""

    criterion: Key
    ruler: Ruler
    variant: str
    drift: Drift


def judged_columns(exchanges: Sequence[Exchange], judged: Iterable[Judged]) -> list[Column]:
    """A column a judge with a criterion's rubric. Exchanges not judged yet have no row; those
    without a reply are unscored."""
    by_rubric = {one.rubric: one.key for one in CRITERIA.values()}
    columns = []
    for one in judged:
        key = by_rubric.get(one.ruler.rubric)
        if key is None:
            continue
        verdicts = _verdicts(one)
        rows = {
            exchange.id: _row(exchange, one.ruler, *verdicts.get(exchange.id, (None, False)))
            for exchange in exchanges
            if tells(key, exchange) and (exchange.id in verdicts or exchange.failed)
        }
        low, high = one.scale
        columns.append(Column(key, one.ruler, (float(low), float(high)), rows))
    return columns


def measured_columns(exchanges: Sequence[Exchange], measured: Iterable[Measured]) -> list[Column]:
    """A column a measure; exchanges that a measure can say nothing of have no row."""
    known = {one.id: one for one in measured}
    columns = []
    for key, measure in MEASURES.items():
        ruler = Ruler(MEASURED, key, VERSION)
        rows = {}
        for exchange in exchanges:
            one = known.get(exchange.id)
            if one is not None and one.values[key] is not None:
                rows[exchange.id] = _row(exchange, ruler, one.values[key], bool(one.gate))
        columns.append(Column(measure.near, ruler, (0.0, 1.0), rows))
    return columns


def figures(
    columns: Iterable[Column], exchanges: Sequence[Exchange], seed: int = 0
) -> list[Figure]:
    """A table for each column and part that has rows, in the order of the columns."""
    part_of = {one.id: one.part for one in exchanges}
    found = []
    parts: tuple[Part, ...] = ("single", "talk")
    for part in parts:
        for column in columns:
            rows = [row for id, row in column.rows.items() if part_of[id] == part]
            if rows:
                comparison = compare(rows, seed)
                if column.measured:
                    comparison = _at_the_edge(comparison, rows)
                found.append(Figure(column.criterion, part, column.scale, comparison))
    return found


def drifts(
    columns: Iterable[Column], exchanges: Sequence[Exchange], seed: int = 0
) -> list[Drifted]:
    """Every variant's drift in every column, over the interviews' scored turns."""
    at = {one.id: one for one in exchanges if one.part == "talk"}
    found = []
    for column in columns:
        scores: dict[str, list[TurnScore]] = {}
        for id, row in column.rows.items():
            if id in at and row.score is not None:
                follow_up = FOLLOW_UP in at[id].tags
                one = TurnScore(at[id].unit, at[id].turn, row.score, follow_up)
                scores.setdefault(row.variant, []).append(one)
        for variant, of_it in scores.items():
            drift = drift_of(of_it, seed, shares=column.measured)
            found.append(Drifted(column.criterion, column.ruler, variant, drift))
    return found


def _at_the_edge(comparison: Comparison, rows: Sequence[Scored]) -> Comparison:
    """Means of measures that are all 0 or all 1 with Wilson's interval: a bootstrap knows no other
    value and would be certain."""
    summaries = []
    for one in comparison.summaries:
        units = {r.cluster for r in rows if r.variant == one.variant and r.score is not None}
        summaries.append(replace(one, mean=at_the_edge(one.mean, len(units))))
    return replace(comparison, summaries=tuple(summaries))


def _verdicts(judged: Judged) -> dict[str, tuple[float | None, bool]]:
    """``{exchange: (mean of its samples or None, gated)}``."""
    scores: dict[str, dict[int, float | None]] = {}
    gated: set[str] = set()
    for record in judged.records:
        scores.setdefault(record.item, {})[record.sample] = record.score
        if record.gate:
            gated.add(record.item)
    found = {}
    for item, samples in scores.items():
        given = [score for score in samples.values() if score is not None]
        found[item] = (sum(given) / len(given) if given else None, item in gated)
    return found


def _row(exchange: Exchange, ruler: Ruler, score: float | None, gated: bool) -> Scored:
    return Scored(
        variant=exchange.variant,
        query=exchange.place,
        score=score,
        ruler=ruler,
        gated=gated,
        cluster=exchange.unit,
    )
