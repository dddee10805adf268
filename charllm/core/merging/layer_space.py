"""The space of layer sequences: which of the parents' layers a model has, in what order, each with
the scale of its input (data flow space; Akiba et al., arXiv 2403.13187).

All layers of the first parent, then of the second …, ``repeats`` times over, are slots; a gene for
each slot says whether its layer is there, and where scales are searched another says its scale.
The search starts from the first parent as it is. What a sequence must beat are the parents and
their plain averages, as in every other search. It knows neither models nor files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from charllm.core.merging.coefficients import (
    Coefficients,
    hops,
    hops_from_slots,
    layer_groups,
    path_of,
    slots,
)
from charllm.core.merging.genome import LINEAR, Space, Vector
from charllm.data.config import Config
from charllm.data.errors import Text, UserError
from charllm.data.settings import setting

if TYPE_CHECKING:
    import numpy as np

    from charllm.core.merging.planning import Memory, Plan

PASSTHROUGH = "passthrough"
SURE = 0.5
"""The gene of a layer that is there at the start; the negative of one that is not. With the
default step of 0.25 that is two standard deviations: one slot in 44 changes sides."""
LARGEST_SCALE = 1.5
"""A scale gene g in [-1, 1] is the scale 1.5^g."""
GENE = "gene."
AFTER_NORM = "post_feedforward_layernorm"
"""Part of a tensor's name in families whose scales cannot be written into weights."""


class LayerOptions(Config):
    """How sequences of layers are searched (the method passthrough)."""

    repeats: int = setting(
        1,
        "Times each layer is on offer",
        "各層を使える回数",
        "2: the sequence can come back to the first parent after the last.",
        "2 なら、最後の親の層の後に最初の親の層へ戻れます。",
        group="layers",
        ge=1,
        le=4,
    )
    most: int = setting(
        0,
        "Longest sequence, layers",
        "層の数の上限",
        "0: half as many again as a parent has.",
        "0 なら親の層数の1.5倍です。",
        group="layers",
        ge=0,
        le=1000,
    )
    scales: bool = setting(
        False,
        "Search the scales too",
        "倍率も探索する",
        "Twice the genes. Not for families with a norm behind each layer (Gemma 2 and 3).",
        "遺伝子が2倍になります。各層の後にも正規化がある系統（Gemma 2・3）では使えません。",
        group="layers",
    )


@dataclass(frozen=True)
class LayerSpace(Space):
    """Sequences of at most ``most`` hops over ``layers`` layers of each parent.

    ``groups`` are those of the plain averages that the sequences are compared with.
    """

    layers: int = 1
    repeats: int = 1
    most: int = 1
    scales: bool = False

    @property
    def places(self) -> list[tuple[int, int]]:
        """(parent, layer) of every slot, in order."""
        return slots(self.parents, self.layers, self.repeats)

    @property
    def size(self) -> int:
        return len(self.places) * (1 + self.scales)

    @property
    def start(self) -> Vector:
        """The first parent's layers in their order, all scales 1."""
        keep = [SURE if k < self.layers else -SURE for k in range(len(self.places))]
        return (*keep, *[0.0] * (self.size - len(keep)))

    @property
    def bounds(self) -> tuple[Vector, Vector]:
        return (-1.0,) * self.size, (1.0,) * self.size

    def coefficients(self, vector: Sequence[float]) -> Coefficients:
        """The sequence; its genes are kept beside it, for what is drawn back to the start.

        Of more than ``most`` layers those with the largest genes stay, and one always does.
        """
        if len(vector) != self.size or not all(map(math.isfinite, vector)):
            raise ValueError(f"not a vector of {self.size} numbers: {vector}")
        count = len(self.places)
        order = sorted(range(count), key=lambda k: -vector[k])
        kept = {k for k in order[: self.most] if vector[k] > 0} or {order[0]}
        scales = [LARGEST_SCALE**gene for gene in vector[count:]] or [1.0] * count
        keep = [float(k in kept) for k in range(count)]
        path = hops_from_slots(self.places, keep, scales)
        genes = {f"{GENE}{k}": float(gene) for k, gene in enumerate(vector)}
        return Coefficients(PASSTHROUGH, path.weights, genes)

    def vector(self, coefficients: Coefficients) -> Vector:
        """The sequence's own genes, else some that stand for it; ``UserError`` where none do."""
        if coefficients.extra:
            return tuple(coefficients.extra[f"{GENE}{k}"] for k in range(self.size))
        places = self.places
        keep, scales = [-SURE] * len(places), [0.0] * len(places)
        at = 0
        for parent, layer, scale in path_of(coefficients):
            while at < len(places) and places[at] != (parent, layer):
                at += 1
            if at == len(places):
                raise _no_slot(parent, layer, self.repeats)
            keep[at], scales[at] = SURE, math.log(scale, LARGEST_SCALE)
            at += 1
        return (*keep, *(scales if self.scales else []))

    def mixture(self, weights: Sequence[float], method: str = LINEAR) -> Coefficients:
        """A plain average of the parents, whatever the method: what sequences are held against."""
        return Coefficients(LINEAR, dict.fromkeys(self.groups, tuple(weights)))

    def uniform(self, method: str = LINEAR) -> Coefficients:
        """The plain average; asked for sequences, their start."""
        if method == LINEAR:
            return self.mixture([1 / self.parents] * self.parents)
        return self.coefficients(self.start)

    def only(self, parent: int) -> Coefficients:
        return hops([(parent, layer, 1.0) for layer in range(self.layers)])

    def shrunk(self, coefficients: Coefficients, factor: float) -> Coefficients:
        """Its genes moved towards the start: the changes that were held surest stay longest."""
        rows = zip(self.start, self.vector(coefficients), strict=True)
        return self.coefficients([a + factor * (b - a) for a, b in rows])

    def distance(self, a: Coefficients, b: Coefficients) -> float:
        """The part of the slots in which one has a layer and the other has none; 0 … 1."""
        one, two = (self.vector(each)[: len(self.places)] for each in (a, b))
        return sum((x > 0) != (y > 0) for x, y in zip(one, two, strict=True)) / len(one)

    def random(self, rng: np.random.Generator) -> Vector:
        """Around the start, twice as far as a search begins: one slot in six changes sides."""
        drawn = rng.normal(self.start, SURE)
        return tuple(float(min(1.0, max(-1.0, gene))) for gene in drawn)

    def as_json(self) -> dict[str, Any]:
        own = {"repeats": self.repeats, "most": self.most, "scales": self.scales}
        return {**super().as_json(), "layers": self.layers, **own}


