"""Answers edited in the chat, and what becomes of edits, votes and hand scores: training rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from charllm.data import collection
from charllm.data.config import Paths
from charllm.data.dialogue import Message
from charllm.data.errors import Text, UserError
from charllm.data.profile import load_profile
from charllm.data.prompts import build_messages
from charllm.data.queries import load_queries
from charllm.services import harvest, judged
from charllm.services.chat import ChatService
from charllm.services.ending import RUBRIC
from charllm.services.harvest import preference_rows, supervised_rows
from charllm.services.store import Judgement, Reply, Store, Subject, Vote, person, subject_hash

QUESTION = "週末に古本屋をのぞくのはお好き？"
FACT = "好きな季節は秋。"


@pytest.fixture
def chat(paths: Paths) -> ChatService:
    return ChatService(paths)


@pytest.fixture
def store(chat: ChatService) -> Store:
    return chat.store


def prompt_of(paths: Paths, question: str, facts: tuple[str, ...] = (), *history: str) -> str:
    """A prompt as the plain template writes it, with the profile's own system prompt."""
    talk = [Message(role=("user", "assistant")[i % 2], content=t) for i, t in enumerate(history)]
    messages = build_messages(load_profile(paths, "ayane"), question, facts=facts, history=talk)
    labels = {"system": "", "user": "質問：", "assistant": "回答："}
    return "<bos>" + "\n".join(labels[m.role] + m.content for m in messages) + "\n回答："


def ask(
    store: Store, paths: Paths, question: str = QUESTION, *texts: str, talk: int = 0, **more: Any
) -> tuple[int, int, list[Reply]]:
    """A stored turn of the columns ``base``, ``rag``, … with these answers."""
    names = ("base", "rag", "ayane-a")[: len(texts)]
    talk = talk or store.add_conversation("ayane", names).id
    turn = store.add_turn(talk, question)
    replies = [
        store.add_reply(
            Reply(
                turn.id,
                position,
                name,
                text,
                prompt=prompt_of(paths, question),
                stop_reason="end",
                weights=f"gemma@{position}",
                **more,
            )
        )
        for position, (name, text) in enumerate(zip(names, texts, strict=True))
    ]
    return talk, turn.id, replies


def column(chat: ChatService, talk: int, letter: str = "A") -> dict[str, Any]:
    return next(c for c in chat.view(talk)[-1]["columns"] if c["id"] == letter)


def whys(found: harvest.Harvest[Any]) -> list[Text]:
    return [why for _, why in found.left_out]


# Editing an answer


def test_an_edited_answer_stands_beside_the_original(chat: ChatService, paths: Paths) -> None:
    talk, turn, (first, other) = ask(chat.store, paths, QUESTION, "はい。", "ええ。", tokens=4)
    subject = subject_hash("ayane", QUESTION, "はい。")
    shown = {"state": "done", "value": 6.0, "unscored": None, "parts": [], "about": None}
    score = Judgement(subject, RUBRIC, "1", "embedded", 6.0, rationale=json.dumps(shown))
    chat.store.add_judgement(score)
    assert column(chat, talk)["score"] == shown and column(chat, talk)["original"] is None
    chat.edit_reply(talk, turn, "A", "  ええ、大好きですわ。\n", seen=first.id)
    edited = column(chat, talk)
    assert (edited["text"], edited["reason"]) == ("ええ、大好きですわ。", "edited")
    assert edited["original"] == "はい。" and edited["score"] is None and edited["tokens"] == 0
    assert edited["prompt"] == first.prompt and edited["weights"] == "gemma@0"
    assert column(chat, talk, "B")["text"] == "ええ。"
    stored = chat.store.replies(turn, all_=True)
    assert [row.text for row in stored] == ["はい。", "ええ、大好きですわ。", "ええ。"]
    assert stored[0] == first and chat.store.replies(turn)[1] == other
    assert column(ChatService(paths), talk) == edited, "found again after a restart"


