"""How well facts are found, and the similarity from which a fact is used.

From questions whose facts are known: how often a right fact is among the first, and for each
threshold how often a right one would be used and how often a wrong one. It does not know how
facts are embedded or stored, nor how a plot is drawn.

Run it with ``python -m charllm calibrate SLUG``.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from charllm.core.embedding import Embedder, EmbedderConfig, get_embedder
from charllm.core.retrieval import Index, calibration_path, open_index
from charllm.data.config import Config, Paths
from charllm.data.errors import Text, UserError
from charllm.data.files import check_slug, read_json, write_json
from charllm.data.profile import Profile, load_profile
from charllm.data.progress import Reporter, Stopped
from charllm.data.queries import Query, Split, load_queries, unknown_gold

USED = 3
"""Facts that a prompt gets at most, and so the depth at which a hit counts for the threshold."""
STEP = 0.005
"""Distance between two thresholds of the curve."""
CHOSEN_ON: tuple[Split, ...] = ("search", "selection")
"""The threshold is chosen on these splits; "report" is only measured."""
FALSE_WEIGHT = 0.5
"""A right fact that is missing makes the character invent an answer; one that does not belong to
the question is mostly passed over. So it counts half."""
BATCH = 16


class CalibrateConfig(Config):
    """A run that measures retrieval on a query set and stores the threshold.

    ``queries`` "" is the profile's own set, ``datasets/queries/<profile>.jsonl``. ``splits`` are
    those the threshold is chosen on. ``false_weight`` is what a false retrieval costs, in missed
    facts (see ``choose``).
    """

    profile: str
    embedder: EmbedderConfig = EmbedderConfig()
    queries: str = ""
    splits: tuple[Split, ...] = Field(default=CHOSEN_ON, min_length=1)
    false_weight: float = Field(default=FALSE_WEIGHT, ge=0.0, le=10.0)


class Point(Config):
    """One threshold: shares in [0, 1] of questions with a right fact used, and with a wrong one."""

    threshold: float
    hit_rate: float
    false_rate: float


class Figures(Config):
    """What a split shows. Rates are None where the split has no question of that sort.

    ``hit_at_k``: share of the questions with gold facts that have one among the first k;
    ``mrr``: mean of 1/rank of the first gold fact. ``hit_rate`` and ``false_rate`` are at the
    chosen threshold.
    """

    questions: int
    without_gold: int
    hit_at_1: float | None
    hit_at_3: float | None
    mrr: float | None
    hit_rate: float | None
    false_rate: float | None


class Calibration(Config):
    """The outcome for one profile and embedder; the figures at the top are those of ``splits``.

    ``false_source`` says what the false retrievals were measured on: questions that no fact
    answers, or, where the set has none, the questions with their gold facts taken away.
    ``missed`` lists the questions whose gold facts are not among the first three.
    """

    profile: str
    embedder: str
    created: str
    facts: int
    splits: tuple[Split, ...]
    questions: int
    without_gold: int
    hit_at_1: float
    hit_at_3: float
    mrr: float
    threshold: float
    hit_rate: float
    false_rate: float
    false_weight: float
    false_source: Literal["questions without facts", "gold facts removed"]
    default_threshold: float
    curve: tuple[Point, ...]
    by_split: dict[Split, Figures]
    missed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ranked:
    """A question with all facts in order.

    ``rank`` of the first gold fact counts from 1; None for a question without gold facts.
    ``right`` is the similarity of the best gold fact among the first ``USED`` (-inf if none is),
    ``wrong`` that of the best fact that is not gold.
    """

    query: Query
    rank: int | None
    right: float
    wrong: float


def run_calibrate(
    config: CalibrateConfig, reporter: Reporter, folder: Path, paths: Paths
) -> dict[str, Any]:
    """Calibrate and store; the result is the ``Calibration`` with ``path``."""
    profile = load_profile(paths, config.profile)
    name = check_slug(config.queries or config.profile, "query set name")
    file = paths.queries / f"{name}.jsonl"
    if not file.is_file():
        raise UserError(
            f"There are no questions with known facts: {file} does not exist. Write some there "
            '(one JSON a line: "id", "text", "split", "gold").',
            f"答えの事実が分かっている質問がありません（{file}）。1行に1件の JSON"
            "（id, text, split, gold）で用意してください。",
        )
    embedder = get_embedder(config.embedder)
    outcome = calibrate(
        paths,
        profile,
        load_queries(file),
        embedder,
        reporter,
        splits=config.splits,
        false_weight=config.false_weight,
    )
    stored = str(calibration_path(paths, profile.slug, embedder))
    return {**outcome.model_dump(mode="json"), "path": stored}


def calibrate(
    paths: Paths,
    profile: Profile,
    queries: Sequence[Query],
    embedder: Embedder,
    reporter: Reporter,
    *,
    splits: Sequence[Split] = CHOSEN_ON,
    false_weight: float = FALSE_WEIGHT,
) -> Calibration:
    """Measure, choose the threshold on ``splits``, store it for the profile and embedder.

    The index is brought up to date first. ``UserError`` where the questions cannot tell: none
    with gold facts in ``splits``, or gold facts that the profile does not have. ``Stopped`` when
    a stop was requested; then nothing is stored.
    """
    _check(profile, queries, splits)
    index = open_index(paths, profile, embedder)
    index.build(reporter)
    ranked = rank_all(index, queries, reporter)
    outcome = evaluate(ranked, splits, profile, embedder, false_weight)
    write_json(calibration_path(paths, profile.slug, embedder), outcome.model_dump(mode="json"))
    return outcome


def load_calibration(paths: Paths, slug: str, embedder: Embedder) -> Calibration | None:
    """The stored calibration, None if there is none; ``UserError`` where the file is broken."""
    path = calibration_path(paths, slug, embedder)
    return Calibration.from_data(read_json(path), str(path)) if path.is_file() else None


def rank_all(index: Index, queries: Sequence[Query], reporter: Reporter) -> list[Ranked]:
    """Every question against every fact, through the index that the chat asks."""
    ranked: list[Ranked] = []
    message = Text("Asking the questions", "質問で検索しています")
    for start in range(0, len(queries), BATCH):
        if reporter.stop_requested():
            raise Stopped
        reporter.progress(start, len(queries), message)
        part = queries[start : start + BATCH]
        answers = index.rank([query.text for query in part], len(index.profile.facts))
        ranked += [_ranked(*pair) for pair in zip(part, answers, strict=True)]
    return ranked


def evaluate(
    ranked: Sequence[Ranked],
    splits: Sequence[Split],
    profile: Profile,
    embedder: Embedder,
    false_weight: float = FALSE_WEIGHT,
) -> Calibration:
    """All figures from ranked questions; nothing is read or stored."""
    chosen_on = [item for item in ranked if item.query.split in splits]
    with_gold = [item for item in chosen_on if item.rank is not None]
    no_gold = [item for item in chosen_on if item.rank is None]
    curve = _curve(
        [item.right for item in with_gold], [item.wrong for item in no_gold or with_gold]
    )
    best = choose(curve, false_weight)
    top = _figures(chosen_on, best.threshold)
    return Calibration(
        **top.model_dump(include={"hit_at_1", "hit_at_3", "mrr"}),
        profile=profile.slug,
        embedder=embedder.id,
        created=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        facts=len(profile.facts),
        splits=tuple(splits),
        questions=len(with_gold),
        without_gold=len(no_gold),
        threshold=best.threshold,
        hit_rate=best.hit_rate,
        false_rate=best.false_rate,
        false_weight=false_weight,
        false_source="questions without facts" if no_gold else "gold facts removed",
        default_threshold=embedder.default_threshold,
        curve=curve,
        by_split={
            split: _figures([item for item in ranked if item.query.split == split], best.threshold)
            for split in dict.fromkeys(item.query.split for item in ranked)
        },
        missed=tuple(
            item.query.text for item in ranked if item.rank is not None and item.rank > USED
        ),
    )


def choose(curve: Sequence[Point], false_weight: float = FALSE_WEIGHT) -> Point:
    """The threshold t that maximises hit_rate(t) − false_weight · false_rate(t).

    With weight 1 this is Youden's J (Youden 1950, Index for rating diagnostic tests). Where
    neighbouring thresholds are equally good, the middle of the longest such stretch is taken, as
    the farthest from both kinds of mistake; of two the lower, which keeps more facts.
    """

    def value(point: Point) -> float:
        return point.hit_rate - false_weight * point.false_rate

    top = max(value(point) for point in curve)
    stretches = [
        list(points)
        for is_best, points in itertools.groupby(
            curve, key=lambda point: math.isclose(value(point), top, abs_tol=1e-9)
        )
        if is_best
    ]
    longest = max(stretches, key=len)
    return longest[(len(longest) - 1) // 2]


def plot_data(calibration: Calibration) -> dict[str, Any]:
    """Columns for a plot: ``threshold`` against ``hit_rate`` and ``false_rate``, and two marks."""
    return {
        "threshold": [point.threshold for point in calibration.curve],
        "hit_rate": [point.hit_rate for point in calibration.curve],
        "false_rate": [point.false_rate for point in calibration.curve],
        "chosen": calibration.threshold,
        "default": calibration.default_threshold,
    }


def _check(profile: Profile, queries: Sequence[Query], splits: Sequence[Split]) -> None:
    if unknown := unknown_gold(list(queries), profile):
        identity, fact = unknown[0]
        raise UserError(
            f"{len(unknown)} gold facts are not among the facts of {profile.name}, the first in "
            f"question {identity!r}: “{fact}”. Correct the questions or the facts.",
            f"質問の正解のうち {len(unknown)} 件が {profile.name} の事実にありません（最初は質問"
            f"「{identity}」の「{fact}」）。質問か事実を直してください。",
        )
    if not any(query.gold for query in queries if query.split in splits):
        names = ", ".join(splits)
        raise UserError(
            f"No question of the splits {names} names a gold fact, so nothing can be measured.",
            f"分割 {names} に正解の事実を持つ質問がないため、測定できません。",
        )


def _ranked(query: Query, answer: Sequence[tuple[str, float]]) -> Ranked:
    gold = set(query.gold)
    ranks = [n for n, (fact, _) in enumerate(answer, 1) if fact in gold]
    right = [similarity for fact, similarity in answer[:USED] if fact in gold]
    wrong = [similarity for fact, similarity in answer if fact not in gold]
    return Ranked(
        query,
        min(ranks) if ranks else None,
        max(right, default=-math.inf),
        max(wrong, default=-math.inf),
    )


def _curve(right: Sequence[float], wrong: Sequence[float]) -> tuple[Point, ...]:
    """Rates at every multiple of ``STEP`` from just below the lowest to just above the highest."""
    seen = [value for value in (*right, *wrong) if math.isfinite(value)]
    first, last = math.floor(min(seen) / STEP), math.floor(max(seen) / STEP) + 1
    return tuple(
        Point(
            threshold=round(n * STEP, 6),
            hit_rate=_share(right, round(n * STEP, 6)),
            false_rate=_share(wrong, round(n * STEP, 6)),
        )
        for n in range(first, last + 1)
    )


def _share(values: Sequence[float], threshold: float) -> float:
    return round(sum(value >= threshold for value in values) / len(values), 4)


def _figures(ranked: Sequence[Ranked], threshold: float) -> Figures:
    ranks = [item.rank for item in ranked if item.rank is not None]
    right = [item.right for item in ranked if item.rank is not None]
    wrong = [item.wrong for item in ranked if item.rank is None]

    def mean(values: Sequence[float]) -> float | None:
        return round(sum(values) / len(values), 4) if values else None

    return Figures(
        questions=len(ranks),
        without_gold=len(wrong),
        hit_at_1=mean([rank <= 1 for rank in ranks]),
        hit_at_3=mean([rank <= USED for rank in ranks]),
        mrr=mean([1 / rank for rank in ranks]),
        hit_rate=mean([value >= threshold for value in right]),
        false_rate=mean([value >= threshold for value in wrong]),
    )
