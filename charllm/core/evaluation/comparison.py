"""Variants by one judge and rubric: means, paired differences, and where they differ most.

A query counts once, however often it was repeated: its repeats are averaged first, and what is
resampled is the query. Unscored replies are counted and left out; gated ones have the rubric's
lowest level and are counted too. Scores of two judges never enter one mean (``two_judges``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

from charllm.core.evaluation.drawing import holm, intervals_with_p
from charllm.core.statistics import Interval, mean_interval
from charllm.data.errors import Text

if TYPE_CHECKING:
    from charllm.core.weighted import Array

RESAMPLES = 10_000
"""More than for a single interval: p values are corrected for many pairs."""
CELLS = 50_000_000
"""Queries times resamples, beyond which there are fewer resamples."""

NO_SCORES = Text("no reply has a score", "点数のある返答がありません")
NOTHING_SHARED = Text(
    "no query has scores of both", "両方に点数のあるクエリがないため比べられません"
)


class Ruler(NamedTuple):
    """What a score was measured with. Scores of different rulers are different things."""

    judge: str
    rubric: str
    version: str = ""


@dataclass(frozen=True)
class Scored:
    """One judged reply. ``score`` None: unscored. ``gated``: the gate stopped it.

    ``repeat`` counts the replies to one query; ``cluster`` is what hangs together ("" = the query).
    """

    variant: str
    query: str
    score: float | None
    ruler: Ruler
    gated: bool = False
    repeat: int = 0
    cluster: str = ""


@dataclass(frozen=True)
class Summary:
    """One variant. ``mean`` with its 95 % interval over queries; ``queries`` have a score."""

    variant: str
    mean: Interval
    queries: int
    replies: int
    scored: int
    unscored: int
    gated: int


@dataclass(frozen=True)
class Difference:
    """``a - b`` on the queries that both have scores for; above 0 where ``a`` is better.

    ``p_holm`` is corrected for all differences of the table.
    """

    a: str
    b: str
    difference: Interval
    queries: int
    p: float | None
    p_holm: float | None


@dataclass(frozen=True)
class Comparison:
    """Variants in the order of the rows, and every two of them."""

    ruler: Ruler
    summaries: tuple[Summary, ...]
    differences: tuple[Difference, ...]
    seed: int


class QueryDifference(NamedTuple):
    """Mean scores of one query; ``difference`` is ``a - b``."""

    query: str
    a: float
    b: float
    difference: float


def compare(rows: Sequence[Scored], seed: int = 0) -> Comparison:
    """The table of one ruler. ``ValueError`` where rows of several are mixed, or there are none."""
    rulers = {row.ruler for row in rows}
    if len(rulers) != 1:
        raise ValueError(f"one judge and rubric a comparison, not {sorted(rulers)}")
    means = query_means(rows)
    clusters = {row.query: row.cluster or row.query for row in rows}
    by_variant: dict[str, list[Scored]] = defaultdict(list)
    for row in rows:
        by_variant[row.variant].append(row)
    return Comparison(
        ruler=rulers.pop(),
        summaries=tuple(
            _summary(variant, of_it, means[variant], clusters, seed)
            for variant, of_it in by_variant.items()
        ),
        differences=_differences(means, clusters, seed),
        seed=seed,
    )


def compare_each(rows: Iterable[Scored], seed: int = 0) -> dict[Ruler, Comparison]:
    """A table for each judge and rubric."""
    found: dict[Ruler, list[Scored]] = defaultdict(list)
    for row in rows:
        found[row.ruler].append(row)
    return {ruler: compare(of_it, seed) for ruler, of_it in found.items()}


def query_means(rows: Iterable[Scored]) -> dict[str, dict[str, float]]:
    """``{variant: {query: mean of its repeats}}``; queries without any score are left out."""
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        of_variant = scores[row.variant]
        if row.score is not None:
            of_variant[row.query].append(row.score)
    return {
        variant: {query: sum(got) / len(got) for query, got in queries.items()}
        for variant, queries in scores.items()
    }


def by_query(rows: Sequence[Scored], a: str, b: str) -> list[QueryDifference]:
    """The queries that both have scores for, the largest difference first, either way."""
    means = query_means(rows)
    one, other = means.get(a, {}), means.get(b, {})
    found = [QueryDifference(q, x, other[q], x - other[q]) for q, x in one.items() if q in other]
    return sorted(found, key=lambda row: -abs(row.difference))


def _summary(
    variant: str,
    rows: Sequence[Scored],
    means: Mapping[str, float],
    clusters: Mapping[str, str],
    seed: int,
) -> Summary:
    mean = mean_interval(list(means.values()), [clusters[query] for query in means], seed)
    scored = sum(row.score is not None for row in rows)
    if not means:
        mean = Interval(None, None, None, 0, NO_SCORES)
    return Summary(
        variant=variant,
        mean=mean,
        queries=len(means),
        replies=len(rows),
        scored=scored,
        unscored=len(rows) - scored,
        gated=sum(row.gated for row in rows),
    )


def _differences(
    means: Mapping[str, Mapping[str, float]], clusters: Mapping[str, str], seed: int
) -> tuple[Difference, ...]:
    """All pairs; those with the same queries are drawn together, in the same resamples."""
    together: dict[tuple[str, ...], list[tuple[str, str]]] = defaultdict(list)
    for a, b in combinations(means, 2):
        together[tuple(query for query in means[a] if query in means[b])].append((a, b))
    found: dict[tuple[str, str], tuple[Interval, float | None]] = {}
    for queries, pairs in together.items():
        columns = [[means[a][query] - means[b][query] for query in queries] for a, b in pairs]
        told = _paired(columns, [clusters[query] for query in queries], seed)
        found.update(zip(pairs, told, strict=True))
    pairs = list(combinations(means, 2))
    corrected = holm([found[pair][1] for pair in pairs])
    return tuple(
        Difference(a, b, found[a, b][0], found[a, b][0].n, found[a, b][1], adjusted)
        for (a, b), adjusted in zip(pairs, corrected, strict=True)
    )


def _paired(
    columns: Sequence[Sequence[float]], clusters: Sequence[Hashable], seed: int
) -> list[tuple[Interval, float | None]]:
    """The mean of each column of differences, a row a query."""
    import numpy as np

    if not clusters:
        return [(Interval(None, None, None, 0, NOTHING_SHARED), None) for _ in columns]
    values = np.array(columns, dtype=float).T

    def means(rows: Array) -> Array:
        return (rows @ values) / rows.sum(axis=1, keepdims=True)

    n = max(2000, min(RESAMPLES, CELLS // len(clusters)))
    return intervals_with_p(means, clusters, seed, n)
