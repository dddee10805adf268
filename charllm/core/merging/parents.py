"""The parents of a merge: found on disk, and refused before weights are read if they do not fit.

Only configs, headers of safetensors files and small adapters are read here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charllm.core.merging.compatibility import check_parents
from charllm.core.merging.headers import stored_shapes, text_config
from charllm.core.merging.parameters import Rules, in_layer, layer_of
from charllm.core.merging.recipe import MergeRecipe
from charllm.core.merging.tokenizer_source import Vocabulary, vocabulary_of
from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.data.files import read_json

if TYPE_CHECKING:
    from charllm.core.merging.lora_files import Lora


@dataclass(frozen=True)
class Parent:
    """A parent found on disk: a full model, an adapter on one, or another recipe's result.

    ``base`` is the folder with config and tokenizer; for a recipe, that of its own donor.
    """

    written: str
    base: Path
    adapter: Path | None = None
    recipe: Plan | None = None

    @property
    def config(self) -> dict[str, Any]:
        return self.recipe.config if self.recipe else text_config(self.base)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Each tensor's shape by name."""
        if self.recipe:
            return self.recipe.shapes
        return stored_shapes(self.base)

    @property
    def name(self) -> str:
        """A short name for messages."""
        return (self.adapter or (self.base if self.recipe is None else Path(self.written))).name


@dataclass(frozen=True)
class Plan:
    """A recipe whose parents were found and fit together. ``layers`` counts a parent's;
    ``vocabulary``: the output's, where ``tokenizer_source`` brings several together. ``file``: the
    recipe's, for messages; None where it has none."""

    recipe: MergeRecipe
    parents: tuple[Parent, ...]
    adapters: Mapping[Path, Lora]
    layers: int
    vocabulary: Vocabulary | None = None
    file: Path | None = None

    @property
    def donor(self) -> Parent:
        """The parent that gives config, tokenizer and the order of tensors: the recipe's base,
        else the first."""
        return next((p for p in self.parents if p.written == self.recipe.base_model), self.first)

    @property
    def first(self) -> Parent:
        return self.parents[0]

    @property
    def base(self) -> Path:
        return self.donor.base

    @cached_property
    def rules(self) -> Rules:
        return Rules(self.recipe, self.layers, self.file)

    @property
    def config(self) -> dict[str, Any]:
        """The output's architecture: the donor's with the recipe's number of layers."""
        found = with_layers(self.donor.config, self.rules)
        return {**found, "vocab_size": self.vocabulary.size} if self.vocabulary else found

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The output's tensors in the donor's order, each layer's after the one before it."""
        found: dict[str, tuple[int, ...]] = {}
        by_layer: dict[int, dict[str, tuple[int, ...]]] = {}
        for name, stored in self.donor.shapes.items():
            shape = self.vocabulary.shape(name, stored) if self.vocabulary else stored
            layer = layer_of(name)
            if layer is None:
                found[name] = shape
            else:
                by_layer.setdefault(layer, {})[name] = shape
        for layer in range(self.rules.layers):
            for name, shape in by_layer[self.rules.origin(layer)].items():
                found[in_layer(name, layer)] = shape
        return found


def with_layers(config: Mapping[str, Any], rules: Rules) -> dict[str, Any]:
    """A config whose layer count and kinds of layers follow a recipe that moves layers.

    Families that name each layer's kind (Gemma, Qwen) carry it in ``layer_types``.
    """
    if rules.in_place:
        return dict(config)
    changed = {**config, "num_hidden_layers": rules.layers}
    kinds = config.get("layer_types")
    if kinds:
        changed["layer_types"] = [kinds[rules.origin(k)] for k in range(rules.layers)]
    return changed


def plan_merge(recipe_file: Path, paths: Paths | None = None) -> Plan:
    """Find and check all before a base's weights are read; ``UserError`` says what is wrong."""
    return _plan(recipe_file, paths, ())


def _plan(recipe_file: Path, paths: Paths | None, above: tuple[Path, ...]) -> Plan:
    here = recipe_file.resolve()
    if here in above:
        raise UserError(
            f"{recipe_file} is its own parent, directly or through another recipe.",
            f"{recipe_file} が、直接または他のレシピを通して自分自身を親にしています。",
        )
    recipe = MergeRecipe.load(recipe_file)
    if recipe.modules:
        raise UserError(
            "The recipe names its parents under modules, which only mergekit-yaml itself reads.",
            "このレシピは modules で親を指定しています。mergekit-yaml で直接実行してください。",
        )
    if recipe.chat_template:
        raise UserError(
            f"{recipe_file}: chat_template is read by mergekit-yaml only. Leave it out: the merge "
            "keeps the template of its base, or of its first parent.",
            f"{recipe_file}: chat_template を読めるのは mergekit-yaml だけです。削除してください"
            "（マージにはベース、または最初の親のテンプレートが付きます）。",
        )
    chain = (*above, here)
    parents = tuple(find_parent(written, here.parent, paths, chain) for written in recipe.parents)
    return plan_recipe(recipe, parents, recipe_file)


def plan_recipe(recipe: MergeRecipe, parents: Sequence[Parent], file: Path | None = None) -> Plan:
    """The plan of a recipe whose parents were found already, checked to fit together."""
    vocabulary = vocabulary_of(recipe, parents)
    adapters = check_parents(parents, aligned=vocabulary is not None)
    layers = parents[0].config["num_hidden_layers"]
    made = Plan(recipe, tuple(parents), adapters, layers, vocabulary, file)
    made.rules  # noqa: B018 - refuses layers that are not there
    return made


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


def find_parent(
    written: str, near: Path, paths: Paths | None = None, above: tuple[Path, ...] = ()
) -> Parent:
    """Find a model's folder, ``base+adapter``, an adapter's folder (with the base it notes), or
    another recipe: its file, or a checkpoint's folder with ``recipe.yaml``."""
    base, plus, adapter = written.partition("+")
    if "+" in adapter:
        raise UserError(
            f"{written!r}: write a parent as base+adapter, with one +.",
            f"「{written}」: 親は「ベース+アダプター」の形で、+ は1つだけにしてください。",
        )
    if plus:
        folder = find_folder(adapter, near, paths)
        return Parent(written, find_folder(base, near, paths), folder)
    if base.endswith((".yaml", ".yml")):
        file = Path(base).name
        return _nested(
            written, find_folder(str(Path(base).parent), near, paths) / file, paths, above
        )
    folder = find_folder(base, near, paths)
    if not (folder / "config.json").is_file() and (folder / "recipe.yaml").is_file():
        return _nested(written, folder / "recipe.yaml", paths, above)
    if not (folder / "adapter_config.json").is_file():
        return Parent(written, folder)
    noted = str(read_json(folder / "adapter_config.json").get("base_model_name_or_path") or "")
    return Parent(written, find_folder(noted, near, paths), folder)


def _nested(written: str, file: Path, paths: Paths | None, above: tuple[Path, ...]) -> Parent:
    inner = _plan(file, paths, above)
    return Parent(written, inner.base, recipe=inner)
