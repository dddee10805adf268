"""The Data tab: choose a dataset, look at its rows, prepare it, make new ones.

Only the shell: the bar that chooses a dataset, and one panel a page, each in a file of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import gradio as gr

from charllm.ui import (
    data_bar,
    data_card,
    data_deleted,
    data_import,
    data_rows,
    data_steps,
    data_use,
)
from charllm.ui.judge_html import SHARED, Panel
from charllm.ui.page import Page
from charllm.ui.words import t


@contextmanager
def _panel(page: Page, name: str, label: Any) -> Iterator[Page]:
    with gr.Tab(label, id=f"data-{name}", elem_id=f"data-tab-{name}") as tab:
        yield replace(page, tab=tab)


def build(page: Page) -> None:
    bar = data_bar.build(page)
    made = gr.Textbox("", visible=False)
    """The dataset that was made last."""

    def after(event: Any, panel: Panel) -> Any:
        return event.then(panel.refresh, panel.inputs, panel.outputs, **SHARED)

    def arrived(name: str, request: gr.Request) -> list[Any]:
        if not name:
            return [gr.skip()] * (len(bar.outputs) + 1)
        return [*bar.listed(name, request), gr.Tabs(selected="data-rows")]

    def follow(event: Any) -> None:
        """After a dataset was made: choose it and show its rows."""
        after(event.then(arrived, made, [*bar.outputs, tabs], **SHARED), rows)

    with gr.Tabs(elem_id="data-tabs") as tabs:
        with _panel(page, "rows", t("Rows and checks", "行とチェック")) as part:
            rows = data_rows.build(part, bar.name)
        with _panel(page, "steps", t("Preparation", "前処理")) as part:
            steps, applied = data_steps.build(part, bar.name)
            part.tab.select(steps.refresh, steps.inputs, steps.outputs, **SHARED)
        with _panel(page, "import", t("Import", "読み込み")) as part:
            data_import.build(part, made, follow)
        with _panel(page, "use", t("From use", "チャットから")) as part:
            use = data_use.build(part, made, follow)
            part.tab.select(use.refresh, use.inputs, use.outputs, **SHARED)
        with _panel(page, "card", t("Card", "カード")) as part:
            card = data_card.build(part, bar.name)
            part.tab.select(card.refresh, card.inputs, card.outputs, **SHARED)
    bin_ = data_deleted.build(page, bar)

    def first(current: str, slug: str | None, request: gr.Request) -> list[Any]:
        """The character's own dataset, as long as none was chosen."""
        return bar.listed(current or slug, request)

    opened = page.tab.select(first, [bar.name, page.profile], bar.outputs, **SHARED)
    after(after(opened, rows), bin_)
    # One after the other: several at once would hold the page for some tenths of a second.
    shown = bar.picked
    for panel in (rows, steps, card):
        shown = after(shown, panel)
    for event in bar.changed:
        after(after(event, rows), bin_)
    after(applied, rows).then(bar.listed, bar.name, bar.outputs, **SHARED)
