"""What the user says about a file that is imported: format, columns, name, licence."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from charllm.core.catalog import CATALOG, EMBEDDED
from charllm.data.errors import Text
from charllm.data.importing import FORMATS
from charllm.ui.words import t

FIELDS = {
    "user": Text("User's line", "相手の発言"),
    "reply": Text("Reply", "返答"),
    "system": Text("System prompt", "システムプロンプト"),
    "context": Text("Context", "補足"),
    "user2": Text("Second question", "二度目の発言"),
    "reply2": Text("Second reply", "二度目の返答"),
    "topic": Text("Topic", "話題"),
    "id": Text("Id", "id"),
    "source": Text("Source", "出典"),
}
"""What a column of a table may hold."""


@dataclass(frozen=True)
class Form:
    """The components, by what they say."""

    file: gr.File
    format: gr.Dropdown
    mapping: gr.Column
    columns: list[gr.Dropdown]
    speaker: gr.Textbox
    model: gr.Dropdown
    name: gr.Textbox
    licence: gr.Textbox
    replace: gr.Checkbox
    go: gr.Button


def build() -> Form:
    file = gr.File(
        label=t("A file of dialogues", "会話データのファイル"),
        file_count="single",
        height=150,
        elem_id="import-file",
    )
    formats = [(t(f.label.en, f.label.ja), name) for name, f in FORMATS.items()]
    format_ = gr.Dropdown(
        [(t("as detected", "自動判定"), ""), *formats],
        value="",
        label=t("Format", "形式"),
        elem_id="import-format",
    )
    with gr.Column(visible=False) as mapping:
        gr.Markdown(t("Which column is what", "どの列を使うか"), elem_classes="note")
        with gr.Row():
            columns = [
                gr.Dropdown(
                    [],
                    label=t(words.en, words.ja),
                    min_width=130,
                    elem_id=f"import-column-{field}",
                )
                for field, words in FIELDS.items()
            ]
    speaker = gr.Textbox(
        "",
        label=t("Whose lines are the replies", "返答として読む人物"),
        visible=False,
        elem_id="import-speaker",
    )
    model = gr.Dropdown(
        [(model.label, model.id) for model in CATALOG],
        value=EMBEDDED,
        label=t("Show rows as this model learns them", "学習する形を見るモデル"),
        elem_id="import-model",
    )
    with gr.Row():
        name = gr.Textbox(
            "",
            label=t("Name of the dataset", "データセットの名前"),
            placeholder="a-z 0-9 -",
            min_width=170,
            elem_id="import-name",
        )
        licence = gr.Textbox(
            "",
            label=t("Licence", "ライセンス"),
            placeholder="MIT",
            min_width=120,
            elem_id="import-licence",
        )
    replace = gr.Checkbox(
        False,
        label=t(
            "Replace a dataset of this name (it can be brought back)",
            "同じ名前のデータセットを置き換える（あとで戻せます）",
        ),
        elem_id="import-replace",
    )
    go = gr.Button(
        t("Import", "読み込む"), variant="primary", interactive=False, elem_id="import-go"
    )
    return Form(file, format_, mapping, columns, speaker, model, name, licence, replace, go)
