"""From use to data: edited answers, votes and hand scores of the chat as training rows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from html import escape
from typing import Any

import gradio as gr

from charllm.data.errors import Text, UserError
from charllm.data.files import read_bytes, write_bytes
from charllm.data.text import first_lines
from charllm.services import harvest
from charllm.services.harvest import Harvest
from charllm.services.store import Store
from charllm.ui.data_import_html import table_html
from charllm.ui.downloads import made_file, saved_after
from charllm.ui.judge_html import LAST, SHARED, Panel
from charllm.ui.page import Page, banner
from charllm.ui.words import language_of, say, t

SHOWN = 6
EMPTY = Text(
    "Nothing yet. In the chat, edit an answer, vote for the best one, or score replies by hand on "
    "the Judge tab: each of them becomes a row here.",
    "まだ何もありません。チャットで答えを編集する、一番良い答えに投票する、「ジャッジ」タブで手動で"
    "採点すると、その一つひとつがここで行になります。",
)
ABOUT = t(
    "Made of what people said about this character's answers. Questions near a query set stay out, "
    "so that nothing is trained on what it is measured with.",
    "このキャラクターの答えに対する編集・投票・採点から作ります。"
    "評価用の質問に近いものは使いません（学習と評価が重ならないようにするためです）。",
)
KINDS = [
    (t("edited answers", "編集した答え"), "edit"),
    (t("votes", "投票"), "vote"),
    (t("hand scores", "手動の採点"), "hand"),
]


# --- data ---------------------------------------------------------------------------------------


def gathered(
    page: Page, slug: str, kinds: list[str], threshold: float
) -> tuple[Harvest[Any], Harvest[Any]]:
    """Supervised rows and preference pairs as they would be saved now."""
    with closing(Store(page.paths)) as store:
        wanted: Any = tuple(kinds)
        rows = harvest.supervised_rows(store, slug, page.paths, threshold=threshold, kinds=wanted)
        return rows, harvest.preference_rows(store, slug, page.paths, kinds=wanted)


def left_out_html(found: Harvest[Any], request: gr.Request) -> str:
    if not found.left_out:
        return ""
    heads = (Text("Not used because", "使わなかった理由"), Text("Number", "件数"))
    rows = [
        f"<td>{escape(say(why, request))}</td><td class='num'>{n:,}</td>"
        for why, n in found.reasons()
    ]
    return table_html(heads, rows, request)


def rows_html(found: Harvest[Any], request: gr.Request) -> str:
    """How many supervised rows, the newest of them, and what was left out."""
    if not found.rows:
        return left_out_html(found, request)
    heads = (Text("Question", "質問"), Text("Reply to learn", "学習する返答"))
    rows = [
        f"<td>{escape(first_lines(row.question, 80))}</td>"
        f"<td>{escape(first_lines(row.reply, 120))}</td>"
        for row in found.rows[-SHOWN:]
    ]
    return table_html(heads, rows, request) + left_out_html(found, request)


def pairs_html(found: Harvest[Any], request: gr.Request) -> str:
    """How many preference pairs, the newest of them, and what was left out."""
    if not found.rows:
        return left_out_html(found, request)
    heads = (Text("Better", "良い答え"), Text("Worse", "悪い答え"))
    rows = [
        f"<td>{escape(first_lines(row['chosen'][0]['content'], 100))}</td>"
        f"<td>{escape(first_lines(row['rejected'][0]['content'], 100))}</td>"
        for row in found.rows[-SHOWN:]
    ]
    return table_html(heads, rows, request) + left_out_html(found, request)


# --- layout and wiring --------------------------------------------------------------------------


def build(page: Page, made: gr.Textbox, after: Callable[[Any], None]) -> Panel:
    """``made`` gets the new dataset's name, "" where there is none; ``after`` follows the event."""
    gr.Markdown(ABOUT)
    with gr.Row():
        kinds = gr.CheckboxGroup(
            KINDS,
            value=[kind for _, kind in KINDS],
            label=t("Made of", "使うもの"),
            scale=3,
            elem_id="use-kinds",
        )
        threshold = gr.Number(
            harvest.THRESHOLD,
            label=t("Hand scores from", "手動の採点（この点以上）"),
            minimum=1,
            maximum=7,
            step=0.5,
            scale=1,
            min_width=170,
            elem_id="use-threshold",
        )
        name = gr.Textbox(
            "",
            label=t("Name", "名前"),
            placeholder="a-z 0-9 -",
            scale=2,
            elem_id="use-name",
        )
    status = gr.HTML("", elem_id="use-status")
    with gr.Row():
        with gr.Column(min_width=420):
            head = gr.Markdown("", elem_id="use-rows-head")
            keep = gr.Button(t("Save as a dataset", "データセットとして保存"), elem_id="use-save")
            rows = gr.HTML("", elem_id="use-rows")
        with gr.Column(min_width=420):
            pair_head = gr.Markdown("", elem_id="use-pairs-head")
            keep_pairs = gr.Button(
                t("Save and download the pairs", "組を保存してダウンロード"),
                elem_id="use-save-pairs",
            )
            pairs = gr.HTML("", elem_id="use-pairs")
    download = made_file()

    def look(slug: str | None, kinds_: list[str], least: float, request: gr.Request) -> Any:
        if not slug:
            return [banner(say(EMPTY, request)), "", "", "", ""]
        try:
            good, both = gathered(page, slug, kinds_, least)
        except UserError as error:
            return [banner(error.in_(language_of(request)), "bad"), "", "", "", ""]
        counts = (
            Text(
                f"### {len(good.rows):,} rows to learn from",
                f"### 学習に使う行: {len(good.rows):,} 行",
            ),
            Text(
                f"### {len(both.rows):,} preference pairs",
                f"### 好みの組（良い答えと悪い答え）: {len(both.rows):,} 組",
            ),
        )
        nothing = not (good.rows or both.rows or good.left_out or both.left_out)
        return [
            banner(say(EMPTY, request)) if nothing else "",
            say(counts[0], request),
            rows_html(good, request),
            say(counts[1], request),
            pairs_html(both, request),
        ]

    def save(
        slug: str | None, kinds_: list[str], least: float, name_: str, request: gr.Request
    ) -> Any:
        try:
            if not slug:
                return ["", gr.skip()]
            good, _ = gathered(page, slug, kinds_, least)
            card = harvest.save_supervised(page.paths, good, name_.strip(), slug)
        except UserError as error:
            return ["", banner(error.in_(language_of(request)), "bad")]
        words = Text(
            f"Saved {card.rows:,} rows as {card.name}.",
            f"{card.rows:,} 行を「{card.name}」として保存しました。",
        )
        return [card.name, banner(say(words, request), "good")]

    def save_pairs(
        slug: str | None, kinds_: list[str], least: float, name_: str, request: gr.Request
    ) -> Any:
        try:
            if not slug:
                return [None, gr.skip()]
            _, both = gathered(page, slug, kinds_, least)
            path = harvest.save_preferences(page.paths, both, name_.strip())
        except UserError as error:
            return [None, banner(error.in_(language_of(request)), "bad")]
        words = Text(
            f"Saved {len(both.rows):,} pairs in datasets/preferences/{path.name}.",
            f"{len(both.rows):,} 組を datasets/preferences/{path.name} に保存しました。",
        )
        # Only what lies among the exports may leave the machine's folders.
        copy = page.paths.workspace / "exports" / f"{path.stem}-preferences.jsonl"
        write_bytes(copy, read_bytes(path))
        return [str(copy), banner(say(words, request), "good")]

    seen = [page.profile, kinds, threshold]
    shown = [status, head, rows, pair_head, pairs]
    for control in (kinds.input, threshold.input, page.profile.change):
        control(look, seen, shown, **LAST)
    after(keep.click(save, [*seen, name], [made, status], **SHARED))
    saved_after(keep_pairs.click(save_pairs, [*seen, name], [download, status], **SHARED), download)
    return Panel(look, seen, shown)
