"""The Evaluate tab: set an evaluation up, read what came out, question by question, pair by pair.

Only the shell: one panel a page, each in a file of its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr

from charllm.ui import (
    evaluate_form,
    evaluate_interviews,
    evaluate_live,
    evaluate_pairs,
    evaluate_queries,
    evaluate_rag,
)
from charllm.ui.judge_html import SHARED
from charllm.ui.page import Page
from charllm.ui.words import t


def build(page: Page) -> None:
    with gr.Tabs(elem_id="evaluate-tabs") as tabs:
        with _tab("setup", t("Set up", "設定")) as tab:
            setup = evaluate_form.build(replace(page, tab=tab))
        with _tab("runs", t("Results", "結果")) as tab:
            live, current = evaluate_live.build(replace(page, tab=tab), setup, tabs)
            live.shown_at(tab.select)
        with _tab("queries", t("Question by question", "質問ごと")) as tab:
            evaluate_queries.build(replace(page, tab=tab), current).shown_at(tab.select)
        with _tab("pairs", t("Pairs", "勝敗")) as tab:
            evaluate_pairs.build(replace(page, tab=tab), current).shown_at(tab.select)
        with _tab("rag", t("RAG", "RAG")) as tab:
            evaluate_rag.build(replace(page, tab=tab), current).shown_at(tab.select)
        with _tab("interviews", t("Interviews", "インタビュー")) as tab:
            evaluate_interviews.build(replace(page, tab=tab))
    panel = setup.panel
    opened = page.tab.select(
        panel.refresh, panel.inputs, panel.outputs, js=evaluate_form.RECALL, **SHARED
    )
    live.shown_at(setup.after(opened).then)


def _tab(name: str, label: Any) -> gr.Tab:
    return gr.Tab(label, id=f"evaluate-{name}", elem_id=f"evaluate-tab-{name}")
