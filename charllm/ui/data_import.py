"""Import: a file's format, columns, rows and refused rows are seen before anything is made of it.

The file is read anew for each look, so that what is imported is what was shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from charllm.data import collection
from charllm.data.checking import check
from charllm.data.errors import Text, UserError
from charllm.data.importing import (
    FORMATS,
    Detected,
    Imported,
    detect,
    read_file,
    write_rejected_csv,
)
from charllm.data.profile import load_profile
from charllm.services.intake import free_name, take_in
from charllm.services.preview import preview_rows
from charllm.ui import data_import_form
from charllm.ui.data_import_form import FIELDS
from charllm.ui.data_import_html import counts_html, detected_html, previews_html, rejected_html
from charllm.ui.judge_html import LAST, SHARED
from charllm.ui.page import Page, banner
from charllm.ui.words import language_of, say, t

NO_COLUMN = ""
SHOWN = 4
EMPTY = Text(
    "Choose a file or drop it on the left. Nothing is changed until you press Import: first you "
    "see its format, the rows as they will be read, and those that cannot be.",
    "左の欄でファイルを選ぶか、ドロップしてください。"
    "「読み込む」を押すまでは何も変わりません。形式、読み込まれる行、読み込めない行を先に確認できます。",
)


@dataclass(frozen=True)
class Look:
    """One look at the file: what it seems to be, and what was read of it."""

    path: Path
    detected: Detected | None
    found: Imported


# --- data ---------------------------------------------------------------------------------------


def look_at(path: Path, format: str, mapping: dict[str, str] | None) -> Look:
    """``UserError`` where nothing known fits and no format was chosen."""
    try:
        detected = detect(path)
    except UserError:
        if not format:
            raise
        detected = None
    return Look(path, detected, read_file(path, format, mapping))


def views(
    page: Page, look: Look, slug: str | None, model: str, request: gr.Request
) -> dict[str, str]:
    """Every view of the file, in HTML."""
    profile = load_profile(page.paths, slug) if slug else None
    rows = look.found.dialogues[:SHOWN]
    made = preview_rows(page.paths, profile, rows, model) if profile else []
    report = check(look.found.dialogues, collection.all_queries(page.paths), profile)
    known = look.detected
    return {
        "said": detected_html(known, look.found.format, request) if known else "",
        "counts": counts_html(look.found, report, request),
        "rows": previews_html(rows, made, request),
        "rejected": rejected_html(look.found, request),
    }


def rejected_file(page: Page, look: Look) -> str | None:
    """Where the refused rows lie as CSV; None where there are none."""
    if not look.found.rejected:
        return None
    target = page.paths.workspace / "exports" / f"{look.path.stem}-rejected.csv"
    write_rejected_csv(target, look.found.rejected)
    return str(target)


# --- layout and wiring --------------------------------------------------------------------------


def build(page: Page, made: gr.Textbox, after: Callable[[Any], None]) -> None:
    """``made`` gets the new dataset's name, "" where there is none; ``after`` follows the event."""
    with gr.Row():
        with gr.Column(scale=4, min_width=340):
            form = data_import_form.build()
            result = gr.HTML("", elem_id="import-result")
        with gr.Column(scale=9, min_width=520):
            said = gr.HTML("", elem_id="import-said")
            counts = gr.HTML("", elem_id="import-counts")
            rows = gr.HTML("", elem_id="import-rows")
            rejected = gr.HTML("", elem_id="import-rejected")
            csv = gr.DownloadButton(
                t("Save these rows as CSV", "これらの行を CSV で保存"),
                visible=False,
                size="sm",
                elem_id="import-csv",
            )
    shown = [said, counts, rows, rejected, csv, form.go]

    def chosen(values: tuple[Any, ...]) -> dict[str, str] | None:
        *columns, speaker = values
        if speaker.strip():
            return {"character": speaker.strip()}
        pairs = zip(FIELDS, columns, strict=True)
        return dict(pairs) if any(columns) else None  # "" leaves out a column that was guessed

    def nothing(html: str) -> list[Any]:
        return [
            html,
            "",
            "",
            "",
            gr.DownloadButton(visible=False),
            gr.Button(interactive=False),
        ]

    def seen(look: Look, slug: str | None, model: str, request: gr.Request) -> list[Any]:
        csv_file = rejected_file(page, look)
        return [
            *views(page, look, slug, model, request).values(),
            gr.DownloadButton(value=csv_file, visible=csv_file is not None),
            gr.Button(interactive=bool(look.found.dialogues)),
        ]

    def told(error: UserError, request: gr.Request) -> list[Any]:
        return nothing(banner(error.in_(language_of(request)), "bad"))

    def start(
        file: str | None, format: str, model: str, slug: str | None, request: gr.Request
    ) -> Any:
        """A new file or another format: its columns are guessed anew."""
        still = [*[gr.skip()] * len(FIELDS), gr.Textbox("", visible=False), gr.skip()]
        if not file:
            return [gr.Column(visible=False), *still, *nothing(banner(say(EMPTY, request)))]
        path = Path(file)
        try:
            look = look_at(path, format, None)
            html = seen(look, slug, model, request)
        except UserError as error:
            return [gr.Column(visible=False), *still, *told(error, request)]
        known, mappable = look.detected, FORMATS[look.found.format].mappable
        guessed = known.mapping if known and mappable else {}
        none = (say(Text("(not used)", "（使わない）"), request), NO_COLUMN)
        offered = [none, *((c, c) for c in (known.columns if known else []))]
        fields = [gr.Dropdown(offered, value=guessed.get(field, NO_COLUMN)) for field in FIELDS]
        speaker = known.mapping.get("character", "") if known and not format else ""
        said_by = gr.Textbox(speaker, visible=bool(speaker))
        return [gr.Column(visible=mappable), *fields, said_by, free_name(page.paths, file), *html]

    def again(
        file: str | None,
        format: str,
        model: str,
        slug: str | None,
        request: gr.Request,
        *values: Any,
    ) -> Any:
        if not file:
            return nothing(banner(say(EMPTY, request)))
        try:
            look = look_at(Path(file), format, chosen(values))
            return seen(look, slug, model, request)
        except UserError as error:
            return told(error, request)

    def greet(file: str | None, request: gr.Request) -> Any:
        return gr.skip() if file else banner(say(EMPTY, request))

    def take(
        file: str | None,
        format: str,
        slug: str | None,
        name: str,
        licence: str,
        replace: bool,
        request: gr.Request,
        *values: Any,
    ) -> Any:
        if not file:
            return ["", gr.skip()]
        path = Path(file)
        try:
            found = read_file(path, format, chosen(values))
            dataset = take_in(
                page.paths,
                name.strip(),
                path,
                found,
                profile=slug or "",
                licence=licence,
                replace=replace,
            )
        except UserError as error:
            return ["", banner(error.in_(language_of(request)), "bad")]
        words = Text(
            f"Imported {len(dataset.dialogues):,} rows as {dataset.name}.",
            f"{len(dataset.dialogues):,} 行を「{dataset.name}」として読み込みました。",
        )
        return [dataset.name, banner(say(words, request), "good")]

    looked = [form.file, form.format, form.model, page.profile]
    outputs = [form.mapping, *form.columns, form.speaker, form.name, *shown]
    told_how = [*form.columns, form.speaker]
    events = (form.file.upload, form.file.clear, form.format.input)
    for event in events:
        event(start, looked, outputs, **{**LAST, "show_progress": "minimal"})
    page.tab.select(greet, form.file, said, **SHARED)
    changes = [control.input for control in (*form.columns, form.model)]
    for event in (*changes, form.speaker.submit, form.speaker.blur):
        event(again, [*looked, *told_how], shown, **LAST)
    after(
        form.go.click(
            take,
            [
                form.file,
                form.format,
                page.profile,
                form.name,
                form.licence,
                form.replace,
                *told_how,
            ],
            [made, result],
            show_progress="minimal",
            api_visibility="private",
        )
    )
