"""The parents of a merge: found on disk, and refused before weights are read if they do not fit.

Only configs, headers of safetensors files and small adapters are read here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from charllm.core.merging.recipe import MergeRecipe
from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.data.files import read_json, sha256_file

if TYPE_CHECKING:
    from charllm.core.merging.lora_files import Lora

SAME_FIELDS = (
    "model_type",
    "architectures",
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "tie_word_embeddings",
)
"""Fields of config.json that two parents must share to be averaged tensor by tensor."""


class Parent(NamedTuple):
    """A parent found on disk; ``adapter`` is None for a full model."""

    written: str
    base: Path
    adapter: Path | None


@dataclass(frozen=True)
class Plan:
    """A recipe whose parents were found and fit together. ``layers`` counts the base's."""

    recipe: MergeRecipe
    parents: tuple[Parent, ...]
    adapters: Mapping[Path, Lora]
    layers: int
    base_model: Path | None

    @property
    def base(self) -> Path:
        """The folder that gives config, tokenizer and the order of tensors."""
        return self.parents[0].base


def plan_merge(recipe_file: Path, paths: Paths | None = None) -> Plan:
    """Find and check all before a base's weights are read; ``UserError`` says what is wrong."""
    recipe = MergeRecipe.load(recipe_file)
    near = recipe_file.resolve().parent
    parents = tuple(find_parent(written, near, paths) for written in recipe.parents)
    if not parents:
        raise UserError(
            "The recipe names its parents under modules, which only mergekit-yaml itself reads.",
            "このレシピは modules で親を指定しています。mergekit-yaml で直接実行してください。",
        )
    adapters = check_parents(parents)
    donor = find_folder(recipe.base_model, near, paths) if recipe.base_model else None
    return Plan(recipe, parents, adapters, _config(parents[0].base)["num_hidden_layers"], donor)


def _config(folder: Path) -> dict[str, Any]:
    """config.json; of a model with pictures, the part for text."""
    config = read_json(folder / "config.json")
    return {**config, **config.get("text_config", {})}


def find_folder(written: str, near: Path, paths: Paths | None = None) -> Path:
    """The folder a recipe means: absolute, beside the recipe, under the root, or a known name.

    ``workspace/…`` also finds a workspace that was moved elsewhere.
    """
    path = Path(written).expanduser()
    places = [path] if path.is_absolute() else [near / path]
    if not path.is_absolute() and paths is not None:
        places += [paths.root / path, paths.models / path, paths.checkpoints / path]
        if path.parts[:1] == ("workspace",):
            places.append(paths.workspace.joinpath(*path.parts[1:]))
    for place in places:
        if place.is_dir():
            return place.resolve()
    raise UserError(
        f"The recipe names {written!r}, but there is no such folder (looked in: "
        f"{', '.join(str(place) for place in places)}). Correct the path, or make the model first.",
        f"レシピにある「{written}」のフォルダーが見つかりません（探した場所: "
        f"{', '.join(str(place) for place in places)}）。"
        "パスを直すか、先にモデルを用意してください。",
    )


def find_parent(written: str, near: Path, paths: Paths | None = None) -> Parent:
    """Find ``base``, ``base+adapter``, or an adapter's folder (with the base it notes)."""
    base, plus, adapter = written.partition("+")
    if "+" in adapter:
        raise UserError(
            f"{written!r}: write a parent as base+adapter, with one +.",
            f"「{written}」: 親は「ベース+アダプター」の形で、+ は1つだけにしてください。",
        )
    if plus:
        folder = find_folder(adapter, near, paths)
        return Parent(written, find_folder(base, near, paths), folder)
    folder = find_folder(base, near, paths)
    if not (folder / "adapter_config.json").is_file():
        return Parent(written, folder, None)
    noted = str(read_json(folder / "adapter_config.json").get("base_model_name_or_path") or "")
    return Parent(written, find_folder(noted, near, paths), folder)


def read_header(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """``tensor name → (dtype, shape)`` of a safetensors file, without reading a weight."""
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
    header.pop("__metadata__", None)
    return {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}


def shard_files(folder: Path) -> list[Path]:
    """The model's safetensors files, by its index where there is one."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(read_json(index)["weight_map"].values()))
        return [folder / name for name in names]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    raise UserError(
        f"{folder} holds no model.safetensors; only safetensors models can be merged.",
        f"{folder} に model.safetensors がありません。マージできるのは safetensors だけです。",
    )


def check_parents(parents: Sequence[Parent]) -> dict[Path, Lora]:
    """The adapters by folder, if all parents fit together; no weight of a base is read."""
    from charllm.core.merging.lora_files import read_lora

    bases = list(dict.fromkeys(parent.base for parent in parents))
    for other in bases[1:]:
        _same_architecture(bases[0], other)
        _same_vocabulary(bases[0], other)
        _same_tensors(bases[0], other)
    _same_origin([p.adapter for p in parents if p.adapter is not None])
    adapters: dict[Path, Lora] = {}
    for parent in parents:
        if parent.adapter is not None:
            adapters[parent.adapter] = read_lora(parent.adapter)
            _fits(adapters[parent.adapter], parent.base)
    return adapters


def _differ(what: str, first: object, a: object, second: object, b: object) -> UserError:
    return UserError(
        f"The parents cannot be merged: {what} differs ({first}: {a}, {second}: {b}). "
        "Choose parents made from the same base.",
        f"親どうしの {what} が異なるためマージできません（{first}: {a}、{second}: {b}）。"
        "同じベースから作った親を選んでください。",
    )


def _same_architecture(first: Path, second: Path) -> None:
    one, two = _config(first), _config(second)
    for field in SAME_FIELDS:
        if one.get(field) != two.get(field):
            raise _differ(field, first.name, one.get(field), second.name, two.get(field))


def _same_vocabulary(first: Path, second: Path) -> None:
    files = [folder / "tokenizer.json" for folder in (first, second)]
    if not all(file.is_file() for file in files) or sha256_file(files[0]) == sha256_file(files[1]):
        return
    one, two = (read_json(file)["model"].get("vocab") for file in files)
    if one != two:
        changed = next((t for t in one if t not in two), "") if isinstance(one, dict) else ""
        raise _differ(f"the vocabulary {changed!r}", first.name, len(one), second.name, len(two))


def _same_tensors(first: Path, second: Path) -> None:
    one, two = (
        {n: shape for file in shard_files(f) for n, (_, shape) in read_header(file).items()}
        for f in (first, second)
    )
    for name in sorted(one.keys() | two.keys()):
        if one.get(name) != two.get(name):
            raise _differ(name, first.name, one.get(name, "-"), second.name, two.get(name, "-"))


def _same_origin(adapters: Sequence[Path]) -> None:
    """Adapters whose cards name different base weights do not share a base, whatever its name."""
    known = [(a, read_json(a / "card.json")) for a in adapters if (a / "card.json").is_file()]
    for adapter, card in known[1:]:
        first, first_card = known[0]
        if card.get("base_hash") != first_card.get("base_hash"):
            raise _differ(
                "the base's weights hash",
                first.name,
                str(first_card.get("base_hash"))[:12],
                adapter.name,
                str(card.get("base_hash"))[:12],
            )


def _fits(lora: Lora, base: Path) -> None:
    shapes = {n: s for file in shard_files(base) for n, (_, s) in read_header(file).items()}
    for module, (down, up, _) in lora.pairs.items():
        made_for, has = (up.shape[0], down.shape[1]), shapes.get(f"{module}.weight")
        if has != made_for:
            what = f"the shape of {module}"
            raise _differ(what, lora.folder.name, made_for, base.name, has or "-")
