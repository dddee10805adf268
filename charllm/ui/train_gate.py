"""The gate over the Train tab: whether the run that the form describes may start, and the start.

What a look has found is remembered by the server for the settings it was found with.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import gradio as gr

from charllm.core.training_config import TrainConfig
from charllm.data.config import Paths
from charllm.data.errors import Text
from charllm.services.train_look import Look, look
from charllm.ui.form_values import Read
from charllm.ui.page import banner
from charllm.ui.words import language_of, say, t

KEPT = 32
"""Verdicts that are remembered."""

INVALID = Text("Mend the form before it can start.", "フォームの誤りを直すと開始できます。")
UNSEEN = Text(
    "Not looked at yet. Look at what is learnt, or start at once: a start checks it as well.",
    "まだ確認していません。先に学習内容を確認できます（開始するときにも自動で確認します）。",
)
FITS_NOT = Text(
    "The memory will probably not suffice; the Look page says what would help.",
    "メモリーが足りない見込みです。対策は「学習前の確認」にあります。",
)


class Verdicts:
    """Looks by the settings they were made with; a look at the same settings is made anew."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Look] = OrderedDict()

    def known(self, config: TrainConfig) -> Look | None:
        with self._lock:
            return self._known.get(config.model_dump_json())

    def make(self, config: TrainConfig) -> Look:
        """Look now, and remember it."""
        made = look(config, self._paths)
        with self._lock:
            self._known[config.model_dump_json()] = made
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
        return made


@dataclass(frozen=True)
class Gate:
    """The bar's components. ``outputs`` are what ``shown`` gives values for."""

    verdicts: Verdicts
    status: gr.HTML
    ask: gr.Button
    start: gr.Button

    @property
    def outputs(self) -> list[Any]:
        return [self.status, self.start]

    def shown(self, read: Read[TrainConfig], request: gr.Request) -> list[Any]:
        """What is known of the run that the form describes, and whether it may start."""
        if read.config is None:
            return [banner(say(INVALID, request), "bad"), gr.Button(interactive=False)]
        found = self.verdicts.known(read.config)
        blocked = found is not None and found.blocks
        return [status_html(found, request), gr.Button(interactive=not blocked)]


def status_html(found: Look | None, request: gr.Request) -> str:
    """A look's verdict in a line; without a look, that there was none."""
    if found is None:
        return banner(say(UNSEEN, request))
    if found.problem is not None:
        return banner(found.problem.in_(language_of(request)), "bad" if found.blocks else "")
    counts = found.totals
    if "remote" in counts:
        count = counts["remote"]["examples"]
        words = Text(f"{count:,} examples can be sent.", f"{count:,} 件の例を送信できます。")
    else:
        words = Text(
            f"{counts['rows']:,} rows: each learns its reply and one end token.",
            f"{counts['rows']:,} 行とも、返答と終了トークン 1 個だけを学習します。",
        )
    short = found.memory and not found.memory["fits"]
    note = f" {say(FITS_NOT, request)}" if short else ""
    return banner(say(words, request) + note, "" if short else "good")


def build(page_paths: Paths) -> Gate:
    with gr.Row(equal_height=True, elem_id="train-bar"):
        status = gr.HTML("", elem_id="train-status")
        ask = gr.Button(
            t("Look before training", "学習前に確認"), elem_id="train-look", scale=0, min_width=170
        )
        start = gr.Button(
            t("Start training", "学習を始める"),
            variant="primary",
            elem_id="train-start",
            scale=0,
            min_width=170,
        )
    return Gate(Verdicts(page_paths), status, ask, start)
