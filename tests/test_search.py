"""The search's parts: space, strategies, race, objective, splits, budgets, failures."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from search_world import World, lines, search

from charllm.core.merging import pareto
from charllm.core.merging.coefficients import Coefficients
from charllm.core.merging.finalists import baselines, global_mixtures
from charllm.core.merging.genome import Candidate, Extra, Space, onto_simplex
from charllm.core.merging.journal import Failure, Journal, Outcome
from charllm.core.merging.objective import Objective
from charllm.core.merging.racing import Race, kept, places
from charllm.core.merging.search_config import SEARCH_GROUPS, SearchConfig, plan
from charllm.core.merging.search_report import explain
from charllm.core.merging.splits import Splits, split_queries
from charllm.core.merging.strategies import Cma, Random, grid, population_of
from charllm.data.errors import Text, UserError
from charllm.data.progress import Paused, Silent, Stopped
from charllm.data.queries import Query
from charllm.data.settings import settings_of

GROUPS = ("embeddings", "layers 0-3", "layers 4-7", "head")


# The space


@pytest.mark.parametrize("parents", [2, 3, 5])
@pytest.mark.parametrize("genes", ["simplex", "raw", "free"])
def test_a_vector_and_its_coefficients(genes: Any, parents: int) -> None:
    space = Space(GROUPS, parents, genes, extras=(Extra("density", 0.2, 1.0, 0.5),))
    rng = np.random.default_rng(0)
    for _ in range(20):
        vector = space.random(rng)
        assert len(vector) == space.size == 4 * space.genes + 1
        mixed = space.coefficients(vector)
        again = space.coefficients(space.vector(mixed))
        for group in GROUPS:
            assert again.weights[group] == pytest.approx(mixed.weights[group])
            if genes != "free":
                assert min(mixed.weights[group]) >= 0
                assert sum(mixed.weights[group]) == pytest.approx(1)
        assert again.extra["density"] == pytest.approx(mixed.extra["density"])
        assert all(
            lo - 1e-9 <= x <= hi + 1e-9 for x, lo, hi in zip(vector, *space.bounds, strict=True)
        )


@pytest.mark.parametrize("genes", ["simplex", "raw", "free"])
def test_it_starts_at_the_plain_average(genes: Any) -> None:
    space = Space(GROUPS, 3, genes)
    assert space.coefficients(space.start).weights == {
        group: pytest.approx((1 / 3,) * 3) for group in GROUPS
    }


def test_the_raw_genes_are_the_studys() -> None:
    """Two genes a group, and the share α / (α + β)."""
    mixed = Space(("g",), 2, "raw").coefficients([0.2, 0.6])
    assert mixed.weights["g"] == pytest.approx((0.25, 0.75))
    assert Space(("g",), 2, "raw").coefficients([0.0, 0.0]).weights["g"] == (0.5, 0.5)


def test_distances_between_vectors_are_those_between_weights() -> None:
    """So no parent has a special place, as it has where the last weight is what is left over."""
    space = Space(("g",), 3)
    corners = [space.vector(space.only(k)) for k in range(3)]
    sides = [math.dist(corners[i], corners[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert sides == pytest.approx([math.sqrt(2)] * 3)
    assert space.start == pytest.approx((0, 0))


def test_outside_of_the_simplex_the_nearest_mixture_counts() -> None:
    assert onto_simplex([1.2, -0.2]) == pytest.approx((1, 0))
    assert onto_simplex([0.9, 0.5, -0.4]) == pytest.approx((0.7, 0.3, 0))
    assert onto_simplex([0.2, 0.3, 0.5]) == pytest.approx((0.2, 0.3, 0.5))


def test_shrinking_and_distance() -> None:
    space = Space(GROUPS, 2, extras=(Extra("density", 0.0, 1.0, 0.5),))
    mixed = Coefficients("linear", dict.fromkeys(GROUPS, (0.9, 0.1)), {"density": 0.7})
    half = space.shrunk(mixed, 0.5)
    assert half.weights["head"] == pytest.approx((0.7, 0.3))
    assert half.extra["density"] == pytest.approx(0.6)
    assert space.shrunk(mixed, 0).weights == {g: (0.5, 0.5) for g in GROUPS}
    assert space.distance(mixed, half) == pytest.approx(0.2)
    assert space.distance(space.only(0), space.only(1)) == 1


def test_a_space_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="two parents"):
        Space(GROUPS, 1)
    with pytest.raises(UserError, match="same name"):
        Space(("a", "a"), 2)
    with pytest.raises(UserError, match="density"):
        Space(GROUPS, 2, extras=(Extra("density", 0.5, 1.0, 0.2),))
    with pytest.raises(ValueError, match="4 numbers"):
        Space(GROUPS, 2).coefficients([0.1] * 3)
    with pytest.raises(ValueError, match="4 numbers"):
        Space(GROUPS, 2).coefficients([0.1, 0.1, 0.1, math.nan])


# Strategies


def sphere(vectors: Sequence[Sequence[float]], target: float) -> list[float]:
    return [sum((x - target) ** 2 for x in vector) for vector in vectors]


@pytest.mark.parametrize(("groups", "parents"), [(1, 2), (8, 2), (6, 3)])
def test_cma_finds_an_optimum_within_its_bounds(groups: int, parents: int) -> None:
    space = Space(tuple(map(str, range(groups))), parents)
    cma = Cma(space, 1, population_of(space.size), 0.25, 0.01)
    low, high = space.bounds
    for _ in range(100):
        vectors = cma.ask()
        assert all(lo <= x <= hi for v in vectors for x, lo, hi in zip(v, low, high, strict=True))
        cma.tell(vectors, sphere(vectors, 0.4))
    assert cma.mean == pytest.approx([0.4] * space.size, abs=0.03)
    assert cma.finished and "収束" in cma.finished.ja


def test_a_single_gene_may_spread_as_far_as_it_likes() -> None:
    space = Space(("all",), 2)
    for seed in range(4):
        cma, chance = Cma(space, seed, 4, 0.25, 0.01), np.random.default_rng(seed)
        for _ in range(30):
            vectors = cma.ask([(0.3,)])
            assert len(vectors) == 4 and {len(vector) for vector in vectors} == {1}
            cma.tell(vectors, list(chance.random(4)))
        assert len(cma.mean) == len(cma.spread) == 1


def test_a_strategy_depends_on_its_seed_alone() -> None:
    """Whatever others draw from numpy's global generator meanwhile."""
    space = Space(GROUPS, 2)
    for make in (lambda seed: Cma(space, seed, 8, 0.25, 0.01), lambda seed: Random(space, seed, 8)):
        runs = []
        for noise, seed in ((0, 5), (1, 5), (0, 6)):
            np.random.seed(noise)
            strategy, asked = make(seed), []
            for _ in range(4):
                np.random.standard_normal(noise + 1)
                asked.append(strategy.ask())
                strategy.tell(asked[-1], sphere(asked[-1], 0.2))
            runs.append(asked)
        assert runs[0] == runs[1] != runs[2]


