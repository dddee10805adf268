"""Which judged replies a person should score next: all levels, the threshold, the disagreements.

A random draw would show what is common; what is needed is a bit of everything. The same seed gives
the same queue. It does not know how replies are shown or stored.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Why = Literal["level", "threshold", "disagree"]

NEAR = 0.75
"""Scores no further from the threshold than this are near it."""
APART = 1.0
"""Two judges whose scores differ by this or more disagree."""
TURN: tuple[Why, ...] = ("level", "threshold", "level", "disagree")
"""The kinds of reply take turns; one that has run out is passed over."""


@dataclass(frozen=True)
class Judged:
    """A reply with its scores: ``score`` of the judge that is checked, ``others`` of any others."""

    subject: str
    score: float | None
    others: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Picked:
    subject: str
    why: Why


def spread(score: float | None, others: Mapping[str, float]) -> float:
    """The largest distance between any two judges, in levels; 0 where fewer than two scored."""
    scores = [*others.values(), *([] if score is None else [score])]
    return max(scores) - min(scores) if len(scores) > 1 else 0.0


def queue(
    items: Sequence[Judged],
    done: Collection[str],
    threshold: float,
    seed: int,
    size: int = 200,
) -> list[Picked]:
    """At most ``size`` replies that are not ``done``, kinds mixed, unscored ones among them.

    The order is that of all replies, whatever is done, so that going on later changes nothing.
    """
    pools: dict[Why, Iterator[str]] = {
        "level": iter(_by_level(items, seed)),
        "threshold": iter(_near(items, threshold, seed)),
        "disagree": iter(_disagreed(items)),
    }
    picked: list[Picked] = []
    taken: set[str] = set()
    more = True
    while more and len(picked) < size:
        more = False
        for why in TURN:
            subject = next((subject for subject in pools[why] if subject not in taken), None)
            if subject is None:
                continue
            more = True
            taken.add(subject)
            if subject not in done:
                picked.append(Picked(subject, why))
    return picked[:size]


def _by_level(items: Sequence[Judged], seed: int) -> list[str]:
    """A reply of each level in turn, within a level in random order."""
    strata: dict[int, list[str]] = defaultdict(list)
    for item in items:
        strata[-1 if item.score is None else int(item.score + 0.5)].append(item.subject)
    rng = random.Random(seed)
    columns = []
    for level in sorted(strata):
        rng.shuffle(strata[level])
        columns.append(strata[level])
    longest = max(map(len, columns), default=0)
    return [column[n] for n in range(longest) for column in columns if n < len(column)]


def _near(items: Sequence[Judged], threshold: float, seed: int) -> list[str]:
    rng = random.Random(seed + 1)
    near = [
        (abs(item.score - threshold) // 0.25, rng.random(), item.subject)
        for item in items
        if item.score is not None and abs(item.score - threshold) <= NEAR
    ]
    return [subject for _, _, subject in sorted(near)]


def _disagreed(items: Sequence[Judged]) -> list[str]:
    """The largest distance between any two judges first."""
    apart = []
    for item in items:
        distance = spread(item.score, item.others)
        if distance >= APART:
            apart.append((-distance, item.subject))
    return [subject for _, subject in sorted(apart)]
