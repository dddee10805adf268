"""A disk that fills up in the middle of a run: said in words, with nothing lost.

Each library reports it in its own way, some without an error number. What was half written is
removed, so that there is room to say so and the run can go on from its last whole checkpoint.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from charllm.data.errors import UserError
from charllm.data.files import write_bytes

NO_ROOM = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
"""Disk full, file larger than the system lets it be, quota used up."""
_IN_RUST = re.compile(r"\(os error (\d+)\)")
_RUST_ONLY = {112}  # Windows: ERROR_DISK_FULL
_IN_TORCH = ("iostream error", "inline_container", "file write failed")
RESERVE_BYTES = 1 << 16


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end: its ``trainer_state.json`` comes last."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def no_room(error: BaseException | None) -> bool:
    """Whether a full disk is behind an error, as Python, Rust or torch's writer reports it."""
    if error is None:
        return False
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return True
    text = str(error)
    if any(int(number) in NO_ROOM | _RUST_ONLY for number in _IN_RUST.findall(text)):
        return True
    if isinstance(error, RuntimeError) and any(words in text for words in _IN_TORCH):
        return True
    return no_room(error.__cause__ or error.__context__)


@contextlib.contextmanager
def full_disk_in_words(folder: Path, *others: Path) -> Iterator[None]:
    """``UserError`` where the disk of a run's ``folder``, or of ``others`` it writes to, is full.

    A little room is held in reserve meanwhile, so that the message itself can be written.
    """
    reserve = folder / ".reserve"
    try:
        try:
            write_bytes(reserve, os.urandom(RESERVE_BYTES))  # no file system can shrink it
            yield
        finally:
            reserve.unlink(missing_ok=True)
    except Exception as error:
        if not no_room(error):
            raise
        drop_torn(folder / "trainer")
        raise _full(folder, [folder, *others]) from error


def drop_torn(trainer: Path) -> None:
    """Remove the checkpoints that were not written to their end."""
    for checkpoint in trainer.glob("checkpoint-*"):
        if not is_whole(checkpoint):
            shutil.rmtree(checkpoint, ignore_errors=True)


def _full(folder: Path, places: list[Path]) -> UserError:
    free, disk = min((shutil.disk_usage(d).free, str(d)) for d in map(_disk, places))
    steps = [int(f.name.split("-")[1]) for f in (folder / "trainer").glob("checkpoint-*")]
    return UserError(
        f"There is no room left on the disk {disk} ({free / 1e6:.1f} MB free). Free some space or "
        "raise the quota, then resume: "
        + (f"the run goes on from step {max(steps)}." if steps else "the run begins again."),
        f"ディスク {disk} に空きがありません（残り {free / 1e6:.1f} MB）。空きを作るか割り当てを"
        "増やしてから再開してください。"
        + (f"{max(steps)} ステップ目から続きます。" if steps else "最初からやり直します。"),
    )


def _disk(place: Path) -> Path:
    """Where the file system that holds ``place`` is mounted."""
    place = place.resolve()
    while not place.exists() or not place.is_mount():
        if place == place.parent:
            break
        place = place.parent
    return place