def layer_space(found: Plan, options: LayerOptions, strategy: str = "cma") -> LayerSpace:
    """The space for the parents of a plan.

    ``UserError`` where scales are asked for and the family cannot have them, or a grid.
    """
    first = found.parents[0]
    if options.scales and any(AFTER_NORM in name for name in first.shapes):
        raise UserError(
            "layers.scales: this family has a norm behind each layer, so that a scale cannot be "
            "written into its weights. Search the order alone.",
            "layers.scales: この系統は各層の後にも正規化があるため、倍率を重みに書き込めません。"
            "並び順だけを探索してください。",
        )
    if strategy == "grid":
        raise UserError(
            "search.strategy: a grid over sequences of layers has no end; choose cma or random.",
            "search.strategy: 層の並びは組み合わせが多すぎて総当たりできません。cma か random を"
            "選んでください。",
        )
    layers = int(first.config["num_hidden_layers"])
    return LayerSpace(
        tuple(name for name, _ in layer_groups(layers, layers)),
        len(found.parents),
        method=PASSTHROUGH,
        layers=layers,
        repeats=options.repeats,
        most=options.most or layers + layers // 2,
        scales=options.scales,
    )


def with_average(found: Plan, memory: Memory | None = None) -> Plan:
    """A layers plan with the memory of the plain averages, which need a model of their own.

    ``memory`` None: what is free now.
    """
    from charllm.core.merging.planning import memory_at_hand

    free = (memory or memory_at_hand(found.device)).device_gb
    one = found.weights_gb / len(found.parents)
    total = round(found.total_gb + one, 2)
    room = Text(
        f"The plain averages that the sequences are compared with take {one:.1f} GB more: "
        f"{total:.1f} GB in all.",
        f"比較用の単純平均のために {one:.1f} GB を加え、合計 {total:.1f} GB を使います。",
    )
    return replace(
        found,
        buffers_gb=round(found.buffers_gb + one, 3),
        total_gb=total,
        fits=total <= free,
        reasons=(*found.reasons, room),
    )


def _no_slot(parent: int, layer: int, repeats: int) -> UserError:
    return UserError(
        f"Layer {layer} of parent {parent + 1} comes after its place: with {repeats} repeat(s) a "
        "sequence goes through the parents in order. Allow more repeats.",
        f"親 {parent + 1} の {layer} 番の層が順序どおりではありません。繰り返し {repeats} 回では、"
        "親の順に並んだ層しか使えません。繰り返しの回数を増やしてください。",
    )
