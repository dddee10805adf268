"""What a recipe asks for a single tensor: its sources, their weights, the method's numbers.

mergekit's rules, without its code: the closest level counts (source, slice, recipe), a list of
numbers is a gradient over the slice's layers, a list of filters picks by the tensor's name. It
does not know tensors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charllm.core.merging.coefficients import BASE_METHODS
from charllm.data.config import invalid
from charllm.data.errors import Text, UserError

if TYPE_CHECKING:
    from charllm.core.merging.recipe import MergeRecipe, Slice, Source

LAYER = re.compile(r"((?:^|\.)layers\.)(\d+)(?=\.)")
_BEFORE_LAYERS = ("embed_tokens", "wte", "word_embeddings")

NORMALIZED = {"linear": True, "ties": True}
RESCALED = {"dare_ties": True, "dare_linear": True}
"""mergekit's defaults of ``normalize`` and ``rescale``; every other method's are False."""


@dataclass(frozen=True)
class Entry:
    """One source of an output tensor: the parent as written, and its tensor's name there.

    ``scale`` is passthrough's; None leaves the tensor as it is.
    """

    parent: str
    tensor: str
    weight: float = 1.0
    density: float = 1.0
    scale: float | None = None


@dataclass(frozen=True)
class TensorRule:
    """How one output tensor is made; ``base`` is the index of the base's entry, or None.

    ``lam`` is mergekit's ``lambda``; ``t`` is slerp's. ``normalize`` divides by the sum of the
    weights, ``rescale`` keeps a thinned delta's L1 norm (DARE).
    """

    method: str
    entries: tuple[Entry, ...]
    base: int | None = None
    t: float = 0.0
    lam: float = 1.0
    normalize: bool = False
    rescale: bool = False

    @property
    def tuned(self) -> tuple[Entry, ...]:
        """The entries without the base's, in order."""
        return tuple(e for k, e in enumerate(self.entries) if k != self.base)


def is_before_layers(tensor: str) -> bool:
    return any(part in tensor for part in _BEFORE_LAYERS)


def layer_of(tensor: str) -> int | None:
    """The decoder layer a tensor belongs to, by its name."""
    found = LAYER.search(tensor)
    return int(found[2]) if found else None


def in_layer(tensor: str, layer: int) -> str:
    """The name of the same tensor in another layer."""
    return LAYER.sub(rf"\g<1>{layer}", tensor, count=1)


def resolve_setting(setting: Any, tensor: str, t: float) -> Any:
    """mergekit's rule for one parameter: a value, a gradient over t in [0, 1], or filters.

    A list of numbers is interpolated at t, of switches or words the nearest below is taken; a
    list of ``{filter, value}`` gives the first whose filter occurs in the tensor's name (no
    filter or ``*``: always). None where nothing applies.
    """
    if isinstance(setting, dict):
        setting = [setting]
    if not isinstance(setting, (list, tuple)):
        return setting
    if setting and isinstance(setting[0], dict):
        for entry in setting:
            wanted = entry.get("filter")
            if wanted in (None, "*") or wanted in tensor:
                return resolve_setting(entry["value"], tensor, t)
        return None
    if not setting:
        return None
    scaled = t * (len(setting) - 1)
    low = int(scaled)
    if isinstance(setting[low], bool):
        return setting[low]
    high = min(len(setting) - 1, low + 1)
    return (1 - (scaled - low)) * float(setting[low]) + (scaled - low) * float(setting[high])


NUMBERS = ("weight", "density", "t", "lambda", "scale", "gamma", "epsilon")


def check_setting(name: str, setting: Any) -> None:
    """A validator's error where ``resolve_setting`` could not read a parameter, or a number would
    make every weight NaN."""
    if isinstance(setting, (list, tuple)):
        for one in setting:
            check_setting(name, one)
    elif isinstance(setting, dict):
        if "value" not in setting or set(setting) - {"filter", "value"}:
            raise invalid(
                f"{name}: an entry is {{filter: …, value: …}}, not {dict(setting)}",
                f"{name}: {{filter: …, value: …}} の形で書いてください: {dict(setting)}",
            )
        check_setting(name, setting["value"])
    elif name in NUMBERS and not (isinstance(setting, (int, float)) and math.isfinite(setting)):
        raise invalid(
            f"{name}: {setting!r} is no number", f"{name}: {setting!r} は数値ではありません"
        )


