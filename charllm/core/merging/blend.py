"""Making a merge: in memory with one rounding ("resident"), or with mergekit itself.

What comes out is a 16-bit model, a small adapter (the parents' low-rank parts side by side, exact),
or the recipe published as a checkpoint, which chat blends on the fly (publish). Which weights are
good is not known here.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from charllm.core.merging.parents import Plan, plan_merge, read_header, shard_files
from charllm.core.merging.publish import publish_adapter, publish_recipe
from charllm.core.merging.recipe import LinearWeights, MergeRecipe, check_with_mergekit, renamed
from charllm.data.config import Config, Paths
from charllm.data.errors import Text, UserError
from charllm.data.files import new_folder, read_json, write_json
from charllm.data.progress import Reporter, Stopped

if TYPE_CHECKING:
    import torch

COPIED = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
)


class MergeConfig(Config):
    """A merge to make. Relative ``recipe`` and ``out`` are under the project's root.

    ``form``: "model" a 16-bit model folder; "adapter" one LoRA adapter made of the parents';
    "recipe" the recipe itself as a checkpoint (a few KB).
    """

    recipe: str = Field(min_length=1)
    out: str = Field(min_length=1)
    engine: Literal["resident", "mergekit"] = "resident"
    form: Literal["model", "adapter", "recipe"] = "model"
    label_en: str = ""
    label_ja: str = ""


def run_merge(
    config: MergeConfig, reporter: Reporter, folder: Path, paths: Paths
) -> dict[str, Any]:
    """Make the merge; returns ``{"out", "engine", "form", "seconds", "parents"}``."""
    started = time.monotonic()
    recipe_file = paths.root / config.recipe  # an absolute path stays as it is
    out = paths.root / config.out
    if config.form == "model" and out.resolve() in (paths.root.resolve(), Path("/")):
        raise UserError(
            "Choose a new folder for --out.", "--out には新しいフォルダーを指定してください。"
        )
    if config.engine == "mergekit" and config.form != "model":
        raise UserError(
            "mergekit writes models only; use the resident engine for this form.",
            "mergekit が書き出せるのはモデルだけです。この形式にはエンジン resident を使います。",
        )
    plan = plan_merge(recipe_file, paths)
    if config.form == "model" and out.exists() and not (out / "config.json").is_file():
        _refuse_foreign(out)
    label = Text(config.label_en or out.name, config.label_ja or out.name)
    if config.form == "recipe":
        publish_recipe(plan, recipe_file, out, label, paths)
    elif config.form == "adapter":
        publish_adapter(plan, out, label)
    elif config.engine == "mergekit":
        merge_with_mergekit(plan, out)
    else:
        blend_model(plan, out, reporter)
    return {
        "out": str(out),
        "engine": config.engine,
        "form": config.form,
        "seconds": round(time.monotonic() - started, 3),
        "parents": [parent.written for parent in plan.parents],
    }


def _refuse_foreign(out: Path) -> None:
    if not out.is_dir() or any(out.iterdir()):
        raise UserError(
            f"{out} exists and holds something else than a model; choose another folder.",
            f"{out} にはモデルではないものが入っています。別のフォルダーを指定してください。",
        )


def blended_tensors(plan: Plan, shard: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """``(name, blended tensor)`` for every tensor of one of the base's files, in its order.

    Σ_b c_b·W_b + Σ_k w_k·s_k·B_k·A_k, accumulated in float32 and rounded once.
    """
    import torch

    weights = LinearWeights(plan.recipe, plan.layers)
    dtype = torch_dtype(plan.recipe.out_dtype or plan.recipe.dtype)
    readers = {p.base: _Reader(p.base) for p in plan.parents}
    for name in read_header(shard):
        shares = weights.of(name)
        by_base: dict[Path, float] = {}
        for parent, share in zip(plan.parents, shares, strict=True):
            by_base[parent.base] = by_base.get(parent.base, 0.0) + share
        first = readers[plan.base].get(name)
        total = torch.zeros(first.shape, dtype=torch.float32)
        for base, share in by_base.items():
            total.add_(readers[base].get(name).float(), alpha=share)
        module = name.removesuffix(".weight")
        for parent, share in zip(plan.parents, shares, strict=True):
            lora = plan.adapters.get(parent.adapter) if parent.adapter else None
            if lora is not None and module in lora.pairs:
                down, up, scale = lora.pairs[module]
                total.addmm_(up.float(), down.float(), alpha=share * scale)
        yield name, total.to(dtype or first.dtype)


def blend_model(plan: Plan, out: Path, reporter: Reporter) -> None:
    """Write the blended model to ``out`` in the base's own file layout, atomically."""
    from safetensors.torch import save_file

    shards = shard_files(plan.base)
    with new_folder(out) as work:
        for number, shard in enumerate(shards):
            if reporter.stop_requested():
                raise Stopped
            reporter.progress(number, len(shards), Text("blending", "重みを混ぜています"))
            tensors = {name: tensor.contiguous() for name, tensor in blended_tensors(plan, shard)}
            save_file(tensors, work / shard.name, metadata={"format": "pt"})
            (work / shard.name).chmod(0o644)
        _copy_rest(plan, work)
        reporter.progress(len(shards), len(shards), Text("done", "完了"))


