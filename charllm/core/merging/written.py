"""A candidate in mergekit's terms: the rule for one tensor, and the recipe for all of them.

What an engine blends for ``Coefficients`` is what ``mergekit-yaml`` makes of ``recipe_for``'s YAML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from charllm.core.merging.coefficients import (
    BASE_METHODS,
    EMBEDDINGS,
    HEAD,
    Coefficients,
    path_of,
)
from charllm.core.merging.parameters import (
    NORMALIZED,
    RESCALED,
    Entry,
    TensorRule,
    is_before_layers,
    layer_of,
)
from charllm.core.merging.recipe import MergeRecipe, Slice, Source
from charllm.data.errors import UserError

TRIM_STEPS = 4096
"""TIES densities are multiples of 1/4096 …"""
DRAW_STEPS = 256
"""… and DARE's of 1/256 (at least one, at most 255 of them), so that what the engine keeps as
thresholds and bytes is exactly what mergekit computes."""
# Tensors of their own group, by what occurs in their names and in no other's.
_FILTERS = {EMBEDDINGS: ("embed_tokens",), HEAD: ("lm_head", "model.norm.")}


def rule_for(
    found: Coefficients, group: str, parents: Sequence[str], base: str = "", tensor: str = ""
) -> TensorRule:
    """What a candidate asks for the tensors of a group; ``base`` for the methods that need one."""
    method = found.method
    shares = found.shares(group) if method in ("linear", "slerp") else found.weights[group]
    entries = tuple(
        Entry(parent, tensor, share, density_of(found, group, k))
        for k, (parent, share) in enumerate(zip(parents, shares, strict=True))
    )
    if method == "slerp":
        if len(parents) != 2:
            raise UserError(
                "slerp mixes exactly two parents.", "slerp で混ぜられる親はちょうど2つです。"
            )
        return TensorRule(method, entries, base=0, t=shares[1])
    if method == "linear":
        return TensorRule(method, entries)
    normalize = found.number("normalize", float(NORMALIZED.get(method, False)), group)
    return TensorRule(
        method,
        (Entry(base, tensor, 0.0), *entries),
        base=0,
        lam=found.number("lambda", 1.0, group),
        normalize=bool(round(normalize)),
        rescale=RESCALED.get(method, False),
    )


def density_of(found: Coefficients, group: str, parent: int) -> float:
    """The density asked for, on the grid that the engines and the recipe share."""
    asked = found.number("density", 1.0, group, parent)
    if found.method == "ties":
        return min(1.0, max(1, round(asked * TRIM_STEPS)) / TRIM_STEPS)
    if found.method.startswith("dare"):
        return min(DRAW_STEPS - 1, max(1, round(asked * DRAW_STEPS))) / DRAW_STEPS
    return 1.0


def recipe_for(
    found: Coefficients,
    parents: Sequence[str],
    groups: Sequence[tuple[str, tuple[int, ...]]],
    base: str = "",
    dtype: str = "bfloat16",
    densities: Mapping[str, Sequence[float]] | None = None,
) -> MergeRecipe:
    """The mergekit recipe of a candidate.

    ``parents`` and ``base`` as they are to be written; ``groups`` as ``layer_groups`` makes them
    (``Engine.layout_groups``). Everything is computed in float32 and rounded to ``dtype`` once. A
    group without weights takes its neighbour's: the adapter engine has no embeddings or head.
    ``densities`` says each parent's density by tensor instead (``DenseEngine.recipe``).
    """
    if found.method == "passthrough":
        return _path_recipe(found, parents, dtype)
    named = _filled(found, groups)
    slices = tuple(
        _slice(named, groups, number, parents, base, densities or {})
        for number in range(1, len(groups) - 1)
    )
    return MergeRecipe(
        merge_method=found.method,
        slices=slices,
        base_model=(parents[0] if found.method == "slerp" else base) or None,
        dtype="float32",
        out_dtype=dtype,
    )


def _filled(found: Coefficients, groups: Sequence[tuple[str, tuple[int, ...]]]) -> Coefficients:
    layered = [name for name, layers in groups if layers]
    nearest = {EMBEDDINGS: layered[0], HEAD: layered[-1]}
    weights = {name: found.weights.get(name) or found.weights[nearest[name]] for name, _ in groups}
    return Coefficients(found.method, weights, found.extra)


def _slice(
    found: Coefficients,
    groups: Sequence[tuple[str, tuple[int, ...]]],
    number: int,
    parents: Sequence[str],
    base: str,
    densities: Mapping[str, Sequence[float]],
) -> Slice:
    """One group of layers; the first slice speaks for the embeddings too, the last for the head."""
    group, layers = groups[number]
    spoken = [group]
    spoken += [EMBEDDINGS] if number == 1 else []
    spoken += [HEAD] if number == len(groups) - 2 else []
    rules = {name: rule_for(found, name, parents, base) for name in spoken}
    span = (layers[0], layers[-1] + 1)

    def source(parent: str, k: int) -> Source:
        if found.method == "slerp":
            return Source(model=parent, layer_range=span)
        entries = {name: rule.tuned[k] for name, rule in rules.items()}
        parameters = {"weight": setting_for({g: e.weight for g, e in entries.items()}, group)}
        if found.method in ("ties", "dare_ties", "dare_linear"):
            exact = [
                {"filter": name, "value": values[k]}
                for name, values in densities.items()
                if _speaks_for(spoken, layers, name)
            ]
            plain = setting_for({g: e.density for g, e in entries.items()}, group, 12)
            parameters["density"] = [*exact, {"value": entries[group].density}] if exact else plain
        return Source(model=parent, layer_range=span, parameters=parameters)

    sources = [source(parent, k) for k, parent in enumerate(parents)]
    shared: dict[str, Any] = {}
    if found.method == "slerp":
        shared["t"] = setting_for({name: rule.t for name, rule in rules.items()}, group)
    if found.method in BASE_METHODS:
        sources.insert(0, Source(model=base, layer_range=span))
        shared["lambda"] = setting_for({name: rule.lam for name, rule in rules.items()}, group)
        shared["normalize"] = rules[group].normalize
    return Slice(sources=tuple(sources), parameters=shared or None)


def _speaks_for(spoken: Sequence[str], layers: Sequence[int], tensor: str) -> bool:
    layer = layer_of(tensor)
    if layer is not None:
        return layer in layers
    return (EMBEDDINGS if is_before_layers(tensor) else HEAD) in spoken


def setting_for(values: Mapping[str, float], group: str, digits: int = 9) -> Any:
    """A parameter of the slice of ``group``, which may speak for embeddings or head too: a number
    where all agree, else filters with the layers' own value last."""
    rounded = {name: round(value, digits) for name, value in values.items()}
    if len(set(rounded.values())) == 1:
        return rounded[group]
    filters = [
        {"filter": word, "value": value}
        for name, value in rounded.items()
        if name != group
        for word in _FILTERS[name]
    ]
    return [*filters, {"value": rounded[group]}]


