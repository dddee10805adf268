"""Every other method of mergekit, tensor by tensor through its in-memory functions.

Slower than the dense engine by one or two orders of magnitude (mergekit allocates and walks over
a tensor many times), but any method that mergekit knows can be searched over.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from charllm.core.merging.coefficients import EMBEDDINGS, HEAD, Coefficients, layer_groups
from charllm.core.merging.engines import Effect
from charllm.core.merging.genome import LINEAR
from charllm.core.merging.layout import Layout
from charllm.core.merging.recipe import MergeRecipe, Slice, Source
from charllm.core.merging.sources import Tensors
from charllm.core.merging.tokenizer_source import Vocabulary
from charllm.core.merging.written import recipe_for, setting_for
from charllm.data.errors import UserError


def known_methods() -> list[str]:
    """All methods that the installed mergekit has."""
    from mergekit import merge_methods

    return sorted(method.spec.name for method in merge_methods.registered_methods())


_WORKING = {
    "nuslerp": (9.0, 0.0),
    "multislerp": (5.0, 4.5),
    "breadcrumbs": (0.0, 4.2),
    "breadcrumbs_ties": (0.0, 4.2),
    "della": (8.0, 2.5),
    "della_linear": (8.0, 2.5),
}


def working_copies(method: str, models: int) -> float:
    """What mergekit's function takes at its peak, in float32 copies of one tensor.

    Measured with 2 and 3 parents of 16 million weights: so many, and so many a parent or base.
    """
    fixed, each = _WORKING.get(method, _WORKING["multislerp"])
    return fixed + each * models


def check_known(method: str) -> None:
    """``UserError`` where mergekit has no such method."""
    known = known_methods()
    if method not in known:
        raise UserError(
            f"mergekit does not know the method {method!r}; it has {', '.join(known)}.",
            f"mergekit に「{method}」という方法はありません。使えるもの: {'、'.join(known)}。",
        )


def check_method(method: str, parents: Sequence[str], base: str) -> None:
    """``UserError`` where mergekit has no such method, or it does not take these parents."""
    from mergekit import merge_methods

    check_known(method)
    order = [*([base] if base else []), *(name for name in parents if name != base)]
    try:
        merge_methods.get(method).spec.contract.validate_ids(order, base or None)
    except ValueError as error:
        raise UserError(
            f"mergekit's {method} does not take these parents: {error}",
            f"mergekit の {method} はこの親の組み合わせを受け付けません: {error}",
        ) from error


def check_weighted(method: str) -> None:
    """``UserError`` where a method has no weight for each parent, so nothing to search for."""
    from mergekit import merge_methods

    weighted = {
        one.spec.name
        for one in merge_methods.registered_methods()
        if any(parameter.name == "weight" for parameter in one.spec.input_parameters)
    } | {"slerp"}
    if method in known_methods() and method not in weighted:
        raise UserError(
            f"method: {method} takes no weights, so there is nothing to search for; blend it by a "
            f"recipe (`python -m charllm merge … --engine mergekit`), or choose one of "
            f"{', '.join(sorted(weighted))}.",
            f"method: {method} には重みがないため、探索するものがありません。レシピで混ぜる"
            "（`python -m charllm merge … --engine mergekit`）か、"
            f"{'、'.join(sorted(weighted))} から選んでください。",
        )


class MergekitEngine:
    """``model``, a causal LM; ``sources`` as the dense engine takes them.

    A candidate's weights are given to methods that take a weight for each parent; ``extra`` holds
    the method's numbers by mergekit's names, and ``seed``. A linear candidate is the plain mixture
    that a search compares with, whatever the method is.
    """

    batched = False
    steady = True
    vocabulary: Vocabulary | None = None
    """What the sources' rows were brought together to, where the parents' tokens differ."""

    def __init__(
        self,
        model: Any,
        sources: Mapping[str, Tensors],
        group_size: int,
        method: str,
        base: str = "",
    ) -> None:
        from mergekit import merge_methods

        check_method(method, list(sources), base)
        config = model.config.get_text_config()
        self.layout_groups = layer_groups(config.num_hidden_layers, group_size)
        self.model = model
        self.base = base
        self.method = method
        self.parents = [name for name in sources if name != base]
        self._order = [*([base] if base else []), *self.parents]
        self._sources = dict(sources)
        self._parameters = dict(model.named_parameters())
        shapes = {name: tuple(parameter.shape) for name, parameter in self._parameters.items()}
        self.layout = Layout(shapes, self.layout_groups)
        self.groups = self.layout.groups
        self._spec = merge_methods.get(method).spec

    def apply(self, genome: Coefficients) -> Effect:
        """Make each tensor with mergekit and copy it into the model."""
        import torch

        genome.check(self.groups, len(self.parents), known_methods())
        started = time.perf_counter()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(round(genome.number("seed", 0)))
            for name in sorted(self.layout.places):  # mergekit's own order of random numbers
                self._parameters[name].copy_(self._made(genome, name))
        return Effect(time.perf_counter() - started)

    def recipe(self, genome: Coefficients, dtype: str = "bfloat16") -> MergeRecipe:
        """The candidate as mergekit's YAML."""
        if genome.method == LINEAR:
            plain = recipe_for(genome, self.parents, self.layout_groups, "", dtype)
            return self.vocabulary.on(plain) if self.vocabulary else plain
        inner = range(1, len(self.layout_groups) - 1)
        found = MergeRecipe(
            merge_method=self.method,
            slices=tuple(self._slice(genome, number, len(inner)) for number in inner),
            base_model=self.base or None,
            dtype="float32",
            out_dtype=dtype,
        )
        return self.vocabulary.on(found) if self.vocabulary else found

    def close(self) -> None:
        self._sources, self._parameters, self.model = {}, {}, None

    def _made(self, genome: Coefficients, name: str) -> Any:
        import torch
        from mergekit.merge_methods.api import merge_tensors

        group = self.layout.places[name].group
        if genome.method == LINEAR:
            shares = zip(self.parents, genome.shares(group), strict=True)
            return sum(self._sources[parent].get(name).float() * share for parent, share in shares)
        tensors = [self._sources[parent].get(name) for parent in self._order]
        return merge_tensors(
            tensors,
            self.method,
            parameters=self._numbers(genome, group),
            ids=self._order,
            base_index=0 if self.base else None,
            name=name,
            dtype=torch.float32,
        )

    def _numbers(self, genome: Coefficients, group: str) -> dict[str, Any]:
        """What the method is told about a group, by mergekit's names; defaults are left out."""
        found: dict[str, Any] = {}
        for parameter in self._spec.input_parameters:
            if parameter.name == "weight":
                found["weight"] = dict(zip(self.parents, genome.weights[group], strict=True))
            elif self._given(genome, parameter.name):
                found[parameter.name] = {
                    name: genome.number(parameter.name, 0.0, group, k)
                    for k, name in enumerate(self.parents)
                }
        for parameter in self._spec.shared_parameters:
            if self._given(genome, parameter.name):
                found[parameter.name] = genome.number(parameter.name, 0.0, group)
            elif parameter.name == "t":  # how much of the second model
                found["t"] = genome.shares(group)[-1]
        return found

    def _given(self, genome: Coefficients, name: str) -> bool:
        return any(key.split("@")[0].split("#")[0] == name for key in genome.extra)

    def _slice(self, genome: Coefficients, number: int, count: int) -> Slice:
        group, layers = self.layout_groups[number]
        spoken = [
            group,
            *([EMBEDDINGS] if number == 1 else []),
            *([HEAD] if number == count else []),
        ]
        numbers = {name: self._numbers(genome, name) for name in spoken if name in self.groups}
        span = (layers[0], layers[-1] + 1)
        sources = [Source(model=self.base, layer_range=span)] if self.base else []
        shared: dict[str, Any] = {}
        for name, value in numbers[group].items():
            if not isinstance(value, dict):
                shared[name] = setting_for({g: n[name] for g, n in numbers.items()}, group)
        for parent in self.parents:
            own = {
                name: setting_for({g: n[name][parent] for g, n in numbers.items()}, group)
                for name, value in numbers[group].items()
                if isinstance(value, dict)
            }
            sources.append(Source(model=parent, layer_range=span, parameters=own or None))
        return Slice(sources=tuple(sources), parameters=shared or None)
