"""What a judge made of the contrast pairs: right, wrong or unscored, by kind, with intervals.

A pair is right where the better reply scores higher; equal scores are wrong, except for kinds in
which the worse side must only not win. A pair that the gate has decided (it stopped the worse
side) says nothing of the judge, so the judge's *own* pairs are counted apart. Kinds that a rubric
does not claim to measure are shown and not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

from charllm.core.judging.contrasts import KINDS, Contrast
from charllm.core.judging.records import Item, Judge, Record, mean_scores
from charllm.data.config import Config
from charllm.data.errors import Text
from charllm.data.files import sha256

OPTIONAL = frozenset({"style", "fact", "echo", "off_topic", "dump", "filler"})
"""What a rubric may leave to others. The other kinds, a user's own among them, none may reward."""
LEFT_OUT = {"character": frozenset({"fact"})}
"""What the rubrics that are no files leave out: the embedded judge knows nothing of facts."""
TEXT = 400
"""Characters of a failure's texts and reasons that are kept."""

Verdict = Literal["right", "wrong", "unscored"]


@runtime_checkable
class Declares(Protocol):
    """A judge whose rubric says which of the ``OPTIONAL`` kinds it measures."""

    @property
    def measures(self) -> Iterable[str]: ...


class Count(Config):
    """``right`` of ``n``; the 95 % Wilson interval of the share, all three None without pairs."""

    n: int = 0
    right: int = 0
    share: float | None = None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, verdicts: Iterable[Verdict]) -> Count:
        verdicts = list(verdicts)
        right, n = verdicts.count("right"), len(verdicts)
        if not n:
            return cls()
        low, high = wilson(right, n)
        return cls(n=n, right=right, share=right / n, low=low, high=high)


class KindResult(Config):
    """One kind of pairs. ``gated`` pairs were decided by the gate, ``own`` are all the others."""

    kind: str
    label: dict[str, str]
    measured: bool
    all: Count
    own: Count
    gated: int
    unscored: int


class Failure(Config):
    """A pair that did not come out right, with all that is needed to see why."""

    kind: str
    verdict: Verdict
    query: str
    better: str
    worse: str
    better_score: float | None
    worse_score: float | None
    better_reason: str
    worse_reason: str
    gate: tuple[str, ...] = ()
    """Why the gate stopped the *better* side, () where it did not."""


class Quality(Config):
    """The report. ``all`` and ``own`` count measured kinds only; ``state`` is the data's hash."""

    profile: str
    judge: str
    rubric: str
    version: str
    date: str
    seed: int
    per_kind: int
    state: str
    all: Count
    own: Count
    unscored: int
    gated: int
    kinds: tuple[KindResult, ...]
    failures: tuple[Failure, ...]
    cost: float | None = 0.0

    @property
    def not_measured(self) -> tuple[str, ...]:
        return tuple(kind.kind for kind in self.kinds if not kind.measured)

    @property
    def weak(self) -> tuple[str, ...]:
        """Measured kinds of which not even half came out right."""
        counted = ((kind.kind, kind.all.share) for kind in self.kinds if kind.measured)
        return tuple(kind for kind, share in counted if share is not None and share < 0.5)


def wilson(right: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927), within [0, 1]; ``n`` is 1 or more."""
    share = right / n
    middle = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def measures(judge: Judge, kind: str) -> bool:
    """Whether pairs of ``kind`` count for this judge."""
    if kind not in OPTIONAL:
        return True
    if isinstance(judge, Declares):
        return kind in set(judge.measures)
    return kind not in LEFT_OUT.get(judge.rubric, frozenset())


def items_of(contrasts: Sequence[Contrast]) -> list[Item]:
    """Both sides of every pair, each text once: a judge is not paid twice for the same."""
    items = {}
    for contrast in contrasts:
        for reply in (contrast.better, contrast.worse):
            item = Item(_id(contrast, reply), contrast.query, reply, gold=contrast.gold)
            items[item.id] = item
    return list(items.values())


class Assessed:
    """The verdict on one pair, made of the records of its two sides."""

    def __init__(self, contrast: Contrast, found: Mapping[str, Sequence[Record]]) -> None:
        self.contrast = contrast
        self.better = found.get(_id(contrast, contrast.better), ())
        self.worse = found.get(_id(contrast, contrast.worse), ())
        self.better_score, self.worse_score = _score(self.better), _score(self.worse)

    @property
    def verdict(self) -> Verdict:
        if self.better_score is None or self.worse_score is None:
            return "unscored"
        equal = self.better_score == self.worse_score and self.contrast.equal_is_right
        return "right" if self.better_score > self.worse_score or equal else "wrong"

    @property
    def by_gate(self) -> bool:
        """Whether the gate has decided it, for better or worse."""
        return _gated(self.better) or (_gated(self.worse) and self.verdict == "right")

    def failure(self) -> Failure:
        return Failure(
            kind=self.contrast.kind,
            verdict=self.verdict,
            query=self.contrast.query[:TEXT],
            better=self.contrast.better[:TEXT],
            worse=self.contrast.worse[:TEXT],
            better_score=self.better_score,
            worse_score=self.worse_score,
            better_reason=_reason(self.better),
            worse_reason=_reason(self.worse),
            gate=next((record.gate for record in self.better), ()),
        )


def assess(contrasts: Sequence[Contrast], records: Iterable[Record]) -> list[Assessed]:
    """Every pair with its verdict; a side without a record is unscored."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record.item, []).append(record)
    return [Assessed(contrast, found) for contrast in contrasts]


def kind_results(judge: Judge, assessed: Sequence[Assessed]) -> tuple[KindResult, ...]:
    """One result a kind, ours in their order, then the user's own."""
    names = dict.fromkeys([*KINDS, *(pair.contrast.kind for pair in assessed)])
    found = {name: [p for p in assessed if p.contrast.kind == name] for name in names}
    return tuple(
        KindResult(
            kind=name,
            label=kind_label(name).as_json(),
            measured=measures(judge, name),
            all=Count.of(pair.verdict for pair in pairs),
            own=Count.of(pair.verdict for pair in pairs if not pair.by_gate),
            gated=sum(pair.by_gate for pair in pairs),
            unscored=sum(pair.verdict == "unscored" for pair in pairs),
        )
        for name, pairs in found.items()
        if pairs
    )


def kind_label(kind: str) -> Text:
    """The kind in words; a user's own kind is its own name."""
    return KINDS[kind].label if kind in KINDS else Text(kind, kind)


def _id(contrast: Contrast, reply: str) -> str:
    return sha256("\0".join([contrast.query, reply, *contrast.gold]).encode())[:16]


def _score(records: Sequence[Record]) -> float | None:
    return next(iter(mean_scores(records).values()), None)


def _gated(records: Sequence[Record]) -> bool:
    return any(record.gate for record in records)


def _reason(records: Sequence[Record]) -> str:
    for record in records:
        why = record.unscored.en if record.unscored else ""
        told = record.rationale or "; ".join(record.flaws) or ", ".join(record.gate) or why
        if told:
            return told[:TEXT]
    return ""
