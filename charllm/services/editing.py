"""Editing a profile: every change is saved at once, and every change can be taken back.

The versions lie in ``workspace/history/<slug>/``; a quick sequence of changes to the same field is
one version. It does not decide what is valid (data.profile) nor how it is edited.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from charllm.data.config import Config, Paths
from charllm.data.errors import UserError
from charllm.data.files import read_json, write_json
from charllm.data.profile import Profile, folder, load_profile, revision, save_profile

COALESCE_SECONDS = 4.0
KEPT = 200


class _Journal(Config):
    """``at`` is the current version's number; ``last`` the highest; ``what`` changed last."""

    at: int = 0
    last: int = 0
    what: str = ""
    time: float = 0.0


@dataclass(frozen=True)
class Saved:
    """The new revision, and whether there is something to undo and to redo."""

    revision: str
    can_undo: bool
    can_redo: bool


def save(paths: Paths, profile: Profile, expected: str, what: str) -> Saved:
    """Save a change of ``what``; ``EditConflict`` where ``expected`` is not the stored revision."""
    journal = _journal(paths, profile.slug)
    if journal.last == 0:
        _keep(paths, load_profile(paths, profile.slug), 0)
    revision_now = save_profile(paths, profile, expected)
    now = time.time()
    again = journal.what == what and now - journal.time < COALESCE_SECONDS and journal.at > 0
    at = journal.at if again and journal.at == journal.last else journal.at + 1
    _keep(paths, profile, at)
    for number in range(at + 1, journal.last + 1):
        _version(paths, profile.slug, number).unlink(missing_ok=True)
    _version(paths, profile.slug, at - KEPT).unlink(missing_ok=True)
    _write(paths, profile.slug, _Journal(at=at, last=at, what=what, time=now))
    return _saved(paths, profile.slug, revision_now)


def step(paths: Paths, slug: str, expected: str, by: int) -> Saved:
    """Undo (−1) or redo (+1); ``UserError`` where there is nothing that way."""
    journal = _journal(paths, slug)
    target = _version(paths, slug, journal.at + by)
    if not 0 <= journal.at + by <= journal.last or not target.is_file():
        raise UserError("There is nothing more that way.", "これ以上は戻せません。")
    profile = Profile.from_data(read_json(target), str(target))
    revision_now = save_profile(paths, profile, expected)
    _write(paths, slug, journal.model_copy(update={"at": journal.at + by, "what": ""}))
    return _saved(paths, slug, revision_now)


def state(paths: Paths, slug: str) -> Saved:
    return _saved(paths, slug, revision(paths, slug))


def delete(paths: Paths, slug: str) -> Path:
    """Move a profile to the workspace's trash, from where it can be fetched back."""
    source = folder(paths, slug)
    load_profile(paths, slug)
    target = paths.workspace / "trash" / f"{slug}-{time.strftime('%Y%m%d-%H%M%S')}"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(os.fspath(source), os.fspath(target))
    shutil.rmtree(_folder(paths, slug), ignore_errors=True)
    return target


def _folder(paths: Paths, slug: str) -> Path:
    return paths.workspace / "history" / slug


def _version(paths: Paths, slug: str, number: int) -> Path:
    return _folder(paths, slug) / f"{number:06}.json"


def _keep(paths: Paths, profile: Profile, number: int) -> None:
    write_json(_version(paths, profile.slug, number), profile.model_dump(mode="json"))


def _journal(paths: Paths, slug: str) -> _Journal:
    path = _folder(paths, slug) / "journal.json"
    return _Journal.from_data(read_json(path), str(path)) if path.is_file() else _Journal()


def _write(paths: Paths, slug: str, journal: _Journal) -> None:
    write_json(_folder(paths, slug) / "journal.json", journal.model_dump())


def _saved(paths: Paths, slug: str, revision_now: str) -> Saved:
    journal = _journal(paths, slug)
    back = _version(paths, slug, journal.at - 1).is_file()
    return Saved(revision_now, journal.at > 0 and back, journal.at < journal.last)
