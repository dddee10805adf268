"""Merge recipes and blending, on random tiny models, against mergekit itself."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from charllm.core.merging.blend import MergeConfig, run_merge
from charllm.core.merging.parameters import PlainSum
from charllm.core.merging.recipe import (
    MergeRecipe,
    adapter_weights,
    check_with_mergekit,
    layered_linear,
    uniform_linear,
)
from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.data.files import read_json, write_json
from charllm.data.progress import Silent

LAYERS = 4


@pytest.fixture
def home(tmp_path: Path) -> Paths:
    """A project with a tiny base, a second full model, and two adapters on the base."""
    paths = Paths(tmp_path / "root", tmp_path / "root" / "workspace")
    base = make_llama(paths.models / "tiny", seed=1)
    make_llama(paths.models / "other", seed=2)
    make_adapter(base, paths.checkpoints / "one", seed=3)
    make_adapter(base, paths.checkpoints / "two", seed=4)
    return paths


def make_llama(folder: Path, seed: int, **changes: Any) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    settings = {
        "vocab_size": 96,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        **changes,
    }
    model = LlamaForCausalLM(LlamaConfig(**settings)).to(torch.bfloat16)
    model.save_pretrained(folder)
    return folder


def make_adapter(base: Path, folder: Path, seed: int, **changes: Any) -> Path:
    """A random LoRA adapter whose B is not zero, with a card like the trainer's."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **changes}
    tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    tuned.save_pretrained(folder)
    config = read_json(folder / "adapter_config.json")
    write_json(folder / "adapter_config.json", {**config, "base_model_name_or_path": base.name})
    card = {"base": base.name, "base_hash": "same", "profile": "ayane", "licence": {}}
    write_json(folder / "card.json", card)
    return folder


A, B = "workspace/models/tiny+checkpoints/one", "workspace/models/tiny+checkpoints/two"


def save(recipe: MergeRecipe, paths: Paths, name: str = "recipes/merge.yaml") -> str:
    recipe.save(paths.root / name)
    return name


def merge(paths: Paths, **fields: Any) -> dict[str, Any]:
    return run_merge(MergeConfig(**fields), Silent(), paths.root, paths)


