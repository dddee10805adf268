"""A dataset as the page looks at it: rows, what a change made of them, what the checks say.

Everything is JSON as ``static/grid.js`` reads it: a row is ``[id, [[role, text]…], topic, score]``.
The version says which rows a page has, so that a change is only ever added to those it belongs to.
It does not know how a page is drawn.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from charllm.data import collection
from charllm.data.checking import CODES, Report, check
from charllm.data.collection import Dataset
from charllm.data.config import Paths
from charllm.data.dialogue import Dialogue, Message
from charllm.data.errors import Language, UserError
from charllm.data.files import sha256
from charllm.data.profile import Profile, list_profiles, load_profile

KEPT = 4
"""So many reports stay in memory."""

_reports: OrderedDict[str, Report] = OrderedDict()
_lock = threading.Lock()


def version_of(dataset: Dataset) -> str:
    """Names these rows: their hash, marked where another program has changed them since."""
    mark = f"-outside-{len(dataset.dialogues)}" if dataset.outside else ""
    return f"{dataset.card.data_hash[:24]}{mark}"


def profile_of(paths: Paths, dataset: Dataset) -> Profile | None:
    """The character that the dataset is for: its card's, or the one of the same name."""
    known = list_profiles(paths)
    slug = next((s for s in (dataset.card.profile, dataset.name) if s in known), None)
    return load_profile(paths, slug) if slug else None


def report_of(paths: Paths, dataset: Dataset) -> Report:
    """The checks of the rows as they are, made once for each state of rows, profile and queries."""
    profile, queries = profile_of(paths, dataset), collection.all_queries(paths)
    seen = f"{version_of(dataset)} {profile.model_dump_json() if profile else ''} {queries}"
    key = sha256(seen.encode())
    with _lock:
        known = _reports.get(key)
    if known is None or dataset.outside:
        known = check(dataset.dialogues, queries, profile)
        with _lock:
            _reports[key] = known
            while len(_reports) > KEPT:
                _reports.popitem(last=False)
    return known


def row_view(row: Dialogue) -> list[Any]:
    topic, score = row.meta.get("topic"), row.meta.get("score")
    number = isinstance(score, int | float) and not isinstance(score, bool)
    return [
        row.id,
        [[message.role, message.content] for message in row.messages],
        topic if isinstance(topic, str) else "",
        score if number else None,
    ]


def messages_of(view: Any) -> list[Message]:
    """``[[role, text]…]`` as messages; ``UserError`` where it is none."""
    if not isinstance(view, list) or not all(isinstance(m, list) and len(m) == 2 for m in view):
        raise UserError("These are no messages.", "発言の形になっていません。")
    return [Message.from_data({"role": role, "content": text}, "message") for role, text in view]


def rows_view(dataset: Dataset, done: dict[str, str] | None = None) -> dict[str, Any]:
    """All rows and the state of the hand edits. ``done`` as in ``changes_view``."""
    return {
        "type": "rows",
        "name": dataset.name,
        "version": version_of(dataset),
        "rows": [row_view(row) for row in dataset.dialogues],
        "done": done,
        **_edits(dataset),
    }


def changes_view(
    before: Dataset, after: Dataset, done: dict[str, str] | None = None
) -> dict[str, Any]:
    """What differs between two states: ``changes`` with their places in the new order.

    ``done`` names the row and the action that were asked for.
    """
    had = {row.id: row for row in before.dialogues}
    stays = {row.id for row in after.dialogues}
    return {
        "type": "changed",
        "name": after.name,
        "before": version_of(before),
        "version": version_of(after),
        "changes": [
            [place, row_view(row)]
            for place, row in enumerate(after.dialogues)
            if (old := had.get(row.id)) is not row and old != row
        ],
        "removed": [row.id for row in before.dialogues if row.id not in stays],
        "done": done,
        **_edits(after),
    }


def _edits(dataset: Dataset) -> dict[str, Any]:
    present = {row.id for row in dataset.dialogues}
    current = dataset.edits.current
    return {
        "edited": [id for id in current if id in present],
        "deleted": [id for id, item in current.items() if item.messages is None],
        "undo": dataset.can_undo,
        "redo": dataset.can_redo,
    }


def findings_view(dataset: Dataset, report: Report, language: Language) -> dict[str, Any]:
    """The report by row, with the names of its findings and the lengths of the replies."""
    return {
        "type": "findings",
        "name": dataset.name,
        "version": version_of(dataset),
        "codes": [
            {
                "code": code,
                "label": CODES[code].label.in_(language),
                "serious": CODES[code].serious,
                "count": count,
            }
            for code, count in report.counts.items()
        ],
        "rows": {
            id: [[found.code, found.text.in_(language), found.other] for found in all_found]
            for id, all_found in report.by_row.items()
        },
        "lengths": report.lengths.as_json(),
    }
