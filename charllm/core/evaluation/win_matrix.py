"""Who beat whom, and which models are linked by it so that ratings of them exist at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from charllm.core.evaluation.matches import TIE, Match


@dataclass(frozen=True)
class WinMatrix:
    """``wins[i][j]``: how often ``models[i]`` beat ``models[j]``; ``ties`` is symmetric."""

    models: tuple[str, ...]
    wins: tuple[tuple[int, ...], ...]
    ties: tuple[tuple[int, ...], ...]

    def share(self, i: int, j: int) -> float | None:
        """Of the points in their matches, those of ``models[i]``; None where they never met."""
        n = self.wins[i][j] + self.wins[j][i] + self.ties[i][j]
        return (self.wins[i][j] + self.ties[i][j] / 2) / n if n else None


def win_matrix(matches: Sequence[Match]) -> WinMatrix:
    """Who beat whom how often, unscored matches left out; models in the order of their names."""
    models = tuple(sorted({name for m in matches if m.winner for name in (m.a, m.b)}))
    place = {model: i for i, model in enumerate(models)}
    wins = [[0] * len(models) for _ in models]
    ties = [[0] * len(models) for _ in models]
    for m in matches:
        if m.winner == TIE:
            ties[place[m.a]][place[m.b]] += 1
            ties[place[m.b]][place[m.a]] += 1
        elif m.winner:
            wins[place[m.winner]][place[m.b if m.winner == m.a else m.a]] += 1
    return WinMatrix(models, tuple(map(tuple, wins)), tuple(map(tuple, ties)))


class Blocks(NamedTuple):
    """``reach[i][j]``: a chain of wins or ties leads from i to j. Strengths exist without a prior
    exactly where it leads both ways (Ford 1957); ``main`` is the largest such group of models."""

    reach: list[list[bool]]
    main: list[bool]

    def linked(self, i: int, j: int) -> bool:
        return self.reach[i][j] and self.reach[j][i]


def blocks_of(matrix: WinMatrix) -> Blocks:
    k = len(matrix.models)
    reach = [
        [i == j or matrix.wins[i][j] + matrix.ties[i][j] > 0 for j in range(k)] for i in range(k)
    ]
    for via in range(k):
        for i in range(k):
            if reach[i][via]:
                reach[i] = [there or reach[via][j] for j, there in enumerate(reach[i])]
    groups = [[reach[i][j] and reach[j][i] for j in range(k)] for i in range(k)]
    games = [sum(matrix.wins[i]) + sum(matrix.ties[i]) for i in range(k)]
    main = max(
        groups, key=lambda g: (sum(g), sum(n for n, there in zip(games, g, strict=True) if there))
    )
    if sum(main) == 1:  # nobody is linked to anybody: all that is left is a common middle
        main = [True] * k
    return Blocks(reach, main)
