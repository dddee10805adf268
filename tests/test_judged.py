"""Records in the store and back; other people's judgements in, ours out, without a loss."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from charllm.core.judging.records import Item, Record, mean_scores
from charllm.data.config import Paths
from charllm.data.dialogue import Message
from charllm.data.errors import Text, UserError
from charllm.services import judged
from charllm.services.judged import add_chat_replies, record_rows, records_of
from charllm.services.judged_files import export_jsonl, read_verdicts, store_verdicts
from charllm.services.store import Judgement, Reply, Store, person, subject_hash

HISTORY = (Message(role="user", content="前"), Message(role="assistant", content="答"))
ITEMS = [
    Item("a", "お名前は？", "絢音ですわ。", "end", gold=("名前は絢音",), topic="name"),
    Item("b", "何歳？", "18歳ですわ。", history=HISTORY),
    Item("c", "何歳？", "18歳ですわ。"),
]
RECORDS = [
    Record(
        "a",
        "gpt@server",
        "study",
        "1-abc",
        6.25,
        parts={"style": 0.75, "relevance": None},
        levels={"6": 0.75, "7": 0.25},
        rationale="口調が合っています。",
        flaws=("短い",),
        prompt_hash="p1",
        tokens_in=700,
        tokens_out=80,
        cost=0.0012,
    ),
    Record("a", "gpt@server", "study", "1-abc", 5.0, sample=1, cost=None),
    Record("b", "gpt@server", "study", "1-abc", 1.0, gate=("loop", "cut")),
    Record("c", "gpt@server", "study", "1-abc", None, Text("refused", "拒否されました")),
]


@pytest.fixture
def store(paths: Paths) -> Store:
    return Store(paths)


def write(path: Path, *rows: Any) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def row(score: Any = 5, **more: Any) -> dict[str, Any]:
    return {
        "query": "お名前は？",
        "reply": "絢音ですわ。",
        "judge": "gpt-4o",
        "score": score,
    } | more


# Records


def test_records_come_back_as_they_were(store: Store) -> None:
    assert record_rows(store, "ayane", "run-1", ITEMS, RECORDS) == 4
    assert record_rows(store, "ayane", "run-1", ITEMS, RECORDS) == 0, "a second time adds nothing"
    assert records_of(store, "ayane", "run-1", "gpt@server", "study") == RECORDS
    assert judged.items_of(store, "ayane", "run-1") == ITEMS
    assert records_of(store, "ayane", "run-2", "gpt@server", "study") == []
    assert records_of(store, "ayane", "run-1", "gpt@server", "other") == []


def test_the_latest_version_and_the_latest_verdict_count(store: Store) -> None:
    def one(version: str, score: float) -> list[Record]:
        return [Record("a", "gpt", "study", version, score)]

    record_rows(store, "ayane", "run", ITEMS[:1], one("1", 3.0))
    record_rows(store, "ayane", "run", ITEMS[:1], one("1", 4.0))
    assert [r.score for r in records_of(store, "ayane", "run", "gpt", "study")] == [4.0]
    record_rows(store, "ayane", "run", ITEMS[:1], one("2", 5.0))
    assert [r.score for r in records_of(store, "ayane", "run", "gpt", "study")] == [5.0]
    old = records_of(store, "ayane", "run", "gpt", "study", version="1")
    assert [r.score for r in old] == [4.0]


def test_equal_rows_of_a_dataset_share_their_verdict(store: Store) -> None:
    twin = Item("twin", ITEMS[0].query, ITEMS[0].reply)
    record_rows(store, "ayane", "run", [ITEMS[0], twin], [RECORDS[0]])
    found = records_of(store, "ayane", "run", "gpt@server", "study")
    assert mean_scores(found) == {"a": 6.25, "twin": 6.25}


def test_the_chats_answers_become_subjects(store: Store) -> None:
    talk = store.add_conversation("ayane", ["base", "rag"]).id
    turn = store.add_turn(talk, "お名前は？").id
    store.add_reply(Reply(turn, 0, "base", "太郎です。", stop_reason="length"))
    store.add_reply(Reply(turn, 1, "rag", "絢音ですわ。", stop_reason="end"))
    other = store.add_turn(talk, "何歳？").id
    store.add_reply(Reply(other, 0, "base", "途中", stop_reason="cancelled"))
    store.add_reply(Reply(other, 1, "rag", "人の言葉", stop_reason="edited"))
    live = Judgement(
        subject_hash("ayane", "お名前は？", "絢音ですわ。"), "live", "1", "embedded", 6.0
    )
    store.add_judgement(live)
    assert add_chat_replies(store, "ayane") == 2 and add_chat_replies(store, "ayane") == 0
    first, second = store.judged("ayane", "chat")
    assert (first[0].reply, first[0].stop_reason, first[1]) == ("太郎です。", "length", [])
    assert [j.score for j in second[1]] == [6.0], "its live score is found"


# Other people's judgements


def test_a_file_comes_in_once(store: Store, paths: Paths, tmp_path: Path) -> None:
    file = write(
        tmp_path / "theirs.jsonl",
        row(6, id="r1", rubric="study", version=1, rationale="よい", extra=1, topic="name"),
        row(4, history=[{"role": "user", "content": "前"}]),
        "",
        row(None, judge="claude", unscored_reason="refused"),
    )
    found = read_verdicts(paths, "ayane", file, "theirs")
    assert found.rejected == [] and found.ignored == {"extra"}
    assert found.judges == ["import:theirs/claude", "import:theirs/gpt-4o"]
    assert store.judged("ayane") == [], "reading stores nothing"
    assert store_verdicts(store, found) == 3
    again = read_verdicts(paths, "ayane", file, "theirs")
    assert store_verdicts(store, again) == 0
    assert store.sources("ayane") == ["import:theirs"]
    (first, given), (second, _), (third, unscored) = store.judged("ayane", "import:theirs")
    assert (first.item, first.topic, second.item, third.item) == ("r1", "name", "line-2", "line-4")
    assert second.history == HISTORY[:1] and second.subject != first.subject
    assert third.subject == first.subject and unscored == given
    assert [(j.judge, j.score, j.rubric, j.rubric_version) for j in given] == [
        ("import:theirs/gpt-4o", 6.0, "study", "1"),
        ("import:theirs/claude", None, "", ""),
    ]
    assert store.current_hand_scores("ayane") == []
    assert not any(j.by_hand for j in given)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[1]", "not a JSON object"),
        ('{"query": "\\ud800", "reply": "x", "judge": "g", "score": 1}', "halves of characters"),
        (row(8), "outside 1 to 7"),
        (row(0.99), "outside 1 to 7"),
        (row("5"), "'5' is not a number"),
        (row(True), "True is not a number"),
        (row(float("nan")), "not a number"),
        (row([5]), "not a number"),
        (row(10**4000), "not a number"),
        ('{"score": 1' + "0" * 5000 + "}", "not valid JSON"),
        (row(None), "neither a score nor an unscored_reason"),
        (row(5, unscored_reason="refused"), "both a score and"),
        (row(query=" "), "query is missing"),
        ({"query": "q", "judge": "g", "score": 1}, "reply is missing"),
        (row(reply=7), "reply is not a text"),
        (row(judge=""), "judge is missing"),
        (row(sample=-1), "sample is not a whole number"),
        (row(sample=1.5), "sample is not a whole number"),
        (row(history="前"), "history is not a list"),
        (row(history=[{"role": "narrator", "content": "x"}]), "history is not a list"),
        (row(history=7), "history is not a list"),
        (row(flaws="短い"), "flaws is not a list"),
        (row(parts={"style": "x"}), "parts is not an object"),
    ],
)
def test_rejected_rows_have_their_line_and_reason(
    store: Store, paths: Paths, tmp_path: Path, line: Any, reason: str
) -> None:
    file = write(tmp_path / "f.jsonl", row(), line, row(3, reply="別の答え"))
    found = read_verdicts(paths, "ayane", file, "f")
    (rejected,) = found.rejected
    assert rejected.line == 2 and reason in rejected.reason.en and rejected.reason.ja
    assert len(rejected.text) <= 200 and len(found.judgements) == len(found.subjects) == 2


def test_scales(paths: Paths, tmp_path: Path) -> None:
    paths.rubrics.mkdir(exist_ok=True)
    file = write(tmp_path / "f.jsonl", row(9.5), row(5), row(0))
    ten = read_verdicts(paths, "ayane", file, "f", scale=(0, 10))
    assert [j.score for j in ten.judgements] == [9.5, 5.0, 0.0]
    assert [r.line for r in read_verdicts(paths, "ayane", file, "f").rejected] == [1, 3]


def test_samples(store: Store, paths: Paths, tmp_path: Path) -> None:
    file = write(
        tmp_path / "f.jsonl",
        row(5),
        row(7),
        row(5, sample=0),
        row(6, sample=1),
        row(2, judge="b", sample=3),
    )
    found = read_verdicts(paths, "ayane", file, "f")
    assert [(j.sample, j.score) for j in found.judgements] == [(0, 5), (1, 7), (0, 5), (3, 2)]
    assert [(r.line, r.reason.en) for r in found.rejected] == [
        (4, "line 2 gives the same sample another score")
    ]
    assert store_verdicts(store, found) == 3


def test_files_that_cannot_be_read(paths: Paths, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_verdicts(paths, "ayane", tmp_path / "none", "f")
    (tmp_path / "sjis").write_bytes("質問".encode("cp932"))
    with pytest.raises(UserError, match="Shift_JIS"):
        read_verdicts(paths, "ayane", tmp_path / "sjis", "f")
    with pytest.raises(UserError, match="cannot be a name"):
        read_verdicts(paths, "ayane", tmp_path / "sjis", "../f")


# Export


def test_an_export_comes_in_again(store: Store, paths: Paths, tmp_path: Path) -> None:
    record_rows(store, "ayane", "run-1", ITEMS, RECORDS)
    subject = judged.subject_of("ayane", "run-1", ITEMS[0]).subject
    hana = person("hana")
    for score, why in ((2.0, ""), (4.0, "")):
        store.add_judgement(Judgement(subject, "study", "1", hana, score, unscored_reason=why))
    store.add_judgement(
        Judgement(subject, "study", "1", person("ken"), unscored_reason="withdrawn")
    )
    text = export_jsonl(store, "ayane", "run-1")
    rows = [json.loads(line) for line in text.splitlines()]
    assert len(rows) == 5 and [r["score"] for r in rows if r["judge"] == hana] == [4.0]
    assert not any(r["judge"] == person("ken") for r in rows), (
        "withdrawn scores are not ours to give"
    )
    (tmp_path / "ours.jsonl").write_text(text, encoding="utf-8")
    found = read_verdicts(paths, "ayane", tmp_path / "ours.jsonl", "ours")
    assert found.rejected == [] and found.ignored == set()
    other = Store(Paths(paths.root, tmp_path / "elsewhere"))
    assert store_verdicts(other, found) == 5
    back = [json.loads(line) for line in export_jsonl(other, "ayane").splitlines()]
    assert [_without(r, "time", "judge") for r in back] == [
        _without(r, "time", "judge") for r in rows
    ]
    assert [r["judge"] for r in back] == [f"import:ours/{r['judge']}" for r in rows]
    assert len(export_jsonl(store, "ayane", judge=hana).splitlines()) == 1


def _without(row: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in keys}


def test_no_key_comes_in_or_goes_out(
    store: Store, paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "sk-" + "a1b2c3d4" * 4
    monkeypatch.setenv("MY_SERVER_API_KEY", "correct-horse-battery")
    secrets = f"{key} correct-horse-battery"
    found = read_verdicts(paths, "ayane", write(tmp_path / "f", row(rationale=secrets)), "f")
    store_verdicts(store, found)
    kept = store.judged("ayane")[0][1][0].rationale
    assert kept == "[hidden] [hidden]"
    record = Record("a", "gpt", "study", "1", 5.0, rationale=secrets)
    record_rows(store, "ayane", "run", ITEMS[:1], [record])
    text = export_jsonl(store, "ayane")
    assert key not in text and "correct-horse" not in text
    for file in paths.workspace.glob("charllm.sqlite*"):
        assert key.encode() not in file.read_bytes() and b"correct-horse" not in file.read_bytes()


def test_the_table_of_judges(store: Store) -> None:
    record_rows(store, "ayane", "run-1", ITEMS, RECORDS)
    subject = judged.subject_of("ayane", "run-1", ITEMS[0]).subject
    for score in (2.0, None):
        reason = "" if score else "withdrawn"
        store.add_judgement(Judgement(subject, "study", "1", person("ken"), score, reason))
    (found,) = judged.summary(store, "ayane", "run-1")
    assert (found.judge, found.n, found.unscored) == ("gpt@server", 2, 1)
    assert found.mean == pytest.approx((5.625 + 1) / 2)
    assert found.sd == pytest.approx(abs(5.625 - 1) / 2**0.5)
    lonely = judged.JudgeSummary("=1+1", "study", "1", 1, 0, 5.0, None)
    empty = judged.JudgeSummary("j", "study", "1", 0, 3, None, None)
    read = list(csv.DictReader(io.StringIO(judged.summary_csv([found, lonely, empty]))))
    assert read[0]["mean"] == "3.3125" and read[0]["unscored"] == "1"
    assert read[1] == {
        "judge": "'=1+1",
        "rubric": "study",
        "version": "1",
        "n": "1",
        "unscored": "0",
        "mean": "5.0000",
        "sd": "",
    }
    assert read[2]["mean"] == ""
