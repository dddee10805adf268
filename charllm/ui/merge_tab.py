"""The Merge tab: set an evolution up, watch it, read what it is worth; or mix by hand.

Only the shell: one panel a page, each in a file of its own.
"""

from __future__ import annotations

from dataclasses import replace

import gradio as gr

from charllm.ui import merge_form, merge_live, merge_mixer
from charllm.ui.judge_html import SHARED
from charllm.ui.page import Page
from charllm.ui.words import t


def build(page: Page) -> None:
    with gr.Tabs(elem_id="merge-tabs") as tabs:
        with gr.Tab(t("Set up", "設定"), id="merge-setup", elem_id="merge-tab-setup") as tab:
            setup = merge_form.build(replace(page, tab=tab))
        with gr.Tab(t("Runs", "実行"), id="merge-runs", elem_id="merge-tab-runs") as tab:
            live = merge_live.build(replace(page, tab=tab), setup, tabs)
            live.shown_at(tab.select)
        with gr.Tab(t("Mixer", "手動で混ぜる"), id="merge-mixer", elem_id="merge-tab-mixer") as tab:
            merge_mixer.build(replace(page, tab=tab))
    panel = setup.panel
    opened = page.tab.select(
        panel.refresh, panel.inputs, panel.outputs, js=merge_form.RECALL, **SHARED
    )
    live.shown_at(setup.after(opened).then)
