"""The chat's server side on the real embedded model with the shipped adapters, few tokens each."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from charllm.core.generation import GenerationPreset
from charllm.core.replying import ReplySettings
from charllm.core.variants import default_columns, find_variant
from charllm.data.config import ROOT, Paths
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


def test_an_unknown_variant_lists_the_known(home: Paths) -> None:
    with pytest.raises(UserError, match="ayane-merged-rag"):
        find_variant(home, "ayane", "nothing")
