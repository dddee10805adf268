"""How well a judge agrees with people: kappa, rank, bias, confusion, length, and what is missing.

A judge's score may be a mean or an expected value; for kappa and the table it is rounded to the
nearest level, halves up. It does not know where scores lie.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from charllm.core.statistics import (
    Interval,
    at_the_edge,
    bootstrap,
    confusion,
    labels_needed,
    mean_interval,
    share_interval,
)
from charllm.core.weighted import kappa_of, partial_spearman_of, spearman_of
from charllm.data.errors import Text

if TYPE_CHECKING:
    from charllm.core.weighted import Array

GOOD, FAIR = 0.6, 0.4
"""Kappa from which agreement is called good, and fair; of single judges .16 to .64 were measured
against one person on Japanese role play (Japanese-RP-Bench, 50 dialogues)."""


@dataclass(frozen=True)
class Pair:
    """One reply scored by a person and by a judge (None: unscored). ``cluster`` is the question.

    ``length`` in characters; ``weight``: how many replies it stands for (see ``weighted``);
    ``apart``: by how many levels the judges differ about it.
    """

    subject: str
    cluster: str
    hand: int
    judge: float | None
    length: int
    weight: float = 1.0
    apart: float = 0.0


@dataclass(frozen=True)
class Agreement:
    """Every measure with its 95 % interval over questions; ``table`` has a row for each level of
    the hand score and a column for each of the judge's."""

    n: int
    unscored: int
    kappa: Interval
    spearman: Interval
    bias: Interval
    mae: Interval
    exact: Interval
    within_one: Interval
    hand_and_length: Interval
    judge_and_length: Interval
    length_preference: Interval
    levels: tuple[int, ...]
    table: tuple[tuple[int, ...], ...]
    needed: int
    verdict: Text

    def as_json(self) -> dict[str, Any]:
        intervals = {k: v.as_json() for k, v in self.__dict__.items() if isinstance(v, Interval)}
        return {
            "n": self.n,
            "unscored": self.unscored,
            **intervals,
            "levels": list(self.levels),
            "table": [list(row) for row in self.table],
            "needed": self.needed,
            "verdict": self.verdict.as_json(),
        }


def agreement(pairs: Sequence[Pair], scale: tuple[int, int], seed: int = 0) -> Agreement:
    """The report on ``pairs``; unscored ones are counted and left out of the measures.

    ``length_preference`` is the judge's rank correlation with length once the hand score is known:
    above 0 it likes long replies more than people do.
    """
    scored = [(p, p.judge) for p in pairs if p.judge is not None]
    hand = [p.hand for p, _ in scored]
    judge = [score for _, score in scored]
    lengths = [p.length for p, _ in scored]
    clusters = [p.cluster for p, _ in scored]
    levels = tuple(range(scale[0], scale[1] + 1))
    rounded = [to_level(score, scale) for score in judge]
    off = [j - h for h, j in zip(hand, judge, strict=True)]
    apart = [abs(j - h) for h, j in zip(hand, rounded, strict=True)]
    kappa = bootstrap(kappa_of(hand, rounded, levels), clusters, seed)
    needed = labels_needed(kappa)
    return Agreement(
        n=len(scored),
        unscored=len(pairs) - len(scored),
        kappa=kappa,
        spearman=bootstrap(spearman_of(hand, judge), clusters, seed),
        bias=mean_interval(off, clusters, seed),
        mae=mean_interval([abs(x) for x in off], clusters, seed),
        exact=share_interval([x == 0 for x in apart], clusters, seed),
        within_one=share_interval([x <= 1 for x in apart], clusters, seed),
        hand_and_length=bootstrap(spearman_of(hand, lengths), clusters, seed),
        judge_and_length=bootstrap(spearman_of(judge, lengths), clusters, seed),
        length_preference=bootstrap(partial_spearman_of(judge, lengths, hand), clusters, seed),
        levels=levels,
        table=confusion(hand, rounded, levels),
        needed=needed,
        verdict=_verdict(kappa, needed),
    )


def to_level(score: float, scale: tuple[int, int]) -> int:
    return min(max(int(score + 0.5), scale[0]), scale[1])


