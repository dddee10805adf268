"""What hand scores say about a threshold: how good the kept rows are, how many good ones stay."""

from __future__ import annotations

from functools import lru_cache
from html import escape
from typing import NamedTuple

import gradio as gr

from charllm.core.judging.agreement import Pair, agreement, precision_curve
from charllm.core.judging.records import Record
from charllm.core.statistics import Interval
from charllm.data.config import Paths
from charllm.data.errors import Text
from charllm.services.desk import pairs_for
from charllm.services.filtering import Filtering
from charllm.services.judge_choice import scale_of
from charllm.services.store import Store
from charllm.ui.judge_html import UNKNOWN, empty, figures, percent
from charllm.ui.words import say


class HandScores(NamedTuple):
    """Hand scores beside the judge's, and about how many more are needed to trust them."""

    pairs: tuple[Pair, ...]
    needed: int


def expected_html(paths: Paths, found: Filtering, threshold: float, request: gr.Request) -> str:
    """Expected precision and recall at this threshold, with their intervals; or what is missing."""
    by = next((row.records[0] for row in found.rows if row.records), None)
    if by is None:
        return ""
    scale = scale_of(paths, found.config.judge)
    known = hand_scores(paths, found, by, scale)
    if not known.pairs:
        words = Text(
            f"How good the kept rows are cannot be told yet: nobody has scored this run's replies "
            f"by hand. About {known.needed} hand scores are needed (Spot-check page).",
            f"残る行がどれだけ良いかは、まだ分かりません。この実行の返答に手採点がありません"
            f"（{known.needed} 件ほど必要。「手採点」のページで付けられます）。",
        )
        return empty(words, request)
    good = good_from(scale)
    point = precision_curve(known.pairs, [threshold], good)[0]
    cells = [
        _cell(
            point.precision,
            Text(
                f"of the kept rows a person would give {good:g} or more",
                f"残る行のうち、人が {good:g} 以上を付ける割合（推定）",
            ),
            request,
        ),
        _cell(
            point.recall,
            Text("of such good rows are kept", "そうした良い行のうち、残る割合（推定）"),
            request,
        ),
        (
            str(len(known.pairs)),
            say(Text("hand scores behind this", "もとになった手採点"), request),
            "",
        ),
    ]
    more = Text(
        f"About {known.needed} more hand scores are needed before this can be relied on.",
        f"頼れる数字にするには、手採点があと {known.needed} 件ほど必要です。",
    )
    note = f'<p class="note">{escape(say(more, request))}</p>' if known.needed else ""
    return f'<div class="stacked" data-expected>{figures(cells)}{note}</div>'


def good_from(scale: tuple[int, int]) -> float:
    """The hand score from which a row is good: two thirds up the scale, 5 of 1 to 7."""
    low, high = scale
    return float(round(low + (high - low) * 2 / 3))


def hand_scores(paths: Paths, found: Filtering, by: Record, scale: tuple[int, int]) -> HandScores:
    """Of this run's replies and its very judge; kept in memory until the store changes."""
    files = [paths.database.with_name(paths.database.name + end) for end in ("", "-wal")]
    stamp = tuple(file.stat().st_mtime_ns for file in files if file.exists())
    key = (by.judge, by.rubric, by.version)
    return _hand_scores(paths, found.config.profile, found.run.id, key, scale, stamp)


@lru_cache(maxsize=8)
def _hand_scores(
    paths: Paths,
    profile: str,
    source: str,
    key: tuple[str, str, str],
    scale: tuple[int, int],
    stamp: tuple[int, ...],
) -> HandScores:
    judge, rubric, version = key
    store = Store(paths)
    try:
        pairs = pairs_for(store, profile, judge, rubric, source, version)
    finally:
        store.close()
    return HandScores(tuple(pairs), agreement(pairs, scale).needed)


def _cell(share: Interval, words: Text, request: gr.Request) -> tuple[str, str, str]:
    told = say(words, request)
    if share.value is None:
        return UNKNOWN, f"{told} ({say(share.reason, request)})" if share.reason else told, ""
    span = f" ({percent(share.low)}–{percent(share.high)})" if share.low is not None else ""
    return percent(share.value), told + span, ""
