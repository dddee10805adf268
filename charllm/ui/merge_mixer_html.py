"""Pieces of HTML of the mixer, all escaped: its plan, the two replies, what was saved."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import gradio as gr

from charllm.core.generation import Reason
from charllm.data.errors import Text
from charllm.services.mixer import Board
from charllm.services.mixer_asked import Asked, Side
from charllm.ui.merge_html import ENGINES
from charllm.ui.train_html import words
from charllm.ui.words import say

REASONS: dict[Reason, Text] = {
    "end": Text("ended by itself", "自然に終了"),
    "stop_string": Text("stopped at the next turn", "次の発言の手前で停止"),
    "repetition": Text("looped, cut off", "繰り返しのため打ち切り"),
    "length": Text("cut at the limit", "上限で打ち切り"),
    "cancelled": Text("stopped", "停止"),
}
TITLES = {
    "mix": (Text("Your mixture", "この混合"), "k-recipe"),
    "uniform": (Text("Plain average", "単純平均"), "k-base"),
}
GOOD, FAIR = 5, 3


def board_html(board: Board, request: gr.Request) -> str:
    """How the parents are mixed, and what that takes before anything is loaded."""
    if board.live:
        text = Text(
            "Adapters on one base: nothing is copied, and the chat's own model answers as soon as "
            "a slider is let go.",
            "同じベースのアダプターなので、重みをコピーせず、スライダーを離すとすぐに"
            "チャットと同じモデルがこの混合で答えます。",
        )
        return f'<div class="banner good" data-engine="adapter">{words(text, request)}</div>'
    plan = board.plan
    engine = ENGINES[plan.engine]
    place = "GPU" if plan.device == "cuda" else "CPU"
    head = Text(
        f"Engine: {engine.en}, {place}. The parents are loaded at the first question.",
        f"エンジン：{engine.ja}（{place}）。最初の質問で親を読み込みます。",
    )
    reasons = "".join(f"<li>{words(one, request)}</li>" for one in plan.reasons)
    return (
        f'<div class="banner{"" if plan.fits else " bad"}" data-engine="{escape(plan.engine)}">'
        f"<b>{words(head, request)}</b><ul>{reasons}</ul></div>"
    )


def replies_html(asked: Asked, request: gr.Request) -> str:
    """The mixture's reply beside the plain average's, each with its score."""
    parts = []
    if asked.stage:
        parts.append(f'<span class="stage">{words(asked.stage, request)}</span>')
    if asked.warning:
        parts.append(f'<div class="banner">{words(asked.warning, request)}</div>')
    cards = "".join(_card_html(name, side, request) for name, side in asked.sides.items())
    asking = f'<p class="note">{escape(asked.question)}</p>'
    return (
        f'<div class="stacked">{asking}{"".join(parts)}<div class="mixreplies">{cards}</div></div>'
    )


def _card_html(name: str, side: Side, request: gr.Request) -> str:
    title, kind = TITLES[name]
    text = escape(side.text)
    if side.state == "writing":
        text += '<span class="caret"></span>'
    if side.error:
        text = words(side.error, request)
    bad = " error" if side.error else ""
    return (
        f'<article class="card {kind}" data-side="{name}" data-state="{side.state}">'
        f'<div class="cardhead"><span class="name">{words(title, request)}</span></div>'
        f'<div class="text{bad}">{text}</div>'
        f'<div class="chips">{"".join(_chips(side, request))}</div></article>'
    )


def _chips(side: Side, request: gr.Request) -> list[str]:
    if side.state == "waiting":
        return [_chip(Text("waiting", "待機中"), "live", request)]
    if side.state == "writing":
        return [_chip(Text("writing", "生成中"), "live", request)]
    if side.state == "failed":
        return [_chip(Text("failed", "失敗"), "bad", request)]
    fine = side.reason in ("end", "stop_string")
    reason = REASONS.get(side.reason)  # type: ignore[call-overload]
    found = [] if side.reason == "cancelled" else [_score(side.score, request)]
    found.append(_chip(reason, "" if fine else "bad", request) if reason else "")
    for part in (side.score or {}).get("parts", []):
        name = say(Text(**part["name"]), request)
        told = escape(say(Text(**part["text"]), request))
        shown = escape(f"{name} {part['shown']}")
        found.append(f'<span class="chip quiet" title="{told}">{shown}</span>')
    took = f"{side.tokens} tok · {side.seconds:.1f} s"
    return [*found, f'<span class="chip quiet">{took}</span>' if side.tokens else ""]


def _chip(text: Text, kind: str, request: gr.Request) -> str:
    return f'<span class="chip {kind}">{words(text, request)}</span>'


def _score(score: Mapping[str, Any] | None, request: gr.Request) -> str:
    """A score from 1 to 7 in its colour, or why there is none."""
    if score is None:
        return f'<span class="score pending">{words(Text("scoring…", "採点中…"), request)}</span>'
    value = score["value"]
    if value is None:
        why = words(Text(**score["unscored"]), request) if score.get("unscored") else ""
        none = words(Text("not scored", "未採点"), request)
        return f'<span class="score none" title="{why}">{none}</span>'
    kind = "good" if value >= GOOD else "fair" if value >= FAIR else "poor"
    of = words(Text("of 7", "／7"), request)
    return f'<span class="score {kind}"><b>{value:.1f}</b><span class="of">{of}</span></span>'


def saved_html(where: str, checkpoint: str, request: gr.Request) -> str:
    """Where a mixture was written to; with ``checkpoint`` the way to the chat."""
    told = Text(f"Saved: {where}", f"保存しました：{where}")
    button = ""
    if checkpoint:
        chat = words(Text("Compare with its parents in the chat", "チャットで親と比べる"), request)
        button = (
            '<div class="measures"><button type="button" class="small primary" '
            f'data-do="compare" data-name="{escape(checkpoint)}">{chat}</button></div>'
        )
    return f'<div class="banner good"><span>{words(told, request)}</span>{button}</div>'
