"""What a search may spend, and whether another generation can be afforded.

What the finalists and the report will still take is kept back, at the price a reply has had so
far; so a spent budget ends a search with its report, not without.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from charllm.core.merging.journal import Spent, State
from charllm.core.merging.search_config import BUDGETS, Plan, SearchConfig
from charllm.data.config import with_texts
from charllm.data.errors import Text, UserError
from charllm.data.files import read_json, write_json
from charllm.data.progress import Paused

SAVE_SECONDS = 10.0

NAMES = {
    "calls": Text("the budget of judge calls", "採点回数の予算"),
    "money": Text("the budget of money", "費用の予算"),
    "hours": Text("the budget of hours", "時間の予算"),
}
RAISED = "budget.json"
"""In a run's folder: the budgets it was given after its start, by name."""
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


def raised(config: SearchConfig, folder: Path) -> SearchConfig:
    """``config`` with the budgets that the run in ``folder`` was given since."""
    path = folder / RAISED
    if not path.is_file():
        return config
    return SearchConfig.from_data({**config.model_dump(mode="json"), **read_json(path)}, str(path))


def raise_budget(config: SearchConfig, folder: Path, changes: Sequence[str]) -> SearchConfig:
    """Give the run in ``folder`` more from its next start on; ``config`` is what it began with.

    ``changes``: ``search.NAME=VALUE`` texts, of ``BUDGETS`` alone and never less than before
    (``null``: no limit), else ``UserError``.
    """
    names = [text.partition("=")[0].strip() for text in changes]
    known = [f"search.{name}" for name in BUDGETS]
    if odd := [name for name in names if name not in known]:
        raise UserError(
            f"--set {odd[0]!r}: a run that goes on can have other budgets only: "
            f"{', '.join(known)}. For anything else fork it.",
            f"--set「{odd[0]}」: 再開するときに変えられるのは予算（{'、'.join(known)}）だけです。"
            "それ以外を変えるには分岐（fork）してください。",
        )
    before = raised(config, folder)
    data = with_texts({"search": before.model_dump(mode="json")}, changes)["search"]
    after = SearchConfig.from_data(data, "--set")
    for name in BUDGETS:
        old, new = getattr(before, name), getattr(after, name)
        if new is not None and new != old and (old is None or new < old):
            raise UserError(
                f"search.{name}: a budget can only be raised, and it is "
                f"{'without limit' if old is None else format(old, 'g')}.",
                f"search.{name}: 予算は増やすことだけができます（現在: "
                f"{'上限なし' if old is None else format(old, 'g')}）。",
            )
    write_json(folder / RAISED, {name: getattr(after, name) for name in BUDGETS})
    return after


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
            f"{NAMES[name].en.capitalize()} does not allow one generation, the finalists and the "
            f"report: they take about {end:.3g}. {_how(name).en}",
            f"{NAMES[name].ja}では、一世代と最終候補・報告の採点に足りません（約 {end:.3g} 必要"
            f"です）。{_how(name).ja}",
        )


def check_spent(config: SearchConfig, spent: Spent) -> None:
    """``Paused`` where calls or money are used up while something is left to be asked, be it
    baselines that are dearer than thought, or a report whose share was kept back."""
    for name, used in (("calls", spent.calls), ("money", spent.money)):
        limit = getattr(config, FIELDS[name])
        if limit is not None and used >= limit:
            raise Paused(
                f"{NAMES[name].en.capitalize()} is spent before the end ({used:g} of {limit:g}). "
                f"What was scored is kept. {_how(name).en}",
                f"{NAMES[name].ja}に達しました（{limit:g} のうち {used:g}）。採点済みの結果は"
                f"残っています。{_how(name).ja}",
            )


def _how(name: str) -> Text:
    """How to go on with more."""
    field = FIELDS[name]
    command = f"`python -m charllm runs resume RUN --set search.{field}=…`"
    return Text(
        f"Raise {field} and resume, on the Merge tab or with {command}.",
        f"{field} を増やして再開してください（「マージ」タブ、または {command}）。",
    )
