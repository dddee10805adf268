"""What the mixer's page holds, and its layout: the questions asked of a mixture, where it goes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from charllm.core.generation import DEFAULT_PRESET, PRESET_LABELS, PRESETS
from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.services.mixer import GROUP_SIZE, Board, Weights, open_board
from charllm.ui.merge_fill import FEW
from charllm.ui.merge_html import group_name, short
from charllm.ui.words import t

CLICKS = "window.charllmForm(element, props, trigger, watch)"


# --- data ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """What the page holds: the parents, the size of a group, and the sliders."""

    parents: tuple[str, ...] = ()
    size: int = GROUP_SIZE
    weights: Mapping[str, Sequence[float]] | None = None

    @classmethod
    def read(cls, text: str) -> Held | None:
        """What ``text`` says; None where it is not the page's own."""
        try:
            data = json.loads(text)
            weights = {str(g): tuple(map(float, row)) for g, row in data["weights"].items()}
            return cls(tuple(map(str, data["parents"])), int(data["size"]), weights)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def text(self) -> str:
        return json.dumps(vars(self), ensure_ascii=False)

    def board(self, paths: Paths) -> Board:
        """Its sliders; ``UserError`` where the parents do not fit together."""
        if len(self.parents) < 2:
            raise UserError(FEW.en, FEW.ja)
        return open_board(paths, self.parents, self.size)


def fitting(board: Board, weights: Mapping[str, Sequence[float]] | None) -> Weights:
    """``weights`` where they are this board's, else the plain average."""
    try:
        board.coefficients(weights or {})
    except UserError:
        return board.uniform()
    return {group: tuple((weights or {})[group]) for group in board.groups}


def board_value(board: Board, weights: Weights, request: gr.Request) -> dict[str, Any]:
    """What mixer.js takes."""
    return {
        "key": json.dumps([board.parents, board.size]),
        "parents": [short(name) for name in board.parents],
        "groups": [{"id": one, "name": group_name(one, request)} for one in board.groups],
        "weights": weights,
    }


# --- layout -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ask:
    question: gr.Textbox
    preset: gr.Dropdown
    rag: gr.Checkbox
    follow: gr.Checkbox
    go: gr.Button
    stop: gr.Button
    replies: gr.HTML

    @property
    def inputs(self) -> list[Any]:
        return [self.question, self.preset, self.rag, self.follow]


@dataclass(frozen=True)
class Keep:
    name: gr.Textbox
    where: gr.Radio
    save: gr.Button
    saved: gr.HTML
    runs: gr.Dropdown
    send: gr.Button
    sent: gr.HTML


def ask_row() -> Ask:
    gr.Markdown(t("#### Ask it", "#### 質問してみる"))
    with gr.Row(elem_id="mixer-ask-row"):
        question = gr.Textbox(
            "",
            label=t("Question", "質問"),
            max_lines=3,
            scale=5,
            min_width=220,
            elem_id="mixer-question",
        )
        go = gr.Button(
            t("Ask", "聞く"), variant="primary", scale=0, min_width=80, elem_id="mixer-go"
        )
        stop = gr.Button(t("Stop", "停止"), scale=0, min_width=70, elem_id="mixer-stop")
    with gr.Row(equal_height=True):
        preset = gr.Dropdown(
            [(t(*PRESET_LABELS[name]), name) for name in PRESETS],
            value=DEFAULT_PRESET,
            label=t("Generation", "生成"),
            min_width=200,
            elem_id="mixer-preset",
        )
        with gr.Column(min_width=190):
            rag = gr.Checkbox(
                False,
                label=t("Look up facts (RAG)", "事実を検索する（RAG）"),
                container=False,
                elem_id="mixer-rag",
            )
            follow = gr.Checkbox(
                True,
                label=t("Ask again when a slider moves", "スライダーを動かすたびに聞き直す"),
                container=False,
                elem_id="mixer-follow",
            )
    replies = gr.HTML("", apply_default_css=False, elem_id="mixer-replies")
    return Ask(question, preset, rag, follow, go, stop, replies)


def keep_row() -> Keep:
    gr.Markdown(t("#### Keep it", "#### 残す"))
    with gr.Row(elem_id="mixer-save-row"):
        name = gr.Textbox(
            "", label=t("Name", "名前"), max_lines=1, min_width=150, elem_id="mixer-name"
        )
        where = gr.Radio(
            [
                (t("Checkpoint, for the chat", "チェックポイント（チャットで使う）"), "checkpoint"),
                (t("Recipe for mergekit", "mergekit のレシピ"), "recipe"),
            ],
            value="checkpoint",
            show_label=False,
            container=False,
            scale=2,
            elem_id="mixer-where",
        )
        save = gr.Button(t("Save", "保存"), scale=0, min_width=80, elem_id="mixer-save")
    saved = html_pane("mixer-saved", clicks=True)
    with gr.Row(elem_id="mixer-send-row"):
        runs = gr.Dropdown(
            [],
            label=t("Evolutions of these parents that go on", "同じ親で続いている進化マージ"),
            scale=3,
            elem_id="mixer-runs",
        )
        send_ = gr.Button(
            t("Put it into the next generation", "次の世代に加える"),
            scale=0,
            min_width=250,
            elem_id="mixer-send",
        )
    return Keep(name, where, save, saved, runs, send_, html_pane("mixer-told"))


def html_pane(elem_id: str, clicks: bool = False) -> gr.HTML:
    return gr.HTML(
        "", js_on_load=CLICKS if clicks else None, apply_default_css=False, elem_id=elem_id
    )
