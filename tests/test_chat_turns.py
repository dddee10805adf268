"""Turns in detail, with random adapters: scores, edits, votes, restarts, deletions, memory."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from chatting import ENDLESS, QUESTION, QUICK, add_adapter, ask, new_world, settled, texts, until

from charllm.core.judging.score import LOWEST
from charllm.data.config import Paths
from charllm.data.dialogue import load_dialogues
from charllm.data.errors import UserError
from charllm.data.profile import copy_profile
from charllm.services import chat as chat_module
from charllm.services.asking import ask as ask_alone
from charllm.services.chat import ChatService
from charllm.services.restoring import INTERRUPTED
from charllm.services.store import Reply, Store, subject_hash
from charllm.services.turns import arrange

FOUR = ("base", "rag", "one", "mix-rag")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Paths:
    return new_world(tmp_path_factory.mktemp("chat"), base_folder)


@pytest.fixture(scope="module")
def chat(world: Paths) -> Iterator[ChatService]:
    """One service for all tests of this file, so that the model is loaded once."""
    service = ChatService(world)
    yield service
    service.close()


def test_four_columns_answer_in_one_turn(chat: ChatService) -> None:
    _, turn = ask(chat, *FOUR, score=True)
    assert [column.variant.name for column in turn.columns] == list(FOUR)
    for column in turn.columns:
        assert (column.state, column.error) == ("done", None)
        assert column.text and column.reason in ("end", "length", "repetition", "stop_string")
        assert column.prompt and column.prompt_tokens > 10 and 0 < column.tokens <= 8
        assert column.weights.startswith("gemma-3-270m@") and column.preset == "quick"
        assert column.seconds and column.first is not None
    base, rag, one, mix = turn.columns
    assert base.weights == rag.weights, "the same weights with another prompt"
    assert "+ one@" in one.weights and "+ mix@" in mix.weights
    assert base.hits == one.hits == [] and base.threshold is None
    assert len(rag.hits) == len(mix.hits) == 3 and rag.threshold is not None
    used = [hit["fact"] for hit in rag.hits if hit["used"]]
    assert used and all(fact in rag.prompt and fact not in base.prompt for fact in used)
    assert len({base.text, rag.text, one.text, mix.text}) == 4
    stored = chat.store.replies(turn.id)
    assert [(row.variant, row.text, row.weights, row.prompt, row.id) for row in stored] == [
        (c.variant.name, c.text, c.weights, c.prompt, c.reply_id) for c in turn.columns
    ]


def test_a_column_says_what_the_variant_says_alone(chat: ChatService, world: Paths) -> None:
    _, turn = ask(chat, *FOUR)
    for column in turn.columns:
        alone = ask_alone(world, column.variant.name, QUESTION, "ayane", QUICK)
        assert alone["weights"] == column.weights
        if column.variant.name == "base":  # a strong random adapter turns on last bits
            assert alone["reply"] == column.text
        assert alone["prompt"] == column.prompt and alone["facts"] == column.hits


def test_stopping_one_column_leaves_the_others(chat: ChatService) -> None:
    conversation = chat.send(None, "ayane", QUESTION, FOUR[:3], ENDLESS, score=True)
    turn = chat.live(conversation)
    assert turn is not None
    until(lambda: all(column.text or column.finished for column in turn.columns))
    chat.stop(conversation, "A")
    until(lambda: turn.columns[0].finished)
    assert turn.columns[0].reason == "cancelled" and turn.columns[0].text
    assert not turn.done and turn.columns[0].score is None, "what was stopped is not scored"
    with pytest.raises(UserError, match="still being answered"):
        chat.send(conversation, "ayane", "もう一つ", FOUR[:2], QUICK)
    with pytest.raises(UserError, match="still being answered"):
        chat.regenerate(conversation, QUICK, None)
    chat.stop(conversation)
    settled(chat, conversation)
    assert {column.reason for column in turn.columns} <= {"cancelled", "end"}
    stored = chat.store.replies(turn.id)
    assert [row.text for row in stored] == [column.text for column in turn.columns]


def test_stopping_before_anything_began_ends_at_once(chat: ChatService) -> None:
    first = chat.send(None, "ayane", QUESTION, FOUR[:2], ENDLESS, score=False)
    second = chat.send(None, "ayane", QUESTION, FOUR[:2], ENDLESS, score=False)
    waiting = chat.live(second)
    assert waiting is not None
    chat.stop(second)
    assert waiting.done, "it was behind the first in the queue, and need not wait for it"
    assert {column.reason for column in waiting.columns} == {"cancelled"}
    chat.stop(first)
    settled(chat, first)


def test_scores_come_after_the_text_and_are_stored(chat: ChatService) -> None:
    busy = threading.Event()
    chat.runner.endings.scorer._pool.submit(busy.wait)
    conversation = chat.send(None, "ayane", QUESTION, FOUR[:2], QUICK, score=True)
    turn = chat.live(conversation)
    assert turn is not None
    until(lambda: turn.done)
    assert not turn.settled and turn.scoring == 2
    assert all(c.text and c.score == {"state": "waiting"} for c in turn.columns)
    busy.set()
    settled(chat, conversation)
    for column in turn.columns:
        assert column.score is not None and column.score["state"] == "done"
        subject = subject_hash("ayane", QUESTION, column.text)
        judged = chat.store.judgements(subject, rubric="live")[-1]
        assert judged.score == column.score["value"]
        assert list(judged.flaws) == column.score["gate"]
    cut = [column for column in turn.columns if column.reason == "length"]
    assert cut, "eight tokens do not suffice for a sentence"
    for column in cut:
        assert column.score and column.score["value"] == LOWEST and "cut" in column.score["gate"]
        gate = column.score["parts"][0]["text"]
        assert "cut off" in gate["en"] and "打ち切られ" in gate["ja"]


def test_regenerating_one_column_keeps_the_others(chat: ChatService) -> None:
    conversation, turn = ask(chat, "base", "one")
    before, kept = turn.columns
    chat.regenerate(conversation, QUICK, "A", score=False)
    assert settled(chat, conversation) is turn
    assert turn.columns[1] is kept and turn.columns[0] is not before
    again = turn.columns[0]
    assert again.preset == "lively" and again.seed == 1, "the likeliest answer would be the same"
    assert again.tokens <= 8, "the length stays as it was chosen"
    assert [row.text for row in chat.store.replies(turn.id)] == [again.text, kept.text]
    all_ = [row.text for row in chat.store.replies(turn.id, all_=True)]
    assert all_ == [before.text, again.text, kept.text]
    chat.regenerate(conversation, QUICK, None, score=False)
    settled(chat, conversation)
    assert {column.seed for column in turn.columns} == {2}
    chat.regenerate(conversation, QUICK, "Z", score=False)
    assert turn.done, "a letter that no column has changes nothing"


def test_a_late_score_belongs_to_the_reply_it_was_made_for(chat: ChatService) -> None:
    busy = threading.Event()
    chat.runner.endings.scorer._pool.submit(busy.wait)
    conversation = chat.send(None, "ayane", QUESTION, FOUR[:2], QUICK, score=True)
    turn = chat.live(conversation)
    assert turn is not None
    until(lambda: turn.done)
    old = turn.columns[0]
    chat.regenerate(conversation, QUICK, "A", score=False)
    until(lambda: turn.done)
    busy.set()
    settled(chat, conversation)
    assert old.score and old.score["state"] == "done" and turn.columns[0].score is None
    assert chat.store.judgements(subject_hash("ayane", QUESTION, old.text))


def test_an_edit_hides_the_old_turn(chat: ChatService) -> None:
    conversation, first = ask(chat, "base", "one", text="一つ目")
    _, second = ask(chat, "base", "one", text="二つ目", conversation=conversation)
    chat.edit(conversation, "直した二つ目", ("base", "two"), QUICK, score=False)
    third = settled(chat, conversation)
    shown = chat.view(conversation)
    assert [turn["question"] for turn in shown] == ["一つ目", "直した二つ目"]
    assert [turn["last"] for turn in shown] == [False, True]
    assert [column.variant.name for column in third.columns] == ["base", "two"]
    kept = [turn.id for turn in chat.store.turns(conversation, hidden=True)]
    assert kept == [first.id, second.id, third.id] and chat.store.replies(second.id)


@pytest.mark.parametrize(
    ("text", "names"),
    [("", FOUR), ("あ" * 20_000, FOUR), ("直す", FOUR[:1]), ("直す", ("base", "?"))],
)
def test_an_edit_that_is_refused_hides_nothing(
    chat: ChatService, text: str, names: tuple[str, ...]
) -> None:
    conversation, _ = ask(chat, "base", "one", text="そのまま")
    with pytest.raises(UserError):
        chat.edit(conversation, text, names, QUICK)
    assert [turn["question"] for turn in chat.view(conversation)] == ["そのまま"]


def test_blind_columns_tell_nothing_until_the_vote(chat: ChatService, world: Paths) -> None:
    conversation, turn = ask(chat, *FOUR, blind=True, score=True)
    order = [column.variant.name for column in turn.columns]
    variants = [
        column.variant for column in sorted(turn.columns, key=lambda c: FOUR.index(c.variant.name))
    ]
    assert [v.name for v in arrange(variants, True, seed=turn.id)] == order
    (shown,) = chat.view(conversation)
    for column in shown["columns"]:
        assert set(column) == {"id", "state", "text", "reason", "error"}
    assert shown["vote_label"] is None
    chat.vote(conversation, turn.id, "B")
    chat.vote(conversation, turn.id, "C")
    (shown,) = chat.view(conversation)
    assert shown["vote"] == "B" and shown["vote_label"]["en"] == turn.columns[1].variant.label_en
    assert [column["label"]["en"] for column in shown["columns"]] == [
        column.variant.label_en for column in turn.columns
    ]
    (vote,) = chat.store.votes(conversation)
    assert (vote.choice, list(vote.shown), vote.blind) == (order[1], order, True)
    found = ChatService(world).view(conversation)
    assert found == chat.view(conversation), "a restart shows the same order, vote and labels"


def test_orders_differ_from_turn_to_turn(chat: ChatService) -> None:
    _, turn = ask(chat, *FOUR, blind=True)
    variants = [column.variant for column in turn.columns]
    orders = {tuple(v.name for v in arrange(variants, True, seed)) for seed in range(40)}
    assert len(orders) > 10
    assert arrange(variants, False, 3) == variants


def test_a_vote_is_stored_once_by_two_tabs(chat: ChatService) -> None:
    conversation, turn = ask(chat, "base", "one", blind=True)
    gate = threading.Barrier(4)

    def press() -> None:
        gate.wait()
        chat.vote(conversation, turn.id, "A")

    threads = [threading.Thread(target=press) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(chat.store.votes(conversation)) == 1
    other, _ = ask(chat, "base", "one")
    chat.vote(other, turn.id, "B")
    assert chat.store.votes(other) == [], "a turn of another conversation"


def test_a_restart_finds_everything(chat: ChatService, world: Paths) -> None:
    conversation, _ = ask(chat, *FOUR, score=True)
    _, turn = ask(chat, "base", "rag", text="ご趣味は？", conversation=conversation, score=True)
    again = ChatService(world)
    assert again.view(conversation) == chat.view(conversation)
    assert again.live(conversation) is None
    assert conversation in [row.id for row in again.conversations("ayane")]
    again.regenerate(conversation, QUICK, "A", score=False)
    found = settled(again, conversation)
    again.close()
    assert found.columns[0].seed == 1 and found.columns[1].text == turn.columns[1].text


def test_what_a_killed_process_was_answering_is_shown_as_interrupted(
    chat: ChatService, world: Paths
) -> None:
    conversation, _ = ask(chat, "base", "rag", "one")
    store = Store(world)
    row = store.add_turn(conversation, "途中で終わった質問")
    settings = store.conversation(conversation).settings
    orders = {**settings["orders"], str(row.id): ["base", "rag", "one"]}
    store.change_conversation(conversation, settings={**settings, "orders": orders})
    store.add_reply(Reply(row.id, 1, "rag", "間に合った答え", stop_reason="end"))
    again = ChatService(world)
    cut = again.view(conversation)[-1]
    assert cut["done"] and [c["state"] for c in cut["columns"]] == ["failed", "done", "failed"]
    assert cut["columns"][0]["error"] == INTERRUPTED.as_json()
    assert cut["columns"][1]["text"] == "間に合った答え"
    again.regenerate(conversation, QUICK, "A", score=False)
    settled(again, conversation)
    again.close()
    states = [c["state"] for c in again.view(conversation)[-1]["columns"]]
    assert states == ["done", "done", "failed"]


def test_exports_can_be_read_again(chat: ChatService) -> None:
    text = "<script>alert(1)</script> & こんにちは\u2028二行目"
    conversation, turn = ask(chat, "base", "one", text=text)
    rows = load_dialogues(chat.export(conversation, "jsonl"))
    assert [row.messages[0].content for row in rows] == [text, text]
    assert [row.reply for row in rows] == [column.text for column in turn.columns]
    page = chat.export(conversation, "md").read_text(encoding="utf-8")
    assert "<script>" not in page and "&lt;script&gt;alert(1)&lt;/script&gt; &amp;" in page


def test_conversations_outlive_their_profile_and_checkpoint(
    chat: ChatService, world: Paths, base_folder: Path
) -> None:
    copy_profile(world, "ayane", "guest")
    add_adapter(world, "guests", base_folder, 5, profile="guest")
    conversation = chat.send(None, "guest", QUESTION, ("base", "guests-rag"), QUICK, score=False)
    turn = settled(chat, conversation)
    shutil.rmtree(world.checkpoints / "guests")
    again = ChatService(world)
    lost = again.view(conversation)[0]["columns"][1]
    assert lost["text"] == turn.columns[1].text and lost["label"]["en"] == "guests-rag (deleted)"
    assert lost["rag"] and lost["facts"] and lost["weights"] == turn.columns[1].weights
    again.regenerate(conversation, QUICK, "B", score=False)
    column = settled(again, conversation).columns[1]
    assert column.state == "failed" and column.error
    assert "There is no variant 'guests-rag'" in column.error.en, "never answered by the base"
    shutil.rmtree(world.profiles / "guest")
    last = ChatService(world)
    (shown,) = last.view(conversation)
    assert shown["language"] == "ja" and shown["columns"][0]["text"] == turn.columns[0].text
    assert (
        last.export(conversation, "md").is_file() and last.export(conversation, "jsonl").is_file()
    )
    with pytest.raises(UserError, match="no profile 'guest'"):
        last.regenerate(conversation, QUICK, None)
    assert last.view(conversation)[0]["done"], "a refusal leaves the columns as they were"
    with pytest.raises(UserError, match="no profile 'guest'"):
        last.send(conversation, "guest", "まだいますか？", ("base", "rag"), QUICK)


def test_two_conversations_at_once(chat: ChatService) -> None:
    _, alone = ask(chat, "base", "one", text="ご趣味は？")
    numbers = [
        chat.send(None, "ayane", text, ("base", "one"), QUICK, score=False)
        for text in (QUESTION, "ご趣味は？", QUESTION)
    ]
    turns = [settled(chat, number) for number in numbers]
    assert len({turn.id for turn in turns}) == 3
    assert texts(turns[0]) == texts(turns[2]) != texts(turns[1]) == texts(alone)


def test_what_cannot_be_asked_is_refused_before_anything_is_stored(chat: ChatService) -> None:
    before = len(chat.store.conversations())
    for text, names, message in (
        ("あ" * 20_000, FOUR, "20,000 characters"),
        ("  \n", FOUR, "Write a question"),
        (QUESTION, ("base",), "Choose 2 to 6"),
        (QUESTION, ("base", "base"), "Choose 2 to 6"),
        (QUESTION, ("base", "nobody"), "There is no variant 'nobody'"),
    ):
        with pytest.raises(UserError, match=message):
            chat.send(None, "ayane", text, names, QUICK)
    with pytest.raises(UserError, match="no profile 'nobody'"):
        chat.send(None, "nobody", QUESTION, FOUR, QUICK)
    with pytest.raises(UserError, match="does not exist any more"):
        chat.send(987654, "ayane", QUESTION, FOUR, QUICK)
    assert len(chat.store.conversations()) == before
    conversation, _ = ask(chat, "base", "one")
    with pytest.raises(UserError, match="another character"):
        chat.send(conversation, "magnus", QUESTION, ("base", "rag"), QUICK)
    assert len(chat.view(conversation)) == 1


def test_a_question_of_broken_characters_is_asked(chat: ChatService) -> None:
    _, turn = ask(chat, "base", "one", text="半分\ud83dの文字 </s> <end_of_turn>")
    assert chat.store.turn(turn.id).question == "半分?の文字 </s> <end_of_turn>"
    assert all(column.state == "done" for column in turn.columns)


def test_deletion_while_live_writes_into_nobody_elses_turn(chat: ChatService) -> None:
    conversation = chat.send(None, "ayane", QUESTION, ("base", "one"), ENDLESS, score=True)
    turn = chat.live(conversation)
    assert turn is not None
    until(lambda: any(column.text for column in turn.columns))
    chat.delete(conversation)
    assert chat.live(conversation) is None and chat.view(conversation) == []
    new = chat.store.add_turn(chat.store.add_conversation("ayane").id, "新しい質問")
    assert new.id != turn.id, "an old page must not find another turn under its number"
    until(lambda: turn.settled)
    assert {column.reason for column in turn.columns} <= {"cancelled", "end"}
    assert chat.store.replies(new.id, all_=True) == []
    chat.delete(new.conversation)
    _, next_ = ask(chat, "base", "one")
    assert all(column.state == "done" for column in next_.columns), "the engine serves on"


def test_history_is_shown_to_the_model_when_asked_for(chat: ChatService) -> None:
    conversation, first = ask(chat, "base", "one", text="一番目の質問")
    _, without = ask(chat, "base", "two", text="二番目の質問", conversation=conversation)
    assert "一番目の質問" not in without.columns[0].prompt
    settings = QUICK.model_copy(update={"history_turns": 1})
    _, third = ask(
        chat, "base", "one", text="三番目の質問", conversation=conversation, settings=settings
    )
    base, one = third.columns
    assert "一番目の質問" not in base.prompt and "二番目の質問" in base.prompt
    assert without.columns[0].text in base.prompt
    assert "一番目の質問" in one.prompt and first.columns[1].text in one.prompt
    assert "二番目の質問" not in one.prompt, "each variant has its own conversation"


def said(chat: ChatService, conversation: int) -> list[tuple[str, list[str]]]:
    view = chat.view(conversation)
    return [(turn["question"], [c["text"] for c in turn["columns"]]) for turn in view]


def test_memory_keeps_only_recent_conversations(
    chat: ChatService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_module, "RECENT", 3)
    live = chat.send(None, "ayane", QUESTION, ("base", "one"), ENDLESS, score=False)
    turn = chat.live(live)
    known = [row.id for row in chat.conversations("ayane") if row.id != live]
    assert len(known) > 5
    before = [said(chat, number) for number in known]
    assert len(chat._talks) <= 3 and chat.live(live) is turn, "what is alive stays"
    assert [said(chat, number) for number in known] == before
    chat.stop(live)
    settled(chat, live)


def test_looking_again_reads_only_the_list_of_turns(chat: ChatService) -> None:
    conversation, _ = ask(chat, "base", "one")
    ask(chat, "base", "one", conversation=conversation)
    chat.view(conversation)
    statements: list[str] = []
    chat.store._connection().set_trace_callback(statements.append)
    try:
        chat.view(conversation)
    finally:
        chat.store._connection().set_trace_callback(None)
    assert len(statements) == 1, statements
