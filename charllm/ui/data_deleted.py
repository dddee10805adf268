"""Deleted datasets, and the way back; only seen where there are some."""

from __future__ import annotations

from typing import Any

import gradio as gr

from charllm.data import collection
from charllm.data.errors import Text, UserError
from charllm.ui.data_bar import Bar
from charllm.ui.judge_html import SHARED, Panel
from charllm.ui.page import Page, banner
from charllm.ui.words import say, t, warn


def deleted_choices(page: Page) -> list[tuple[str, str]]:
    """``(name · when, folder)``, the latest first."""
    return [
        (f"{item.name} · {item.at.replace('T', ' ')[:16]} UTC", item.folder)
        for item in collection.list_deleted(page.paths)
    ]


def build(page: Page, bar: Bar) -> Panel:
    label = t("Deleted datasets", "削除したデータセット")
    with (
        gr.Accordion(label, open=False, visible=False, elem_id="data-bin") as bin_,
        gr.Row(equal_height=True),
    ):
        deleted = gr.Dropdown(
            [], show_label=False, container=False, scale=4, elem_id="data-deleted"
        )
        back = gr.Button(t("Bring back", "戻す"), scale=0, min_width=120, elem_id="data-back")

    def look() -> list[Any]:
        gone = deleted_choices(page)
        first = gone[0][1] if gone else None
        return [gr.Accordion(visible=bool(gone)), gr.Dropdown(gone, value=first)]

    def bring_back(folder: str | None, request: gr.Request) -> Any:
        try:
            if not folder:
                return [gr.skip()] * (len(bar.outputs) + 1)
            name = collection.restore_deleted(page.paths, folder)
        except UserError as error:
            warn(error, request)
            return [gr.skip()] * (len(bar.outputs) + 1)
        words = Text(f"{name} is back.", f"「{name}」を戻しました。")
        return [*bar.listed(name, request), banner(say(words, request), "good")]

    bar.changed.append(back.click(bring_back, deleted, [*bar.outputs, bar.status], **SHARED))
    return Panel(look, [], [bin_, deleted])
