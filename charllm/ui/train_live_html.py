"""What the page of training runs shows while they go, all escaped: the runs, and one of them."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from charllm.data.config import Paths
from charllm.data.errors import Text
from charllm.services.runs import Run, Status
from charllm.services.train_forms import config_of, train_runs
from charllm.services.train_view import Seen
from charllm.ui.judge_html import UNKNOWN, empty, figures
from charllm.ui.live_html import runs_table, state_parts
from charllm.ui.runs_tab import seconds_text
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
    what = (Text("Dataset", "データセット"), Text("Base", "ベース"))
    return runs_table(runs, chosen, what, _cells, request)


def _cells(run: Run) -> tuple[str, str]:
    config = config_of(run)
    return config.dataset, config.base


# --- one run ------------------------------------------------------------------------------------


def detail_html(paths: Paths, run: Run, seen: Seen, request: gr.Request) -> str:
    """What it does now, how far it is, why it waits or failed, and its newest figures."""
    status = run.status()
    parts = state_parts(paths, run, status, request)
    if status.state == "crashed" or status.stopped == "save":
        parts.append(f'<span class="note">{words(GOES_ON, request)}</span>')
    elif status.state == "cancelled" and seen.steps:
        parts.append(f'<span class="note">{words(DROPPED, request)}</span>')
    bad = "bad" if status.state in ("failed", "crashed") else ""
    boxes = figures(_figures(seen, status, request)) if seen.steps else ""
    finished = status.state == "done" and not status.stopped  # the card of its result says it
    told = "" if finished else f'<div class="banner {bad}">{"".join(parts)}</div>'
    return f'<div class="stacked" data-state="{status.state}">{told}{boxes}</div>'


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
