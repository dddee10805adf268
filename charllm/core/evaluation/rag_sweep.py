"""Retrieval at every threshold and number of facts: what another setting would find and show.

The curves are ``core/calibration``'s, made once for each number of facts. They are drawn on the
splits that a threshold may be chosen on, and the best point is measured on the report split. It
does not know what a reply does with a fact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from charllm.core import calibration
from charllm.core.calibration import CHOSEN_ON, Figures, Point, Ranked
from charllm.core.embedding import EmbedderConfig, get_embedder
from charllm.core.evaluation.evaluate_config import EvaluateConfig
from charllm.core.evaluation.tables import Cell, Column, Table
from charllm.core.retrieval import open_index, threshold_for
from charllm.data.config import Paths
from charllm.data.errors import Text, UserError
from charllm.data.profile import Profile
from charllm.data.progress import Reporter, Stopped
from charllm.data.queries import Query, unknown_gold

KS = (1, 2, 3, 5)
"""Numbers of facts a prompt gets at most, of which each has its curve."""

Answer = Sequence[tuple[str, float]]
"""All facts with their similarities to one question, best first."""


@dataclass(frozen=True)
class Setting:
    """At most ``k`` facts in a prompt, each of at least the similarity ``threshold``."""

    threshold: float
    k: int


@dataclass(frozen=True)
class Curve:
    """What at most ``k`` facts in a prompt give, at each threshold.

    ``points``: hit rate and false retrievals, shares in [0, 1] of questions. ``shown``: facts in a
    prompt on average, one a point. ``best``: the point that ``calibration.choose`` takes;
    ``report``: what it gives on the report split, None where there is none.
    """

    k: int
    points: tuple[Point, ...]
    shown: tuple[float, ...]
    best: Point
    report: Figures | None

    def near(self, threshold: float) -> tuple[Point, float]:
        """The point nearest to a threshold, and the facts in a prompt there.

        It is off by half of ``calibration.STEP`` at most, or lies at the curve's end, beyond which
        neither rate changes.
        """
        at = min(range(len(self.points)), key=lambda i: abs(self.points[i].threshold - threshold))
        return self.points[at], self.shown[at]


def setting_now(paths: Paths, config: EvaluateConfig) -> Setting:
    """What an evaluation like this one would use today: its own threshold, else the profile's."""
    limit = config.threshold
    if limit is None:
        limit = threshold_for(paths, config.profile, get_embedder(config.embedder))
    return Setting(limit, config.top_k)


def sweep(
    paths: Paths,
    profile: Profile,
    queries: Sequence[Query],
    embedder: EmbedderConfig,
    reporter: Reporter,
    ks: Sequence[int] = KS,
) -> list[Curve]:
    """A curve for each ``k``; the index is brought up to date first where that costs no money.

    ``UserError`` where no query of the chosen splits has a gold fact, or one is no fact of the
    profile. ``Stopped`` when cancelled.
    """
    _check(profile, queries)
    opened = get_embedder(embedder)
    index = open_index(paths, profile, opened)
    if index.state().kind != "ready" and embedder.kind != "openai":
        index.build(reporter)
    answers: list[Answer] = []
    for start in range(0, len(queries), calibration.BATCH):
        if reporter.stop_requested() == "cancel":
            raise Stopped
        doing = Text("Asking the questions", "質問で検索しています")
        reporter.progress(start, len(queries), doing)
        part = queries[start : start + calibration.BATCH]
        answers += index.rank([query.text for query in part], len(profile.facts))
    found = []
    for k in ks:
        ranked = [_ranked(*pair, k) for pair in zip(queries, answers, strict=True)]
        chosen = calibration.evaluate(ranked, CHOSEN_ON, profile, opened)
        near = [a for q, a in zip(queries, answers, strict=True) if q.split in CHOSEN_ON]
        shown = tuple(_shown(near, point.threshold, k) for point in chosen.curve)
        best = Point(
            threshold=chosen.threshold, hit_rate=chosen.hit_rate, false_rate=chosen.false_rate
        )
        found.append(Curve(k, chosen.curve, shown, best, chosen.by_split.get("report")))
    return found


