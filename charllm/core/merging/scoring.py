"""What the journal's outcomes are worth under an objective, always against the plain average.

Means over different queries are not comparable, so what is compared is the *gain*: the mean
difference to the plain average on the queries that both were asked and scored on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from charllm.core.merging import pareto
from charllm.core.merging.journal import Journal, Outcome
from charllm.core.merging.objective import Objective
from charllm.data.queries import Split

UNIFORM = "uniform"
"""The id of the plain average."""
LEAST_SCORED = 0.5
"""A candidate with fewer of its queries scored is left out: what is missing is not by chance."""


class Scores:
    """Reads a journal by one objective; evaluates nothing."""

    def __init__(self, journal: Journal, objective: Objective) -> None:
        self.journal = journal
        self.objective = objective
        self._known: dict[tuple[str, Split, int], dict[str, float]] = {}

    def gains(self, candidate: str, split: Split = "search", rungs: int = 2) -> dict[str, float]:
        """By query; empty for one that failed, or of which too little was scored."""
        own = self.journal.outcomes(candidate, split, rungs)
        key = candidate, split, len(own)
        if key not in self._known:
            found = differences(self.objective, own, self.journal.outcomes(UNIFORM, split))
            self._known[key] = found if len(found) >= LEAST_SCORED * len(own) else {}
        return self._known[key]

    def gain(self, candidate: str, split: Split = "search", rungs: int = 2) -> float | None:
        found = self.gains(candidate, split, rungs)
        return math.fsum(found.values()) / len(found) if found else None

    def order(self, candidates: Sequence[str], goals: str, rungs: int = 2) -> list[str]:
        """Best first on the search split, by gain or by Pareto fronts; who has none is left out.

        ``rungs`` 1 looks at the first rung only, also where the journal knows the second already.
        """
        found = {one: self.gain(one, rungs=rungs) for one in candidates}
        gains = {one: gain for one, gain in found.items() if gain is not None}
        if goals == "weighted":
            return sorted(gains, key=lambda one: -gains[one])
        points = self.points(list(gains), rungs)
        names = list(points)
        return [names[i] for i in pareto.order([points[name] for name in names])]

    def points(self, candidates: Sequence[str], rungs: int = 2) -> dict[str, tuple[float, ...]]:
        """Each part's gain on the search split, for those of whom all are known."""
        base = self.journal.outcomes(UNIFORM, "search")
        found = {one: self.journal.outcomes(one, "search", rungs) for one in candidates}
        points = {one: self.objective.point(own, base) for one, own in found.items()}
        return {one: point for one, point in points.items() if point is not None}


def differences(
    objective: Objective, a: Sequence[Outcome], b: Sequence[Outcome]
) -> dict[str, float]:
    """``a - b`` on every query that both were asked and scored on."""
    common = {one.query for one in a} & {one.query for one in b}
    if not common:
        return {}
    first = objective.values([one for one in a if one.query in common])
    second = objective.values([one for one in b if one.query in common])
    return {
        query: x - y
        for query, x in first.items()
        if x is not None and (y := second[query]) is not None
    }
