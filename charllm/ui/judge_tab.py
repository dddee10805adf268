"""The Judge tab: choose a judge, prove it, filter with it, set the threshold, check it by hand.

Only the shell: one panel a page, each in a file of its own.
"""

from __future__ import annotations

from dataclasses import replace

import gradio as gr

from charllm.ui import (
    agreement_panel,
    desk_panel,
    filter_panel,
    judge_panel,
    quality_panel,
    threshold_panel,
)
from charllm.ui.judge_html import SHARED
from charllm.ui.page import Page
from charllm.ui.words import t

PANELS = (
    ("judges", t("Judges", "ジャッジの選択"), judge_panel),
    ("quality", t("Quality", "品質"), quality_panel),
    ("filter", t("Filter", "選別"), filter_panel),
    ("threshold", t("Threshold", "しきい値"), threshold_panel),
    ("desk", t("Spot check", "手採点"), desk_panel),
    ("agreement", t("Agreement", "一致度"), agreement_panel),
)
SLOW = ("desk", "agreement")
"""Refreshed only when they are opened themselves: they read every hand score and verdict."""


def build(page: Page) -> None:
    with gr.Tabs(elem_id="judge-tabs"):
        for name, label, module in PANELS:
            with gr.Tab(label, id=f"judge-{name}", elem_id=f"judge-tab-{name}") as tab:
                panel = module.build(replace(page, tab=tab))
            for opened in (tab,) if name in SLOW else (page.tab, tab):
                opened.select(panel.refresh, panel.inputs, panel.outputs, **SHARED)
