"""The checks of a dataset: what they find, what they leave alone, on our data and on real data."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from charllm.data import collection
from charllm.data.checking import check, check_file
from charllm.data.checking_rows import CODES
from charllm.data.config import Paths
from charllm.data.dialogue import Dialogue, Message, load_dialogues
from charllm.data.errors import UserError
from charllm.data.overlaps import overlapping, repeats
from charllm.data.profile import Profile, Speech, load_profile
from charllm.data.text import near_duplicates

HERS = Profile(
    slug="x",
    name="絢音",
    reply_length=20,
    speech=Speech(first_person="わたくし", endings=("ですわ",)),
)
HIS = Profile(slug="y", name="Magnus", language="en", reply_length=60)
Q, FINE = "休みの日は何をしていますか？", "本を読んで過ごしますわ。"


def row(id: str, user: str, reply: str, **meta: str) -> Dialogue:
    messages = (Message(role="user", content=user), Message(role="assistant", content=reply))
    return Dialogue(id=id, messages=messages, meta=meta)


def codes(reply: str, profile: Profile | None = HERS, user: str = Q) -> list[str]:
    return [finding.code for finding in check([row("a", user, reply)], [], profile).findings]


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ("……", "empty"),
        ("!?", "empty"),
        ("Good morning, my friend.", "wrong-language"),
        ("今日天气很好我想去公園散歩一下。", "wrong-language"),
        ("まあ、I would love to go there ですわ。", "mixed-language"),
        ("Приветと申しますわ。", "mixed-language"),
        ("안녕하세요、ごきげんよう。", "mixed-language"),
        ("本を読み\ufffdますわ。", "broken"),
        ("本を読み\x07ますわ。", "broken"),
        ("縺ゅj縺後→縺ですわ。", "broken"),
        ("本&amp;映画ですわ。", "broken"),
        ("本ですわ。<|im_end|>", "template"),
        ("[INST] 本ですわ。", "template"),
        ("本ですわ。\nUser: ほかには？", "template"),
        ("{{user}}様と本を読みますわ。", "template"),
        ("本を読んで過ごしますわ、" * 6 + "ええ。", "too-long"),
        ("本。", "too-short"),
        ("本を読んで過ごしますわ", "no-end-mark"),
        ("僕は本を読みますわ。", "first-person"),
        ("ええ、あたしも本を読みますわ。", "first-person"),
    ],
)
def test_a_reply_with_one_fault(reply: str, code: str) -> None:
    assert codes(reply) == [code]


@pytest.mark.parametrize(
    "reply",
    [
        FINE,
        "私は本を読みますわ。",  # わたくし in other letters
        "公僕を務める父の、わたしは娘ですわ。",
        "「僕は猫だ」という本を読みますわ。",
        "YouTubeで「The Sound of Music」を観ますの♪",
        "iPadとPCですわ…",
        "すてきな休日ですわ🌸",
        "おほほほほ、秘密ですわ〜",
        "３時のお茶ですわ！",
    ],
)
def test_a_good_reply_has_no_finding(reply: str) -> None:
    assert codes(reply) == []


def test_an_english_character() -> None:
    assert codes("Aye. The light keeps me busy enough, lad.", HIS) == []
    assert codes("ええ、海を見ておりますわ。", HIS) == ["wrong-language"]
    assert codes("Aye, the sea is 海 to some, and weather to me.", HIS) == ["mixed-language"]
    assert codes("Aye. The light keeps me busy enough, lad", HIS) == ["no-end-mark"]


def test_without_a_profile_the_main_language_counts() -> None:
    rows = [row(f"r{i}", f"{i}番は？", f"それは{i}番の本ですわ。") for i in range(5)]
    report = check([*rows, row("en", "And you?", "I read a book every day.")])
    assert [f.code for f in report.by_row["en"]] == ["wrong-language"]


def test_turns_and_system_prompts() -> None:
    def talk(*turns: str) -> list[str]:
        roles = {"s": "system", "u": "user", "a": "assistant"}
        messages = [{"role": roles[t], "content": FINE} for t in turns]
        found = check([Dialogue.from_data({"id": "a", "messages": messages}, "a")], [], HERS)
        return [finding.code for finding in found.findings]

    assert talk("u", "a", "u", "a") == []
    assert talk("a", "u", "a") == [], "a greeting before the first question is usual"
    assert talk("s", "u", "a") == ["system"]
    assert talk("u", "s", "a") == ["role-order", "system"]
    assert talk("u", "u", "a") == ["role-order"]
    assert talk("a") == ["no-question"]


def test_leftovers_in_the_question_count_too() -> None:
    assert codes(FINE, user="おはよう ->") == ["template"]


def test_repeats_name_the_row_they_repeat() -> None:
    rows = [
        row("a", "好きな食べ物は何ですか？", "お抹茶のロールケーキが大好きですわ。"),
        row("b", "好きな食べ物は何ですか", "お抹茶のロールケーキが大好きですわ！"),
        row("c", "好きな食べ物は何ですか？", "お抹茶のロールケーキが好きですわ。"),
        row("d", "おやつは何がいい？", "お抹茶のロールケーキが大好きですわ。"),
        row("e", "雨の日は何をしますか？", "窓辺でバイオリンを弾きますわ。"),
    ]
    found = {(f.id, f.code, f.other) for f in check(rows, [], HERS).findings}
    assert found == {
        ("b", "duplicate", "a"),
        ("c", "near-duplicate", "a"),
        ("d", "same-reply", "a"),
    }


def test_leaks_name_the_query_and_every_turn_counts() -> None:
    queries = [("set/q1", "苦手な食べ物はありますか？"), ("set/q2", "夢は何ですか？")]
    long = Dialogue.from_data(
        {
            "id": "long",
            "messages": [
                {"role": "user", "content": "苦手な食べ物はありますか"},
                {"role": "assistant", "content": "セロリは苦手ですわ。"},
                {"role": "user", "content": "それはなぜでしょう？"},
                {"role": "assistant", "content": "香りがどうしても駄目ですの。"},
            ],
        },
        "long",
    )
    report = check([row("a", Q, FINE), long], queries, HERS)
    assert [(f.id, f.code, f.other) for f in report.findings] == [("long", "leak", "set/q1")]
    data = report.as_json()
    assert data["leaks"] == 1
    assert data["leak_pairs"] == [{"id": "long", "query": "set/q1", "overlap": 1.0}]


def test_lengths_cover_every_reply() -> None:
    rng = random.Random(3)
    rows = [row(str(i), f"{i}?", "あ" * (rng.randrange(1, 60) if i else 900)) for i in range(300)]
    lengths = check(rows).lengths
    sizes = [len(r.reply) for r in rows]
    assert sum(lengths.counts) == 300 and len(lengths.edges) == len(lengths.counts) + 1 <= 25
    for number, count in enumerate(lengths.counts[:-1]):
        low, high = lengths.edges[number], lengths.edges[number + 1]
        assert count == sum(low <= size < high for size in sizes)
    assert (lengths.shortest, lengths.longest) == (min(sizes), 900)
    for share, value in lengths.quantiles:
        assert sum(size <= value for size in sizes) >= share * 300
        assert sum(size < value for size in sizes) < share * 300


def test_the_report_as_json() -> None:
    rows = [row("a", Q, FINE, topic="home"), row("b", Q, FINE), row("c", "別の話は？", "僕は猫")]
    data = json.loads(json.dumps(check(rows, [], HERS).as_json()))
    assert data["rows"] == 3 and data["duplicates"] == 1 and data["rejected"] == []
    assert data["duplicate_pairs"] == [{"ids": ["a", "b"], "overlap": 1.0}]
    assert data["topics"] == {"": 2, "home": 1}
    assert data["counts"] == {"duplicate": 1, "too-short": 1, "no-end-mark": 1, "first-person": 1}
    assert {f["code"] for f in data["findings"]} == set(data["counts"]) <= set(CODES)
    assert check([]).as_json()["rows"] == 0


def test_a_file_with_wrong_lines_is_checked_without_them(tmp_path: Path) -> None:
    good = row("a", Q, FINE).model_dump_json()
    nested = '{"id": "n", "messages": ' + "[" * 100_000 + "]" * 100_000 + "}"
    lines = [good, "", "{no", '{"id": "b", "messages": []}', good, "3", nested]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(lines) + "\n", "utf-8")
    report = check_file(file, [("q", Q)], HERS)
    assert (report.rows, report.counts) == (1, {"leak": 1})
    assert [line for line, _ in report.rejected] == [3, 4, 5, 6, 7]
    assert "not JSON" in report.as_json()["rejected"][0]["reason"]
    assert report.rejected[2][1] == ("id 'a' stands twice", "id「a」が重複しています")
    with pytest.raises(UserError):
        check_file(tmp_path / "nothing.jsonl")


def test_our_data_sets_have_no_findings(paths: Paths) -> None:
    for name in ("ayane", "magnus"):
        dialogues = collection.load(paths, name).dialogues
        report = check(dialogues, collection.all_queries(paths), load_profile(paths, name))
        assert report.findings == () and report.rows == len(dialogues) > 90


def test_the_real_dialogues(paths: Paths, shared: Path) -> None:
    """The study's data: sound rows in one style, mostly without a mark at the end."""
    file = shared / "data" / "ojousama" / "ojousamatalkscript200_gpt-3.5-1106ver.jsonl"
    data = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    rows = [Dialogue.from_data({"id": f"o{i}", **d}, "file") for i, d in enumerate(data)]
    report = check(rows, collection.all_queries(paths), load_profile(paths, "ayane"))
    assert report.rows == 202
    assert report.counts["system"] == 202 and report.counts["no-end-mark"] > 150
    wrong = {"wrong-language", "mixed-language", "broken", "template", "first-person", "too-long"}
    assert not wrong & set(report.counts)
    questions = [r.question for r in rows]
    queries = collection.all_queries(paths)
    slow = near_duplicates(questions, [text for _, text in queries])
    assert {(f"o{i}", queries[j][0]) for i, j, _ in slow} == {(a, b) for a, b, _ in report.leaks}


