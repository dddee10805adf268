"""Who beats whom: ratings and a win matrix from pair verdicts, scores, blind votes, or a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from charllm.core.evaluation.matches import Match
from charllm.core.evaluation.verdict_files import read_verdicts
from charllm.data.errors import Text, UserError
from charllm.services.evaluate_pairs import VOTES, matches_of, sources_of, standing, vote_matches
from charllm.services.runs import Run
from charllm.ui import evaluate_more
from charllm.ui.evaluate_live import plots_component
from charllm.ui.evaluate_pairs_html import ratings_html, ratings_plot
from charllm.ui.evaluate_plots import NOTHING
from charllm.ui.judge_html import LAST, SHARED, Panel, empty, one_of, run_among
from charllm.ui.page import Page, banner
from charllm.ui.train_live_html import run_label
from charllm.ui.words import language_of, say, t

FILE = "file"
VOTED = Text("blind votes in the chat", "チャットのブラインド投票")
LOADED = Text("the file that was read", "読み込んだファイル")
NOTHING_YET = Text(
    "No verdicts here yet: vote blindly in the chat, have an evaluation judged, or read a file.",
    "まだ判定がありません。チャットでブラインド投票するか、評価を採点するか、ファイルを読み込んで"
    "ください。",
)


def build(page: Page, current: gr.Textbox) -> Panel:
    """``current`` says which evaluation's verdicts are offered."""
    with gr.Row(equal_height=True):
        source = gr.Dropdown(
            [], label=t("Verdicts", "判定の出どころ"), scale=4, elem_id="pairs-source"
        )
        length = gr.Checkbox(
            False,
            label=t("Take reply length into account", "返答の長さの影響を取り除く"),
            info=t("where both replies are known", "両方の返答が分かる対戦のみ"),
            elem_id="pairs-length",
        )
        file = gr.UploadButton(
            t("Read a verdict file…", "判定ファイルを読み込む…"),
            file_types=[".jsonl"],
            scale=0,
            min_width=210,
            elem_id="pairs-file",
        )
    shown = gr.HTML("", apply_default_css=False, elem_id="pairs-shown")
    plot = plots_component("pairs-plot")
    evaluate_more.again(page, current, "pairs")
    loaded = gr.Textbox("", visible=False)
    chosen = [page.profile, current, source, length, loaded]

    def sources(
        slug: str | None, run: Run | None, path: str, request: gr.Request
    ) -> list[tuple[str, str]]:
        """What there is: the file first, then votes, then the followed evaluation's."""
        found = [(f"{say(LOADED, request)}: {Path(path).name}", FILE)] if path else []
        if run is not None:
            named = f"{run_label(run)}: "
            found += [(named + say(one.label, request), one.key) for one in sources_of(run)]
        if slug and vote_matches(page.chat.store, slug):
            found.append((say(VOTED, request), VOTES))
        return found

    def matches(slug: str | None, run: Run | None, key: str, path: str) -> Sequence[Match]:
        if key == FILE:
            return read_verdicts(Path(path))
        if key == VOTES:
            return vote_matches(page.chat.store, slug or "")
        return matches_of(run, key) if run is not None else []

    def told(
        slug: str | None,
        run_id: str,
        key: str | None,
        by_length: bool,
        path: str,
        request: gr.Request,
    ) -> list[Any]:
        run = run_among(page.paths, "evaluate", run_id)
        if not key:
            return [empty(NOTHING_YET, request), NOTHING]
        try:
            found = standing(matches(slug, run, key, path), control_length=bool(by_length))
        except UserError as error:
            return [banner(error.in_(language_of(request)), "bad"), NOTHING]
        if found is None:
            return [empty(NOTHING_YET, request), NOTHING]
        owner = f"{run_id} {key} {by_length} {path} {found.ratings.n} {language_of(request)}"
        return [ratings_html(found, request), ratings_plot(owner, found, request)]

    def look(
        slug: str | None,
        run_id: str,
        key: str | None,
        by_length: bool,
        path: str,
        request: gr.Request,
    ) -> list[Any]:
        run = run_among(page.paths, "evaluate", run_id)
        try:
            choices = sources(slug, run, path, request)
        except UserError as error:  # files that were changed by hand
            told_ = banner(error.in_(language_of(request)), "bad")
            return [gr.Dropdown([], value=None), told_, NOTHING]
        key = one_of(key, choices)
        return [
            gr.Dropdown(choices, value=key),
            *told(slug, run_id, key, by_length, path, request),
        ]

    def on_file(
        slug: str | None, run_id: str, by_length: bool, path: str, request: gr.Request
    ) -> list[Any]:
        """A file that cannot be read is told, and becomes no choice."""
        try:
            read_verdicts(Path(path))
        except UserError as error:
            told_ = banner(error.in_(language_of(request)), "bad")
            return ["", gr.skip(), told_, NOTHING]
        return [path, *look(slug, run_id, FILE, by_length, path, request)]

    outputs = [source, shown, plot]
    for moment in (source.input, length.input):
        moment(told, chosen, [shown, plot], **LAST)
    file.upload(on_file, [page.profile, current, length, file], [loaded, *outputs], **SHARED)
    return Panel(look, chosen, outputs)
