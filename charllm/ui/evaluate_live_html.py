"""What the page of evaluations shows of its runs, all escaped: the list, one run's state."""

from __future__ import annotations

from html import escape

import gradio as gr

from charllm.core.evaluation.evaluate_config import EvaluateConfig
from charllm.data.config import Paths
from charllm.data.errors import Text
from charllm.services.evaluate_again import rejudges
from charllm.services.evaluate_forms import config_of, evaluate_runs
from charllm.services.judge_choice import title
from charllm.services.runs import Run
from charllm.ui.judge_html import empty
from charllm.ui.live_html import runs_table, state_parts, step_text
from charllm.ui.page import progress_bar
from charllm.ui.runs_tab import state_chip
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
    what = (Text("Variants", "構成"), Text("Judges", "ジャッジ"))
    return runs_table(runs, chosen, what, lambda run: _what(config_of(run), request), request)


def _what(config: EvaluateConfig, request: gr.Request) -> tuple[str, str]:
    names = [one if isinstance(one, str) else one.name for one in config.variants]
    return ", ".join(names), ", ".join(say(title(one), request) for one in config.judges)


def detail_html(paths: Paths, run: Run, request: gr.Request) -> str:
    """What it does now, how far it is, why it waits or failed, and who judges it once more."""
    status = run.status()
    parts = state_parts(paths, run, status, request)
    if status.resumable:
        parts.append(f'<span class="note">{words(PART, request)}</span>')
    bad = "bad" if status.state in ("failed", "crashed") else ""
    return f'<div class="banner {bad}" data-state="{status.state}">{"".join(parts)}</div>'


def again_html(paths: Paths, run: Run, request: gr.Request) -> str:
    """The further judges of an evaluation with their progress; "" where there are none."""
    lines = []
    for one in rejudges(paths, run):
        status = one.status()
        why = f" {words(status.error.text, request)}" if status.error else ""
        bar = progress_bar(status.progress.share) if status.live else ""
        step = escape(step_text(status, request))
        lines.append(
            f'<div class="banner" data-rejudge="{status.state}"><span>'
            f"{state_chip(status, request)} {step}{why}</span>{bar}</div>"
        )
    return f'<div class="stacked">{"".join(lines)}</div>' if lines else ""
