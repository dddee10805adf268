"""Evolutions as they go: started, followed, paused, finished early, resumed, and their reports.

What is shown is read from the run folders once a second; only what has changed is sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import gradio as gr

from charllm.core.merging.evolve_config import EvolveConfig
from charllm.data.errors import UserError
from charllm.services import jobs
from charllm.services.merge_view import (
    MergeView,
    Seen,
    columns_beside,
    config_of,
    pause,
    report_of,
)
from charllm.services.runs import Run
from charllm.ui import merge_budget, merge_fork
from charllm.ui.beat import pulse
from charllm.ui.followed import panel as followed_panel
from charllm.ui.form_page import clickable
from charllm.ui.judge_html import SHARED, Panel, one_of, run_among
from charllm.ui.merge_budget import Limit, limits_of, raise_limits
from charllm.ui.merge_candidates import candidate_html, candidates_html
from charllm.ui.merge_form import Setup
from charllm.ui.merge_html import status_html
from charllm.ui.merge_live_html import (
    curves_value,
    detail_html,
    heats_html,
    run_choices,
    table_html,
)
from charllm.ui.merge_report import report_html
from charllm.ui.page import Page, banner
from charllm.ui.presses import newest, noted, noting
from charllm.ui.train_live import Has
from charllm.ui.train_live_html import log_html
from charllm.ui.words import language_of, t, warn

TEXTS = ("detail", "report", "heats", "candidates", "log")
"""The panes of HTML, as they are sent."""

# --- data ---------------------------------------------------------------------------------------


def begin(page: Page, config: EvolveConfig) -> Run:
    """Queue the evolution, and start it if its turn has come."""
    run = jobs.submit(page.paths, "evolve", config.name, config)
    jobs.tick(page.paths)
    return run


def act_on(page: Page, run: Run, what: str) -> None:
    """``pause``, ``finish`` (stop and report), ``cancel`` or ``resume``; ``UserError`` says why
    not."""
    if what == "pause":
        pause(run)
    elif what == "resume":
        jobs.resume(page.paths, run)
        jobs.tick(page.paths)
    else:
        jobs.stop(page.paths, run, "save" if what == "finish" else "cancel")


def buttons_of(run: Run | None) -> Mapping[str, bool]:
    """Which of the buttons make sense now."""
    if run is None:
        return dict.fromkeys(("pause", "finish", "cancel", "resume"), False)
    status = run.status()
    return {
        "pause": status.state == "running",
        "finish": status.state == "running",
        "cancel": status.live or status.state == "queued",
        "resume": status.resumable and status.state != "done",
    }


# --- layout and wiring --------------------------------------------------------------------------


def _buttons() -> dict[str, gr.Button]:
    labels = {
        "pause": t("Pause", "一時停止"),
        "finish": t("Stop and report", "ここまでで報告する"),
        "cancel": t("Cancel", "取り消す"),
        "resume": t("Resume", "再開"),
    }
    return {
        name: gr.Button(label, visible=False, elem_id=f"merge-{name}")
        for name, label in labels.items()
    }


def _html(elem_id: str, on_load: str | None = None) -> gr.HTML:
    return gr.HTML("", js_on_load=on_load, apply_default_css=False, elem_id=elem_id)


def build(page: Page, setup: Setup, tabs: gr.Tabs) -> Panel:
    view = MergeView(page.paths)
    table = _html("merge-table")
    with gr.Row(equal_height=True):
        chosen = gr.Dropdown([], label=t("Follow", "表示する実行"), scale=4, elem_id="merge-chosen")
        buttons = _buttons()
    budget = merge_budget.build()
    detail = _html("merge-detail")
    report = clickable("merge-report")
    curves = gr.HTML(
        {},
        html_template='<div class="curves"></div>',
        js_on_load="window.charllmCurves(element, props, trigger, watch)",
        apply_default_css=False,
        elem_id="merge-curves",
    )
    heats = _html("merge-heats")
    with gr.Row(elem_id="merge-candidates-row"):
        with gr.Column(scale=6, min_width=420):
            candidates = _html("merge-candidates", noting("charllmForm", "candidate"))
        with gr.Column(scale=5, min_width=380):
            one = _html("merge-candidate")
    forking = gr.Column(elem_id="merge-fork-place")
    with gr.Accordion(t("Log", "ログ"), open=False):
        log = _html("merge-log")
    has = gr.Textbox("", visible=False)
    current, compared = gr.Textbox("", visible=False), gr.Textbox("", visible=False)
    pressed = gr.Textbox("", visible=False)
    ticker = pulse()
    panes = [curves, detail, report, heats, candidates, log]
    followed = [table, *buttons.values(), *budget.outputs, *panes, has]
    shown = [chosen, current, *followed]

    def follow(run_id: str | None, has_: str, request: gr.Request) -> list[Any]:
        """Everything below the list, for the run that is followed."""
        run, had = run_among(page.paths, "evolve", run_id), Has(has_)
        visible = buttons_of(run)
        other = had.lacks("buttons", json.dumps(dict(visible)))
        switches = [gr.Button(visible=visible[name]) if other else gr.skip() for name in buttons]
        name = run.id if run else ""
        rows = had.new("table", table_html(page.paths, name or None, request))
        raising = budget.show(name, limits(run) if visible["resume"] else [], had, request)
        return [rows, *switches, *raising, *_panes(run, had, request), had.text()]

    def limits(run: Run | None) -> list[Limit]:
        """What may be raised; nothing where the files are damaged, which the detail says."""
        with suppress(UserError):
            return limits_of(run, view.sheet(run)) if run else []
        return []

    def _panes(run: Run | None, had: Has, request: gr.Request) -> list[Any]:
        if run is None:
            empty = [had.new(name, "") for name in TEXTS]
            return [{}, *empty]
        try:
            seen, made = view.of(run), _made(run, had, request)
        except UserError as error:  # files that were changed by hand
            seen = Seen()
            made = {"detail": banner(error.in_(language_of(request)), "bad"), "log": log_html(run)}
        had.now |= {"run": run.id, "since": 0, "points": len(seen.generations)}
        longer = had.lacks("curves", f"{run.id} {len(seen.generations)}")
        curves_ = made.pop("curves", {}) if longer else gr.skip()
        texts = {name: had.new(name, str(made.get(name, ""))) for name in TEXTS}
        return [curves_, *texts.values()]

    def _made(run: Run, had: Has, request: gr.Request) -> dict[str, Any]:
        seen, sheet, told = view.of(run), view.sheet(run), report_of(run)
        return {
            "curves": curves_value(run, seen, had.points(run)[1]),
            "detail": detail_html(page.paths, run, seen, sheet, request),
            "report": report_html(page.paths, run, told, request) if told else "",
            "heats": heats_html(seen, sheet, request),
            "candidates": candidates_html(sheet, seen.parents, request),
            "log": log_html(run),
        }

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
        return [status, gr.Tabs(selected="merge-runs"), *look(run.id, has_, request)]

    def act(what: str) -> Any:
        def handler(run_id: str, has_: str, request: gr.Request, *budgets: Any) -> list[Any]:
            run = run_among(page.paths, "evolve", run_id)
            try:
                if run is not None and what == "resume" and run.status().resumable:
                    found = limits(run)
                    raise_limits(run, found, budget.typed(run.id, found, has_, budgets))
                if run is not None:
                    act_on(page, run, what)
            except UserError as error:
                warn(error, request)
            return follow(run_id, has_, request)

        return handler

    def on_candidate(run_id: str, pressed_: str, request: gr.Request) -> str:
        """What the candidate that was pressed last has said."""
        run = run_among(page.paths, "evolve", run_id)
        if run is None:
            return ""
        try:
            sheet, seen = view.sheet(run), view.of(run)
        except UserError as error:
            return banner(error.in_(language_of(request)), "bad")
        return candidate_html(sheet, str(noted(pressed_).get("id", "")), seen.parents, request)

    def on_chosen(run_id: str, has_: str, request: gr.Request) -> list[Any]:
        """Another run: the candidate that was looked at is not one of its own."""
        return ["", *follow(run_id, has_, request)]

    def on_compare(run_id: str, request: gr.Request) -> str:
        """What the chat is to compare, or "" where that is gone."""
        run = run_among(page.paths, "evolve", run_id)
        try:
            if run is not None:
                config = config_of(run)
                columns = columns_beside(page.paths, config.profile, config.name, config.parents)
                return json.dumps({"profile": config.profile, "columns": columns})
        except UserError as error:
            warn(error, request)
        return ""

    def all_points(run_id: str, request: gr.Request) -> list[Any]:
        """The page has lost some points: everything again."""
        return follow(run_id, "", request)

    seen_ = [current, has]
    with forking:
        merge_fork.build(page, current, look, has, shown)
    setup.start.click(
        on_start,
        [has, *setup.fields.inputs],
        [setup.status, tabs, *shown],
        show_progress="minimal",
        api_visibility="private",
    )
    ticker.tick(follow, seen_, followed, **SHARED)
    chosen.input(None, chosen, current, js="(run) => run || ''").then(
        on_chosen,
        seen_,
        [one, *followed],
        trigger_mode="always_last",
        **SHARED,
    )
    for name, button in buttons.items():
        raising = budget.fields.values() if name == "resume" else ()
        button.click(act(name), [*seen_, *raising], followed, **SHARED)
    report.select(on_compare, current, compared, **SHARED).then(
        None, compared, None, js="(text) => window.charllmCompare(text)"
    )
    candidates.select(
        on_candidate,
        [current, pressed],
        one,
        js=newest("candidate"),
        trigger_mode="always_last",
        **SHARED,
    )
    curves.select(all_points, current, followed, **SHARED)
    return followed_panel(look, lambda: run_choices(page.paths), chosen, current, has, followed)
