"""The guard of a merge: who has forgotten too much is not chosen, and the report says so."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from merge_home import evolve_config, small_home
from search_world import World

from charllm.core.merging.genome import Candidate
from charllm.core.merging.guard import fall, held_back
from charllm.core.merging.journal import Outcome
from charllm.core.merging.objective import Objective
from charllm.core.merging.search import run_search
from charllm.core.merging.search_config import SearchConfig
from charllm.core.merging.search_report import explain
from charllm.core.merging.search_result import SearchResult
from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.data.progress import Silent
from charllm.services import merge_forms


def outcomes(*general: float | None, score: float = 0.5) -> list[Outcome]:
    """Some replies, and a general question for each value; None could not be answered."""
    asked = [Outcome(f"general:{i}", {"general": value}) for i, value in enumerate(general)]
    return [*(Outcome(f"q{i}", {"score": score}) for i in range(3)), *asked]


def test_who_falls_below_the_floor_is_held_back_however_good_its_score() -> None:
    goal = replace(Objective.parse("score=1"), floors={"general": 0.05})
    found = {
        "uniform": outcomes(0.5, 0.6, 0.7),
        "better": outcomes(0.6, 0.6, 0.7),
        "a-little-worse": outcomes(0.5, 0.55, 0.65),
        "much-worse": outcomes(0.3, 0.5, 0.6, score=1.0),
        "not-asked": outcomes(),
        "half-asked": outcomes(0.5, None, None),
    }
    held = held_back(goal, found)
    assert set(held) == {"much-worse", "not-asked"}
    assert "-0.133" in held["much-worse"].en and "-0.050" in held["much-worse"].ja
    assert held_back(Objective.parse("score=1"), found) == {}, "no floor, no guard"
    assert fall(goal, found["better"], found["uniform"]) == pytest.approx(0.1 / 3)
    none_at_all = {**goal.floors, "general": 0.0}
    assert "better" not in held_back(replace(goal, floors=none_at_all), found)


class Forgetful(World):
    """Half of its queries are general questions; the further from the average, the more is lost."""

    def __call__(self, candidate: Candidate, queries: Sequence[str], split: str) -> list[Outcome]:
        found = super().__call__(candidate, queries, split)
        lost = float(np.mean(np.abs(self.away(candidate.coefficients))))
        return [
            Outcome(one.query, {"general": 0.8 - 0.5 * lost}) if int(one.query[1:]) % 2 else one
            for one in found
        ]


def searched(folder: Path, **floors: float) -> SearchResult:
    world = Forgetful(query_sd=0.05)
    config = SearchConfig(max_candidates=60, caution=0.0, race_first=0.5)
    goal = replace(Objective.parse("score=1"), floors=floors)
    return run_search(config, world.space, world.splits, world, folder, Silent(), objective=goal)


def test_a_search_chooses_the_best_that_the_floor_allows(tmp_path: Path) -> None:
    free = searched(tmp_path / "free")
    parts = {row.id: row.selection.parts for row in free.rows if row.selection}
    fell = parts["uniform"]["general"] - parts[free.chosen.id]["general"]
    assert free.chosen.id != "uniform" and fell > 0.05 and free.held_back == ()
    assert not any(text.en.startswith("Guard") for text in explain(free))

    guarded = searched(tmp_path / "guarded", general=0.05)
    held = dict(guarded.held_back)
    assert free.chosen.id in held and guarded.chosen.id not in held
    assert {"parent-1", "parent-2"} <= held.keys(), "they are the furthest from the average"
    told = next(text for text in explain(guarded) if text.en.startswith("Guard"))
    assert all(name in told.en and name in told.ja for name in held)
    assert "On the report questions" in told.en and "報告用" in told.ja
    assert json.loads(json.dumps(guarded.as_json()))["floors"] == {"general": 0.05}
    strict = searched(tmp_path / "strict", general=0.0)
    assert strict.chosen.id == "uniform" and "uniform" not in dict(strict.held_back)
    with pytest.raises(UserError, match="floors"):
        searched(tmp_path / "strict", general=0.1)


def test_the_form_knows_the_guard_and_does_not_count_it_as_judged(paths: Paths) -> None:
    small_home(paths)
    search = {"objective": "score=1, general=0.5", "max_candidates": 8}
    with_guard = merge_forms.look(evolve_config(search=search, guard=0.05), paths)
    assert with_guard.problem is None and with_guard.quote is not None
    without = merge_forms.look(evolve_config(search={**search, "objective": "score=1"}), paths)
    assert with_guard.quote["replies"] > 1.5 * without.quote["replies"]  # type: ignore[index]
    assert with_guard.judged == pytest.approx(without.judged, rel=0.05)


@pytest.mark.parametrize("guard", [-0.1, 1.5, "much"])
def test_a_floor_out_of_range_is_refused(guard: Any) -> None:
    with pytest.raises(UserError, match="guard"):
        evolve_config(guard=guard)
