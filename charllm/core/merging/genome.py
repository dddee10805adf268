"""The space that a search moves in: vectors of numbers, and the coefficients they stand for.

Three parametrisations. ``simplex`` (the default): K - 1 coordinates a group, the plain average at
zero, an orthonormal basis, so that a distance between vectors is one between weights and no parent
has a special place. ``raw``: the study's own, K genes in [0, 1] a group of which the shares are
used, α / (α + β). ``free``: K genes in [0, 1.5] used as they are, for methods whose weights need
not add up to 1. It does not know what a group is, nor how anything is blended.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from charllm.core.merging.coefficients import Coefficients
from charllm.data.errors import UserError

if TYPE_CHECKING:
    import numpy as np

Vector = tuple[float, ...]
Parametrisation = Literal["simplex", "raw", "free"]
Role = Literal["parent", "uniform", "global", "start", "candidate", "mean", "shrunk"]

LINEAR = "linear"
FREE_LIMIT = 1.5
"""The largest free weight: searches over task vectors were seen to go to a sum of 2."""


@dataclass(frozen=True)
class Candidate:
    """One merge to be scored. ``vector`` is the search's own; a baseline has none.

    ``id`` is unique within a search and says what it is; ``parent`` counts from 0. ``origin``
    says who has mixed it where that was not the search itself; nothing else depends on it.
    """

    id: str
    coefficients: Coefficients
    vector: Vector = ()
    generation: int = 0
    role: Role = "candidate"
    parent: int | None = None
    origin: str = ""


@dataclass(frozen=True)
class Extra:
    """One more number of the method, such as a density, in [low, high]; it starts at ``start``."""

    name: str
    low: float
    high: float
    start: float


@dataclass(frozen=True)
class Space:
    """All merges of ``parents`` parents with one weight each in every one of ``groups``.

    ``plain``: how the plain average and each parent as it is are written for the engine; with a
    base to which differences are added, base + Σ share · difference is the same model.
    """

    groups: tuple[str, ...]
    parents: int
    parametrisation: Parametrisation = "simplex"
    method: str = LINEAR
    extras: tuple[Extra, ...] = ()
    plain: str = LINEAR

    def __post_init__(self) -> None:
        if self.parents < 2 or not self.groups:
            raise UserError(
                "A search needs at least two parents and one group of layers.",
                "探索には、2つ以上の親と1つ以上の層グループが必要です。",
            )
        if len(set(self.groups)) != len(self.groups):
            raise UserError(
                f"Two groups have the same name: {', '.join(self.groups)}.",
                f"同じ名前のグループがあります: {', '.join(self.groups)}。",
            )
        for extra in self.extras:
            if not extra.low <= extra.start <= extra.high or extra.low == extra.high:
                raise UserError(
                    f"{extra.name}: the start {extra.start} must lie between "
                    f"{extra.low} and {extra.high}.",
                    f"{extra.name}: 開始値 {extra.start} は {extra.low} と {extra.high} の間で"
                    "なければなりません。",
                )

    @property
    def genes(self) -> int:
        """How many numbers describe one group."""
        return self.parents - (self.parametrisation == "simplex")

    @property
    def size(self) -> int:
        """The length of a vector."""
        return len(self.groups) * self.genes + len(self.extras)

    @property
    def start(self) -> Vector:
        """The plain average, extras at their own start."""
        return self.vector(self.uniform(self.method))

    @property
    def bounds(self) -> tuple[Vector, Vector]:
        """The least and the greatest value of every gene."""
        edge = math.sqrt((self.parents - 1) / self.parents)  # from the middle to a corner
        low, high = {"simplex": (-edge, edge), "raw": (0.0, 1.0), "free": (0.0, FREE_LIMIT)}[
            self.parametrisation
        ]
        count = len(self.groups) * self.genes
        return (
            (*[low] * count, *[0.0] * len(self.extras)),
            (*[high] * count, *[1.0] * len(self.extras)),
        )

    def coefficients(self, vector: Sequence[float]) -> Coefficients:
        """What a vector stands for; ``ValueError`` for one of another length or not finite."""
        if len(vector) != self.size or not all(map(math.isfinite, vector)):
            raise ValueError(f"not a vector of {self.size} numbers: {vector}")
        step = self.genes
        weights = {
            group: self._weights(vector[i * step : (i + 1) * step])
            for i, group in enumerate(self.groups)
        }
        tail = vector[len(self.groups) * step :]
        extra = {
            one.name: one.low + min(1.0, max(0.0, gene)) * (one.high - one.low)
            for one, gene in zip(self.extras, tail, strict=True)
        }
        return Coefficients(self.method, weights, extra)

    def vector(self, coefficients: Coefficients) -> Vector:
        """A vector that stands for these coefficients; their method is not looked at."""
        genes: list[float] = []
        for group in self.groups:
            genes += self._genes(coefficients.weights[group])
        for one in self.extras:
            value = coefficients.extra.get(one.name, one.start)
            genes.append((value - one.low) / (one.high - one.low))
        return tuple(genes)

    def mixture(self, weights: Sequence[float], method: str = LINEAR) -> Coefficients:
        """The same weights in every group, extras at their start."""
        extra = {one.name: one.start for one in self.extras} if method == self.method else {}
        method = self.plain if method == LINEAR else method
        return Coefficients(method, dict.fromkeys(self.groups, tuple(weights)), extra)

    def uniform(self, method: str = LINEAR) -> Coefficients:
        return self.mixture([1 / self.parents] * self.parents, method)

    def only(self, parent: int) -> Coefficients:
        """One parent as it is."""
        return self.mixture([float(k == parent) for k in range(self.parents)])

    def shrunk(self, coefficients: Coefficients, factor: float) -> Coefficients:
        """Moved towards the start: its weights at ``factor`` 0, unchanged at 1."""
        middle = 1 / self.parents
        weights = {
            group: tuple(middle + factor * (w - middle) for w in row)
            for group, row in coefficients.weights.items()
        }
        extra = {
            one.name: one.start + factor * (coefficients.extra[one.name] - one.start)
            for one in self.extras
        }
        return Coefficients(coefficients.method, weights, extra)

    def distance(self, a: Coefficients, b: Coefficients) -> float:
        """The part of the mixture that is another parent's, averaged over groups; 0 … 1.

        (Total variation; extras are not counted.)
        """
        rows = [(a.weights[group], b.weights[group]) for group in self.groups]
        parts = [sum(abs(x - y) for x, y in zip(p, q, strict=True)) / 2 for p, q in rows]
        return sum(parts) / len(parts)

    def random(self, rng: np.random.Generator) -> Vector:
        """Evenly from all mixtures (free weights: from all their values)."""
        if self.parametrisation == "free":
            low, high = self.bounds
            return tuple(float(x) for x in rng.uniform(low, high))
        rows = rng.dirichlet([1.0] * self.parents, len(self.groups))
        weights = {g: tuple(map(float, row)) for g, row in zip(self.groups, rows, strict=True)}
        extra = {one.name: float(rng.uniform(one.low, one.high)) for one in self.extras}
        return self.vector(Coefficients(self.method, weights, extra))

    def as_json(self) -> dict[str, Any]:
        """What makes two spaces the same."""
        return {
            "groups": list(self.groups),
            "parents": self.parents,
            "parametrisation": self.parametrisation,
            "method": self.method,
            "extras": [[one.name, one.low, one.high, one.start] for one in self.extras],
        }

    def _weights(self, genes: Sequence[float]) -> tuple[float, ...]:
        if self.parametrisation == "simplex":
            return onto_simplex(_from_plane(genes))
        kept = [max(0.0, gene) for gene in genes]
        total = sum(kept)
        if self.parametrisation == "free":
            return tuple(kept)
        return tuple(x / total for x in kept) if total > 0 else (1 / self.parents,) * self.parents

    def _genes(self, weights: Sequence[float]) -> Iterable[float]:
        if self.parametrisation == "simplex":
            return _to_plane(weights)
        if self.parametrisation == "free":
            return weights
        # Half of the range for the plain average; less where a weight would leave it.
        scale = min(self.parents / 2, 1 / max(weights))
        return [weight * scale for weight in weights]


def onto_simplex(point: Sequence[float]) -> tuple[float, ...]:
    """The nearest weights that are not negative and add up to 1 (Duchi et al. 2008, fig. 1)."""
    total, shift = 0.0, 0.0
    for count, value in enumerate(sorted(point, reverse=True), 1):
        total += value
        if value - (total - 1) / count > 0:
            shift = (total - 1) / count
    return tuple(max(0.0, value - shift) for value in point)


def _from_plane(genes: Sequence[float]) -> list[float]:
    """The point of the plane where weights add up to 1; coordinates by Helmert's basis."""
    count = len(genes) + 1
    point = [1 / count] * count
    for j, gene in enumerate(genes, 1):
        unit = gene / math.sqrt(j * (j + 1))
        for k in range(j):
            point[k] += unit
        point[j] -= j * unit
    return point


def _to_plane(weights: Sequence[float]) -> list[float]:
    return [
        (sum(weights[:j]) - j * weights[j]) / math.sqrt(j * (j + 1)) for j in range(1, len(weights))
    ]
