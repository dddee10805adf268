"""Every method on every family: the dense engine and our files against mergekit itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_models import byte_tokenizer

from charllm.core.merging.blend import MergeConfig, run_merge
from charllm.core.merging.coefficients import Coefficients, even, layer_groups
from charllm.core.merging.dense import DenseEngine
from charllm.core.merging.engines import open_engine
from charllm.core.merging.evolve_config import EvolveConfig
from charllm.core.merging.evolving import plan_for, space_of
from charllm.core.merging.mergekit_engine import MergekitEngine
from charllm.core.merging.recipe import MergeRecipe
from charllm.core.merging.sources import ModelFiles
from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.data.progress import Silent

LAYERS = 3
SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False},
    "mistral": {"tie_word_embeddings": False},
    "gemma2": {},
    "gemma3_text": {},
    "qwen2": {"tie_word_embeddings": False},
    "qwen3": {"tie_word_embeddings": True},
}
METHODS = ("linear", "slerp", "task_arithmetic", "ties", "dare_ties", "dare_linear")
GROUPS = layer_groups(LAYERS, 2)


def make_family(folder: Path, family: str, dtype: torch.dtype = torch.bfloat16) -> None:
    """A base and two models that each differ from it by a fifth of its weights' size."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(len(family))
    config = AutoConfig.for_model(family, **{**SHAPE, **FAMILIES[family]})
    model: Any = AutoModelForCausalLM.from_config(config)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    for number, name in enumerate(("base", "one", "two")):
        torch.manual_seed(100 + number)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                noise = 0.02 * torch.randn_like(parameter)
                slant = 0.5 * start[key] if name == "two" else 0
                parameter.copy_(start[key] + (0 if name == "base" else noise + slant))
        model.to(dtype).save_pretrained(folder / name)
        model.float()


@pytest.fixture(scope="module", params=FAMILIES)
def home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    folder = tmp_path_factory.mktemp(request.param)
    paths = Paths(folder, folder / "workspace")
    make_family(paths.models, request.param)
    return paths


def candidate(method: str) -> Coefficients:
    """Weights that differ from group to group, and every number of the method's."""
    weights: dict[str, tuple[float, ...]] = {
        "embeddings": (0.3, 0.7),
        "layers 0-1": (0.9, 0.1),
        "layers 2-2": (0.25, 0.75),
        "head": (0.6, 0.4),
    }
    extra = {}
    if method not in ("linear", "slerp"):
        extra = {"lambda": 0.8}
    if method in ("ties", "dare_ties", "dare_linear"):
        extra |= {"density": 0.6, "density@layers 2-2": 0.4, "density#1": 0.7, "normalize": 1.0}
        extra |= {"density@embeddings#0": 0.3}
    if method == "dare_ties":
        extra["normalize"] = 0.0
    return Coefficients(method, weights, extra)


def open_dense(paths: Paths, method: str, **options: Any) -> DenseEngine:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(paths.models / "one", dtype=torch.bfloat16)
    names = ["one", "two"] if method in ("linear", "slerp") else ["base", "one", "two"]
    sources: Any = {name: ModelFiles(paths.models / name) for name in names}
    base = "" if len(names) == 2 else "base"
    return DenseEngine(model, sources, 2, base, **{"compiled": False, **options})


def written(paths: Paths, recipe: MergeRecipe, engine: str) -> dict[str, torch.Tensor]:
    recipe.save(paths.root / "recipe.yaml")
    out = paths.workspace / f"out-{engine}"
    config = MergeConfig(recipe="recipe.yaml", out=str(out), engine=engine)  # type: ignore[arg-type]
    run_merge(config, Silent(), paths.root, paths)
    found: dict[str, torch.Tensor] = {}
    for file in out.glob("*.safetensors"):
        found |= load_file(file)
    return found


def load_yaml_text(text: str) -> Any:
    import yaml

    return yaml.safe_load(text)


