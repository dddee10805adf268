"""Whether a variant stays who it is over a talk: its score turn by turn, and the slope over turns.

What is resampled is the talk, never the turn: turns of one talk hang together. A slope of -0.1
means that every turn costs a tenth of a level. Follow-ups never come first, so that what they cost
by themselves would look like drift: the slope is what is left when their share is taken out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from charllm.core.statistics import Interval, at_the_edge, bootstrap, mean_interval
from charllm.data.errors import Text

if TYPE_CHECKING:
    from charllm.core.weighted import Array, Statistic

NO_SLOPE = Text("the scores are of too few different turns", "点数のあるターンの種類が少なすぎます")
ALL_THE_SAME = Text("all scores are the same", "点数がすべて同じです")


@dataclass(frozen=True)
class TurnScore:
    """One scored turn. ``turn`` counts from 1; ``value`` is on whatever scale its measure has;
    ``follow_up``: the question was a follow-up of the list."""

    talk: str
    turn: int
    value: float
    follow_up: bool = False


@dataclass(frozen=True)
class AtTurn:
    """``mean`` with its 95 % interval over talks; ``n`` of it counts the scored turns."""

    turn: int
    mean: Interval


@dataclass(frozen=True)
class Drift:
    """``slope`` is the change a turn, least squares, with its 95 % interval over talks."""

    turns: tuple[AtTurn, ...]
    slope: Interval
    talks: int


def drift_of(scores: Iterable[TurnScore], seed: int = 0, *, shares: bool = False) -> Drift:
    """Turns without any score are left out. No slope where all scores are of one turn, or where
    turns and follow-ups cannot be told apart (two turns, the second always a follow-up).
    ``shares``: values lie in [0, 1], and where all are 0 or all are 1 the interval is Wilson's."""
    rows = sorted(scores, key=lambda one: (one.turn, one.talk))
    turns = []
    for turn in sorted({one.turn for one in rows}):
        at = [one for one in rows if one.turn == turn]
        mean = mean_interval([one.value for one in at], [one.talk for one in at], seed)
        talks = len({one.talk for one in at})
        turns.append(AtTurn(turn, at_the_edge(mean, talks) if shares else mean))
    kinds = [float(one.follow_up) for one in rows]
    statistic = slope_of([one.turn for one in rows], [one.value for one in rows], kinds)
    slope = bootstrap(statistic, [one.talk for one in rows], seed)
    if len({one.value for one in rows}) == 1:  # a bootstrap would be certain
        slope = Interval(slope.value, None, None, len(rows), ALL_THE_SAME)
    if slope.value is None:
        slope = Interval(None, None, None, len(rows), NO_SLOPE)
    return Drift(tuple(turns), slope, len({one.talk for one in rows}))


def slope_of(x: Sequence[float], y: Sequence[float], given: Sequence[float]) -> Statistic:
    """The coefficient of ``x`` in the weighted least squares of ``y`` on ``x``, ``given`` and 1.

    (Sxy Sgg - Sxg Sgy) / (Sxx Sgg - Sxg^2), and Sxy / Sxx where ``given`` is constant. Undefined
    where a resample's rows have one ``x``, or ``given`` says all of it.
    """
    import numpy as np

    columns = [np.asarray(one, dtype=float) for one in (x, y, given)]

    def slope(rows: Array) -> Array:
        total = rows.sum(axis=1, keepdims=True)
        dx, dy, dg = (one - (rows @ one)[:, None] / total for one in columns)

        def product(one: Array, other: Array) -> Array:
            found: Array = (rows * one * other).sum(axis=1)
            return found

        xx, xy, gg = product(dx, dx), product(dx, dy), product(dg, dg)
        xg, gy = product(dx, dg), product(dg, dy)
        varies = gg > 1e-9
        above = np.where(varies, xy * gg - xg * gy, xy)
        below = np.where(varies, xx * gg - xg * xg, xx)
        undefined = np.full(len(rows), np.nan)
        return np.divide(above, below, out=undefined, where=below > 1e-9)

    return slope
