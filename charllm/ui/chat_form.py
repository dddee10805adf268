"""The Chat tab's form: whom to ask, how to answer, the board, and what is typed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from charllm.core.variants import default_columns
from charllm.ui.chat_settings import build_settings
from charllm.ui.chat_view import board_state, variant_choices
from charllm.ui.downloads import made_file
from charllm.ui.page import Page
from charllm.ui.words import t


@dataclass(frozen=True)
class ChatForm:
    """What the tab is made of; ``knobs`` are what ``settings_from`` takes."""

    status: gr.HTML
    conversation: gr.Dropdown
    columns: gr.Dropdown
    blind: gr.Checkbox
    score: gr.Checkbox
    knobs: list[Any]
    board: gr.HTML
    composer: gr.Textbox
    send: gr.Button
    stop: gr.Button
    again: gr.Button
    clear: gr.Button
    exports: dict[str, gr.Button]
    delete: gr.Button
    download: gr.DownloadButton


def build_form(page: Page) -> ChatForm:
    slug = page.profile.value
    status = gr.HTML("", elem_id="model-banner")
    with gr.Row(equal_height=True, elem_id="chat-controls"):
        conversation = gr.Dropdown(
            [], label=t("Conversation", "会話"), min_width=200, scale=2, elem_id="conversation"
        )
        columns = gr.Dropdown(
            variant_choices(page, slug, "en") if slug else [],
            value=default_columns(page.paths, slug) if slug else [],
            multiselect=True,
            max_choices=6,
            label=t("Columns (2–6)", "列（2〜6）"),
            min_width=420,
            scale=5,
            elem_id="columns",
        )
        blind = gr.Checkbox(
            False, label=t("Blind", "ブラインド"), min_width=128, scale=0, elem_id="blind"
        )
        score = gr.Checkbox(
            True, label=t("Live score", "自動採点"), min_width=118, scale=0, elem_id="score"
        )
    knobs = build_settings()
    board = gr.HTML(
        board_state(page, slug, None),
        html_template='<div class="board"></div>',
        js_on_load="window.charllmBoard(element, props, trigger, watch)",
        apply_default_css=False,
        elem_id="board",
    )
    with gr.Row(elem_id="composerbar", equal_height=True):
        composer = gr.Textbox(
            show_label=False,
            container=False,
            lines=2,
            max_lines=8,
            placeholder=t(
                "Ask the character…  (Ctrl+Enter sends, Esc stops)",
                "話しかけてみましょう…（Ctrl+Enter で送信、Esc で停止）",
            ),
            scale=8,
            elem_id="composer",
        )
        send = gr.Button(
            t("Send", "送信"), variant="primary", scale=1, min_width=96, elem_id="send"
        )
        stop = gr.Button(t("Stop", "停止"), scale=1, min_width=80, elem_id="stop")
        again = gr.Button(t("Regenerate", "再生成"), scale=1, min_width=96, elem_id="regenerate")
        clear = gr.Button(t("New", "新しい会話"), scale=1, min_width=96, elem_id="clear")
    with gr.Row(elem_id="chat-foot"):
        exports = {
            kind: gr.Button(label, size="sm", elem_id=f"export-{kind}")
            for kind, label in (
                ("jsonl", t("Export JSONL", "JSONL で書き出す")),
                ("md", t("Export Markdown", "Markdown で書き出す")),
            )
        }
        delete = gr.Button(
            t("Delete this conversation", "この会話を削除"),
            size="sm",
            elem_id="delete-conversation",
        )
        download = made_file()
    return ChatForm(
        status=status,
        conversation=conversation,
        columns=columns,
        blind=blind,
        score=score,
        knobs=knobs,
        board=board,
        composer=composer,
        send=send,
        stop=stop,
        again=again,
        clear=clear,
        exports=exports,
        delete=delete,
        download=download,
    )
