"""What the page of evaluations shows of its runs, all escaped: the list, one run's state."""

from __future__ import annotations

import time
from html import escape

import gradio as gr

from charllm.core.evaluation.evaluate_config import EvaluateConfig
from charllm.data.config import Paths
from charllm.data.errors import Text, UserError
from charllm.services.evaluate_again import rejudges
from charllm.services.evaluate_forms import config_of, evaluate_runs
from charllm.services.judge_choice import title
from charllm.services.runs import Run, Status
from charllm.services.train_view import queue_of
from charllm.ui.judge_html import UNKNOWN, empty
from charllm.ui.page import progress_bar
from charllm.ui.runs_tab import seconds_text, state_chip
from charllm.ui.train_html import words
from charllm.ui.train_live_html import run_label
from charllm.ui.words import say

SHOWN = 20
"""Runs in the list."""
NO_RUNS = Text(
    "Nothing has been evaluated here yet. Choose variants under Set up and start.",
    "まだ評価を実行していません。「設定」で構成を選んで開始してください。",
)
PART = Text(
    "Stopped half-way: the figures below are of the part that is there. Resume goes on where it "
    "stopped; no kept reply is generated again.",
    "途中で止まっています。下の数値は終わった分のものです。「再開」で続きから進み、保存済みの返答は"
    "作り直しません。",
)


def run_choices(paths: Paths) -> list[tuple[str, str]]:
    return [(run_label(run), run.id) for run in evaluate_runs(paths)[:SHOWN]]


def table_html(paths: Paths, chosen: str | None, request: gr.Request) -> str:
    """Every evaluation with its variants, its judges, its progress and its state."""
    runs = evaluate_runs(paths)[:SHOWN]
    if not runs:
        return empty(NO_RUNS, request)
    heads = (
        Text("Name", "名前"),
        Text("Variants", "構成"),
        Text("Judges", "ジャッジ"),
        Text("State", "状態"),
        Text("Progress", "進み"),
        Text("Left", "残り"),
        Text("Started", "開始"),
    )
    head = "".join(f"<th>{words(text, request)}</th>" for text in heads)
    body = "".join(_row(run, run.id == chosen, request) for run in runs)
    return f'<table class="plain figs"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _row(run: Run, chosen: bool, request: gr.Request) -> str:
    status = run.status()
    try:
        variants, judges = _what(config_of(run), request)
    except UserError:  # a damaged folder is still a row; what is wrong is told where it is chosen
        variants, judges = UNKNOWN, UNKNOWN
    started = time.strftime("%m-%d %H:%M", time.localtime(status.started or status.created))
    bar = progress_bar(1.0 if status.state == "done" else status.progress.share or 0.0)
    left = seconds_text(status.seconds_left) if status.live else ""
    mark = ' class="chosen"' if chosen else ""
    return (
        f"<tr{mark}><td><b>{escape(run.name)}</b></td><td>{escape(variants)}</td>"
        f"<td>{escape(judges)}</td><td>{state_chip(status, request)}</td>"
        f"<td style='min-width:120px'>{bar}</td><td class='num'>{left}</td>"
        f"<td class='num'>{started}</td></tr>"
    )


def _what(config: EvaluateConfig, request: gr.Request) -> tuple[str, str]:
    names = [one if isinstance(one, str) else one.name for one in config.variants]
    return ", ".join(names), ", ".join(say(title(one), request) for one in config.judges)


def detail_html(paths: Paths, run: Run, request: gr.Request) -> str:
    """What it does now, how far it is, why it waits or failed, and who judges it once more."""
    status = run.status()
    parts = [f"<span>{state_chip(status, request)} {escape(_step(status, request))}</span>"]
    if status.live:
        parts.append(progress_bar(status.progress.share))
    if status.state == "queued":
        parts.append(f"<span>{words(_waiting(paths, run), request)}</span>")
    if status.error:
        parts.append(f"<span>{words(status.error.text, request)}</span>")
    if status.resumable:
        parts.append(f'<span class="note">{words(PART, request)}</span>')
    bad = "bad" if status.state in ("failed", "crashed") else ""
    return f'<div class="banner {bad}" data-state="{status.state}">{"".join(parts)}</div>'


def _step(status: Status, request: gr.Request) -> str:
    doing = say(status.progress.message.text, request) if status.live else ""
    left = seconds_text(status.seconds_left) if status.live else ""
    ahead = say(Text(f"about {left} left", f"残り約 {left}"), request) if left else ""
    return " · ".join(filter(None, [doing, ahead]))


def _waiting(paths: Paths, run: Run) -> Text:
    ahead, holder = queue_of(paths, run)
    if holder is None and not ahead:
        return Text("It starts in a moment.", "まもなく始まります。")
    held = f": {holder.name}" if holder else ""
    return Text(
        f"Waiting for the accelerator{held}; {ahead} ahead in the queue.",
        f"アクセラレーターの順番を待っています{held}。先に {ahead} 件あります。",
    )


def again_html(paths: Paths, run: Run, request: gr.Request) -> str:
    """The further judges of an evaluation with their progress; "" where there are none."""
    lines = []
    for one in rejudges(paths, run):
        status = one.status()
        why = f" {words(status.error.text, request)}" if status.error else ""
        bar = progress_bar(status.progress.share) if status.live else ""
        step = escape(_step(status, request))
        lines.append(
            f'<div class="banner" data-rejudge="{status.state}"><span>'
            f"{state_chip(status, request)} {step}{why}</span>{bar}</div>"
        )
    return f'<div class="stacked">{"".join(lines)}</div>' if lines else ""
