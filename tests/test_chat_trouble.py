"""What goes wrong beside a chat: files, servers, the index, the accelerator. Each fails alone."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from chatting import (
    QUESTION,
    QUICK,
    add_adapter,
    add_recipe,
    ask,
    label,
    new_world,
    remote,
    server,
    settled,
    texts,
    until,
    write_card,
)

from charllm.core.catalog import EMBEDDED
from charllm.core.variants import load_endpoints, save_endpoints
from charllm.data.config import ROOT, Paths
from charllm.data.errors import UserError
from charllm.services.asking import ask as ask_alone
from charllm.services.chat import ChatService
from charllm.services.engine import Engine
from charllm.services.turns import NOT_YET, Turn

WAITER = """
import sys
from pathlib import Path
from charllm.data.config import Paths
from charllm.data.errors import Text
from charllm.services.lease import Lease

with Lease(Paths(Path(sys.argv[1]), Path(sys.argv[2])), Text("train run toy", "学習 toy")):
    print("got it", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Paths:
    return new_world(tmp_path_factory.mktemp("trouble"), base_folder)


@pytest.fixture(scope="module")
def chat(world: Paths) -> Iterator[ChatService]:
    service = ChatService(world)
    yield service
    service.close()


def failed(turn: Turn) -> dict[str, str]:
    """The English reason of every column that failed; the others must have answered."""
    for column in turn.columns:
        assert column.finished and (column.error or (column.state == "done" and column.text))
    return {c.variant.name: c.error.en for c in turn.columns if c.error}


def engine_of(chat: ChatService) -> Engine:
    return chat.runner._engines[EMBEDDED, "none"]


def test_a_checkpoint_without_its_file_fails_alone(
    chat: ChatService, world: Paths, base_folder: Path
) -> None:
    folder = add_adapter(world, "lost", base_folder, 7)
    (folder / "adapter_model.safetensors").unlink()
    add_recipe(world, "half", base_folder.name, ("one", "lost"))
    torn = add_adapter(world, "torn", base_folder, 8) / "adapter_model.safetensors"
    torn.write_bytes(torn.read_bytes()[:1000])
    names = ("base", "lost", "half", "torn", "two", "rag")
    conversation, turn = ask(chat, *names)
    reasons = failed(turn)
    assert set(reasons) == {"lost", "half", "torn"}
    assert "has no adapter_model.safetensors" in reasons["lost"]
    assert "has no adapter_model.safetensors" in reasons["half"]
    assert "torn" in reasons["torn"] and "our side" not in reasons["torn"]
    again = ChatService(world)
    shown = again.view(conversation)[0]["columns"]
    assert [c["error"]["en"] if c["error"] else None for c in shown] == [
        reasons.get(name) for name in names
    ], "a restart still says why"
    for name in ("lost", "half", "torn"):
        shutil.rmtree(world.checkpoints / name)


def test_an_adapter_trained_anew_answers_with_its_new_weights(
    chat: ChatService, world: Paths, base_folder: Path
) -> None:
    add_adapter(world, "again", base_folder, 11)
    _, first = ask(chat, "base", "again")
    shutil.rmtree(world.checkpoints / "again")
    add_adapter(world, "again", base_folder, 12)
    _, second = ask(chat, "base", "again")
    assert first.columns[0].text == second.columns[0].text
    assert first.columns[1].weights != second.columns[1].weights
    assert first.columns[1].text != second.columns[1].text
    shutil.rmtree(world.checkpoints / "again")


def test_a_checkpoint_of_an_unknown_base_fails_alone(chat: ChatService, world: Paths) -> None:
    folder = world.checkpoints / "stranger"
    shutil.copytree(world.checkpoints / "one", folder)
    write_card(folder, {"base": "no-such-model", "profile": "ayane", "label": label("x")})
    _, turn = ask(chat, "base", "stranger")
    assert "no model 'no-such-model'" in failed(turn)["stranger"]
    shutil.rmtree(folder)


def test_a_half_converted_model_is_told(tmp_path: Path, base_folder: Path) -> None:
    paths = new_world(tmp_path, base_folder)
    folder = paths.models / base_folder.name
    folder.unlink()
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).symlink_to(base_folder / name)
    chat = ChatService(paths)
    _, turn = ask(chat, "base", "one")
    reasons = failed(turn)
    assert set(reasons) == {"base", "one"}
    assert "incomplete (model.safetensors)" in reasons["base"]
    shutil.rmtree(folder)
    _, turn = ask(chat, "base", "one")
    assert "not been prepared yet" in failed(turn)["base"]
    folder.symlink_to(base_folder)
    _, turn = ask(chat, "base", "one")
    assert not failed(turn), "once it is there, the same service answers"
    chat.close()


