"""The adapter engine: parents are adapters on one base, a candidate is a row of coefficients.

The base is in memory once and never changes; applying costs nothing, and candidates can share a
batch, a row each (``adapters``). Exact: no weight is rounded.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from charllm.core.merging.adapters import AdapterModel
from charllm.core.merging.coefficients import (
    ADAPTER_METHODS,
    BASE_METHODS,
    Coefficients,
    layer_groups,
)
from charllm.core.merging.engines import Effect
from charllm.core.merging.recipe import MergeRecipe
from charllm.core.merging.written import recipe_for, rule_for
from charllm.data.errors import UserError


class AdapterEngine:
    """``model`` is an ``AdapterModel``; each candidate's ``Effect.scales`` goes into its requests.

    Adapters change decoder layers only, so there is no group for embeddings or head.
    """

    batched = True
    steady = True

    def __init__(
        self,
        model: Any,
        adapters: Mapping[str, Path | None],
        group_size: int,
        base: str = "",
        base_hash: str = "",
    ) -> None:
        """``adapters``: each parent's LoRA folder by its name; None is the base itself. ``base`` is
        how recipes write the base, for methods that name it."""
        self._base = base
        self.model = AdapterModel(model, base_hash=base_hash)
        self._spans = [
            (name, layers) for name, layers in layer_groups(self.model.layers, group_size) if layers
        ]
        self.layout_groups = layer_groups(self.model.layers, group_size)
        self.groups = [name for name, _ in self._spans]
        self.parents = list(adapters)
        self._loaded = [name for name, folder in adapters.items() if folder is not None]
        for name, folder in adapters.items():
            if folder is not None:
                self.model.load(name, folder)

    def apply(self, genome: Coefficients) -> Effect:
        """The candidate's row; the model itself stays as it is."""
        genome.check(self.groups, len(self.parents))
        if genome.method not in ADAPTER_METHODS:
            raise UserError(
                f"Adapters are mixed by {' or '.join(ADAPTER_METHODS)}; {genome.method} needs the "
                "dense engine.",
                f"アダプターのまま混ぜられるのは {'・'.join(ADAPTER_METHODS)} です。"
                f"{genome.method} には dense エンジンが必要です。",
            )
        started = time.perf_counter()
        columns: dict[str, list[float]] = {name: [] for name in self.parents}
        for group, layers in self._spans:
            for name, factor in zip(self.parents, self._factors(genome, group), strict=True):
                columns[name] += [factor] * len(layers)
        row = self.model.row({name: columns[name] for name in self._loaded})
        asked = {group: _away(genome, group) for group in self.groups}
        return Effect(time.perf_counter() - started, asked, dict(asked), scales=row)

    def recipe(self, genome: Coefficients, dtype: str = "bfloat16") -> MergeRecipe:
        """The candidate as mergekit's YAML. ``genome``'s base, where its method has one, is the
        adapters' own."""
        base = self._base if genome.method in BASE_METHODS else ""
        return recipe_for(genome, self.parents, self.layout_groups, base, dtype)

    def close(self) -> None:
        self.model.clear()
        for name in self._loaded:
            self.model.unload(name)

    def _factors(self, genome: Coefficients, group: str) -> list[float]:
        """What each adapter's delta is multiplied with."""
        rule = rule_for(genome, group, self.parents)
        weights = [entry.weight for entry in rule.tuned] if rule.base is not None else None
        if weights is None:  # linear: shares of whole models, each of which holds the base once
            return [entry.weight for entry in rule.entries]
        total = sum(weights)
        divisor = total if rule.normalize and abs(total) >= 1e-8 else 1.0
        return [rule.lam * weight / divisor for weight in weights]


def _away(genome: Coefficients, group: str) -> float:
    """The asked share, as ``Effect`` words it."""
    if genome.method != "linear":
        return 1.0
    shares = genome.shares(group)
    return shares[1] if len(shares) == 2 else 1 - max(shares)
