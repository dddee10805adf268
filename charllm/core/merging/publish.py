"""A merge of adapters as a small checkpoint: one concatenated adapter, or just the recipe.

Chat reads either; neither holds a copy of the base.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from charllm.core.merging.parameters import PlainSum
from charllm.core.merging.parents import Plan
from charllm.core.merging.recipe import MergeRecipe, adapter_weights, renamed
from charllm.data.config import Paths
from charllm.data.errors import Text, UserError
from charllm.data.files import new_folder, read_json, write_json, write_text

if TYPE_CHECKING:
    import torch


def concatenated(plan: Plan) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """One adapter that is the weighted sum of the parents': tensors and adapter_config.

    A = [A_1; A_2; …], B = [w_1·s_1·B_1, w_2·s_2·B_2, …], rank r_1 + r_2 + …, scale 1. Exact but
    for the rounding of w·s·B to the parents' own dtype.
    """
    import torch

    nested = any(parent.recipe is not None for parent in plan.parents)
    if nested or len({p.base for p in plan.parents}) != 1 or not plan.adapters:
        raise UserError(
            "Only adapters on one base can become one adapter; make a model instead.",
            "1つのアダプターにできるのは、同じベースの上のアダプターだけです。"
            "モデルとして書き出してください。",
        )
    loras = [plan.adapters[p.adapter] if p.adapter else None for p in plan.parents]
    layouts = [
        {module: down.shape[0] for module, (down, _, _) in lora.pairs.items()}
        for lora in plan.adapters.values()
    ]
    if any(set(layout.values()) != {min(layout.values())} for layout in layouts) or any(
        layout.keys() != layouts[0].keys() for layout in layouts
    ):
        raise UserError(
            "The parents adapt different modules, or with ranks that differ from module to "
            "module; make a model instead.",
            "親ごとにアダプターの付いた層が異なるか、層によってランクが異なります。"
            "モデルとして書き出してください。",
        )
    weights = PlainSum(plan.recipe, plan.layers, plan.file)
    tensors: dict[str, torch.Tensor] = {}
    for module in layouts[0]:
        shares = weights.of(f"{module}.weight")
        if abs(sum(shares) - 1) > 1e-6:
            raise UserError(
                "The weights must add up to 1 for an adapter (the base is in every parent).",
                "アダプターにするには、重みの合計が 1 である必要があります。",
            )
        pairs = [(lora.pairs[module], s) for lora, s in zip(loras, shares, strict=True) if lora]
        prefix = f"base_model.model.{module}"
        tensors[f"{prefix}.lora_A.weight"] = torch.cat([a for (a, _, _), _ in pairs]).contiguous()
        tensors[f"{prefix}.lora_B.weight"] = torch.cat(
            [(b.float() * (share * scale)).to(b.dtype) for (_, b, scale), share in pairs], dim=1
        ).contiguous()
    rank = sum(next(iter(layout.values())) for layout in layouts)
    first = read_json(next(iter(plan.adapters)) / "adapter_config.json")
    plain = {"use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}
    return tensors, {**first, **plain, "r": rank, "lora_alpha": rank}


def publish_adapter(plan: Plan, out: Path, label: Text) -> None:
    """Write the concatenated adapter as a checkpoint, atomically."""
    from safetensors.torch import save_file

    tensors, adapter_config = concatenated(plan)
    with new_folder(out) as work:
        save_file(tensors, work / "adapter_model.safetensors", metadata={"format": "pt"})
        (work / "adapter_model.safetensors").chmod(0o644)
        write_json(work / "adapter_config.json", adapter_config)
        plan.recipe.save(work / "merged_from.yaml")
        _write_card(plan, work, out.name, label)


def publish_recipe(plan: Plan, recipe_file: Path, out: Path, label: Text, paths: Paths) -> None:
    """Write the recipe as a checkpoint; its parents must be checkpoints themselves.

    Paths become relative to the project's root, where ``mergekit-yaml`` is run.
    """
    for parent in plan.parents:
        if parent.recipe is not None:
            raise UserError(
                f"{parent.written} is a recipe itself; write its weights out in this recipe, or "
                "make a model.",
                f"{parent.written} 自体がレシピです。その重みをこのレシピに書き込むか、"
                "モデルとして書き出してください。",
            )
        if parent.adapter is not None and parent.adapter.parent != paths.checkpoints.resolve():
            raise UserError(
                f"{parent.written}: publish the adapter under checkpoints/ first.",
                f"{parent.written}: 先にアダプターを checkpoints/ に置いてください。",
            )
    adapter_weights(recipe_file, plan.layers)
    recipe = from_root(plan, paths)
    with new_folder(out) as work:
        recipe.save(work / "recipe.yaml")
        _write_card(plan, work, out.name, label)


def from_root(plan: Plan, paths: Paths) -> MergeRecipe:
    """The recipe with its parents written as paths from the project's root."""
    homes = ((paths.workspace.resolve(), Path("workspace")), (paths.root.resolve(), Path()))

    def short(folder: Path) -> str:
        for home, prefix in homes:
            if folder.is_relative_to(home):
                return (prefix / folder.relative_to(home)).as_posix()
        if paths.models.is_dir():  # a base may be linked into the workspace
            for linked in paths.models.iterdir():
                if linked.resolve() == folder:
                    return f"workspace/models/{linked.name}"
        raise UserError(
            f"{folder} lies outside of the project and its workspace.",
            f"{folder} がプロジェクトとワークスペースの外にあります。",
        )

    return renamed(
        plan.recipe,
        {
            p.written: short(p.base) + (f"+{short(p.adapter)}" if p.adapter else "")
            for p in plan.parents
        },
    )


