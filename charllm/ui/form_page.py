"""What the set-up pages of training, merging and evaluating share beside their forms."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from charllm.ui.words import t


@dataclass(frozen=True)
class Reader:
    """YAML to be read into a form: a ``text`` with its button ``go``, or a ``file``."""

    text: gr.Textbox
    file: gr.UploadButton
    go: gr.Button


def build_reader(name: str, example: str) -> Reader:
    """A fold with both; ``name`` begins the ids, ``example`` is shown where nothing is written."""
    with gr.Accordion(t("Read YAML into the form", "YAML をフォームに読み込む"), open=False):
        text = gr.Textbox(
            "",
            show_label=False,
            container=False,
            lines=5,
            max_lines=14,
            placeholder=example,
            elem_id=f"{name}-yaml-text",
        )
        with gr.Row():
            go = gr.Button(
                t("Read this text", "このテキストを読み込む"), elem_id=f"{name}-yaml-read"
            )
            file = gr.UploadButton(
                t("Read a file…", "ファイルを読み込む…"),
                file_types=[".yaml", ".yml"],
                elem_id=f"{name}-yaml-file",
            )
    return Reader(text, file, go)


def clickable(elem_id: str) -> gr.HTML:
    """HTML whose buttons tell the server, copy, save or open a tab (form.js)."""
    return gr.HTML(
        "",
        js_on_load="window.charllmForm(element, props, trigger, watch)",
        apply_default_css=False,
        elem_id=elem_id,
    )
