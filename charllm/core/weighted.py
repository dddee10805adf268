"""Statistics as functions of the rows' weights, so that all resamples are one matrix product.

A ``Statistic`` takes weights, a row for each resample and a column for each judgement, and gives
the value of each resample, NaN where it is undefined there. ``core.statistics`` makes numbers and
intervals of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
    Statistic = Callable[[Array], Array]

Weights = Literal["quadratic", "linear", "none"]


def kappa_of(
    a: Sequence[int], b: Sequence[int], levels: Sequence[int], weights: Weights = "quadratic"
) -> Statistic:
    """Cohen's weighted kappa (Cohen 1968): 1 - sum(w * observed) / sum(w * expected by chance).

    ``w`` is the squared (or plain) distance between two levels' places in ``levels``. Undefined
    where a side has one level only: 0 would look as if something had been measured.
    ``ValueError`` for a score off the levels.
    """
    import numpy as np

    place = {level: number for number, level in enumerate(levels)}
    if not {*a, *b} <= place.keys():
        raise ValueError(f"scores {sorted({*a, *b} - place.keys())} are not among {list(levels)}")
    if min(len({*a}), len({*b})) < 2:
        return mean_of([math.nan] * len(a))
    k = len(levels)
    cells = np.zeros((len(a), k * k))
    cells[np.arange(len(a)), [place[x] * k + place[y] for x, y in zip(a, b, strict=True)]] = 1.0
    away = np.abs(np.subtract.outer(np.arange(k), np.arange(k))).astype(float)
    cost = {"quadratic": away**2, "linear": away, "none": (away > 0).astype(float)}[weights]

    def kappa(rows: Array) -> Array:
        seen = (rows @ cells).reshape(-1, k, k)
        seen = seen / rows.sum(axis=1)[:, None, None]
        chance = seen.sum(axis=2)[:, :, None] * seen.sum(axis=1)[:, None, :]
        observed, expected = (seen * cost).sum(axis=(1, 2)), (chance * cost).sum(axis=(1, 2))
        return _ratio(expected - observed, expected)

    return kappa


def spearman_of(a: Sequence[float], b: Sequence[float]) -> Statistic:
    """Spearman's rank correlation: Pearson's of the mid-ranks. Undefined where a side is constant.

    Ranks are made anew in each resample, as if its rows were really repeated.
    """
    rank_a, rank_b = _ranks_of(a), _ranks_of(b)
    return lambda rows: _correlation(rank_a(rows), rank_b(rows), rows)


def partial_spearman_of(
    a: Sequence[float], b: Sequence[float], given: Sequence[float]
) -> Statistic:
    """Rank correlation of ``a`` and ``b`` with that of both with ``given`` taken out.

    (r_ab - r_ag r_bg) / sqrt((1 - r_ag^2) (1 - r_bg^2)) on mid-ranks.
    """
    import numpy as np

    ranks = _ranks_of(a), _ranks_of(b), _ranks_of(given)

    def partial(rows: Array) -> Array:
        of_a, of_b, of_g = (rank(rows) for rank in ranks)
        ab, ag, bg = (
            _correlation(x, y, rows) for x, y in ((of_a, of_b), (of_a, of_g), (of_b, of_g))
        )
        rest = np.clip((1 - ag**2) * (1 - bg**2), 0.0, None)
        return _ratio(ab - ag * bg, np.sqrt(np.where(rest > 1e-12, rest, 0.0)))

    return partial


def mean_of(values: Sequence[float]) -> Statistic:
    import numpy as np

    column = np.asarray(values, dtype=float)
    return lambda rows: (rows @ column) / rows.sum(axis=1)


def difference_of(a: Statistic, b: Statistic) -> Statistic:
    """``a - b`` in the same resamples."""
    return lambda rows: a(rows) - b(rows)


def _ratio(above: Array, below: Array) -> Array:
    """``above / below``, NaN where ``below`` is 0."""
    import numpy as np

    undefined = np.full(np.shape(above), np.nan)
    return np.divide(above, below, out=undefined, where=np.abs(below) > 1e-12)


def _ranks_of(values: Sequence[float]) -> Statistic:
    """Each row's mid-rank among all rows, each row counted as often as its weight says."""
    import numpy as np

    column = np.asarray(values, dtype=float)
    order, sorted_ = np.argsort(column), np.sort(column)
    first = np.searchsorted(sorted_, column, "left")
    behind = np.searchsorted(sorted_, column, "right")

    def ranks(rows: Array) -> Array:
        below = np.zeros((len(rows), len(column) + 1))
        np.cumsum(rows[:, order], axis=1, out=below[:, 1:])
        return (below[:, first] + below[:, behind]) / 2

    return ranks


def _correlation(a: Array, b: Array, rows: Array) -> Array:
    """Pearson's, weighted, for each resample."""
    import numpy as np

    total = rows.sum(axis=1, keepdims=True)
    a = a - (a * rows).sum(axis=1, keepdims=True) / total
    b = b - (b * rows).sum(axis=1, keepdims=True) / total
    var_a, var_b = (a * a * rows).sum(axis=1), (b * b * rows).sum(axis=1)
    # A constant side leaves rounding errors, not 0.
    scale = np.where((var_a > 1e-9) & (var_b > 1e-9), np.sqrt(var_a * var_b), 0.0)
    return np.clip(_ratio((a * b * rows).sum(axis=1), scale), -1.0, 1.0)