def test_the_population_follows_the_rule() -> None:
    """As pycma has it; figures from the notes on its source."""
    assert [population_of(n) for n in (8, 16, 24, 32, 64)] == [10, 12, 13, 14, 16]


def test_a_grid_has_every_mixture_and_refuses_to_explode() -> None:
    points = list(grid(Space(("a", "b"), 2), 2, 100))
    assert len(set(points)) == 9
    three = [Space(("a",), 3).coefficients(v).weights["a"] for v in grid(Space(("a",), 3), 2, 9)]
    assert len(three) == 6 and all(sum(row) == pytest.approx(1) for row in three)
    with pytest.raises(UserError, match="390625 points"):
        list(grid(Space(tuple("abcdefgh"), 2), 4, 1000))


@pytest.mark.parametrize("strategy", ["random", "grid"])
def test_other_strategies_run_to_the_report(strategy: str, tmp_path: Path) -> None:
    world = World(groups=2, query_sd=0.1)
    result = search(world, tmp_path, strategy=strategy, max_candidates=40, population=8)
    assert result.stop.code == ("exhausted" if strategy == "grid" else "candidates")
    assert world.true(result.chosen.coefficients) > 0
    assert sum(name.startswith("('g") for name in lines(tmp_path)) >= 25


def test_warm_start_begins_where_the_earlier_one_was_good(tmp_path: Path) -> None:
    world = World(query_sd=0.1)
    search(world, tmp_path / "first", max_candidates=64)
    warm = search(
        world, tmp_path / "warm", warm_start=str(tmp_path / "first"), max_candidates=8, sigma=0.05
    )
    cold = search(world, tmp_path / "cold", max_candidates=8, sigma=0.05)
    assert warm.generations[0].best_gain > cold.generations[0].best_gain + 0.02
    with pytest.raises(UserError, match="no search over the same"):
        search(World(groups=5), tmp_path / "x", warm_start=str(tmp_path / "first"))


