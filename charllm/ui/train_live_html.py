"""What the page of training runs shows while they go, all escaped: the runs, and one of them."""

from __future__ import annotations

import time
from html import escape
from typing import Any

import gradio as gr

from charllm.data.config import Paths
from charllm.data.errors import Text, UserError
from charllm.services.runs import Run, Status
from charllm.services.train_forms import config_of, train_runs
from charllm.services.train_view import Seen, queue_of
from charllm.ui.judge_html import UNKNOWN, empty, figures
from charllm.ui.page import progress_bar
from charllm.ui.runs_tab import seconds_text, state_chip
from charllm.ui.train_html import words
from charllm.ui.words import say

SHOWN = 20
NO_RUNS = Text(
    "Nothing has been trained here yet. Set a run up and start it.",
    "まだ学習していません。「設定」で内容を決めて、開始してください。",
)
GOES_ON = Text(
    "It can go on from its last checkpoint: Resume.",
    "最後のチェックポイントから続けられます（「再開」）。",
)
DROPPED = Text(
    "Nothing of it was kept; Resume begins it anew.",
    "途中の結果は残っていません。「再開」を押すと最初から始めます。",
)
PLOTS: tuple[dict[str, Any], ...] = (
    {
        "title": Text("Loss for a learnt token", "損失（学習トークンあたり）").as_json(),
        "wide": True,
        "lines": [
            {"key": "loss", "label": Text("training", "学習用").as_json()},
            {"key": "loss", "label": Text("held out", "評価用").as_json(), "from": "held_out"},
        ],
    },
    {
        "title": Text("Learning rate", "学習率").as_json(),
        "zero": True,
        "lines": [{"key": "lr", "label": Text("learning rate", "学習率").as_json()}],
    },
    {
        "title": Text("Gradient norm", "勾配ノルム").as_json(),
        "zero": True,
        "lines": [{"key": "grad_norm", "label": Text("gradient norm", "勾配ノルム").as_json()}],
    },
    {
        "title": Text("Tokens a second", "トークン／秒").as_json(),
        "zero": True,
        "lines": [{"key": "tokens_per_second", "label": Text("tokens/s", "トークン/秒").as_json()}],
    },
    {
        "title": Text("Memory, GB", "メモリー（GB）").as_json(),
        "zero": True,
        "lines": [{"key": "memory_gb", "label": Text("memory", "メモリー").as_json()}],
    },
)
"""The curves, as curves.js draws them."""


# --- all runs -----------------------------------------------------------------------------------


def run_label(run: Run) -> str:
    stamp = run.id.split("-", 1)[1][:15]
    return f"{run.name} · {stamp[4:6]}/{stamp[6:8]} {stamp[9:11]}:{stamp[11:13]}"


def run_choices(paths: Paths) -> list[tuple[str, str]]:
    return [(run_label(run), run.id) for run in train_runs(paths)[:SHOWN]]


def table_html(paths: Paths, chosen: str | None, request: gr.Request) -> str:
    """Every training run with what it trains, its progress and its state."""
    runs = train_runs(paths)[:SHOWN]
    if not runs:
        return empty(NO_RUNS, request)
    heads = (
        Text("Name", "名前"),
        Text("Dataset", "データセット"),
        Text("Base", "ベース"),
        Text("State", "状態"),
        Text("Progress", "進み"),
        Text("Left", "残り"),
        Text("Started", "開始"),
    )
    head = "".join(f"<th>{words(text, request)}</th>" for text in heads)
    body = "".join(_run_row(run, run.id == chosen, request) for run in runs)
    return f'<table class="plain figs"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _run_row(run: Run, chosen: bool, request: gr.Request) -> str:
    status = run.status()
    try:
        config = config_of(run)
        what = (config.dataset, config.base)
    except UserError:  # a damaged folder is still a row; what is wrong is told where it is chosen
        what = (UNKNOWN, UNKNOWN)
    started = time.strftime("%m-%d %H:%M", time.localtime(status.started or status.created))
    bar = progress_bar(1.0 if status.state == "done" else status.progress.share or 0.0)
    left = seconds_text(status.seconds_left) if status.live else ""
    mark = ' class="chosen"' if chosen else ""
    return (
        f"<tr{mark}><td><b>{escape(run.name)}</b></td><td>{escape(what[0])}</td>"
        f"<td>{escape(what[1])}</td><td>{state_chip(status, request)}</td>"
        f"<td style='min-width:140px'>{bar}</td><td class='num'>{left}</td>"
        f"<td class='num'>{started}</td></tr>"
    )


# --- one run ------------------------------------------------------------------------------------


def detail_html(paths: Paths, run: Run, seen: Seen, request: gr.Request) -> str:
    """What it does now, how far it is, why it waits or failed, and its newest figures."""
    status = run.status()
    parts = [f"<span>{state_chip(status, request)} {escape(_step(status, request))}</span>"]
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
    if status.state == "crashed" or status.stopped == "save":
        parts.append(f'<span class="note">{words(GOES_ON, request)}</span>')
    elif status.state == "cancelled" and seen.steps:
        parts.append(f'<span class="note">{words(DROPPED, request)}</span>')
    bad = "bad" if status.state in ("failed", "crashed") else ""
    boxes = figures(_figures(seen, status, request)) if seen.steps else ""
    finished = status.state == "done" and not status.stopped  # the card of its result says it
    told = "" if finished else f'<div class="banner {bad}">{"".join(parts)}</div>'
    return f'<div class="stacked" data-state="{status.state}">{told}{boxes}</div>'


def _step(status: Status, request: gr.Request) -> str:
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


def _figures(seen: Seen, status: Status, request: gr.Request) -> list[tuple[str, str, str]]:
    now = seen.steps[-1]
    held = seen.held_out
    first = f"{held[0]['loss']:.3f} → " if len(held) > 1 else ""
    cells = [
        (f"{now['step']:,} / {seen.total:,}", Text("steps", "ステップ")),
        (f"{now['epoch']:.2f}", Text("epochs", "エポック")),
        (f"{now['loss']:.3f}", Text("training loss", "学習用の損失")),
        (
            f"{first}{held[-1]['loss']:.3f}" if held else UNKNOWN,
            Text("held-out loss", "評価用の損失"),
        ),
        (f"{seen.speed:,.0f}" if seen.speed else UNKNOWN, Text("tokens/s", "トークン/秒")),
        (
            f"{now['memory_gb']:.1f} GB" if now["memory_gb"] is not None else UNKNOWN,
            Text("memory at most", "最大メモリー"),
        ),
        (seconds_text(status.seconds()), Text("took", "経過時間")),
    ]
    return [(value, say(text, request), "") for value, text in cells]


def log_html(run: Run) -> str:
    return f'<div class="logview">{escape(run.log_tail(8_000)) or UNKNOWN}</div>'


def curves_value(run: Run, seen: Seen, since: int, have: int) -> dict[str, Any]:
    """What curves.js takes: the points that the page does not have yet."""
    told = seen.curves(since, have)
    return {
        "owner": f"{run.id} {told['since']}",
        "start": told["start"],
        "rows": told["steps"],
        "points": {"held_out": told["held_out"]},
        "x": {"key": "step", "label": Text("step", "ステップ").as_json(), "end": seen.total},
        "plots": list(PLOTS),
        "file": run.id,
    }
