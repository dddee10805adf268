"""The dense engine: full parents stay resident, the live model is blended in place.

Each layer group of each parent is one flat buffer, the live model's parameters are views into
another, and a candidate is one pass of a kernel over them. Nothing is allocated, nothing written
to disk; a weight is rounded once. It knows nothing of searches or of what a candidate is worth.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from charllm.core.merging import kernels
from charllm.core.merging.coefficients import BASE_METHODS, Coefficients, layer_groups
from charllm.core.merging.engines import Effect
from charllm.core.merging.layout import Layout, Store, Streams, Where, view
from charllm.core.merging.parameters import TensorRule
from charllm.core.merging.recipe import MergeRecipe
from charllm.core.merging.rounding import Rounding
from charllm.core.merging.sources import Tensors
from charllm.core.merging.tables import Tables
from charllm.core.merging.tokenizer_source import Vocabulary
from charllm.core.merging.written import recipe_for, rule_for
from charllm.data.errors import UserError

DENSE_METHODS = ("linear", "slerp", *BASE_METHODS)


class DenseEngine:
    """``model``, a causal LM whose weights become those of each candidate."""

    batched = False
    steady = True
    vocabulary: Vocabulary | None = None
    """What the sources' rows were brought together to, where the parents' tokens differ."""

    def __init__(
        self,
        model: Any,
        sources: dict[str, Tensors],
        group_size: int,
        base: str = "",
        where: Where = "device",
        compiled: bool | None = None,
    ) -> None:
        """``sources``: each parent's tensors by its name, the base (if any) not among them unless
        it has a weight too; ``base`` names one of ``sources`` that is only the base.

        ``compiled`` None: fused kernels where the machine has a compiler.
        """
        config = model.config.get_text_config()
        self.layout_groups = layer_groups(config.num_hidden_layers, group_size)
        self.model = model
        self.base = base
        self.parents = [name for name in sources if name != base]
        parameters = dict(model.named_parameters())
        first = next(iter(parameters.values()))
        self.device, self.dtype = first.device, first.dtype
        self._compiled = kernels.can_compile(self.device) if compiled is None else compiled
        shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
        self.layout = Layout(shapes, self.layout_groups)
        self.groups = self.layout.groups
        # Which tensors' numbers a kernel reads first: the base where there is one.
        self._order = [*([base] if base else []), *self.parents]
        self._stores = {n: Store(self.layout, sources[n], where, self.device) for n in self._order}
        self._live: dict[str, Tensor] = {}
        self._load(parameters, sources)
        self._resident = where == "device"
        self._streams = None if self._resident else self._open_streams()
        self._tables = Tables(self.layout, self._stores, self.parents, base)
        self._rounding = Rounding(self.groups, self._live, self._samples())

    def apply(self, genome: Coefficients) -> Effect:
        """Blend the candidate into ``model``."""
        self._check(genome)
        self._tables.prepare(genome)
        self._wait()
        started = time.perf_counter()
        plans = {}
        for group in self.groups:  # an accelerator blends one while the next is planned
            kernel, numbers, switches = plans[group] = self._plan(genome, group)
            for part, xs, draws in self._pieces(group, genome.method):
                arguments = self._arguments(kernel, xs, draws, numbers, part)
                out = self._live[group][part]
                kernels.run(kernel, out, *arguments, compiled=self._compiled, **switches)
        self._wait()
        seconds = time.perf_counter() - started
        exact = {group: self._exact_sample(genome, group, *plans[group]) for group in self.groups}
        asked, effective = self._rounding.measure(genome, self.parents, exact, bool(self.base))
        warn = any(abs(effective[g] - t) > 0.2 * min(t, 1 - t or 1) for g, t in asked.items())
        return Effect(seconds, asked, effective, warn)

    def recipe(self, genome: Coefficients, dtype: str = "bfloat16") -> MergeRecipe:
        """The candidate as mergekit's YAML. For TIES with the share that was really kept of each
        tensor, so that there is no choice left among equally large changes."""
        self._check(genome)
        densities: dict[str, tuple[float, ...]] = {}
        if genome.method == "ties":
            for group in self.groups:
                for name, counts in self.kept(genome, group).items():
                    size = self.layout.places[name].size
                    densities[name] = tuple(min(1.0, (n + 0.5) / size) for n in counts)
        found = recipe_for(
            genome, self.parents, self.layout_groups, self.base, dtype, densities=densities
        )
        return self.vocabulary.on(found) if self.vocabulary else found

    def kept(self, genome: Coefficients, group: str) -> dict[str, tuple[int, ...]]:
        """How many changes of each tensor and parent a TIES candidate keeps."""
        self._tables.prepare(genome)
        rule = rule_for(genome, group, self.parents, self.base)
        return self._tables.kept(group, [entry.density for entry in rule.tuned])

    def close(self) -> None:
        self._stores, self._live, self.model, self._streams = {}, {}, None, None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _load(self, parameters: dict[str, Any], sources: dict[str, Tensors]) -> None:
        """Read all parents, and move the model's weights into live buffers, group by group."""
        kept = {name: self._kept_dtype(sources[name]) for name in self._order}
        for group in self.groups:
            live = self.layout.buffer(group, self.dtype, self.device)
            for place in self.layout.within(group):
                target = view(live, place)
                target.copy_(parameters[place.name].data)
                parameters[place.name].data = target
            self._live[group] = live
            if self.device.type == "cuda":
                torch.cuda.empty_cache()  # what the model's own tensors took fits no whole group
            for name, store in self._stores.items():
                store.load(group, kept[name])

    def _kept_dtype(self, source: Tensors) -> torch.dtype:
        """What a parent is kept in: its files' 16 bits, or the live model's type for what was
        computed in float32 (an adapter added to its base)."""
        found = source.get(next(iter(self.layout.places))).dtype
        sample = source.get(next(p.name for p in self.layout.places.values() if len(p.shape) == 2))
        return self.dtype if torch.float32 in (found, sample.dtype) else found

    def _open_streams(self) -> Streams:
        stores = [self._stores[name] for name in self._order]
        return Streams(stores, [store.dtype for store in stores])

    def _check(self, genome: Coefficients) -> None:
        genome.check(self.groups, len(self.parents))
        if genome.method not in DENSE_METHODS:
            raise UserError(
                f"{genome.method} moves layers; the layers engine does that.",
                f"{genome.method} は層を動かす方法なので、層エンジンを使います。",
            )
        if (genome.method in BASE_METHODS) != bool(self.base):
            raise UserError(
                f"{genome.method} "
                + ("needs a base model." if not self.base else "takes no base model."),
                f"{genome.method} にはベースモデル"
                + ("が必要です。" if not self.base else "を指定できません。"),
            )

    def _plan(
        self, genome: Coefficients, group: str
    ) -> tuple[Callable[..., None], list[Tensor], dict[str, bool]]:
        """The kernel for a group, its numbers [.., blocks or 1, 1] and its switches."""
        rule = rule_for(genome, group, self.parents, self.base)
        if genome.method in ("linear", "slerp", "task_arithmetic"):
            return kernels.add_weighted, [self._factors(rule, group)], {}
        weights = self._numbers([entry.weight for entry in rule.tuned])
        factor = self._numbers([rule.lam])[0]
        densities = [entry.density for entry in rule.tuned]
        if genome.method == "ties":
            least = self._tables.least(group, densities)
            return kernels.add_trimmed, [weights, least, factor], {"normalize": rule.normalize}
        below, rescale = self._tables.thinning(group, densities)
        agreeing = genome.method == "dare_ties"
        switches = {"normalize": rule.normalize, "agreeing": agreeing}
        return kernels.add_thinned, [weights, below, rescale, factor], switches

    def _factors(self, rule: TensorRule, group: str) -> Tensor:
        """What each of ``_order`` is multiplied with: one number a group, for slerp one a block."""
        if rule.method == "slerp":
            return self._tables.slerp(group, rule.t)
        weights = [entry.weight for entry in rule.tuned]
        if rule.method == "linear":
            return self._numbers(weights)
        total = sum(weights)
        share = rule.lam / (total if rule.normalize and abs(total) >= 1e-8 else 1.0)
        return self._numbers([1 - share * total, *(share * weight for weight in weights)])

    def _numbers(self, values: Sequence[float]) -> Tensor:
        """[values, 1, 1] in float32 on the device."""
        numbers = torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)
        if self.device.type == "cuda":  # without waiting for what runs there
            return numbers.pin_memory().to(self.device, non_blocking=True)
        return numbers

    def _pieces(
        self, group: str, method: str
    ) -> Iterator[tuple[slice, list[Tensor], list[Tensor]]]:
        draws = self._tables.draws(group) if method.startswith("dare") else []
        if self._streams is None:
            stores = [self._stores[name] for name in self._order]
            yield slice(0, None), [store.resident(group) for store in stores], draws
            return
        for part, xs in self._streams.pieces(group):
            yield part, xs, [d[part].to(self.device, non_blocking=True) for d in draws]

    def _arguments(
        self,
        kernel: Callable[..., None],
        xs: list[Tensor],
        draws: list[Tensor],
        numbers: list[Tensor],
        part: slice,
    ) -> list[Any]:
        cut = [n if n.shape[-2] == 1 else n[..., part, :] for n in numbers]
        if kernel is kernels.add_weighted:
            return [xs, *cut]
        if kernel is kernels.add_trimmed:
            return [xs[0], xs[1:], *cut]
        return [xs[0], xs[1:], draws, *cut]

    def _samples(self) -> dict[str, list[Tensor]]:
        """Some blocks of each of ``_order``, by group, kept on the device."""
        found = {}
        for group in self.groups:
            rows = Rounding.rows(self.layout.blocks[group])
            found[group] = [self._sample(self._stores[name], group, rows) for name in self._order]
        return found

    def _sample(self, store: Store, group: str, rows: slice) -> Tensor:
        if self._resident:
            return store.resident(group)[rows]
        out = []
        for start in range(self.layout.blocks[group])[rows]:
            block = torch.empty((1, kernels.BLOCK), dtype=store.dtype)
            store.copy(group, slice(start, start + 1), block)
            out.append(block)
        return torch.cat(out).to(self.device)

    def _exact_sample(
        self,
        genome: Coefficients,
        group: str,
        kernel: Callable[..., None],
        numbers: list[Tensor],
        switches: dict[str, bool],
    ) -> Tensor:
        """The sampled blocks of the blend before rounding, float32."""
        rows = Rounding.rows(self.layout.blocks[group])
        xs = self._rounding.samples[group]
        out = torch.empty(xs[0].shape, dtype=torch.float32, device=self.device)
        draws = self._tables.draws(group) if genome.method.startswith("dare") else []
        sampled = [d[rows].to(self.device) for d in draws]
        kernel(out, *self._arguments(kernel, xs, sampled, numbers, rows), **switches)
        return out

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
