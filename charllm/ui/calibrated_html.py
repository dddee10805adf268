"""What the agreement page shows of the embedded judge's calibration."""

from __future__ import annotations

from html import escape

import gradio as gr

from charllm.core.judging.calibrated import Calibrated, Comparison, Range
from charllm.core.statistics import Interval
from charllm.data.errors import Text
from charllm.ui.agreement_html import MEASURES, figure_text
from charllm.ui.judge_html import empty, table
from charllm.ui.page import banner
from charllm.ui.words import say


def calibrated_html(made: Calibrated | None, request: gr.Request) -> str:
    """What calibrating gained, with intervals, or that nothing was."""
    if made is None:
        words = Text(
            "Not calibrated. From 30 hand scores on, the embedded judge's parts can be weighed as "
            "you would; it is then compared on questions it has not seen.",
            "まだ較正していません。手採点が 30 件以上あれば、内蔵ジャッジの各項目の重みを手採点に"
            "合わせられます。効果は、学習に使わない質問で確かめます。",
        )
        return empty(words, request)
    kind = "good" if made.applies else ""
    heads = (
        Text("Measure", "指標"),
        Text("Before", "較正前"),
        Text("After", "較正後"),
        Text("Change", "差"),
    )
    measures: tuple[tuple[Text, Comparison], ...] = (
        (MEASURES["kappa"], made.kappa),
        (MEASURES["spearman"], made.spearman),
        (MEASURES["mae"], made.mae),
    )
    body = [
        (
            f"<td>{escape(say(name, request))}</td>",
            *(_range_html(part) for part in (found.raw, found.calibrated, found.change)),
        )
        for name, found in measures
    ]
    told = Text(f"Rubric {made.rubric}, {made.date[:10]}", f"基準 {made.rubric}・{made.date[:10]}")
    return (
        f'<div class="stacked">{banner(say(made.text, request), kind)}'
        f"{table([say(head, request) for head in heads], body)}"
        f'<p class="note">{escape(say(told, request))}</p></div>'
    )


def _range_html(found: Range) -> str:
    text = figure_text(Interval(found.value, found.low, found.high, 0))
    return f"<td class='num'>{escape(text)}</td>"