def _write_card(plan: Plan, work: Path, name: str, label: Text) -> None:
    cards = [
        read_json(parent.adapter / "card.json")
        for parent in plan.parents
        if parent.adapter is not None and (parent.adapter / "card.json").is_file()
    ]
    first = cards[0] if cards else {}
    mixed = [p.written for p in plan.parents if p.written != plan.recipe.base_model]
    profiles = {card.get("profile", "") for card in cards}
    licence = first.get("licence") or {}
    card = {
        "label": label.as_json(),
        "base": first.get("base", plan.base.name),
        "base_hash": first.get("base_hash", ""),
        "profile": profiles.pop() if len(profiles) == 1 else "",
        "parents": mixed,
        "licence": licence,
    }
    write_json(work / "card.json", card)
    rows = "\n".join(f"- `{name}`" for name in mixed)
    write_text(
        work / "README.md",
        f"# {name}\n\nMerged by / マージ方法: {plan.recipe.merge_method}\n\n{rows}\n\n"
        "The recipe is mergekit's YAML; paths start at the project's root.  \n"
        "レシピは mergekit の YAML で、パスはプロジェクトのルートから書いています。\n"
        + (f"\n{licence['notice']}\n" if licence.get("notice") else ""),
    )
    if licence.get("notice"):
        write_text(work / "NOTICE", licence["notice"] + "\n")


def model_card(plan: Plan, seed: int) -> str:
    """The README of a merged model: what of, how, how to make it again, under whose terms."""
    recipe = plan.recipe
    rows = "\n".join(f"- `{parent.written}`" for parent in plan.parents)
    notices = [
        (card.get("licence") or {}).get("notice", "")
        for parent in plan.parents
        if parent.adapter is not None and (card := _card(parent.adapter))
    ]
    draws = f" --random-seed {seed}" if recipe.merge_method.startswith("dare") else ""
    terms = "\n".join(dict.fromkeys(notice for notice in notices if notice))
    return (
        "---\ntags:\n- merge\n- mergekit\n---\n\n"
        f"# A {recipe.merge_method} merge / {recipe.merge_method} によるマージ\n\n{rows}\n\n"
        f"Made by / 作り方: `mergekit-yaml mergekit_config.yml OUT{draws}`\n\n"
        "The parents' licences apply to it.  \n親のライセンスが、このモデルにも適用されます。\n\n"
        f"```yaml\n{recipe.to_yaml()}```\n" + (f"\n{terms}\n" if terms else "")
    )


def _card(folder: Path) -> dict[str, Any]:
    file = folder / "card.json"
    return read_json(file) if file.is_file() else {}
