"""Whether replies end by themselves, at the length asked for, without loops and leaked markup.

A report on stored replies, by variant and generation preset. It reads texts and stop reasons only,
needs no model, and says what the figures point to. Whether a reply is any good is not here.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from charllm.core.judging.gate import Gate
from charllm.core.judging.loops import SCALES
from charllm.core.statistics import Interval, mean_interval, share_interval
from charllm.data.errors import Language, Text
from charllm.data.profile import Profile
from charllm.data.text import ngrams

BY_ITSELF = frozenset({"end", "stop_string"})
"""Stop reasons of a reply that ended because the model said so."""
CUT_OFF = frozenset({"length", "repetition"})
IN_RANGE = (0.5, 2.0)
"""Times the length asked for, between which a reply keeps to it."""
LEAKS = frozenset({"template", "second_turn", "role_tag"})
"""What the gate calls markup, or a turn that somebody else should have."""
OFTEN = 0.2
"""The share of replies from which a habit is put into words."""


class Stored(NamedTuple):
    """One reply as it was kept. ``stop_reason`` is generation's, "" where not known."""

    variant: str
    preset: str
    query: str
    reply: str
    stop_reason: str = ""


@dataclass(frozen=True)
class Quartiles:
    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class Stopping:
    """One variant under one preset; shares in [0, 1] with intervals over queries.

    ``ended`` leaves out replies that were cancelled or whose stop reason is not known (``unknown``
    counts them). ``length`` is in characters, ``asked`` the profile's; ``repeated`` the mean share
    of character n-grams that stood in the reply before (seq-rep-n, Welleck et al. 2020, arXiv
    1908.04319), ``looping`` the share of replies that the gate calls a loop. ``leak_when_cut``:
    among replies that did not end, those with markup or somebody else's turn.
    """

    variant: str
    preset: str
    n: int
    unknown: int
    reasons: dict[str, int]
    ended: Interval
    asked: int
    length: Quartiles
    in_range: Interval
    repeated: Interval
    looping: Interval
    leaking: Interval
    leak_when_cut: float | None
    said: tuple[Text, ...]


@dataclass(frozen=True)
class _Read:
    """What is seen in one reply."""

    row: Stored
    length: int
    repeated: float
    looping: bool
    leaking: bool


def stopping_report(rows: Sequence[Stored], profile: Profile, seed: int = 0) -> list[Stopping]:
    """A line for each variant and preset, in the order of the rows."""
    gate = Gate(profile)
    groups: dict[tuple[str, str], list[_Read]] = defaultdict(list)
    for row in rows:
        groups[row.variant, row.preset].append(_read(row, gate, profile.language))
    return [_of_group(*name, reads, profile, seed) for name, reads in groups.items()]


def repeated_share(text: str, language: Language) -> float:
    """1 - different n-grams / n-grams, in [0, 1); n as for the gate's loops in this language."""
    grams = ngrams("".join(text.split()) if language == "ja" else text, SCALES[language].gram)
    return 1 - len(grams) / grams.total() if grams else 0.0


def _read(row: Stored, gate: Gate, language: Language) -> _Read:
    codes = {finding.code for finding in gate.check(row.reply, stop_reason=row.stop_reason)}
    return _Read(
        row=row,
        length=len(row.reply.strip()),
        repeated=repeated_share(row.reply, language),
        looping="repetition" in codes,
        leaking=bool(codes & LEAKS),
    )


def _of_group(
    variant: str, preset: str, reads: Sequence[_Read], profile: Profile, seed: int
) -> Stopping:
    queries = [read.row.query for read in reads]
    known = [read for read in reads if read.row.stop_reason in BY_ITSELF | CUT_OFF]
    cut = [read for read in known if read.row.stop_reason in CUT_OFF]
    asked = profile.reply_length
    low, high = (times * asked for times in IN_RANGE)
    ended = [read.row.stop_reason in BY_ITSELF for read in known]
    found = Stopping(
        variant=variant,
        preset=preset,
        n=len(reads),
        unknown=len(reads) - len(known),
        reasons=dict(Counter(read.row.stop_reason for read in reads).most_common()),
        ended=share_interval(ended, [read.row.query for read in known], seed),
        asked=asked,
        length=_quartiles([read.length for read in reads]),
        in_range=share_interval([low <= read.length <= high for read in reads], queries, seed),
        repeated=mean_interval([read.repeated for read in reads], queries, seed),
        looping=share_interval([read.looping for read in reads], queries, seed),
        leaking=share_interval([read.leaking for read in reads], queries, seed),
        leak_when_cut=sum(read.leaking for read in cut) / len(cut) if cut else None,
        said=(),
    )
    return Stopping(**{**found.__dict__, "said": tuple(_in_words(found, len(cut)))})


def _quartiles(lengths: Sequence[int]) -> Quartiles:
    import numpy as np

    return Quartiles(*(float(q) for q in np.quantile(lengths, (0.25, 0.5, 0.75))))


def _in_words(report: Stopping, cut: int) -> list[Text]:
    """What the figures point to; nothing where replies end and keep to their length."""
    said = []
    n = sum(count for reason, count in report.reasons.items() if reason in BY_ITSELF | CUT_OFF)
    if report.ended.value is not None and report.ended.value < 1 - OFTEN:
        said.append(
            Text(
                f"{cut} of {n} replies did not end by themselves.",
                f"{n}件中{cut}件の返答が自分で終わりませんでした。",
            )
        )
        if report.leak_when_cut is not None and report.leak_when_cut >= 0.5:
            said.append(_NO_END_TOKEN)
        elif report.looping.value is not None and report.looping.value >= OFTEN:
            said.append(_LOOPS)
    length = report.length.middle
    if length > IN_RANGE[1] * report.asked or length < IN_RANGE[0] * report.asked:
        said.append(
            Text(
                f"Half of the replies have {length:.0f} characters or more, where "
                f"{report.asked} were asked for.",
                f"返答の長さの中央値は{length:.0f}文字です（目安は{report.asked}文字）。",
            )
        )
    if (
        report.leaking.value is not None
        and report.leaking.value >= OFTEN
        and _NO_END_TOKEN not in said
    ):
        said.append(_MARKUP)
    return said


_NO_END_TOKEN = Text(
    "Most of those that ran on go on with markup or with the next speaker's turn: the model did "
    "not learn the token that ends a reply. Check the labels of its training (the last one must be "
    "the template's end token), and let the preset stop at the template's own words.",
    "終わらなかった返答の多くは、記号や次の話者の発言まで書き続けています。返答を終えるトークンが"
    "学習されていません。学習ラベルの末尾がテンプレートの終了トークンになっているか確認し、"
    "生成設定ではテンプレートの区切り文字列で止めるようにしてください。",
)
_LOOPS = Text(
    "They run in loops: keep the repetition guard on, and try sampling or fewer training epochs.",
    "同じ言葉の繰り返しに陥っています。繰り返し検出を有効にし、サンプリングを使うか、"
    "学習のエポック数を減らしてみてください。",
)
_MARKUP = Text(
    "Many replies hold markup: the prompt's template may not be the one it was trained with.",
    "記号の混ざった返答が多くあります。学習時と異なるテンプレートが使われている可能性があります。",
)