# Race


def test_a_generation_sees_the_same_queries_and_the_next_others() -> None:
    queries = [f"q{i}" for i in range(100)]
    race = Race(0.2, 0.3)
    first, more = race.rungs(queries, 1, 1)
    assert (len(first), len(more)) == (20, 30) and not set(first) & set(more)
    assert race.rungs(queries, 1, 1) == [first, more]
    assert race.rungs(queries, 1, 2)[0] != first != race.rungs(queries, 2, 1)[0]
    assert race.queries(100, 10) == 10 * 20 + 5 * 30
    assert Race(1.0, 0.0).rungs(queries, 1, 1) == [tuple(queries)]
    assert Race(0.2, 0.0).queries(100, 10) == 200


def test_kinds_of_queries_have_their_share_of_every_rung() -> None:
    queries = [f"q{i}" for i in range(100)]
    kinds = {q: ("guard" if i < 12 else "score",) for i, q in enumerate(queries)}
    for generation in range(5):
        first, more = Race(0.25, 0.25).rungs(queries, 1, generation, kinds)
        assert [len(first), len(more)] == [25, 25]
        assert [sum("guard" in kinds[q] for q in rung) for rung in (first, more)] == [3, 3]
    few = {q: "rare" if i == 0 else "common" for i, q in enumerate(queries)}
    assert "q0" in Race(0.1, 0.1).rungs(queries, 1, 1, few)[0]


def test_places_put_the_further_first_and_the_failed_last() -> None:
    assert places(["a", "b", "c", "d", "e"], [["c", "a"], ["e"]]) == [1, 3, 0, 3, 2]
    assert [kept(n) for n in (0, 1, 2, 9, 10)] == [0, 1, 1, 5, 5]


def test_a_whole_generation_answers_the_same(tmp_path: Path) -> None:
    search(World(), tmp_path)
    asked: dict[tuple[int, int], set[tuple[str, ...]]] = {}
    count: Counter[tuple[int, int]] = Counter()
    for row in lines(tmp_path).values():
        if row["split"] == "search" and row["generation"]:
            key = row["generation"], row["rung"]
            asked.setdefault(key, set()).add(tuple(one["query"] for one in row["outcomes"]))
            count[key] += 1
    assert all(len(sets) == 1 for sets in asked.values())
    assert count == {(g, rung): (8, 4)[rung] for g in (1, 2, 3, 4) for rung in (0, 1)}


# Splits


def test_splits_must_be_three_and_have_nothing_in_common() -> None:
    ids = [f"q{i}" for i in range(30)]
    whole = Splits(tuple(ids[:10]), tuple(ids[10:20]), tuple(ids[20:]))
    assert whole.of("selection") == tuple(ids[10:20])
    with pytest.raises(UserError, match="report split has 0 queries"):
        Splits(tuple(ids[:10]), tuple(ids[10:20]), ())
    with pytest.raises(UserError, match="'q3' stands in the search and the report split"):
        Splits(tuple(ids[:10]), tuple(ids[10:20]), (*ids[20:], "q3"))
    with pytest.raises(UserError, match="twice"):
        Splits((*ids[:10], "q3"), tuple(ids[10:20]), tuple(ids[20:]))


def test_the_same_words_in_two_splits_are_refused() -> None:
    def queries(last: str) -> list[Query]:
        splits = ["search"] * 10 + ["selection"] * 10 + ["report"] * 10
        texts = [*(f"質問{i}" for i in range(29)), last]
        rows = zip(texts, splits, strict=True)
        return [Query(id=f"q{i}", text=t, split=s) for i, (t, s) in enumerate(rows)]  # type: ignore[arg-type]

    assert len(split_queries(queries("別の質問")).report) == 10
    with pytest.raises(UserError, match="search and the report"):
        split_queries(queries("質問３"))


