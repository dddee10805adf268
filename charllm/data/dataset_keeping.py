"""The way back from deleting: a dataset's files in a folder ``datasets/.deleted-…``.

They lie there as they lay in ``datasets``; nothing removes such a folder but the user.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime

from charllm.data.config import Paths
from charllm.data.dataset_state import files_of
from charllm.data.dialogue import dataset_path
from charllm.data.errors import UserError
from charllm.data.files import new_folder, write_bytes

_KEPT = re.compile(r"\.deleted-(\d{8}-\d{6}-\d{6})-([a-z0-9][a-z0-9_-]*)")


@dataclass(frozen=True)
class Deleted:
    """A kept dataset: its folder in ``datasets``, its name, and when it went (ISO, UTC)."""

    folder: str
    name: str
    at: str


def keep_copy(paths: Paths, name: str) -> str:
    """Copy every file of the dataset aside; the folder's name, "" where there is no file."""
    files = [file for file in files_of(paths, name) if file.is_file()]
    if not files:
        return ""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    target = paths.datasets / f".deleted-{stamp}-{name}"
    with new_folder(target) as work:
        for file in files:
            copy = work / file.relative_to(paths.datasets)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
    return target.name


def remove_files(paths: Paths, name: str) -> None:
    """Remove the dataset, its rows first: without them the rest is nobody's."""
    for file in files_of(paths, name):
        file.unlink(missing_ok=True)


def list_deleted(paths: Paths) -> list[Deleted]:
    """What can be brought back, the latest first."""
    found = []
    for folder in paths.datasets.glob(".deleted-*"):
        if match := _KEPT.fullmatch(folder.name):
            at = datetime.strptime(match.group(1), "%Y%m%d-%H%M%S-%f").replace(tzinfo=UTC)
            found.append(Deleted(folder.name, match.group(2), at.isoformat(timespec="seconds")))
    return sorted(found, key=lambda item: item.folder, reverse=True)


def bring_back(paths: Paths, folder: str) -> str:
    """Bring a kept dataset back under its name, which is returned; the folder stays.

    Needs the lock. ``UserError`` where that name is in use, or where the folder is none of ours.
    """
    known = next((item for item in list_deleted(paths) if item.folder == folder), None)
    if known is None:
        raise UserError(
            f"There is no deleted dataset {folder!r}.",
            f"削除されたデータセット「{folder}」がありません。",
        )
    if dataset_path(paths, known.name).exists():
        raise UserError(
            f"A dataset {known.name!r} exists: rename it before you bring the old one back.",
            f"データセット「{known.name}」があります。先に名前を変えてから戻してください。",
        )
    # The rows come last: with them the dataset exists.
    for file in reversed(files_of(paths, known.name)):
        kept = paths.datasets / folder / file.relative_to(paths.datasets)
        file.unlink(missing_ok=True)
        if kept.is_file():
            write_bytes(file, kept.read_bytes())
    return known.name