def steps_apart(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """How many roundings of bfloat16 lie between two tensors, elementwise.

    Where parents cancel out, float32's own rounding of the largest weights is allowed for.
    """
    unit = torch.maximum(a.float().abs(), b.float().abs()).clamp(min=1e-30)
    difference = ((a.float() - b.float()).abs() - 2**-22 * unit.max()).clamp(min=0)
    return difference / torch.exp2(unit.log2().floor() - 7)


def assert_same(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """Equal within one rounding, and nearly everywhere equal."""
    assert mine.keys() <= theirs.keys()
    assert all("lm_head" in name for name in theirs.keys() - mine.keys())  # a tied head
    count = off = 0
    for name, tensor in mine.items():
        apart = steps_apart(tensor, theirs[name])
        assert apart.max() <= 1, name
        count, off = count + apart.numel(), off + int((apart > 0).sum())
    assert off <= 5e-3 * count


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("method", METHODS)
def test_engine_file_and_mergekit_agree(home: Paths, method: str, one_thread: None) -> None:
    genome = candidate(method)
    engine = open_dense(home, method)
    effect = engine.apply(genome)
    live = {name: p.detach().clone() for name, p in engine.model.named_parameters()}
    recipe = engine.recipe(genome)
    assert MergeRecipe.from_data(load_yaml_text(recipe.to_yaml()), "again") == recipe
    mine = written(home, recipe, "resident")
    theirs = written(home, recipe, "mergekit")
    assert_same(live, mine)
    assert_same(mine, theirs)
    assert effect.seconds > 0 and not effect.warn
    assert set(effect.asked) == set(engine.groups)
    again = engine.apply(even(method, engine.groups, 2))
    assert again.scales is None
    engine.apply(genome)  # what came between leaves no trace
    assert all(torch.equal(p, live[name]) for name, p in engine.model.named_parameters())
    assert engine.model(torch.tensor([[1, 2, 3]])).logits.isfinite().all()
    assert math.isclose(sum(effect.asked.values()), sum(effect.effective.values()), rel_tol=0.1)


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare_ties", "dare_linear", "della"])
def test_the_plain_average_and_the_parents_are_themselves_beside_any_method(
    method: str, tmp_path: Path
) -> None:
    """What a search compares with must not be bent by the method that is searched."""
    paths = Paths(tmp_path, tmp_path / "workspace")
    make_family(paths.models, "llama")
    for name in ("base", "one", "two"):
        byte_tokenizer().save_pretrained(paths.models / name)
    names = ("one", "two")
    asked = {"name": "x", "profile": "p", "method": method, "base": "workspace/models/base"}
    folders = [f"workspace/models/{name}" for name in names]
    config = EvolveConfig.from_data({**asked, "parents": folders, "group_size": 2}, "the test")
    found = plan_for(config, paths)
    space, engine = space_of(config, found), open_engine(found, 2, compiled=False)
    engine.apply(space.coefficients(space.start))
    own = {name: load_file(paths.models / name / "model.safetensors") for name in names}
    mean = {k: (v.float() + own["two"][k].float()) / 2 for k, v in own["one"].items()}
    for mixture, wanted in (
        (space.uniform(), mean),
        *((space.only(k), own[name]) for k, name in enumerate(names)),
    ):
        engine.apply(mixture)
        for name, parameter in engine.model.named_parameters():
            assert torch.equal(parameter, wanted[name].to(parameter.dtype)), name
    theirs = written(paths, engine.recipe(space.uniform()), "mergekit")
    assert_same({k: v.to(torch.bfloat16) for k, v in mean.items()}, theirs)


OTHERS = {
    "nuslerp": ("", {}),
    "breadcrumbs": ("base", {"density": 0.5, "lambda": 0.8}),
    "della": ("base", {"density": 0.5, "epsilon": 0.1}),
    "nearswap": ("one", {"t": 0.01}),
    "karcher": ("", {}),
}


@pytest.mark.parametrize("method", OTHERS)
def test_other_methods_are_mergekit_s_own(method: str, tmp_path: Path) -> None:
    """The in-memory engine and mergekit to disk, with the same random numbers."""
    from transformers import AutoModelForCausalLM

    paths = Paths(tmp_path, tmp_path / "workspace")
    make_family(paths.models, "llama", torch.float32)
    base, extra = OTHERS[method]
    names = [*([base] if base else []), *(n for n in ("one", "two") if n != base)]
    model: Any = AutoModelForCausalLM.from_pretrained(paths.models / "one", dtype=torch.float32)
    sources: Any = {name: ModelFiles(paths.models / name) for name in names}
    engine = MergekitEngine(model, sources, 2, method, base)
    rows = [weights[: len(engine.parents)] for weights in candidate("linear").weights.values()]
    genome = Coefficients(method, dict(zip(engine.groups, rows, strict=True)), extra)
    engine.apply(genome)
    theirs = written(paths, engine.recipe(genome, "float32"), "mergekit")
    for name, parameter in engine.model.named_parameters():
        assert torch.allclose(parameter, theirs[name], atol=1e-6), name
    with pytest.raises(UserError, match="mergekit engine"):
        written(paths, engine.recipe(genome, "float32"), "resident")
    with pytest.raises(UserError, match="does not know"):
        MergekitEngine(model, sources, 2, "nonsense")
