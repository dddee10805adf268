"""Racing within a generation: a few queries for all, more for the better half.

Every candidate of a generation sees the same queries, drawn anew for each generation: drawn for
each candidate they would compare luck, and kept for ever they would be learnt by heart.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

KEPT = 0.5
"""The share of a generation that is asked the second rung."""


@dataclass(frozen=True)
class Race:
    """Shares of the search split: ``first`` in (0, 1] for all, ``more`` in [0, 1) for the better.

    ``first`` 1 is no race: everybody is asked everything.
    """

    first: float
    more: float

    def rungs(
        self,
        queries: Sequence[str],
        seed: int,
        generation: int,
        kinds: Mapping[str, Hashable] | None = None,
    ) -> list[tuple[str, ...]]:
        """The queries of each rung, in the split's order.

        ``kinds`` says which are alike; each kind then has its share of every rung.
        """
        if self.first >= 1:
            return [tuple(queries)]
        count = len(queries)
        first = min(count, max(1, round(self.first * count)))
        more = min(count - first, round(self.more * count))
        drawn = _mixed(_shuffled(queries, f"{seed} {generation}"), kinds or {})
        parts = [set(drawn[:first]), set(drawn[first : first + more])]
        return [tuple(query for query in queries if query in part) for part in parts if part]

    def queries(self, count: int, population: int) -> int:
        """How many replies a generation of ``population`` takes with ``count`` queries."""
        rungs = self.rungs([str(i) for i in range(count)], 0, 0)
        after = sum(map(len, rungs[1:]))
        return population * len(rungs[0]) + kept(population) * after


def _shuffled(queries: Sequence[str], seed: str) -> list[str]:
    drawn = list(queries)
    random.Random(seed).shuffle(drawn)
    return drawn


def _mixed(drawn: Sequence[str], kinds: Mapping[str, Hashable]) -> list[str]:
    """Reordered so that every beginning holds the kinds in proportion, and one of each early."""
    size = Counter(kinds.get(query) for query in drawn)
    seen: Counter[Hashable] = Counter()
    place = {}
    for query in drawn:
        kind = kinds.get(query)
        place[query] = seen[kind] / size[kind]
        seen[kind] += 1
    return sorted(drawn, key=lambda query: place[query])


def kept(alive: int) -> int:
    """How many of ``alive`` candidates go on to the second rung."""
    return max(1, math.ceil(KEPT * alive)) if alive else 0


def places(ids: Sequence[str], tiers: Sequence[Sequence[str]]) -> list[float]:
    """Losses for the strategy: the place of each of ``ids``; those in no tier share the last.

    ``tiers``: candidates from best to worst, who went further before who did not. Only the order
    counts, so means over different numbers of queries are never compared.
    """
    order = [one for tier in tiers for one in tier]
    where = {one: float(place) for place, one in enumerate(order)}
    return [where.get(one, float(len(order))) for one in ids]
