"""Ordinal regression with proportional odds: levels from a few measured parts.

log odds(level <= k) = cut_k - sum(weight * part): McCullagh 1980. Parts are standardised, weights
are held back by an L2 penalty, and a missing part counts as the average one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from charllm.data.config import Config

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

PENALTY = 1.0
"""Half of it times the squared weights is added to the log loss (a normal prior of variance 1)."""


class OrdinalModel(Config):
    """``levels`` are those seen in fitting, in order; ``cuts`` lie between them, rising.

    ``means`` and ``scales`` standardise the parts, ``weights`` are of the standardised ones.
    """

    levels: tuple[int, ...]
    cuts: tuple[float, ...]
    weights: tuple[float, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]

    def probabilities(self, parts: Sequence[float | None]) -> list[float]:
        """Of each level, adding up to 1."""
        eta = sum(
            weight * (part - mean) / scale
            for weight, part, mean, scale in zip(
                self.weights, parts, self.means, self.scales, strict=True
            )
            if part is not None
        )
        below = [0.0, *(_sigmoid(cut - eta) for cut in self.cuts), 1.0]
        return [high - low for low, high in pairwise(below)]

    def expected(self, parts: Sequence[float | None]) -> float:
        """The mean level; never beyond the lowest and highest level seen in fitting."""
        pairs = zip(self.levels, self.probabilities(parts), strict=True)
        return min(max(sum(level * p for level, p in pairs), self.levels[0]), self.levels[-1])


def fit_ordinal(
    rows: Sequence[Sequence[float | None]], levels: Sequence[int], penalty: float = PENALTY
) -> OrdinalModel:
    """Fit by penalised maximum likelihood. At least one row; one level alone needs no weights."""
    import numpy as np

    values = np.array([[math.nan if x is None else x for x in row] for row in rows], dtype=float)
    means, scales = _standard(values)
    features = np.nan_to_num((values - means) / scales)
    seen = sorted(set(levels))
    place = np.array([seen.index(level) for level in levels])
    cuts, weights = _minimised(features, place, len(seen), penalty)
    return OrdinalModel(
        levels=tuple(seen),
        cuts=tuple(map(float, cuts)),
        weights=tuple(map(float, weights)),
        means=tuple(map(float, means)),
        scales=tuple(map(float, scales)),
    )


def _standard(values: Array) -> tuple[Array, Array]:
    """Mean and deviation of each column where it is known; 0 and 1 where it never is."""
    import numpy as np

    known = np.isfinite(values)
    count = np.maximum(known.sum(axis=0), 1)
    means = np.where(known, values, 0.0).sum(axis=0) / count
    spread = np.sqrt((np.where(known, values - means, 0.0) ** 2).sum(axis=0) / count)
    return means, np.where(spread > 1e-9, spread, 1.0)


def _minimised(features: Array, place: Array, k: int, penalty: float) -> tuple[Array, Array]:
    """Cuts and weights. The cuts are a first one and the logarithms of the steps between them."""
    import numpy as np
    from scipy.optimize import minimize

    width = features.shape[1]
    if k == 1:
        return np.zeros(0), np.zeros(width)
    share = np.cumsum(np.bincount(place, minlength=k))[:-1] / len(place)
    start = np.log(share / (1 - share))
    begin = np.concatenate([start[:1], np.log(np.diff(start)), np.zeros(width)])
    found = minimize(_loss, begin, (features, place, k, penalty), method="L-BFGS-B", jac=True).x
    return _cuts(found[: k - 1]), found[k - 1 :]


def _cuts(steps: Array) -> Array:
    import numpy as np

    return np.cumsum(np.concatenate([steps[:1], np.exp(steps[1:])]))


def _loss(at: Array, features: Array, place: Array, k: int, penalty: float) -> tuple[float, Array]:
    """The penalised log loss and its gradient."""
    import numpy as np
    from scipy.special import expit

    steps, weights = at[: k - 1], at[k - 1 :]
    edges = np.concatenate([[-np.inf], _cuts(steps), [np.inf]])
    eta = features @ weights
    high, low = expit(edges[place + 1] - eta), expit(edges[place] - eta)
    p = np.maximum(high - low, 1e-12)
    slope_high, slope_low = high * (1 - high) / p, low * (1 - low) / p
    to_weights = features.T @ (slope_high - slope_low) + penalty * weights
    to_edge = np.bincount(place, slope_low, k) - np.append(
        0.0, np.bincount(place, slope_high, k)[:-1]
    )
    to_cuts = to_edge[1:]
    after = np.cumsum(to_cuts[::-1])[::-1]
    to_steps = after * np.concatenate([[1.0], np.exp(steps[1:])])
    loss = -np.log(p).sum() + penalty / 2 * (weights**2).sum()
    return float(loss), np.concatenate([to_steps, to_weights])


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
