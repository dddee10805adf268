"""A parent's tensors by name, whatever the parent is: a model's files, an adapter on them, or the
result of another recipe. Nothing is read before it is asked for, and nothing is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from charllm.core.merging.coefficients import METHODS
from charllm.core.merging.headers import shard_files
from charllm.core.merging.parents import Parent, Plan
from charllm.core.merging.tokenizer_source import has_rows
from charllm.data.errors import UserError

if TYPE_CHECKING:
    import torch

    from charllm.core.merging.lora_files import Lora


class Tensors(Protocol):
    def get(self, name: str) -> torch.Tensor:
        """The tensor on the CPU; the caller must not write into it."""
        ...


class ModelFiles:
    """A model folder's tensors, memory-mapped."""

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


class Adapted:
    """W + s·B·A in float32, unrounded; a tensor without an adapter as it is."""

    def __init__(self, base: Tensors, lora: Lora) -> None:
        self._base = base
        self._lora = lora

    def get(self, name: str) -> torch.Tensor:
        import torch

        found = self._base.get(name)
        pair = self._lora.pairs.get(name.removesuffix(".weight"))
        if pair is None:
            return found
        down, up, scale = pair
        return torch.addmm(found.float(), up.float(), down.float(), alpha=scale)


class Blended:
    """The tensors of a recipe's result, each made when it is asked for.

    ``seed`` is what DARE's random numbers start from (``mergekit-yaml --random-seed``).
    """

    def __init__(self, plan: Plan, seed: int = 0) -> None:
        method = plan.recipe.merge_method
        if method not in METHODS:
            from charllm.core.merging.mergekit_engine import check_known

            check_known(method)
            raise UserError(
                f"{method} is computed by mergekit only; choose the mergekit engine for it "
                "(--engine mergekit).",
                f"{method} は mergekit だけが計算できます。エンジンに mergekit を選んでください"
                "（--engine mergekit）。",
            )
        self.plan = plan
        self._sources = open_parents(plan.parents, plan.adapters, seed)
        self._dtype = torch_dtype(plan.recipe.out_dtype or plan.recipe.dtype)
        self._draws = Draws(plan, seed)

    def get(self, name: str) -> torch.Tensor:
        """Σ over the recipe's sources, accumulated in float32 and rounded once."""
        from charllm.core.merging.methods import blend_tensor

        rule = self.plan.rules.of(name)
        found = [self._sources[entry.parent].get(entry.tensor) for entry in rule.entries]
        if self.plan.vocabulary and has_rows(name):
            found = self.plan.vocabulary.aligned([e.parent for e in rule.entries], found)
        dtype = self._dtype or self._stored_dtype(name)
        return blend_tensor(rule, found, dtype, self._draws.of(name))

    def _stored_dtype(self, name: str) -> torch.dtype:
        """Where the recipe says nothing: what the donor's file has."""
        donor = self.plan.donor
        entry = self.plan.rules.of(name).entries[0]
        source = self._sources[donor.written] if donor.recipe else ModelFiles(donor.base)
        return source.get(entry.tensor).dtype


class Draws:
    """DARE's random numbers tensor by tensor, as mergekit draws them on a CPU.

    mergekit works through the tensors in the order of their sources' names and draws one uniform
    number an element and source from one generator; here the generator's state at the start of
    each tensor is kept, so that tensors can be made in any order.
    """

    def __init__(self, plan: Plan, seed: int) -> None:
        self._plan = plan
        self._seed = seed
        self._states: dict[str, torch.Tensor] = {}

    def of(self, name: str) -> torch.Generator | None:
        """The generator for a tensor; None where the method draws nothing."""
        if not self._plan.recipe.merge_method.startswith("dare"):
            return None
        import torch

        if not self._states:
            self._states = self._walk()
        generator = torch.Generator()
        generator.set_state(self._states[name])
        return generator

    def _walk(self) -> dict[str, torch.Tensor]:
        import math

        import torch

        generator = torch.Generator().manual_seed(self._seed)
        rules = {name: self._plan.rules.of(name) for name in self._plan.shapes}
        states = {}
        for name in sorted(rules, key=lambda name: max(e.tensor for e in rules[name].entries)):
            states[name] = generator.get_state()
            skipped = sum(entry.density < 1 for entry in rules[name].tuned)
            skip(generator, skipped * math.prod(self._plan.shapes[name]))
        return states


def skip(generator: torch.Generator, numbers: int, piece: int = 2**22) -> None:
    """Draw and forget that many uniform float32 numbers."""
    import torch

    space = torch.empty(min(piece, max(numbers, 1)))
    for start in range(0, numbers, piece):
        space[: min(piece, numbers - start)].uniform_(generator=generator)


def open_parents(
    parents: Iterable[Parent], adapters: Mapping[Path, Lora], seed: int = 0
) -> dict[str, Tensors]:
    """Each parent's tensors, by its name as written; folders that several share open once."""
    folders: dict[Path, ModelFiles] = {}
    found: dict[str, Tensors] = {}
    for parent in parents:
        if parent.recipe is not None:
            found[parent.written] = Blended(parent.recipe, seed)
            continue
        if parent.base not in folders:
            folders[parent.base] = ModelFiles(parent.base)
        files = folders[parent.base]
        lora = adapters[parent.adapter] if parent.adapter else None
        found[parent.written] = Adapted(files, lora) if lora else files
    return found


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
