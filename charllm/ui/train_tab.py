"""The Train tab: set a run up, look at what it would learn, watch it, use what it made.

Only the shell: the gate that starts a run, and one panel a page, each in a file of its own.
"""

from __future__ import annotations

from dataclasses import replace

import gradio as gr

from charllm.ui import train_form, train_gate, train_live, train_look
from charllm.ui.judge_html import SHARED
from charllm.ui.page import Page
from charllm.ui.words import t


def build(page: Page) -> None:
    gate = train_gate.build(page.paths)
    with gr.Tabs(elem_id="train-tabs") as tabs:
        with gr.Tab(t("Set up", "設定"), id="train-setup", elem_id="train-tab-setup") as tab:
            setup = train_form.build(replace(page, tab=tab), gate)
        with gr.Tab(t("Look", "学習前の確認"), id="train-look", elem_id="train-tab-look") as tab:
            train_look.build(replace(page, tab=tab), gate, setup, tabs)
        with gr.Tab(t("Runs", "実行"), id="train-runs", elem_id="train-tab-runs") as tab:
            live = train_live.build(replace(page, tab=tab), gate, setup, tabs)
            live.shown_at(tab.select)
    panel = setup.panel
    opened = page.tab.select(
        panel.refresh, panel.inputs, panel.outputs, js=train_form.RECALL, **SHARED
    )
    live.shown_at(setup.after(opened).then)