def test_the_way_back_to_the_original(chat: ChatService, paths: Paths) -> None:
    talk, turn, _ = ask(chat.store, paths, QUESTION, "はい。", "ええ。")
    chat.edit_reply(talk, turn, "A", "一度目ですわ。")
    chat.edit_reply(talk, turn, "A", "二度目ですわ。")
    assert column(chat, talk)["original"] == "はい。", "the model's words, not the first edit"
    chat.restore_reply(talk, turn, "A")
    back = column(chat, talk)
    assert (back["text"], back["reason"], back["original"]) == ("はい。", "end", None)
    chat.restore_reply(talk, turn, "A")
    chat.edit_reply(talk, turn, "A", "三度目ですわ。")
    chat.edit_reply(talk, turn, "A", "三度目ですわ。")
    chat.edit_reply(talk, turn, "A", "はい。")
    assert column(chat, talk)["reason"] == "end", "the model's own words are no edit"
    rows = [r.text for r in chat.store.replies(turn, all_=True) if r.position == 0]
    assert rows == [
        "はい。",
        "一度目ですわ。",
        "二度目ですわ。",
        "はい。",
        "三度目ですわ。",
        "はい。",
    ]


@pytest.mark.parametrize("text", ["", " \n　", "あ" * 8001])
def test_an_edit_has_to_say_something(chat: ChatService, paths: Paths, text: str) -> None:
    talk, turn, _ = ask(chat.store, paths, QUESTION, "はい。", "ええ。")
    with pytest.raises(UserError, match=r"empty|8,001 characters"):
        chat.edit_reply(talk, turn, "A", text)
    assert len(chat.store.replies(turn, all_=True)) == 2


def test_edits_that_cannot_be(chat: ChatService, paths: Paths) -> None:
    talk, turn, (first, _) = ask(chat.store, paths, QUESTION, "はい。", "ええ。")
    chat.edit_reply(talk, turn, "A", "先の編集")
    with pytest.raises(UserError, match="changed in the meantime"):
        chat.edit_reply(talk, turn, "A", "後の編集", seen=first.id)
    with pytest.raises(UserError, match="no answer to edit"):
        chat.edit_reply(talk, turn, "Z", "x")
    other, another, _ = ask(chat.store, paths, QUESTION, "はい。", "ええ。")
    with pytest.raises(UserError, match="not in the conversation"):
        chat.edit_reply(talk, another, "A", "x")
    chat.store.hide_turns(other, 1)
    with pytest.raises(UserError, match="not in the conversation"):
        chat.edit_reply(other, another, "A", "x")
    failed = chat.store.add_turn(talk, "次の質問")
    error = {"error": {"en": "no", "ja": "no"}}
    for position, name in enumerate(("base", "rag")):
        row = Reply(failed.id, position, name, "途中", stop_reason="error", preset=error)
        chat.store.add_reply(row)
    with pytest.raises(UserError, match="no answer to edit"):
        chat.edit_reply(talk, failed.id, "A", "x")


def test_no_edit_while_answering_or_before_the_vote(chat: ChatService, paths: Paths) -> None:
    talk, turn, _ = ask(chat.store, paths, QUESTION, "はい。", "ええ。")
    live = chat._turn(chat.store.turn(turn))
    live.done = False
    with pytest.raises(UserError, match="still being answered"):
        chat.edit_reply(talk, turn, "A", "x")
    live.done = live.blind = True
    with pytest.raises(UserError, match="Vote first"):
        chat.edit_reply(talk, turn, "A", "x")
    chat.vote(talk, turn, "B")
    chat.edit_reply(talk, turn, "A", "x")
    assert column(chat, talk)["text"] == "x"


# Supervised rows


