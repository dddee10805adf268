"""Interviews in the dashboard: set up, quoted, started, followed, read, their drift plotted.

Only the shell: the form, what goes on below it, and what joins the two. Nothing is looked up before
the page is first opened.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from charllm.data.errors import UserError
from charllm.services.interview_forms import begin, interview_runs, look
from charllm.ui import evaluate_interviews_form as form
from charllm.ui.evaluate_interviews_html import status_html
from charllm.ui.evaluate_interviews_live import Live
from charllm.ui.judge_html import SHARED
from charllm.ui.page import Page
from charllm.ui.words import warn

RECALL = "(kept, ...rest) => [window.charllmKept('interviews'), ...rest]"


def build(page: Page) -> None:
    """The page fills itself whenever its tab is opened."""
    setup = form.build(page)
    live, fields = Live(page), setup.fields
    kept, header = gr.Textbox("", visible=False), gr.Textbox("", visible=False)

    def opened(
        kept_: str,
        header_: str,
        slug: str | None,
        run_id: str,
        has: str,
        number: int | None,
        sides: list[str],
        request: gr.Request,
        *values: Any,
    ) -> list[Any]:
        """The form as it was left, unless another character was chosen in the header since; at
        the first visit as this browser has kept it."""
        left: list[Any] | None = list(values) if fields.filled(values) else None
        fold: Any = gr.skip()
        if left is None:
            fold = gr.Accordion(open=not interview_runs(page.paths))
            left = fields.recalled(kept_)
            header_ = fields.profile_of(left) if left else ""
        if left is None or header_ != (slug or ""):
            left = fields.first(slug)
        told = setup.told(page, left, request)
        shown = live.look(run_id, has, number, sides, request)
        return [slug or "", fold, *fields.listed(left, request), *told, *shown]

    def on_start(
        has: str, number: int | None, sides: list[str], request: gr.Request, *values: Any
    ) -> list[Any]:
        """Look anew, and start if nothing is wrong; the page then follows the new run."""
        made = fields.read(values, request)
        found = look(made.config, page.paths) if made.config else None
        status, stay = status_html(found, made.error, request), [gr.skip()] * (1 + len(live.shown))
        if made.config is None or found is None or found.problem is not None:
            return [status, *stay]
        try:
            run = begin(page.paths, made.config)
        except UserError as error:
            warn(error, request)
            return [status, *stay]
        folded = gr.Accordion(open=False)
        return [status, folded, *live.look(run.id, has, number, sides, request)]

    page.tab.select(
        opened,
        [kept, header, page.profile, *live.seen, *fields.inputs],
        [header, setup.fold, *fields.inputs, *setup.follows, *live.shown],
        js=RECALL,
        **SHARED,
    )
    setup.start.click(
        on_start,
        [live.has, *live.reading.fields, *fields.inputs],
        [setup.status, setup.fold, *live.shown],
        show_progress="minimal",
        api_visibility="private",
    )
