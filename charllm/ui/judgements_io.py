"""Judgements in and out: other people's file comes in after a look at it, ours go out.

A file is read anew when it is kept, so that what is kept is what was shown.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from charllm.data.errors import Text, UserError
from charllm.data.files import write_text
from charllm.data.importing.rejecting import write_rejected_csv
from charllm.data.text import first_lines
from charllm.services.judged import summary, summary_csv
from charllm.services.judged_files import Verdicts, export_jsonl, read_verdicts, store_verdicts
from charllm.ui.downloads import made_file, saved_after
from charllm.ui.judge_html import SHARED, figures, table
from charllm.ui.page import Page, banner
from charllm.ui.words import language_of, say, t

LISTED = 20
HOW = Text(
    "One verdict a line (JSON): query, reply, judge, and a score or an unscored_reason; "
    "rubric, version, rationale and history where there are any.",
    "1 行に 1 件の JSON です。query・reply・judge と、score または unscored_reason が必要です。"
    "rubric・version・rationale・history は、あれば読み込みます。",
)


def slug_of(name: str) -> str:
    """A name for a source out of a file's name."""
    return re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")[:40] or "judgements"


def found_html(found: Verdicts, request: gr.Request) -> str:
    """What was read: how many verdicts, of whom, and every row that is refused with its reason."""
    counts = (
        (len(found.judgements), Text("verdicts", "件の採点"), ""),
        (len({row.subject for row in found.subjects}), Text("replies", "件の返答"), ""),
        (len(found.judges), Text("judges", "種類のジャッジ"), ""),
        (len(found.rejected), Text("refused rows", "行を除外"), "bad" if found.rejected else ""),
    )
    cells = [(f"{n:,}", say(words, request), kind) for n, words, kind in counts]
    judges = f'<p class="note">{escape(", ".join(found.judges))}</p>' if found.judges else ""
    ignored = Text(
        f"Fields that mean nothing here: {', '.join(sorted(found.ignored))}.",
        f"使わない項目: {', '.join(sorted(found.ignored))}",
    )
    more = f'<p class="note">{escape(say(ignored, request))}</p>' if found.ignored else ""
    return f'<div class="stacked">{figures(cells)}{judges}{more}{_rejected(found, request)}</div>'


def _rejected(found: Verdicts, request: gr.Request) -> str:
    if not found.rejected:
        return ""
    heads = (Text("Line", "行"), Text("Reason", "理由"), Text("Text", "内容"))
    rows = [
        (
            f"<td class='num'>{row.line}</td>",
            f"<td>{escape(say(row.reason, request))}</td>",
            f"<td class='wide'>{escape(first_lines(row.text, 100))}</td>",
        )
        for row in found.rejected[:LISTED]
    ]
    shown = table([say(head, request) for head in heads], rows)
    rest = len(found.rejected) - LISTED
    if rest <= 0:
        return shown
    words = Text(f"{rest:,} more are in the CSV file.", f"ほか {rest:,} 行は CSV にあります。")
    return f'{shown}<p class="note">{escape(say(words, request))}</p>'


def judge_choices(rows: Sequence[Any], request: gr.Request) -> list[tuple[str, str]]:
    every = say(Text("all judges", "すべてのジャッジ"), request)
    return [(every, ""), *((name, name) for name in sorted({row.judge for row in rows}))]