def _path_recipe(found: Coefficients, parents: Sequence[str], dtype: str) -> MergeRecipe:
    """The hops as one passthrough slice each.

    A hop's scale s multiplies the stream that the layers read. Behind a norm only the ratio
    between stream and update counts, so the product c of the scales so far divides what each
    layer adds: its ``o_proj`` and ``down_proj`` by c. The stream itself stays unscaled, which the
    last norm undoes. Equal up to the norms' epsilon.
    """
    slices, product = [], 1.0
    for parent, layer, scale in path_of(found):
        product *= scale
        if scale <= 0:
            raise UserError(
                f"A hop's scale must be above 0, but one is {scale:g}; leave the layer out.",
                f"ホップの倍率は 0 より大きい必要がありますが、{scale:g} があります。"
                "代わりにその層を外してください。",
            )
        parameters = None
        if product != 1:
            share = round(1 / product, 12)
            values = [{"filter": word, "value": share} for word in ("o_proj", "down_proj")]
            parameters = {"scale": [*values, {"value": 1.0}]}
        source = Source(
            model=parents[parent], layer_range=(layer, layer + 1), parameters=parameters
        )
        slices.append(Slice(sources=(source,)))
    return MergeRecipe(
        merge_method="passthrough", slices=tuple(slices), dtype="float32", out_dtype=dtype
    )
