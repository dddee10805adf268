"""The bar of the Data tab: which dataset is chosen, and what concerns it as a whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from typing import Any

import gradio as gr

from charllm.data import collection
from charllm.data.dataset_card import KINDS, as_markdown, quality_note
from charllm.data.dialogue import dataset_path, list_datasets
from charllm.data.errors import Text, UserError
from charllm.data.files import read_bytes, write_bytes, write_text
from charllm.data.profile import list_profiles, load_profile
from charllm.ui.downloads import made_file, saved_after
from charllm.ui.judge_html import LAST, SHARED, one_of
from charllm.ui.page import Page, banner
from charllm.ui.words import language_of, say, t, warn

NONE_YET = Text(
    "There is no dataset yet. Open Import to read a file of dialogues, or From use to make one of "
    "what was said in the chat.",
    "データセットがまだありません。「読み込み」で会話データのファイルを読み込むか、"
    "「チャットから」でチャットの記録から作ってください。",
)
OUTSIDE = Text(
    "Another program has changed these rows, or their originals are gone. Decide before you edit: "
    "take the rows as they are now, or make them again from the originals. The other state is kept "
    "among the deleted datasets.",
    "ほかのプログラムがこの行を変更したか、元の行がなくなっています。編集する前に、"
    "今の行をそのまま採用するか、元の行から作り直すかを選んでください。"
    "選ばなかったほうは「削除したデータセット」に残ります。",
)


# --- data ---------------------------------------------------------------------------------------


def choices(page: Page, request: gr.Request) -> list[tuple[str, str]]:
    """``(name · rows · kind · character, name)`` of every dataset."""
    names = {slug: _profile_name(page, slug) for slug in list_profiles(page.paths)}
    found = []
    for item in collection.listing(page.paths):
        rows = Text(f"{item.rows:,} rows", f"{item.rows:,} 行")
        parts = [item.name, say(rows, request), say(KINDS[item.kind], request)]
        parts.append(names.get(item.profile, item.profile))
        found.append((" · ".join(part for part in parts if part), item.name))
    return found


def _profile_name(page: Page, slug: str) -> str:
    try:
        return load_profile(page.paths, slug).name
    except UserError:  # its own tab says what is wrong with it
        return slug


def about(page: Page, name: str | None, request: gr.Request) -> tuple[str, bool]:
    """What has to be known before the rows are used, and whether somebody else changed them."""
    if not name:
        return (banner(say(NONE_YET, request)) if not list_datasets(page.paths) else ""), False
    try:
        dataset = collection.load(page.paths, name)
    except UserError as error:
        return banner(error.in_(language_of(request)), "bad"), False
    parts = [banner(say(OUTSIDE, request), "bad")] if dataset.outside else []
    if dataset.waiting:
        words = Text(
            f"{len(dataset.waiting)} edited rows are away with the present steps; their edits are "
            "kept.",
            f"手で編集した {len(dataset.waiting)} 行は、今の前処理で除かれています。"
            "編集内容は残っています。",
        )
        parts.append(f'<p class="note">{escape(say(words, request))}</p>')
    made = dataset.card.filtered
    if made and not made.quality.get("passed"):
        parts.append(banner(say(quality_note(made), request), "bad"))
    return "".join(parts), dataset.outside


def change(page: Page, what: str, name: str | None, new: str) -> tuple[str | None, Text]:
    """Copy, rename or delete; the dataset to show afterwards, and what was done."""
    if not name:
        raise UserError("Choose a dataset first.", "先にデータセットを選んでください。")
    if what == "delete":
        collection.delete_dataset(page.paths, name)
        return None, Text(
            f"Deleted {name}. It can be brought back under Deleted datasets, below.",
            f"「{name}」を削除しました。下の「削除したデータセット」から戻せます。",
        )
    if not new:
        raise UserError(
            "Write the new name into the field first.", "先に新しい名前を入力してください。"
        )
    if what == "copy":
        collection.copy_dataset(page.paths, name, new)
        return new, Text(f"Copied {name} as {new}.", f"「{name}」を「{new}」にコピーしました。")
    collection.rename_dataset(page.paths, name, new)
    return new, Text(f"Renamed {name} to {new}.", f"「{name}」を「{new}」に変更しました。")


def exported(page: Page, what: str, name: str, request: gr.Request) -> str:
    """Where the rows or the card lie for download."""
    folder = page.paths.workspace / "exports"
    card = collection.load(page.paths, name).card
    if what == "rows":
        path = folder / f"{name}.jsonl"
        write_bytes(path, read_bytes(dataset_path(page.paths, name)))
    else:
        path = folder / f"{name}-README.md"
        write_text(path, as_markdown(card, language_of(request)))
    return str(path)


# --- layout -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    """``listed`` shows the datasets there are now, with one of them chosen, in ``outputs``.

    ``name`` is the chosen one: handlers read it, since a list whose choices have just changed is
    refused by Gradio while an older choice is on its way. ``picked`` follows every new choice;
    ``changed`` are the events after which there may be other datasets, or other rows.
    """

    name: gr.Textbox
    picked: Any
    status: gr.HTML
    outputs: list[Any]
    listed: Callable[[str | None, gr.Request], list[Any]]
    changed: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Controls:
    chosen: gr.Dropdown
    new_name: gr.Textbox
    changes: dict[str, gr.Button]
    files: dict[str, gr.Button]
    download: gr.DownloadButton


def _controls() -> Controls:
    with gr.Row(equal_height=True, elem_id="data-bar"):
        chosen = gr.Dropdown(
            [], show_label=False, container=False, scale=6, min_width=330, elem_id="dataset"
        )
        new_name = gr.Textbox(
            "",
            show_label=False,
            container=False,
            placeholder=t("new name: a-z 0-9 -", "新しい名前: a-z 0-9 -"),
            scale=2,
            min_width=170,
            elem_id="data-new-name",
        )
        labels = {
            "copy": t("Copy", "コピー"),
            "rename": t("Rename", "名前を変更"),
            "delete": t("Delete", "削除"),
            "rows": "JSONL ↓",
            "card": t("Card ↓", "カード ↓"),
        }
        buttons = {
            what: gr.Button(label, scale=0, min_width=112, elem_id=f"data-{what}")
            for what, label in labels.items()
        }
        download = made_file()
    files = {what: buttons.pop(what) for what in ("rows", "card")}
    return Controls(chosen, new_name, buttons, files, download)


# --- wiring -------------------------------------------------------------------------------------


def build(page: Page) -> Bar:
    controls = _controls()
    chosen, current = controls.chosen, gr.Textbox("", visible=False)
    status = gr.HTML("", elem_id="data-status")
    note = gr.HTML("", elem_id="data-about")
    with gr.Row(visible=False, elem_id="data-outside") as outside:
        adopt = gr.Button(t("Take the rows as they are", "今の行を採用する"), elem_id="data-adopt")
        discard = gr.Button(
            t("Make them again from the originals", "元の行から作り直す"), elem_id="data-discard"
        )
    outputs = [chosen, current, note, outside]

    def show_about(name: str | None, request: gr.Request) -> list[Any]:
        html, changed = about(page, name, request)
        return [html, gr.Row(visible=changed)]

    def listed(current: str | None, request: gr.Request) -> list[Any]:
        rows = choices(page, request)
        name = one_of(current, rows)
        return [gr.Dropdown(rows, value=name), name or "", *show_about(name, request)]

    def act(what: str) -> Any:
        def handler(name: str | None, new: str, request: gr.Request) -> Any:
            try:
                shown, said = change(page, what, name, new.strip())
            except UserError as error:
                warn(error, request)
                return [gr.skip()] * (len(outputs) + 2)
            return [*listed(shown, request), "", banner(say(said, request), "good")]

        return handler

    def decide(what: str) -> Any:
        def handler(name: str | None, request: gr.Request) -> Any:
            try:
                if name:
                    (collection.adopt if what == "adopt" else collection.discard)(page.paths, name)
            except UserError as error:
                warn(error, request)
            return listed(name, request)

        return handler

    def fetch(what: str) -> Any:
        def handler(name: str | None, request: gr.Request) -> Any:
            try:
                return exported(page, what, name, request) if name else None
            except UserError as error:
                warn(error, request)
                return None

        return handler

    changed = [
        button.click(
            act(what), [current, controls.new_name], [*outputs, controls.new_name, status], **SHARED
        )
        for what, button in controls.changes.items()
    ]
    for button, what in ((adopt, "adopt"), (discard, "discard")):
        changed.append(button.click(decide(what), current, outputs, **SHARED))
    chosen.input(lambda: "", None, status, **LAST)
    copied = chosen.change(None, chosen, current, js="(name) => name || ''")
    picked = copied.then(show_about, current, [note, outside], **LAST)
    for what, button in controls.files.items():
        made = button.click(fetch(what), current, controls.download, **SHARED)
        saved_after(made, controls.download)
    return Bar(current, picked, status, outputs, listed, changed)
