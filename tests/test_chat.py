"""The chat's server side on the real embedded model with the shipped adapters, few tokens each."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from charllm.core.generation import GenerationPreset
from charllm.core.replying import ReplySettings
from charllm.core.variants import Variant, default_columns, find_variant, save_endpoints
from charllm.data.config import ROOT, Paths
from charllm.data.dialogue import load_dialogues
from charllm.data.errors import UserError
from charllm.services.asking import ask
from charllm.services.chat import ChatService
from charllm.services.turns import Turn

SHORT = ReplySettings(preset=GenerationPreset(name="short", max_new_tokens=16))
NAME = "お名前を教えてください"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Paths:
    top = tmp_path_factory.mktemp("chat")
    for name in ("profiles", "datasets", "checkpoints", "recipes"):
        shutil.copytree(ROOT / name, top / "root" / name)
    paths = Paths(top / "root", top / "workspace")
    paths.models.mkdir(parents=True)
    (paths.models / base_folder.name).symlink_to(base_folder)
    return paths


@pytest.fixture(scope="module")
def chat(home: Paths) -> Iterator[ChatService]:
    yield ChatService(home)


def settled(chat: ChatService, conversation: int) -> Turn:
    turn = chat.live(conversation)
    assert turn is not None
    deadline = time.monotonic() + 120
    while not turn.settled:
        assert time.monotonic() < deadline, turn.as_json(last=True)
        time.sleep(0.05)
    return turn


def ask_all(chat: ChatService, text: str, names: list[str], **more: Any) -> tuple[int, Turn]:
    conversation = chat.send(None, "ayane", text, names, SHORT, **more)
    return conversation, settled(chat, conversation)


def test_the_four_columns_of_the_study(chat: ChatService, home: Paths) -> None:
    names = default_columns(home, "ayane")
    assert names == ["base", "rag", "ayane-a", "ayane-merged-rag"]
    _, turn = ask_all(chat, NAME, names)
    shown = {column["id"]: column for column in turn.as_json(last=True)["columns"]}
    assert [shown[i]["kind"] for i in "ABCD"] == ["base", "rag", "adapter", "recipe"]
    for column in shown.values():
        assert column["state"] == "done" and column["text"].strip() and column["tokens"] <= 16
        assert column["weights"].startswith("gemma-3-270m@")
        assert column["prompt"].startswith("<bos>") and column["prompt"].endswith("回答：")
        assert 1 <= column["score"]["value"] <= 7 and column["score"]["parts"]
        assert column["first"] <= column["seconds"]
    assert len({shown["A"]["weights"], shown["C"]["weights"], shown["D"]["weights"]}) == 3
    assert shown["A"]["facts"] == [] and shown["B"]["facts"][0]["fact"] == "名前は小野寺絢音。"
    assert "小野寺絢音" in shown["D"]["text"] and "・名前は小野寺絢音。" in shown["D"]["prompt"]
    assert chat.conversations("ayane")[0].title == NAME
    alone = ask(home, "base", NAME, "ayane")
    assert (
        alone["reply"].startswith(shown["A"]["text"][:4])
        and alone["prompt"] == shown["A"]["prompt"]
    )


def test_everything_is_found_again_after_a_restart(chat: ChatService, home: Paths) -> None:
    conversation, turn = ask_all(chat, "好きな季節は？", ["base", "rag"])
    again = ChatService(home).view(conversation)
    before, after = turn.as_json(last=True), again[-1]
    for old, new in zip(before["columns"], after["columns"], strict=True):
        assert {k: new[k] for k in ("text", "reason", "facts", "prompt", "weights")} == {
            k: old[k] for k in ("text", "reason", "facts", "prompt", "weights")
        }
        assert new["score"]["value"] == pytest.approx(old["score"]["value"])


def test_one_broken_column_leaves_the_others_alone(chat: ChatService, home: Paths) -> None:
    shutil.copytree(home.checkpoints / "ayane-b", home.checkpoints / "torn")
    (home.checkpoints / "torn" / "adapter_model.safetensors").unlink()
    save_endpoints(
        home,
        [
            Variant(
                name="remote-gone",
                label_en="gone",
                label_ja="gone",
                model="m",
                base_url="http://127.0.0.1:9/v1",
            )
        ],
    )
    _, turn = ask_all(chat, "こんにちは", ["base", "torn", "remote-gone", "ayane-a"])
    states = {column.variant.name: column for column in turn.columns}
    assert states["base"].state == states["ayane-a"].state == "done"
    assert states["torn"].error and "adapter_model.safetensors" in states["torn"].error.en
    assert states["remote-gone"].state == "failed" and states["remote-gone"].error
    shutil.rmtree(home.checkpoints / "torn")
    shown = ChatService(home).view(turn.conversation)[-1]
    assert shown["columns"][0]["text"], "a conversation outlives its checkpoints"


def test_blind_turns_tell_nothing_until_the_vote(chat: ChatService) -> None:
    names = ["base", "rag", "ayane-a"]
    conversation, turn = ask_all(chat, "趣味は何ですか？", names, blind=True)
    hidden = json.dumps(turn.as_json(last=True), ensure_ascii=False)
    assert not any(word in hidden for word in ("ベース", "RAG", "ayane", "gemma", "score", "事実"))
    assert sorted(column.variant.name for column in turn.columns) == sorted(names)
    chat.vote(conversation, turn.id, "B")
    chat.vote(conversation, turn.id, "A")
    votes = chat.store.votes(conversation)
    assert [vote.choice for vote in votes] == [turn.columns[1].variant.name]
    assert votes[0].shown == tuple(column.variant.name for column in turn.columns)
    assert "ベース" in json.dumps(turn.as_json(last=True), ensure_ascii=False)


def test_regenerate_and_edit_keep_what_was_said(chat: ChatService) -> None:
    conversation, turn = ask_all(chat, "好きな花は？", ["base", "ayane-a"])
    kept, old = turn.columns[0].text, turn.columns[1].text
    chat.regenerate(conversation, SHORT, "B")
    turn = settled(chat, conversation)
    assert turn.columns[0].text == kept and turn.columns[1].preset == "lively"
    assert old in [reply.text for reply in chat.store.replies(turn.id, all_=True)]
    chat.edit(conversation, "好きな色は？", ["base", "ayane-a"], SHORT)
    settled(chat, conversation)
    shown = chat.view(conversation)
    assert [row["question"] for row in shown] == ["好きな色は？"]
    assert len(chat.store.turns(conversation, hidden=True)) == 2


def test_stop_ends_what_is_being_written(chat: ChatService) -> None:
    long = ReplySettings(
        preset=GenerationPreset(name="long", max_new_tokens=1000, repetition_guard=False)
    )
    conversation = chat.send(None, "ayane", "昔話をして", ["base", "rag", "ayane-a"], long)
    turn = chat.live(conversation)
    assert turn is not None
    with pytest.raises(UserError, match="still being answered"):
        chat.send(conversation, "ayane", "もっと", ["base", "rag"], SHORT)
    chat.stop(conversation)
    turn = settled(chat, conversation)
    assert {column.state for column in turn.columns} == {"done"}
    assert "cancelled" in {column.reason for column in turn.columns}


def test_what_cannot_be_asked_is_refused_before_anything_is_kept(chat: ChatService) -> None:
    before = len(chat.conversations("ayane"))
    for text, names, says in (
        ("あ" * 20_000, ["base", "rag"], "20,000 characters"),
        ("  ", ["base", "rag"], "Write a question"),
        (NAME, ["base"], "2 to 6 columns"),
        (NAME, ["base", "nonsense"], "no variant 'nonsense'"),
    ):
        with pytest.raises(UserError, match=says):
            chat.send(None, "ayane", text, names, SHORT)
    assert len(chat.conversations("ayane")) == before


def test_export_is_training_data_and_readable(chat: ChatService) -> None:
    conversation, turn = ask_all(chat, "<b>猫</b>の名前は？", ["rag", "ayane-merged-rag"])
    dialogues = load_dialogues(chat.export(conversation, "jsonl"))
    assert [d.meta["variant"] for d in dialogues] == ["rag", "ayane-merged-rag"]
    assert dialogues[1].reply == turn.columns[1].text
    text = chat.export(conversation, "md").read_text(encoding="utf-8")
    assert turn.columns[1].text.splitlines()[0] in text
    chat.delete(conversation)
    assert conversation not in [row.id for row in chat.conversations("ayane")]


def test_an_unknown_variant_lists_the_known(home: Paths) -> None:
    with pytest.raises(UserError, match="ayane-merged-rag"):
        find_variant(home, "ayane", "nothing")