def test_an_edit_becomes_a_row_with_its_prompt(chat: ChatService, paths: Paths) -> None:
    facts = ({"fact": FACT, "similarity": 0.9, "used": True},)
    talk = chat.store.add_conversation("ayane", ["base", "rag"]).id
    before = chat.store.add_turn(talk, "こんにちは。")
    chat.store.add_reply(Reply(before.id, 0, "base", "違う列ですわ。", stop_reason="end"))
    chat.store.add_reply(Reply(before.id, 1, "rag", "ごきげんよう。", stop_reason="end"))
    turn = chat.store.add_turn(talk, QUESTION)
    chat.store.add_reply(Reply(turn.id, 0, "base", "はい。", stop_reason="end"))
    prompt = prompt_of(paths, QUESTION, (FACT,), "こんにちは。", "ごきげんよう。")
    row = Reply(turn.id, 1, "rag", "秋です。", prompt, facts=facts, weights="w", stop_reason="end")
    original = chat.store.add_reply(row)
    chat.edit_reply(talk, turn.id, "B", "秋の古本屋は格別ですわ。")
    found = supervised_rows(chat.store, "ayane", paths)
    (dialogue,) = found.rows
    assert found.left_out == []
    assert [m.role for m in dialogue.messages] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
    ]
    assert dialogue.messages[0].content in prompt and FACT in dialogue.messages[0].content
    assert [m.content for m in dialogue.messages[1:]] == [
        "こんにちは。",
        "ごきげんよう。",
        QUESTION,
        "秋の古本屋は格別ですわ。",
    ]
    assert dialogue.facts == (FACT,) and dialogue.source == "harvested"
    origin = dialogue.meta["origin"]
    assert (origin["kind"], origin["conversation"], origin["turn"]) == ("edit", talk, turn.id)
    assert (origin["variant"], origin["weights"]) == ("rag", "w") and origin["prompt"] == prompt
    (pair,) = preference_rows(chat.store, "ayane", paths).rows
    assert pair["prompt"] == [m.model_dump() for m in dialogue.messages[:-1]]
    assert pair["chosen"] == [{"role": "assistant", "content": "秋の古本屋は格別ですわ。"}]
    assert pair["rejected"] == [{"role": "assistant", "content": "秋です。"}]
    assert pair["origin"]["rejected"]["item"] == f"reply-{original.id}"
    assert pair["origin"]["same_prompt"] is True


def test_only_what_was_sent_is_in_the_prompt(chat: ChatService, paths: Paths) -> None:
    store = chat.store
    talk, _, _ = ask(store, paths, "はじめまして。", "ごきげんよう。", "やあ。")
    _, turn, _ = ask(store, paths, QUESTION, "はい。", "ええ。", talk=talk)
    chat.edit_reply(talk, turn, "A", "大好きですわ。")
    (row,) = supervised_rows(store, "ayane", paths).rows
    assert [m.role for m in row.messages] == ["system", "user", "assistant"], "no history was sent"
    profile = paths.profiles / "ayane" / "profile.yaml"
    profile.write_text(
        profile.read_text(encoding="utf-8").replace("あなた", "そなた"), encoding="utf-8"
    )
    (row,) = supervised_rows(store, "ayane", paths).rows
    assert [m.role for m in row.messages] == ["user", "assistant"], "another prompt by now"
    assert "あなた" in row.meta["origin"]["prompt"], "the text that was sent is kept"
    shutil.rmtree(profile.parent)
    assert len(supervised_rows(store, "ayane", paths).rows) == 1, "a deleted character's too"


def test_prompts_of_endpoints_are_read_back(chat: ChatService, paths: Paths) -> None:
    talk = chat.store.add_conversation("ayane", ["far", "base"]).id
    turn = chat.store.add_turn(talk, QUESTION)
    parts = ("[system]\n口調は丁寧に。", "二行目。", "[user]\n前", "[assistant]\n答")
    prompt = "\n\n".join((*parts, f"[user]\n{QUESTION}"))
    reply = Reply(turn.id, 0, "far", "はい。", prompt, stop_reason="end")
    chat.store.add_reply(reply)
    chat.store.add_reply(Reply(turn.id, 1, "base", "ええ。", stop_reason="end"))
    chat.edit_reply(talk, turn.id, "A", "大好きですわ。")
    (row,) = supervised_rows(chat.store, "ayane", paths).rows
    assert [(m.role, m.content) for m in row.messages[:-1]] == [
        ("system", "口調は丁寧に。\n\n二行目。"),
        ("user", "前"),
        ("assistant", "答"),
        ("user", QUESTION),
    ]