@pytest.mark.parametrize("threshold", [0.3, 0.6, 1.0])
def test_the_fast_search_finds_what_the_slow_one_finds(paths: Paths, threshold: float) -> None:
    rng = random.Random(5)
    lines = [m.content for d in load_dialogues(paths.datasets / "ayane.jsonl") for m in d.messages]

    def varied(line: str) -> str:
        letters = list(line)
        for _ in range(rng.randrange(6)):
            letters[rng.randrange(len(letters))] = rng.choice("あいうのは東西ab")
        return "".join(letters)

    texts = [varied(rng.choice(lines)) for _ in range(400)] + ["", "！", "あ", "あ"]
    others = [varied(rng.choice(lines)) for _ in range(150)]
    within = near_duplicates(texts, None, threshold)
    assert overlapping(texts, None, threshold) == within and within
    assert overlapping(texts, others, threshold) == near_duplicates(texts, others, threshold)
    # What goes is near a line that stays, and no two lines that stay are near each other.
    gone = repeats(texts, threshold)
    pairs = {(i, j) for i, j, _ in within}
    assert all((other, place) in pairs and other not in gone for place, other in gone.items())
    assert not [(i, j) for i, j in pairs if i not in gone and j not in gone]


def test_equal_rows_do_not_make_millions_of_pairs() -> None:
    report = check([row(str(i), Q, FINE) for i in range(3000)], [("q", Q)], HERS)
    assert report.counts == {"duplicate": 2999, "leak": 3000}
    assert len(report.duplicates) <= 3000 * 20 and len(report.leaks) == 3000