def merge_with_mergekit(plan: Plan, out: Path) -> None:
    """The same recipe through mergekit itself (adapters are merged to full copies on disk)."""
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge as mergekit_merge
    from mergekit.options import MergeOptions

    check_with_mergekit(plan.recipe)
    data = absolute(plan).model_dump(mode="json", exclude_none=True)
    with tempfile.TemporaryDirectory() as cache, new_folder(out) as work:
        options = MergeOptions(
            lora_merge_cache=cache,
            lora_merge_dtype="float32" if plan.recipe.dtype == "float32" else None,
            copy_tokenizer=False,
            write_model_card=False,
            quiet=True,
        )
        mergekit_merge(MergeConfiguration.model_validate(data), str(work), options)
        _copy_rest(plan, work, keep=("config.json", "model.safetensors.index.json"))


def absolute(plan: Plan) -> MergeRecipe:
    """The recipe with each parent's folder in full, so that it does not matter where one stands."""
    found = {p.written: f"{p.base}+{p.adapter}" if p.adapter else str(p.base) for p in plan.parents}
    if plan.recipe.base_model:
        found[plan.recipe.base_model] = str(plan.base_model)
    return renamed(plan.recipe, found)


def _copy_rest(plan: Plan, work: Path, keep: Sequence[str] = ()) -> None:
    """Config, tokenizer and recipe beside the weights; the config names the new dtype."""
    for name in COPIED:
        if (plan.base / name).is_file() and name not in keep:
            shutil.copy(plan.base / name, work / name)
    dtype = plan.recipe.out_dtype or plan.recipe.dtype
    if dtype and "config.json" not in keep:
        config = read_json(work / "config.json")
        config.pop("torch_dtype", None)
        write_json(work / "config.json", {**config, "dtype": dtype})
    plan.recipe.save(work / "mergekit_config.yml")


class _Reader:
    """Tensors of a model folder by name, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        self._open = {}
        for file in shard_files(folder):
            handle = safe_open(file, "pt")
            for name in handle.keys():  # noqa: SIM118 - a safetensors handle is no dict
                self._open[name] = handle

    def get(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._open[name].get_tensor(name)
        return tensor


def torch_dtype(name: str | None) -> torch.dtype | None:
    """bfloat16, float16 or float32 by name; None keeps what the base has."""
    import torch

    if name is None:
        return None
    known = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
    if name.removeprefix("torch.") not in known:
        raise UserError(
            f"dtype {name!r} is not known; use {', '.join(known)}.",
            f"dtype「{name}」は使えません。{'、'.join(known)} のいずれかにしてください。",
        )
    return known[name.removeprefix("torch.")]
