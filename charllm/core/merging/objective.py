"""What a search maximises: parts of a score, their weights, and one value a query made of them.

Parts come from the evaluation by name, such as ``score`` (the judge's), ``gate``, ``style``,
``length``, ``loss`` (per token, on the character's held-out lines) and ``general`` (general
questions, a guard against forgetting). All of them are kept for every candidate, whatever the
weights; so an old search can be looked at with other weights from its journal alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from charllm.core.merging.journal import Outcome
from charllm.data.errors import UserError

GENERAL = ("general", "general_right")
"""What general questions measure: the right option's share of the options' likelihood, in (0, 1),
and whether it is the likeliest, 0 or 1."""
UNIT = (0.0, 1.0)
RANGES = {"loss": (1.0, 0.0)}
"""(worst, best) of the parts that do not run from 0 to 1; a loss of 1 nat less is worth 1."""


@dataclass(frozen=True)
class Objective:
    """Weights by part, none negative; ``ranges`` gives a part's (worst, best), else 0 … 1.

    A part's value counts as ``(x - worst) / (best - worst)``, not clipped. ``floors`` says how far
    a part may fall below the plain average before a candidate may not be chosen (``guard``).
    """

    weights: Mapping[str, float]
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    floors: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part, weight in self.weights.items():
            if not math.isfinite(weight) or weight < 0:
                raise _nonsense(f"{part}={weight:g}")
        if not sum(self.weights.values()) > 0:
            raise UserError(
                "The objective gives no part a weight above 0, so there is nothing to search for. "
                "Write for example score=1, style=0.5.",
                "目標の重みがすべて 0 なので、探索するものがありません。例: score=1, style=0.5",
            )
        for part, (worst, best) in self.ranges.items():
            if not (math.isfinite(worst) and math.isfinite(best)) or worst == best:
                raise ValueError(f"the range of {part} is empty: {worst} … {best}")

    @classmethod
    def parse(cls, text: str, ranges: Mapping[str, tuple[float, float]] | None = None) -> Objective:
        """``score=1, style=0.5`` as an objective; a name alone counts 1."""
        weights: dict[str, float] = {}
        for piece in filter(None, (piece.strip() for piece in text.split(","))):
            name, _, number = (one.strip() for one in piece.partition("="))
            try:
                weight = float(number) if number else 1.0
            except ValueError:
                raise _nonsense(piece) from None
            if not name or name in weights:
                raise _nonsense(piece)
            weights[name] = weight
        return cls(weights, {**RANGES, **(ranges or {})})

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that count."""
        return tuple(part for part, weight in self.weights.items() if weight > 0)

    def check(self, known: Iterable[str]) -> None:
        """``UserError`` where a part counts that the evaluation does not measure."""
        names = sorted(known)
        unknown = [part for part in self.parts if part not in names]
        if unknown:
            raise UserError(
                f"The objective names {', '.join(unknown)}, which is not measured here; "
                f"there are {', '.join(names)}.",
                f"目標の {', '.join(unknown)} はここでは測定されません。使えるのは "
                f"{', '.join(names)} です。",
            )

    def unit(self, part: str, value: float) -> float:
        worst, best = self.ranges.get(part, UNIT)
        return (value - worst) / (best - worst)

    def values(self, outcomes: Sequence[Outcome]) -> dict[str, float | None]:
        """Each query's contribution: their mean is the weighted mean of the parts' means.

        Not every query is asked for every part (a guard question has no character to judge): a
        part that only n_p of n queries have counts n / n_p times there, and one that none of them
        has does not count. None where a part that counts could not be scored.
        """
        asked = {part: sum(part in one.parts for one in outcomes) for part in self.parts}
        total = math.fsum(self.weights[part] for part, count in asked.items() if count)
        share = {
            part: self.weights[part] / total * len(outcomes) / count
            for part, count in asked.items()
            if count
        }
        return {one.query: self._value(one, share) for one in outcomes}

    def part_means(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """The mean of each part on its own scale, those without weight too."""
        found: dict[str, list[float]] = {}
        for one in outcomes:
            for part, value in one.parts.items():
                if value is not None:
                    found.setdefault(part, []).append(value)
        return {part: math.fsum(values) / len(values) for part, values in found.items()}

    def point(self, own: Sequence[Outcome], base: Sequence[Outcome]) -> tuple[float, ...] | None:
        """Each counting part's mean difference, more is better; None where one cannot be told.

        Differences, because candidates of two generations were asked different queries.
        """
        other = {one.query: one.parts for one in base}
        found = []
        for part in self.parts:
            pairs = [(one.parts.get(part), other.get(one.query, {}).get(part)) for one in own]
            gains = [
                self.unit(part, a) - self.unit(part, b)
                for a, b in pairs
                if a is not None and b is not None
            ]
            if not gains:
                return None
            found.append(math.fsum(gains) / len(gains))
        return tuple(found)

    def _value(self, one: Outcome, share: Mapping[str, float]) -> float | None:
        found = [(part, one.parts[part]) for part in share if part in one.parts]
        if not found or any(value is None for _, value in found):
            return None
        return math.fsum(share[p] * self.unit(p, v) for p, v in found if v is not None)


def _nonsense(piece: str) -> UserError:
    return UserError(
        f"{piece!r} is no weight of the objective: write a part's name and a number of 0 or more, "
        "such as score=1, style=0.5.",
        f"「{piece}」は目標の重みとして使えません。項目名と 0 以上の数を、"
        "score=1, style=0.5 のように書いてください。",
    )
