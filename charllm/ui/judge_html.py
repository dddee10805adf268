"""What the panels of the Judge tab share: a panel's refresh, and pieces of HTML (all escaped)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import gradio as gr

from charllm.core.judging.quality_marks import Mark
from charllm.core.judging.quality_report import Count
from charllm.core.judging.records import Record
from charllm.core.judging.score import NAMES
from charllm.data.config import Paths
from charllm.data.errors import Text
from charllm.services.runs import Run, list_runs
from charllm.ui.page import banner
from charllm.ui.words import say

SHARED: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
LAST: dict[str, Any] = {"trigger_mode": "always_last", **SHARED}
"""For choices: one made while the answer to another is on its way gets an answer of its own."""
UNKNOWN = "–"
GATE: dict[str, Text] = {
    "as_ai": Text("speaks as an AI", "AIとして話している"),
    "cut": Text("cut off at the limit", "途中で切れている"),
    "dump": Text("recites the profile", "設定の読み上げ"),
    "echo": Text("echoes the question", "質問のおうむ返し"),
    "empty": Text("empty", "空の返答"),
    "language": Text("another language", "別の言語"),
    "mojibake": Text("garbled characters", "文字化け"),
    "repetition": Text("repeats itself", "繰り返し"),
    "role_tag": Text("a role's name", "役割名の混入"),
    "second_turn": Text("a second turn", "余分な発言"),
    "template": Text("template markup", "テンプレート記号の混入"),
    "too_long": Text("far too long", "長すぎる"),
}
"""The gate's codes in a few words."""


@dataclass(frozen=True)
class Panel:
    """How the tab shows a panel's state anew, whenever the panel is opened."""

    refresh: Callable[..., Any]
    inputs: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    settle: Callable[[Any], Any] = lambda event: event
    """What the page itself does afterwards."""

    def shown_at(self, moment: Callable[..., Any]) -> Any:
        """Refresh at this moment (a component's event, or ``then``); the last event of it."""
        return self.settle(moment(self.refresh, self.inputs, self.outputs, **SHARED))


def runs_of(paths: Paths, kind: str) -> list[Run]:
    """All runs of one kind, the newest first."""
    return [run for run in list_runs(paths) if run.kind == kind]


def run_among(paths: Paths, kind: str, run_id: str | None) -> Run | None:
    """The run of this kind with this id, None where it is gone or none is chosen."""
    return next((run for run in runs_of(paths, kind) if run.id == run_id), None)


def one_of(value: str | None, choices: Sequence[tuple[str, str]]) -> str | None:
    """``value`` if it is offered, else the first that is."""
    known = [one for _, one in choices]
    return value if value in known else next(iter(known), None)


def figures(cells: Iterable[tuple[str, str, str]]) -> str:
    """Small boxes with a figure each: ``(figure, words, kind)``; kind is "", good, fair or bad."""
    boxes = "".join(
        f'<div class="figure {kind}"><b>{escape(figure)}</b><span>{escape(words)}</span></div>'
        for figure, words, kind in cells
    )
    return f'<div class="figures">{boxes}</div>'


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose cells are HTML already; heads are escaped here."""
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f'<table class="plain figs"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def money_text(dollars: float | None) -> str:
    """``$1.24``, more places where it is less than a cent; an en dash where no price is known."""
    if dollars is None:
        return UNKNOWN
    return f"${dollars:.2f}" if dollars >= 0.01 or dollars == 0 else f"${dollars:.5f}"


def percent(share: float | None) -> str:
    return UNKNOWN if share is None else f"{share:.0%}"


def state_of(mark: Mark | None) -> tuple[Text, str]:
    """Where a judge stands with its check in a word, and the colour of that."""
    if mark is None or not mark.date:
        return Text("never checked", "未検査"), "fair"
    if mark.passed:
        return Text("passed", "合格"), "good"
    return Text("not passed", "不合格"), "bad"


def mark_html(mark: Mark | None, name: Text, request: gr.Request) -> str:
    """The judge by name with where it stands, and what that means."""
    word, kind = state_of(mark)
    if mark is None or not mark.date:
        told = Text(
            "Nobody has tested whether it tells good replies from bad ones on this character. "
            "Check it on the Quality page before it decides anything.",
            "このキャラクターで良い返答と悪い返答を見分けられるか、まだ確かめていません。"
            "選別に使う前に「品質」で検査してください。",
        )
    else:
        told = mark.text
    head = Text(f"{_capital(name.en)}: {word.en}.", f"{name.ja}：{word.ja}。")
    return banner(f"{say(head, request)} {say(told, request)}", "" if kind == "fair" else kind)


def _capital(name: str) -> str:
    """A name that begins with an article as a sentence begins; a model's name as it is."""
    return f"The {name[4:]}" if name.startswith("the ") else name


def share_bar(count: Count, least: float) -> str:
    """A share with its interval as a bar from 0 to 1; the mark that must be reached is a line."""
    if count.share is None or count.low is None or count.high is None:
        return ""
    low, high = 100 * count.low, 100 * count.high
    poor = " low" if count.share < least else ""
    return (
        f'<div class="share{poor}"><i style="left:{low:.1f}%;width:{high - low:.1f}%"></i>'
        f'<s style="left:{100 * least:.1f}%"></s>'
        f'<em style="left:{100 * count.share:.1f}%"></em></div>'
    )


def empty(words: Text, request: gr.Request) -> str:
    return f'<p class="note">{escape(say(words, request))}</p>'


def histogram(scores: Iterable[float], scale: tuple[int, int]) -> dict[str, Any]:
    """What histogram.js needs of scores: how many of each, on which scale, how wide a bar is.

    Scores are cut, not rounded, to three places: none may be shown over a threshold it is under.
    """
    counts = Counter(math.floor(score * 1000 + 1e-6) / 1000 for score in scores)
    whole = all(score == int(score) for score in counts)
    return {
        "scale": list(scale),
        "width": 1 if whole else 0.25,
        "step": 1 if whole else 0.05,
        "scores": sorted(counts.items()),
    }


def gate_text(codes: Iterable[str], request: gr.Request) -> str:
    """Why the gate stopped a reply; a code that has no words here is shown as it is."""
    return ", ".join(say(GATE.get(code, Text(code, code)), request) for code in codes)


def parts_text(record: Record, request: gr.Request) -> str:
    """What the score is made of, in words: ``style 98% · length 100%``."""
    return " · ".join(
        f"{say(NAMES[key], request) if key in NAMES else key} {percent(value)}"
        for key, value in record.parts.items()
        if key != "gate"  # what the gate stops has no other parts and is told elsewhere
    )
