"""The page: header, tabs, and what they share. One tab a file; no logic here."""

from __future__ import annotations

import gradio as gr

from charllm.data.config import Paths
from charllm.services.chat import ChatService
from charllm.ui import (
    character_tab,
    chat_tab,
    data_tab,
    evaluate_tab,
    judge_tab,
    merge_tab,
    models_tab,
    runs_tab,
    train_tab,
)
from charllm.ui.page import Page, profile_choices
from charllm.ui.stale import forgive_stale_choices
from charllm.ui.words import t

BRAND = '<span class="brand">char<i>llm</i></span>'
SWITCHES = (
    '<div class="topbar"><span class="spacer"></span><span class="switch">'
    '<button type="button" data-language="ja" lang="ja">日本語</button>'
    '<button type="button" data-language="en" lang="en">English</button></span>'
    '<button type="button" class="iconbutton" data-theme-switch title="light / dark">◐</button>'
    "</div>"
)


TABS = (
    ("chat", t("Chat", "チャット"), chat_tab),
    ("character", t("Character", "キャラクター"), character_tab),
    ("data", t("Data", "データ"), data_tab),
    ("judge", t("Judge", "ジャッジ"), judge_tab),
    ("train", t("Train", "学習"), train_tab),
    ("merge", t("Merge", "マージ"), merge_tab),
    ("evaluate", t("Evaluate", "評価"), evaluate_tab),
    ("models", t("Models", "モデル"), models_tab),
    ("runs", t("Runs", "実行"), runs_tab),
)


def build(paths: Paths) -> gr.Blocks:
    """The whole dashboard for one installation."""
    forgive_stale_choices()
    chat = ChatService(paths)
    with gr.Blocks(
        title="charllm", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)
    ) as demo:
        with gr.Row(elem_id="topbar", equal_height=True):
            gr.HTML(BRAND, min_width=110, scale=1)
            profiles = profile_choices(paths)
            profile = gr.Dropdown(
                profiles,
                value=profiles[0][1] if profiles else None,
                show_label=False,
                container=False,
                scale=0,
                min_width=230,
                elem_id="profile",
                interactive=True,
            )
            gr.HTML(SWITCHES, min_width=250, scale=0)
        with gr.Tabs(elem_id="tabs"):
            for name, label, module in TABS:
                with gr.Tab(label, id=name, elem_id=f"tab-{name}") as tab:
                    module.build(Page(paths, chat, demo, profile, tab))
    return demo
