"""Sequences of the parents' layers: their space, a search over them, what is written of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from judge_server import Reply, serving
from merge_home import evolve_config, small_home
from safetensors.torch import load_file, save_file
from test_merge_engines import TOKENS, float_model, logits
from test_merge_methods import make_family, steps_apart, written

from charllm.core.merging.blend import merge_with_mergekit
from charllm.core.merging.coefficients import Coefficients, hops, path_of
from charllm.core.merging.evolving import plan_for, quote_evolve, run_evolve, space_of
from charllm.core.merging.finalists import baselines, global_mixtures, shrunk_means
from charllm.core.merging.genome import LINEAR
from charllm.core.merging.journal import JOURNAL, Outcome
from charllm.core.merging.layer_space import LayerOptions, LayerSpace, layer_space, with_average
from charllm.core.merging.layers_engine import LayersEngine
from charllm.core.merging.parents import plan_merge
from charllm.core.merging.planning import Memory, plan
from charllm.core.merging.recipe import MergeRecipe
from charllm.core.merging.search import run_search
from charllm.core.merging.search_config import SearchConfig
from charllm.core.merging.splits import Splits
from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.data.files import read_json
from charllm.data.progress import Silent

PLENTY = Memory("cpu", 64.0, 64.0)
SPLITS = Splits(*(tuple(f"{split}{i}" for i in range(10)) for split in "abc"))
LAYERS = 3


def space(**options: Any) -> LayerSpace:
    settings = {"layers": LAYERS, "most": 5, **options}
    groups = ("embeddings", f"layers 0-{LAYERS - 1}", "head")
    return LayerSpace(groups, 2, method="passthrough", **settings)


def test_the_search_begins_with_the_first_parent() -> None:
    for found in (space(), space(repeats=2, scales=True)):
        assert path_of(found.coefficients(found.start)) == [(0, k, 1.0) for k in range(LAYERS)]
        assert found.size == len(found.start) == 6 * found.repeats * (1 + found.scales)
        low, high = found.bounds
        assert all(a <= x <= b for a, x, b in zip(low, found.start, high, strict=True))
        assert path_of(found.uniform("passthrough")) == path_of(found.only(0))


def test_a_sequence_is_never_too_long_and_never_empty() -> None:
    tried = space(repeats=2, scales=True)
    rng = np.random.default_rng(0)
    for _ in range(200):
        genes = rng.uniform(-1, 1, tried.size)
        path = path_of(tried.coefficients(tuple(genes)))
        assert 1 <= len(path) <= 5
        assert all(1 / 1.5 <= scale <= 1.5 for _, _, scale in path)
        where = [tried.places.index((p, k)) for p, k, _ in path]
        assert all(0 <= k < LAYERS and p in (0, 1) for p, k, _ in path) and where
    assert path_of(space().coefficients((-0.9, -0.8, -0.9, -0.9, -0.1, -0.9))) == [(1, 1, 1.0)]
    surest = space(most=2).coefficients((0.2, 0.9, 0.1, 0.3, -0.1, 0.2))
    assert path_of(surest) == [(0, 1, 1.0), (1, 0, 1.0)], "in their order, not by their genes"
    for wrong in ((0.1,) * 5, (0.1, 0.1, 0.1, 0.1, 0.1, math.nan)):
        with pytest.raises(ValueError):
            space().coefficients(wrong)


def test_vectors_and_sequences_stand_for_each_other() -> None:
    tried = space(repeats=2, scales=True)
    rng = np.random.default_rng(1)
    for _ in range(20):
        vector = tried.random(rng)
        found = tried.coefficients(vector)
        assert tried.vector(found) == vector
        plain = Coefficients("passthrough", found.weights)  # as somebody else would write it
        assert path_of(tried.coefficients(tried.vector(plain))) == [
            (p, k, pytest.approx(scale)) for p, k, scale in path_of(found)
        ]
    back = hops([(1, 0, 1.0), (0, 0, 1.0)])
    assert path_of(tried.coefficients(tried.vector(back))) == path_of(back)
    with pytest.raises(UserError, match="more repeats"):
        space().vector(back)


def test_what_is_drawn_back_loses_its_least_sure_changes_first() -> None:
    tried = space()
    found = tried.coefficients((0.5, -0.9, 0.5, -0.5, -0.5, 0.1))
    assert path_of(found) == [(0, 0, 1.0), (0, 2, 1.0), (1, 2, 1.0)]
    halfway = path_of(tried.shrunk(found, 0.6))
    assert halfway == [(0, 0, 1.0), (0, 2, 1.0)], "the layer that was barely added has gone"
    assert path_of(tried.shrunk(found, 0)) == path_of(tried.only(0))
    assert path_of(tried.shrunk(found, 1)) == path_of(found)
    assert tried.distance(found, tried.only(0)) == pytest.approx(2 / 6)


def test_random_sequences_stay_near_the_start_and_depend_on_the_seed() -> None:
    tried = space()
    draws = [tried.random(np.random.default_rng(seed)) for seed in range(300)]
    flips = [(x > 0) != (y > 0) for one in draws for x, y in zip(one, tried.start, strict=True)]
    assert 0.1 < sum(flips) / len(flips) < 0.22
    assert draws[0] == tried.random(np.random.default_rng(0)) != draws[1]


def test_sequences_are_held_against_the_parents_and_their_plain_averages() -> None:
    tried = space()
    methods = {one.id: one.coefficients.method for one in [*baselines(tried)]}
    assert methods == {"uniform": LINEAR, "parent-1": "passthrough", "parent-2": "passthrough"}
    assert all(one.coefficients.method == LINEAR for one in global_mixtures(tried))
    means = shrunk_means(tried, tried.coefficients(tried.start))
    assert all(one.coefficients.method == "passthrough" for one in means)


@pytest.mark.parametrize("strategy", ["cma", "random"])
def test_a_search_finds_layers_that_help_and_goes_on_after_a_kill(
    strategy: str, tmp_path: Path
) -> None:
    """A world in which one layer of each parent helps, and the first one's last layer harms."""
    tried = space(scales=True)

    def worth(candidate: Any, queries: Any, split: str) -> list[Outcome]:
        value = 0.0
        if candidate.coefficients.method == "passthrough":
            path = path_of(candidate.coefficients)
            there = {hop[:2] for hop in path}
            value = 0.4 * (((0, 0) in there) + ((1, 2) in there) - ((0, 2) in there))
            value -= sum(abs(math.log(scale)) for _, _, scale in path) / 20
        return [Outcome(query, {"score": value + int(query[1:]) / 100}) for query in queries]

    settings = SearchConfig(
        strategy=strategy,  # type: ignore[arg-type]
        max_candidates=144,
        population=12,
        race_first=1.0,
        race_more=0.0,
        seed=2,
    )
    found = run_search(settings, tried, SPLITS, worth, tmp_path / "whole", Silent())
    if strategy == "cma":
        there = {hop[:2] for hop in path_of(found.chosen.coefficients)}
        assert {(0, 0), (1, 2)} <= there and (0, 2) not in there
        assert (found.over_uniform, found.over_parent) == ("yes", "yes")

    lines = (tmp_path / "whole" / JOURNAL).read_text(encoding="utf-8").splitlines(keepends=True)
    torn = tmp_path / "torn"
    torn.mkdir()
    (torn / JOURNAL).write_text("".join(lines[:40]), encoding="utf-8")
    again = run_search(settings, tried, SPLITS, worth, torn, Silent())
    assert again.chosen == found.chosen
    assert (torn / JOURNAL).read_text(encoding="utf-8").splitlines(keepends=True) == lines


