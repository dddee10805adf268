"""What a search may spend, and whether another generation can be afforded.

What the finalists and the report will still take is kept back, at the price a reply has had so
far; so a spent budget ends a search with its report, not without.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from charllm.core.merging.journal import Spent, State
from charllm.core.merging.search_config import Plan, SearchConfig
from charllm.data.errors import Text
from charllm.data.progress import Paused

SAVE_SECONDS = 10.0

NAMES = {
    "calls": Text("the budget of judge calls", "採点回数の予算"),
    "money": Text("the budget of money", "費用の予算"),
    "hours": Text("the budget of hours", "時間の予算"),
}
FIELDS = {"calls": "max_calls", "money": "max_money", "hours": "max_hours"}


@dataclass
class Clock:
    """Seconds worked on a search, over all its attempts; kept in its state."""

    state: State
    folder: Path

    def __post_init__(self) -> None:
        self._started = self._saved = time.monotonic()

    @property
    def seconds(self) -> float:
        return self.state.seconds + time.monotonic() - self._started

    def save(self) -> None:
        self.state.seconds, self._started = self.seconds, time.monotonic()
        self.state.save(self.folder)
        self._saved = self._started

    def save_sometimes(self) -> None:
        """A kill loses no more than a few seconds of the count."""
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.save()


def beyond(
    config: SearchConfig, plan: Plan, spent: Spent, seconds: float, generations: int
) -> dict[str, float]:
    """By budget: what so many more generations, finalists and report bring it to, if too much."""
    each = plan.search / plan.generations
    grow = 1 + (generations * each + plan.reserve) / max(spent.queries, 1)
    ends = {
        "calls": spent.calls * grow,
        "money": spent.money * grow,
        "hours": seconds * grow / 3600,
    }
    limits = {name: getattr(config, field) for name, field in FIELDS.items()}
    return {n: end for n, end in ends.items() if limits[n] is not None and end > limits[n]}


def check_first(config: SearchConfig, plan: Plan, spent: Spent, seconds: float) -> None:
    """``Paused`` where, after the baselines, not even one generation and the report fit."""
    for name, end in beyond(config, plan, spent, seconds, 1).items():
        raise Paused(
            f"{NAMES[name].en} does not allow one generation, the finalists and the report: they "
            f"take about {end:.3g}. Raise {FIELDS[name]} and resume.",
            f"{NAMES[name].ja}では、一世代と最終候補・報告の採点に足りません（約 {end:.3g} 必要"
            f"です）。{FIELDS[name]} を増やして再開してください。",
        )


def check_rest(config: SearchConfig, spent: Spent) -> None:
    """``Paused`` where a budget is spent before the report, though it was kept back for it."""
    for name, used in (("calls", spent.calls), ("money", spent.money)):
        limit = getattr(config, FIELDS[name])
        if limit is not None and used >= limit:
            raise Paused(
                f"{NAMES[name].en} is spent before the end ({used:g} of {limit:g}). What was "
                f"scored is kept: raise {FIELDS[name]} and resume.",
                f"{NAMES[name].ja}に達しました（{limit:g} のうち {used:g}）。採点済みの結果は"
                f"残っています。{FIELDS[name]} を増やして再開してください。",
            )
