"""Edits are saved at once, can be taken back, and never overwrite what somebody else saved."""

from __future__ import annotations

import threading

import pytest

from charllm.data.config import Paths
from charllm.data.errors import EditConflict, UserError
from charllm.data.profile import Profile, list_profiles, load_profile, revision, save_profile
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
    save_profile(paths, Profile(slug="magnus", name="New"), expected="")
    again = editing.delete(paths, "magnus")
    assert again != target and (again / "profile.yaml").is_file(), "within the same second"
    with pytest.raises(UserError, match="no profile 'magnus'"):
        editing.delete(paths, "magnus")


def test_a_broken_profile_can_be_deleted(paths: Paths) -> None:
    (paths.profiles / "magnus" / "profile.yaml").write_text("name: [half", encoding="utf-8")
    target = editing.delete(paths, "magnus")
    assert (target / "profile.yaml").read_text(encoding="utf-8") == "name: [half"


def test_two_tabs_at_the_same_moment_never_both_win(paths: Paths) -> None:
    for _ in range(5):
        seen = revision(paths, "magnus")
        gate = threading.Barrier(4)
        won: list[str] = []

        def press(text: str, seen: str = seen, gate: threading.Barrier = gate) -> None:
            profile = with_greeting(paths, text)
            gate.wait()
            try:
                editing.save(paths, profile, seen, "fields")
            except EditConflict:
                return
            won.append(text)  # noqa: B023 - the threads end within the turn of the loop

        texts = [f"{seen[:4]} {n}" for n in range(4)]
        threads = [threading.Thread(target=press, args=(text,)) for text in texts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won == [load_profile(paths, "magnus").greeting]


def test_a_change_made_elsewhere_can_be_undone_too(paths: Paths) -> None:
    seen = editing.save(
        paths, with_greeting(paths, "here"), revision(paths, "magnus"), "f"
    ).revision
    save_profile(paths, with_greeting(paths, "in an editor"))
    assert editing.state(paths, "magnus").can_undo
    with pytest.raises(EditConflict):
        editing.save(paths, with_greeting(paths, "here again"), seen, "f")
    seen = editing.step(paths, "magnus", revision(paths, "magnus"), -1).revision
    assert load_profile(paths, "magnus").greeting == "here"
    editing.step(paths, "magnus", seen, 1)
    assert load_profile(paths, "magnus").greeting == "in an editor"


def test_a_new_profile_begins_a_history(paths: Paths) -> None:
    new = Profile(slug="new", name="New")
    saved = editing.save(paths, new, "", "made")
    assert not saved.can_undo
    saved = editing.save(paths, new.model_copy(update={"name": "Newer"}), saved.revision, "fields")
    assert saved.can_undo
    with pytest.raises(EditConflict):
        editing.save(paths, new, "", "made")


def test_only_so_many_versions_are_kept(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editing, "KEPT", 3)
    seen = revision(paths, "magnus")
    for number in range(8):
        seen = editing.save(paths, with_greeting(paths, f"v{number}"), seen, str(number)).revision
    for number in (6, 5):
        saved = editing.step(paths, "magnus", seen, -1)
        seen = saved.revision
        assert load_profile(paths, "magnus").greeting == f"v{number}"
    assert not saved.can_undo
    with pytest.raises(UserError, match="nothing more"):
        editing.step(paths, "magnus", seen, -1)


def test_names_that_are_paths_are_refused(paths: Paths) -> None:
    for change in (
        lambda: editing.step(paths, "../magnus", "", -1),
        lambda: editing.state(paths, "../magnus"),
        lambda: editing.delete(paths, ".."),
    ):
        with pytest.raises(UserError, match="cannot be a profile name"):
            change()
