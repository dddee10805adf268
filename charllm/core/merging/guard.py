"""The guard: who falls too far below the plain average on a part is not chosen, however good.

A floor is a limit, not a weight: a gain elsewhere does not buy a fall. It looks at the selection
split, where the choice is made, and so it can be wrong by chance like any choice; how the chosen
one does on the report split is said beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from charllm.core.merging.journal import Outcome
from charllm.core.merging.objective import Objective
from charllm.core.merging.scoring import UNIFORM
from charllm.data.errors import Text


def held_back(
    objective: Objective, outcomes: Mapping[str, Sequence[Outcome]], part: str = "general"
) -> dict[str, Text]:
    """Why each of these candidates may not be chosen; those that may are not in it.

    ``outcomes`` by candidate on one split, the plain average's among them. One that was asked no
    question of the part is held back too: nothing says that it has not forgotten everything.
    """
    floor = objective.floors.get(part)
    if floor is None:
        return {}
    found = {}
    for name, own in outcomes.items():
        change = fall(objective, own, outcomes[UNIFORM], part)
        if name != UNIFORM and (change is None or change < -floor):
            found[name] = _words(change, floor)
    return found


def fall(
    objective: Objective, own: Sequence[Outcome], base: Sequence[Outcome], part: str = "general"
) -> float | None:
    """The mean difference of ``part``, own minus base, on what both were asked; None if nothing."""
    other = {one.query: one.parts.get(part) for one in base}
    gains = [
        objective.unit(part, value) - objective.unit(part, known)
        for one in own
        if (value := one.parts.get(part)) is not None
        and (known := other.get(one.query)) is not None
    ]
    return math.fsum(gains) / len(gains) if gains else None


def _words(change: float | None, floor: float) -> Text:
    if change is None:
        return Text("no general question was answered", "一般問題に一つも答えていません")
    return Text(
        f"general {change:+.3f} against the plain average, where {-floor:+.3f} is the floor",
        f"general が単純平均に対して {change:+.3f}（下限 {-floor:+.3f}）",
    )
