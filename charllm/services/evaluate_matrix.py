"""The study's matrix from a report: each set of weights without and with RAG, and what RAG adds.

Read from the figures that the report holds; nothing is resampled again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from charllm.core.evaluation.comparison import Comparison, Difference, Ruler, Summary
from charllm.core.evaluation.study_table import Pair, matrix
from charllm.core.statistics import Interval
from charllm.core.variants import Variant
from charllm.data.errors import Text


def matrix_of(judge: Mapping[str, Any], variants: Sequence[Variant]) -> list[Pair]:
    """A line for each set of weights of which both variants are there; [] where none has both.

    ``judge`` is one of the report's.
    """
    comparison = Comparison(
        ruler=Ruler(judge["judge"], judge["rubric"], judge["version"]),
        summaries=tuple(
            Summary(**{**one, "mean": _interval(one["mean"])}) for one in judge["summaries"]
        ),
        differences=tuple(
            Difference(**{**one, "difference": _interval(one["difference"])})
            for one in judge["differences"]
        ),
        seed=0,
    )
    return [pair for pair in matrix(comparison, variants) if pair.without and pair.with_rag]


def _interval(data: Mapping[str, Any]) -> Interval:
    why = data["reason"]
    return Interval(**{**data, "reason": Text(why["en"], why["ja"]) if why else None})
