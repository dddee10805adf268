"""The store: all comes back as it went in, nothing is overwritten, threads do not disturb."""

from __future__ import annotations

import json
import sqlite3
import threading
from typing import Any

import pytest

from charllm.data.config import Paths
from charllm.data.dialogue import Message, load_dialogues
from charllm.data.errors import UserError
from charllm.services import export, store_migrations
from charllm.services.store import (
    Judgement,
    Reply,
    Store,
    Subject,
    Vote,
    person,
    subject_hash,
)


@pytest.fixture
def store(paths: Paths) -> Store:
    return Store(paths)


def talk_of_two(store: Store) -> int:
    """A conversation of two columns and two turns; the second column has no second reply."""
    talk = store.add_conversation("ayane", ["base", "rag"], settings={"preset": "balanced"})
    first = store.add_turn(talk.id, "お名前は？\n教えて")
    facts = ({"fact": "名前は絢音", "similarity": 0.8, "used": True},)
    store.add_reply(Reply(first.id, 0, "base", "# 太郎", tokens=3, stop_reason="end", seconds=1.25))
    store.add_reply(Reply(first.id, 1, "rag", "絢音ですわ。\n<b>", facts=facts, weights="abc"))
    second = store.add_turn(talk.id, "何歳？")
    store.add_reply(Reply(second.id, 0, "base", "18歳", stop_reason="end"))
    store.add_reply(Reply(second.id, 1, "rag", "  "))
    return talk.id


def test_a_conversation_comes_back_after_a_restart(store: Store, paths: Paths) -> None:
    talk = talk_of_two(store)
    store.close()
    again = Store(paths)
    found = again.conversation(talk)
    assert found.title == "お名前は？ 教えて" and found.variants == ("base", "rag")
    assert found.settings == {"preset": "balanced"}
    turns = again.turns(talk)
    assert [(turn.n, turn.question) for turn in turns] == [(1, "お名前は？\n教えて"), (2, "何歳？")]
    replies = again.replies(turns[0].id)
    assert [reply.variant for reply in replies] == ["base", "rag"]
    assert replies[1].facts == ({"fact": "名前は絢音", "similarity": 0.8, "used": True},)
    assert replies[0].seconds == 1.25 and replies[1].seconds is None
    assert again.reply(replies[1].id) == replies[1]


def test_conversations_are_listed_by_last_use(store: Store) -> None:
    first = store.add_conversation("ayane", title="one")
    second = store.add_conversation("ayane", title="two")
    store.add_conversation("other")
    store.add_turn(first.id, "again")
    assert [talk.id for talk in store.conversations("ayane")] == [first.id, second.id]
    assert len(store.conversations()) == 3 and len(store.conversations(limit=1)) == 1
    changed = store.change_conversation(second.id, title="new", variants=["base"])
    assert (changed.title, changed.variants, changed.settings) == ("new", ("base",), {})


def test_an_edit_hides_and_keeps(store: Store) -> None:
    talk = talk_of_two(store)
    assert store.hide_turns(talk, 2) == 1
    edited = store.add_turn(talk, "おいくつ？", blind=True)
    assert edited.n == 2 and edited.blind
    assert [turn.question for turn in store.turns(talk)] == ["お名前は？\n教えて", "おいくつ？"]
    everything = store.turns(talk, hidden=True)
    assert len(everything) == 3 and [turn.hidden for turn in everything] == [False, True, False]
    assert len(store.replies(everything[1].id)) == 2, "replies of hidden turns are not lost"


def test_regenerating_keeps_the_earlier_reply(store: Store) -> None:
    talk = talk_of_two(store)
    turn = store.turns(talk)[0]
    new = store.add_reply(Reply(turn.id, 0, "base", "another"))
    assert store.replies(turn.id)[0] == new and new.text == "another"
    assert len(store.replies(turn.id, all_=True)) == 3


def test_judgements_are_appended_and_never_changed(store: Store, paths: Paths) -> None:
    subject = subject_hash("ayane", "お名前は？", "絢音ですわ。")
    machine = store.add_judgement(
        Judgement(
            subject, "live", "1", "embedded", 6.5, levels={"7": 0.5}, flaws=("long",), rationale="r"
        )
    )
    hand = store.add_judgement(Judgement(subject, "live", "1", person("hana"), 2.0))
    second = store.add_judgement(Judgement(subject, "live", "1", person("hana"), 3.0))
    unscored = store.add_judgement(
        Judgement(subject, "study", "2", "gpt", unscored_reason="no verdict", sample=1)
    )
    assert store.judgements(subject) == [machine, hand, second, unscored]
    assert store.judgements(subject, judge="embedded") == [machine]
    assert store.judgements(subject, rubric="study")[0].score is None
    assert store.hand_scores() == [hand, second] and hand.by_hand and not machine.by_hand
    db = sqlite3.connect(paths.database)
    with pytest.raises(sqlite3.IntegrityError, match="never overwritten"):
        db.execute("UPDATE judgements SET score = 7")
    db.close()


