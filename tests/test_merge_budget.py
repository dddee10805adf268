"""Budgets of an evolution that was paused: what the page offers to raise, and what it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from merge_home import evolve_config

from charllm.core.merging.coefficients import Coefficients
from charllm.core.merging.genome import Candidate
from charllm.core.merging.journal import Entry, Journal, Outcome, State
from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.services import jobs
from charllm.services.merge_view import SEARCH, MergeView, config_of
from charllm.services.runs import Run
from charllm.services.runs import State as RunState
from charllm.ui.merge_budget import Limit, limits_of, raise_limits

BUDGET: dict[str, Any] = {"max_candidates": 8, "max_calls": 6, "max_money": 0.5, "max_hours": 2}
NOW: dict[str, float | None] = {"max_candidates": 8, "max_calls": 6, "max_money": 0.5}


def evolution(paths: Paths, state: RunState = "paused", **search: Any) -> Run:
    """A run that has scored one candidate in 6 calls, $0.75 and an hour and a half."""
    search = {"population": 4, **search}
    run = jobs.submit(paths, "evolve", "bred", evolve_config(search=search))
    run.write_status(run.stored_status().model_copy(update={"state": state}))
    one = Candidate("0-0", Coefficients("linear", {"all": (0.5, 0.5)}))
    with Journal(run.folder / SEARCH, writing=True) as journal:
        journal.append(Entry(one, "search", 0, (Outcome("q", {"score": 6.0}, 9, 6, 0.75),)))
    State({}, [(0, 0)], seconds=5400).save(run.folder / SEARCH)
    return run


def limits(paths: Paths, run: Run) -> list[Limit]:
    return limits_of(run, MergeView(paths).sheet(run))


def give(paths: Paths, run: Run, values: Mapping[str, float | None]) -> None:
    raise_limits(run, limits(paths, run), values)


def test_what_is_limited_is_shown_with_what_was_used(paths: Paths) -> None:
    found = limits(paths, evolution(paths, **BUDGET))
    told = {one.setting.name: (one.limit, one.used) for one in found}
    assert told == {
        "max_candidates": (8, 1),
        "max_calls": (6, 6),
        "max_money": (0.5, 0.75),
        "max_hours": (2, 1.5),
    }


def test_a_budget_without_a_limit_is_not_offered(paths: Paths) -> None:
    found = limits(paths, evolution(paths, max_candidates=8))
    assert [one.setting.name for one in found] == ["max_candidates"]


@pytest.mark.parametrize(
    ("changes", "en", "ja"),
    [
        ({}, "Judge calls: used already: 6.", "すでに 6 使っています"),
        ({"max_calls": 5}, "Judge calls: a budget can only be raised. Write 6 or more", "6 以上に"),
        ({"max_calls": None}, "Judge calls: write a number", "数値を入力してください"),
        ({"max_calls": float("inf")}, "Judge calls: write a number", "数値を入力"),
        ({"max_calls": 7, "max_money": 0.6}, r"US dollars: used already: \$0.75", "0.75 使って"),
    ],
)
def test_what_could_not_go_on_is_refused_in_words(
    paths: Paths, changes: dict[str, float | None], en: str, ja: str
) -> None:
    run = evolution(paths, max_candidates=8, max_calls=6, max_money=0.5)
    before = config_of(run)
    with pytest.raises(UserError, match=en) as refused:
        give(paths, run, NOW | changes)
    assert ja in refused.value.text.ja
    assert config_of(run) == before


def test_what_was_raised_holds_and_the_rest_stays(paths: Paths) -> None:
    run = evolution(paths, **BUDGET)
    give(paths, run, {"max_candidates": 12, "max_calls": 400, "max_money": 2.25, "max_hours": 2.0})
    search = config_of(run).search
    assert (search.max_candidates, search.max_calls) == (12, 400)
    assert (search.max_money, search.max_hours) == (2.25, 2)


def test_a_run_that_was_cut_off_may_end_with_what_it_had(paths: Paths) -> None:
    """It may have nothing left to ask; only a paused one is known to need more."""
    run = evolution(paths, "crashed", **BUDGET)
    give(paths, run, NOW | {"max_hours": 2})
    assert config_of(run).search.max_calls == 6