class Rules:
    """The recipe tensor by tensor, for a model whose parents have ``layers`` layers each.

    ``file`` is where it was read from, for messages; None for one that was made in memory.
    """

    def __init__(self, recipe: MergeRecipe, layers: int, file: Path | None = None) -> None:
        """``UserError`` where a slice asks for layers that are not there."""
        self.recipe = recipe
        self._named = Text(f"The recipe {file}", f"レシピ {file} ") if file else _UNNAMED
        self.parent_layers = layers
        self.slices = recipe.as_slices(layers)
        self._places: list[tuple[Slice, int, float]] = []
        for piece in self.slices:
            _check_slice(piece, layers)
            low, high = piece.sources[0].layer_range or (0, layers)
            for offset in range(high - low):
                t = offset / (high - low - 1) if high - low > 1 else 1.0
                self._places.append((piece, offset, t))

    @property
    def layers(self) -> int:
        """How many layers the output has."""
        return len(self._places)

    def origin(self, layer: int) -> int:
        """The layer of its first source that an output layer is made from."""
        piece, offset, _ = self._places[layer]
        return (piece.sources[0].layer_range or (0, 0))[0] + offset

    @property
    def in_place(self) -> bool:
        """Whether every layer is kept where it is, in all sources alike."""
        return (
            self.layers == self.parent_layers
            and all(
                source.layer_range == piece.sources[0].layer_range
                for piece in self.slices
                for source in piece.sources
            )
            and [self.origin(k) for k in range(self.layers)] == list(range(self.layers))
        )

    def of(self, tensor: str) -> TensorRule:
        """The rule for an output tensor; like mergekit, embeddings take the first slice's
        settings, norm and head the last's."""
        layer = layer_of(tensor)
        if layer is not None:
            piece, offset, t = self._places[layer]
        else:
            piece, offset, t = self.slices[0 if is_before_layers(tensor) else -1], None, 0.0
        method = self.recipe.merge_method
        base = piece.base_model or self.recipe.base_model
        names = [source.model for source in piece.sources]
        at = names.index(base) if base in names else None
        return TensorRule(
            method,
            tuple(self._entry(s, piece, tensor, offset, t, s.model == base) for s in piece.sources),
            at if method in ("slerp", *BASE_METHODS) else None,
            t=self._required_t(piece, tensor, t) if method == "slerp" else 0.0,
            lam=float(self._shared("lambda", piece, tensor, t, 1.0)),
            normalize=bool(
                self._shared("normalize", piece, tensor, t, NORMALIZED.get(method, False))
            ),
            rescale=bool(self._shared("rescale", piece, tensor, t, RESCALED.get(method, False))),
        )

    def _entry(
        self, source: Source, piece: Slice, tensor: str, offset: int | None, t: float, is_base: bool
    ) -> Entry:
        name = tensor
        if offset is not None:
            name = in_layer(tensor, (source.layer_range or (0, 0))[0] + offset)
        levels = (source.parameters, piece.parameters, self.recipe.parameters)
        method = self.recipe.merge_method
        if method == "passthrough":
            scale = _first(levels, "scale", name, t)
            return Entry(source.model, name, scale=None if scale is None else float(scale))
        if method == "slerp" or (method in BASE_METHODS and is_base):
            return Entry(source.model, name, weight=0.0)
        weight = _first(levels, "weight", name, t)
        if weight is None:
            raise UserError(
                f"{self._named.en} gives {source.model} no weight for {name}; add one under "
                "parameters.",
                f"{self._named.ja}に、{name} に対する {source.model} の重みがありません。"
                "parameters に weight を書いてください。",
            )
        density = _first(levels, "density", name, t)
        return Entry(source.model, name, float(weight), 1.0 if density is None else float(density))

    def _shared(self, name: str, piece: Slice, tensor: str, t: float, default: Any) -> Any:
        value = _first((piece.parameters, self.recipe.parameters), name, tensor, t)
        return default if value is None else value

    def _required_t(self, piece: Slice, tensor: str, t: float) -> float:
        value = self._shared("t", piece, tensor, t, None)
        if value is None:
            raise UserError(
                f"{self._named.en} gives no t for {tensor}; slerp needs one under parameters.",
                f"{self._named.ja}に、{tensor} の t がありません。slerp では parameters に t が"
                "必要です。",
            )
        return float(value)


