"""A merge recipe: mergekit's YAML, exactly; plain ``mergekit-yaml`` reads the same file.

A parent is a model folder or ``base+adapter``. Paths are relative to the recipe's folder or to
the project's root (where ``mergekit-yaml`` is run). It does not know tensors: blending is blend's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from charllm.data.config import Config, dump_yaml
from charllm.data.errors import UserError
from charllm.data.files import write_text

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_BEFORE_LAYERS = ("embed_tokens", "wte", "word_embeddings")


class Source(Config):
    """One parent, with the layers it gives (only within ``slices``) and its own parameters."""

    model: str = Field(min_length=1)
    layer_range: tuple[int, int] | None = None
    parameters: dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, data: Any) -> Any:
        """mergekit also accepts ``model: {model: …, lora: …}``; here it is one string."""
        if isinstance(data, dict) and isinstance(data.get("model"), dict):
            parts = [_path_of(data["model"].get(key)) for key in ("model", "lora")]
            return {**data, "model": "+".join(part for part in parts if part)}
        return data


def _path_of(value: Any) -> str:
    return str(value.get("path", "")) if isinstance(value, dict) else str(value or "")


class Slice(Config):
    sources: tuple[Source, ...] = Field(min_length=1)
    base_model: str | None = None
    residual_weight: float | None = None
    parameters: dict[str, Any] | None = None


class MergeRecipe(Config):
    """mergekit's ``MergeConfiguration``; exactly one of models, slices and modules is given."""

    merge_method: str = Field(min_length=1)
    models: tuple[Source, ...] | None = None
    slices: tuple[Slice, ...] | None = None
    modules: dict[str, Any] | None = None
    base_model: str | None = None
    dtype: str | None = None
    out_dtype: str | None = None
    tokenizer_source: str | None = None
    tokenizer: dict[str, Any] | None = None
    chat_template: str | None = None
    parameters: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        given = [name for name in ("models", "slices", "modules") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError("give exactly one of models, slices and modules")
        for source in self.models or ():
            if source.layer_range is not None:
                raise ValueError("layer_range belongs under slices, not under models")
        for piece in self.slices or ():
            if any(source.layer_range is None for source in piece.sources):
                raise ValueError("every source of a slice needs a layer_range")
        return self

    def to_yaml(self) -> str:
        """The file's text: only what is set, as mergekit writes it."""
        return dump_yaml(self.model_dump(mode="json", exclude_none=True))

    def save(self, path: Path) -> None:
        write_text(path, self.to_yaml())

    @property
    def parents(self) -> tuple[str, ...]:
        """Every parent once, in order of first mention."""
        sources = list(self.models or ())
        sources += [source for piece in self.slices or () for source in piece.sources]
        return tuple(dict.fromkeys(source.model for source in sources))


def check_with_mergekit(recipe: MergeRecipe) -> None:
    """Let mergekit validate the recipe too; ``UserError`` with its words if it objects."""
    from mergekit.config import MergeConfiguration

    try:
        MergeConfiguration.model_validate(recipe.model_dump(mode="json", exclude_none=True))
    except (ValueError, RuntimeError) as error:  # pydantic's and mergekit's own complaints
        raise UserError(
            f"mergekit refuses the recipe: {error}", f"mergekit がレシピを受け付けません: {error}"
        ) from error


def uniform_linear(
    parents: Sequence[str], weights: Sequence[float] | None = None, dtype: str = "bfloat16"
) -> MergeRecipe:
    """The plain average of ``parents`` (``base+adapter`` or folders), or a weighted one."""
    weights = list(weights) if weights is not None else [round(1 / len(parents), 6)] * len(parents)
    if len(parents) < 2 or len(weights) != len(parents):
        raise UserError(
            "A merge needs at least two parents and one weight for each.",
            "マージには2つ以上の親と、親ごとに1つの重みが必要です。",
        )
    models = tuple(
        Source(model=parent, parameters={"weight": float(weight)})
        for parent, weight in zip(parents, weights, strict=True)
    )
    return MergeRecipe(merge_method="linear", models=models, dtype=dtype)


def layered_linear(
    parents: Sequence[str],
    weights: Sequence[Sequence[float]],
    bounds: Sequence[int],
    dtype: str = "bfloat16",
) -> MergeRecipe:
    """A linear merge by groups of layers, as slices.

    ``weights[g][k]`` is parent k's weight in group g, whose layers are
    ``bounds[g] … bounds[g + 1] - 1``; ``bounds`` starts with 0 and ends with the layer count.
    """
    slices = tuple(
        Slice(
            sources=tuple(
                Source(
                    model=parent,
                    layer_range=(bounds[group], bounds[group + 1]),
                    parameters={"weight": float(weight)},
                )
                for parent, weight in zip(parents, row, strict=True)
            )
        )
        for group, row in enumerate(weights)
    )
    return MergeRecipe(merge_method="linear", slices=slices, dtype=dtype)


def renamed(recipe: MergeRecipe, names: Mapping[str, str]) -> MergeRecipe:
    """The recipe with its parents written otherwise (absolute, or from another folder)."""

    def source(item: Source) -> Source:
        return item.model_copy(update={"model": names.get(item.model, item.model)})

    def piece(item: Slice) -> Slice:
        return item.model_copy(update={"sources": tuple(source(s) for s in item.sources)})

    changes: dict[str, Any] = {}
    if recipe.models:
        changes["models"] = tuple(source(s) for s in recipe.models)
    if recipe.slices:
        changes["slices"] = tuple(piece(p) for p in recipe.slices)
    if recipe.base_model:
        changes["base_model"] = names.get(recipe.base_model, recipe.base_model)
    return recipe.model_copy(update=changes)


def resolve_setting(setting: Any, tensor: str, t: float) -> Any:
    """mergekit's rule for one parameter: a value, a gradient over t in [0, 1], or filters.

    A list of numbers is interpolated at t; a list of ``{filter, value}`` gives the first whose
    filter occurs in the tensor's name (no filter or ``*``: always). None where nothing applies.
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
    high = min(len(setting) - 1, low + 1)
    return (1 - (scaled - low)) * float(setting[low]) + (scaled - low) * float(setting[high])


class LinearWeights:
    """Each parent's share of each tensor, in the recipe's terms (normalised where it says so)."""

    def __init__(self, recipe: MergeRecipe, layers: int) -> None:
        if recipe.merge_method != "linear" or recipe.modules:
            raise UserError(
                f"{recipe.merge_method!r} is not blended in memory, only linear is; "
                "choose the mergekit engine for it.",
                f"「{recipe.merge_method}」はメモリー上では混ぜられません（linear のみ）。"
                "エンジンに mergekit を選んでください。",
            )
        self.recipe = recipe
        self.parents = recipe.parents
        self.layers = layers
        self.slices = recipe.slices or (
            Slice(
                sources=tuple(
                    source.model_copy(update={"layer_range": (0, layers)})
                    for source in recipe.models or ()
                )
            ),
        )
        self.starts = self._tile()

    def _tile(self) -> list[int]:
        """First layer of each slice; refuses slices that do not keep every layer in its place."""
        starts, at = [], 0
        for piece in self.slices:
            ranges = {source.layer_range for source in piece.sources}
            (low, high) = next(iter(ranges)) or (0, 0)
            if len(ranges) != 1 or low != at or high <= low:
                at = -1
                break
            starts.append(low)
            at = high
        if at != self.layers:
            raise UserError(
                f"The recipe's slices must cover layers 0 to {self.layers} in order, all sources "
                "with the same range; choose the mergekit engine to move layers.",
                f"レシピの slices は 0 から {self.layers} までの層を順に、全ての親で同じ範囲で"
                "覆う必要があります。層を動かす場合はエンジンに mergekit を選んでください。",
            )
        return starts

    def of(self, tensor: str) -> list[float]:
        """A weight per parent, in the order of ``parents``, for the tensor of this name.

        Like mergekit, embeddings take the first slice's weights, norm and head the last's.
        """
        found = _LAYER.search(tensor)
        if found:
            layer = int(found.group(1))
            index = max(i for i, start in enumerate(self.starts) if start <= layer)
            low, high = self.slices[index].sources[0].layer_range or (0, self.layers)
            t = (layer - low) / (high - low - 1) if high - low > 1 else 1.0
        else:
            index = 0 if any(part in tensor for part in _BEFORE_LAYERS) else -1
            t = 0.0
        piece = self.slices[index]
        raw = dict.fromkeys(self.parents, 0.0)
        for source in piece.sources:
            raw[source.model] += self._weight(source, piece, tensor, t)
        weights = list(raw.values())
        if not self._normalised(piece, tensor, t):
            return weights
        total = sum(weights)
        if total == 0:
            raise UserError(
                f"The weights of {tensor} add up to zero; give at least one parent a weight.",
                f"{tensor} の重みの合計が 0 です。少なくとも1つの親に重みを付けてください。",
            )
        return [weight / total for weight in weights]

    def _weight(self, source: Source, piece: Slice, tensor: str, t: float) -> float:
        for level in (source.parameters, piece.parameters, self.recipe.parameters):
            value = resolve_setting((level or {}).get("weight"), tensor, t)
            if value is not None:
                return float(value)
        raise UserError(
            f"The recipe gives {source.model} no weight for {tensor}.",
            f"レシピに、{tensor} に対する {source.model} の重み（weight）がありません。",
        )

    def _normalised(self, piece: Slice, tensor: str, t: float) -> bool:
        for level in (piece.parameters, self.recipe.parameters):
            value = resolve_setting((level or {}).get("normalize"), tensor, t)
            if value is not None:
                return bool(value)
        return True


def adapter_weights(path: Path, layers: int | None = None) -> dict[str, float | tuple[float, ...]]:
    """Each adapter's coefficient by its folder's name; one per decoder layer where they differ.

    ``layers`` is the base's layer count; it is read from the slices, or from the first adapter
    beside the recipe's own folder, where it is not given. Only recipes whose parents are all
    adapters on one base, with weights by layer, are such a row; else ``UserError``.
    """
    recipe = MergeRecipe.load(path)
    split = [parent.partition("+") for parent in recipe.parents]
    bases = {base for base, plus, _ in split if plus}
    names = [Path(adapter or base).name for base, _, adapter in split]
    if len(bases) > 1 or len(set(names)) != len(names):
        raise UserError(
            f"{path}: the parents must be different adapters on one base.",
            f"{path}: 親は、1つのベースの上の別々のアダプターでなければなりません。",
        )
    if layers is None:
        layers = _layer_count(recipe, path, names)
    weights = LinearWeights(recipe, layers)
    rows = [_row(weights, layer, path) for layer in range(layers)]
    columns = {
        name: tuple(row[k] for row in rows)
        for k, (name, (base, plus, _)) in enumerate(zip(names, split, strict=True))
        if plus or base not in bases  # the base itself adds nothing to its own weights
    }
    return {n: column[0] if len(set(column)) == 1 else column for n, column in columns.items()}


_MODULES = ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")


def _row(weights: LinearWeights, layer: int, path: Path) -> list[float]:
    """One layer's weights; refuses what a row of coefficients cannot express."""
    rows = [weights.of(f"model.layers.{layer}.{module}.weight") for module in _MODULES]
    if any(row != rows[0] for row in rows) or abs(sum(rows[0]) - 1) > 1e-4:
        raise UserError(
            f"{path}: adapters are blended by layer with weights that add up to 1; this recipe "
            "asks for something else. Merge it into a model of its own.",
            f"{path}: アダプターは、合計が 1 になる層ごとの重みで混ぜます。このレシピはそれ以外を"
            "求めているので、単独のモデルとしてマージしてください。",
        )
    return rows[0]


def _layer_count(recipe: MergeRecipe, path: Path, names: Sequence[str]) -> int:
    if recipe.slices:
        return max(s.layer_range[1] for p in recipe.slices for s in p.sources if s.layer_range)
    settings = [recipe.parameters, *(source.parameters for source in recipe.models or ())]
    if not any(isinstance(v, (list, dict)) for level in settings for v in (level or {}).values()):
        return 1  # plain numbers are the same for every layer
    for name in names:
        file = path.resolve().parent.parent / name / "adapter_model.safetensors"
        if file.is_file():
            from safetensors import safe_open

            with safe_open(file, "pt") as tensors:
                found = [_LAYER.search(key) for key in tensors.keys()]  # noqa: SIM118
            return max(int(match.group(1)) for match in found if match) + 1
    raise UserError(
        f"{path}: its weights change with the layer, and no parent lies beside it to count layers.",
        f"{path}: 重みが層ごとに変わりますが、層の数を調べる親のアダプターが見つかりません。",
    )
