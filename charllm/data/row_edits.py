"""Hand edits of a dataset's rows: an append-only log, with undo and redo.

``datasets/originals/<name>.edits.jsonl``, an entry a line: ``{"do": "edit", "id", "messages"}``
(null deletes the row), ``{"do": "restore", "id"}``, ``{"do": "undo"}``, ``{"do": "redo"}``, each
with its time. What counts is folded from the whole log, so that an undone edit is never lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from charllm.data.config import Config
from charllm.data.dialogue import Dialogue, Message
from charllm.data.errors import UserError


class Entry(Config):
    """One line of the log. ``messages`` None with "edit" deletes the row."""

    do: Literal["edit", "restore", "undo", "redo"]
    id: str = ""
    messages: tuple[Message, ...] | None = None
    at: str = ""


@dataclass(frozen=True)
class Edits:
    """What the log comes to: ``done`` edits in order, and ``undone`` ones that can be redone."""

    done: tuple[Entry, ...] = ()
    undone: tuple[Entry, ...] = ()

    @property
    def current(self) -> dict[str, Entry]:
        """For each edited row its last edit; restored rows have none."""
        found: dict[str, Entry] = {}
        for entry in self.done:
            found.pop(entry.id, None)
            if entry.do == "edit":
                found[entry.id] = entry
        return found

    def then(self, entry: Entry) -> Edits:
        """After one more entry; undo and redo with nothing to do change nothing."""
        if entry.do == "undo":
            return Edits(self.done[:-1], (*self.undone, *self.done[-1:]))
        if entry.do == "redo":
            return Edits((*self.done, *self.undone[-1:]), self.undone[:-1])
        return Edits((*self.done, entry))


def entry(do: Literal["edit", "restore", "undo", "redo"], id: str = "", **more: Any) -> Entry:
    return Entry(do=do, id=id, at=datetime.now(UTC).isoformat(timespec="seconds"), **more)


def whole_lines(data: bytes) -> bytes:
    """Without a last line that a kill has torn."""
    return data[: data.rfind(b"\n") + 1]


def parse_edits(data: bytes, where: Path) -> Edits:
    """The edits of a log's bytes; ``UserError`` names file and line of the first broken entry."""
    done: list[Entry] = []
    undone: list[Entry] = []
    for number, line in enumerate(whole_lines(data).split(b"\n"), 1):
        if not line.strip():
            continue
        item = _entry_of(line, f"{where}, line {number}")
        # As Edits.then, but without copying the tuples for each of thousands of entries.
        if item.do == "undo":
            undone += [done.pop()] if done else []
        elif item.do == "redo":
            done += [undone.pop()] if undone else []
        else:
            done.append(item)
            undone = []
    return Edits(tuple(done), tuple(undone))


def _entry_of(line: bytes, where: str) -> Entry:
    try:
        data = json.loads(line)
    except ValueError:
        raise UserError(
            f"{where}: not valid JSON. Take the line out, or put the file aside.",
            f"{where}: JSON として読めません。その行を消すか、ファイルを別の場所へ移してください。",
        ) from None
    return Entry.from_data(data, where)


def append_entry(path: Path, item: Entry) -> None:
    """Add a line; a torn last line of an earlier kill is cut off first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        data = path.read_bytes()
        if len(whole_lines(data)) < len(data):
            with path.open("r+b") as file:
                file.truncate(len(whole_lines(data)))
    line = json.dumps(item.model_dump(mode="json"), ensure_ascii=False)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()


def apply_edits(rows: Iterable[Dialogue], edits: Mapping[str, Entry]) -> list[Dialogue]:
    """The rows with their edits; an edit of a row that is not there waits until it is."""
    made = []
    for row in rows:
        item = edits.get(row.id)
        if item is None:
            made.append(row)
        elif item.messages is not None:
            made.append(edited(row, item.messages))
    return made


def edited(row: Dialogue, messages: Sequence[Message]) -> Dialogue:
    """The row with other messages, marked as edited by hand."""
    return row.model_copy(
        update={"messages": tuple(messages), "meta": {**row.meta, "edited": True}}
    )
