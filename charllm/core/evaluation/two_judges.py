"""Two judges or more on the same replies: side by side, with severity and agreement; no average.

Two judges that agree may both be wrong: only hand scores tell who is right
(``judging.agreement``). How to carry old scores over to a new judge is ``bridging``'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from charllm.core.evaluation.comparison import Comparison, Ruler, Scored, compare_each
from charllm.core.judging.agreement import to_level
from charllm.core.statistics import Interval, bootstrap, mean_interval
from charllm.core.weighted import kappa_of, spearman_of

RESAMPLES = 1000


@dataclass(frozen=True)
class TwoJudges:
    """Two rulers on ``n`` replies that both scored, intervals over queries.

    ``severity``: mean of the other's score minus the one's; above 0 the other is more generous.
    ``kappa`` is quadratic on whole levels. Of ``pairs`` of variants, ``same_order`` are put in the
    same order by both, by their means.
    """

    one: Ruler
    other: Ruler
    n: int
    severity: Interval
    kappa: Interval
    spearman: Interval
    same_order: int
    pairs: int


@dataclass(frozen=True)
class SideBySide:
    """Each judge's own table, and every two judges that have replies in common."""

    tables: Mapping[Ruler, Comparison]
    pairs: tuple[TwoJudges, ...]


def side_by_side(rows: Sequence[Scored], scale: tuple[int, int], seed: int = 0) -> SideBySide:
    """``scale``: lowest and highest level, the same for all judges of ``rows``."""
    tables = compare_each(rows, seed)
    scores: dict[Ruler, dict[tuple[str, str, int], float]] = {ruler: {} for ruler in tables}
    cluster: dict[tuple[str, str, int], str] = {}
    for row in rows:
        if row.score is not None:
            reply = (row.variant, row.query, row.repeat)
            scores[row.ruler][reply] = row.score
            cluster[reply] = row.cluster or row.query
    found = []
    for one, other in combinations(tables, 2):
        shared = [reply for reply in scores[one] if reply in scores[other]]
        if shared:
            a = [scores[one][reply] for reply in shared]
            b = [scores[other][reply] for reply in shared]
            same, pairs = _orders(tables[one], tables[other])
            measures = _measures(a, b, [cluster[reply] for reply in shared], scale, seed)
            found.append(TwoJudges(one, other, len(shared), *measures, same, pairs))
    return SideBySide(tables, tuple(found))


def _measures(
    a: list[float], b: list[float], clusters: list[str], scale: tuple[int, int], seed: int
) -> tuple[Interval, Interval, Interval]:
    """Severity, kappa and rank correlation."""
    levels = range(scale[0], scale[1] + 1)
    rounded = [to_level(x, scale) for x in a], [to_level(x, scale) for x in b]
    return (
        mean_interval([y - x for x, y in zip(a, b, strict=True)], clusters, seed),
        bootstrap(kappa_of(*rounded, levels), clusters, seed, RESAMPLES),
        bootstrap(spearman_of(a, b), clusters, seed, RESAMPLES),
    )


def _orders(one: Comparison, other: Comparison) -> tuple[int, int]:
    """``(pairs of variants in the same order, pairs)``; equal means are an order too."""
    first = {summary.variant: summary.mean.value for summary in one.summaries}
    second = {summary.variant: summary.mean.value for summary in other.summaries}
    same = pairs = 0
    for a, b in combinations(first, 2):
        x, y, u, v = first[a], first[b], second.get(a), second.get(b)
        if x is not None and y is not None and u is not None and v is not None:
            pairs += 1
            same += (x > y) - (x < y) == (u > v) - (u < v)
    return same, pairs