def weights_of(folder: str | Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in Path(folder).glob("model*.safetensors"):
        found |= load_file(file)
    return found


def assert_close(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """Equal in float32; in bf16 up to mergekit's rounding of each parent and of the result."""
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert tensor.dtype == theirs[name].dtype
        error = (tensor.float() - theirs[name].float()).abs()
        size = theirs[name].float().abs()
        if tensor.dtype == torch.float32:
            assert error.max() < 1e-6, name
        else:
            assert tensor.dtype == torch.bfloat16
            assert error.max() <= 2**-7 * size.max(), name
            assert error.mean() <= 2**-9 * size.mean(), name


RECIPES = {
    "adapters": uniform_linear([A, B]),
    "adapters by layer group": layered_linear([A, B], [[0.8, 0.2], [0.1, 0.9]], [0, 1, LAYERS]),
    "full models": uniform_linear(["workspace/models/tiny", "workspace/models/other"], [3.0, 1.0]),
    "gradient and filter": MergeRecipe.model_validate(
        {
            "merge_method": "linear",
            "dtype": "bfloat16",
            "models": [
                {
                    "model": A,
                    "parameters": {"weight": [{"filter": "mlp", "value": 1}, {"value": 3}]},
                },
                {"model": "workspace/models/other", "parameters": {"weight": [0.0, 1.0]}},
            ],
        }
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", RECIPES)
def test_both_engines_agree(home: Paths, name: str, dtype: str) -> None:
    recipe = save(RECIPES[name].model_copy(update={"dtype": dtype}), home)
    mine = merge(home, recipe=recipe, out="workspace/mine")
    theirs = merge(home, recipe=recipe, out="workspace/theirs", engine="mergekit")
    assert (mine["engine"], theirs["engine"]) == ("resident", "mergekit")
    assert_close(weights_of(mine["out"]), weights_of(theirs["out"]))
    for folder in (mine["out"], theirs["out"]):
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(folder)
        assert model(torch.tensor([[1, 2, 3]])).logits.isfinite().all()
        assert read_json(Path(folder) / "config.json")["num_hidden_layers"] == LAYERS


def test_a_merge_differs_from_each_parent_by_its_share(home: Paths) -> None:
    """One parent with weight 1 is peft's own merge; the average lies between."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(home.models / "tiny", dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, home.checkpoints / "one").merge_and_unload()
    alone = save(uniform_linear([A, B], [1.0, 0.0], dtype="float32"), home)
    mine = weights_of(merge(home, recipe=alone, out="workspace/alone")["out"])
    for name, tensor in tuned.state_dict().items():
        assert torch.allclose(mine[name], tensor, atol=1e-6), name
    half = weights_of(
        merge(home, recipe=save(uniform_linear([A, B]), home), out="workspace/half")["out"]
    )
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.allclose(half[name].float(), mine[name], atol=1e-3)


def test_plain_mergekit_yaml_reads_the_recipe(home: Paths) -> None:
    """The command line of mergekit, run from the project's root, makes the same model."""
    recipe = save(RECIPES["adapters by layer group"], home)
    check_with_mergekit(MergeRecipe.load(home.root / recipe))
    script = Path(sys.executable).parent / "mergekit-yaml"
    command = [str(script), recipe, "workspace/cli", "--lora-merge-cache", "workspace/cache"]
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, "--no-write-model-card", "--no-copy-tokenizer"],
        cwd=home.root,
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    mine = merge(home, recipe=recipe, out="workspace/mine")
    assert_close(weights_of(mine["out"]), weights_of(home.root / "workspace/cli"))


def test_concatenated_adapter_is_exact(home: Paths) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    recipe = save(layered_linear([A, B], [[0.8, 0.2], [0.1, 0.9]], [0, 1, LAYERS], "float32"), home)
    merge(home, recipe=recipe, out="checkpoints/both", form="adapter")
    base = AutoModelForCausalLM.from_pretrained(home.models / "tiny", dtype=torch.float32)
    small = PeftModel.from_pretrained(base, home.checkpoints / "both").merge_and_unload()
    dense = weights_of(merge(home, recipe=recipe, out="workspace/dense")["out"])
    for name, tensor in small.state_dict().items():
        assert torch.allclose(dense[name], tensor, atol=1e-5), name
    assert read_json(home.checkpoints / "both" / "adapter_config.json")["r"] == 8
    assert read_json(home.checkpoints / "both" / "card.json")["profile"] == "ayane"


FREE = """
merge_method: task_arithmetic
base_model: workspace/models/tiny
slices:
  - sources:
      - {model: workspace/models/tiny+checkpoints/one, layer_range: [0, 1], parameters: {weight: 1}}
      - {model: workspace/models/tiny+checkpoints/two, layer_range: [0, 1], parameters: {weight: 1}}
      - {model: workspace/models/tiny, layer_range: [0, 1]}
  - sources:
      - {model: workspace/models/tiny+checkpoints/one, layer_range: [1, 4], parameters: {weight: 0}}
      - {model: workspace/models/tiny, layer_range: [1, 4]}
      - {model: workspace/models/tiny+checkpoints/two, layer_range: [1, 4], parameters: {weight: 2}}
parameters: {lambda: 0.6}
dtype: float32
"""


def test_task_arithmetic_of_adapters_is_a_row_of_their_own_weights(home: Paths) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    (home.root / "recipes").mkdir(exist_ok=True)
    path = home.root / "recipes" / "free.yaml"
    path.write_text(FREE, encoding="utf-8")
    row = {"one": (0.6, 0, 0, 0), "two": (0.6, 1.2, 1.2, 1.2)}
    assert {n: pytest.approx(w) for n, w in adapter_weights(path).items()} == row
    merge(home, recipe=str(path), out="checkpoints/free", form="recipe")
    card = read_json(home.checkpoints / "free" / "card.json")
    assert card["parents"] == [A, B], "the base is no parent"
    assert adapter_weights(home.checkpoints / "free" / "recipe.yaml") == adapter_weights(path)
    merge(home, recipe=str(path), out="checkpoints/both", form="adapter")
    base = AutoModelForCausalLM.from_pretrained(home.models / "tiny", dtype=torch.float32)
    small = PeftModel.from_pretrained(base, home.checkpoints / "both").merge_and_unload()
    dense = weights_of(merge(home, recipe=str(path), out="workspace/dense")["out"])
    for name, tensor in small.state_dict().items():
        assert torch.allclose(dense[name], tensor, atol=1e-5), name
    elsewhere = FREE.replace("model: workspace/models/tiny,", "model: workspace/models/other,")
    path.write_text(
        elsewhere.replace(
            "base_model: workspace/models/tiny", "base_model: workspace/models/other"
        ),
        encoding="utf-8",
    )
    with pytest.raises(UserError, match="one base"):
        adapter_weights(path)


def test_recipe_checkpoint_is_small_and_gives_a_row(home: Paths) -> None:
    recipe = save(uniform_linear([A, B]), home)
    merge(home, recipe=recipe, out="checkpoints/merged", form="recipe", label_ja="マージ")
    folder = home.checkpoints / "merged"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 20_000
    assert read_json(folder / "card.json")["label"] == {"en": "merged", "ja": "マージ"}
    assert adapter_weights(folder / "recipe.yaml") == {"one": 0.5, "two": 0.5}
    assert MergeRecipe.load(folder / "recipe.yaml").parents == (A, B)


def test_rows_by_layer(home: Paths) -> None:
    layered = home.root / save(RECIPES["adapters by layer group"], home)
    assert adapter_weights(layered) == {
        "one": (0.8, 0.1, 0.1, 0.1),
        "two": (0.2, 0.9, 0.9, 0.9),
    }
    rising = {"merge_method": "linear", "models": [{"model": m} for m in (A, B)]}
    rising["models"][0]["parameters"] = {"weight": [0, 3]}  # type: ignore[index]
    rising["models"][1]["parameters"] = {"weight": [3, 0]}  # type: ignore[index]
    path = home.checkpoints / "rising" / "recipe.yaml"
    MergeRecipe.model_validate(rising).save(path)
    one = adapter_weights(path)["one"]
    assert one == pytest.approx((0, 1 / 3, 2 / 3, 1))
    filtered = home.root / save(RECIPES["gradient and filter"], home)
    with pytest.raises(UserError, match="by layer"):
        adapter_weights(filtered, LAYERS)


def test_paths_beside_the_recipe_and_absolute(home: Paths) -> None:
    near = uniform_linear(["../models/tiny+../../checkpoints/one", str(home.models / "other")])
    name = save(near, home, "workspace/here/merge.yaml")
    assert merge(home, recipe=name, out="workspace/mine")["parents"] == list(near.parents)
    moved = Paths(home.root, home.root / "elsewhere")
    (home.root / "workspace").rename(moved.workspace)
    out = merge(moved, recipe=save(uniform_linear([A, B]), moved), out="elsewhere/mine")["out"]
    assert weights_of(out)


def test_an_adapter_alone_names_its_base(home: Paths) -> None:
    recipe = save(uniform_linear(["checkpoints/one", "checkpoints/two"]), home)
    alone = weights_of(merge(home, recipe=recipe, out="workspace/a")["out"])
    full = weights_of(
        merge(home, recipe=save(uniform_linear([A, B]), home), out="workspace/b")["out"]
    )
    assert all(torch.equal(alone[name], full[name]) for name in full)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"hidden_size": 64}, "hidden_size"),
        ({"vocab_size": 100}, "vocab_size"),
        ({"num_hidden_layers": 2}, "num_hidden_layers"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings"),
    ],
)
def test_parents_that_do_not_fit_are_refused(
    home: Paths, changes: dict[str, Any], field: str
) -> None:
    make_llama(home.models / "misfit", seed=5, **changes)
    recipe = save(uniform_linear(["workspace/models/tiny", "workspace/models/misfit"]), home)
    with pytest.raises(UserError, match=field):
        merge(home, recipe=recipe, out="workspace/mine")
    assert not (home.workspace / "mine").exists()


