"""What is compared in the end, which of it is chosen, and what that choice is honestly worth.

The best candidate seen is mostly the luckiest. So the finalists are scored anew on the selection
split, the plain average always among them, and the choice is made there; what is claimed for it
comes from queries that had no part in it. The report split then has the last word.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from charllm.core.merging.coefficients import Coefficients
from charllm.core.merging.genome import LINEAR, Candidate, Role, Space
from charllm.core.merging.journal import Outcome
from charllm.core.merging.objective import Objective
from charllm.core.merging.scoring import UNIFORM, differences
from charllm.core.statistics import Interval
from charllm.data.errors import Text

FACTORS = (0.25, 0.5, 0.75)
"""How far the distribution's mean is moved away from the start; 1 is the mean itself."""
TOWARDS = (1 / 3, 2 / 3)
"""The global mixtures: so far from the plain average towards each parent in turn."""
FOLDS = 5

CHOOSABLE: tuple[Role, ...] = ("parent", "start", "mean", "shrunk")
"""What may become the default choice beside the plain average. The best candidate seen and the
global mixtures are shown, but in simulations choosing among them too gained nothing and had the
worst single losses."""

Gains = Mapping[str, Mapping[str, float]]
"""By candidate and query: its value minus the plain average's, where both are scored."""
Verdict = Literal["yes", "no", "cannot tell"]


def baselines(space: Space) -> list[Candidate]:
    """The plain average and each parent as it is."""
    parents = [
        Candidate(f"parent-{k + 1}", space.only(k), role="parent", parent=k)
        for k in range(space.parents)
    ]
    return [Candidate(UNIFORM, space.uniform(), role="uniform"), *parents]


def global_mixtures(space: Space) -> list[Candidate]:
    """One weight a parent for all groups, from a small grid: what a search by layer must beat."""
    found = []
    for k in range(space.parents):
        for part in TOWARDS:
            weights = [(1 - part) / space.parents + part * (j == k) for j in range(space.parents)]
            mixed = space.mixture(weights, space.method)
            found.append(Candidate(f"global-{k + 1}-{part:.2f}", mixed, role="global"))
    return found


def shrunk_means(space: Space, mean: Coefficients) -> list[Candidate]:
    """The distribution's mean, and on the way from the start to it.

    Where the method is not linear, its own start is another model than the plain average.
    """
    found = [Candidate("mean", mean, role="mean")]
    if space.method != LINEAR:
        found.append(Candidate("start", space.uniform(space.method), role="start"))
    for factor in FACTORS:
        mixed = space.shrunk(mean, factor)
        found.append(Candidate(f"shrunk-{factor:.2f}", mixed, role="shrunk"))
    return found


def count_baselines(space: Space) -> int:
    return len(baselines(space)) + len(global_mixtures(space))


def count_finalists(space: Space) -> int:
    """Baselines, the best global mixture, the best candidate, the mean and its shrunk ones."""
    return len(baselines(space)) + 2 + len(shrunk_means(space, space.uniform(space.method)))


def count_reported(space: Space) -> int:
    """Baselines, the choice, and what else a search could have come up with: best and mean."""
    return len(baselines(space)) + 3


def choose(gains: Gains, caution: float, queries: Sequence[str] | None = None) -> str:
    """The finalist with the largest gain, less ``caution`` standard errors; else the average.

    The plain average itself counts 0: what is not clearly better is not chosen.
    """
    best, most = UNIFORM, 0.0
    for name, by_query in gains.items():
        found = [by_query[q] for q in (queries or by_query) if q in by_query]
        if name != UNIFORM and len(found) > 1:
            error = statistics.stdev(found) / math.sqrt(len(found))
            worth = statistics.fmean(found) - caution * error
            if worth > most:
                best, most = name, worth
    return best


def honest_gain(gains: Gains, caution: float, queries: Sequence[str]) -> float:
    """What choosing this way gains over the plain average, on queries it did not choose by.

    Cross-fitting: for each fifth of the queries the choice is made on the others. Unlike the
    chosen one's own mean it does not profit from having been chosen.
    """
    found: list[float] = []
    for fold in range(FOLDS):
        out = queries[fold::FOLDS]
        chosen = choose(gains, caution, [q for i, q in enumerate(queries) if i % FOLDS != fold])
        own = dict.fromkeys(out, 0.0) if chosen == UNIFORM else gains[chosen]
        found += [own[q] for q in out if q in own]
    return statistics.fmean(found) if found else 0.0


def verdict(gain: Interval | None, same: bool = False) -> Verdict:
    """What a difference's interval says; ``same``: it is the same model."""
    if same:
        return "no"
    if gain is None or gain.low is None or gain.high is None:
        return "cannot tell"
    if gain.low > 0:
        return "yes"
    return "no" if gain.high <= 0 else "cannot tell"


@dataclass(frozen=True)
class Score:
    """A candidate on one split: its value, its gain over the plain average, each part's mean."""

    value: Interval
    gain: Interval
    unscored: int
    parts: dict[str, float]


@dataclass(frozen=True)
class Row:
    """A line of the final table. ``search`` is the gain that the search itself saw, if it did."""

    id: str
    role: Role
    coefficients: Coefficients
    search: float | None
    selection: Score | None
    report: Score | None
    failure: Text | None = None


def score_all(
    objective: Objective, outcomes: Mapping[str, Sequence[Outcome]], queries: Sequence[str]
) -> dict[str, Score]:
    """Every candidate's score on one split, ``UNIFORM`` among them, in the same resamples.

    Intervals are 95 %, over queries; unscored queries are left out of a candidate's own.
    """
    import numpy as np

    from charllm.core.statistics import bootstrap_many

    columns: list[list[float | None]] = []
    for found in outcomes.values():
        values = objective.values(found)
        gains = differences(objective, found, outcomes[UNIFORM])
        columns += [[values.get(q) for q in queries], [gains.get(q) for q in queries]]
    table = np.array([[math.nan if x is None else x for x in column] for column in columns]).T
    scored = np.isfinite(table)
    filled = np.where(scored, table, 0.0)
    drawn = bootstrap_many(lambda rows: (rows @ filled) / (rows @ scored), list(queries))
    # ``n`` counts what the value was made of, not what was asked.
    intervals = [replace(one, n=int(n)) for one, n in zip(drawn, scored.sum(axis=0), strict=True)]
    return {
        name: Score(
            intervals[2 * i],
            intervals[2 * i + 1],
            int(len(queries) - scored[:, 2 * i].sum()),
            objective.part_means(found),
        )
        for i, (name, found) in enumerate(outcomes.items())
    }
