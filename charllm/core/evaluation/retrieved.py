"""What retrieval gave the variants with RAG: right facts found, and wrong ones shown.

Read from an evaluation's own queries and hits. How another threshold would do is
``core/calibration``'s; whether a shown fact helped is seen in the scores with and without RAG.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from charllm.core.evaluation.tables import Column, Table
from charllm.core.retrieval import Hit
from charllm.core.statistics import Interval, mean_interval, share_interval
from charllm.data.errors import Text
from charllm.data.queries import Query


@dataclass(frozen=True)
class Retrieved:
    """Shares of queries in [0, 1] with intervals.

    ``found``: of the ``with_gold`` queries, those whose prompt shows a gold fact; ``ranked``: those
    that have one among the facts looked up, under the threshold or not. ``unasked``: of the queries
    that no fact answers, those whose prompt shows one. ``shown``: facts in a prompt, on average.
    """

    queries: int
    with_gold: int
    found: Interval
    ranked: Interval
    unasked: Interval
    shown: Interval


def retrieval_report(
    queries: Sequence[Query], facts: Mapping[str, Sequence[Hit]], seed: int = 0
) -> Retrieved | None:
    """None where nothing was looked up. Queries are resampled."""
    asked = [query for query in queries if query.id in facts]
    if not asked:
        return None
    gold = [query for query in asked if query.gold]
    free = [query for query in asked if not query.gold]
    shown = {q.id: [hit.fact for hit in facts[q.id] if hit.used] for q in asked}
    near = {q.id: [hit.fact for hit in facts[q.id]] for q in asked}

    def share(of: Sequence[Query], true: Sequence[bool]) -> Interval:
        return share_interval(list(true), [query.id for query in of], seed)

    return Retrieved(
        queries=len(asked),
        with_gold=len(gold),
        found=share(gold, [bool({*q.gold} & {*shown[q.id]}) for q in gold]),
        ranked=share(gold, [bool({*q.gold} & {*near[q.id]}) for q in gold]),
        unasked=share(free, [bool(shown[q.id]) for q in free]),
        shown=mean_interval([float(len(shown[q.id])) for q in asked], [q.id for q in asked], seed),
    )


def retrieval_table(report: Retrieved) -> Table:
    """One line."""
    return Table(
        Text("Retrieval", "検索（RAG）"),
        (
            Column(Text("Queries", "質問数")),
            Column(Text("With a known fact", "正解の事実がある質問")),
            Column(Text("Right fact shown", "正しい事実を提示"), "share"),
            Column(Text("Right fact among the nearest", "正しい事実が上位に入る"), "share"),
            Column(Text("Fact shown where none answers", "不要な事実を提示"), "share"),
            Column(Text("Facts in a prompt", "プロンプトの事実数")),
        ),
        (
            (
                *(report.queries, report.with_gold, report.found, report.ranked),
                *(report.unasked, report.shown),
            ),
        ),
    )
