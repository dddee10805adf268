"""How much the criteria are one number: rank correlations of every two, over the same exchanges.

Replies that the gate stopped are left out: they have the lowest level by every criterion, which
would make all criteria alike by construction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from charllm.core.evaluation.five_scores import Column
from charllm.core.statistics import spearman
from charllm.data.errors import Text

LEAST = 10
"""Exchanges scored by both, below which no correlation is given."""

WARNING = Text(
    "Read the criteria with their correlation: four LLM judges of Japanese role-play gave eight "
    "such criteria a mean correlation of .57–.74, and one component held 77–81 % of all variance "
    "(Japanese-RP-Bench). Five bars are mostly one number drawn five times.",
    "各基準は相関と合わせて読んでください。日本語ロールプレイの公開データ（Japanese-RP-Bench）では、"
    "4つのLLMジャッジが付けた8基準の平均相関は0.57〜0.74で、ばらつきの77〜81％が1つの成分で説明できました。"
    "5本の棒は、ほぼ1つの数値を5回描いたものです。",
)


@dataclass(frozen=True)
class Pair:
    """Spearman's rank correlation of two columns over ``n`` exchanges; None where undefined, or
    where there are fewer than ``LEAST``."""

    one: str
    other: str
    value: float | None
    n: int


@dataclass(frozen=True)
class Correlations:
    """``mean`` of all defined pairs. ``gated``: exchanges left out for the gate."""

    names: tuple[str, ...]
    pairs: tuple[Pair, ...]
    mean: float | None
    gated: int

    def of(self, one: str, other: str) -> Pair | None:
        """The pair in either order."""
        return next((p for p in self.pairs if {p.one, p.other} == {one, other}), None)


def correlations(columns: Sequence[Column]) -> Correlations | None:
    """Of the columns of one judge, or of the measures; None for fewer than two columns."""
    if len(columns) < 2:
        return None
    scores = {
        _name(column): {
            id: row.score
            for id, row in column.rows.items()
            if row.score is not None and not row.gated
        }
        for column in columns
    }
    pairs = []
    for one, other in combinations(scores, 2):
        shared = [id for id in scores[one] if id in scores[other]]
        value = None
        if len(shared) >= LEAST:
            value = spearman(
                [scores[one][id] for id in shared], [scores[other][id] for id in shared]
            )
        pairs.append(Pair(one, other, value, len(shared)))
    known = [pair.value for pair in pairs if pair.value is not None]
    gated = {id for column in columns for id, row in column.rows.items() if row.gated}
    mean = sum(known) / len(known) if known else None
    return Correlations(tuple(scores), tuple(pairs), mean, len(gated))


def _name(column: Column) -> str:
    """A criterion's key, or a measure's, whose criterion may have several."""
    return column.ruler.rubric if column.measured else column.criterion