def test_the_shipped_queries_can_be_searched_with(paths: Any) -> None:
    from charllm.data.queries import load_queries

    for file in sorted(paths.queries.glob("*.jsonl")):
        assert len(split_queries(load_queries(file)).search) > 50


# Objective


@pytest.mark.parametrize(
    "text",
    ["score=-1", "score=0", "", "score=nan", "score=inf", "score=a lot", "score=1, score=2", "=1"],
)
def test_nonsense_weights_are_refused(text: str) -> None:
    with pytest.raises(UserError) as refused:
        Objective.parse(text)
    assert "score=1, style=0.5" in refused.value.text.en and "重み" in refused.value.text.ja
    with pytest.raises(ValueError, match="objective"):
        SearchConfig(objective=text)


def test_parts_are_weighed_on_their_own_scales() -> None:
    objective = Objective.parse("judge=3, loss=1", {"judge": (1.0, 7.0)})
    outcomes = [Outcome("a", {"judge": 4.0, "loss": 2.0, "style": 0.3})]
    # (3 * (4 - 1) / 6 + 1 * (1 - 2)) / 4
    assert objective.values(outcomes) == {"a": pytest.approx(0.125)}
    assert objective.part_means(outcomes) == {"judge": 4.0, "loss": 2.0, "style": 0.3}


def test_queries_of_several_kinds_count_as_their_parts_do() -> None:
    """Ten questions for the character, two that guard general knowledge: each mean has its
    weight."""
    objective = Objective.parse("score=3, guard=1")
    asked = [Outcome(f"q{i}", {"score": i / 10}) for i in range(10)]
    guards = [Outcome("g1", {"guard": 1.0}), Outcome("g2", {"guard": 0.0})]
    values = objective.values([*asked, *guards])
    mean = sum(value for value in values.values() if value is not None) / 12
    assert mean == pytest.approx(0.75 * 0.45 + 0.25 * 0.5)
    assert objective.values(asked)["q4"] == pytest.approx(0.4)  # no guard among them


def test_an_unscored_part_is_no_zero() -> None:
    objective = Objective.parse("score=1, gate=1")
    found = objective.values(
        [Outcome("a", {"score": None, "gate": 1.0}), Outcome("b", {"score": 0.5, "gate": 1.0})]
    )
    assert found == {"a": None, "b": 0.75}
    with pytest.raises(UserError, match="no number"):
        Outcome("a", {"score": math.nan})


def test_a_part_that_nobody_measures_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"names style.*there are score"):
        search(World(), tmp_path, objective="style")
    assert {row["generation"] for row in lines(tmp_path).values()} == {0}


def test_fronts_and_their_order() -> None:
    points = [(0, 3), (1, 1), (3, 0), (2, 2), (0, 0), (2.1, 1.9)]
    assert pareto.fronts(points) == [0, 1, 0, 0, 2, 0]
    order = pareto.order(points)
    assert set(order[:2]) == {0, 2} and order[-2:] == [1, 4]
    assert pareto.fronts([]) == [] and pareto.fronts([(1,), (1,)]) == [0, 0]


def test_several_objectives_give_a_front(tmp_path: Path) -> None:
    """Two parts that pull apart: the front has mixtures for both, and none that another beats."""
    world = World(query_sd=0.0)

    def two(candidate: Candidate, queries: Sequence[str], split: str) -> list[Outcome]:
        away = world.away(candidate.coefficients)
        parts = {"score": 1 - float(((away - 0.2) ** 2).mean()), "style": float(away.mean())}
        return [Outcome(query, parts) for query in queries]

    result = search(world, tmp_path, evaluate=two, goals="pareto", objective="score, style")
    rows = {row["id"]: row["outcomes"][0]["parts"] for row in lines(tmp_path).values()}
    front = [tuple(rows[name].values()) for name in result.pareto]
    assert len(front) > 2
    assert not any(pareto.dominates(a, b) for a in front for b in front)


# Failures


