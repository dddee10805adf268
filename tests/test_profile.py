"""Profiles, dialogues and queries on disk: what is kept, what is refused, and in which words."""

from __future__ import annotations

import pytest

from charllm.data.config import Paths
from charllm.data.dialogue import (
    Dialogue,
    Message,
    data_hash,
    load_dialogues,
    save_dialogues,
)
from charllm.data.errors import EditConflict, UserError
from charllm.data.files import new_folder, write_text
from charllm.data.profile import (
    Profile,
    copy_profile,
    list_profiles,
    load_profile,
    revision,
    save_profile,
)
from charllm.data.queries import load_queries, unknown_gold
from charllm.data.text import (
    first_lines,
    lines_of,
    near_duplicates,
    ngrams,
    normal_form,
    script_shares,
)


def test_a_profile_comes_back_as_it_was_saved(paths: Paths) -> None:
    profile = load_profile(paths, "ayane")
    copy = profile.model_copy(update={"slug": "ayane-2"})
    save_profile(paths, copy, expected="")
    assert load_profile(paths, "ayane-2") == copy
    assert "ayane-2" in list_profiles(paths)


def test_the_second_of_two_editors_is_told(paths: Paths) -> None:
    profile = load_profile(paths, "magnus")
    seen = revision(paths, "magnus")
    first = profile.model_copy(update={"greeting": "Morning."})
    assert save_profile(paths, first, expected=seen) != seen
    with pytest.raises(EditConflict, match="changed elsewhere"):
        save_profile(paths, profile.model_copy(update={"greeting": "Evening."}), expected=seen)
    assert load_profile(paths, "magnus").greeting == "Morning."


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("profile.yaml", b"", "empty"),
        ("profile.yaml", b"name: [unclosed\n", "line 2"),
        ("profile.yaml", b"name: ''\n", "name"),
        ("profile.yaml", b"name: A\nfavourite: tea\n", "favourite"),
        ("profile.yaml", b"name: A\nreply_length: 1\n", "reply_length"),
        ("profile.yaml", b"name: A\ngreeting: 2024-13-45\n", "not valid YAML"),
        ("profile.yaml", b"name: A\ngreeting: \x07\n", "not valid YAML"),
        ("profile.yaml", b"- name\n", "not a table"),
        ("profile.yaml", "name: 絢音\n".encode("utf-16"), "UTF-16"),
        ("profile.yaml", "name: 絢音\n".encode("cp932"), "Shift_JIS"),
        ("facts.txt", "名前は絢音。\n".encode("cp932"), "Shift_JIS"),
        ("facts.txt", ("x" * 501).encode(), "501 characters"),
    ],
)
def test_a_broken_profile_names_file_and_fault(
    paths: Paths, name: str, data: bytes, says: str
) -> None:
    path = paths.profiles / "magnus" / name
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        load_profile(paths, "magnus")
    assert says in error.value.text.en and str(path.parent) in error.value.text.en
    assert path.read_bytes() == data


def test_facts_may_begin_with_a_byte_order_mark(paths: Paths) -> None:
    path = paths.profiles / "magnus" / "facts.txt"
    path.write_bytes(b"\xef\xbb\xbfHe is tall.\r\n\r\n  He is tall.\r\nHe sings.\r\n")
    assert load_profile(paths, "magnus").facts == ("He is tall.", "He sings.")


def test_an_unknown_profile_lists_the_known(paths: Paths) -> None:
    with pytest.raises(UserError, match="ayane, magnus"):
        load_profile(paths, "nobody")
    with pytest.raises(UserError, match="cannot be a profile name"):
        load_profile(paths, "../secrets")


def test_system_prompts_have_a_default() -> None:
    profile = Profile(slug="x", name="花", persona="庭師。", language="ja")
    assert profile.system_prompt(rag=False) == "あなたは花です。庭師。"
    assert "{facts}" in profile.system_prompt(rag=True)
    assert "Always answer in Japanese." in profile.system_prompt(rag=False, language="en")