def test_votes_and_their_changes(store: Store, paths: Paths) -> None:
    shown = ("base", "rag", "ayane-a")
    talk, turn, _ = ask(store, paths, QUESTION, "はい。", "ええ、好きですわ。", "ええ。")
    store.add_vote(Vote(talk, turn, "base", shown))
    vote = store.add_vote(Vote(talk, turn, "rag", shown, voter="hana"))
    last = store.add_vote(Vote(talk, turn, "rag", shown))
    rows = supervised_rows(store, "ayane", paths)
    assert [row.reply for row in rows.rows] == ["ええ、好きですわ。"]
    assert [row.id for row in rows.rows] == [f"vote-{last.id}"]
    assert rows.left_out == [(f"vote-{vote.id}", harvest.REPEATED)]
    pairs = preference_rows(store, "ayane", paths)
    assert [(p["chosen"][0]["content"], p["rejected"][0]["content"]) for p in pairs.rows] == [
        ("ええ、好きですわ。", "はい。"),
        ("ええ、好きですわ。", "ええ。"),
    ]
    assert pairs.reasons() == [(harvest.REPEATED, 2)]
    for choice in ("tie", "all-bad"):
        for voter in ("", "hana"):
            store.add_vote(Vote(talk, turn, choice, shown, voter=voter))
        assert supervised_rows(store, "ayane", paths).rows == []
        assert preference_rows(store, "ayane", paths) == harvest.Harvest([], [])


def test_a_vote_is_about_what_was_shown_then(chat: ChatService, paths: Paths) -> None:
    talk, turn, (first, _) = ask(chat.store, paths, QUESTION, "好きですわ。", "はい。")
    chat.vote(talk, turn, "A")
    chat.store.add_reply(Reply(turn, 0, "base", "作り直した答え。", stop_reason="end"))
    (row,) = supervised_rows(chat.store, "ayane", paths).rows
    assert row.reply == "好きですわ。" and row.meta["origin"]["item"] == f"reply-{first.id}"


def test_an_edited_winner_is_not_learnt_in_its_old_form(chat: ChatService, paths: Paths) -> None:
    talk, turn, _ = ask(chat.store, paths, QUESTION, "はい、好き。", "いいえ。")
    chat.vote(talk, turn, "A")
    chat.edit_reply(talk, turn, "A", "ええ、好きですわ。")
    rows = supervised_rows(chat.store, "ayane", paths)
    assert [row.reply for row in rows.rows] == ["ええ、好きですわ。"]
    assert whys(rows) == [harvest.IMPROVED]
    pairs = {
        (p["chosen"][0]["content"], p["rejected"][0]["content"])
        for p in preference_rows(chat.store, "ayane", paths).rows
    }
    assert pairs == {("ええ、好きですわ。", "はい、好き。"), ("はい、好き。", "いいえ。")}
    chat.restore_reply(talk, turn, "A")
    assert [r.reply for r in supervised_rows(chat.store, "ayane", paths).rows] == ["はい、好き。"]


@pytest.mark.parametrize(
    ("reason", "text", "why"),
    [
        ("length", "長い", harvest.ENDLESS),
        ("repetition", "です。です。", harvest.ENDLESS),
        ("cancelled", "途中", harvest.STOPPED),
        ("error", "途中", harvest.STOPPED),
        ("end", "  ", harvest.NO_TEXT),
    ],
)
def test_answers_that_teach_nothing_good(
    store: Store, paths: Paths, reason: str, text: str, why: Text
) -> None:
    talk = store.add_conversation("ayane", ["base", "rag"]).id
    turn = store.add_turn(talk, QUESTION)
    store.add_reply(Reply(turn.id, 0, "base", text, stop_reason=reason))
    store.add_reply(Reply(turn.id, 1, "rag", "好きですわ。", stop_reason="end"))
    store.add_vote(Vote(talk, turn.id, "base", ("base", "rag")))
    assert whys(supervised_rows(store, "ayane", paths)) == [why]
    assert whys(preference_rows(store, "ayane", paths)) == [why]
    store.add_vote(Vote(talk, turn.id, "rag", ("base", "rag")))
    assert len(supervised_rows(store, "ayane", paths).rows) == 1
    pairs = preference_rows(store, "ayane", paths)
    if why == harvest.ENDLESS:
        assert len(pairs.rows) == 1, "an answer that does not end is a good bad example"
    else:
        assert pairs.rows == [] and whys(pairs) == [why]


