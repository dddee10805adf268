"""Training runs as they go: started, followed, stopped, resumed, and what they have made.

What is shown is read from the run folders once a second; only what has changed is sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import gradio as gr

from charllm.data.errors import Text, UserError
from charllm.data.files import sha256
from charllm.services import jobs
from charllm.services.comparing import compare_columns
from charllm.services.runs import Run
from charllm.services.train_forms import config_of, start_training
from charllm.services.train_view import TrainView
from charllm.ui.beat import pulse
from charllm.ui.followed import panel as followed_panel
from charllm.ui.judge_html import SHARED, Panel, one_of, run_among
from charllm.ui.page import Page, banner
from charllm.ui.train_form import Setup
from charllm.ui.train_gate import Gate
from charllm.ui.train_live_html import (
    curves_value,
    detail_html,
    log_html,
    run_choices,
    table_html,
)
from charllm.ui.train_result_html import replies_html, result_html
from charllm.ui.words import language_of, say, t, warn

# --- data ---------------------------------------------------------------------------------------


class Has:
    """What a page shows already, as it says itself in a hidden field."""

    def __init__(self, text: str) -> None:
        try:
            known = json.loads(text)
        except ValueError:
            known = {}
        self.known: dict[str, Any] = known if isinstance(known, dict) else {}
        self.now: dict[str, Any] = {}

    def lacks(self, name: str, text: str) -> bool:
        """Whether the page shows something else than this; from now on it shows this."""
        self.now[name] = sha256(text.encode())[:16]
        return bool(self.known.get(name) != self.now[name])

    def new(self, name: str, html: str) -> Any:
        """``html`` if the page has another, else nothing to send."""
        return html if self.lacks(name, html) else gr.skip()

    def points(self, run: Run) -> tuple[int, int]:
        """Which telling of this run's curve the page has, and how many points of it."""
        if self.known.get("run") != run.id:
            return -1, 0
        return int(self.known.get("since", -1)), int(self.known.get("points", 0))

    def text(self) -> str:
        return json.dumps(self.now)


def export(page: Page, run: Run, to: str) -> Text:
    """Queue an export of what the run has published; what was done, in words."""
    name = str((run.result() or {}).get("checkpoint", ""))
    data = {"source": name, "to": to, "out": f"{name}-{to}"}
    config = jobs.config_class("export").from_data(data, "export")
    jobs.submit(page.paths, "export", name, config)
    jobs.tick(page.paths)
    return Text(
        f"Exporting {name}: follow it in the Runs tab.",
        f"{name} を書き出しています。「実行」タブで進み具合を確認できます。",
    )


def buttons_of(run: Run | None) -> Mapping[str, bool]:
    """Which of the buttons make sense now."""
    if run is None:
        return {"stop": False, "cancel": False, "resume": False}
    status = run.status()
    return {
        "stop": status.state == "running",
        "cancel": status.live or status.state == "queued",
        "resume": status.resumable,
    }


# --- layout and wiring --------------------------------------------------------------------------


