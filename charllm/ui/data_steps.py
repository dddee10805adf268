"""Preparation: the steps of a dataset, what they would change, and applying them.

The list lives in the browser (``static/steps.js``). Each change of it asks what it would do;
nothing is done before "Apply", and every step can be taken out again.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from charllm.data.collection import load, set_steps
from charllm.data.errors import UserError
from charllm.services.step_views import preview_view, steps_asked, steps_view
from charllm.ui.data_rows import answer
from charllm.ui.judge_html import SHARED, Panel
from charllm.ui.page import Page
from charllm.ui.words import language_of, warn


def build(page: Page, chosen: gr.Textbox) -> tuple[Panel, Any]:
    """The panel, and the event after which the dataset may have other rows."""
    steps = gr.HTML(
        "",
        html_template='<div class="stepspanel"></div>',
        js_on_load="window.charllmSteps(element, props, trigger, watch)",
        apply_default_css=False,
        elem_id="data-steps",
    )

    def look(name: str | None, request: gr.Request) -> str:
        try:
            if name:
                return answer(steps_view(load(page.paths, name), language_of(request)))
        except UserError as error:
            warn(error, request)
        return answer({"type": "steps", "name": "", "kinds": [], "applied": []})

    def act(event: gr.EventData, request: gr.Request) -> str:
        asked = event._data
        name, language = str(asked.get("name") or ""), language_of(request)
        try:
            dataset = load(page.paths, name)
            wanted = steps_asked(dataset.card, asked["steps"])
            if asked["action"] == "preview":
                return answer({"key": asked["key"], **preview_view(page.paths, dataset, wanted)})
            return answer(steps_view(set_steps(page.paths, name, wanted), language))
        except UserError as error:
            if asked["action"] == "preview":
                said = {"type": "preview", "key": asked["key"], "error": error.in_(language)}
                return answer({**said, "changed": [], "examples": []})
            warn(error, request)
            return answer(steps_view(load(page.paths, name), language))

    asked = steps.select(act, None, steps, trigger_mode="multiple", **SHARED)
    return Panel(look, [chosen], [steps]), asked