@pytest.fixture
def family(tmp_path: Path) -> Paths:
    paths = Paths(tmp_path, tmp_path / "workspace")
    make_family(paths.models, "llama")
    return paths


def test_plain_averages_are_mergekit_s_and_leave_the_parents_alone(family: Paths) -> None:
    engine = LayersEngine({name: float_model(family.models / name) for name in ("one", "two")})
    tried = layer_space(plan(family, ["one", "two"], "passthrough", memory=PLENTY), LayerOptions())
    before = {n: p.clone() for n, p in engine._models[0].named_parameters()}
    for mixed in (tried.uniform(), tried.mixture([0.75, 0.25])):
        engine.apply(mixed)
        mine = logits(engine.model)
        theirs = written(family, engine.recipe(mixed, "float32"), "mergekit")
        model = float_model(family.models / "one")
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(theirs[name])
        assert torch.allclose(mine, logits(model), atol=1e-5)
    assert all(torch.equal(before[n], p) for n, p in engine._models[0].named_parameters())
    engine.apply(tried.only(1))
    assert torch.equal(logits(engine.model), logits(float_model(family.models / "two")))
    engine.apply(tried.coefficients((0.5, 0.5, -0.5, -0.5, 0.5, 0.5)))
    assert engine.model(TOKENS).logits.isfinite().all()


