"""Making a merge: in memory with one rounding ("resident"), or with mergekit itself.

What comes out is a 16-bit model, a small adapter (the parents' low-rank parts side by side, exact),
or the recipe published as a checkpoint, which chat blends on the fly (publish). Which weights are
good is not known here.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from charllm.core.merging.headers import read_header, shard_files
from charllm.core.merging.parents import Parent, Plan, plan_merge, plan_recipe
from charllm.core.merging.publish import model_card, publish_adapter, publish_recipe
from charllm.core.merging.recipe import (
    MergeRecipe,
    Source,
    check_with_mergekit,
    renamed,
    seed_note,
)
from charllm.core.merging.sources import Blended
from charllm.data.config import Config, Paths
from charllm.data.errors import Text, UserError
from charllm.data.files import new_folder, read_json, write_json, write_text
from charllm.data.progress import Reporter, Silent, Stopped

COPIED = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
MADE = {"model": "mergekit_config.yml", "adapter": "merged_from.yaml", "recipe": "recipe.yaml"}
"""By form the file that a merge leaves; only a folder that has it may be replaced."""
_CHANGED_FIELDS = ("num_hidden_layers", "layer_types", "vocab_size")
_SHARD = 2**31  # elements: 4 GB in 16 bits


class MergeConfig(Config):
    """A merge to make. Relative ``recipe`` and ``out`` are under the project's root.

    ``form``: "model" a 16-bit model folder; "adapter" one LoRA adapter made of the parents';
    "recipe" the recipe itself as a checkpoint (a few KB). ``seed`` is DARE's, the same as
    ``mergekit-yaml --random-seed``.
    """

    recipe: str = Field(min_length=1)
    out: str = Field(min_length=1)
    engine: Literal["resident", "mergekit"] = "resident"
    form: Literal["model", "adapter", "recipe"] = "model"
    seed: int = Field(default=0, ge=0, lt=2**32)
    label_en: str = ""
    label_ja: str = ""


def run_merge(
    config: MergeConfig, reporter: Reporter, folder: Path, paths: Paths
) -> dict[str, Any]:
    """Make the merge; returns ``{"out", "engine", "form", "seconds", "parents"}``.

    An earlier merge in ``out`` is replaced at the very end; anything else there is a ``UserError``.
    """
    started = time.monotonic()
    recipe_file = paths.root / config.recipe  # an absolute path stays as it is
    out = paths.root / config.out
    if config.engine == "mergekit" and config.form != "model":
        raise UserError(
            "mergekit writes models only; use the resident engine for this form.",
            "mergekit が書き出せるのはモデルだけです。この形式にはエンジン resident を使います。",
        )
    plan = plan_merge(recipe_file, paths)
    _check_out(out, config.form, plan)
    label = Text(config.label_en or out.name, config.label_ja or out.name)
    if config.form == "recipe":
        publish_recipe(plan, recipe_file, out, label, paths)
    elif config.form == "adapter":
        publish_adapter(plan, out, label)
    elif config.engine == "mergekit":
        merge_with_mergekit(plan, out, config.seed)
    else:
        blend_model(plan, out, reporter, config.seed)
    return {
        "out": str(out),
        "engine": config.engine,
        "form": config.form,
        "seconds": round(time.monotonic() - started, 3),
        "parents": [parent.written for parent in plan.parents],
    }


def _check_out(out: Path, form: str, plan: Plan) -> None:
    """``UserError`` where something else than an earlier merge of this form would be replaced."""
    if out.resolve() in {folder for one in plan.parents for folder in (one.base, one.adapter)}:
        raise UserError(
            f"{out} is a parent of this merge; choose another folder.",
            f"{out} はこのマージの親です。別のフォルダーを指定してください。",
        )
    empty = out.is_dir() and not any(out.iterdir())
    if out.exists() and not empty and not (out / MADE[form]).is_file():
        raise UserError(
            f"{out} exists and holds something else than an earlier merge of this form "
            f"(no {MADE[form]}); choose another folder.",
            f"{out} には、この形式で以前に作ったマージではないものが入っています"
            f"（{MADE[form]} がありません）。別のフォルダーを指定してください。",
        )


def blend_model(plan: Plan, out: Path, reporter: Reporter, seed: int = 0) -> None:
    """Write the blended model to ``out``, atomically; in the base's own files where the recipe
    keeps layers in their place, else in new ones."""
    from safetensors.torch import save_file

    files = _files(plan)
    tensors = Blended(plan, seed)
    with new_folder(out) as work:
        for number, (file, names) in enumerate(files.items()):
            if reporter.stop_requested():
                raise Stopped
            reporter.progress(number, len(files), Text("blending", "重みを混ぜています"))
            made = {name: tensors.get(name).contiguous() for name in names}
            save_file(made, work / file, metadata={"format": "pt"})
            (work / file).chmod(0o644)
        _copy_rest(plan, work, seed)
        if len(files) > 1:
            _write_index(plan, work, files)
        reporter.progress(len(files), len(files), Text("done", "完了"))


def _files(plan: Plan) -> dict[str, list[str]]:
    """The output's tensors by file name."""
    donor = plan.donor
    if plan.rules.in_place and donor.recipe is None:
        return {file.name: list(read_header(file)) for file in shard_files(donor.base)}
    parts: list[list[str]] = [[]]
    size = 0
    for name, shape in plan.shapes.items():
        size += math.prod(shape)
        if size > _SHARD and parts[-1]:
            parts.append([])
            size = math.prod(shape)
        parts[-1].append(name)
    if len(parts) == 1:
        return {"model.safetensors": parts[0]}
    total = len(parts)
    return {f"model-{k + 1:05d}-of-{total:05d}.safetensors": p for k, p in enumerate(parts)}


