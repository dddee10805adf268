"""The budgets of an evolution that can go on: shown beside Resume, to be raised with it.

A budget without a limit has no field: there is nothing to raise.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from charllm.core.merging.budget import raise_budget
from charllm.core.merging.journal import State
from charllm.core.merging.search_config import BUDGETS, SearchConfig
from charllm.data.errors import Text, UserError
from charllm.data.settings import Setting, settings_of
from charllm.services.merge_view import SEARCH, Sheet, config_of
from charllm.services.runs import Run
from charllm.ui.judge_html import money_text
from charllm.ui.train_live import Has
from charllm.ui.words import say, t

SETTINGS = {one.name: one for one in settings_of(SearchConfig) if one.name in BUDGETS}
PAUSING = ("max_calls", "max_money")
"""Used up, these pause a search again at once; without hours or candidates it still reports."""

# --- data ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limit:
    """One budget that a run has: its field, what it may use in all and has used, in its unit."""

    setting: Setting
    limit: float
    used: float


def limits_of(run: Run, sheet: Sheet | None) -> list[Limit]:
    """The budgets of ``run`` that are limited, in reading order; ``sheet`` None: nothing scored.
    ``UserError`` where its files are damaged."""
    search, used = config_of(run).search, _used(run, sheet)
    limits = {name: getattr(search, name) for name in BUDGETS}
    return [
        Limit(SETTINGS[name], limit, used[name])
        for name, limit in limits.items()
        if limit is not None
    ]


def _used(run: Run, sheet: Sheet | None) -> dict[str, float]:
    if sheet is None:
        return dict.fromkeys(BUDGETS, 0)
    state = State.load(run.folder / SEARCH)
    return {
        "max_candidates": sum(one.role == "candidate" for one in sheet.journal.candidates()),
        "max_calls": sheet.spent.calls,
        "max_money": sheet.spent.money,
        "max_hours": state.seconds / 3600 if state else 0,
    }


def raise_limits(run: Run, limits: Sequence[Limit], values: Mapping[str, float | None]) -> None:
    """Give ``run`` the budgets ``values``, by name, from its next start on; ``UserError`` where one
    is no number, less than before, or used up."""
    paused = run.status().state == "paused"
    changes = []
    for one in limits:
        name, value = one.setting.name, values.get(one.setting.name)
        if value is None or not math.isfinite(value):
            raise _refused(one, Text("write a number.", "数値を入力してください。"))
        if value < one.limit:
            raise _refused(one, _only_more(one.limit))
        if value <= one.used and (value > one.limit or (paused and name in PAUSING)):
            raise _refused(one, _used_up(one))
        if value > one.limit:
            changes.append(f"search.{name}={value}")
    if changes:
        raise_budget(config_of(run).search, run.folder, changes)


def _refused(one: Limit, why: Text) -> UserError:
    label = one.setting.label
    return UserError(f"{label.en}: {why.en}", f"{label.ja}: {why.ja}")


def _only_more(limit: float) -> Text:
    return Text(
        f"a budget can only be raised. Write {limit:,g} or more.",
        f"予算は増やすことだけができます。{limit:,g} 以上にしてください。",
    )


def _used_up(one: Limit) -> Text:
    used = amount(one)
    return Text(
        f"used already: {used}. Write more than that.",
        f"すでに {used} 使っています。それより大きい値にしてください。",
    )


def amount(one: Limit) -> str:
    """What is used of a budget, as it is read; hours are rounded up."""
    if one.setting.name == "max_money":
        return money_text(one.used)
    if one.setting.kind == "whole":
        return f"{one.used:,.0f}"
    return f"{math.ceil(one.used * 100) / 100:.2f}"


# --- layout -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BudgetRow:
    """``row`` with a field for each budget, by name; shown while the run can be resumed."""

    row: gr.Row
    fields: dict[str, gr.Number]

    @property
    def outputs(self) -> list[Any]:
        return [self.row, *self.fields.values()]

    def show(
        self, run_id: str, limits: Sequence[Limit], had: Has, request: gr.Request
    ) -> list[Any]:
        """Values of ``outputs``, where the page shows others; what is typed there is left alone.
        No limits: the row is hidden."""
        if not had.lacks("budget", _key(run_id, limits)):
            return [gr.skip()] * len(self.outputs)
        by_name = {one.setting.name: one for one in limits}
        fields = [_shown(by_name.get(name), request) for name in self.fields]
        return [gr.Row(visible=bool(limits)), *fields]

    def typed(
        self, run_id: str, limits: Sequence[Limit], has: str, values: Sequence[float | None]
    ) -> dict[str, float | None]:
        """What stands in the fields, or the limits as they are where these are another run's."""
        if Has(has).lacks("budget", _key(run_id, limits)):
            return {one.setting.name: one.limit for one in limits}
        return dict(zip(self.fields, values, strict=True))


def _key(run_id: str, limits: Sequence[Limit]) -> str:
    told = [(one.setting.name, one.limit, one.used) for one in limits]
    return json.dumps([run_id, told]) if told else ""


def _shown(one: Limit | None, request: gr.Request) -> Any:
    if one is None:
        return gr.Number(None, visible=False)
    used = amount(one)
    info = Text(f"used: {used}", f"使用済み: {used}")
    return gr.Number(one.limit, visible=True, info=say(info, request))


def build() -> BudgetRow:
    note = t(
        "Resume goes on with these budgets. They can be raised here, not lowered.",
        "「再開」すると、ここに示す予算で続きます。予算は増やすことだけができます。",
    )
    with gr.Row(visible=False, elem_id="merge-budget") as row:
        gr.Markdown(note)
        fields = {name: _field(one) for name, one in SETTINGS.items()}
    return BudgetRow(row, fields)


def _field(one: Setting) -> gr.Number:
    return gr.Number(
        None,
        label=t(*one.label),
        info="–",
        precision=0 if one.kind == "whole" else None,
        visible=False,
        interactive=True,
        min_width=140,
        elem_id=f"merge-budget-{one.name.replace('_', '-')}",
    )
