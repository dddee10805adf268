"""Ratings of models from matches: Bradley–Terry with ties, length, and a cluster bootstrap.

log odds(a beats b) = strength_a - strength_b + length * log(characters_a / characters_b)
(Bradley and Terry 1952; a covariate for length as in Chatbot Arena's style control).

A tie is half a win for each. The alternative is Davidson (1970), whose tie parameter suits a judge
who calls near-equals equal. Ours are mostly two orders that disagree: if each order is won with
chance p, the expected score is p² + p(1 - p) = p, so half a win estimates the strengths without
bias. Everything is resampled by query, because verdicts on one query hang together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

from charllm.core.evaluation.drawing import holm, intervals_with_p
from charllm.core.evaluation.matches import Match
from charllm.core.evaluation.win_matrix import Blocks, WinMatrix, blocks_of, win_matrix
from charllm.core.statistics import RESAMPLES, Interval
from charllm.data.errors import Text

if TYPE_CHECKING:
    from charllm.core.weighted import Array

RIDGE = 0.1
"""Half of it times the squared strengths is taken off the log likelihood (a normal prior with a
deviation of 3.2 log odds): it holds a model that never lost, and moves others by under 1 %."""
STEPS = 60
CELLS = 2_000_000
"""Numbers held at once while the resamples are fitted (16 MB)."""

UNBEATEN = Text(
    "never beaten, nor tied, by the models it is compared with: it is better, by how much is open",
    "比較相手に一度も負けも引き分けもないため、上位であることしか分かりません",
)
WINLESS = Text(
    "never won or tied against the models it is compared with: it is worse, by how much is open",
    "比較相手に一度も勝ちも引き分けもないため、下位であることしか分かりません",
)
APART = Text(
    "no chain of matches leads to the other models: its rating cannot be compared with theirs",
    "ほかのモデルとつながる対戦がないため、評点を比べられません",
)
ONLY_PLACE = Text(
    "its wins and defeats give its place among the others, but no distances",
    "勝敗から順位は分かりますが、差の大きさは分かりません",
)
NOT_LINKED = Text(
    "these two are not linked by wins in both directions",
    "この二つは双方向の勝敗でつながっていないため、差の大きさは分かりません",
)


@dataclass(frozen=True)
class Rating:
    """``strength`` in log odds, 0 the mean of the models that can be told apart by size.

    Without an interval where the data set no bound; its reason says why.
    """

    model: str
    strength: Interval
    wins: int
    ties: int
    losses: int

    @property
    def n(self) -> int:
        return self.wins + self.ties + self.losses

    @property
    def points(self) -> Interval:
        """The strength on Elo's scale: 1000 the mean, 400 points ten to one."""
        s = self.strength
        low, high = (None if x is None else as_points(x) for x in (s.low, s.high))
        return replace(s, value=None if s.value is None else as_points(s.value), low=low, high=high)


@dataclass(frozen=True)
class Gap:
    """``strength_a - strength_b`` with its interval; ``p_holm`` is corrected for all gaps."""

    a: str
    b: str
    gap: Interval
    p: float | None
    p_holm: float | None


@dataclass(frozen=True)
class Ratings:
    """Best first. ``length`` is the coefficient of the log ratio of lengths, None where it was not
    asked for or lengths never differ. ``left_out`` matches lack a reply's length. ``sources`` names
    who judged: more than one is a mixture, which whoever shows it has to say."""

    ratings: tuple[Rating, ...]
    gaps: tuple[Gap, ...]
    matrix: WinMatrix
    length: Interval | None
    n: int
    unscored: int
    left_out: int
    queries: int
    sources: tuple[str, ...]
    seed: int

    @property
    def apart(self) -> int:
        """Pairs of models that can be told apart at 5 % after Holm's correction."""
        return sum(gap.p_holm is not None and gap.p_holm < 0.05 for gap in self.gaps)


class _Design(NamedTuple):
    """``cells`` are a pair of models with one difference of log lengths, a row of ``effects`` each
    (a column a model, one more for length). ``games`` and ``points`` count by query and cell;
    ``main`` marks the models whose mean strength is 0."""

    models: tuple[str, ...]
    effects: Array
    games: Array
    points: Array
    main: Array


def as_points(strength: float) -> float:
    return 1000 + 400 / math.log(10) * strength