def test_the_plan_counts_the_average_too(family: Paths) -> None:
    found = plan(family, ["one", "two"], "passthrough", memory=PLENTY)
    wide = with_average(found, PLENTY)
    assert wide.fits and wide.total_gb >= found.total_gb
    tight = Memory("cpu", found.total_gb - 0.001, 64.0)
    with pytest.raises(UserError, match="GB"):
        with_average(found, tight).require()


def test_what_the_engine_cannot_do_is_refused_before_it_loads(tmp_path: Path) -> None:
    paths = Paths(tmp_path, tmp_path / "workspace")
    make_family(paths.models, "gemma3_text")
    found = plan(paths, ["one", "two"], "passthrough", memory=PLENTY)
    assert layer_space(found, LayerOptions()).scales is False
    with pytest.raises(UserError, match=r"layers\.scales"):
        layer_space(found, LayerOptions(scales=True))
    with pytest.raises(UserError, match=r"search\.strategy"):
        layer_space(found, LayerOptions(), "grid")


def two_models(paths: Paths) -> None:
    """The small home's model, and another whose layers do something else."""
    small_home(paths)
    folder = paths.models / "other"
    folder.mkdir()
    for file in (paths.models / "tiny").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    noise = torch.Generator().manual_seed(1)
    for name, tensor in tensors.items():
        if "o_proj" in name:
            tensor += (0.3 * torch.randn(tensor.shape, generator=noise)).to(tensor.dtype)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_an_evolution_of_sequences_ends_in_a_model_that_mergekit_makes_too(paths: Paths) -> None:
    two_models(paths)
    with serving(lambda asked: Reply(content="口調は設定どおりです。\n5")) as server:
        evolve_sequences(paths, server.url)


def evolve_sequences(paths: Paths, url: str) -> None:
    parents = [f"workspace/models/{name}" for name in ("other", "tiny")]
    judge = {"kind": "endpoint", "model": "judge-1", "base_url": url}
    asked = evolve_config(parents=parents, method="passthrough", judge=judge)
    found = plan_for(asked, paths)
    tried = space_of(asked, found)
    assert isinstance(tried, LayerSpace) and tried.most == 3
    quote = quote_evolve(asked, paths)
    assert quote["plan"]["engine"] == "layers" and quote["genes"] == 4
    result = run_evolve(asked, Silent(), paths.workspace / "run", paths)
    rows = [json.loads(line) for line in (paths.workspace / "run/search" / JOURNAL).open()]
    members = [row for row in rows if row["role"] == "candidate"]
    assert all(row["coefficients"]["method"] == "passthrough" for row in members)
    lengths = {len(row["coefficients"]["weights"]) for row in members}
    assert lengths <= {1, 2, 3}
    report = read_json(paths.workspace / "run" / "report.json")
    assert {"uniform", "parent-1", "parent-2", "mean"} <= {row["id"] for row in report["rows"]}
    out = Path(result["out"])
    recipe = MergeRecipe.load(paths.workspace / "run" / "recipe.yaml")
    assert recipe.merge_method in ("passthrough", "linear")
    config = read_json(out / "config.json")
    kept = recipe.slices or ()
    assert config["num_hidden_layers"] == (2 if recipe.merge_method == "linear" else len(kept))
    merge_with_mergekit(
        plan_merge(paths.workspace / "run" / "recipe.yaml", paths), paths.root / "x"
    )
    mine, theirs = (load_file(folder / "model.safetensors") for folder in (out, paths.root / "x"))
    assert all(steps_apart(tensor, theirs[name]).max() <= 1 for name, tensor in mine.items())


def test_options_of_a_configuration_reach_the_space(paths: Paths) -> None:
    two_models(paths)
    parents = [f"workspace/models/{name}" for name in ("other", "tiny")]
    options = {"repeats": 2, "most": 5, "scales": True}
    asked = evolve_config(parents=parents, method="passthrough", layers=options)
    found = space_of(asked, plan_for(asked, paths))
    assert isinstance(found, LayerSpace)
    assert (found.repeats, found.most, found.scales, found.size) == (2, 5, True, 16)
    with pytest.raises(UserError, match=r"layers\.repeats"):
        evolve_config(parents=parents, method="passthrough", layers={"repeats": 0})
