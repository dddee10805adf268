"""How often the 95 % intervals hold the truth, in simulated studies whose truth is known.

Run: ``python benchmarks/coverage.py [--studies 1000] [--seed 0] [--json]``. Each study is one
evaluation: levels 1–7 of three variants on queries that differ, repeats nested in queries, some
unscored; or verdicts of a judge in both orders on five models' replies, which hang together within
a query. Counted are the means, the paired differences, the Bradley–Terry ratings and their gaps,
without and with a length effect, and that effect. ``false alarm`` is the share of studies of equal
variants in which Holm's correction lets any difference through (5 % at most). It does not know
whether real judges behave as these do.

How the truth is exact: a level is a rounded and cut normal value, whose mean is a sum over levels;
a verdict compares strength plus length effect plus Gumbel noise of two replies, and the difference
of two such noises is logistic, also where a query's verdicts share them.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    import numpy as np

    from charllm.core.evaluation.comparison import Scored
    from charllm.core.evaluation.matches import Match
    from charllm.core.statistics import Interval

    Random = np.random.Generator

MEANS = {"plain": 3.9, "tuned": 4.4, "merged": 5.2}
SPREADS = {"query": 0.5, "variant and query": 0.4, "repeat": 0.7}
"""Deviations; their proportions are those measured on Japanese-RP-Bench."""
QUERIES, REPEATS, UNSCORED = 60, 3, 0.05
STRENGTHS = (-0.9, -0.3, 0.0, 0.4, 0.8)
SHARED = 0.6
"""The chance that a verdict shares its noise with the query's other verdicts."""
LENGTH_EFFECT = 0.5
SITUATIONS = 50
LENGTH_SPREAD = 0.5
"""Of the log of a reply's length."""

Held = tuple[str, bool]
"""What an interval is of, and whether it holds the truth."""


def scored_study(rng: Random, means: dict[str, float]) -> list[Scored]:
    """The judged replies of one evaluation."""
    from charllm.core.evaluation.comparison import Ruler, Scored

    ruler, rows = Ruler("simulated", "levels"), []
    for q in range(QUERIES):
        of_query = rng.normal(0, SPREADS["query"])
        for variant, mean in means.items():
            middle = mean + of_query + rng.normal(0, SPREADS["variant and query"])
            for repeat in range(REPEATS):
                value = rng.normal(middle, SPREADS["repeat"])
                level = min(max(round(value), 1), 7)
                score = None if rng.random() < UNSCORED else float(level)
                rows.append(Scored(variant, f"q{q}", score, ruler, repeat=repeat))
    return rows


def true_level(mean: float) -> float:
    """The expected level of a variant: 1 and the chances of reaching each higher level."""
    spread = math.sqrt(sum(s * s for s in SPREADS.values()))
    return 1 + sum(
        0.5 * math.erfc((level - 0.5 - mean) / (spread * math.sqrt(2))) for level in range(2, 8)
    )


def match_study(rng: Random, length_effect: float) -> list[Match]:
    """All pairs of models on each situation, both orders."""
    from charllm.core.evaluation.matches import Match
    from charllm.core.evaluation.pairwise import agreed

    k, matches = len(STRENGTHS), []
    for q in range(SITUATIONS):
        lengths = [max(1, round(40 * math.exp(x))) for x in rng.normal(0, LENGTH_SPREAD, k)]
        worth = [s + length_effect * math.log(n) for s, n in zip(STRENGTHS, lengths, strict=True)]
        noise = rng.gumbel(size=k)
        replies = ["あ" * n for n in lengths]
        for i, j in combinations(range(k), 2):
            a, b = f"m{i}", f"m{j}"
            lost = [_loses(rng, worth[i] - worth[j], noise[i] - noise[j]) for _ in "ab"]
            looks = tuple(b if loses else a for loses in lost)
            found = Match(f"s{q}", a, b, agreed(looks), looks=looks)
            matches.append(replace(found, reply_a=replies[i], reply_b=replies[j]))
    return matches


def _loses(rng: Random, better_by: float, shared_noise: float) -> bool:
    """Whether the first of two replies loses; the noise is logistic, shared or its own."""
    noise = shared_noise if rng.random() < SHARED else rng.gumbel() - rng.gumbel()
    return bool(better_by + noise < 0)


def levels(rng: Random, seed: int) -> Iterator[Held]:
    from charllm.core.evaluation.comparison import compare

    table = compare(scored_study(rng, MEANS), seed)
    for summary in table.summaries:
        yield "mean", _holds(summary.mean, true_level(MEANS[summary.variant]))
    for d in table.differences:
        yield "difference", _holds(d.difference, true_level(MEANS[d.a]) - true_level(MEANS[d.b]))


def equal_variants(rng: Random, seed: int) -> Iterator[Held]:
    from charllm.core.evaluation.comparison import compare

    table = compare(scored_study(rng, dict.fromkeys(MEANS, 4.4)), seed)
    yield "false alarm", any((d.p_holm or 0.0) < 0.05 for d in table.differences)


def ratings(rng: Random, seed: int) -> Iterator[Held]:
    yield from _rated(rng, seed, 0.0)


def ratings_with_length(rng: Random, seed: int) -> Iterator[Held]:
    yield from _rated(rng, seed, LENGTH_EFFECT)


def _rated(rng: Random, seed: int, length_effect: float) -> Iterator[Held]:
    from charllm.core.evaluation.bradley_terry import rate

    found = rate(match_study(rng, length_effect), control_length=length_effect != 0.0, seed=seed)
    with_length = ", length known" if length_effect else ""
    truth = {f"m{i}": s - sum(STRENGTHS) / len(STRENGTHS) for i, s in enumerate(STRENGTHS)}
    for rating in found.ratings:
        yield f"rating{with_length}", _holds(rating.strength, truth[rating.model])
    for gap in found.gaps:
        yield f"gap{with_length}", _holds(gap.gap, truth[gap.a] - truth[gap.b])
    if found.length is not None:
        yield "length effect", _holds(found.length, length_effect)


STUDIES: tuple[Callable[[Random, int], Iterator[Held]], ...] = (
    levels,
    equal_variants,
    ratings,
    ratings_with_length,
)


def coverage(
    kind: Callable[[Random, int], Iterator[Held]], studies: int, seed: int
) -> dict[str, tuple[float, int]]:
    """``{what: (share of intervals that hold the truth, intervals)}`` over so many studies."""
    import numpy as np

    held: dict[str, list[bool]] = defaultdict(list)
    for number in range(studies):
        for what, holds in kind(np.random.default_rng((seed, number)), number):
            held[what].append(holds)
    return {what: (sum(found) / len(found), len(found)) for what, found in held.items()}


def _holds(interval: Interval, truth: float) -> bool:
    return (
        interval.low is not None
        and interval.high is not None
        and interval.low <= truth <= interval.high
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    report: dict[str, Any] = {"studies": given.studies, "seed": given.seed}
    start = time.perf_counter()
    for kind in STUDIES:
        for what, (share, n) in coverage(kind, given.studies, given.seed).items():
            report[what] = {"share": round(share, 4), "n": n}
            if not given.json:
                print(f"{what:24} {100 * share:5.1f} %  of {n}", flush=True)
    report["seconds"] = round(time.perf_counter() - start, 1)
    print(json.dumps(report) if given.json else f"{report['seconds']} s")


if __name__ == "__main__":
    main()
