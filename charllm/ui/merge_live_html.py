"""What the page of evolutions shows while they go, all escaped: runs, curves, candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from charllm.data.config import Paths
from charllm.data.errors import Text
from charllm.services.merge_forms import merge_runs
from charllm.services.merge_view import Seen, Sheet, config_of
from charllm.services.runs import Run
from charllm.ui.judge_html import UNKNOWN, empty, figures, money_text
from charllm.ui.live_html import runs_table, state_parts
from charllm.ui.merge_html import (
    ENGINES,
    gain_text,
    heat_html,
    short,
)
from charllm.ui.runs_tab import seconds_text
from charllm.ui.train_html import words
from charllm.ui.train_live_html import run_label
from charllm.ui.words import say

SHOWN = 20
"""Runs in the list."""
NO_RUNS = Text(
    "Nothing has been evolved here yet. Choose parents under Set up and start.",
    "まだ進化マージを実行していません。「設定」で親を選んで開始してください。",
)
MEAN: dict[str, Any] = {"color": 0, "dash": "solid"}
BAND: dict[str, Any] = {"color": 0, "dash": "dot"}
BEST_ONE: dict[str, Any] = {"color": 1, "dash": "dash"}
PARENT: dict[str, Any] = {"color": 2, "dash": "longdash"}
"""Lines of one colour belong together: the mean with its interval."""
PLOTS: tuple[dict[str, Any], ...] = (
    {
        "name": "gain",
        "title": Text("Gain over the plain average", "単純平均に対する差").as_json(),
        "wide": True,
        "zero": True,
        "lines": [
            {
                "key": "low",
                "label": Text("mean, 95 % from", "平均の95%下限").as_json(),
                **BAND,
            },
            {
                "key": "high",
                "label": Text("mean, 95 % to", "平均の95%上限").as_json(),
                "band": True,
                **BAND,
            },
            {"key": "mean", "label": Text("mean of a generation", "世代の平均").as_json(), **MEAN},
            {
                "key": "best",
                "label": Text("its best candidate", "世代の最良").as_json(),
                **BEST_ONE,
            },
            {"key": "parent", "label": Text("best parent", "最良の親").as_json(), **PARENT},
        ],
    },
    {
        "title": Text("Spread of the candidates (sigma)", "候補のばらつき（シグマ）").as_json(),
        "zero": True,
        "lines": [{"key": "spread", "label": Text("spread", "ばらつき").as_json()}],
    },
)
"""The curves, as curves.js draws them."""


# --- all runs -----------------------------------------------------------------------------------


def run_choices(paths: Paths) -> list[tuple[str, str]]:
    return [(run_label(run), run.id) for run in merge_runs(paths)[:SHOWN]]


def table_html(paths: Paths, chosen: str | None, request: gr.Request) -> str:
    """Every evolution with its parents, its progress and its state."""
    runs = merge_runs(paths)[:SHOWN]
    if not runs:
        return empty(NO_RUNS, request)
    what = (Text("Parents", "親"), Text("Method", "方法"))
    return runs_table(runs, chosen, what, _cells, request)


def _cells(run: Run) -> tuple[str, str]:
    config = config_of(run)
    return " × ".join(short(one) for one in config.parents), config.method


# --- one run ------------------------------------------------------------------------------------


def detail_html(
    paths: Paths, run: Run, seen: Seen, sheet: Sheet | None, request: gr.Request
) -> str:
    """What it does now, how far it is, why it waits or failed, and its newest figures."""
    status = run.status()
    parts = state_parts(paths, run, status, request)
    if status.resumable and status.state != "done":
        on = Text(
            "Nothing is lost: Resume goes on where it stopped, with the same candidates.",
            "途中の結果は残っています。「再開」で同じ候補の続きから進みます。",
        )
        parts.append(f'<span class="note">{words(on, request)}</span>')
    bad = "bad" if status.state in ("failed", "crashed") else ""
    boxes = figures(_figures(run, seen, sheet, request)) if sheet else ""
    return f'<div class="stacked"><div class="banner {bad}">{"".join(parts)}</div>{boxes}</div>'


def _figures(
    run: Run, seen: Seen, sheet: Sheet | None, request: gr.Request
) -> list[tuple[str, str, str]]:
    spent = sheet.spent if sheet else None
    last = seen.generations[-1] if seen.generations else None
    engine = ENGINES.get(str(seen.plan.get("engine")), Text(UNKNOWN, UNKNOWN))
    spread = [f"{min(last['spread']):.3f}–{max(last['spread']):.3f}"] if last else [UNKNOWN]
    cells = [
        (say(engine, request), Text("engine", "エンジン")),
        (str(last["number"]) if last else "0", Text("generations done", "終わった世代")),
        (f"{spent.queries:,}" if spent else "0", Text("replies and lines", "返答・せりふ")),
        (f"{spent.calls:,}" if spent else "0", Text("judge calls", "採点の呼び出し")),
        (money_text(spent.money) if spent else UNKNOWN, Text("spent", "費用")),
        (
            gain_text((last.get("mean_gain") or {}).get("value")) if last else UNKNOWN,
            Text("mean gain of the newest generation", "最新世代の平均差"),
        ),
        (spread[0], Text("spread of a gene", "遺伝子のばらつき")),
        (seconds_text(run.status().seconds()), Text("took", "経過時間")),
    ]
    return [(value, say(text, request), "") for value, text in cells]


def curves_value(run: Run, seen: Seen, have: int) -> dict[str, Any]:
    """What curves.js takes: the generations that the page does not have yet."""
    points = seen.points()
    start = have if have <= len(points) else 0
    return {
        "owner": run.id,
        "start": start,
        "rows": points[start:],
        "points": {},
        "x": {"key": "generation", "label": Text("generation", "世代").as_json(), "whole": True},
        "plots": list(PLOTS),
        "file": run.id,
    }


def heats_html(seen: Seen, sheet: Sheet | None, request: gr.Request) -> str:
    """The weights of the search's mean, of the newest best and of the choice, side by side."""
    if not seen.generations:
        return ""
    last = seen.generations[-1]
    parents = [short(name) for name in seen.parents]
    number = last["number"]
    mean = Text(f"Mean of the search after generation {number}", f"第 {number} 世代後の探索の平均")
    maps = [heat_html(mean, last.get("mean"), parents, request)]
    maps.append(_heat_of(sheet, last.get("best", ""), BEST, parents, request))
    maps.append(_heat_of(sheet, seen.chosen, CHOSEN, parents, request))
    return f'<div class="heats">{"".join(maps)}</div>'


BEST = Text("Best candidate of the newest generation", "最新世代の最良の候補")
CHOSEN = Text("The choice", "選ばれた混合")


def _heat_of(
    sheet: Sheet | None, name: str, title: Text, parents: Sequence[str], request: gr.Request
) -> str:
    one = sheet.candidate(name) if sheet and name else None
    if one is None:
        return ""
    return heat_html(title, {"weights": one.coefficients.weights}, parents, request)
