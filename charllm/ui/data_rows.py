"""The rows of a dataset: a list of all of them, what is wrong with each, and an editor.

The list lives in the browser (``static/grid.js``): all rows go there once, as one JSON string, and
then only what a change has made of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from typing import Any

import gradio as gr

from charllm.data import collection
from charllm.data.collection import Dataset, load
from charllm.data.config import Paths
from charllm.data.errors import EditConflict, Language, UserError
from charllm.services.dataset_view import (
    changes_view,
    findings_view,
    messages_of,
    report_of,
    row_view,
    rows_view,
    version_of,
)
from charllm.ui.judge_html import SHARED, Panel
from charllm.ui.page import Page
from charllm.ui.words import language_of, warn

Asked = dict[str, Any]
Change = Callable[[Paths, str, Asked], Dataset]
_answers = count(1)


# --- data ---------------------------------------------------------------------------------------


def answer(view: dict[str, Any]) -> str:
    """The view as the page reads it; numbered, since an equal value would not be seen as new."""
    return json.dumps({**view, "n": next(_answers)}, ensure_ascii=False)


def nothing() -> str:
    return answer({"type": "rows", "name": "", "version": "", "rows": []})


def _save(paths: Paths, name: str, asked: Asked) -> Dataset:
    messages, expected = messages_of(asked["messages"]), messages_of(asked["expected"])
    return collection.edit_row(paths, name, asked["id"], messages, expected)


def _delete(paths: Paths, name: str, asked: Asked) -> Dataset:
    return collection.edit_row(paths, name, asked["id"], None, messages_of(asked["expected"]))


CHANGES: dict[str, Change] = {
    "save": _save,
    "delete": _delete,
    "restore": lambda paths, name, asked: collection.restore_row(paths, name, asked["id"]),
    "undo": lambda paths, name, asked: collection.undo_edit(paths, name),
    "redo": lambda paths, name, asked: collection.redo_edit(paths, name),
}
"""What the list may ask for, by the name of the event's action."""


def changed(paths: Paths, name: str, asked: Asked, language: Language) -> dict[str, Any]:
    """Make one change; a conflict answers with the row as it is stored now."""
    action, id_ = asked["action"], str(asked.get("id") or "")
    before = load(paths, name)
    try:
        after = CHANGES[action](paths, name, asked)
    except EditConflict as error:
        now = next((row for row in load(paths, name).dialogues if row.id == id_), None)
        told = {"type": "conflict", "name": name, "id": id_, "text": error.in_(language)}
        return {**told, "row": row_view(now) if now else None}
    except UserError as error:
        if not id_:
            raise
        return {"type": "refused", "name": name, "id": id_, "text": error.in_(language)}
    done = {"action": action, "id": id_} if id_ else None
    # A page whose rows are older than these gets all of them: somebody else has changed some.
    if asked.get("version") != version_of(before):
        return rows_view(after, done)
    return changes_view(before, after, done)


def findings(paths: Paths, name: str, language: Language) -> dict[str, Any]:
    """The findings of the rows as they are now."""
    dataset = load(paths, name)
    return findings_view(dataset, report_of(paths, dataset), language)


# --- layout and wiring --------------------------------------------------------------------------


def build(page: Page, chosen: gr.Textbox) -> Panel:
    """The list of the chosen dataset's rows; ``refresh`` reads them anew if they have changed."""
    rows = gr.HTML(
        "",
        html_template='<div class="datagrid"></div>',
        js_on_load="window.charllmGrid(element, props, trigger, watch)",
        apply_default_css=False,
        elem_id="data-grid",
    )
    has = gr.Textbox("", visible=False)

    def look(name: str | None, has_: str, request: gr.Request) -> Any:
        if not name:
            return [nothing(), ""]
        try:
            dataset = load(page.paths, name)
        except UserError as error:
            warn(error, request)
            return [nothing(), ""]
        version = f"{name} {version_of(dataset)}"
        return [gr.skip(), gr.skip()] if version == has_ else [answer(rows_view(dataset)), version]

    def act(event: gr.EventData, request: gr.Request) -> Any:
        asked = event._data
        name, action = str(asked.get("name") or ""), asked.get("action")
        language = language_of(request)
        try:
            if action == "load":
                dataset = load(page.paths, name)
                return [answer(rows_view(dataset, asked.get("done"))), gr.skip()]
            if action == "check":
                return [answer(findings(page.paths, name, language)), gr.skip()]
            view = changed(page.paths, name, asked, language)
        except UserError as error:
            warn(error, request)
            return [gr.skip(), gr.skip()]
        has_ = f"{name} {view['version']}" if "version" in view else gr.skip()
        return [answer(view), has_]

    # Every one of them counts: none may be dropped while another is on its way.
    rows.select(act, None, [rows, has], trigger_mode="multiple", **SHARED)
    return Panel(look, [chosen, has], [rows, has])
