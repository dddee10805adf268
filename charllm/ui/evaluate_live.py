"""Evaluations as they go and what has come out: started, stopped, resumed, their figures, plots.

What is shown is read from the run folders once a second; only what has changed is sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import gradio as gr

from charllm.core.evaluation.evaluate_config import EvaluateConfig
from charllm.core.filtering import Budget
from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.services import jobs
from charllm.services.evaluate_again import going_on
from charllm.services.evaluate_view import EvaluateView, stamp
from charllm.services.filtering import raise_budget
from charllm.services.runs import Run
from charllm.ui import evaluate_more
from charllm.ui.beat import pulse
from charllm.ui.evaluate_form import Setup
from charllm.ui.evaluate_html import status_html
from charllm.ui.evaluate_live_html import again_html, detail_html, run_choices, table_html
from charllm.ui.evaluate_plots import NOTHING, report_plots
from charllm.ui.evaluate_result_html import result_html
from charllm.ui.followed import panel as followed_panel
from charllm.ui.judge_html import SHARED, Panel, one_of, run_among
from charllm.ui.page import Page, banner
from charllm.ui.train_live import Has
from charllm.ui.train_live_html import log_html
from charllm.ui.words import language_of, t, warn

BUTTONS = ("stop", "cancel", "resume", "peek")

# --- data ---------------------------------------------------------------------------------------


def begin(page: Page, config: EvaluateConfig) -> Run:
    """Queue the evaluation, and start it if its turn has come."""
    run = jobs.submit(page.paths, "evaluate", config.name, config)
    jobs.tick(page.paths)
    return run


def act_on(page: Page, run: Run, what: str, money: float | None) -> None:
    """``stop`` (report the part), ``cancel`` or ``resume``; ``UserError`` says why not.

    ``money`` is what each judge may spend after a resume; None leaves the budget as it was.
    """
    if what != "resume":
        jobs.stop(page.paths, run, "save" if what == "stop" else "cancel")
        return
    if money:  # an empty field may arrive as 0
        raise_budget(run, Budget.from_data({"money": money}, "budget"))
    jobs.resume(page.paths, run)
    jobs.tick(page.paths)


def buttons_of(paths: Paths, run: Run | None) -> Mapping[str, bool]:
    """Which of the buttons make sense now; ``money`` is the field of a budget to raise."""
    if run is None:
        return dict.fromkeys((*BUTTONS, "money"), False)
    status = run.status()
    return {
        "stop": status.state == "running",
        "cancel": status.live or status.state == "queued",
        "resume": status.resumable,
        "peek": going_on(paths, run),
        "money": status.state == "paused",
    }


# --- layout and wiring --------------------------------------------------------------------------


def buttons_for(page_name: str) -> dict[str, Any]:
    """Hidden buttons and the field of a new budget; ``page_name`` begins their ids."""
    labels = {
        "stop": t("Stop and report", "ここまでで報告する"),
        "cancel": t("Cancel", "取り消す"),
        "resume": t("Resume", "再開"),
        "peek": t("Figures so far", "途中の数値を見る"),
    }
    made: dict[str, Any] = {
        name: gr.Button(label, visible=False, elem_id=f"{page_name}-{name}")
        for name, label in labels.items()
    }
    made["money"] = gr.Number(
        None,
        label=t("New budget, US$", "新しい予算（米ドル）"),
        visible=False,
        min_width=140,
        elem_id=f"{page_name}-raise",
    )
    return made


def _html(elem_id: str) -> gr.HTML:
    return gr.HTML("", apply_default_css=False, elem_id=elem_id)


def plots_component(elem_id: str) -> gr.HTML:
    """A place where evaluate.js draws what ``evaluate_plots`` makes."""
    return gr.HTML(
        {},
        html_template='<div class="evalfigures"></div>',
        js_on_load="window.charllmFigures(element, props, trigger, watch)",
        apply_default_css=False,
        elem_id=elem_id,
    )


def build(page: Page, setup: Setup, tabs: gr.Tabs) -> tuple[Panel, gr.Textbox]:
    """The panel, and the hidden field that says which run is followed."""
    view = EvaluateView()
    table = _html("evaluate-table")
    with gr.Row(equal_height=True):
        chosen = gr.Dropdown(
            [], label=t("Show", "表示する評価"), scale=4, elem_id="evaluate-chosen"
        )
        buttons = buttons_for("evaluate")
    detail, result = _html("evaluate-detail"), _html("evaluate-result")
    plots = plots_component("evaluate-plots")
    current = gr.Textbox("", visible=False)
    evaluate_more.files(page, current)
    again = evaluate_more.again(page, current, "scores")
    with gr.Accordion(t("Log", "ログ"), open=False):
        log = _html("evaluate-log")
    has = gr.Textbox("", visible=False)
    ticker = pulse()
    followed = [table, *buttons.values(), detail, result, plots, again, log, has]
    shown = [chosen, current, *followed]

    def follow(
        run_id: str | None, has_: str, request: gr.Request, *, now: bool = False
    ) -> list[Any]:
        """Everything below the list, for the run that is followed."""
        run, had = run_among(page.paths, "evaluate", run_id), Has(has_)
        visible = buttons_of(page.paths, run)
        other = had.lacks("buttons", json.dumps(dict(visible)))
        switches = [
            type(one)(visible=visible[name]) if other else gr.skip()
            for name, one in buttons.items()
        ]
        rows = had.new("table", table_html(page.paths, run.id if run else None, request))
        return [rows, *switches, *_panes(run, had, request, now), had.text()]

    def _panes(run: Run | None, had: Has, request: gr.Request, now: bool) -> list[Any]:
        if run is None:
            return ["", "", NOTHING, "", ""]
        state = had.new("detail", detail_html(page.paths, run, request))
        further = had.new("again", again_html(page.paths, run, request))
        return [state, *_figures(run, had, request, now), further, had.new("log", log_html(run))]

    def _figures(run: Run, had: Has, request: gr.Request, now: bool) -> list[Any]:
        """The report and its plots, where the page does not show this very one."""
        growing, known = going_on(page.paths, run), had.known
        key = stamp(run, growing=growing)
        had.now |= {name: known.get(name, "") for name in ("figures", "of")}
        if known.get("figures") == key and not now:
            return [gr.skip(), gr.skip()]
        try:
            told = view.of(run, growing=growing, now=now)
        except UserError as error:  # files that were changed by hand
            had.now |= {"figures": key, "of": run.id}
            return [banner(error.in_(language_of(request)), "bad"), NOTHING]
        if told is None:  # it goes on: what somebody has asked to see stays
            if known.get("of") == run.id:
                return [gr.skip(), gr.skip()]
            had.now |= {"figures": "", "of": run.id}
            return ["", NOTHING]
        had.now |= {"figures": key, "of": run.id}
        drawn = report_plots(f"{key} {language_of(request)}", run.id, told.report, request)
        shown_ = result_html(run.id, told.report, told.variants, told.stored, request)
        return [shown_, drawn]

    def look(run_id: str | None, has_: str, request: gr.Request) -> list[Any]:
        """All there is, the list of runs included."""
        runs = run_choices(page.paths)
        name = one_of(run_id, runs)
        return [gr.Dropdown(runs, value=name), name or "", *follow(name, has_, request)]

    def on_start(has_: str, request: gr.Request, *values: Any) -> list[Any]:
        """Look anew, and start if nothing is wrong; the page then follows the new run."""
        made = setup.fields.read(values, request)
        found = setup.looks.at(made.config, fresh=True) if made.config else None
        status = status_html(found, made.error, request)
        stay = [gr.skip()] * (len(shown) + 1)
        if made.config is None or found is None or found.problem is not None:
            return [status, *stay]
        try:
            run = begin(page, made.config)
        except UserError as error:
            warn(error, request)
            return [status, *stay]
        return [status, gr.Tabs(selected="evaluate-runs"), *look(run.id, has_, request)]

    def act(what: str) -> Any:
        def handler(run_id: str, has_: str, money: float | None, request: gr.Request) -> list[Any]:
            run = run_among(page.paths, "evaluate", run_id)
            try:
                if run is not None:
                    act_on(page, run, what, money)
            except UserError as error:
                warn(error, request)
            return follow(run_id, has_, request)

        return handler

    def peek(run_id: str, has_: str, request: gr.Request) -> list[Any]:
        return follow(run_id, has_, request, now=True)

    seen = [current, has]
    setup.start.click(
        on_start,
        [has, *setup.fields.inputs],
        [setup.status, tabs, *shown],
        show_progress="minimal",
        api_visibility="private",
    )
    ticker.tick(follow, seen, followed, **SHARED)
    chosen.input(None, chosen, current, js="(run) => run || ''").then(
        follow, seen, followed, trigger_mode="always_last", **SHARED
    )
    for name in ("stop", "cancel", "resume"):
        inputs = [*seen, buttons["money"]]
        buttons[name].click(act(name), inputs, followed, **SHARED)
    buttons["peek"].click(peek, seen, followed, **SHARED)
    offered = followed_panel(look, lambda: run_choices(page.paths), chosen, current, has, followed)
    return offered, current