_UNNAMED = Text("The recipe", "レシピ")


def _first(levels: Sequence[Mapping[str, Any] | None], name: str, tensor: str, t: float) -> Any:
    for level in levels:
        value = resolve_setting((level or {}).get(name), tensor, t)
        if value is not None:
            return value
    return None


def _check_slice(piece: Slice, layers: int) -> None:
    lengths = {high - low for s in piece.sources for low, high in [s.layer_range or (0, layers)]}
    if len(lengths) != 1 or min(lengths) < 1:
        raise UserError(
            "All sources of a slice must give the same number of layers, at least one.",
            "1つの slice の全ての親は、同じ数（1層以上）の層を指定する必要があります。",
        )
    for source in piece.sources:
        low, high = source.layer_range or (0, layers)
        if low < 0 or high > layers:
            raise UserError(
                f"{source.model}: layer_range [{low}, {high}] is outside of the model's "
                f"{layers} layers.",
                f"{source.model}: layer_range [{low}, {high}] がモデルの層数 {layers} を"
                "超えています。",
            )
    names = [source.model for source in piece.sources]
    if len(set(names)) != len(names):
        raise UserError(
            "A slice names the same parent twice; give each parent once.",
            "1つの slice に同じ親が2回書かれています。親は1回ずつ指定してください。",
        )


class PlainSum:
    """What each parent's tensors are multiplied with, in a recipe that keeps layers in their place
    and is no more than a sum: linear, or task arithmetic, B + λ Σ w (P − B)."""

    def __init__(self, recipe: MergeRecipe, layers: int, file: Path | None = None) -> None:
        if recipe.merge_method not in ("linear", "task_arithmetic") or recipe.modules:
            raise UserError(
                f"{recipe.merge_method!r} is not a plain sum of the parents, only linear and "
                "task_arithmetic are; make a model of it instead.",
                f"「{recipe.merge_method}」は親の単純な和になりません（なるのは linear と "
                "task_arithmetic だけです）。モデルとして書き出してください。",
            )
        self.parents = recipe.parents
        self._rules = Rules(recipe, layers, file)
        if not self._rules.in_place:
            raise UserError(
                f"The recipe's slices must cover layers 0 to {layers} in order, all sources "
                "with the same range; make a model of a recipe that moves layers.",
                f"レシピの slices は 0 から {layers} までの層を順に、全ての親で同じ範囲で"
                "覆う必要があります。層を動かすレシピはモデルとして書き出してください。",
            )

    def of(self, tensor: str) -> list[float]:
        """A weight per parent, in the order of ``parents``, for the tensor of this name; the base
        of task arithmetic has what the others leave of 1."""
        rule = self._rules.of(tensor)
        weights = [entry.weight for entry in rule.tuned]
        if rule.normalize:
            weights = divided(weights, tensor)
        factor = 1.0 if rule.base is None else rule.lam
        found = dict.fromkeys(self.parents, 0.0)
        found |= {e.parent: factor * w for e, w in zip(rule.tuned, weights, strict=True)}
        if rule.base is not None:
            found[rule.entries[rule.base].parent] = 1 - sum(found.values())
        return list(found.values())


def divided(weights: Sequence[float], tensor: str) -> list[float]:
    """The weights divided by their sum; ``UserError`` names the tensor where that is zero."""
    total = sum(weights)
    if abs(total) < 1e-8:
        raise UserError(
            f"The weights of {tensor} add up to zero; give at least one parent a weight.",
            f"{tensor} の重みの合計が 0 です。少なくとも1つの親に重みを付けてください。",
        )
    return [weight / total for weight in weights]