def test_an_adapter_of_another_base_is_refused(home: Paths) -> None:
    wide = make_llama(home.models / "wide", seed=6, hidden_size=64)
    make_adapter(wide, home.checkpoints / "wide", seed=6)
    recipe = save(uniform_linear([A, "workspace/models/tiny+checkpoints/wide"]), home)
    with pytest.raises(UserError, match=r"shape of .*proj differs"):
        merge(home, recipe=recipe, out="workspace/mine")
    card = read_json(home.checkpoints / "two" / "card.json")
    write_json(home.checkpoints / "two" / "card.json", {**card, "base_hash": "another"})
    with pytest.raises(UserError, match="weights hash"):
        merge(home, recipe=save(uniform_linear([A, B]), home), out="workspace/mine")


def test_what_the_row_of_coefficients_cannot_do_is_refused(home: Paths) -> None:
    dora = make_adapter(home.models / "tiny", home.checkpoints / "dora", seed=7, use_dora=True)
    recipe = save(uniform_linear([A, f"workspace/models/tiny+{dora}"]), home)
    with pytest.raises(UserError, match="use_dora"):
        merge(home, recipe=recipe, out="workspace/mine")
    slerp = save(RECIPES["adapters"].model_copy(update={"merge_method": "slerp"}), home)
    with pytest.raises(UserError, match="only linear and task_arithmetic"):
        merge(home, recipe=slerp, out="workspace/mine", form="adapter")
    over = RECIPES["adapters"].model_copy(update={"parameters": {"normalize": False}})
    heavy = over.model_dump(mode="json", exclude_none=True)
    heavy["models"][0]["parameters"]["weight"] = 0.9
    name = save(MergeRecipe.model_validate(heavy), home)
    with pytest.raises(UserError, match="add up to 1"):
        merge(home, recipe=name, out="checkpoints/mine", form="adapter")