@pytest.mark.parametrize(("score", "reason"), [(None, ""), (1.0, "and a reason")])
def test_a_judgement_has_a_score_or_a_reason(
    store: Store, score: float | None, reason: str
) -> None:
    with pytest.raises(ValueError, match="either a score or a reason"):
        store.add_judgement(Judgement("x", "r", "1", "j", score, unscored_reason=reason))
    assert store.judgements("x") == []


def test_subjects_differ_by_every_part() -> None:
    parts = [("a", "b", "c"), ("a", "bc", ""), ("ab", "", "c"), ("a", "b", "c ")]
    assert len({subject_hash(*part) for part in parts}) == 4


def test_a_subject_without_history_keeps_the_hash_of_the_first_version() -> None:
    known = "5de136d36d73e8babc0ea4b2aa5db9e656385bc0997b67a8be4a8cd1d89e6c12"
    assert subject_hash("ayane", "q", "r") == subject_hash("ayane", "q", "r", ())
    assert subject_hash("ayane", "q", "r") == known
    before = [Message(role="user", content="a"), Message(role="assistant", content="b")]
    hashes = {
        subject_hash("ayane", "q", "r"),
        subject_hash("ayane", "q", "r", before),
        subject_hash("ayane", "q", "r", before[:1]),
    }
    assert len(hashes) == 3


def test_votes_keep_the_order_that_was_shown(store: Store) -> None:
    talk = talk_of_two(store)
    turn = store.turns(talk)[0].id
    vote = store.add_vote(Vote(talk, turn, "rag", ("rag", "base")))
    tie = store.add_vote(Vote(talk, turn, "all-bad", ("rag", "base"), blind=False))
    assert store.votes(talk) == [vote, tie] and store.votes(talk + 1) == []
    with pytest.raises(UserError, match="none of the answers shown"):
        store.add_vote(Vote(talk, turn, "merged", ("rag", "base")))


def test_deleting_a_conversation_takes_its_rows(store: Store) -> None:
    talk = talk_of_two(store)
    turn = store.turns(talk)[0].id
    store.add_vote(Vote(talk, turn, "tie", ("rag", "base")))
    subject = subject_hash("ayane", "q", "r")
    store.add_judgement(Judgement(subject, "live", "1", "j", 1.0))
    store.delete_conversation(talk)
    assert (
        store.turns(talk, hidden=True) == [] and store.votes() == [] and store.replies(turn) == []
    )
    assert len(store.judgements(subject)) == 1
    with pytest.raises(UserError, match="does not exist any more"):
        store.conversation(talk)


def test_a_failed_write_changes_nothing(store: Store) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        store.add_turn(999, "to nobody")
    assert store.turns(999) == []
    assert store.add_conversation("ayane").id == 1, "the next write works"


def test_many_threads_write_at_once(store: Store) -> None:
    talk = store.add_conversation("ayane")
    problems: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(10):
                turn = store.add_turn(talk.id, f"{number}-{i}")
                store.add_reply(Reply(turn.id, 0, "base", "x"))
                store.turns(talk.id)
            store.close()
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert problems == []
    assert [turn.n for turn in store.turns(talk.id)] == list(range(1, 61)), "every turn its number"


def test_a_writer_waits_for_the_one_before(store: Store) -> None:
    talk = store.add_conversation("ayane").id
    other = threading.Thread(target=store.add_turn, args=(talk, "second"))
    with store._write():
        other.start()
        other.join(0.3)
        assert other.is_alive(), "a transaction has the write lock from its beginning"
        assert store.turns(talk) == []
    other.join(10)
    assert [turn.question for turn in store.turns(talk)] == ["second"]


def test_the_file_is_in_wal_mode_and_versioned(store: Store, paths: Paths) -> None:
    db = sqlite3.connect(paths.database)
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert db.execute("PRAGMA user_version").fetchone() == (len(store_migrations.MIGRATIONS),)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(UserError, match="newer charllm"):
        Store(paths)