def test_a_failing_candidate_costs_itself_alone(tmp_path: Path) -> None:
    world = World(query_sd=0.1)

    def sometimes(candidate: Candidate, queries: Sequence[str], split: Any) -> list[Outcome]:
        if candidate.id in ("g001c02", "g002c00", "parent-2"):
            raise RuntimeError("out of memory")
        if candidate.id == "g002c01":
            return world(candidate, queries[:-1], split)
        if candidate.id == "g003c00":
            return [Outcome(query, {"score": None}) for query in queries]
        return world(candidate, queries, split)

    result = search(world, tmp_path, evaluate=sometimes)
    failed = dict(result.failed)
    assert set(failed) == {"g001c02", "g002c00", "g002c01", "parent-2"}
    assert failed["g001c02"].en == "RuntimeError: out of memory"
    assert "do not match" in failed["g002c01"].en
    assert [generation.failed for generation in result.generations] == [1, 2, 1, 0]
    assert world.true(result.chosen.coefficients) > 0.02
    assert result.best_parent == "parent-1"
    assert "4 candidates could not" in "\n".join(text.en for text in explain(result))
    assert search(world, tmp_path, evaluate=sometimes).as_json() == result.as_json()


def test_the_mean_may_fail_among_the_finalists(tmp_path: Path) -> None:
    world = World(query_sd=0.1)

    def evaluate(candidate: Candidate, queries: Sequence[str], split: Any) -> list[Outcome]:
        if candidate.id == "mean" and split == "selection":
            raise RuntimeError("out of memory")
        return world(candidate, queries, split)

    result = search(world, tmp_path, evaluate=evaluate)
    claim = next(one for one in result.claims if one.candidate.id == "mean")
    assert result.chosen.id.startswith("shrunk") and claim.claimed is None
    assert dict(result.failed)["mean"].en == "RuntimeError: out of memory"


def test_an_interval_counts_the_queries_that_were_scored(tmp_path: Path) -> None:
    world = World(query_sd=0.1)

    def evaluate(candidate: Candidate, queries: Sequence[str], split: Any) -> list[Outcome]:
        found = world(candidate, queries, split)
        if split != "report" or candidate.role == "parent":
            return found
        return [*(Outcome(one.query, {"score": None}) for one in found[:7]), *found[7:]]

    result = search(world, tmp_path, evaluate=evaluate)
    report = result.row("uniform").report
    assert report is not None and report.unscored == 7 and report.value.n == 33
    assert result.gain_uniform is not None and result.gain_uniform.n == 33
    assert "33 queries" in "\n".join(text.en for text in explain(result))


def test_where_nothing_can_be_scored_it_pauses_and_goes_on_later(tmp_path: Path) -> None:
    world, down = World(), True
    whole = search(world, tmp_path / "whole")

    def outage(candidate: Candidate, queries: Sequence[str], split: Any) -> list[Outcome]:
        if down and candidate.generation >= 2:
            raise UserError("The judge does not answer.", "採点サーバーが応答しません。")
        return world(candidate, queries, split)

    with pytest.raises(Paused) as paused:
        search(world, tmp_path / "here", evaluate=outage)
    assert "The judge does not answer." in paused.value.text.en
    assert "採点サーバーが応答しません" in paused.value.text.ja
    down = False
    again = search(world, tmp_path / "here", evaluate=outage)
    assert again.failed == ()
    assert again.as_json() == whole.as_json()


def test_a_judge_that_scores_nothing_ends_it_before_the_budget_is_spent(tmp_path: Path) -> None:
    world, asked = World(), 0

    def evaluate(candidate: Candidate, queries: Sequence[str], split: Any) -> list[Outcome]:
        nonlocal asked
        asked += 1
        return [Outcome(query, {"score": None}) for query in queries]

    with pytest.raises(UserError, match="could be scored") as refused:
        search(world, tmp_path, evaluate=evaluate)
    assert "採点できなかった" in refused.value.text.ja and asked <= 7


def test_stopped_and_paused_pass_through(tmp_path: Path) -> None:
    for error in (Stopped(), Paused("wait", "待機")):

        def raising(*_: Any, error: Exception = error) -> Any:
            raise error

        with pytest.raises(type(error)):
            search(World(), tmp_path, evaluate=raising)
    assert lines(tmp_path) == {}