def _verdict(kappa: Interval, needed: int) -> Text:
    more = Text(
        f" About {needed} more hand scores are needed." if needed else "",
        f"あと{needed}件ほど手採点が必要です。" if needed else "",
    )
    if kappa.low is None or kappa.high is None or kappa.value is None:
        why = kappa.reason or Text("too few hand scores", "手採点が足りません")
        return Text(
            f"Nothing can be said yet: {why.en}.{more.en}",
            f"まだ判断できません（{why.ja}）。{more.ja}",
        )
    if kappa.low >= GOOD:
        said = Text("It agrees well with the hand scores.", "手採点とよく一致しています。")
    elif kappa.low >= FAIR:
        said = Text("It agrees fairly with the hand scores.", "手採点とおおむね一致しています。")
    elif kappa.high < FAIR:
        said = Text(
            "It agrees poorly with the hand scores: do not filter by it alone.",
            "手採点との一致が低く、このジャッジだけで選別するのは勧められません。",
        )
    else:
        said = Text(
            f"It may agree poorly or well (kappa {kappa.low:.2f} to {kappa.high:.2f}).",
            f"一致が高いか低いかまだ分かりません（κ {kappa.low:.2f}～{kappa.high:.2f}）。",
        )
    return Text(said.en + more.en, said.ja + more.ja)


@dataclass(frozen=True)
class Point:
    """What a threshold does, by hand scores: the share of good among kept, of kept among good."""

    threshold: float
    precision: Interval
    recall: Interval
    kept: int


def precision_curve(
    pairs: Sequence[Pair],
    thresholds: Sequence[float],
    hand_threshold: float = 5.0,
    seed: int = 0,
) -> list[Point]:
    """Expected precision and recall of keeping what the judge gives ``threshold`` or more.

    Good is a hand score of ``hand_threshold`` or more; an unscored reply is never kept.
    Pairs count by their ``weight``, since the desk shows more of some levels than there are
    (Horvitz and Thompson 1952).
    """
    import numpy as np

    weight = np.array([p.weight for p in pairs])
    good = np.array([p.hand >= hand_threshold for p in pairs], dtype=float)
    clusters = [p.cluster for p in pairs]
    points = []
    for threshold in thresholds:
        passed = [p.judge is not None and p.judge >= threshold for p in pairs]
        kept = np.array(passed, dtype=float)
        both = weight * good * kept

        def share(of: Array, among: Array) -> Any:
            def statistic(rows: Array) -> Array:
                with np.errstate(invalid="ignore", divide="ignore"):
                    found: Array = (rows @ of) / (rows @ among)
                return found

            return statistic

        effective = len({p.cluster for p, k in zip(pairs, passed, strict=True) if k})
        precision = bootstrap(share(both, weight * kept), clusters, seed)
        recall = bootstrap(share(both, weight * good), clusters, seed)
        points.append(
            Point(
                threshold,
                at_the_edge(precision, effective),
                at_the_edge(recall, len(set(clusters))),
                int(kept.sum()),
            )
        )
    return points


def weighted(
    pairs: Sequence[Pair], judged: Sequence[float | None], apart: Sequence[float] = ()
) -> list[Pair]:
    """The pairs with the number of judged replies that each stands for.

    ``judged`` are the judge's scores of everything it has judged, ``apart`` by how much the judges
    differ about each (none: not at all). The desk prefers some levels, and replies that judges
    differ about; so a stratum is a level with a degree of difference, and its labelled pairs share
    its size. A stratum without labels is shared among the level's.
    """
    distances = apart or [0.0] * len(judged)
    sizes = Counter(map(_stratum, judged, distances))
    labelled = Counter(_stratum(p.judge, p.apart) for p in pairs)
    by_level = Counter(_level(p.judge) for p in pairs)
    unseen: Counter[int | None] = Counter()
    for stratum, size in sizes.items():
        unseen[stratum[0]] += 0 if labelled[stratum] else size

    def weight(pair: Pair) -> float:
        stratum = _stratum(pair.judge, pair.apart)
        level = stratum[0]
        return max(1.0, sizes[stratum] / labelled[stratum] + unseen[level] / by_level[level])

    return [replace(pair, weight=weight(pair)) for pair in pairs]


def _level(score: float | None) -> int | None:
    return None if score is None else int(score + 0.5)


def _stratum(score: float | None, apart: float) -> tuple[int | None, int]:
    """The level and the whole levels by which judges differ, 3 for all that is more."""
    return _level(score), min(int(apart), 3)