def test_a_later_version_upgrades_what_is_there(
    store: Store, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = talk_of_two(store)
    more = (*store_migrations.MIGRATIONS, "CREATE TABLE extra (x);\nINSERT INTO extra VALUES (1);")
    monkeypatch.setattr(store_migrations, "MIGRATIONS", more)
    assert len(Store(paths).turns(talk)) == 2
    db = sqlite3.connect(paths.database)
    assert db.execute("SELECT x FROM extra").fetchall() == [(1,)]
    db.close()


def test_a_file_that_is_no_database_is_told(paths: Paths) -> None:
    paths.workspace.mkdir(parents=True)
    paths.database.write_bytes(b"not a database, but long enough to be read as one" * 100)
    with pytest.raises(UserError, match="cannot be used as a database"):
        Store(paths)


def test_export_as_training_dialogues(store: Store, paths: Paths) -> None:
    talk = talk_of_two(store)
    text = export.as_jsonl(store, talk)
    assert len(text.splitlines()) == 2, "a line a column"
    file = paths.datasets / "from-chat.jsonl"
    file.write_text(text, encoding="utf-8")
    base, rag = load_dialogues(file)
    assert [m.content for m in base.messages] == ["お名前は？\n教えて", "# 太郎", "何歳？", "18歳"]
    assert [m.role for m in rag.messages] == ["user", "assistant"], "an empty reply is no example"
    assert rag.facts == ("名前は絢音",)
    assert rag.meta["variant"] == "rag" and rag.meta["weights"] == "abc" and rag.source == "chat"


def test_export_as_markdown_quotes_what_models_say(store: Store) -> None:
    talk = talk_of_two(store)
    text = export.as_markdown(store, talk, "ja")
    assert "> # 太郎" in text and "\n# 太郎" not in text
    assert "## 質問 2" in text and "### rag" in text and "- 名前は絢音" in text
    assert "## Question 2" in export.as_markdown(store, talk, "en")


def test_an_empty_conversation_exports_to_nothing(store: Store) -> None:
    talk = store.add_conversation("ayane").id
    assert export.as_jsonl(store, talk) == ""
    assert export.as_markdown(store, talk).startswith("# ayane")
    assert json.loads("[]") == export.as_dialogues(store, talk)


# Subjects and what was judged


def said(reply: str, source: str = "run-1", item: str = "", **more: Any) -> Subject:
    return Subject.of("ayane", "お名前は？", reply, source=source, item=item or reply, **more)


def verdict(subject: Subject, score: float | None, judge: str = "gpt", **more: Any) -> Judgement:
    reason = more.pop("unscored_reason", "" if score is not None else "no verdict")
    return Judgement(subject.subject, "study", "1", judge, score, unscored_reason=reason, **more)


def test_a_database_of_the_first_version_is_taken_over(paths: Paths) -> None:
    paths.workspace.mkdir(parents=True)
    old = sqlite3.connect(paths.database)
    old.executescript(store_migrations.MIGRATIONS[0])
    old.execute("PRAGMA user_version = 1")
    old.execute(
        "INSERT INTO conversations (profile, title, variants, settings, created, updated) "
        "VALUES ('ayane', 't', '[]', '{}', 1, 1)"
    )
    subject = subject_hash("ayane", "お名前は？", "絢音ですわ。")
    old.execute(
        "INSERT INTO judgements VALUES (7, ?, 'live', '1', 'embedded', '', 0, 6.5, '', "
        "'{\"6\": 0.5}', 'why', '[\"long\"]', 12, 0.25, 99.0)",
        (subject,),
    )
    old.execute(
        "INSERT INTO judgements VALUES (8, ?, 'live', '1', 'gpt', '', 1, NULL, 'refused', '{}', "
        "'', '[]', 0, 0.0, 100.0)",
        (subject,),
    )
    old.commit()
    old.close()
    store = Store(paths)
    scored, unscored = store.judgements(subject)
    assert (scored.id, scored.score, scored.levels, scored.flaws) == (7, 6.5, {"6": 0.5}, ("long",))
    assert (scored.tokens, scored.cost, scored.time, scored.rationale) == (12, 0.25, 99.0, "why")
    assert (unscored.score, unscored.unscored_reason, unscored.sample) == (None, "refused", 1)
    assert scored.parts == {} and scored.gate == () and unscored.unscored_ja == ""
    assert store.conversations()[0].title == "t"
    new = store.add_judgement(verdict(said("絢音ですわ。"), 3.0, cost=None))
    assert new.id > 8 and store.judgements(subject)[-1].cost is None
    store.add_subjects([said("絢音ですわ。")])
    assert [row.id for row in store.judged("ayane")[0][1]] == [7, 8, new.id]
    with pytest.raises(sqlite3.IntegrityError, match="never overwritten"):
        store._connection().execute("UPDATE judgements SET score = 7")
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        store._connection().execute(
            "INSERT INTO judgements SELECT NULL, subject, rubric, rubric_version, judge, "
            "prompt_hash, sample, score, 'a reason too', '', levels, parts, gate, rationale, "
            "flaws, tokens, 0, 0, cost, time FROM judgements WHERE id = 7"
        )


def test_subjects_and_verdicts_are_kept_once(store: Store) -> None:
    history = (Message(role="user", content="こんにちは"),)
    one = said("一", gold=("名前は絢音",), topic="name", stop_reason="end")
    two = said("二", history=history)
    assert store.add_subjects([one, two]) == 2 and store.add_subjects([one, two]) == 0
    assert store.add_subjects([said("一", item="other"), said("一", source="run-2")]) == 2
    kept = store.subjects("ayane", "run-1")
    assert [(s.reply, s.history, s.gold, s.topic, s.item) for s in kept] == [
        ("一", (), ("名前は絢音",), "name", "一"),
        ("二", history, (), "", "二"),
        ("一", (), (), "", "other"),
    ]
    rows = [
        verdict(one, 5.0, parts={"style": 0.5, "relevance": None}, gate=("loop",), tokens_in=9),
        verdict(one, 6.0, sample=1),
        verdict(two, None, unscored_reason="refused", unscored_ja="拒否"),
    ]
    assert store.add_judgements(rows) == 3
    assert store.add_judgements([*rows, verdict(one, 5.5)]) == 1, "only what is new"
    of_one, of_two, same, elsewhere = (found for _, found in store.judged("ayane"))
    assert [row.score for row in of_one] == [5.0, 6.0, 5.5] and same == of_one == elsewhere
    assert of_one[0].parts == {"style": 0.5, "relevance": None} and of_one[0].gate == ("loop",)
    assert of_two[0].unscored_ja == "拒否" and of_one[0].tokens_in == 9
    assert store.sources("ayane") == ["run-2", "run-1"] and store.sources("magnus") == []
    assert [s.source for s, _ in store.judged("ayane", "run-2")] == ["run-2"]


def test_a_batch_with_a_wrong_row_adds_nothing(store: Store) -> None:
    one = said("一")
    with pytest.raises(ValueError, match="either a score or a reason"):
        store.add_judgements([verdict(one, 5.0), Judgement(one.subject, "r", "1", "j")])
    assert store.judgements(one.subject) == []


def test_hand_scores_can_be_changed_and_withdrawn(store: Store) -> None:
    one, two = said("一"), said("二")
    store.add_subjects([one, two])
    hana, ken = person("hana"), person("ken")
    for row in (
        verdict(one, 5.0, hana),
        verdict(one, 2.0, ken),
        verdict(two, 7.0, hana),
        verdict(one, 3.0, hana),
        verdict(two, None, hana, unscored_reason="withdrawn"),
        verdict(one, 6.0),
    ):
        store.add_judgement(row)
    current = store.current_hand_scores("ayane")
    assert [(row.judge, row.score) for row in current] == [(ken, 2.0), (hana, 3.0)]
    assert store.current_hand_scores("ayane", "other") == []
    assert store.current_hand_scores("magnus") == []
    assert len(store.hand_scores()) == 5, "what was said stays"
    store.add_judgement(verdict(two, 7.0, hana))
    assert [row.score for row in store.current_hand_scores("ayane")] == [2.0, 3.0, 7.0]
    assert store.judges("ayane") == [
        ("gpt", "study", "1", 1, 0),
        (hana, "study", "1", 2, 0),
        (ken, "study", "1", 1, 0),
    ]


def test_judges_count_subjects_not_rows(store: Store) -> None:
    one, two = said("一"), said("二", source="run-2")
    store.add_subjects([one, two])
    store.add_judgements(
        [
            verdict(one, 5.0),
            verdict(one, None, sample=1),
            verdict(two, None),
            verdict(two, None, person("hana"), unscored_reason="withdrawn"),
        ]
    )
    assert store.judges("ayane") == [("gpt", "study", "1", 2, 1)]
    assert store.judges("ayane", "run-2") == [("gpt", "study", "1", 1, 1)]
    store.add_judgements([verdict(two, 4.0)])
    assert store.judges("ayane", "run-2")[0].unscored == 0, "the later verdict counts"


def test_deleting_a_conversation_takes_its_text_from_the_desk(store: Store) -> None:
    talk = talk_of_two(store)
    other = talk_of_two(store)
    for conversation in (talk, other):
        reply = store.replies(store.turns(conversation)[0].id)[0]
        store.add_subjects([said(reply.text, "chat", f"reply-{reply.id}")])
    kept = store.subjects("ayane")[1]
    store.delete_conversation(talk)
    assert store.subjects("ayane") == [kept]
