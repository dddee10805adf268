"""The study's matrix: RAG without and with × fine-tuning without and with, and what each adds.

Which variants belong together is read from their weights: the same base and checkpoint, once with
facts in the prompt and once without. What is not there is left empty, never guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from charllm.core.evaluation.comparison import Comparison, Difference, Summary
from charllm.core.evaluation.tables import Cell, Column, Table
from charllm.core.statistics import Interval
from charllm.core.variants import Variant, default_columns, find_variant
from charllm.data.config import Paths
from charllm.data.errors import Text


@dataclass(frozen=True)
class Pair:
    """One set of weights without and with RAG: a checkpoint's name, or the base model's.

    ``gain`` is with minus without, where both are there.
    """

    weights: str
    without: Summary | None
    with_rag: Summary | None
    gain: Difference | None


def study_variants(paths: Paths, slug: str, checkpoint: str = "") -> tuple[str, ...]:
    """The names of the matrix' variants: base, RAG, and a checkpoint without and with RAG.

    ``checkpoint`` "" is the one that the chat offers first; a character without any gets two.
    """
    names = ["base", "rag"]
    if not checkpoint:
        offered = [find_variant(paths, slug, name) for name in default_columns(paths, slug)]
        checkpoint = next((one.checkpoint for one in offered if one.checkpoint), "")
    if checkpoint:
        names += [
            find_variant(paths, slug, name).name for name in (checkpoint, f"{checkpoint}-rag")
        ]
    return tuple(names)


def matrix(comparison: Comparison, variants: Sequence[Variant]) -> list[Pair]:
    """A line for each set of weights, in the order of the variants."""
    summaries = {one.variant: one for one in comparison.summaries}
    groups: dict[tuple[str, str, str], dict[bool, Variant]] = {}
    for one in variants:
        groups.setdefault((one.model, one.checkpoint, one.base_url), {}).setdefault(one.rag, one)
    found = []
    for (model, checkpoint, _), group in groups.items():
        names = {rag: one.name for rag, one in group.items()}
        found.append(
            Pair(
                checkpoint or model,
                summaries.get(names.get(False, "")),
                summaries.get(names.get(True, "")),
                _gain(comparison, names),
            )
        )
    return found


def matrix_table(comparison: Comparison, variants: Sequence[Variant]) -> Table:
    """The matrix with intervals and the gain of RAG; ``p`` is corrected for the whole table of
    differences that the comparison holds."""
    rows: list[tuple[Cell, ...]] = [
        (
            pair.weights,
            _mean(pair.without),
            _mean(pair.with_rag),
            pair.gain.difference if pair.gain else None,
            pair.gain.p_holm if pair.gain else None,
        )
        for pair in matrix(comparison, variants)
    ]
    return Table(
        Text("Fine-tuning × RAG", "ファインチューニング × RAG"),
        (
            Column(Text("Weights", "重み")),
            Column(Text("Without RAG", "RAG なし")),
            Column(Text("With RAG", "RAG あり")),
            Column(Text("RAG adds", "RAG による差")),
            Column(Text("p (Holm)", "p 値（Holm）"), "p"),
        ),
        tuple(rows),
    )


def _mean(summary: Summary | None) -> Interval | None:
    return summary.mean if summary else None


def _gain(comparison: Comparison, names: dict[bool, str]) -> Difference | None:
    """The paired difference with RAG minus without, turned round where the table has it so."""
    for one in comparison.differences:
        if (one.a, one.b) == (names.get(True), names.get(False)):
            return one
        if (one.b, one.a) == (names.get(True), names.get(False)):
            return turned(one)
    return None


def turned(one: Difference) -> Difference:
    """``b - a`` of ``a - b``."""
    old = one.difference
    value, low, high = (None if x is None else -x for x in (old.value, old.high, old.low))
    return Difference(
        one.b, one.a, Interval(value, low, high, old.n, old.reason), one.queries, one.p, one.p_holm
    )