def sweep_table(curves: Sequence[Curve]) -> Table:
    """A line for each number of facts, at its best threshold."""
    rows: list[tuple[Cell, ...]] = []
    for curve in curves:
        at = curve.points.index(curve.best)
        report = curve.report
        rows.append(
            (
                *(curve.k, f"{curve.best.threshold:.3f}"),
                *(curve.best.hit_rate, curve.best.false_rate, curve.shown[at]),
                report.hit_rate if report else None,
                report.false_rate if report else None,
            )
        )
    return Table(
        Text("Threshold and number of facts", "しきい値と事実の数"),
        (
            Column(Text("Facts at most", "事実の最大数")),
            Column(Text("Best threshold", "最良のしきい値")),
            Column(Text("Right fact shown", "正しい事実を提示"), "share"),
            Column(Text("False retrievals", "誤った提示"), "share"),
            Column(Text("Facts in a prompt", "プロンプトの事実数")),
            Column(Text("Right, report split", "正しい提示（報告用）"), "share"),
            Column(Text("False, report split", "誤った提示（報告用）"), "share"),
        ),
        tuple(rows),
    )


def curve_table(curves: Sequence[Curve]) -> Table:
    """Every point of every curve, a line each, to be saved as CSV."""
    rows: list[tuple[Cell, ...]] = [
        (curve.k, point.threshold, point.hit_rate, point.false_rate, shown)
        for curve in curves
        for point, shown in zip(curve.points, curve.shown, strict=True)
    ]
    return Table(
        Text("Threshold and number of facts", "しきい値と事実の数"),
        (
            Column(Text("Facts at most", "事実の最大数")),
            Column(Text("Threshold", "しきい値")),
            Column(Text("Right fact shown", "正しい事実を提示"), "share"),
            Column(Text("False retrievals", "誤った提示"), "share"),
            Column(Text("Facts in a prompt", "プロンプトの事実数")),
        ),
        tuple(rows),
    )


def plot_data(curves: Sequence[Curve]) -> list[dict[str, object]]:
    """Columns for a plot, a table for each number of facts."""
    return [
        {
            "k": curve.k,
            "threshold": [point.threshold for point in curve.points],
            "hit_rate": [point.hit_rate for point in curve.points],
            "false_rate": [point.false_rate for point in curve.points],
            "shown": list(curve.shown),
        }
        for curve in curves
    ]


def _ranked(query: Query, answer: Answer, k: int) -> Ranked:
    """As ``calibration`` ranks, with the gold facts among the first ``k``."""
    gold = set(query.gold)
    ranks = [place for place, (fact, _) in enumerate(answer, 1) if fact in gold]
    return Ranked(
        query,
        min(ranks, default=None),
        max((similarity for fact, similarity in answer[:k] if fact in gold), default=-math.inf),
        max((similarity for fact, similarity in answer if fact not in gold), default=-math.inf),
    )


def _shown(answers: Sequence[Answer], threshold: float, k: int) -> float:
    """Facts in a prompt, on average."""
    counts = [sum(similarity >= threshold for _, similarity in one[:k]) for one in answers]
    return round(sum(counts) / len(counts), 4)


def _check(profile: Profile, queries: Sequence[Query]) -> None:
    if unknown := unknown_gold(list(queries), profile):
        identity, fact = unknown[0]
        raise UserError(
            f"The gold fact “{fact}” of question {identity!r} is not among the facts of "
            f"{profile.name}. Correct the questions or the facts.",
            f"質問「{identity}」の正解「{fact}」が {profile.name} の事実にありません。"
            "質問か事実を直してください。",
        )
    if not any(query.gold for query in queries if query.split in CHOSEN_ON):
        raise UserError(
            "No question of the splits search and selection names a gold fact, so thresholds "
            "cannot be compared.",
            "探索用・選択用の質問に正解の事実がないため、しきい値を比べられません。",
        )
