"""A merge recipe: mergekit's YAML, exactly; plain ``mergekit-yaml`` reads the same file.

A parent is a model folder, ``base+adapter`` or another recipe. Paths are relative to the recipe's
folder or to the project's root (where ``mergekit-yaml`` is run). It does not know tensors:
blending is blend's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from charllm.core.merging.parameters import LAYER, PlainSum, check_setting
from charllm.data.config import Config, dump_yaml, invalid
from charllm.data.errors import UserError
from charllm.data.files import write_text


def _readable(parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    for name, setting in (parameters or {}).items():
        if setting is not None:
            check_setting(name, setting)
    return parameters


Parameters = Annotated[dict[str, Any] | None, AfterValidator(_readable)]


class Source(Config):
    """One parent, with the layers it gives (only within ``slices``) and its own parameters."""

    model: str = Field(min_length=1)
    layer_range: tuple[int, int] | None = None
    parameters: Parameters = None

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
    parameters: Parameters = None


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
    parameters: Parameters = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        given = [name for name in ("models", "slices", "modules") if getattr(self, name)]
        if len(given) != 1:
            raise invalid(
                "give exactly one of models, slices and modules",
                "models、slices、modules のうち、ちょうど1つを書いてください",
            )
        for source in self.models or ():
            if source.layer_range is not None:
                raise invalid(
                    f"{source.model}: layer_range belongs under slices, not under models",
                    f"{source.model}: layer_range は models ではなく slices の中に書いてください",
                )
        for number, piece in enumerate(self.slices or ()):
            for source in piece.sources:
                if source.layer_range is None:
                    raise invalid(
                        f"slices.{number}: {source.model} needs a layer_range",
                        f"slices.{number}: {source.model} に layer_range を書いてください",
                    )
        if self.tokenizer_source is not None and self.tokenizer is not None:
            raise invalid(
                "give tokenizer_source or tokenizer, not both",
                "tokenizer_source と tokenizer は、どちらか一方だけを書いてください",
            )
        return self

    def to_yaml(self) -> str:
        """The file's text: only what is set, as mergekit writes it."""
        return dump_yaml(self.model_dump(mode="json", exclude_none=True))

    def save(self, path: Path) -> None:
        write_text(path, self.to_yaml())

    @property
    def vocabulary_source(self) -> str:
        """``tokenizer_source``, or the source under ``tokenizer`` (its own default is union); ""
        where neither is there: all parents then have one vocabulary."""
        if self.tokenizer is not None:
            return str(self.tokenizer.get("source", "union"))
        return self.tokenizer_source or ""

    @property
    def parents(self) -> tuple[str, ...]:
        """Every parent once, in order of first mention; a base that is no source comes last."""
        named = [source.model for source in self.models or ()]
        for piece in self.slices or ():
            named += [source.model for source in piece.sources]
        named += [self.base_model] if self.base_model and self.models else []
        return tuple(dict.fromkeys(named))

    def as_slices(self, layers: int) -> tuple[Slice, ...]:
        """The recipe as slices, for parents of ``layers`` layers: ``models`` become one slice.

        Like mergekit, a base that is not among the models is added to them.
        """
        if self.slices:
            return self.slices
        sources = list(self.models or ())
        if self.base_model and all(source.model != self.base_model for source in sources):
            sources.append(Source(model=self.base_model))
        span = {"layer_range": (0, layers)}
        return (Slice(sources=tuple(source.model_copy(update=span) for source in sources)),)


def check_with_mergekit(recipe: MergeRecipe) -> None:
    """Let mergekit validate the recipe too; ``UserError`` with its words if it objects."""
    from mergekit.config import MergeConfiguration

    try:
        MergeConfiguration.model_validate(recipe.model_dump(mode="json", exclude_none=True))
    except (ValueError, RuntimeError) as error:  # pydantic's and mergekit's own complaints
        raise UserError(
            f"mergekit refuses the recipe: {error}", f"mergekit がレシピを受け付けません: {error}"
        ) from error


def seed_note(recipe: MergeRecipe, seed: int) -> str:
    """A comment line for the YAML of a method that draws at random; else nothing.

    mergekit takes the seed on its command line only.
    """
    if not recipe.merge_method.startswith("dare"):
        return ""
    return f"# mergekit-yaml THIS_FILE OUT --random-seed {seed}\n"


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
        base = names.get(item.base_model, item.base_model) if item.base_model else None
        sources = tuple(source(s) for s in item.sources)
        return item.model_copy(update={"sources": sources, "base_model": base})

    changes: dict[str, Any] = {}
    if recipe.models:
        changes["models"] = tuple(source(s) for s in recipe.models)
    if recipe.slices:
        changes["slices"] = tuple(piece(p) for p in recipe.slices)
    if recipe.base_model:
        changes["base_model"] = names.get(recipe.base_model, recipe.base_model)
    if recipe.tokenizer_source:
        changes["tokenizer_source"] = names.get(recipe.tokenizer_source, recipe.tokenizer_source)
    return recipe.model_copy(update=changes)


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
    foreign = recipe.base_model is not None and recipe.base_model not in bases
    if len(bases) > 1 or foreign or len(set(names)) != len(names):
        raise UserError(
            f"{path}: the parents must be different adapters on one base.",
            f"{path}: 親は、1つのベースの上の別々のアダプターでなければなりません。",
        )
    if layers is None:
        layers = _layer_count(recipe, path, names)
    weights = PlainSum(recipe, layers, path)
    rows = [_row(weights, layer, path) for layer in range(layers)]
    columns = {
        name: tuple(row[k] for row in rows)
        for k, (name, (base, plus, _)) in enumerate(zip(names, split, strict=True))
        if plus or base not in bases  # the base itself adds nothing to its own weights
    }
    return {n: column[0] if len(set(column)) == 1 else column for n, column in columns.items()}


_MODULES = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)
"""What adapters here change; a recipe that treats two of them differently is no row."""


def _row(weights: PlainSum, layer: int, path: Path) -> list[float]:
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
                found = [LAYER.search(key) for key in tensors.keys()]  # noqa: SIM118
            return max(int(match.group(2)) for match in found if match) + 1
    raise UserError(
        f"{path}: its weights change with the layer, and no parent lies beside it to count layers.",
        f"{path}: 重みが層ごとに変わりますが、層の数を調べる親のアダプターが見つかりません。",
    )
