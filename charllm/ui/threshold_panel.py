"""The threshold: what it keeps and loses of a filter run, and the dataset that is made of it.

The slider recolours the histogram in the browser; when it is let go, the page below follows.
"""

from __future__ import annotations

from typing import Any, cast

import gradio as gr

from charllm.core.filtering import THRESHOLD, Unscored, cut_at
from charllm.data.config import Paths
from charllm.data.dialogue import list_datasets
from charllm.data.errors import UserError
from charllm.services.filtering import Filtering, publish
from charllm.ui.expected_html import expected_html
from charllm.ui.judge_html import LAST, SHARED, Panel, one_of, run_among
from charllm.ui.page import Page, banner
from charllm.ui.presses import newest as newest_press
from charllm.ui.presses import noted, noting
from charllm.ui.threshold_html import (
    chart,
    counts_html,
    head_html,
    judged,
    nothing_html,
    published_html,
    rows_html,
    run_choices,
    topics_html,
)
from charllm.ui.words import language_of, t

CHART, NAME = 3, 4
"""Where the histogram and the new dataset's name stand among what is shown of a run."""


def free_name(paths: Paths, dataset: str) -> str:
    """``<dataset>-kept``, or the first numbered one that is free."""
    taken = set(list_datasets(paths))
    names = [f"{dataset}-kept", *(f"{dataset}-kept-{number}" for number in range(2, 1000))]
    return next(name for name in names if name not in taken)


# --- layout and wiring --------------------------------------------------------------------------


def build(page: Page) -> Panel:
    gr.Markdown(t("### What a threshold keeps", "### しきい値で何が残るか"))
    with gr.Row():
        chosen = gr.Dropdown(
            [], label=t("Filter run", "選別の実行"), scale=4, elem_id="threshold-run"
        )
        unscored = gr.Radio(
            [(t("take out", "外す"), "drop"), (t("keep", "残す"), "keep")],
            value="drop",
            label=t("Rows without a verdict", "採点できなかった行"),
            elem_id="threshold-unscored",
            scale=1,
            min_width=200,
        )
    at = gr.Number(THRESHOLD, visible=False)
    newest = gr.Textbox("", visible=False)
    moved = gr.Textbox("", visible=False)
    head = gr.HTML("", elem_id="threshold-head")
    bars = gr.HTML(
        {},
        html_template='<div class="histogram"></div>',
        js_on_load=noting("charllmHistogram", "bar"),
        apply_default_css=False,
        elem_id="threshold-histogram",
    )
    counts = gr.HTML("", elem_id="threshold-counts")
    expected = gr.HTML("", elem_id="threshold-expected")
    topics = gr.HTML("", elem_id="threshold-topics")
    gr.Markdown(t("### Make a dataset of it", "### データセットにする"))
    with gr.Row(equal_height=True):
        name = gr.Textbox(
            "",
            show_label=False,
            container=False,
            placeholder=t("name of the new dataset", "新しいデータセットの名前"),
            elem_id="threshold-name",
            scale=3,
        )
        make = gr.Button(
            t("Publish", "公開する"), variant="primary", elem_id="threshold-publish", scale=1
        )
    made = gr.HTML("", elem_id="threshold-made")
    rows = gr.HTML("", elem_id="threshold-rows")
    follows = [counts, expected, topics, rows]
    everything = [chosen, newest, unscored, at, head, bars, name, *follows]

    def details(found: Filtering, at_: float, unscored_: str, request: gr.Request) -> list[str]:
        how = cast(Unscored, unscored_)
        cut = cut_at(found.rows, at_, how, found.topic_of)
        return [
            counts_html(found, cut, request),
            expected_html(page.paths, found, at_, request),
            topics_html(cut, request),
            rows_html(found, at_, how, request),
        ]

    def shown(
        run_id: str | None, at_: float | None, how: str | None, request: gr.Request
    ) -> list[Any]:
        """The run with its own threshold, or with the one that is being looked at."""
        run = run_among(page.paths, "filter", run_id)
        if run is None:
            return [gr.skip(), gr.skip(), nothing_html(request), {}, "", "", "", "", ""]
        try:
            found = judged(run)
        except UserError as error:
            damaged = banner(error.in_(language_of(request)), "bad")
            return [gr.skip(), gr.skip(), damaged, {}, "", "", "", "", ""]
        threshold = found.config.threshold if at_ is None else at_
        keep = cast(Unscored, how or found.config.unscored)
        return [
            keep,
            threshold,
            head_html(found, request),
            chart(page.paths, found, threshold, keep),
            free_name(page.paths, found.config.dataset),
            *details(found, threshold, keep, request),
        ]

    def look(run_id: str | None, at_: float, how: str, newest_: str, request: gr.Request) -> Any:
        """As it was left, unless a run has come since or the chosen one is gone."""
        runs = run_choices(page.paths, request)
        last = runs[0][1] if runs else ""
        current = one_of(run_id if last == newest_ else last, runs)
        listed = gr.Dropdown(runs, value=current)
        if current is None or current != run_id:
            return [listed, last, *shown(current, None, None, request)]
        same = shown(current, at_, how, request)
        same[NAME] = gr.skip()
        return [listed, last, *same]

    def choose(run_id: str | None, request: gr.Request) -> Any:
        return shown(run_id, None, None, request)

    def recount(run_id: str | None, at_: float, how: str, request: gr.Request) -> Any:
        got = shown(run_id, at_, how, request)
        return [got[CHART], *got[NAME + 1 :]]

    def slide(run_id: str | None, how: str, moved_: str, request: gr.Request) -> Any:
        at_ = float(noted(moved_)["threshold"])
        return [at_, *shown(run_id, at_, how, request)[NAME + 1 :]]

    def on_publish(
        run_id: str | None, name_: str, at_: float, how: str, request: gr.Request
    ) -> Any:
        run = run_among(page.paths, "filter", run_id)
        if run is None:
            return [nothing_html(request), gr.skip()]
        try:
            result = publish(
                page.paths,
                run,
                name_.strip(),
                threshold=at_,
                unscored=cast(Unscored, how),
            )
        except UserError as error:
            return [banner(error.in_(language_of(request)), "bad"), gr.skip()]
        dataset = judged(run).config.dataset
        return [published_html(result, request), free_name(page.paths, dataset)]

    seen = [chosen, at, unscored, newest]
    chosen.input(choose, chosen, everything[2:], **LAST)
    bars.select(
        slide,
        [chosen, unscored, moved],
        [at, *follows],
        js=newest_press("bar"),
        trigger_mode="always_last",
        **SHARED,
    )
    unscored.input(recount, [chosen, at, unscored], [bars, *follows], **LAST)
    make.click(
        on_publish,
        [chosen, name, at, unscored],
        [made, name],
        show_progress="minimal",
        api_visibility="private",
    )
    return Panel(look, seen, everything)
