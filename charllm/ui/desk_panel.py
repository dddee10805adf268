"""The spot-check desk: people score single replies by hand, blind to what the judge said.

The judge's score is sent to the page only after the hand score has been kept.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from charllm.data.errors import Text, UserError
from charllm.services.desk import NO_JUDGE, Who
from charllm.services.judged import add_chat_replies
from charllm.ui.desk_html import (
    SEPARATOR,
    judge_choices,
    judges_of,
    source_choices,
)
from charllm.ui.desk_view import DeskView, desk_view, message
from charllm.ui.judge_html import LAST, SHARED, Panel, one_of
from charllm.ui.page import Page
from charllm.ui.words import language_of, t

NOBODY = Text(
    "Enter your name above first. Hand scores are kept under it, so that two people's scores of "
    "the same replies can be compared.",
    "まず上の欄に名前を入れてください。手採点はその名前で保存され、"
    "同じ返答を採点した人どうしの一致も調べられます。",
)
REMEMBER = "(name) => { localStorage.setItem('charllm_person', name || ''); }"
RECALL = "() => localStorage.getItem('charllm_person') || ''"


# --- layout and wiring --------------------------------------------------------------------------


def build(page: Page) -> Panel:
    gr.Markdown(t("### Score single replies by hand", "### 返答を 1 件ずつ手で採点する"))
    with gr.Group(), gr.Row():
        person = gr.Textbox(
            "",
            label=t("Who is scoring", "採点する人"),
            info=t("remembered in this browser", "このブラウザーに記憶"),
            placeholder=t("your name", "例: 山田"),
            max_length=40,
            elem_id="desk-person",
            scale=2,
            min_width=150,
        )
        source = gr.Dropdown(
            [], label=t("Replies from", "返答の出どころ"), elem_id="desk-source", scale=3
        )
        judge = gr.Dropdown(
            [], label=t("Judge to check", "検査するジャッジ"), elem_id="desk-judge", scale=4
        )
    desk = gr.HTML(
        {},
        html_template='<div class="desk"></div>',
        js_on_load="window.charllmDesk(element, props, trigger, watch)",
        apply_default_css=False,
        elem_id="desk",
    )
    chosen = [page.profile, person, source, judge]
    store = page.chat.store

    def opened(slug: str, name: str, source_: str, judge_: str, *, anew: bool) -> DeskView:
        who = Who(*judge_.split(SEPARATOR))
        return desk_view(page.paths, store, slug, who, source_, name.strip(), anew=anew)

    def shown(
        slug: str | None,
        name: str | None,
        source_: str | None,
        judge_: str | None,
        request: gr.Request,
        *,
        anew: bool = False,
    ) -> dict[str, Any]:
        """What is on the desk of these choices, or what is missing for one."""
        if not (slug and source_ and judge_):
            return message(NO_JUDGE, request)
        if not (name or "").strip():
            return message(NOBODY, request)
        try:
            return opened(slug, name or "", source_, judge_, anew=anew).shown(request)
        except UserError as error:
            said = error.in_(language_of(request))
            return message(Text(said, said), request)

    def look(
        slug: str | None,
        name: str | None,
        source_: str | None,
        judge_: str | None,
        request: gr.Request,
    ) -> Any:
        """All there is, lists of choices included."""
        if slug:
            add_chat_replies(store, slug)
        sources = source_choices(page.paths, store, slug, request) if slug else []
        source_ = one_of(source_, sources)
        judges = judge_choices(judges_of(store, slug, source_), request) if slug and source_ else []
        judge_ = one_of(judge_, judges)
        return [
            gr.Dropdown(sources, value=source_),
            gr.Dropdown(judges, value=judge_),
            shown(slug, name, source_, judge_, request, anew=True),
        ]

    def on_source(
        slug: str | None,
        name: str,
        source_: str | None,
        judge_: str | None,
        request: gr.Request,
    ) -> Any:
        """Another source; its list stays as it is, by now the visitor may have gone on."""
        return look(slug, name, source_, judge_, request)[1:]

    def act(
        slug: str,
        name: str,
        source_: str,
        judge_: str,
        request: gr.Request,
        event: gr.EventData,
    ) -> Any:
        """A key or a button of the desk."""
        try:
            return opened(slug, name, source_, judge_, anew=False).act(event._data, request)
        except UserError as error:
            told = shown(slug, name, source_, judge_, request)
            return {**told, "message": error.in_(language_of(request))}

    outputs = [source, judge, desk]
    page.demo.load(None, None, person, js=RECALL, api_visibility="private")
    person.change(None, person, None, js=REMEMBER, api_visibility="private")
    for moment in (person.submit, person.blur, judge.input):
        moment(shown, chosen, desk, **LAST)
    source.input(on_source, chosen, outputs[1:], **LAST)
    page.profile.change(look, chosen, outputs, **LAST)
    # "multiple": a key may come before the page has noticed that the one before it is done.
    desk.select(act, chosen, desk, queue=False, trigger_mode="multiple", **SHARED)
    return Panel(look, chosen, outputs)
