"""A reply to try the judge with: its boxes, and what they make."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from charllm.core.judging.records import Item
from charllm.data.dialogue import Message
from charllm.data.errors import UserError
from charllm.data.text import lines_of
from charllm.ui.words import t


def item_from(question: str, reply: str, facts: str, before: str) -> Item:
    """What was typed: a fact a line; earlier turns a line each, the user's first."""
    turns = lines_of([before])
    history = tuple(
        Message(role="assistant" if number % 2 else "user", content=text)
        for number, text in enumerate(turns)
    )
    if len(turns) % 2:
        raise UserError(
            "Earlier turns come in pairs: a line of the user, then a line of the character.",
            "それまでのやりとりは、ユーザーの発言とキャラクターの返答を1行ずつ交互に書いてください。",
        )
    return Item(
        "try", question.strip(), reply.strip(), history=history, gold=tuple(lines_of([facts]))
    )


@dataclass(frozen=True)
class Boxes:
    """The boxes to try the judge with."""

    question: gr.Textbox
    reply: gr.Textbox
    gold: gr.Textbox
    history: gr.Textbox
    go: gr.Button
    result: gr.HTML


def build() -> Boxes:
    gr.Markdown(t("### Try it", "### 試してみる"))
    with gr.Row():
        with gr.Column(scale=5, min_width=420):
            question = gr.Textbox("", label=t("Question", "質問"), elem_id="try-question", lines=2)
            reply = gr.Textbox("", label=t("Reply", "返答"), elem_id="try-reply", lines=3)
            gold = gr.Textbox(
                "",
                label=t("Gold facts, one a line", "正解の事実（1行に1つ）"),
                elem_id="try-gold",
                lines=2,
                visible=False,
            )
            history = gr.Textbox(
                "",
                label=t(
                    "Earlier turns, a line each, the user first",
                    "それまでのやりとり（1行に1発言、ユーザーから）",
                ),
                elem_id="try-history",
                lines=4,
                visible=False,
            )
            go = gr.Button(
                t("Judge this reply", "この返答を採点する"), variant="primary", elem_id="try-go"
            )
        with gr.Column(scale=6, min_width=460):
            result = gr.HTML("", elem_id="try-result")
    return Boxes(question, reply, gold, history, go, result)
