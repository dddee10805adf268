"""Look before training: what a start would refuse, the rows as tokens, memory and time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from charllm.core.training_config import TrainConfig
from charllm.data.errors import Text, UserError
from charllm.services.train_rows import rows_page
from charllm.ui.judge_html import LAST, SHARED
from charllm.ui.page import Page
from charllm.ui.train_form import Setup
from charllm.ui.train_gate import Gate
from charllm.ui.train_look_html import look_html, rows_html
from charllm.ui.words import say, t, warn


@dataclass(frozen=True)
class _Controls:
    summary: gr.HTML
    bar: gr.Row
    part: gr.Radio
    before: gr.Button
    place: gr.HTML
    after: gr.Button
    rows: gr.HTML
    number: gr.Textbox


def _controls() -> _Controls:
    summary = gr.HTML(
        "",
        js_on_load="window.charllmForm(element, props, trigger, watch)",
        apply_default_css=False,
        elem_id="train-look-summary",
    )
    with gr.Row(equal_height=True, visible=False, elem_id="train-rows-bar") as bar:
        part = gr.Radio(
            [(t("Rows to train on", "学習する行"), "train"), (t("Held out", "評価用"), "held")],
            value="train",
            show_label=False,
            container=False,
            elem_id="train-rows-part",
        )
        before = gr.Button("←", scale=0, min_width=56, elem_id="train-rows-before")
        place = gr.HTML("", elem_id="train-rows-place", min_width=90)
        after = gr.Button("→", scale=0, min_width=56, elem_id="train-rows-after")
    rows = gr.HTML("", elem_id="train-rows")
    return _Controls(summary, bar, part, before, place, after, rows, gr.Textbox("0", visible=False))


def build(page: Page, gate: Gate, setup: Setup, tabs: gr.Tabs) -> None:
    """The panel; the gate's button opens it with a new look."""
    shown = _controls()
    form = setup.form
    listed = [shown.bar, shown.place, shown.rows, shown.number]

    def rows_of(config: TrainConfig, part: str, number: int, request: gr.Request) -> list[Any]:
        try:
            found = rows_page(config, page.paths, part == "held", number)
        except UserError as error:
            warn(error, request)
            return [gr.Row(visible=False), "", "", "0"]
        pages = Text(
            f"page {found['page'] + 1} of {found['pages']}",
            f"{found['pages']} ページ中 {found['page'] + 1}",
        )
        place = f'<span class="note">{say(pages, request)}</span>' if found["pages"] else ""
        return [gr.Row(visible=True), place, rows_html(found, request), str(found["page"])]

    def look(request: gr.Request, start: str, *values: Any) -> list[Any]:
        """Look at the run that the form describes now."""
        read = form.read(start, values)
        if read.config is None:
            nothing = [gr.Row(visible=False), "", "", "0"]
            return [gr.Tabs(selected="train-setup"), "", *nothing, *gate.shown(read, request)]
        found = gate.verdicts.make(read.config)
        rows = [gr.Row(visible=False), "", "", "0"]
        if found.rows[0]:
            rows = rows_of(read.config, "train", 0, request)
        return [
            gr.Tabs(selected="train-look"),
            look_html(found, request),
            *rows,
            *gate.shown(read, request),
        ]

    def opened(request: gr.Request, start: str, *values: Any) -> list[Any]:
        """The panel shows the last look at this very form, or says that there was none."""
        read = form.read(start, values)
        found = gate.verdicts.known(read.config) if read.config else None
        rows: list[Any] = [gr.Row(visible=False), "", "", "0"]
        if found is not None and found.rows[0]:
            rows = rows_of(found.config, "train", 0, request)
        return [look_html(found, request), *rows]

    def turn(part: str, number: str, request: gr.Request, start: str, *values: Any) -> list[Any]:
        """The page of this number; the number is sent only where there is no such page.

        By now the visitor may have pressed again, which the page has counted already.
        """
        config = form.read(start, values).config
        if config is None:
            return [gr.skip()] * len(listed)
        *rows, at = rows_of(config, part, int(number), request)
        return [*rows, gr.skip() if at == number else at]

    def on_measure(request: gr.Request, event: gr.EventData, start: str, *values: Any) -> list[Any]:
        """Apply one of the changes that would make the run fit."""
        config = form.read(start, values).config
        found = gate.verdicts.known(config) if config else None
        measures = found.memory.get("measures", []) if found else []
        place = int(event._data.get("place") or 0)
        changes = measures[place]["changes"] if place < len(measures) else {}
        return form.apply(changes)

    looked = [tabs, shown.summary, *listed, *gate.outputs]
    waits = {**SHARED, "show_progress": "minimal", "show_progress_on": gate.status}
    gate.ask.click(look, form.inputs, looked, **waits).then(
        lambda: "train", None, shown.part, **SHARED
    )
    page.tab.select(opened, form.inputs, [shown.summary, *listed], **SHARED)
    fields = list(form.fields.values())
    applied = shown.summary.select(
        on_measure, form.inputs, fields, trigger_mode="multiple", **SHARED
    )
    setup.after(applied).then(look, form.inputs, looked, **waits)
    turned = [shown.part, shown.number, *form.inputs]
    for event, page_of in (
        (shown.before.click, "Math.max(0, Number(at) - 1)"),
        (shown.after.click, "Number(at) + 1"),
        (shown.part.input, "0"),
    ):
        counted = event(None, shown.number, shown.number, js=f"(at) => String({page_of})")
        counted.then(turn, turned, listed, **LAST)
