"""The probability of each level, read from the tokens of an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

LEAST_MASS = 0.5
"""Level probabilities that together hold less than this say nothing."""


def level_probabilities(
    steps: Sequence[tuple[str, Mapping[str, float]]], scale: tuple[int, int]
) -> dict[str, float]:
    """The probability of each level at the token after ``"score":``, {} where too little is known.

    ``steps``: the answer's tokens with their likeliest alternatives (token → probability).
    """
    text = ""
    for token, tops in steps:
        if text.rstrip().endswith('"score":') and token.strip().isdigit():
            found = _levels(tops, scale)
            return found if sum(found.values()) >= LEAST_MASS else {}
        text += token
    return {}


def expected(levels: Mapping[str, float]) -> float:
    """The mean over the levels: finer than the likeliest one (G-Eval, arXiv 2303.16634)."""
    return sum(int(level) * p for level, p in levels.items()) / sum(levels.values())


def _levels(tops: Mapping[str, float], scale: tuple[int, int]) -> dict[str, float]:
    found: dict[str, float] = {}
    for token, p in tops.items():
        level = token.strip()
        if level.isascii() and level.isdigit() and scale[0] <= int(level) <= scale[1]:
            found[str(int(level))] = found.get(str(int(level)), 0.0) + p
    return found
