"""Hand edits of one row at a time, on the dataset they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from charllm.data.config import Paths
from charllm.data.dataset_changing import changeable, changing, check_left
from charllm.data.dataset_state import Dataset, edits_path, hash_of, write_rows
from charllm.data.dialogue import Dialogue, Message
from charllm.data.errors import EditConflict, UserError
from charllm.data.preparing import prepare
from charllm.data.row_edits import Entry, append_entry, apply_edits, edited, entry


def edit_row(
    paths: Paths,
    name: str,
    id: str,
    messages: Sequence[Message] | None,
    expected: Sequence[Message] | None = None,
) -> Dataset:
    """Give a row other messages, or delete it (None).

    ``expected`` are the row's messages as the editor saw them: if they are others by now,
    ``EditConflict``. ``UserError`` for messages that are no dialogue.
    """
    with changing(paths):
        dataset = changeable(paths, name)
        row = next((row for row in dataset.dialogues if row.id == id), None)
        if row is None or (expected is not None and tuple(expected) != row.messages):
            raise _conflict(id)
        if messages is None:
            new = [other for other in dataset.dialogues if other.id != id]
            check_left(new)
            return _edit(paths, dataset, entry("edit", id), new)
        if tuple(messages) == row.messages:
            return dataset
        made = edited(row, _checked(row, messages))
        new = [made if other.id == id else other for other in dataset.dialogues]
        return _edit(paths, dataset, entry("edit", id, messages=made.messages), new)


def _checked(row: Dialogue, messages: Sequence[Message]) -> tuple[Message, ...]:
    for number, message in enumerate(messages, 1):
        if not message.content.strip():
            raise UserError(
                f"Message {number} of row {row.id} is empty: write something or remove it.",
                f"行 {row.id} の {number} 番目の発言が空です。"
                "内容を書くか、発言を削除してください。",
            )
    hash_of([edited(row, messages)], row.id)
    if not messages or messages[-1].role != "assistant":
        raise UserError(
            f"Row {row.id} has to end with the character's reply.",
            f"行 {row.id} はキャラクターの返答で終わる必要があります。",
        )
    return tuple(messages)


def _conflict(id: str) -> EditConflict:
    return EditConflict(
        f"Row {id} was changed or removed elsewhere since you opened it. Nothing was overwritten: "
        "look at it again and repeat your change.",
        f"行 {id} は、開いたあとに別の画面で変更または削除されました。上書きはしていません。"
        "読み直してから、もう一度編集してください。",
    )


def restore_row(paths: Paths, name: str, id: str) -> Dataset:
    """Drop a row's hand edits: it is again what the steps make of it. Can be undone."""
    with changing(paths):
        dataset = changeable(paths, name)
        if id not in dataset.edits.current:
            return dataset
        return _refold(paths, dataset, entry("restore", id))


def undo_edit(paths: Paths, name: str) -> Dataset:
    """Take back the last hand edit; ``UserError`` where there is none."""
    with changing(paths):
        dataset = changeable(paths, name)
        if not dataset.can_undo:
            raise UserError("There is no edit to undo.", "元に戻す編集がありません。")
        return _refold(paths, dataset, entry("undo"))


def redo_edit(paths: Paths, name: str) -> Dataset:
    """Make the edit again that was undone last; ``UserError`` where there is none."""
    with changing(paths):
        dataset = changeable(paths, name)
        if not dataset.can_redo:
            raise UserError("There is no edit to redo.", "やり直す編集がありません。")
        return _refold(paths, dataset, entry("redo"))


def _refold(paths: Paths, dataset: Dataset, item: Entry) -> Dataset:
    prepared = dataset.prepared
    if prepared is None:
        prepared = prepare(dataset.originals, dataset.card.steps).dialogues
    rows = apply_edits(prepared, dataset.edits.then(item).current)
    check_left(rows)
    return _edit(paths, replace(dataset, prepared=prepared), item, rows)


def _edit(paths: Paths, dataset: Dataset, item: Entry, rows: list[Dialogue]) -> Dataset:
    append_entry(edits_path(paths, dataset.name), item)
    return write_rows(paths, replace(dataset, dialogues=rows, edits=dataset.edits.then(item)))
