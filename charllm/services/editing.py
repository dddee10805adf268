"""Editing a profile: every change is saved at once, and every change can be taken back.

The versions lie in ``workspace/history/<slug>/``; a quick sequence of changes to the same field is
one version. It does not decide what is valid (data.profile) nor how it is edited.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from charllm.data.config import Config, Paths
from charllm.data.errors import UserError
from charllm.data.files import read_json, write_json
from charllm.data.locking import FileLock
from charllm.data.profile import Profile, folder, load_profile, revision, save_profile

COALESCE_SECONDS = 4.0
KEPT = 200


class _Journal(Config):
    """``at`` is the current version's number; ``last`` the highest; ``what`` changed last.

    ``revision`` is the stored profile's when the journal was written; -1 is "no version yet".
    """

    at: int = -1
    last: int = -1
    what: str = ""
    time: float = 0.0
    revision: str = ""


@dataclass(frozen=True)
class Saved:
    """The new revision, and whether there is something to undo and to redo."""

    revision: str
    can_undo: bool
    can_redo: bool


class OwnSteps:
    """Where an editor's own saves have led, for saves that were under way at the same time.

    A save names the revision that its editor had seen when it was sent; an earlier one of the same
    editor may have been stored since, and that is no conflict. Hold ``lock`` from looking to
    saving.
    """

    KEPT = 1000

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._next: dict[tuple[str, str, str], str] = {}

    def follow(self, editor: str, slug: str, seen: str) -> str:
        """The revision that ``seen`` has become by the editor's own saves."""
        while (key := (editor, slug, seen)) in self._next:
            seen = self._next[key]
        return seen

    def add(self, editor: str, slug: str, seen: str, saved: str) -> None:
        self.arrive(editor, slug, saved)
        if saved != seen:
            self._next[editor, slug, seen] = saved
        while len(self._next) > self.KEPT:
            del self._next[next(iter(self._next))]

    def arrive(self, editor: str, slug: str, revision: str) -> None:
        """The editor is at this revision now, perhaps again: no step leads on from it."""
        self._next.pop((editor, slug, revision), None)


def save(paths: Paths, profile: Profile, expected: str, what: str) -> Saved:
    """Save a change of ``what``; ``EditConflict`` where ``expected`` is not the stored revision."""
    slug = profile.slug
    with _alone(paths, slug):
        journal = _caught_up(paths, slug)
        revision_now = save_profile(paths, profile, expected)
        now = time.time()
        again = journal.what == what and now - journal.time < COALESCE_SECONDS
        if not (again and journal.at == journal.last):
            journal = _next(paths, slug, journal)
        write_json(_version(paths, slug, journal.at), profile.model_dump(mode="json"))
        changes = {"what": what, "time": now, "revision": revision_now}
        return _write(paths, slug, journal.model_copy(update=changes))


def step(paths: Paths, slug: str, expected: str, by: int) -> Saved:
    """Undo (-1) or redo (+1); ``UserError`` where there is nothing that way."""
    with _alone(paths, slug):
        journal = _caught_up(paths, slug)
        target = _version(paths, slug, journal.at + by)
        if not 0 <= journal.at + by <= journal.last or not target.is_file():
            raise UserError("There is nothing more that way.", "これ以上は戻せません。")
        profile = Profile.from_data(read_json(target), str(target))
        revision_now = save_profile(paths, profile, expected)
        changes = {"at": journal.at + by, "what": "", "revision": revision_now}
        return _write(paths, slug, journal.model_copy(update=changes))


def state(paths: Paths, slug: str) -> Saved:
    return _saved(paths, slug, _journal(paths, slug), revision(paths, slug))


def delete(paths: Paths, slug: str) -> Path:
    """Move a profile to the workspace's trash, from where it can be fetched back."""
    source = folder(paths, slug)
    if not (source / "profile.yaml").is_file():
        load_profile(paths, slug)  # says that there is none, and which there are
    target = paths.workspace / "trash" / f"{slug}-{time.strftime('%Y%m%d-%H%M%S')}"
    while target.exists():
        target = target.with_name(f"{target.name}-again")
    target.parent.mkdir(parents=True, exist_ok=True)
    with _alone(paths, slug):
        shutil.move(os.fspath(source), os.fspath(target))
        shutil.rmtree(_folder(paths, slug), ignore_errors=True)
    return target


def _alone(paths: Paths, slug: str) -> AbstractContextManager[None]:
    """One change at a time, over all tabs and processes: between look and save nobody else may."""
    folder(paths, slug)  # a name that is none must not become a path
    return FileLock(paths.workspace / "history" / f"{slug}.lock").hold()


def _caught_up(paths: Paths, slug: str) -> _Journal:
    """The journal, with the stored profile as its newest version if nobody told it of that one.

    It was saved elsewhere (an editor, an import) or by a process that died before the journal.
    """
    journal = _journal(paths, slug)
    stored = revision(paths, slug)
    if stored and stored != journal.revision:
        profile = load_profile(paths, slug)
        journal = _next(paths, slug, journal)
        write_json(_version(paths, slug, journal.at), profile.model_dump(mode="json"))
        journal = journal.model_copy(update={"what": "", "revision": stored})
        _write(paths, slug, journal)
    return journal


def _next(paths: Paths, slug: str, journal: _Journal) -> _Journal:
    """A version after the current one; those that were undone can no longer be redone."""
    at = journal.at + 1
    for number in range(at, journal.last + 1):
        _version(paths, slug, number).unlink(missing_ok=True)
    _version(paths, slug, at - KEPT).unlink(missing_ok=True)
    return journal.model_copy(update={"at": at, "last": at})


def _folder(paths: Paths, slug: str) -> Path:
    return paths.workspace / "history" / slug


def _version(paths: Paths, slug: str, number: int) -> Path:
    return _folder(paths, slug) / f"{number:06}.json"


def _journal(paths: Paths, slug: str) -> _Journal:
    path = _folder(paths, slug) / "journal.json"
    return _Journal.from_data(read_json(path), str(path)) if path.is_file() else _Journal()


def _write(paths: Paths, slug: str, journal: _Journal) -> Saved:
    write_json(_folder(paths, slug) / "journal.json", journal.model_dump())
    return _saved(paths, slug, journal, journal.revision)


def _saved(paths: Paths, slug: str, journal: _Journal, revision_now: str) -> Saved:
    back = journal.at - 1 if revision_now == journal.revision else journal.at
    can_undo = back >= 0 and _version(paths, slug, back).is_file()
    can_redo = journal.at < journal.last and revision_now == journal.revision
    return Saved(revision_now, can_undo, can_redo)
