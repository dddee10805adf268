"""How a search moves: ask for a generation of vectors, tell how each one placed.

A strategy is a function of its seed and of what it was told, nothing else: the same seed and the
same losses give the same vectors, in another process too. That is how a killed search comes back.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from itertools import islice, product
from typing import Any, Protocol

from charllm.core.merging.coefficients import Coefficients
from charllm.core.merging.genome import Space, Vector
from charllm.data.errors import Text, UserError


class Strategy(Protocol):
    population: int

    def ask(self, given: Sequence[Vector] = ()) -> list[Vector]:
        """The next generation, the vectors ``given`` from outside among it, at any place; shorter
        or empty where there is nothing left to try."""

    def tell(self, vectors: Sequence[Vector], losses: Sequence[float]) -> None:
        """How the generation did, less is better; only the order counts."""

    def reseed(self, seed: int) -> None:
        """Go on with other random numbers from the next generation."""

    @property
    def mean(self) -> Vector:
        """Where the search believes the best to be."""

    @property
    def spread(self) -> tuple[float, ...]:
        """The standard deviation of every gene in the next generation."""

    @property
    def finished(self) -> Text | None:
        """Why there is nothing left to search, None while there is."""


def population_of(size: int) -> int:
    """Hansen's rule, 4 + floor(3 ln N), for N genes (arXiv 1604.00772, eq. 48)."""
    return 4 + math.floor(3 * math.log(size))


class Cma:
    """CMA-ES by pycma, within bounds, with random numbers of its own."""

    def __init__(
        self,
        space: Space,
        seed: int,
        population: int,
        sigma: float,
        least_spread: float,
        start: Vector | None = None,
    ) -> None:
        self.population = population
        self._least = least_spread
        self._random = _Normal(seed)
        # pycma 4.5 fails in one dimension where it would widen a spread: a gene that nothing
        # depends on makes it two.
        self._inert: Vector = (0.0,) if space.size == 1 else ()
        self._whole: dict[Vector, Vector] = {}
        low, high = space.bounds
        options = {
            "bounds": [[*low, *(-1.0 for _ in self._inert)], [*high, *(1.0 for _ in self._inert)]],
            "popsize": population,
            "randn": self._random,
            "seed": math.nan,  # else pycma seeds numpy's global generator
            "verbose": -9,
            "verb_log": 0,
            "signals_filename": None,  # else a file in the working folder could steer it
        }
        with warnings.catch_warnings():  # about matplotlib, and about the option above
            warnings.simplefilter("ignore")
            from cma import CMAEvolutionStrategy

            first = [*(start or space.start), *self._inert]
            self._es = CMAEvolutionStrategy(first, sigma, options)

    def ask(self, given: Sequence[Vector] = ()) -> list[Vector]:
        # pycma shortens a step that is far outside of its distribution when it is told of it,
        # and never learns to avoid a direction from one (Hansen 2011, "Injecting external
        # solutions into CMA-ES").
        self._es.inject([self._inner(vector) for vector in given], force=True)
        asked = [tuple(map(float, x)) for x in self._es.ask()]
        self._whole = {self._bare(vector): vector for vector in asked}
        return [self._bare(vector) for vector in asked]

    def _bare(self, vector: Vector) -> Vector:
        return vector[: len(vector) - len(self._inert)]

    def _inner(self, vector: Vector) -> Any:
        """A vector as pycma has it inside, where its bounds are bent away."""
        import numpy as np

        inverse = self._es.boundary_handler.inverse
        return self._es.gp.geno(np.array([*vector, *self._inert]), from_bounds=inverse)

    def tell(self, vectors: Sequence[Vector], losses: Sequence[float]) -> None:
        import numpy as np

        whole = [self._whole.get(vector, (*vector, *self._inert)) for vector in vectors]
        self._es.tell([np.array(vector) for vector in whole], list(losses))

    def reseed(self, seed: int) -> None:
        self._random.seed(seed)

    @property
    def mean(self) -> Vector:
        return self._bare(tuple(map(float, self._es.result.xfavorite)))

    @property
    def spread(self) -> tuple[float, ...]:
        return self._bare(tuple(map(float, self._es.result.stds)))

    @property
    def finished(self) -> Text | None:
        if max(self.spread) >= self._least:
            return None
        return Text(
            f"it had converged: no gene's spread was above {self._least:g}",
            f"探索が収束したため（どの遺伝子のばらつきも {self._least:g} 以下）",
        )


