"""The study's second experiment, ``recipes/paper.yaml``, from its quote to its written recipe.

Two random Llamas of 32 layers stand in for the 7B parents, a server on loopback for the judge.
Only settings are changed: where the parents lie, how long replies get, how many candidates.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from judge_server import Asked, JudgeServer, Reply, serving
from safetensors.torch import load_file, save_file
from small_models import save_model
from test_merge_methods import steps_apart

from charllm.core.catalog import find_model
from charllm.core.generation import PRESETS
from charllm.core.merging.blend import merge_with_mergekit
from charllm.core.merging.evolve_config import EvolveConfig
from charllm.core.merging.evolve_questions import query_file
from charllm.core.merging.evolving import quote_evolve, run_evolve
from charllm.core.merging.journal import JOURNAL
from charllm.core.merging.parents import plan_merge
from charllm.core.merging.recipe import MergeRecipe
from charllm.core.merging.splits import split_queries
from charllm.core.models import load_tokenizer
from charllm.data.config import Paths, load_yaml, with_texts
from charllm.data.errors import UserError
from charllm.data.files import read_json
from charllm.data.progress import Silent
from charllm.data.queries import load_queries

PARENTS = {"one": "は", "two": "え"}
"""How each parent begins its reply …"""
BETWEEN = "お"
"""… and every mixture of about equal parts: each parent's second thought, which they share."""
REST = "ですわ。"
POPULATION = 4


def make_parent(folder: Path, tokenizer: Path, seed: int, begin: str) -> None:
    """A Llama that says ``begin`` and the rest; its 32 layers are random and mean little."""
    words = load_tokenizer(tokenizer)
    words.save_pretrained(folder)
    start = words("[/INST]", add_special_tokens=False)["input_ids"][-1]
    said = words.convert_tokens_to_ids([begin, *REST])
    small = {"hidden_size": 32, "intermediate_size": 8, "num_attention_heads": 1, "head_dim": 4}
    deep = {"num_hidden_layers": 32, "num_key_value_heads": 1, "max_position_embeddings": 4096}
    save_model(folder, "llama", len(words), [start, *said, words.eos_token_id], **small, **deep)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    embeddings, head = tensors["model.embed_tokens.weight"], tensors["lm_head.weight"]
    between = words.convert_tokens_to_ids(BETWEEN)
    head[between] += 0.7 * embeddings[start]
    head[said[1]] += embeddings[between]
    noise = torch.Generator().manual_seed(seed)
    for tensor in tensors.values():
        if tensor.ndim == 2:
            tensor += (0.01 * torch.randn(tensor.shape, generator=noise)).to(tensor.dtype)
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.fixture
def home(paths: Paths, shared: Path) -> Paths:
    for seed, (name, begin) in enumerate(PARENTS.items()):
        make_parent(paths.models / name, shared / "tokenizers" / "llama-2", seed, begin)
    return paths


@pytest.fixture
def judge() -> Iterator[JudgeServer]:
    """It likes best what neither parent says by itself."""

    def behave(asked: Asked) -> Reply:
        score = 6 if BETWEEN + REST in asked.text else 4
        return Reply(content=f"口調は設定どおりです。\n{score}")

    with serving(behave) as server:
        yield server


def config(home: Paths, server: JudgeServer) -> EvolveConfig:
    values: Any = load_yaml(home.root / "recipes" / "paper.yaml")
    values["parents"] = [f"workspace/models/{name}" for name in PARENTS]
    values |= {"template": "llama-2", "rag": False, "rows": 256, "insist": True}
    values["preset"] |= {"max_new_tokens": 8}
    values["judge"] |= {"base_url": server.url}
    values["search"] |= {"max_candidates": POPULATION, "population": POPULATION}
    return EvolveConfig.from_data(values, "paper.yaml")


def test_the_recipe_is_the_study_s(paths: Paths) -> None:
    found = EvolveConfig.load(paths.root / "recipes" / "paper.yaml")
    assert (found.method, found.group_size, found.search.parametrisation) == ("linear", 4, "raw")
    preset = found.preset.model_dump()
    assert preset == PRESETS["study-sampling"].model_dump()
    assert (preset["temperature"], preset["max_new_tokens"]) == (0.3, 512)
    assert (found.judge.kind, found.judge.rubric, found.judge.samples) == ("endpoint", "study", 1)
    assert (found.search.race_first, found.search.objective) == (1.0, "score=1")
    splits = split_queries(load_queries(query_file(found, paths)))
    assert len(splits.search) == 102
    one, two = (find_model(Path(parent).name) for parent in found.parents)
    shape = ("family", "parameters", "layers", "hidden", "ffn", "kv", "vocab")
    assert all(getattr(one, field) == getattr(two, field) for field in shape)
    assert one.study and two.study and one.layers == 32


