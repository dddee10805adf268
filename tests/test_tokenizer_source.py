"""Vocabularies that differ by added tokens, brought together as mergekit does it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from judge_server import Reply, serving
from merge_home import evolve_config, small_home
from safetensors.torch import load_file
from small_models import SHAPE, byte_tokenizer
from test_merge_methods import steps_apart

from charllm.core.merging.blend import MergeConfig, run_merge
from charllm.core.merging.coefficients import Coefficients
from charllm.core.merging.compatibility import check_parents
from charllm.core.merging.engines import open_engine
from charllm.core.merging.evolving import run_evolve
from charllm.core.merging.parents import Parent
from charllm.core.merging.planning import Memory, plan
from charllm.core.merging.recipe import MergeRecipe, renamed
from charllm.core.merging.tokenizer_source import Vocabulary, has_rows, vocabulary_of
from charllm.core.merging.tokenizer_words import read_words
from charllm.core.models import load_model
from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.data.files import read_json, write_json
from charllm.data.progress import Silent

ADDED: dict[str, list[str]] = {
    "base": [],
    "one": ["<|one|>", "<|both|>"],
    "two": ["<|both|>", "<|two|>", "<|two-2|>"],
    "three": ["<|both|>", "<|one|>"],
    "short": ["<|one|>", "<|short|>"],
}
PADDING = {"two": 5, "short": -1}
"""Rows that no token has; below 0: tokens that have no row."""


def make_model(folder: Path, added: Sequence[str], seed: int, padding: int = 0) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = byte_tokenizer(bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    tokenizer.add_tokens(list(added), special_tokens=True)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = AutoConfig.for_model("llama", **SHAPE, vocab_size=len(tokenizer) + padding)
    model: Any = AutoModelForCausalLM.from_config(config)
    model.to(torch.bfloat16).save_pretrained(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for seed, (name, added) in enumerate(ADDED.items()):
        make_model(folder / name, added, seed, PADDING.get(name, 0))
    return folder


def recipe_of(models: Path, source: str, weights: dict[str, float], **more: Any) -> MergeRecipe:
    """Linear; the first one named is the base model, whose tokens come first."""
    given = [
        {"model": str(models / name), "parameters": {"weight": weight}}
        for name, weight in weights.items()
    ]
    fields = {
        "merge_method": "linear",
        "models": given,
        "base_model": given[0]["model"],
        "tokenizer_source": str(models / source) if source in ADDED else source,
        "dtype": "float32",
        "out_dtype": "bfloat16",
    }
    return MergeRecipe.from_data({**fields, **more}, "the test")


def parents_of(recipe: MergeRecipe) -> list[Parent]:
    return [Parent(name, Path(name)) for name in recipe.parents]


def made_by_mergekit(recipe: MergeRecipe, out: Path) -> dict[str, torch.Tensor]:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge as mergekit_merge
    from mergekit.options import MergeOptions

    data = recipe.model_dump(mode="json", exclude_none=True)
    options = MergeOptions(quiet=True, random_seed=0)
    mergekit_merge(MergeConfiguration.model_validate(data), str(out), options)
    return load_file(next(out.glob("*.safetensors")))


def blended(recipe: MergeRecipe, vocabulary: Vocabulary) -> dict[str, torch.Tensor]:
    """The weighted mean of the aligned tensors, in float32 with one rounding."""
    names = [str(source.model) for source in recipe.models or ()]
    weights = [(source.parameters or {})["weight"] for source in recipe.models or ()]
    files = [load_file(Path(name) / "model.safetensors") for name in names]
    found = {}
    for tensor in files[0]:
        parts = [file[tensor] for file in files]
        if has_rows(tensor):
            parts = vocabulary.aligned(names, parts)
        total = sum(part.float() * weight for part, weight in zip(parts, weights, strict=True))
        found[tensor] = (total / sum(weights)).to(torch.bfloat16)  # type: ignore[union-attr]
    return found


CASES = {
    "union": ("union", {"one": 0.3, "two": 0.7}),
    "union from the other side": ("union", {"two": 0.6, "one": 0.4}),
    "base": ("base", {"one": 0.3, "two": 0.7}),
    "base of another": ("base", {"base": 0.2, "two": 0.8}),
    "union of a base and an extended one": ("union", {"base": 0.2, "two": 0.8}),
    "a parent's": ("two", {"one": 0.3, "two": 0.7}),
    "one that is no parent": ("three", {"base": 0.5, "two": 0.5}),
    "the base has it, one has not": ("base", {"three": 0.2, "one": 0.3, "two": 0.5}),
    "the base has a token without a row": ("union", {"short": 0.5, "two": 0.5}),
    "another has a token without a row": ("union", {"two": 0.5, "short": 0.5}),
    "two add to the base": ("union", {"base": 0.2, "one": 0.3, "two": 0.5}),
    "two have it, the base has not": ("three", {"base": 0.2, "one": 0.3, "two": 0.5}),
}


@pytest.mark.parametrize("case", CASES)
def test_rows_and_tokens_are_mergekit_s(case: str, models: Path, tmp_path: Path) -> None:
    source, weights = CASES[case]
    recipe = recipe_of(models, source, weights)
    vocabulary = vocabulary_of(recipe, parents_of(recipe))
    assert vocabulary is not None
    check_parents(parents_of(recipe), aligned=True)
    theirs = made_by_mergekit(recipe, tmp_path / "theirs")
    mine = blended(recipe, vocabulary)
    assert mine.keys() == theirs.keys()
    order = [all_ids(tmp_path / "theirs")[token] for token in by_id(vocabulary.ids)]
    for name, tensor in mine.items():
        theirs[name] = theirs[name][order] if has_rows(name) else theirs[name]
        assert tensor.shape == theirs[name].shape, name
        assert vocabulary.shape(name, tuple(tensor.shape)) == tensor.shape, name
        assert steps_apart(tensor, theirs[name]).max() <= 1, name
    (tmp_path / "mine").mkdir()
    vocabulary.write(tmp_path / "mine")
    ours, others = (all_ids(tmp_path / side) for side in ("mine", "theirs"))
    assert ours == dict(vocabulary.ids) and ours.keys() == others.keys()
    if case != "two add to the base":  # mergekit's order of them changes with PYTHONHASHSEED
        assert ours == others
    assert read_json(tmp_path / "theirs" / "config.json")["vocab_size"] == vocabulary.size
    text = vocabulary.told()
    assert str(vocabulary.size) in text.en and str(vocabulary.size) in text.ja


def by_id(ids: Mapping[str, int]) -> list[str]:
    return sorted(ids, key=lambda token: ids[token])


def all_ids(folder: Path) -> dict[str, int]:
    from transformers import AutoTokenizer

    return dict(AutoTokenizer.from_pretrained(folder).get_vocab())


def test_what_differs_only_by_added_tokens_says_how_to_go_on(models: Path) -> None:
    for one, two in (("one", "two"), ("one", "three"), ("base", "two")):
        with pytest.raises(UserError, match="tokenizer_source: union") as caught:
            check_parents([Parent(name, models / name) for name in (one, two)])
        assert "tokenizer_source" in caught.value.text.ja and "<|" in caught.value.text.en
    check_parents([Parent(name, models / name) for name in ("one", "two")], aligned=True)


def changed(models: Path, folder: Path, **model: Any) -> Path:
    """A copy of "one" whose tokenizer says something else."""
    folder.mkdir()
    for file in (models / "one").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    data = read_json(folder / "tokenizer.json")
    data["model"] |= model
    write_json(folder / "tokenizer.json", data)
    return folder


def test_what_differs_by_more_is_refused_with_the_field(models: Path, tmp_path: Path) -> None:
    own = read_json(models / "one" / "tokenizer.json")["model"]
    merges = changed(models, tmp_path / "merges", merges=own["merges"][:-1])
    renamed_token = dict(own["vocab"])
    renamed_token["あ"] = renamed_token.pop(next(iter(own["vocab"])))
    vocab = changed(models, tmp_path / "vocab", vocab=renamed_token)
    for folder, words in ((merges, "model.merges"), (vocab, "model.vocab")):
        recipe = recipe_of(models, "union", {"one": 0.5, str(folder): 0.5})
        with pytest.raises(UserError, match=words) as caught:
            vocabulary_of(recipe, parents_of(recipe))
        assert words in caught.value.text.ja


def test_other_architectures_are_still_refused(models: Path, tmp_path: Path) -> None:
    other = changed(models, tmp_path / "other")
    config = read_json(other / "config.json")
    write_json(other / "config.json", {**config, "hidden_size": 64})
    for aligned in (False, True):
        with pytest.raises(UserError, match="hidden_size"):
            check_parents([Parent("one", models / "one"), Parent("o", other)], aligned=aligned)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base_model": None}, "base_model"),
        ({"tokenizer_source": "elsewhere"}, "neither union nor base"),
        ({"tokenizer_source": None, "tokenizer": {"source": "union", "tokens": {}}}, "tokens"),
        ({"tokenizer": {"source": "union"}}, "not both"),
    ],
)
def test_what_a_recipe_lacks_is_said(models: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        recipe = recipe_of(models, "union", {"one": 0.5, "two": 0.5}, **changes)
        vocabulary_of(recipe, parents_of(recipe))


def test_tokens_beyond_the_rows(models: Path, tmp_path: Path) -> None:
    """Added tokens that a model has no rows for are left out; of its own it must have all."""
    found = read_words(models / "short")
    assert found.unused == ("<|short|>",) and "<|short|>" not in found.ids
    recipe = recipe_of(models, "short", {"one": 0.5, "two": 0.5})
    with pytest.raises(UserError, match="without a row"):
        vocabulary_of(recipe, parents_of(recipe))
    short = changed(models, tmp_path / "short")
    config = read_json(short / "config.json")
    write_json(short / "config.json", {**config, "vocab_size": 100})
    with pytest.raises(UserError, match="100 rows"):
        read_words(short)
    (short / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        read_words(short)


def test_a_recipe_carries_its_source(models: Path) -> None:
    recipe = recipe_of(models, "two", {"one": 0.5, "two": 0.5})
    names = {str(models / "two"): "elsewhere/two"}
    assert renamed(recipe, names).tokenizer_source == "elsewhere/two"
    assert recipe_of(models, "union", {"one": 1.0}).vocabulary_source == "union"
    nested = {"tokenizer_source": None, "tokenizer": {"source": "base"}}
    assert recipe_of(models, "union", {"one": 1.0}, **nested).vocabulary_source == "base"
    plain = recipe_of(models, "union", {"one": 1.0}, tokenizer_source=None)
    assert plain.vocabulary_source == "" and vocabulary_of(plain, parents_of(plain)) is None


# ── through files and a search ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("case", ["union", "base of another", "one that is no parent"])
def test_merges_by_file_are_the_same_in_both_engines(
    case: str, models: Path, tmp_path: Path
) -> None:
    source, weights = CASES[case]
    recipe = recipe_of(models, source, weights)
    recipe.save(tmp_path / "recipe.yaml")
    paths = Paths(tmp_path, tmp_path / "workspace")
    found: dict[str, dict[str, torch.Tensor]] = {}
    for engine in ("resident", "mergekit"):
        config = MergeConfig(recipe="recipe.yaml", out=engine, engine=engine)  # type: ignore[arg-type]
        run_merge(config, Silent(), tmp_path, paths)
        found[engine] = load_file(next((tmp_path / engine).glob("*.safetensors")))
    for name, tensor in found["resident"].items():
        assert steps_apart(tensor, found["mergekit"][name]).max() <= 1, name
    ids = [all_ids(tmp_path / engine) for engine in found]
    sizes = [read_json(tmp_path / engine / "config.json")["vocab_size"] for engine in found]
    assert ids[0] == ids[1] and sizes == [len(ids[0])] * 2
    model = load_model(tmp_path / "resident", device="cpu")
    assert model(torch.tensor([[1, len(ids[0]) - 1]])).logits.shape[-1] == len(ids[0])


METHODS = {"linear": "", "slerp": "", "ties": "three", "dare_ties": "three"}


@pytest.mark.parametrize("method", METHODS)
def test_engines_blend_what_the_recipe_says(method: str, models: Path, tmp_path: Path) -> None:
    paths = Paths(tmp_path, tmp_path / "workspace")
    base = str(models / METHODS[method]) if METHODS[method] else ""
    names = [str(models / name) for name in ("one", "two")]
    memory = Memory("cpu", 64.0, 64.0)
    found = plan(paths, names, method, base, memory=memory, tokenizer_source="union")
    assert found.vocabulary is not None and "tokenizer_source union" in found.reasons[0].en
    engine = open_engine(found, 2, compiled=False)
    genome = Coefficients(method, dict.fromkeys(engine.groups, (0.4, 0.6)), {})
    engine.apply(genome)
    live = {name: p.detach().clone() for name, p in engine.model.named_parameters()}
    assert engine.model.config.vocab_size == found.vocabulary.size
    recipe = engine.recipe(genome)
    assert recipe.tokenizer_source == "union" and recipe.base_model == (base or names[0])
    theirs = made_by_mergekit(recipe, tmp_path / "theirs")
    for name, tensor in live.items():
        apart = steps_apart(tensor, theirs[name])
        assert apart.max() <= 1 or method == "ties", name
        assert (apart > 1).float().mean() < 2e-3, name


def test_a_search_takes_no_source_where_nothing_differs(models: Path, tmp_path: Path) -> None:
    paths = Paths(tmp_path, tmp_path / "workspace")
    memory = Memory("cpu", 64.0, 64.0)
    names = [str(models / "one"), str(models / "two")]
    with pytest.raises(UserError, match="tokenizer_source: union"):
        plan(paths, names, memory=memory)
    with pytest.raises(UserError, match="layers in sequence"):
        plan(paths, names, "passthrough", memory=memory, tokenizer_source="union")
    with pytest.raises(UserError, match="nuslerp"):
        plan(paths, names, "nuslerp", memory=memory, tokenizer_source="union")
    twin = tmp_path / "twin"
    shutil.copytree(models / "one", twin)
    same = plan(paths, [names[0], str(twin)], memory=memory, tokenizer_source="union")
    assert same.vocabulary is None


def test_an_evolution_asks_with_the_merged_tokenizer(models: Path, paths: Paths) -> None:
    small_home(paths)
    parents = [str(models / name) for name in ("base", "two")]
    with serving(lambda asked: Reply(content="口調は設定どおりです。\n5")) as server:
        judge = {"kind": "endpoint", "model": "judge-1", "base_url": server.url}
        asked = evolve_config(parents=parents, tokenizer_source="union", judge=judge)
        result = run_evolve(asked, Silent(), paths.workspace / "run", paths)
    recipe = MergeRecipe.load(paths.workspace / "run" / "recipe.yaml")
    assert (recipe.tokenizer_source, recipe.base_model) == ("union", parents[0])
    assert all_ids(Path(result["out"])) == all_ids(paths.workspace / "run" / "tokenizer")
    assert "<|two-2|>" in all_ids(Path(result["out"]))
