"""Several values with intervals and p values from the same resamples, and Holm's correction.

A p value here is that of the interval: it is below .05 exactly where the 95 % interval leaves 0
out, so a table never says one thing in two ways.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from charllm.core.statistics import LEAST_CLUSTERS, RESAMPLES, Interval, bootstrap_many

if TYPE_CHECKING:
    from charllm.core.weighted import Array, Statistic

LEAST_BEYOND = 10
"""Resamples on the other side of 0 from which their number alone gives the p value."""


class Drawn:
    """A statistic that remembers what it was in every resample."""

    def __init__(self, statistic: Statistic) -> None:
        self._statistic = statistic
        self._kept: list[Array] = []

    def __call__(self, rows: Array) -> Array:
        values = self._statistic(rows)
        self._kept.append(values)
        return values

    @property
    def values(self) -> Array:
        """A row for each resample; ``bootstrap_many`` asks for the data as they are first."""
        import numpy as np

        return np.concatenate(self._kept[1:])


def intervals_with_p(
    statistics: Statistic, clusters: Sequence[Hashable], seed: int = 0, n: int = RESAMPLES
) -> list[tuple[Interval, float | None]]:
    """Each value's 95 % interval over clusters, and the p value of its being 0.

    None where there is no interval. ``statistics`` gives a column for each value.
    """
    drawn = Drawn(statistics)
    found = bootstrap_many(drawn, clusters, seed, n)
    groups = len(set(clusters))
    if groups < LEAST_CLUSTERS:
        return [(interval, None) for interval in found]
    values = drawn.values
    return [
        (interval, None if interval.low is None else two_sided(values[:, i], groups))
        for i, interval in enumerate(found)
    ]


def two_sided(drawn: Array, groups: int) -> float:
    """The level at which the interval of ``drawn`` (over ``groups`` clusters) would touch 0.

    The inverse of the expanded percentile interval of ``core.statistics``. Where fewer than
    ``LEAST_BEYOND`` resamples lie beyond 0, their tail is taken to be a normal one: else no p value
    could survive a correction for many pairs.
    """
    import numpy as np
    from scipy.special import ndtri, stdtr

    known = drawn[np.isfinite(drawn)]
    below = float((known < 0).mean() + (known == 0).mean() / 2)
    tail = min(below, 1 - below)
    least = LEAST_BEYOND / len(known)
    z = float(ndtri(max(tail, least)))
    if tail < least and (spread := float(known.std())) > 0:
        z = min(z, -abs(float(known.mean())) / spread)
    t = z / math.sqrt(groups / (groups - 1))
    return min(1.0, 2 * float(stdtr(groups - 1, t)))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted p values (Holm 1979): below .05 with at most a 5 % chance of any false one.

    None stays None and is no member of the family.
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, i) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        adjusted[i] = highest
    return adjusted
