"""Edits are saved at once, can be taken back, and never overwrite what somebody else saved."""

from __future__ import annotations

import pytest

from charllm.data.config import Paths
from charllm.data.errors import EditConflict, UserError
from charllm.data.profile import Profile, list_profiles, load_profile, revision
from charllm.services import editing


def with_greeting(paths: Paths, text: str) -> Profile:
    return load_profile(paths, "magnus").model_copy(update={"greeting": text})


def test_undo_and_redo_walk_through_the_versions(paths: Paths) -> None:
    original = load_profile(paths, "magnus")
    seen = revision(paths, "magnus")
    for number, what in enumerate(("fields", "facts", "examples")):
        saved = editing.save(paths, with_greeting(paths, f"v{number}"), seen, what)
        seen = saved.revision
        assert saved.can_undo and not saved.can_redo
    for expected in ("v1", "v0", original.greeting):
        saved = editing.step(paths, "magnus", seen, -1)
        seen = saved.revision
        assert load_profile(paths, "magnus").greeting == expected
    assert load_profile(paths, "magnus") == original and not saved.can_undo
    with pytest.raises(UserError, match="nothing more"):
        editing.step(paths, "magnus", seen, -1)
    seen = editing.step(paths, "magnus", seen, 1).revision
    assert load_profile(paths, "magnus").greeting == "v0"
    saved = editing.save(paths, with_greeting(paths, "another way"), seen, "facts")
    assert not saved.can_redo


def test_a_quick_sequence_in_one_field_is_one_version(paths: Paths) -> None:
    original = load_profile(paths, "magnus")
    seen = revision(paths, "magnus")
    for text in ("M", "Mo", "Mor"):
        seen = editing.save(paths, with_greeting(paths, text), seen, "fields").revision
    editing.step(paths, "magnus", seen, -1)
    assert load_profile(paths, "magnus") == original


def test_an_edit_of_an_old_version_is_refused(paths: Paths) -> None:
    seen = revision(paths, "magnus")
    editing.save(paths, with_greeting(paths, "first"), seen, "fields")
    for change in (
        lambda: editing.save(paths, with_greeting(paths, "second"), seen, "fields"),
        lambda: editing.step(paths, "magnus", seen, -1),
    ):
        with pytest.raises(EditConflict):
            change()
    assert load_profile(paths, "magnus").greeting == "first"


def test_a_deleted_profile_lies_in_the_trash(paths: Paths) -> None:
    facts = (paths.profiles / "magnus" / "facts.txt").read_text(encoding="utf-8")
    target = editing.delete(paths, "magnus")
    assert "magnus" not in list_profiles(paths)
    assert (target / "facts.txt").read_text(encoding="utf-8") == facts