def test_a_generation_at_once_is_the_same_search(tmp_path: Path) -> None:
    world = World(noise=0.1)
    single = search(world, tmp_path / "single")
    asked = []

    def many(candidates: Sequence[Candidate], queries: Sequence[str], split: Any) -> list[Any]:
        asked.append(len(candidates))
        return [world(candidate, queries, split) for candidate in candidates]

    batch = search(world, tmp_path / "batch", evaluate_many=many)
    assert batch.as_json() == single.as_json()
    assert lines(tmp_path / "batch") == lines(tmp_path / "single")
    assert asked[1:9] == [8, 4] * 4


def test_a_batch_that_breaks_off_keeps_what_came(tmp_path: Path) -> None:
    world = World()
    sent = 0

    def breaking(candidates: Sequence[Candidate], queries: Sequence[str], split: Any) -> Any:
        nonlocal sent
        for candidate in candidates:
            sent += 1
            if sent == 12:
                raise RuntimeError("the worker died")
            yield Failure(Text("no", "不可")) if sent == 11 else world(candidate, queries, split)

    result = search(world, tmp_path, evaluate_many=breaking)
    assert dict(result.failed)["g001c03"].en == "no"
    assert sum("worker died" in why.en for _, why in result.failed) == 4


# Budgets


def test_a_budget_is_whole_generations(tmp_path: Path) -> None:
    world = World()
    whole = plan(SearchConfig(max_candidates=35), world.space, world.splits)
    assert (whole.population, whole.generations, whole.candidates) == (8, 4, 32)
    result = search(world, tmp_path, max_candidates=35)
    members = {row["id"] for row in lines(tmp_path).values() if row["role"] == "candidate"}
    assert len(members) == 32
    assert result.stop.code == "candidates" and result.stop.generation == 4
    replies = whole.baselines + whole.search + whole.selection
    assert replies < result.spent.queries <= whole.replies
    with pytest.raises(UserError, match="at least one generation"):
        plan(SearchConfig(max_candidates=7), world.space, world.splits)


@pytest.mark.parametrize("kind", ["calls", "money"])
def test_a_spent_budget_leaves_room_for_the_report(kind: str, tmp_path: Path) -> None:
    world = World()

    def priced(candidate: Candidate, queries: Sequence[str], split: Any) -> list[Outcome]:
        found = world(candidate, queries, split)
        return [Outcome(one.query, one.parts, calls=1, money=0.001) for one in found]

    limits: dict[str, dict[str, Any]] = {"calls": {"max_calls": 1000}, "money": {"max_money": 1.0}}
    result = search(world, tmp_path, evaluate=priced, **limits[kind])
    assert result.stop.code == kind
    assert 0 < len(result.generations) < 4
    assert result.spent.calls <= 1000 and result.spent.money <= 1.0
    assert result.gain_uniform is not None


def test_a_budget_below_one_generation_pauses_and_can_be_raised(tmp_path: Path) -> None:
    world = World()
    with pytest.raises(Paused, match="max_calls") as paused:
        search(world, tmp_path, max_calls=300)
    assert "max_calls を増やして" in paused.value.text.ja
    assert search(world, tmp_path, max_calls=100_000).stop.code == "candidates"


def test_no_call_is_made_beyond_the_budget_whatever_is_asked(tmp_path: Path) -> None:
    """Seven baselines take 280 calls here, finalists and report 500 more."""
    world = World()
    for limit in (90, 290, 700):
        with pytest.raises(Paused, match="max_calls"):
            search(world, tmp_path / str(limit), max_calls=limit)
        assert Journal(tmp_path / str(limit)).spent.calls < limit + 40, "one candidate's at most"
    search(world, tmp_path / "whole")
    spent = Journal(tmp_path / "whole").spent.calls
    dear = 0

    def dearer(candidate: Candidate, queries: Sequence[str], split: Any) -> list[Outcome]:
        nonlocal dear
        found = world(candidate, queries, split)
        dear += 3 * len(found) if split == "report" else 0
        return [replace(one, calls=4) for one in found] if split == "report" else found

    with pytest.raises(Paused, match="is spent before the end"):
        search(world, tmp_path / "dear", evaluate=dearer, max_calls=spent)
    assert Journal(tmp_path / "dear").spent.calls < spent + 160
    again = search(world, tmp_path / "dear", evaluate=dearer, max_calls=spent + dear + 2000)
    assert again.opened == 1 and again.gain_uniform is not None