def test_bad_recipes_say_what_to_change(home: Paths, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exactly one of models, slices and modules"):
        MergeRecipe.from_data({"merge_method": "linear"}, "recipe")
    with pytest.raises(UserError, match="no such folder"):
        missing = save(uniform_linear([A, "workspace/models/tiny+checkpoints/nobody"]), home)
        merge(home, recipe=missing, out="workspace/mine")
    with pytest.raises(UserError, match="no weight for"):
        bare = {"merge_method": "linear", "models": [{"model": A}, {"model": B}]}
        merge(home, recipe=save(MergeRecipe.model_validate(bare), home), out="workspace/mine")
    with pytest.raises(UserError, match="cover layers 0 to 4"):
        short = layered_linear([A, B], [[0.5, 0.5]], [0, 2])
        merge(home, recipe=save(short, home), out="workspace/mine", form="adapter")
    with pytest.raises(UserError, match="at least two parents"):
        uniform_linear([A])
    with pytest.raises(UserError, match="chat_template is read by mergekit-yaml only"):
        told = uniform_linear([A, B]).model_copy(update={"chat_template": "chatml"})
        merge(home, recipe=save(told, home), out="workspace/mine")
    foreign = home.root / "recipes"
    with pytest.raises(UserError, match="something else than an earlier merge"):
        merge(home, recipe=save(uniform_linear([A, B]), home), out=str(foreign))


@pytest.mark.parametrize(
    ("method", "weight", "words"),
    [
        ("linear", "x", "models.1.parameters: weight: 'x' is no number"),
        ("linear", math.nan, "weight: nan is no number"),
        ("linear", [0.1, None], "weight: None is no number"),
        ("linear", [{"fliter": "mlp", "value": 1}], "an entry is {filter: …, value: …}"),
        ("linear", [{"filter": "mlp"}], "an entry is {filter: …, value: …}"),
        ("tiez", 0.5, "does not know the method 'tiez'"),
        ("nuslerp", 0.5, "--engine mergekit"),
    ],
)
def test_settings_that_cannot_be_read_are_named(
    home: Paths, method: str, weight: Any, words: str
) -> None:
    """And a weight that is no number makes no model of NaNs."""
    models = [{"model": A, "parameters": {"weight": 0.5}}]
    models.append({"model": B, "parameters": {"weight": weight}})
    (home.root / "bad.yaml").write_text(yaml.safe_dump({"merge_method": method, "models": models}))
    with pytest.raises(UserError, match=re.escape(words)):
        merge(home, recipe="bad.yaml", out="workspace/mine")


@pytest.mark.parametrize("form", ["model", "adapter", "recipe"])
def test_only_an_earlier_merge_is_ever_replaced(home: Paths, form: str) -> None:
    """Not a folder of the user's, not a model or adapter that took hours, and no parent."""
    recipe = save(uniform_linear([A, B]), home)
    make_adapter(home.models / "tiny", home.checkpoints / "trained", seed=9)
    kept = {path: path.read_bytes() for path in home.root.rglob("*") if path.is_file()}
    for out in ("checkpoints/trained", "workspace/models/other", "recipes", "checkpoints"):
        with pytest.raises(UserError, match="something else than an earlier merge"):
            merge(home, recipe=recipe, out=out, form=form)
    for out in ("checkpoints/one", "workspace/models/tiny"):
        with pytest.raises(UserError, match="is a parent of this merge"):
            merge(home, recipe=recipe, out=out, form=form)
    assert {path: path.read_bytes() for path in home.root.rglob("*") if path.is_file()} == kept
    for _ in range(2):
        assert Path(merge(home, recipe=recipe, out="checkpoints/mine", form=form)["out"]).is_dir()


@pytest.mark.parametrize("module", ["k_proj", "v_proj", "up_proj", "q_proj", "down_proj", "mlp"])
def test_a_row_has_one_weight_for_all_modules_of_a_layer(home: Paths, module: str) -> None:
    models = [
        {"model": A, "parameters": {"weight": [{"filter": module, "value": 0.9}, {"value": 0.5}]}},
        {"model": B, "parameters": {"weight": [{"filter": module, "value": 0.1}, {"value": 0.5}]}},
    ]
    recipe = MergeRecipe.model_validate({"merge_method": "linear", "models": models})
    with pytest.raises(UserError, match="asks for something else"):
        adapter_weights(home.root / save(recipe, home), LAYERS)


def test_a_cut_file_is_reported_not_blended(home: Paths) -> None:
    file = home.checkpoints / "two" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged"):
        merge(home, recipe=save(uniform_linear([A, B]), home), out="workspace/mine")


def test_three_parents_share_evenly(home: Paths) -> None:
    make_adapter(home.models / "tiny", home.checkpoints / "three", seed=8)
    third = "workspace/models/tiny+checkpoints/three"
    path = home.root / save(uniform_linear([A, B, third]), home)
    assert adapter_weights(path) == pytest.approx({"one": 1 / 3, "two": 1 / 3, "three": 1 / 3})
    weights = PlainSum(MergeRecipe.load(path), LAYERS)
    assert sum(weights.of("model.embed_tokens.weight")) == pytest.approx(1)


def test_sharded_base_keeps_its_files(home: Paths) -> None:
    """A base in several files is written in the same several files, with its index."""
    whole = load_file(home.models / "tiny" / "model.safetensors")
    names = sorted(whole)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, keys in parts.items():
        tensors = {key: whole[key] for key in keys}
        save_file(tensors, home.models / "tiny" / f"model-{file}", metadata={"format": "pt"})
    (home.models / "tiny" / "model.safetensors").unlink()
    index = {key: f"model-{file}" for file, keys in parts.items() for key in keys}
    write_json(home.models / "tiny" / "model.safetensors.index.json", {"weight_map": index})
    out = Path(merge(home, recipe=save(uniform_linear([A, B]), home), out="workspace/mine")["out"])
    assert {file.name for file in out.glob("*.safetensors")} == {
        "model-a.safetensors",
        "model-b.safetensors",
    }
    assert weights_of(out).keys() == whole.keys()


def test_a_recipe_can_be_a_parent(home: Paths) -> None:
    """A parent that is a recipe is what that recipe would write, through either engine."""
    inner = save(uniform_linear([A, B], [0.25, 0.75]), home, "recipes/inner.yaml")
    made = merge(home, recipe=inner, out="workspace/models/inner")["out"]
    outer = uniform_linear(["recipes/inner.yaml", "workspace/models/other"], [0.5, 0.5])
    plain = uniform_linear([made, "workspace/models/other"], [0.5, 0.5])
    mine = weights_of(merge(home, recipe=save(outer, home), out="workspace/mine")["out"])
    flat = weights_of(merge(home, recipe=save(plain, home), out="workspace/flat")["out"])
    assert all(torch.equal(mine[name], flat[name]) for name in flat)
    theirs = merge(home, recipe=save(outer, home), out="workspace/theirs", engine="mergekit")
    assert_close(mine, weights_of(theirs["out"]))
    merge(home, recipe=inner, out="checkpoints/inner", form="recipe")
    named = uniform_linear(["checkpoints/inner", "workspace/models/other"], [0.5, 0.5])
    again = weights_of(merge(home, recipe=save(named, home), out="workspace/again")["out"])
    assert all(torch.equal(again[name], flat[name]) for name in flat)
    for form in ("adapter", "recipe"):
        with pytest.raises(UserError):
            merge(home, recipe=save(outer, home), out="checkpoints/x", form=form)


def test_a_recipe_is_not_its_own_parent(home: Paths) -> None:
    save(uniform_linear(["recipes/b.yaml", A]), home, "recipes/a.yaml")
    name = save(uniform_linear(["recipes/a.yaml", B]), home, "recipes/b.yaml")
    with pytest.raises(UserError, match="its own parent"):
        merge(home, recipe=name, out="workspace/mine")


WRITTEN = {
    "gradients, filters and a base": """
merge_method: task_arithmetic
base_model: workspace/models/tiny
models:
  - model: workspace/models/other
    parameters:
      weight:
        - {filter: mlp, value: [0.2, 0.9]}
        - {filter: lm_head, value: 0.1}
        - {value: 0.5}
  - model: workspace/models/third
    parameters: {weight: [0.6, 0.1, 0.3]}
parameters: {lambda: 0.7, normalize: true}
dtype: float32
""",
    "slices with their own t": """
merge_method: slerp
base_model: workspace/models/other
slices:
  - sources:
      - {model: workspace/models/other, layer_range: [0, 3]}
      - {model: workspace/models/third, layer_range: [0, 3]}
    parameters: {t: [{filter: self_attn, value: [0, 1]}, {value: 0.3}]}
  - sources:
      - {model: workspace/models/third, layer_range: [3, 4]}
      - {model: workspace/models/other, layer_range: [3, 4]}
parameters: {t: 0.6}
dtype: float32
""",
    "layers from elsewhere": """
merge_method: linear
slices:
  - sources:
      - {model: workspace/models/other, layer_range: [1, 3], parameters: {weight: 1}}
      - {model: workspace/models/third, layer_range: [0, 2], parameters: {weight: 3}}
  - sources:
      - {model: workspace/models/third, layer_range: [3, 4], parameters: {weight: 1}}
dtype: float32
""",
    "a stack with scales": """
merge_method: passthrough
slices:
  - sources: [{model: workspace/models/other, layer_range: [0, 3]}]
  - sources:
      - model: workspace/models/third
        layer_range: [1, 4]
        parameters: {scale: [{filter: o_proj, value: 0.5}, {value: 1.0}]}
dtype: float32
""",
    "three parents, thinned": """
merge_method: dare_ties
base_model: workspace/models/tiny
models:
  - {model: workspace/models/tiny}
  - {model: workspace/models/other, parameters: {weight: 0.5, density: [0.3, 0.9]}}
  - {model: workspace/models/third, parameters: {weight: -0.4, density: 1.0}}
  - {model: workspace/models/tiny+checkpoints/one, parameters: {weight: 0.8, density: 0.6}}
dtype: float32
""",
    "trimmed": """
merge_method: ties
base_model: workspace/models/tiny
models:
  - {model: workspace/models/other, parameters: {weight: [1.0, 0.2], density: 0.4}}
  - model: workspace/models/third
    parameters: {weight: 0.3, density: [{filter: mlp, value: 0.2}, {value: 0.7}]}
parameters: {normalize: false, lambda: 1.2}
dtype: float32
""",
}


@pytest.mark.parametrize("name", WRITTEN)
def test_written_recipes_mean_what_mergekit_reads(home: Paths, name: str) -> None:
    """YAML as people write it, in float32 (where no sizes are equal), seed 5."""
    make_llama(home.models / "third", seed=11)
    for folder in ("tiny", "other", "third"):
        exact_floats(home.models / folder)
    (home.root / "hand.yaml").write_text(WRITTEN[name])
    mine = merge(home, recipe="hand.yaml", out="workspace/mine", seed=5)
    theirs = merge(home, recipe="hand.yaml", out="workspace/theirs", engine="mergekit", seed=5)
    assert_close(weights_of(mine["out"]), weights_of(theirs["out"]))
    configs = [read_json(Path(one["out"]) / "config.json") for one in (mine, theirs)]
    assert configs[0] == configs[1]
    text = MergeRecipe.load(home.root / "hand.yaml").to_yaml()
    assert MergeRecipe.from_data(yaml.safe_load(text), "again").to_yaml() == text
    assert ("--random-seed 5" in (Path(mine["out"]) / "README.md").read_text()) == (
        "dare" in WRITTEN[name]
    )


def exact_floats(folder: Path) -> None:
    """The same model with float32 weights that no two share."""
    tensors = load_file(folder / "model.safetensors")
    torch.manual_seed(len(str(folder)))
    noisy = {n: t.float() + 0.01 * torch.randn(t.shape) for n, t in tensors.items()}
    save_file(noisy, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", {**read_json(folder / "config.json"), "dtype": "float32"})


def test_methods_say_what_they_lack(home: Paths) -> None:
    """No base, no t, three for slerp, two for passthrough, layers that are not there."""
    two = {"models": [{"model": A}, {"model": B}]}
    weighted = [{"model": m, "parameters": {"weight": 1}} for m in (A, B)]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"merge_method": "ties", "models": weighted}, "base_model"),
        ({"merge_method": "slerp", **two, "base_model": A}, "no t for"),
        ({"merge_method": "slerp", **two, "parameters": {"t": 0.5}}, "exactly two"),
        ({"merge_method": "passthrough", **two}, "one source"),
        (
            {
                "merge_method": "passthrough",
                "slices": [{"sources": [{"model": A, "layer_range": [2, 9]}]}],
            },
            "outside of the model's 4 layers",
        ),
    ]
    for data, words in cases:
        recipe = save(MergeRecipe.model_validate({"dtype": "bfloat16", **data}), home)
        with pytest.raises(UserError, match=words):
            merge(home, recipe=recipe, out="workspace/mine")