class Sampled:
    """Vectors that do not depend on results: random mixtures, or every point of a grid.

    Its mean is that of the better half of every generation.
    """

    def __init__(
        self, space: Space, population: int, source: Iterator[Vector] | None = None
    ) -> None:
        self.population = population
        self._space = space
        self._source = source
        self._better: list[Vector] = []

    def ask(self, given: Sequence[Vector] = ()) -> list[Vector]:
        own = islice(self._source or iter(()), self.population - len(given))
        return [*given, *own]

    def tell(self, vectors: Sequence[Vector], losses: Sequence[float]) -> None:
        order = sorted(range(len(vectors)), key=lambda i: losses[i])
        self._better += [vectors[i] for i in order[: math.ceil(len(order) / 2)]]

    def reseed(self, seed: int) -> None:
        """A grid has no random numbers."""

    @property
    def mean(self) -> Vector:
        rows = self._better or [self._space.start]
        return tuple(math.fsum(column) / len(rows) for column in zip(*rows, strict=True))

    @property
    def spread(self) -> tuple[float, ...]:
        rows, middle = self._better or [self._space.start], self.mean
        columns = zip(*rows, strict=True)
        return tuple(
            math.sqrt(math.fsum((x - m) ** 2 for x in column) / len(rows))
            for column, m in zip(columns, middle, strict=True)
        )

    @property
    def finished(self) -> Text | None:
        return None


class Random(Sampled):
    """Mixtures drawn evenly: what a search must beat."""

    def __init__(self, space: Space, seed: int, population: int) -> None:
        super().__init__(space, population)
        self.reseed(seed)

    def ask(self, given: Sequence[Vector] = ()) -> list[Vector]:
        count = self.population - len(given)
        return [*given, *(self._space.random(self._rng) for _ in range(count))]

    def reseed(self, seed: int) -> None:
        import numpy as np

        self._rng = np.random.default_rng(seed)


def grid(space: Space, steps: int, limit: int) -> Iterator[Vector]:
    """Every mixture whose weights are multiples of 1 / ``steps``, in every group.

    ``UserError`` where that is more than ``limit``: it grows as a power of the groups.
    """
    rows = [row for row in product(range(steps + 1), repeat=space.parents) if sum(row) == steps]
    count = len(rows) ** len(space.groups)
    if count > limit or space.extras:
        raise UserError(
            f"A grid of {steps} steps has {count} points here, and the budget is {limit} "
            "candidates. Take fewer groups or steps, a larger budget, or another strategy.",
            f"{steps} 刻みの格子点は {count} 個ですが、予算は {limit} 候補です。グループや刻みを"
            "減らすか、予算を増やすか、別の方法を選んでください。",
        )
    for chosen in product(rows, repeat=len(space.groups)):
        weights = dict(zip(space.groups, chosen, strict=True))
        yield space.vector(
            Coefficients(space.method, {g: tuple(w / steps for w in r) for g, r in weights.items()})
        )


class _Normal:
    """Normal numbers as pycma asks for them, from a generator that nobody else touches."""

    def __init__(self, seed: int) -> None:
        self.seed(seed)

    def seed(self, seed: int) -> None:
        import numpy as np

        self._rng = np.random.Generator(np.random.PCG64(seed))

    def __call__(self, *shape: int) -> Any:
        return self._rng.standard_normal(shape or None)
