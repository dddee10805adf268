"""Pieces of HTML of the Train tab, all escaped: the recipe, rows as tokens, memory, replies."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import gradio as gr

from charllm.core.training_config import TrainConfig
from charllm.data.config import Paths
from charllm.data.errors import Text
from charllm.services.train_forms import file_command, only_in_files, set_command, yaml_of
from charllm.services.train_look import base_words
from charllm.ui.form_values import Read
from charllm.ui.page import banner
from charllm.ui.words import language_of, say


def words(text: Text, request: gr.Request) -> str:
    """A text in the reader's language, escaped."""
    return escape(say(text, request))


# --- set up -------------------------------------------------------------------------------------


def base_html(paths: Paths, base: str, backend: str, request: gr.Request) -> str:
    """How to get the base, where it is not on this machine; else nothing."""
    if not base or backend != "local":
        return ""
    missing = base_words(base, paths)
    return banner(missing.in_(language_of(request))) if missing else ""


def recipe_html(
    read: Read[TrainConfig], begun: tuple[str, dict[str, Any]], request: gr.Request
) -> str:
    """The YAML and the commands that start the same run, to be copied or saved."""
    if read.config is None:
        text = Text(
            "The YAML and the command appear here once the form is valid.",
            "フォームに誤りがなくなると、ここに YAML とコマンドが表示されます。",
        )
        return f'<p class="note">{words(text, request)}</p>'
    start, values = begun
    kept = only_in_files(values)
    parts = [_kept_html(kept, request)] if kept else []
    name = f"{read.config.name}.yaml"
    parts.append(_code(Text("YAML", "YAML"), "train-yaml", yaml_of(read.config), request, name))
    parts.append(
        _code(
            Text("Command, with the file saved", "コマンド（ファイルを保存した場合）"),
            "train-command",
            file_command(read.config),
            request,
        )
    )
    alone = set_command(read.config, start)
    if alone:
        title = Text("Command, without a file", "コマンド（ファイルなし）")
        parts.append(_code(title, "train-set-command", alone, request))
    return f'<div class="stacked">{"".join(parts)}</div>'


def _kept_html(kept: Mapping[str, Any], request: gr.Request) -> str:
    names = ", ".join(kept)
    text = Text(
        f"Also kept from what was read: {names}.", f"読み込んだ内容から引き継ぐ項目：{names}"
    )
    return f'<p class="note">{words(text, request)}</p>'


def _code(title: Text, id_: str, code: str, request: gr.Request, file: str = "") -> str:
    """A block of code with its buttons; with ``file`` it can be saved under that name."""
    copy = words(Text("Copy", "コピー"), request)
    buttons = f'<button type="button" class="small" data-copy="#{id_}">{copy}</button>'
    if file:
        save = words(Text("Save", "保存"), request)
        buttons += (
            f'<button type="button" class="small" data-save="#{id_}" '
            f'data-name="{escape(file)}">{save}</button>'
        )
    return (
        f'<div class="codebox"><header><b>{words(title, request)}</b>{buttons}</header>'
        f'<pre id="{id_}">{escape(code)}</pre></div>'
    )
