"""Judges against each other on the replies that both have scored; never averaged.

Two judges that agree may both be wrong: only hand scores tell who is right.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations

from charllm.core.judging.agreement import to_level
from charllm.core.statistics import Interval, bootstrap, mean_interval
from charllm.core.weighted import kappa_of, spearman_of
from charllm.services.desk import SCALE, Who, judge_means
from charllm.services.store import Store

RESAMPLES = 400
"""Fewer than for hand scores: thousands of replies are compared, and nothing is decided by it."""


@dataclass(frozen=True)
class JudgePair:
    """Two judges on ``n`` replies; ``bias`` is above 0 where the second is the more generous."""

    one: Who
    other: Who
    n: int
    kappa: Interval
    spearman: Interval
    bias: Interval


def judge_pairs(store: Store, profile: str, source: str | None = None) -> list[JudgePair]:
    """Every two judges that have a reply in common, those with most in common first."""
    scores: dict[Who, dict[str, float]] = defaultdict(dict)
    question: dict[str, str] = {}
    for subject, rows in store.judged(profile, source):
        question[subject.subject] = subject.question
        for who, score in judge_means(rows).items():
            if score is not None:
                scores[who][subject.subject] = score
    found = [
        _pair(one, other, scores, shared, question)
        for one, other in combinations(sorted(scores), 2)
        if (shared := sorted(scores[one].keys() & scores[other].keys()))
    ]
    return sorted(found, key=lambda pair: -pair.n)


def _pair(
    one: Who,
    other: Who,
    scores: dict[Who, dict[str, float]],
    shared: list[str],
    question: dict[str, str],
) -> JudgePair:
    a = [scores[one][subject] for subject in shared]
    b = [scores[other][subject] for subject in shared]
    clusters = [question[subject] for subject in shared]
    levels = range(SCALE[0], SCALE[1] + 1)
    rounded = [to_level(score, SCALE) for score in a], [to_level(score, SCALE) for score in b]
    return JudgePair(
        one,
        other,
        len(shared),
        bootstrap(kappa_of(*rounded, levels), clusters, n=RESAMPLES),
        bootstrap(spearman_of(a, b), clusters, n=RESAMPLES),
        mean_interval([y - x for x, y in zip(a, b, strict=True)], clusters),
    )
