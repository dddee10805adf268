"""Agreement and differences with honest intervals: kappa, Spearman, bias, cluster bootstrap.

Scores of one query hang together, so what is resampled is always the cluster (the query), never
the single judgement. Where nothing can be said there is no number but a reason: never a NaN.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from charllm.core.weighted import Weights, kappa_of, mean_of, spearman_of
from charllm.data.errors import Text

if TYPE_CHECKING:
    from charllm.core.weighted import Array, Statistic

RESAMPLES = 2000
LEAST_CLUSTERS = 3
DEFINED = 0.9
"""The share of resamples in which a statistic must be defined before an interval is given."""
CELLS = 1_000_000
"""Weights held in memory at once (8 MB)."""
HALF_WIDTH = 0.15
"""Half an interval's width from which .4 and .7 can be told apart."""
PLANNED = 80
"""Labels for that half-width of kappa when nothing is known yet (simulated at a kappa of .57)."""
FEWEST = 30
"""From fewer labels no interval of kappa is believed, however narrow it comes out."""

TOO_FEW = Text(
    f"fewer than {LEAST_CLUSTERS} different questions",
    f"質問が {LEAST_CLUSTERS} 種類に満たないため計算できません",
)
ONE_LEVEL = Text(
    "undefined: all scores are the same, on one side or on both",
    "片方または両方のスコアがすべて同じため、計算できません",
)


@dataclass(frozen=True)
class Interval:
    """``value`` with its interval; what cannot be told is None, and ``reason`` says why.

    ``n`` counts the rows it was made from.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    reason: Text | None = None

    @property
    def half_width(self) -> float | None:
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "reason": self.reason.as_json() if self.reason else None}


# Single values


def weighted_kappa(
    a: Sequence[int], b: Sequence[int], levels: Sequence[int], weights: Weights = "quadratic"
) -> float | None:
    """In [-1, 1]; None where it is undefined (see ``kappa_of``)."""
    return _value(kappa_of(a, b, levels, weights), len(a))


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """In [-1, 1]; None for fewer than two rows or where a side is constant."""
    return _value(spearman_of(a, b), len(a))


def bias(a: Sequence[float], b: Sequence[float]) -> float | None:
    """The mean of ``b - a``: above 0 where ``b`` is the more generous. None without rows."""
    return _value(mean_of([y - x for x, y in zip(a, b, strict=True)]), len(a))


def mean_absolute_error(a: Sequence[float], b: Sequence[float]) -> float | None:
    """The mean of ``|a - b|``; None without rows."""
    return _value(mean_of([abs(x - y) for x, y in zip(a, b, strict=True)]), len(a))


def confusion(
    a: Sequence[int], b: Sequence[int], levels: Sequence[int]
) -> tuple[tuple[int, ...], ...]:
    """How often each pair of levels occurs: a row for each level of ``a``, a column of ``b``."""
    place = {level: number for number, level in enumerate(levels)}
    table = [[0] * len(levels) for _ in levels]
    for x, y in zip(a, b, strict=True):
        table[place[x]][place[y]] += 1
    return tuple(map(tuple, table))


def wilson(share: float, n: float, z: float = 1.959964) -> tuple[float, float]:
    """The score interval of a share (Wilson 1927), within [0, 1]; ``n`` may be an effective one."""
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


# Intervals


def bootstrap(
    statistic: Statistic,
    clusters: Sequence[Hashable],
    seed: int = 0,
    n: int = RESAMPLES,
    level: float = 0.95,
) -> Interval:
    """The statistic of all rows, and its interval over resampled ``clusters`` (one a row).

    Percentiles, widened for few clusters as Student's t is (Hesterberg 2015, "expanded
    percentile"). Fewer than three clusters, or a statistic that is undefined in more than a tenth
    of the resamples, has no interval.
    """
    return bootstrap_many(lambda rows: statistic(rows)[:, None], clusters, seed, n, level)[0]


def bootstrap_many(
    statistics: Statistic,
    clusters: Sequence[Hashable],
    seed: int = 0,
    n: int = RESAMPLES,
    level: float = 0.95,
) -> list[Interval]:
    """``bootstrap`` for every value of one statistic at once, in the same resamples."""
    import numpy as np

    count = len(clusters)
    with np.errstate(invalid="ignore", divide="ignore"):  # without rows every value is NaN
        values = statistics(np.ones((1, count)))[0]
    groups = len(set(clusters))
    if groups < LEAST_CLUSTERS:
        return [_unsure(value, count, TOO_FEW) for value in values]
    drawn = np.concatenate([statistics(rows) for rows in resamples(clusters, seed, n)])
    tails = _tails(groups, level)
    return [_interval(values[i], drawn[:, i], tails, count) for i in range(len(values))]


def resamples(clusters: Sequence[Hashable], seed: int, n: int = RESAMPLES) -> Iterator[Array]:
    """How often each row is drawn when clusters are drawn with replacement; many at a time."""
    import numpy as np

    number: dict[Hashable, int] = {}
    of_row = np.array([number.setdefault(cluster, len(number)) for cluster in clusters])
    groups, rng, left = len(number), np.random.default_rng(seed), n
    while left > 0:
        size = min(left, max(1, CELLS // max(len(clusters), 1)))
        drawn = rng.integers(0, groups, (size, groups)) + groups * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * groups).reshape(size, groups)
        yield counts[:, of_row].astype(float)
        left -= size


def mean_interval(scores: Sequence[float], clusters: Sequence[Hashable], seed: int = 0) -> Interval:
    """The mean with its 95 % interval over clusters."""
    return bootstrap(mean_of(scores), clusters, seed)


def share_interval(hits: Sequence[bool], clusters: Sequence[Hashable], seed: int = 0) -> Interval:
    """A share in [0, 1]; where all or none are hits, Wilson's interval with n = clusters.

    There a bootstrap knows no other value and would be certain.
    """
    found = bootstrap(mean_of([float(hit) for hit in hits]), clusters, seed)
    return at_the_edge(found, len(set(clusters)))


def at_the_edge(found: Interval, effective: float) -> Interval:
    """The interval of a share, Wilson's with ``effective`` rows where the share is 0 or 1."""
    if found.value not in (0.0, 1.0) or found.low is None or effective <= 0:
        return found
    low, high = wilson(found.value, effective)
    return Interval(found.value, low, high, found.n)


