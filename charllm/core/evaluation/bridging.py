"""From a judge that is withdrawn to its successor: both score one anchor set, once.

Linear equating with a single group (Kolen and Brennan, Test Equating, Scaling, and Linking, 2014,
chapter 2): new = mean_new + (sd_new / sd_old) * (old - mean_old). It keeps a score's place among
the anchors, and it is symmetric, which a regression is not. It moves means of many replies; where
the judges rank replies differently no formula moves a single one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from charllm.core.statistics import Interval, bootstrap, bootstrap_many
from charllm.core.weighted import spearman_of
from charllm.data.errors import Text, UserError

if TYPE_CHECKING:
    from charllm.core.weighted import Array, Statistic

LEAST_ANCHORS = 20
"""Replies that both judges scored; with fewer, two standard deviations are guesses."""
LOOSE = 0.5
"""A rank correlation whose interval goes below this is said aloud beside every moved figure."""

ONLY_MEANS = Text(
    "The two judges rank the anchor replies differently: moved means are rough, and single scores "
    "must not be moved.",
    "二つのジャッジはアンカーの順位づけが大きく異なります。換算した平均は目安にとどまり、個々の点数は換算できません。",
)


@dataclass(frozen=True)
class Anchor:
    """One reply scored by both judges; ``cluster`` is its query."""

    cluster: str
    old: float
    new: float


@dataclass(frozen=True)
class Bridge:
    """``levels``: what each old level is worth on the new judge's scale, anchors resampled.

    ``agreement`` is the rank correlation; ``note`` is set where it is too loose for single scores.
    """

    anchors: tuple[Anchor, ...]
    scale: tuple[int, int]
    slope: Interval
    agreement: Interval
    levels: tuple[tuple[int, Interval], ...]
    note: Text | None
    seed: int

    def at(self, old: float) -> Interval:
        """An old score in new terms, within the scale; the interval is the bridge's own doubt."""
        found = bootstrap(
            lambda rows: _lines(self.anchors, [old])(rows)[:, 1], _clusters(self.anchors), self.seed
        )
        return _within(found, self.scale)

    def moved(self, mean: Interval) -> Interval:
        """An old mean in new terms, with its own doubt and the bridge's: independent, so their
        half widths add as squares."""
        if mean.value is None:
            return mean
        found = self.at(mean.value)
        own, bridge, slope = mean.half_width, found.half_width, self.slope.value
        if found.value is None or own is None or bridge is None or slope is None:
            return replace(found, low=None, high=None, reason=mean.reason or found.reason)
        half = ((slope * own) ** 2 + bridge**2) ** 0.5
        both = Interval(found.value, found.value - half, found.value + half, mean.n)
        return _within(both, self.scale)


def bridge(anchors: Sequence[Anchor], scale: tuple[int, int], seed: int = 0) -> Bridge:
    """``UserError`` for too few anchors, a judge that gave one score to all, or no agreement."""
    if len(anchors) < LEAST_ANCHORS:
        raise UserError(
            f"Only {len(anchors)} replies were scored by both judges; a bridge needs "
            f"{LEAST_ANCHORS} or more, better 100. Score the same replies by both.",
            f"両方のジャッジで採点した返答が{len(anchors)}件しかありません。換算には"
            f"{LEAST_ANCHORS}件以上（できれば100件）が必要です。同じ返答を両方で採点してください。",
        )
    if len({a.old for a in anchors}) == 1 or len({a.new for a in anchors}) == 1:
        raise UserError(
            "One of the judges gave the same score to every anchor reply: take replies that are "
            "good and bad.",
            "片方のジャッジの点数がすべて同じです。良い返答と悪い返答を混ぜたアンカーを使ってください。",
        )
    anchors, clusters = tuple(anchors), _clusters(anchors)
    steps = range(scale[0], scale[1] + 1)
    slope, *levels = bootstrap_many(_lines(anchors, steps), clusters, seed)
    ranks = spearman_of([a.old for a in anchors], [a.new for a in anchors])
    agreement = bootstrap(ranks, clusters, seed)
    if agreement.value is not None and agreement.value <= 0:
        raise UserError(
            "The two judges do not agree at all on the anchor replies: there is no bridge.",
            "二つのジャッジの採点がアンカーでまったく一致しないため、換算できません。",
        )
    return Bridge(
        anchors=anchors,
        scale=scale,
        slope=slope,
        agreement=agreement,
        levels=tuple(zip(steps, (_within(level, scale) for level in levels), strict=True)),
        note=ONLY_MEANS if agreement.low is None or agreement.low < LOOSE else None,
        seed=seed,
    )


def _clusters(anchors: Sequence[Anchor]) -> list[str]:
    return [anchor.cluster for anchor in anchors]


def _lines(anchors: Sequence[Anchor], at: Sequence[float]) -> Statistic:
    """The slope, then what each score of ``at`` becomes; NaN where the old scores do not vary."""
    import numpy as np

    old = np.array([anchor.old for anchor in anchors])
    new = np.array([anchor.new for anchor in anchors])
    points = np.array(at, dtype=float)

    def line(rows: Array) -> Array:
        weight = rows / rows.sum(axis=1, keepdims=True)
        mean_old, mean_new = weight @ old, weight @ new
        spread_old = np.sqrt(np.clip(weight @ old**2 - mean_old**2, 0.0, None))
        spread_new = np.sqrt(np.clip(weight @ new**2 - mean_new**2, 0.0, None))
        known = spread_old > 1e-6
        slope = np.where(known, spread_new, np.nan) / np.where(known, spread_old, 1.0)
        moved = mean_new[:, None] + slope[:, None] * (points - mean_old[:, None])
        return np.column_stack([slope, moved])

    return line


def _within(found: Interval, scale: tuple[int, int]) -> Interval:
    def cut(x: float | None) -> float | None:
        return None if x is None else min(max(x, float(scale[0])), float(scale[1]))

    return replace(found, value=cut(found.value), low=cut(found.low), high=cut(found.high))
