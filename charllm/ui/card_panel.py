"""Character cards and plain text, in and out of the Character tab."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gradio as gr

from charllm.data.cards import export_card, import_bytes, portrait_of, save_imported
from charllm.data.errors import Text, UserError
from charllm.data.files import read_bytes
from charllm.data.profile import list_profiles, load_profile
from charllm.ui.downloads import made_file, saved_after
from charllm.ui.page import Page, banner
from charllm.ui.words import language_of, say, t, warn

FORMATS: dict[str, tuple[str, Literal["v1", "v2", "v3"]]] = {
    "PNG (V2 + V3)": (".png", "v3"),
    "JSON V3": (".json", "v3"),
    "JSON V2": (".json", "v2"),
    "JSON V1": (".json", "v1"),
    "CHARX (V3)": (".charx", "v3"),
    "facts.txt": (".txt", "v3"),
}


@dataclass(frozen=True)
class CardPanel:
    """``connect`` tells the panel how to put an imported profile into the header's list."""

    connect: Callable[[Callable[[str | None], Any]], None]


def free_slug(page: Page, slug: str) -> str:
    """The card's own short name, or the first numbered one that is free."""
    taken = set(list_profiles(page.paths))
    names = [slug, *(f"{slug}-{number}" for number in range(2, 1000))]
    return next(name for name in names if name not in taken)


def build(page: Page) -> CardPanel:
    gr.Markdown(t("### Character cards", "### キャラクターカード"))
    with gr.Row(equal_height=True):
        upload = gr.UploadButton(
            t("Import a card…", "カードを読み込む…"),
            file_types=[".png", ".json", ".charx", ".txt"],
            file_count="single",
            elem_id="card-upload",
            min_width=160,
        )
        kind = gr.Dropdown(
            list(FORMATS), value="PNG (V2 + V3)", show_label=False, container=False, min_width=150
        )
        export = gr.Button(t("Export", "書き出す"), elem_id="card-export", min_width=100)
        download = made_file()
    report = gr.HTML("", elem_id="card-report")

    def connect(profile_list: Callable[[str | None], Any]) -> None:
        def on_upload(file: str | None, request: gr.Request) -> Any:
            if not file:
                return [gr.skip(), gr.skip()]
            path = Path(file)
            try:
                imported = import_bytes(read_bytes(path), path.name)
                slug = free_slug(page, imported.profile.slug)
                save_imported(page.paths, imported, slug)
            except UserError as error:
                return [gr.skip(), banner(error.in_(language_of(request)), "bad")]
            profile = imported.profile
            words = Text(
                f"Imported {profile.name} as {slug}: {len(profile.facts)} facts, "
                f"{len(profile.examples)} examples.",
                f"{profile.name} を {slug} として読み込みました（事実 {len(profile.facts)} 件、"
                f"例 {len(profile.examples)} 件）。",
            )
            notes = [say(words, request), *(say(text, request) for text in imported.warnings)]
            return [profile_list(slug), banner(" ".join(notes), "good")]

        upload.upload(
            on_upload,
            upload,
            [page.profile, report],
            show_progress="minimal",
            api_visibility="private",
        )

    def on_export(slug: str | None, name: str, request: gr.Request) -> Any:
        try:
            if not slug:
                return [None, gr.skip()]
            profile = load_profile(page.paths, slug)
            ending, spec = FORMATS[name]
            path = page.paths.workspace / "exports" / f"{slug}{ending}"
            warnings = export_card(profile, path, spec, portrait_of(page.paths, profile))
        except UserError as error:
            warn(error, request)
            return [None, gr.skip()]
        notes = " ".join(say(text, request) for text in warnings)
        return [str(path), banner(notes) if notes else ""]

    made = export.click(
        on_export, [page.profile, kind], [download, report], api_visibility="private"
    )
    saved_after(made, download)
    return CardPanel(connect)