def build(page: Page, gate: Gate, setup: Setup, tabs: gr.Tabs) -> Panel:
    view = TrainView()
    table = gr.HTML("", elem_id="train-table")
    with gr.Row(equal_height=True):
        chosen = gr.Dropdown([], label=t("Follow", "表示する実行"), scale=4, elem_id="train-chosen")
        buttons = {
            "stop": gr.Button(
                t("Stop and save", "保存して停止"), visible=False, elem_id="train-stop"
            ),
            "cancel": gr.Button(t("Cancel", "取り消す"), visible=False, elem_id="train-cancel"),
            "resume": gr.Button(t("Resume", "再開"), visible=False, elem_id="train-resume"),
        }
    result = gr.HTML(
        "",
        js_on_load="window.charllmForm(element, props, trigger, watch)",
        apply_default_css=False,
        elem_id="train-result",
    )
    detail = gr.HTML("", elem_id="train-detail")
    curves = gr.HTML(
        {},
        html_template='<div class="curves"></div>',
        js_on_load="window.charllmCurves(element, props, trigger, watch)",
        apply_default_css=False,
        elem_id="train-curves",
    )
    replies = gr.HTML("", elem_id="train-replies")
    with gr.Accordion(t("Log", "ログ"), open=False):
        log = gr.HTML("", elem_id="train-log")
    has = gr.Textbox("", visible=False)
    current, compared = gr.Textbox("", visible=False), gr.Textbox("", visible=False)
    ticker = pulse()
    followed = [table, *buttons.values(), result, detail, curves, replies, log, has]
    shown = [chosen, current, *followed]

    def follow(run_id: str | None, has_: str, request: gr.Request) -> list[Any]:
        """Everything below the list, for the run that is followed."""
        run, had = run_among(page.paths, "train", run_id), Has(has_)
        visible = buttons_of(run)
        other = had.lacks("buttons", json.dumps(dict(visible)))
        switches = [gr.Button(visible=visible[name]) if other else gr.skip() for name in buttons]
        rows = had.new("table", table_html(page.paths, run.id if run else None, request))
        if run is None:
            empty = [had.new(name, "") for name in ("result", "detail", "replies", "log")]
            return [rows, *switches, *empty[:2], {}, *empty[2:], had.text()]
        try:
            seen = view.of(run)
        except UserError as error:  # events that were changed by hand
            told = had.new("detail", banner(error.in_(language_of(request)), "bad"))
            return [rows, *switches, "", told, {}, "", had.new("log", log_html(run)), had.text()]
        since, points = had.points(run)
        had.now |= {"run": run.id, "since": seen.since, "points": len(seen.steps)}
        lines = curves_value(run, seen, since, points)
        longer = had.lacks("curves", json.dumps([lines["owner"], len(seen.steps), lines["points"]]))
        return [
            rows,
            *switches,
            had.new("result", result_html(run, seen, request)),
            had.new("detail", detail_html(page.paths, run, seen, request)),
            lines if longer else gr.skip(),
            had.new("replies", replies_html(seen.replies, request)),
            had.new("log", log_html(run)),
            had.text(),
        ]

    def look(run_id: str | None, has_: str, request: gr.Request) -> list[Any]:
        """All there is, the list of runs included."""
        runs = run_choices(page.paths)
        name = one_of(run_id, runs)
        return [gr.Dropdown(runs, value=name), name or "", *follow(name, has_, request)]

    def on_start(has_: str, request: gr.Request, start: str, *values: Any) -> list[Any]:
        """Look, and start if nothing is wrong; the page then follows the new run."""
        read = setup.form.read(start, values)
        if read.config is None:
            return [*gate.shown(read, request), *[gr.skip()] * (len(shown) + 1)]
        try:
            found = gate.verdicts.make(read.config)
            if found.blocks:
                return [*gate.shown(read, request), *[gr.skip()] * (len(shown) + 1)]
            run = start_training(page.paths, read.config)
        except UserError as error:
            warn(error, request)
            return [gr.skip()] * (len(shown) + 3)
        opened = gr.Tabs(selected="train-runs")
        return [*gate.shown(read, request), opened, *look(run.id, has_, request)]

    def act(what: str) -> Any:
        def handler(run_id: str, has_: str, request: gr.Request) -> list[Any]:
            try:
                run = run_among(page.paths, "train", run_id)
                if run is not None and what == "resume":
                    jobs.resume(page.paths, run)
                elif run is not None:
                    jobs.stop(page.paths, run, "save" if what == "stop" else "cancel")
            except UserError as error:
                warn(error, request)
            return follow(run_id, has_, request)

        return handler

    def on_result(run_id: str, request: gr.Request, event: gr.EventData) -> str:
        """What was pressed on the card of a finished run; what the chat is to compare, or ""."""
        run, asked = run_among(page.paths, "train", run_id), event._data
        try:
            if run is not None and asked.get("do") == "export":
                gr.Info(say(export(page, run, str(asked.get("to"))), request))
            elif run is not None and asked.get("do") == "compare":
                config = config_of(run)
                columns = compare_columns(page.paths, config)
                return json.dumps({"profile": config.profile, "columns": columns})
        except UserError as error:
            warn(error, request)
        return ""

    def all_points(run_id: str, request: gr.Request) -> list[Any]:
        """The page has lost some points: everything again."""
        return follow(run_id, "", request)

    seen = [current, has]
    gate.start.click(
        on_start,
        [has, *setup.form.inputs],
        [*gate.outputs, tabs, *shown],
        show_progress="minimal",
        show_progress_on=gate.status,
        api_visibility="private",
    )
    ticker.tick(follow, seen, followed, **SHARED)
    chosen.input(None, chosen, current, js="(run) => run || ''").then(
        follow, seen, followed, trigger_mode="always_last", **SHARED
    )
    for name, button in buttons.items():
        button.click(act(name), seen, followed, **SHARED)
    # Each press counts, also while the one before is on its way.
    result.select(on_result, current, compared, trigger_mode="multiple", **SHARED).then(
        None, compared, None, js="(text) => window.charllmCompare(text)"
    )
    curves.select(all_points, current, followed, **SHARED)
    return followed_panel(look, lambda: run_choices(page.paths), chosen, current, has, followed)