def test_questions_of_the_query_sets_stay_out(chat: ChatService, paths: Paths) -> None:
    query = load_queries(paths.queries / "ayane.jsonl")[0].text
    talk, turn, _ = ask(chat.store, paths, f"{query}！", "はい。", "ええ。")
    chat.edit_reply(talk, turn, "A", "絢音ですわ。")
    for found in (
        supervised_rows(chat.store, "ayane", paths),
        preference_rows(chat.store, "ayane", paths),
    ):
        assert found.rows == [] and found.reasons() == [(harvest.LEAK, 1)]


def test_an_edited_question_takes_its_evidence_with_it(chat: ChatService, paths: Paths) -> None:
    talk, turn, _ = ask(chat.store, paths, QUESTION, "はい。", "ええ。")
    chat.vote(talk, turn, "A")
    chat.store.hide_turns(talk, 1)
    assert whys(supervised_rows(chat.store, "ayane", paths)) == [harvest.HIDDEN]


# Hand scores


def scored(
    store: Store, reply: str, score: float | None, who: str = "hana", **more: Any
) -> Subject:
    subject = Subject.of(
        "ayane", more.pop("question", QUESTION), reply, source="run-1", item=f"row-{reply}"
    )
    store.add_subjects([subject])
    row = Judgement(subject.subject, more.pop("rubric", "study"), "1", person(who), score, **more)
    store.add_judgement(row)
    return subject


def test_hand_scores_make_rows_and_pairs(store: Store, paths: Paths) -> None:
    _, turn, _ = ask(store, paths, QUESTION, "好きですわ。", "はい。")
    judged.add_chat_replies(store, "ayane")
    scored(store, "好きですわ。", 6)
    scored(store, "はい。", 4)
    scored(store, "うん。", 2)
    scored(store, "知らない。", 7, question="別の質問ですの？")
    rows = supervised_rows(store, "ayane", paths).rows
    assert [row.reply for row in rows] == ["好きですわ。", "知らない。"]
    origin = rows[0].meta["origin"]
    assert (origin["kind"], origin["by"], origin["score"]) == ("hand", "person:hana", 6.0)
    assert (origin["turn"], origin["variant"]) == (turn, "base")
    assert rows[0].messages[0].role == "system", "an answer of the chat has its prompt"
    assert rows[1].messages[0].role == "user" and rows[1].meta["origin"]["source"] == "run-1"
    pairs = preference_rows(store, "ayane", paths)
    assert [(p["chosen"][0]["content"], p["rejected"][0]["content"]) for p in pairs.rows] == [
        ("好きですわ。", "はい。"),
        ("好きですわ。", "うん。"),
        ("はい。", "うん。"),
    ]
    assert (pairs.rows[0]["origin"]["score"], pairs.rows[0]["origin"]["rejected_score"]) == (6, 4)
    assert len(preference_rows(store, "ayane", paths, gap=4).rows) == 1
    scored(store, "好きですわ。", None, unscored_reason="withdrawn")
    assert [row.reply for row in supervised_rows(store, "ayane", paths).rows] == ["知らない。"]
    assert len(preference_rows(store, "ayane", paths).rows) == 1


def test_hand_scores_of_several_people_and_rubrics(store: Store, paths: Paths) -> None:
    scored(store, "一", 6)
    scored(store, "一", 3, who="ken")
    scored(store, "二", 6)
    scored(store, "二", 2, rubric="factual")
    scored(store, "三", 5)
    found = supervised_rows(store, "ayane", paths)
    assert [row.reply for row in found.rows] == ["三"]
    only = supervised_rows(store, "ayane", paths, rubric="study")
    assert {row.reply for row in only.rows} == {"二", "三"}
    everything = supervised_rows(store, "ayane", paths, threshold=2)
    assert {row.reply for row in everything.rows} == {"一", "二", "三"}
    scored(store, "四", 1)
    scored(store, "四", 6, who="ken")
    pairs = preference_rows(store, "ayane", paths)
    assert ("一", "四") not in {
        (p["chosen"][0]["content"], p["rejected"][0]["content"]) for p in pairs.rows
    }
    assert pairs.reasons() == [(harvest.CONTRADICTED, 2)], "hana 一 over 四, ken 四 over 一"


