"""What every change of a dataset begins with: the lock, mending, originals and a card."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

from charllm.data.config import Paths
from charllm.data.dataset_keeping import keep_copy
from charllm.data.dataset_state import Dataset, edits_path, originals_path, read, write_rows
from charllm.data.dialogue import Dialogue, dataset_path
from charllm.data.errors import UserError
from charllm.data.files import write_bytes
from charllm.data.locking import FileLock


class ChangedOutside(UserError):
    """Another program changed the rows; ``adopt`` takes them over, ``discard`` drops them."""


@contextmanager
def changing(paths: Paths) -> Iterator[None]:
    """One change of the datasets at a time, over threads and processes."""
    with FileLock(paths.datasets / ".lock").hold():
        yield


def mended(paths: Paths, name: str) -> Dataset:
    """The dataset, with whatever a crash left half written made again. Needs the lock."""
    dataset = read(paths, name)
    return write_rows(paths, dataset) if dataset.stale else dataset


def changeable(paths: Paths, name: str) -> Dataset:
    """The mended dataset with originals and a card, made now where there were none."""
    dataset = mended(paths, name)
    if dataset.outside:
        raise ChangedOutside(
            f"{name}.jsonl was changed by another program, or its originals are gone. Decide first "
            "whether to take the rows over or to make them again from the originals.",
            f"{name}.jsonl がほかのプログラムで変更されたか、元の行がなくなっています。"
            "今の行を採用するか、元の行から作り直すかを先に選んでください。",
        )
    if dataset.has_card:
        return dataset
    leftovers = [originals_path(paths, name), edits_path(paths, name)]
    if any(leftover.exists() for leftover in leftovers):
        keep_copy(paths, name)
        for leftover in leftovers:
            leftover.unlink(missing_ok=True)
    write_bytes(originals_path(paths, name), dataset_path(paths, name).read_bytes())
    card = dataset.card.model_copy(update={"created": now()})
    return write_rows(paths, replace(dataset, card=card, has_card=True))


def check_left(rows: list[Dialogue]) -> None:
    """``UserError`` where a change would leave no row."""
    if not rows:
        raise UserError(
            "No row would be left. Nothing was changed.",
            "行が1つも残らなくなるため、変更していません。",
        )


def now() -> str:
    """The time in UTC, ISO, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