def test_hours_end_a_search_too(tmp_path: Path) -> None:
    world = World()

    def slow(candidate: Candidate, queries: Sequence[str], split: Any) -> list[Outcome]:
        import time

        time.sleep(0.02)
        return world(candidate, queries, split)

    hours = 1.2 / 3600
    result = search(world, tmp_path, evaluate=slow, max_hours=hours, max_candidates=400)
    assert result.stop.code == "hours"
    assert 0 < len(result.generations) < 50
    assert search(world, tmp_path, max_hours=hours, max_candidates=400).stop == result.stop


def test_a_settled_search_stops_by_itself(tmp_path: Path) -> None:
    world = World(query_sd=0.0)
    result = search(world, tmp_path, max_candidates=2000, least_spread=0.05)
    assert result.stop.code == "converged"
    assert max(result.generations[-1].spread) < 0.05
    assert "converged" in "\n".join(text.en for text in explain(result))


# What is compared


def test_three_parents_and_another_method(tmp_path: Path) -> None:
    """A method's own average is a finalist beside the plain one, which stays linear."""
    base = World(groups=2)
    space = Space(("a", "b"), 3, method="ties", extras=(Extra("density", 0.1, 1.0, 0.5),))

    def three(candidate: Candidate, queries: Sequence[str], split: Any) -> list[Outcome]:
        first = sum(row[0] for row in candidate.coefficients.weights.values()) / 2
        bonus = 0.1 * (candidate.coefficients.method == "ties")
        rows = [base.row[query] for query in queries]
        values = [base.base[row] + bonus - (first - 0.5) ** 2 for row in rows]
        return [Outcome(q, {"score": float(v)}) for q, v in zip(queries, values, strict=True)]

    base.space = space
    result = search(base, tmp_path, evaluate=three)
    assert [row.role for row in result.rows].count("parent") == 3
    assert {row.id for row in result.rows} >= {"start", "uniform", "mean", "shrunk-0.50"}
    assert result.over_uniform == "yes" == result.over_parent
    assert result.chosen.coefficients.method == "ties"
    assert result.row("uniform").coefficients.method == "linear"
    assert len(global_mixtures(space)) == 6 and len(baselines(space)) == 4


def test_a_better_parent_is_named_and_may_be_chosen(tmp_path: Path) -> None:
    world = World(query_sd=0.0)
    world.own[:] = 0.5  # everybody's optimum is the first parent
    result = search(world, tmp_path, max_candidates=8, sigma=0.01)
    assert result.best_parent == "parent-1" == result.chosen.id
    assert (result.over_uniform, result.over_parent) == ("yes", "no")


def test_every_part_is_kept_for_every_candidate(tmp_path: Path) -> None:
    world = World()

    def parts(candidate: Candidate, queries: Sequence[str], split: Any) -> list[Outcome]:
        found = world(candidate, queries, split)
        return [Outcome(one.query, {**one.parts, "style": 0.5, "gate": 1.0}) for one in found]

    result = search(world, tmp_path, evaluate=parts)
    for row in lines(tmp_path).values():
        assert all(set(one["parts"]) == {"score", "style", "gate"} for one in row["outcomes"])
    assert result.row("uniform").report.parts["style"] == 0.5
    text = json.dumps(result.as_json())
    assert json.loads(text)["stop"]["text"]["ja"] and "NaN" not in text


# Settings


def test_every_setting_has_words_in_both_languages() -> None:
    settings = settings_of(SearchConfig)
    assert {one.name for one in settings} == set(SearchConfig.model_fields)
    for one in settings:
        assert one.label.en and one.label.ja and one.group in SEARCH_GROUPS
        assert bool(one.help.en) == bool(one.help.ja)


def test_the_configuration_survives_its_file_and_refuses_nonsense(tmp_path: Path) -> None:
    config = SearchConfig(objective="score=1, style=0.5", max_calls=500)
    config.save(tmp_path / "search.yaml")
    assert SearchConfig.load(tmp_path / "search.yaml") == config
    with pytest.raises(ValueError, match="race_first and race_more"):
        SearchConfig(race_first=0.8, race_more=0.5)


def test_a_needed_evaluation_is_asked_for(tmp_path: Path) -> None:
    from charllm.core.merging.search import run_search

    world = World()
    with pytest.raises(ValueError, match="evaluate"):
        run_search(SearchConfig(), world.space, world.splits, None, tmp_path, Silent())
