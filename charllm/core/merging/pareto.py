"""Several objectives at once: which candidates no other one beats, and an order by fronts."""

from __future__ import annotations

import math
from collections.abc import Sequence

Point = Sequence[float]


def dominates(a: Point, b: Point) -> bool:
    """Whether ``a`` is nowhere worse than ``b`` and somewhere better; more is better."""
    pairs = list(zip(a, b, strict=True))
    return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)


def fronts(points: Sequence[Point]) -> list[int]:
    """The front of each point, 0 for those that no other dominates, 1 for those only they do, …"""
    front = [-1] * len(points)
    left, number = set(range(len(points))), 0
    while left:
        best = {i for i in left if not any(dominates(points[j], points[i]) for j in left if j != i)}
        for i in best:
            front[i] = number
        left -= best
        number += 1
    return front


def crowding(points: Sequence[Point]) -> list[float]:
    """How lonely each point is among ``points``; infinite at the ends (Deb et al. 2002, III.B)."""
    room = [0.0] * len(points)
    for axis in range(len(points[0]) if points else 0):
        order = sorted(range(len(points)), key=lambda i: points[i][axis])
        width = points[order[-1]][axis] - points[order[0]][axis]
        room[order[0]] = room[order[-1]] = math.inf
        for before, i, after in zip(order, order[1:], order[2:], strict=False):
            if width > 0:
                room[i] += (points[after][axis] - points[before][axis]) / width
    return room


def order(points: Sequence[Point]) -> list[int]:
    """Indices from best to worst: by front, within a front the lonelier first."""
    front = fronts(points)
    room = [0.0] * len(points)
    for number in set(front):
        members = [i for i, f in enumerate(front) if f == number]
        for i, value in zip(members, crowding([points[i] for i in members]), strict=True):
            room[i] = value
    return sorted(range(len(points)), key=lambda i: (front[i], -room[i], i))