def test_a_prompt_that_is_too_long_fails_alone(chat: ChatService) -> None:
    _, turn = ask(chat, "base", "rag")
    short, long = (column.prompt_tokens for column in turn.columns)
    assert short + 4 < long
    resident = engine_of(chat)._resident
    assert resident is not None
    config = resident.model.config.get_text_config()
    known, config.max_position_embeddings = config.max_position_embeddings, short + 4
    try:
        _, turn = ask(chat, "base", "one", "rag")
    finally:
        config.max_position_embeddings = known
    assert list(failed(turn)) == ["rag"]
    assert f"takes at most {short + 4}" in failed(turn)["rag"]


def test_a_damaged_index_is_made_again(chat: ChatService, world: Paths) -> None:
    ask(chat, "base", "rag")
    (world.indexes / "chroma.sqlite3").write_bytes(b"not a database at all " * 400)
    _, turn = ask(chat, "base", "rag")
    assert not failed(turn) and turn.columns[1].hits
    assert list(world.workspace.glob("chroma-damaged-*")), "the damaged one is kept aside"


def test_an_index_that_cannot_be_made_fails_the_rag_columns_alone(
    chat: ChatService, world: Paths
) -> None:
    _, before = ask(chat, "base", "rag", "one", "mix-rag")
    thresholds = world.workspace / "calibration"
    thresholds.mkdir(exist_ok=True)
    from charllm.core.embedding import EmbedderConfig, get_embedder
    from charllm.core.retrieval import calibration_path

    path = calibration_path(world, "ayane", get_embedder(EmbedderConfig()))
    path.write_text("{}", encoding="utf-8")
    conversation, turn = ask(chat, "base", "rag", "one", "mix-rag")
    assert set(failed(turn)) == {"rag", "mix-rag"}
    assert "holds no threshold" in failed(turn)["rag"]
    assert texts(turn)["base"] == texts(before)["base"]
    path.unlink()
    chat.regenerate(conversation, QUICK, "B", score=False)
    turn = settled(chat, conversation)
    assert set(failed(turn)) == {"mix-rag"} and turn.columns[1].hits


def test_a_remote_column_answers_beside_the_others(chat: ChatService, world: Paths) -> None:
    asked: list[dict[str, object]] = []

    def answer(body: dict[str, object]) -> tuple[int, list[str]]:
        asked.append(body)
        return 200, ["わたくしは", "絢音ですわ。"]

    with server(answer) as url:
        save_endpoints(world, [remote(url, "remote-test-rag", rag=True)])
        assert load_endpoints(world)[0].rag
        _, turn = ask(chat, "base", "remote-test-rag", score=True)
        alone = ask_alone(world, "remote-test-rag", QUESTION, "ayane", QUICK)
    far = turn.columns[1]
    assert not failed(turn) and far.text == "わたくしは絢音ですわ。" == alone["reply"]
    assert far.reason == "end" and far.kind == "endpoint" and far.hits and far.score
    assert far.weights == f"far-1 @ {url.removeprefix('http://')}" == alone["weights"]
    assert QUESTION in far.prompt and far.first is not None and far.seconds
    messages = asked[0]["messages"]
    assert isinstance(messages, list) and messages[-1] == {"role": "user", "content": QUESTION}
    assert asked[0]["max_tokens"] == 8


def test_a_remote_column_fails_alone(chat: ChatService, world: Paths) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with server(lambda body: (401, [])) as url:
        save_endpoints(world, [remote(url, "remote-a"), remote(closed, "remote-b")])
        conversation, turn = ask(chat, "base", "remote-a", "remote-b", blind=True)
    reasons = failed(turn)
    assert "refused the API key (401)" in reasons["remote-a"]
    assert "cannot be reached" in reasons["remote-b"]
    (shown,) = chat.view(conversation)
    errors = [column["error"] for column in shown["columns"] if column["error"]]
    assert errors == [NOT_YET.as_json()] * 2, "an address would tell which column it is"
    chat.vote(conversation, turn.id, "tie")
    (shown,) = chat.view(conversation)
    assert "401" in json.dumps([column["error"] for column in shown["columns"]])


def test_a_silent_server_can_be_stopped_at_once(chat: ChatService, world: Paths) -> None:
    held = threading.Event()

    def answer(body: dict[str, object]) -> tuple[int, list[str]]:
        held.wait(20)
        return 200, ["zu spät"]

    with server(answer) as url:
        save_endpoints(world, [remote(url)])
        conversation = chat.send(None, "ayane", QUESTION, ("base", "remote-test"), QUICK)
        turn = chat.live(conversation)
        assert turn is not None
        far = next(c for c in turn.columns if c.variant.base_url)
        chat.stop(conversation, far.id)
        assert far.reason == "cancelled"
        settled(chat, conversation)
        held.set()
    assert far.text == "" and [r.text for r in chat.store.replies(turn.id)][1] == ""


