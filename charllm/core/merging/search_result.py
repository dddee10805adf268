"""What a search found: its generations, why it ended, the claims, the chosen and its verdicts.

Numbers only, as ``result.json`` holds them; ``search_report`` tells them in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from charllm.core.merging.coefficients import Coefficients
from charllm.core.merging.finalists import Row, Verdict
from charllm.core.merging.genome import Candidate
from charllm.core.merging.journal import Spent
from charllm.core.merging.search_config import Plan
from charllm.core.statistics import Interval
from charllm.data.errors import Text
from charllm.data.files import plain

STOPS = {
    "candidates": Text("its budget of candidates was used", "候補数の予算を使い切ったため"),
    "exhausted": Text("there was nothing left to try", "試す候補がなくなったため"),
    "asked": Text("you asked it to stop and finish", "停止して結果を出すよう指示されたため"),
    "calls": Text(
        "the budget of judge calls has no room for another generation beside finalists and report",
        "採点回数の予算に、最終候補と報告の分を除いて次の世代の余裕がないため",
    ),
    "money": Text(
        "the budget of money has no room for another generation beside finalists and report",
        "費用の予算に、最終候補と報告の分を除いて次の世代の余裕がないため",
    ),
    "hours": Text(
        "the hours have no room for another generation beside finalists and report",
        "時間の予算に、最終候補と報告の分を除いて次の世代の余裕がないため",
    ),
}


@dataclass(frozen=True)
class Generation:
    """One generation. Gains are over the plain average on the same queries, None where all failed.

    ``mean_gain``: of the members together, on the queries that all of them have. ``mean`` and
    ``spread`` (a standard deviation a gene) are the strategy's after it was told.
    """

    number: int
    best: str
    best_gain: float | None
    mean_gain: Interval | None
    failed: int
    mean: Coefficients
    spread: tuple[float, ...]

    def as_json(self) -> dict[str, Any]:
        return plain(self)


@dataclass(frozen=True)
class Stop:
    """Why the search ended, after which generation; ``code`` for machines."""

    code: str
    generation: int
    text: Text

    def as_json(self) -> dict[str, Any]:
        return plain(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(data["code"], data["generation"], Text(**data["text"]))


@dataclass(frozen=True)
class Claim:
    """What was claimed for a candidate before the report split was opened, and what it gave."""

    candidate: Candidate
    claimed: float | None
    true: Interval | None

    @property
    def excess(self) -> float | None:
        """Claimed minus true."""
        true = self.true.value if self.true else None
        return None if self.claimed is None or true is None else self.claimed - true


@dataclass(frozen=True)
class SearchResult:
    """The end of a search. ``chosen`` is the default choice, ``over_*`` its verdicts.

    ``opened``: how often the report split has been opened by this search and those it was forked
    from; above 1 its intervals are too narrow. ``pareto``: the candidates no other one beats on
    the search split in every part of the objective. ``given``: the candidates that somebody has
    put into a generation from outside. ``held_back``: finalists that a floor of the objective
    (``floors``) keeps from being chosen, and why.
    """

    chosen: Candidate
    best_parent: str
    over_uniform: Verdict
    over_parent: Verdict
    gain_uniform: Interval | None
    gain_parent: Interval | None
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...]
    generations: tuple[Generation, ...]
    stop: Stop
    plan: Plan
    spent: Spent
    failed: tuple[tuple[str, Text], ...]
    pareto: tuple[str, ...]
    opened: int
    given: tuple[str, ...] = ()
    held_back: tuple[tuple[str, Text], ...] = ()
    floors: Mapping[str, float] = field(default_factory=dict)

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.id == name)

    def as_json(self) -> dict[str, Any]:
        """What ``result.json`` holds."""
        return plain(self)