def test_dialogues_name_the_line_that_is_wrong(paths: Paths) -> None:
    path = paths.datasets / "x.jsonl"
    good = '{"id": "1", "messages": [{"role": "assistant", "content": "Aye."}]}\n'
    write_text(path, good + '{"id": "2", "messages": [{"role": "user", "content": "?"}]}\n')
    with pytest.raises(UserError, match=r"x\.jsonl, line 2.*last message"):
        load_dialogues(path)
    write_text(path, good + "{broken\n")
    with pytest.raises(UserError, match="line 2: not valid JSON"):
        load_dialogues(path)
    write_text(path, good + good)
    with pytest.raises(UserError, match="stands twice"):
        load_dialogues(path)
    write_text(path, good)
    dialogues = load_dialogues(path)
    save_dialogues(path, dialogues)
    assert data_hash(load_dialogues(path)) == data_hash(dialogues)


def test_queries_are_checked_against_the_profile(paths: Paths) -> None:
    path = paths.queries / "x.jsonl"
    row = '{"id": "%s", "text": "Age?", "split": "%s", "gold": ["He is 5."]}\n'
    write_text(path, row % ("1", "search") + row % ("2", "exam"))
    with pytest.raises(UserError, match=r"line 2.*split"):
        load_queries(path)
    write_text(path, row % ("1", "search"))
    queries = load_queries(path, "search")
    assert unknown_gold(queries, load_profile(paths, "magnus")) == [("1", "He is 5.")]
    assert load_queries(path, "report") == []


def test_a_folder_appears_whole_or_not_at_all(paths: Paths) -> None:
    target = paths.checkpoints / "made"
    with pytest.raises(RuntimeError), new_folder(target) as work:
        (work / "half").write_text("x")
        raise RuntimeError
    assert not target.exists() and not list(paths.checkpoints.glob(".made*"))
    for text in ("first", "second"):
        with new_folder(target) as work:
            (work / "file").write_text(text)
    assert (target / "file").read_text() == "second"


def test_a_folder_in_the_making_is_no_profile(paths: Paths) -> None:
    for name in (".magnus.x1", "Not A Slug", "empty"):
        (paths.profiles / name).mkdir()
    for name in (".magnus.x1", "Not A Slug"):
        write_text(paths.profiles / name / "profile.yaml", "name: A\n")
    assert list_profiles(paths) == ["ayane", "magnus"]


def test_a_copy_never_replaces_a_profile(paths: Paths) -> None:
    copy_profile(paths, "magnus", "other")
    assert load_profile(paths, "other").facts == load_profile(paths, "magnus").facts
    with pytest.raises(UserError, match="exists already"):
        copy_profile(paths, "magnus", "ayane")
    with pytest.raises(UserError, match="cannot be a profile name"):
        copy_profile(paths, "magnus", "../out")


def test_dialogues_keep_every_character_of_a_line(paths: Paths) -> None:
    path = paths.datasets / "x.jsonl"
    text = "one\u2028two\x85three\u2029\u0085「四」\r\n\x1cfive"
    said = Dialogue(id="1", messages=(Message(role="assistant", content=text),))
    save_dialogues(path, [said])
    assert load_dialogues(path) == [said]
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert load_dialogues(path) == [said], "as an editor on Windows saves it"
    path.write_bytes("質問".encode("cp932"))
    with pytest.raises(UserError, match="line 1: not UTF-8; it looks like Shift_JIS"):
        load_dialogues(path)


def test_text_measures() -> None:
    assert normal_form("Ｈｅｌｌｏ、 World！") == "helloworld"
    assert ngrams("ab", 3) == {"ab": 1} and not ngrams("", 3)
    pairs = near_duplicates(["わたくしは絢音ですわ。", "わたくしは絢音ですわ！", "ごきげんよう"])
    assert pairs == [(0, 1, 1.0)]
    assert near_duplicates(["abcdef"], against=["xyz", "ABC DEF"]) == [(0, 1, 1.0)]
    assert script_shares("あa") == {"ja": 0.5, "en": 0.5}
    assert script_shares("123") == {"ja": 0.0, "en": 0.0}
    assert first_lines("a\n b", 3) == "a b" and first_lines("abcd", 3) == "ab…"
    assert lines_of(["a\n\n b ", ""]) == ["a", "b"]