def test_the_experiment_from_quote_to_recipe(home: Paths, judge: JudgeServer) -> None:
    asked = config(home, judge)
    quote = quote_evolve(asked, home)
    assert quote["plan"]["engine"] == "dense" and len(quote["groups"]) == 10
    assert quote["genes"] == 20 and quote["candidates"] == POPULATION
    assert judge.requests == 0, "a quote asks nobody"

    folder = home.workspace / "run"
    result = run_evolve(asked, Silent(), folder, home)
    report = read_json(folder / "report.json")
    out = home.models / "paper"
    assert result["out"] == str(out) and report["parents"] == list(asked.parents)
    check_journal(folder, quote, judge, report)
    assert (result["chosen"], result["over_parent"]) == ("uniform", "yes")
    means = {row["id"]: row["report"]["value"]["value"] for row in report["rows"] if row["report"]}
    assert means["uniform"] == pytest.approx(5 / 6) and means["parent-1"] == pytest.approx(3 / 6)
    assert means.keys() >= {"parent-1", "parent-2", "uniform", "mean"}
    assert report["quality"]["insisted"] and all(one["ja"] for one in report["told"])
    check_recipe(folder, out, home)


def check_journal(folder: Path, quote: Any, judge: JudgeServer, report: Any) -> None:
    """Every reply that was quoted is there, and each was judged or known or stopped by the gate."""
    rows = [json.loads(line) for line in (folder / "search" / JOURNAL).open(encoding="utf-8")]
    members = [row for row in rows if row["role"] == "candidate" and row["split"] == "search"]
    assert len(members) == POPULATION and all(len(row["outcomes"]) == 102 for row in members)
    assert all(len(row["vector"]) == 20 for row in members)
    assert all(0 <= gene <= 1 for row in members for gene in row["vector"])
    outcomes = [one for row in rows for one in row["outcomes"]]
    # The quote counts what is chosen as a model of its own; here it is the average.
    assert len(outcomes) == quote["replies"] - 100
    assert quote["judge_calls"] == quote["replies"]
    different = {(one["query"], one["note"]) for one in outcomes if one["parts"]["gate"]}
    calls = sum(one["calls"] for one in outcomes)
    assert calls == judge.requests == len(different) <= quote["judge_calls"]
    assert report["spent"]["calls"] == calls
    assert {one["note"] for one in outcomes} >= {f"{word}{REST}" for word in "はえお"}


def check_recipe(folder: Path, out: Path, home: Paths) -> None:
    """What was published is what plain mergekit makes of the recipe, within a rounding step."""
    recipe = MergeRecipe.load(folder / "recipe.yaml")
    assert len(recipe.slices or ()) == 8
    merge_with_mergekit(plan_merge(folder / "recipe.yaml", home), home.workspace / "theirs")
    mine, theirs = (
        load_file(where / "model.safetensors") for where in (out, home.workspace / "theirs")
    )
    one = load_file(home.models / "one" / "model.safetensors")
    assert mine.keys() == theirs.keys() == one.keys()
    for name, tensor in mine.items():
        assert steps_apart(tensor, theirs[name]).max() <= 1, name
    assert not torch.equal(mine["lm_head.weight"], one["lm_head.weight"])


def test_values_on_the_command_line_go_over_the_file_s(paths: Paths) -> None:
    file = load_yaml(paths.root / "recipes" / "paper.yaml")
    texts = ["parents=[/models/one, /models/two]", "search.seed=7", "judge.model = local"]
    found = EvolveConfig.from_data(with_texts(file, texts), "paper.yaml")
    assert found.parents == ("/models/one", "/models/two")
    assert (found.search.seed, found.judge.model) == (7, "local")
    assert file["search"]["seed"] == 0, "the file's own values stay"
    for wrong in ("parents", "=1", "parents.one=2", "parents=[1"):
        with pytest.raises(UserError, match="NAME=VALUE"):
            with_texts(file, [wrong])
    with pytest.raises(UserError, match="no_such"):
        EvolveConfig.from_data(with_texts(file, ["no_such=1"]), "paper.yaml")