def rate(
    matches: Sequence[Match],
    *,
    control_length: bool = False,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Ratings:
    """Ratings with 95 % intervals over queries, from matches (ties are half wins).

    With ``control_length`` only matches whose two replies are known count. The result names what
    was left out; without any scored match it has no ratings.
    """
    scored = [m for m in matches if m.score is not None]
    used = [m for m in scored if m.lengths or not control_length]
    matrix = win_matrix(used)
    sizes = (len(matches) - len(scored), len(scored) - len(used), len({m.group for m in used}))
    sources = tuple(sorted({m.source for m in used}))
    if not used:
        return Ratings((), (), matrix, None, 0, *sizes, sources, seed)
    blocks = blocks_of(matrix)
    design = _design(used, matrix.models, blocks, control_length)
    strengths, gaps, length = _fitted(design, seed, resamples)
    ratings = [_rating(i, strengths[i], matrix, blocks) for i in range(len(matrix.models))]
    ratings.sort(key=lambda rating: -(rating.strength.value or 0.0))
    return Ratings(
        tuple(ratings),
        _gaps(matrix, gaps, blocks),
        matrix,
        length,
        len(used),
        *sizes,
        sources,
        seed,
    )


# The fit


def _design(
    matches: Sequence[Match], models: tuple[str, ...], blocks: Blocks, by_length: bool
) -> _Design:
    import numpy as np

    place = {model: i for i, model in enumerate(models)}
    query = {group: q for q, group in enumerate(dict.fromkeys(m.group for m in matches))}
    cells: dict[tuple[int, int, float], int] = {}
    rows = []
    for m in matches:
        i, j, score, longer = place[m.a], place[m.b], m.score or 0.0, _longer(m, by_length)
        if i > j:
            i, j, score, longer = j, i, 1 - score, -longer
        rows.append((query[m.group], cells.setdefault((i, j, longer), len(cells)), score))
    effects = np.zeros((len(cells), len(models) + 1))
    for (i, j, longer), c in cells.items():
        effects[c, [i, j, -1]] = 1.0, -1.0, longer
    if not effects[:, -1].any():
        effects = effects[:, :-1]
    games, points = np.zeros((2, len(query), len(cells)))
    for q, c, score in rows:
        games[q, c] += 1
        points[q, c] += score
    return _Design(models, effects, games, points, np.array(blocks.main))


def _longer(match: Match, by_length: bool) -> float:
    """The log ratio of the lengths; an empty reply counts as one sign."""
    if not by_length or match.lengths is None:
        return 0.0
    a, b = (max(length, 1) for length in match.lengths)
    return math.log(a / b)


def _fitted(
    design: _Design, seed: int, n: int
) -> tuple[list[Interval], list[tuple[Interval, float | None]], Interval | None]:
    """Strengths in the order of the models, gaps in that of their pairs, the length's effect."""
    import numpy as np

    k = len(design.models)
    queries = len(design.games)
    start = solve(design.effects, design.games.sum(axis=0)[None], design.points.sum(axis=0)[None])[
        0
    ]

    def statistic(rows: Array) -> Array:
        cells, width = design.effects.shape
        size = max(1, CELLS // max(cells, width * width))
        parts = [_values(design, rows[at : at + size], start) for at in range(0, len(rows), size)]
        return np.concatenate(parts)

    found = intervals_with_p(statistic, range(queries), seed, n)
    count = k * (k - 1) // 2
    length = found[k + count][0] if len(found) > k + count else None
    return [interval for interval, _ in found[:k]], found[k : k + count], length


def _values(design: _Design, rows: Array, start: Array) -> Array:
    """Strengths, gaps and length's effect for each row of query weights.

    NaN for a model without a match in a resample: the prior alone says nothing of it.
    """
    import numpy as np

    k = len(design.models)
    games = rows @ design.games
    found = solve(design.effects, games, rows @ design.points, start)
    met = games @ (design.effects[:, :k] != 0) > 0
    strengths = np.where(met, found[:, :k], np.nan)
    with np.errstate(invalid="ignore"):
        middle = np.nansum(strengths * design.main, axis=1) / (met * design.main).sum(axis=1)
    strengths = strengths - middle[:, None]
    gaps = [strengths[:, i] - strengths[:, j] for i, j in combinations(range(k), 2)]
    return np.column_stack([strengths, *gaps, found[:, k:]])


def solve(effects: Array, games: Array, points: Array, start: Array | None = None) -> Array:
    """Penalised maximum likelihood by Newton's method, for many data sets at once.

    ``effects`` is cells × coefficients; ``games`` and ``points`` are data sets × cells; the result
    is data sets × coefficients. Steps are cut to 2 log odds, which keeps separated data in hand.
    """
    import numpy as np

    k = effects.shape[1]
    squares = (effects[:, :, None] * effects[:, None, :]).reshape(len(effects), k * k)
    at = np.zeros((len(games), k)) if start is None else np.tile(start, (len(games), 1))
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-np.clip(at @ effects.T, -500, 500)))
        slope = (points - games * p) @ effects - RIDGE * at
        bend = ((games * p * (1 - p)) @ squares).reshape(-1, k, k) + RIDGE * np.eye(k)
        step = np.clip(np.linalg.solve(bend, slope[:, :, None])[:, :, 0], -2.0, 2.0)
        at = at + step
        if np.abs(step).max() < 1e-8:
            break
    return at


# What the data can say at all


def _rating(i: int, strength: Interval, matrix: WinMatrix, blocks: Blocks) -> Rating:
    wins, ties = sum(matrix.wins[i]), sum(matrix.ties[i])
    losses = sum(row[i] for row in matrix.wins)
    strength = replace(strength, n=wins + ties + losses)
    others = [j for j, there in enumerate(blocks.main) if there and j != i]
    if not any(blocks.linked(i, j) for j in others):
        above = any(blocks.reach[i][j] for j in others)
        below = any(blocks.reach[j][i] for j in others)
        known = {(True, False): UNBEATEN, (False, True): WINLESS, (True, True): ONLY_PLACE}
        why = known.get((above, below), APART)
        strength = replace(strength, low=None, high=None, reason=why)
    return Rating(matrix.models[i], strength, wins, ties, losses)


def _gaps(
    matrix: WinMatrix, found: Sequence[tuple[Interval, float | None]], blocks: Blocks
) -> tuple[Gap, ...]:
    pairs = list(combinations(range(len(matrix.models)), 2))
    told = [
        (gap, p)
        if blocks.linked(i, j)
        else (replace(gap, low=None, high=None, reason=NOT_LINKED), None)
        for (i, j), (gap, p) in zip(pairs, found, strict=True)
    ]
    corrected = holm([p for _, p in told])
    return tuple(
        Gap(matrix.models[i], matrix.models[j], gap, p, adjusted)
        for (i, j), (gap, p), adjusted in zip(pairs, told, corrected, strict=True)
    )