def build(page: Page) -> tuple[gr.Dropdown, gr.HTML]:
    """The two parts; gives the list of judges, which the panel fills, and where imports are told.

    The second changes whenever judgements have come in.
    """
    with gr.Row():
        with gr.Column(scale=1, min_width=380):
            gr.Markdown(t("#### Take in", "#### 読み込む"))
            file = gr.File(
                label=t("Judgements (JSONL)", "採点ファイル（JSONL）"),
                file_count="single",
                height=130,
                elem_id="verdicts-file",
            )
            name = gr.Textbox(
                "",
                label=t("Name of this source", "この出典の名前"),
                info=t("letters, digits, hyphens", "半角の英小文字・数字・ハイフン"),
                elem_id="verdicts-name",
            )
            take = gr.Button(
                t("Take in", "読み込む"),
                variant="primary",
                interactive=False,
                elem_id="verdicts-take",
            )
            result = gr.HTML("", elem_id="verdicts-result")
        with gr.Column(scale=2, min_width=480):
            gr.Markdown(t(HOW.en, HOW.ja))
            found_view = gr.HTML("", elem_id="verdicts-found")
            refused = gr.DownloadButton(
                t("Save the refused rows as CSV", "除外した行を CSV で保存"),
                visible=False,
                size="sm",
                elem_id="verdicts-refused",
            )
    gr.Markdown(t("#### Hand out", "#### 書き出す"))
    with gr.Row(equal_height=True):
        judge = gr.Dropdown(
            [],
            show_label=False,
            container=False,
            elem_id="verdicts-judge",
            scale=2,
        )
        as_lines = gr.Button(
            t("Every verdict (JSONL)", "全採点（JSONL）"), elem_id="verdicts-jsonl"
        )
        as_table = gr.Button(
            t("Table of judges (CSV)", "ジャッジ一覧（CSV）"), elem_id="verdicts-csv"
        )
    download = made_file()

    def read(slug: str | None, path: str | None, name_: str) -> Verdicts | None:
        if not slug or not path:
            return None
        return read_verdicts(
            page.paths, slug, Path(path), name_.strip() or slug_of(Path(path).stem)
        )

    def look(slug: str | None, path: str | None, request: gr.Request) -> Any:
        """A file was chosen or taken away."""
        off = [gr.DownloadButton(visible=False), gr.Button(interactive=False), ""]
        try:
            found = read(slug, path, "")
        except UserError as error:
            return ["", banner(error.in_(language_of(request)), "bad"), *off]
        if found is None or path is None:
            return ["", "", *off]
        csv = None
        if found.rejected:
            csv = page.paths.workspace / "exports" / f"{slug_of(Path(path).stem)}-refused.csv"
            write_rejected_csv(csv, found.rejected)
        return [
            slug_of(Path(path).stem),
            found_html(found, request),
            gr.DownloadButton(value=str(csv) if csv else None, visible=csv is not None),
            gr.Button(interactive=bool(found.judgements)),
            "",
        ]

    def keep(slug: str | None, path: str | None, name_: str, request: gr.Request) -> str:
        try:
            found = read(slug, path, name_)
            if found is None:
                return ""
            new = store_verdicts(page.chat.store, found)
        except UserError as error:
            return banner(error.in_(language_of(request)), "bad")
        words = Text(
            f"{new:,} new verdicts are kept under {found.source}"
            f" ({len(found.judgements) - new:,} were there already).",
            f"{new:,} 件を「{found.source}」として保存しました"
            f"（{len(found.judgements) - new:,} 件は保存済みでした）。",
        )
        return banner(say(words, request), "good")

    def handed(what: str) -> Any:
        def handler(slug: str | None, who: str | None, request: gr.Request) -> Any:
            if not slug:
                return None
            store = page.chat.store
            if what == "jsonl":
                text = export_jsonl(store, slug, judge=who or None)
            else:
                rows = [row for row in summary(store, slug) if who in (None, "", row.judge)]
                text = summary_csv(rows)
            path = page.paths.workspace / "exports" / f"{slug}-judgements.{what}"
            write_text(path, text)
            return str(path)

        return handler

    seen = [page.profile, file]
    file.change(look, seen, [name, found_view, refused, take, result], **SHARED)
    take.click(keep, [*seen, name], result, **SHARED)
    for button, what in ((as_lines, "jsonl"), (as_table, "csv")):
        saved_after(button.click(handed(what), [page.profile, judge], download, **SHARED), download)
    return judge, result