def test_a_score_that_cannot_be_made_says_why(chat: ChatService, world: Paths) -> None:
    path = world.datasets / "ayane.jsonl"
    whole = path.read_bytes()
    path.write_bytes(b'{"id": 1\n' + whole)
    try:
        _, turn = ask(chat, "base", "one", score=True)
    finally:
        path.write_bytes(whole)
    for column in turn.columns:
        assert column.state == "done" and column.text
        assert column.score and column.score["value"] is None
        assert "line 1: not valid JSON" in column.score["unscored"]["en"]
    _, turn = ask(chat, "base", "one", score=True)
    assert all(c.score and c.score["value"] is not None for c in turn.columns), "made again"


def test_a_store_that_refuses_is_told_and_ends_the_turn(chat: ChatService) -> None:
    db = chat.store._connection()
    db.execute(
        "CREATE TRIGGER full BEFORE INSERT ON replies BEGIN "
        "SELECT RAISE(ABORT, 'database or disk is full'); END"
    )
    try:
        _, turn = ask(chat, "base", "one", score=True)
    finally:
        db.execute("DROP TRIGGER full")
    for column in turn.columns:
        assert column.text and column.state == "failed" and column.error
        assert "could not be stored (database or disk is full)" in column.error.en
    _, turn = ask(chat, "base", "one")
    assert not failed(turn)


def test_a_bug_in_a_job_does_not_end_the_engine(chat: ChatService) -> None:
    ask(chat, "base", "one")

    def broken(engine: Engine) -> None:
        raise RuntimeError("on purpose")

    engine_of(chat).submit(broken)
    _, turn = ask(chat, "base", "one")
    assert not failed(turn)


def test_the_model_is_given_back_to_a_run_that_wants_it(chat: ChatService, world: Paths) -> None:
    ask(chat, "base", "one")
    resident = engine_of(chat)._resident
    assert resident is not None and engine_of(chat).loaded
    model = weakref.ref(resident.model)
    del resident
    run = subprocess.Popen(
        [sys.executable, "-c", WAITER, str(world.root), str(world.workspace)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout and run.stdin
    try:
        assert run.stdout.readline() == "got it\n"
        assert not engine_of(chat).loaded
        assert model() is None, "the memory is free as well"
        with pytest.raises(UserError, match="train run toy"):
            ask_alone_hurried(world)
        conversation = chat.send(None, "ayane", QUESTION, ("base", "one"), QUICK, score=False)
        turn = chat.live(conversation)
        assert turn is not None
        until(lambda: turn.stage and "in use: train run toy" in turn.stage.en)
        seen = turn.version
        with pytest.raises(AssertionError):
            until(lambda: turn.done, seconds=2.5)  # longer than one look at the queue
        assert turn.version < seen + 10
    finally:
        run.stdin.close()
        run.wait(20)
    until(lambda: turn.done, seconds=30)
    assert not failed(turn) and turn.stage is None


def ask_alone_hurried(world: Paths) -> None:
    from charllm.services import asking

    known, asking.PATIENCE = asking.PATIENCE, 0.3
    try:
        ask_alone(world, "base", QUESTION, "ayane", QUICK)
    finally:
        asking.PATIENCE = known


def test_stopping_while_waiting_for_the_accelerator_leaves_the_queue(
    chat: ChatService, world: Paths
) -> None:
    from charllm.data.errors import Text
    from charllm.services.lease import Lease, wanted

    ask(chat, "base", "one")
    mine = Lease(world, Text("another run", "別の実行"))
    mine.acquire(10)
    conversation = chat.send(None, "ayane", QUESTION, ("base", "one"), QUICK, score=False)
    turn = chat.live(conversation)
    assert turn is not None
    until(lambda: turn.stage and "another run" in turn.stage.en)
    chat.stop(conversation)
    assert turn.done
    until(lambda: wanted(world) is None, seconds=3)
    mine.release()
    _, turn = ask(chat, "base", "one")
    assert not failed(turn)


def test_two_base_models_take_turns(chat: ChatService, world: Paths, base_folder: Path) -> None:
    second = world.models / "second"
    second.mkdir()
    for item in base_folder.iterdir():
        (second / item.name).symlink_to(item)
    folder = world.checkpoints / "other-base"
    shutil.copytree(world.checkpoints / "one", folder)
    write_card(folder, {"base": str(second), "profile": "ayane", "label": label("x")})
    _, turn = ask(chat, "base", "other-base")
    assert not failed(turn)
    assert turn.columns[1].weights.startswith(str(second))
    shutil.rmtree(folder)


def test_a_failed_column_is_no_training_example(chat: ChatService, world: Paths) -> None:
    conversation, turn = ask(chat, "base", "one")
    broken = replace(chat.store.replies(turn.id)[1], text="半分だけ", stop_reason="error", id=0)
    chat.store.add_reply(broken)
    rows = chat.export(conversation, "jsonl").read_text(encoding="utf-8")
    assert "半分だけ" not in rows and len(rows.splitlines()) == 1
