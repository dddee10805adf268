"""What the pages of training, merging and evaluating show of their runs alike, all escaped."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from html import escape

import gradio as gr

from charllm.data.config import Paths
from charllm.data.errors import Text, UserError
from charllm.services.runs import Run, Status
from charllm.services.train_view import queue_of
from charllm.ui.judge_html import UNKNOWN
from charllm.ui.page import progress_bar
from charllm.ui.runs_tab import seconds_text, state_chip
from charllm.ui.train_html import words
from charllm.ui.words import say

HEADS = (
    Text("State", "状態"),
    Text("Progress", "進み"),
    Text("Left", "残り"),
    Text("Started", "開始"),
)


def runs_table(
    runs: Sequence[Run],
    chosen: str | None,
    what: tuple[Text, Text],
    cells: Callable[[Run], tuple[str, str]],
    request: gr.Request,
) -> str:
    """Runs with their progress and state; ``cells`` says of each what the heads ``what`` ask.

    ``cells`` may raise ``UserError``: a damaged folder is still a row, and what is wrong is told
    where it is chosen.
    """
    heads = (Text("Name", "名前"), *what, *HEADS)
    head = "".join(f"<th>{words(text, request)}</th>" for text in heads)
    body = "".join(_row(run, run.id == chosen, cells, request) for run in runs)
    return f'<table class="plain figs"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _row(
    run: Run, chosen: bool, cells: Callable[[Run], tuple[str, str]], request: gr.Request
) -> str:
    status = run.status()
    try:
        one, other = cells(run)
    except UserError:
        one = other = UNKNOWN
    started = time.strftime("%m-%d %H:%M", time.localtime(status.started or status.created))
    bar = progress_bar(1.0 if status.state == "done" else status.progress.share or 0.0)
    left = seconds_text(status.seconds_left) if status.live else ""
    mark = ' class="chosen"' if chosen else ""
    return (
        f"<tr{mark}><td><b>{escape(run.name)}</b></td><td>{escape(one)}</td>"
        f"<td>{escape(other)}</td><td>{state_chip(status, request)}</td>"
        f"<td style='min-width:140px'>{bar}</td><td class='num'>{left}</td>"
        f"<td class='num'>{started}</td></tr>"
    )


def state_parts(paths: Paths, run: Run, status: Status, request: gr.Request) -> list[str]:
    """What it does now, how far it is, why it waits, is silent or failed: pieces of a banner."""
    parts = [f"<span>{state_chip(status, request)} {escape(step_text(status, request))}</span>"]
    if status.live:
        parts.append(progress_bar(status.progress.share))
    if status.state == "queued":
        parts.append(f"<span>{words(_waiting(paths, run), request)}</span>")
    if status.stalled:
        quiet = Text(
            "It has not been heard of for a while: the machine may be overloaded.",
            "しばらく応答がありません。マシンの負荷が高い可能性があります。",
        )
        parts.append(f'<span class="note">{words(quiet, request)}</span>')
    if status.error:
        parts.append(f"<span>{words(status.error.text, request)}</span>")
    return parts


def step_text(status: Status, request: gr.Request) -> str:
    """What a living run does, and how long it will take; "" for others."""
    doing = say(status.progress.message.text, request) if status.live else ""
    left = seconds_text(status.seconds_left) if status.live else ""
    ahead = say(Text(f"about {left} left", f"残り約 {left}"), request) if left else ""
    return " · ".join(filter(None, [doing, ahead]))


def _waiting(paths: Paths, run: Run) -> Text:
    ahead, holder = queue_of(paths, run)
    if holder is None and not ahead:
        return Text("It starts in a moment.", "まもなく始まります。")
    held = holder.name if holder else ""
    en = f"Waiting for the accelerator: {held} uses it" if held else "Waiting for the accelerator"
    ja = f"{held} がアクセラレーターを使っているため待っています" if held else "順番を待っています"
    if ahead:
        return Text(f"{en}; {ahead} ahead in the queue.", f"{ja}。先に {ahead} 件あります。")
    return Text(f"{en}; it is next.", f"{ja}。次の番です。")