def test_kinds_can_be_chosen(chat: ChatService, paths: Paths) -> None:
    talk, turn, _ = ask(chat.store, paths, QUESTION, "はい。", "ええ。")
    chat.vote(talk, turn, "B")
    chat.edit_reply(talk, turn, "A", "好きですわ。")
    scored(chat.store, "うん、まあ。", 6)
    for kind in ("edit", "vote", "hand"):
        (row,) = supervised_rows(chat.store, "ayane", paths, kinds=[kind]).rows
        assert row.meta["origin"]["kind"] == kind


# Files


@pytest.fixture
def used(chat: ChatService, paths: Paths) -> ChatService:
    """A chat with an edit, a vote, and hand scores."""
    talk, turn, _ = ask(chat.store, paths, QUESTION, "はい。", "ええ。", "うん。")
    chat.vote(talk, turn, "B")
    chat.edit_reply(talk, turn, "A", "好きですわ。")
    scored(chat.store, "古本の匂いが好きですわ。", 7)
    scored(chat.store, "別に。", 2)
    return chat


def test_supervised_rows_become_a_dataset(used: ChatService, paths: Paths) -> None:
    found = supervised_rows(used.store, "ayane", paths)
    card = harvest.save_supervised(paths, found, "from-chat", "ayane")
    assert card.kind == "harvested" and card.rows == 3 and card.profile == "ayane"
    assert collection.load(paths, "from-chat").dialogues == found.rows
    with pytest.raises(UserError, match="exists already"):
        harvest.save_supervised(paths, found, "from-chat", "ayane")
    harvest.save_supervised(paths, found, "from-chat", "ayane", replace=True)
    with pytest.raises(UserError, match="nothing to save"):
        harvest.save_supervised(paths, harvest.Harvest([], []), "more", "ayane")


def test_preferences_become_a_file(used: ChatService, paths: Paths) -> None:
    found = preference_rows(used.store, "ayane", paths)
    path = harvest.save_preferences(paths, found, "likes")
    assert path == paths.datasets / "preferences" / "likes.jsonl"
    written = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert written == found.rows and len({row["id"] for row in written}) == len(written)
    with pytest.raises(UserError, match="exists already"):
        harvest.save_preferences(paths, found, "likes")
    harvest.save_preferences(paths, found, "likes", replace=True)
    with pytest.raises(UserError, match="cannot be a dataset name"):
        harvest.save_preferences(paths, found, "../likes")


def test_other_libraries_take_both_files(used: ChatService, paths: Paths, tmp_path: Path) -> None:
    """Hugging Face reads them, and trl sees conversations in them."""
    from datasets import load_dataset
    from trl.data_utils import is_conversational, maybe_extract_prompt

    supervised = supervised_rows(used.store, "ayane", paths)
    harvest.save_supervised(paths, supervised, "from-chat", "ayane")
    preferences = preference_rows(used.store, "ayane", paths)
    likes = harvest.save_preferences(paths, preferences, "likes")
    cache = str(tmp_path / "cache")
    sft, pairs = (
        load_dataset("json", data_files=str(path), split="train", cache_dir=cache)
        for path in (paths.datasets / "from-chat.jsonl", likes)
    )
    assert len(sft) == len(supervised.rows) and len(pairs) == len(preferences.rows) > 2
    assert {"id", "messages", "source", "meta"} == set(sft.column_names)
    for row in [*sft, *pairs]:
        assert is_conversational(row)
    for row, ours in zip(pairs, preferences.rows, strict=True):
        example = {key: row[key] for key in ("prompt", "chosen", "rejected")}
        assert example == {key: ours[key] for key in example}
        assert maybe_extract_prompt(example) == example, "the prompt is there explicitly"