def _write_index(plan: Plan, work: Path, files: Mapping[str, list[str]]) -> None:
    where = {name: file for file, names in files.items() for name in names}
    size = sum((work / file).stat().st_size for file in files)
    index = {"metadata": {"total_size": size}, "weight_map": where}
    write_json(work / "model.safetensors.index.json", index)


def merge_with_mergekit(plan: Plan, out: Path, seed: int = 0) -> None:
    """The same recipe through mergekit itself (adapters are merged to full copies on disk).

    A parent that is a recipe is made first. The config is ours, because mergekit 0.1.5 cannot
    write that of a Gemma or Qwen whose number of layers changed: it fails after the weights.
    """
    from huggingface_hub.errors import StrictDataclassError
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge as mergekit_merge
    from mergekit.options import MergeOptions

    check_with_mergekit(plan.recipe)
    with tempfile.TemporaryDirectory() as cache, new_folder(out) as work:
        data = absolute(plan, Path(cache), seed).model_dump(mode="json", exclude_none=True)
        options = MergeOptions(
            lora_merge_cache=cache,
            lora_merge_dtype="float32" if plan.recipe.dtype == "float32" else None,
            copy_tokenizer=False,
            write_model_card=False,
            random_seed=seed,
            quiet=True,
        )
        try:
            mergekit_merge(MergeConfiguration.model_validate(data), str(work), options)
        except StrictDataclassError as error:
            if "layer_types" not in str(error):
                raise
        _copy_rest(plan, work, seed)


def absolute(plan: Plan, made: Path, seed: int = 0) -> MergeRecipe:
    """The recipe with each parent's folder in full; parents that are recipes are made under
    ``made``.

    So are adapters where the method draws at random: mergekit would merge them after it set the
    seed, and loading a model for that uses up random numbers.
    """
    found = {}
    draws = plan.recipe.merge_method.startswith("dare")
    for number, parent in enumerate(plan.parents):
        folder = made / f"parent-{number}"
        if parent.recipe is not None:
            blend_model(parent.recipe, folder, Silent(), seed)
            found[parent.written] = str(folder)
        elif parent.adapter is not None and draws:
            blend_model(_alone(plan, parent), folder, Silent())
            found[parent.written] = str(folder)
        else:
            base = str(parent.base)
            found[parent.written] = f"{base}+{parent.adapter}" if parent.adapter else base
    return renamed(plan.recipe, found)


def _alone(plan: Plan, parent: Parent) -> Plan:
    """A parent by itself, in the recipe's working type."""
    source = Source(model=parent.written, parameters={"weight": 1.0})
    recipe = MergeRecipe(merge_method="linear", models=(source,), dtype=plan.recipe.dtype)
    return plan_recipe(recipe, (parent,))


def _copy_rest(plan: Plan, work: Path, seed: int) -> None:
    """Config, tokenizer and recipe beside the weights."""
    for name in COPIED:
        if (plan.base / name).is_file():
            shutil.copy(plan.base / name, work / name)
    index = plan.base / "model.safetensors.index.json"
    if plan.rules.in_place and index.is_file() and not (work / index.name).exists():
        shutil.copy(index, work / index.name)
    if plan.vocabulary:
        plan.vocabulary.write(work)
    write_json(work / "config.json", _out_config(plan))
    write_text(work / "README.md", model_card(plan, seed))
    write_text(
        work / "mergekit_config.yml", f"{seed_note(plan.recipe, seed)}{plan.recipe.to_yaml()}"
    )


def _out_config(plan: Plan) -> dict[str, Any]:
    """The donor's config.json with the new layers, vocabulary and dtype."""
    config = read_json(plan.base / "config.json")
    changed = {key: plan.config[key] for key in _CHANGED_FIELDS if key in plan.config}
    if "text_config" in config:
        config["text_config"] = {**config["text_config"], **changed}
    else:
        config |= changed
    dtype = plan.recipe.out_dtype or plan.recipe.dtype
    if dtype:
        config.pop("torch_dtype", None)
        config["dtype"] = dtype
    return config
