"""The card of a dataset: where its rows come from, what was done to them, and what may be said.

Character, language, licence and notes are the user's; everything else the card knows by itself.
"""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

from charllm.data.collection import describe, load
from charllm.data.dataset_card import as_markdown
from charllm.data.errors import Text, UserError
from charllm.ui.judge_html import SHARED, Panel
from charllm.ui.page import Page, banner, profile_choices
from charllm.ui.words import language_of, say, t, warn

SPREAD = "(text) => (text ? JSON.parse(text).slice(1) : [null, '', '', ''])"


def body(markdown: str) -> str:
    """The card without its YAML head, which is for machines."""
    return markdown.split("\n---\n", 1)[-1].strip()


def build(page: Page, chosen: gr.Textbox) -> Panel:
    with gr.Row():
        with gr.Column(scale=4, min_width=340):
            profile = gr.Dropdown(
                [], label=t("Character", "キャラクター"), elem_id="data-card-profile"
            )
            with gr.Row():
                language = gr.Textbox(
                    "", label=t("Language", "言語"), placeholder="ja", min_width=100
                )
                licence = gr.Textbox(
                    "",
                    label=t("Licence", "ライセンス"),
                    placeholder="MIT",
                    min_width=160,
                    elem_id="data-card-licence",
                )
            notes = gr.Textbox(
                "", label=t("Notes", "メモ"), lines=5, max_lines=16, elem_id="data-card-notes"
            )
            save = gr.Button(t("Save", "保存"), variant="primary", elem_id="data-card-save")
            status = gr.HTML("", elem_id="data-card-status")
        with gr.Column(scale=7, min_width=460):
            view = gr.Markdown("", elem_id="data-card-view", sanitize_html=True)

    # What is stored comes as one text, and the fields follow it only when it has changed: a page
    # is refreshed for many reasons, and none of them may undo what is being typed.
    stored = gr.Textbox("", visible="hidden")
    fields = [profile, language, licence, notes]

    def shown(name: str, request: gr.Request) -> list[Any]:
        card = load(page.paths, name).card
        nobody = (say(Text("(none)", "（なし）"), request), "")
        values = [name, card.profile, card.language, card.licence, card.notes]
        return [
            gr.Dropdown([nobody, *profile_choices(page.paths)]),
            json.dumps(values, ensure_ascii=False),
            body(as_markdown(card, language_of(request))),
            "",
        ]

    def look(name: str | None, request: gr.Request) -> Any:
        try:
            if name:
                return shown(name, request)
        except UserError as error:
            warn(error, request)
        return [gr.skip(), "", "", ""]

    def keep(
        name: str | None, slug: str | None, spoken: str, terms: str, said: str, request: gr.Request
    ) -> Any:
        if not name:
            return [gr.skip()] * 4
        try:
            describe(page.paths, name, profile=slug, language=spoken, licence=terms, notes=said)
        except UserError as error:
            return [*[gr.skip()] * 3, banner(error.in_(language_of(request)), "bad")]
        done = banner(say(Text("Saved", "保存しました"), request), "good")
        return [*shown(name, request)[:-1], done]

    outputs = [profile, stored, view, status]
    stored.change(None, stored, fields, js=SPREAD)
    save.click(keep, [chosen, *fields], outputs, **SHARED)
    return Panel(look, [chosen], outputs)
