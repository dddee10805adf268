"""What a candidate merge is: weights for each parent by layer group, and the method's numbers.

A search proposes ``Coefficients``, an engine applies them, a recipe writes them out. This module
knows neither tensors nor files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from charllm.data.errors import UserError

EMBEDDINGS = "embeddings"
"""The group of the input embeddings (and of the head, where a model ties them)."""
HEAD = "head"
"""The group of the final norm and, where it is not tied, the output head."""

BASE_METHODS = ("task_arithmetic", "ties", "dare_ties", "dare_linear")
"""Methods that add weighted differences to a base, which is no parent with a weight itself."""
ADAPTER_METHODS = ("linear", "task_arithmetic")
"""Methods that are a row of coefficients where all parents are adapters on one base."""
METHODS = ("linear", "slerp", *BASE_METHODS, "passthrough")
"""What the engines blend; mergekit's names."""


@dataclass(frozen=True)
class Coefficients:
    """One candidate.

    ``weights[group][k]`` is parent k's weight in a group; what they add up to is the method's
    business (linear divides by the sum, see ``shares``; slerp reads two as ``t``; the methods
    with a base take them as they are). In the layers engine a group is a hop, named ``hop.0``,
    ``hop.1`` …, and its weights are (parent, layer, scale).

    ``extra`` holds the method's own numbers: ``density`` in (0, 1], ``lambda``, ``normalize`` (0
    or 1), ``seed`` (DARE). ``density@GROUP``, ``density#K`` and ``density@GROUP#K`` say it for
    one group, one parent, or both; the closest one counts.
    """

    method: str
    weights: dict[str, tuple[float, ...]]
    extra: dict[str, float] = field(default_factory=dict)

    def number(self, name: str, default: float, group: str = "", parent: int = -1) -> float:
        """One of ``extra``'s numbers for a group and a parent, by the closest name given."""
        for key in (f"{name}@{group}#{parent}", f"{name}@{group}", f"{name}#{parent}", name):
            if key in self.extra:
                return float(self.extra[key])
        return default

    def shares(self, group: str) -> tuple[float, ...]:
        """The weights of a group divided by their sum, as linear and slerp use them."""
        weights = self.weights[group]
        total = math.fsum(weights)
        if abs(total) < 1e-8:
            raise UserError(
                f"The weights of {group!r} add up to zero; give at least one parent a weight.",
                f"「{group}」の重みの合計が 0 です。少なくとも1つの親に重みを付けてください。",
            )
        return tuple(weight / total for weight in weights)

    def check(self, groups: Iterable[str], parents: int, methods: Sequence[str] = METHODS) -> None:
        """``UserError`` where a group is missing or unknown, or a number is not finite."""
        wanted = set(groups)
        if self.method not in methods:
            raise UserError(
                f"The method {self.method!r} is not known here; choose one of "
                f"{', '.join(methods)}.",
                f"マージ方法「{self.method}」は使えません。{'、'.join(methods)} "
                "のいずれかを選んでください。",
            )
        if wanted != set(self.weights):
            odd = ", ".join(sorted(wanted ^ set(self.weights)))
            raise UserError(
                f"The weights do not name the model's layer groups: {odd}.",
                f"重みのグループ名がモデルの層グループと一致しません: {odd}。",
            )
        numbers = [*self.extra.values(), *(w for row in self.weights.values() for w in row)]
        if any(len(row) != parents for row in self.weights.values()) or not all(
            math.isfinite(number) for number in numbers
        ):
            raise UserError(
                f"Every layer group needs {parents} finite weights, one for each parent.",
                f"各層グループには、親ごとに1つ、計 {parents} 個の有限の重みが必要です。",
            )


def layer_groups(layers: int, size: int) -> list[tuple[str, tuple[int, ...]]]:
    """``(name, layers)``: embeddings, runs of ``size`` layers (the last may be shorter), head.

    The names are ``embeddings``, ``layers 0-3``, ``layers 4-7`` …, ``head``; the first and the
    last group have no layer.
    """
    if layers < 1 or size < 1:
        raise UserError(
            "A layer group needs at least one layer.", "層グループには1層以上が必要です。"
        )
    spans = [range(start, min(start + size, layers)) for start in range(0, layers, size)]
    named = [(f"layers {span[0]}-{span[-1]}", tuple(span)) for span in spans]
    return [(EMBEDDINGS, ()), *named, (HEAD, ())]


def even(method: str, groups: Sequence[str], parents: int, **extra: float) -> Coefficients:
    """Every parent the same weight 1/K in every group: the plain average, where linear."""
    return Coefficients(method, dict.fromkeys(groups, (1 / parents,) * parents), extra)


def one_parent(method: str, groups: Sequence[str], parents: int, chosen: int) -> Coefficients:
    """Parent ``chosen`` alone, as a candidate."""
    row = tuple(float(k == chosen) for k in range(parents))
    return Coefficients(method, dict.fromkeys(groups, row))


def hops(path: Sequence[tuple[int, int, float]]) -> Coefficients:
    """A path over the parents' layers: (parent, layer, scale of the hop's input) each."""
    return Coefficients("passthrough", {f"hop.{k}": tuple(hop) for k, hop in enumerate(path)})


def path_of(coefficients: Coefficients) -> list[tuple[int, int, float]]:
    """The hops in order; the inverse of ``hops``."""
    found: Mapping[int, tuple[float, ...]] = {
        int(name.removeprefix("hop.")): row for name, row in coefficients.weights.items()
    }
    return [(int(found[k][0]), int(found[k][1]), float(found[k][2])) for k in sorted(found)]


def slots(parents: int, layers: int, repeats: int = 1) -> list[tuple[int, int]]:
    """Akiba et al.'s reduced layer space (arXiv 2403.13187): all layers of parent 0, then of
    parent 1 …, ``repeats`` times over; a search keeps some of these (parent, layer)."""
    return [(p, i) for _ in range(repeats) for p in range(parents) for i in range(layers)]


def hops_from_slots(
    places: Sequence[tuple[int, int]], keep: Sequence[float], scales: Sequence[float]
) -> Coefficients:
    """The path of the slots whose indicator is above 0, each with its scale."""
    path = [
        (parent, layer, float(scale))
        for (parent, layer), kept, scale in zip(places, keep, scales, strict=True)
        if kept > 0
    ]
    if not path:
        raise UserError(
            "No layer is kept; keep at least one.",
            "層が1つも残っていません。1層以上残してください。",
        )
    return hops(path)
