"""Interview runs as they go and what has come out: list, state, buttons, figures, plots.

What is shown is read from the run folders once a second; only what has changed is sent.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import gradio as gr

from charllm.core.evaluation.interview_exchanges import read_interviews
from charllm.core.filtering import Budget
from charllm.data.errors import UserError
from charllm.services import jobs
from charllm.services.filtering import raise_budget
from charllm.services.interview_again import growing
from charllm.services.interview_view import (
    InterviewView,
    has_replies,
    is_current,
    report_time,
    stamp,
)
from charllm.services.runs import Run
from charllm.ui import evaluate_interviews_judge
from charllm.ui.beat import pulse
from charllm.ui.evaluate_interviews_html import detail_html, run_choices, table_html
from charllm.ui.evaluate_interviews_result import drift_plots, result_html
from charllm.ui.evaluate_interviews_talk import Reading
from charllm.ui.evaluate_live import buttons_for, plots_component
from charllm.ui.evaluate_plots import NOTHING
from charllm.ui.judge_html import SHARED, one_of, run_among
from charllm.ui.page import Page, banner
from charllm.ui.train_live import Has
from charllm.ui.train_live_html import log_html
from charllm.ui.words import language_of, t, warn

BUTTONS = ("stop", "cancel", "resume", "peek")
TALK_SECONDS = 5
"""While a run goes on, what is read of it is looked at anew so often."""


# --- data ---------------------------------------------------------------------------------------


def act_on(page: Page, run: Run, what: str, money: float | None) -> None:
    """``stop`` (report the part), ``cancel`` or ``resume``; ``UserError`` says why not.

    ``money`` is what the judge may spend after a resume; None leaves the budget as it was.
    """
    if what != "resume":
        jobs.stop(page.paths, run, "save" if what == "stop" else "cancel")
        return
    if money is not None:
        raise_budget(run, Budget.from_data({"money": money}, "budget"))
    jobs.resume(page.paths, run)
    jobs.tick(page.paths)


def buttons_of(run: Run | None) -> Mapping[str, bool]:
    """Which of the buttons make sense now; ``money`` is the field of a budget to raise."""
    if run is None:
        return dict.fromkeys((*BUTTONS, "money"), False)
    status = run.status()
    return {
        "stop": status.state == "running",
        "cancel": status.live or status.state == "queued",
        "resume": status.resumable,
        "peek": has_replies(run.folder) and not is_current(run.folder),
        "money": status.state == "paused",
    }


def _html(elem_id: str) -> gr.HTML:
    return gr.HTML("", apply_default_css=False, elem_id=elem_id)


# --- layout and wiring --------------------------------------------------------------------------


class Live:
    """What is shown below the form, for the run that is followed."""

    def __init__(self, page: Page) -> None:
        self.page, self.view = page, InterviewView(page.paths)
        table = _html("interviews-table")
        self.current = gr.Textbox("", visible=False)
        with gr.Column(visible=False) as below:
            with gr.Row(equal_height=True):
                self.chosen = gr.Dropdown(
                    [], label=t("Show", "表示する実行"), scale=4, elem_id="interviews-chosen"
                )
                self.buttons = buttons_for("interviews")
            detail, result = _html("interviews-detail"), _html("interviews-result")
            plots = plots_component("interviews-plots")
            gr.Markdown(t("#### Turn by turn", "#### 1ターンずつ読む"))
            self.reading = Reading(page, self.view, self.current)
            evaluate_interviews_judge.build(page, self.current, detail)
            with gr.Accordion(t("Log", "ログ"), open=False):
                log = _html("interviews-log")
        self.has, self.ticker = gr.Textbox("", visible=False), pulse()
        rest = [detail, result, plots, log, *self.reading.outputs, self.has]
        self.followed = [table, below, *self.buttons.values(), *rest]
        self.shown = [self.chosen, self.current, *self.followed]
        self.seen = [self.current, self.has, *self.reading.fields]
        self._wire()

    def look(
        self,
        run_id: str | None,
        has: str,
        number: int | None,
        sides: list[str],
        request: gr.Request,
    ) -> list[Any]:
        """All there is, the list of runs included."""
        runs = run_choices(self.page.paths)
        name = one_of(run_id, runs)
        rest = self.follow(name, has, number, sides, request)
        return [gr.Dropdown(runs, value=name), name or "", *rest]

    def follow(
        self,
        run_id: str | None,
        has: str,
        number: int | None,
        sides: list[str],
        request: gr.Request,
        *,
        now: bool = False,
    ) -> list[Any]:
        """Everything below the list, for the run that is followed."""
        paths = self.page.paths
        run, had = run_among(paths, "interview", run_id), Has(has)
        rows = had.new("table", table_html(paths, run.id if run else None, request))
        switches = self._switches(run, had)
        if run is None:
            reading = self.reading.look(None, None, [], request)
            hidden = gr.Column(visible=False)
            return [rows, hidden, *switches, "", "", NOTHING, "", *reading, had.text()]
        below = gr.Column(visible=True) if had.lacks("below", "") else gr.skip()
        state = had.new("detail", detail_html(paths, run, request))
        found = self._figures(run, had, request, now)
        log = had.new("log", log_html(run))
        read = self._read(run, had, number, sides, request)
        return [rows, below, *switches, state, *found, log, *read, had.text()]

    def _switches(self, run: Run | None, had: Has) -> list[Any]:
        visible = buttons_of(run)
        if not had.lacks("buttons", json.dumps(dict(visible))):
            return [gr.skip()] * len(self.buttons)
        return [type(one)(visible=visible[name]) for name, one in self.buttons.items()]

    def _figures(self, run: Run, had: Has, request: gr.Request, now: bool) -> list[Any]:
        """The figures and their plots, where the page does not show these very ones."""
        known = had.known
        key = f"{run.id} {is_current(run.folder)} {report_time(run.folder)}"
        same = known.get("figures") == key and not now
        had.now |= {"figures": key}
        if same:
            return [gr.skip(), gr.skip()]
        try:
            told = self.view.figures(run, now=now)
            variants = read_interviews(run.folder).planned.variants if told else ()
        except UserError as error:  # files that were changed by hand
            return [banner(error.in_(language_of(request)), "bad"), NOTHING]
        if told is None:
            return ["", NOTHING]
        owner = f"{key} {stamp(run)} {told.stored} {language_of(request)}"
        return [
            result_html(run.id, told.report, variants, told.stored, request),
            drift_plots(owner, run.id, told.report, variants, request),
        ]

    def _read(
        self, run: Run, had: Has, number: int | None, sides: list[str], request: gr.Request
    ) -> list[Any]:
        """The interview that is read, where more of it is there than the page shows."""
        going = growing(self.page.paths, run)
        key = f"{run.id} {int(time.time() // TALK_SECONDS) if going else stamp(run)}"
        if not had.lacks("reading", key):
            had.now["talk"] = had.known.get("talk", "")
            return [gr.skip()] * len(self.reading.outputs)
        *lists, html = self.reading.look(run, number, sides, request)
        told = json.dumps([run.id, lists[0].choices, html])
        if not had.lacks("talk", told):
            return [gr.skip()] * len(self.reading.outputs)
        return [*lists, html]

    def _wire(self) -> None:
        follow, seen, followed = self.follow, self.seen, self.followed
        self.ticker.tick(follow, seen, followed, **SHARED)
        self.chosen.input(None, self.chosen, self.current, js="(run) => run || ''").then(
            follow, seen, followed, trigger_mode="always_last", **SHARED
        )
        inputs = [*seen, self.buttons["money"]]
        for name in ("stop", "cancel", "resume"):
            self.buttons[name].click(self._act(name), inputs, followed, **SHARED)
        self.buttons["peek"].click(self._peek, seen, followed, **SHARED)

    def _act(self, what: str) -> Any:
        def handler(
            run_id: str,
            has: str,
            number: int | None,
            sides: list[str],
            money: float | None,
            request: gr.Request,
        ) -> list[Any]:
            run = run_among(self.page.paths, "interview", run_id)
            try:
                if run is not None:
                    act_on(self.page, run, what, money)
            except UserError as error:
                warn(error, request)
            return self.follow(run_id, has, number, sides, request)

        return handler

    def _peek(
        self, run_id: str, has: str, number: int | None, sides: list[str], request: gr.Request
    ) -> list[Any]:
        return self.follow(run_id, has, number, sides, request, now=True)