def paired_difference(
    a: Sequence[float], b: Sequence[float], clusters: Sequence[Hashable], seed: int = 0
) -> Interval:
    """The mean of ``a - b``, row by row, with its 95 % interval over clusters."""
    return bootstrap(mean_of([x - y for x, y in zip(a, b, strict=True)]), clusters, seed)


def labels_needed(
    kappa: Interval, half_width: float = HALF_WIDTH, planned: int = PLANNED, least: int = FEWEST
) -> int:
    """How many more labels until kappa's interval is no wider than ``± half_width``; 0 if it is.

    A width shrinks with the root of the number of labels, provided that new ones bring new
    questions at the same rate. Before there is an interval to go by, ``planned`` labels are
    aimed at, and never fewer than ``least``.
    """
    now = kappa.half_width
    if now is None or kappa.n < least:
        return max(0, planned - kappa.n)
    # Half a label of slack: a width that is exactly the one asked for needs none.
    return max(0, math.ceil(kappa.n * (now / half_width) ** 2 - 0.5) - kappa.n)


def _interval(value: float, drawn: Array, tails: tuple[float, float], n: int) -> Interval:
    import numpy as np

    defined = drawn[np.isfinite(drawn)]
    if not math.isfinite(value) or len(defined) < DEFINED * len(drawn):
        return _unsure(value, n, ONE_LEVEL)
    low, high = np.quantile(defined, tails)
    return Interval(float(value), float(low), float(high), n)


def _unsure(value: float, n: int, reason: Text) -> Interval:
    return Interval(float(value) if math.isfinite(value) else None, None, None, n, reason)


def _tails(groups: int, level: float) -> tuple[float, float]:
    """The two quantiles to read: further out than the level's own where groups are few."""
    from scipy.special import ndtr, stdtrit

    t = stdtrit(groups - 1, (1 - level) / 2)
    low = float(ndtr(math.sqrt(groups / (groups - 1)) * t))
    return low, 1 - low


def _value(statistic: Statistic, n: int) -> float | None:
    import numpy as np

    value = float(statistic(np.ones((1, n)))[0]) if n else math.nan
    return value if math.isfinite(value) else None
