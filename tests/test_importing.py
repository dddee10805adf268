"""Every format is known by its content, read right, and refuses rows with line and reason."""

from __future__ import annotations

import base64
import csv
import json
import time
from pathlib import Path
from typing import Any

import pytest

from charllm.data.dialogue import load_dialogues, save_dialogues
from charllm.data.errors import UserError
from charllm.data.importing import FORMATS, Rejected, detect, read_file, write_rejected_csv

LONG = "長" * 20_001
QUESTION, REPLY = "お名前は？", "小野寺絢音ですわ。"
TALK = [("user", QUESTION), ("assistant", REPLY)]
MESSAGES = [{"role": role, "content": text} for role, text in TALK]


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


FILES: dict[str, tuple[str, str]] = {
    "charllm": (
        "a.jsonl",
        lines({"id": "a", "messages": MESSAGES, "source": "s", "meta": {"topic": "name"}}),
    ),
    "openai": ("a.jsonl", lines({"messages": MESSAGES})),
    "openai-completion": (
        "a.jsonl",
        lines({"prompt": f"{QUESTION} ->", "completion": f" {REPLY}\n"}),
    ),
    "trl": ("a.jsonl", lines({"prompt": MESSAGES[:1], "completion": MESSAGES[1:]})),
    "sharegpt": (
        "a.json",
        json.dumps(
            [
                {
                    "conversations": [
                        {"from": "human", "value": QUESTION},
                        {"from": "gpt", "value": REPLY},
                    ]
                }
            ]
        ),
    ),
    "alpaca": ("a.json", json.dumps([{"instruction": QUESTION, "input": "", "output": REPLY}])),
    "chatml": (
        "a.txt",
        f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n{REPLY}<|im_end|>\n",
    ),
    "haruhi-chat": ("a.jsonl", lines({"role_A": "x", "query": QUESTION, "response": REPLY})),
    "haruhi-role": (
        "a.jsonl",
        lines(
            {
                "bge_zh_s15": "AAAA",
                "enc_text": base64.b64encode(
                    f"客:「{QUESTION}」\n絢音:「{REPLY}」".encode()
                ).decode(),
            }
        ),
    ),
    "haruhi-novel": (
        "a.jsonl",
        lines([{"role": "客", "text": QUESTION}, {"role": "絢音", "text": REPLY}]),
    ),
    "scene": ("a.txt", f"客:「{QUESTION}」\n絢音:「{REPLY}」\n"),
    "sillytavern": (
        "a.jsonl",
        lines(
            {"user_name": "客", "character_name": "絢音", "create_date": "x"},
            {"name": "客", "is_user": True, "mes": QUESTION},
            {"name": "絢音", "is_user": False, "mes": "x", "swipes": ["x", REPLY], "swipe_id": 1},
        ),
    ),
    "table": ("a.csv", f"質問,回答\n{QUESTION},{REPLY}\n"),
}


def put(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_every_format_has_an_example() -> None:
    assert set(FILES) == set(FORMATS)
    assert all(known.label.ja and known.why.ja for known in FORMATS.values())


@pytest.mark.parametrize("name", FILES)
def test_a_format_is_detected_and_read(tmp_path: Path, name: str) -> None:
    path = put(tmp_path, *FILES[name])
    found = detect(path)
    assert found.format == name and found.reason.en.startswith(FORMATS[name].why.en)
    read = read_file(path)
    assert read.format == name and read.rejected == []
    (dialogue,) = read.dialogues
    turns = [(m.role, m.content) for m in dialogue.messages]
    assert turns == TALK


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("話しかけ,お返事,カテゴリ", f"{QUESTION},{REPLY},name"),
        ("instruction,output", f"{QUESTION},{REPLY}"),
        ("ユーザー,つくよみちゃん", f"{QUESTION},{REPLY}"),
        ("ID,入力,ずんだもん", f"7,{QUESTION},{REPLY}"),
        ("質問\t返答", f"{QUESTION}\t{REPLY}"),
        ("", f"{QUESTION},{REPLY}"),
    ],
)
def test_tables_are_read_by_their_headers_or_by_order(
    tmp_path: Path, header: str, row: str
) -> None:
    text = f"{header}\n{row}\n" if header else f"{row}\n{row}2\n"
    read = read_file(put(tmp_path, "t.csv" if "\t" not in row else "t.tsv", text))
    first = read.dialogues[0]
    assert (first.question, first.reply) == (QUESTION, REPLY)
    assert "カテゴリ" not in header or first.meta["topic"] == "name"
    assert "ID" not in header or first.id == "7"


def test_columns_can_be_told(tmp_path: Path) -> None:
    path = put(tmp_path, "t.csv", f"x,y,z\n{REPLY},{QUESTION},あなたはお嬢様です。\n")
    mapping = {"user": "y", "reply": "x", "system": "z"}
    (dialogue,) = read_file(path, format="table", mapping=mapping).dialogues
    assert [m.role for m in dialogue.messages] == ["system", "user", "assistant"]
    assert (dialogue.question, dialogue.reply) == (QUESTION, REPLY)
    with pytest.raises(UserError, match="no column 'w'"):
        read_file(path, format="table", mapping={"user": "w"})


def test_a_detection_can_be_overruled(tmp_path: Path) -> None:
    path = put(tmp_path, *FILES["openai-completion"])
    assert "trl" in detect(path).also
    (raw,) = read_file(path, format="table").dialogues
    assert raw.question == f"{QUESTION} ->"
    read = read_file(path, format="alpaca")
    assert read.dialogues == [] and len(read.rejected) == 1
    with pytest.raises(UserError, match="no format"):
        read_file(path, format="none")
    with pytest.raises(UserError, match="cannot be read as"):
        read_file(path, format="scene")


def test_refused_rows_keep_line_reason_and_beginning(tmp_path: Path) -> None:
    good = {"id": "a", "messages": MESSAGES, "source": ""}
    rows = [
        json.dumps(good),
        "{broken",
        json.dumps({**good, "id": "b", "messages": [MESSAGES[0]]}),
        "",
        json.dumps({**good, "id": "c", "messages": [MESSAGES[0], {**MESSAGES[1], "content": " "}]}),
        json.dumps({**good, "id": "d", "messages": [{"role": "narrator", "content": "x"}]}),
        json.dumps(good),
        json.dumps({**good, "id": "e", "messages": [MESSAGES[1]]}),
        json.dumps(
            {**good, "id": "f", "messages": [{**MESSAGES[0], "content": LONG}, MESSAGES[1]]}
        ),
    ]
    read = read_file(put(tmp_path, "a.jsonl", "\n".join(rows)))
    assert [d.id for d in read.dialogues] == ["a"]
    told = {r.line: r.reason.en for r in read.rejected}
    assert list(told) == [2, 3, 5, 6, 7, 8, 9]
    words = [
        "not JSON",
        "no reply",
        "empty",
        "unknown role",
        "stands twice",
        "nobody asks",
        "20,000",
    ]
    assert all(word in reason for word, reason in zip(words, told.values(), strict=True))
    assert all(r.reason.ja for r in read.rejected)


def test_replies_of_weight_0_are_not_learnt(tmp_path: Path) -> None:
    more = [
        {"role": "user", "content": "趣味は？"},
        {"role": "assistant", "content": "読書ですわ。", "weight": 0},
    ]
    unlearnt = [MESSAGES[0], {**MESSAGES[1], "weight": 0}]
    rows = lines({"messages": MESSAGES + more}, {"messages": unlearnt})
    read = read_file(put(tmp_path, "a.jsonl", rows))
    (dialogue,) = read.dialogues
    assert dialogue.reply == REPLY and len(dialogue.messages) == 2
    assert "weight 0" in read.rejected[0].reason.en


def test_turns_of_one_speaker_are_joined_and_trailing_ones_cut(tmp_path: Path) -> None:
    talk = [MESSAGES[0], {"role": "user", "content": "ねえ？"}, MESSAGES[1], MESSAGES[0]]
    read = read_file(put(tmp_path, "a.jsonl", lines({"messages": talk})))
    (dialogue,) = read.dialogues
    assert dialogue.question == f"{QUESTION}\nねえ？" and dialogue.reply == REPLY
    assert len(read.notes) == 2


def test_multi_line_cells_tell_their_first_line(tmp_path: Path) -> None:
    text = f'質問,回答\n"{QUESTION}\n二行目",{REPLY}\n趣味は？,\n'
    read = read_file(put(tmp_path, "t.csv", text))
    assert read.dialogues[0].question == f"{QUESTION}\n二行目"
    assert [r.line for r in read.rejected] == [4]


def test_arrays_tell_the_line_of_each_item(tmp_path: Path) -> None:
    rows = [{"instruction": "q", "output": "r"}, {"instruction": "q", "output": ""}]
    read = read_file(put(tmp_path, "a.json", json.dumps(rows, indent=1)))
    assert len(read.dialogues) == 1 and [r.line for r in read.rejected] == [6]


def pairs_of(path: Path, **told: Any) -> list[tuple[str, str]]:
    return [(d.question, d.reply) for d in read_file(path, **told).dialogues]


def test_the_tsukuyomi_table_has_a_title_and_second_exchanges(tmp_path: Path) -> None:
    """Its headers as programs that read the published sheet name them."""
    more = (
        "【C】Bに対するA話者の返事（ある場合のみ）,"
        "【D】Cに対するつくよみちゃんのお返事（ある場合のみ）"
    )
    text = (
        f"会話テキストデータセット,,,,\nNo.,【A】話しかけ,【B】お返事,{more}\n"
        f"1,{QUESTION},{REPLY},,\n2,{QUESTION},{REPLY},趣味は？,読書ですわ。\n"
    )
    path = put(tmp_path, "t.csv", text)
    assert detect(path).mapping["user2"].startswith("【C】")
    read = read_file(path)
    assert [len(d.messages) for d in read.dialogues] == [2, 4]
    assert [d.id for d in read.dialogues] == ["1", "2"]
    assert read.dialogues[1].reply == "読書ですわ。"
    (title,) = read.rejected
    assert title.line == 1 and "above the header" in title.reason.en


def test_an_input_beside_an_instruction_is_its_context(tmp_path: Path) -> None:
    path = put(
        tmp_path, "t.csv", f"index,category,instruction,input,output\n0,qa,要約して,本文,{REPLY}\n"
    )
    (dialogue,) = read_file(path).dialogues
    assert dialogue.question == "要約して\n本文" and dialogue.meta == {"topic": "qa"}
    without = read_file(path, "table", {"context": "", "topic": ""}).dialogues[0]
    assert without.question == "要約して"
    assert without.meta == {"category": "qa", "input": "本文"}


def test_a_mapping_must_name_fields_that_there_are(tmp_path: Path) -> None:
    path = put(tmp_path, "t.csv", f"質問,回答\n{QUESTION},{REPLY}\n")
    with pytest.raises(UserError, match="nothing that a column can hold"):
        read_file(path, "table", {"usr": "質問"})
    with pytest.raises(UserError, match="no column holds the reply"):
        read_file(path, "table", {"reply": ""})


def test_cells_that_do_not_fit_the_table_are_refused(tmp_path: Path) -> None:
    text = f"質問,回答,備考,備考,\n{QUESTION},{REPLY},a,b,\n趣味は？,はい,い,い,え,え\n名前は？\n"
    read = read_file(put(tmp_path, "t.csv", text))
    assert read.dialogues[0].meta == {"備考": "a", "備考 (2)": "b"}
    assert [(r.line, r.reason.en[:12]) for r in read.rejected] == [
        (3, "6 cells unde"),
        (4, "the reply is"),
    ]


def test_a_quotation_mark_left_open_swallows_nothing(tmp_path: Path) -> None:
    text = f'質問,回答\n{QUESTION},{REPLY}\n趣味は？,"読書\n名前は？,{REPLY}\n'
    read = read_file(put(tmp_path, "t.csv", text))
    assert len(read.dialogues) == 1
    assert [(r.line, "not closed" in r.reason.en) for r in read.rejected] == [(3, True)]


@pytest.mark.parametrize(
    ("name", "row", "reply", "turns"),
    [
        ("trl", {"prompt": QUESTION, "chosen": REPLY, "rejected": "いいえ"}, REPLY, 2),
        ("trl", {"chosen": MESSAGES, "rejected": MESSAGES}, REPLY, 2),
        (
            "sharegpt",
            {
                "conversations": [{"from": "human", "value": QUESTION}],
                "chosen": {"from": "gpt", "value": REPLY},
                "rejected": {"from": "gpt", "value": "いいえ"},
            },
            REPLY,
            2,
        ),
        ("sharegpt", {"system": "姫", "conversations": MESSAGES}, REPLY, 3),
        (
            "alpaca",
            {"instruction": "次は？", "output": REPLY, "history": [["一", "二"]], "system": "姫"},
            REPLY,
            5,
        ),
        ("chatml", {"text": FILES["chatml"][1].removesuffix("<|im_end|>\n")}, REPLY, 2),
        (
            "haruhi-chat",
            {"user_question": QUESTION, "agent_response": f"絢音:「{REPLY}」"},
            REPLY,
            2,
        ),
        (
            "openai",
            {"messages": [{**MESSAGES[0], "content": [{"text": "q"}]}, MESSAGES[1]]},
            REPLY,
            2,
        ),
    ],
)
def test_variants_of_a_format(tmp_path: Path, name: str, row: Any, reply: str, turns: int) -> None:
    path = put(tmp_path, "a.jsonl", lines(row))
    assert detect(path).format == name
    (dialogue,) = read_file(path).dialogues
    assert dialogue.reply == reply and len(dialogue.messages) == turns


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": QUESTION, "completion": REPLY, "label": False},
        {"prompt": MESSAGES[:1], "completion": MESSAGES[1:], "label": False},
        {"conversations": MESSAGES, "kto_tag": False},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, MESSAGES[1]]},
        {"messages": [{"role": "user", "content": "\ud800"}, MESSAGES[1]]},
        {"messages": [{"role": "user", "content": "a\0b"}, MESSAGES[1]]},
    ],
)
def test_rows_that_must_not_be_learnt_are_refused(tmp_path: Path, row: Any) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    read = read_file(path)
    assert read.dialogues == [] and len(read.rejected) == 1
    write_rejected_csv(tmp_path / "refused.csv", read.rejected)


def test_what_a_row_carries_besides_is_kept_as_json(tmp_path: Path) -> None:
    deep: Any = "x"
    for _ in range(300):
        deep = [deep]
    extra = {"a": {"b": [1, None]}, "tags": ["x"], "bad": "\ud800", "facts": "one"}
    row = {"id": None, "messages": MESSAGES, "deep": deep, "none": None, **extra}
    text = json.dumps(row)[:-1] + ', "nan": NaN}\n'
    read = read_file(put(tmp_path, "a.jsonl", text + text))
    save_dialogues(tmp_path / "out.jsonl", read.dialogues)
    first, second = load_dialogues(tmp_path / "out.jsonl")
    assert (first.id, second.id) == ("a-0001", "a-0002")
    assert first.meta["a"] == {"b": [1, None]} and first.meta["nan"] == "nan"
    assert first.facts == () and first.meta["facts_as_given"] == "one"
    assert "none" not in first.meta


def test_own_ids_win_over_numbers(tmp_path: Path) -> None:
    rows = [{"messages": MESSAGES}, {"messages": MESSAGES}, {"messages": MESSAGES, "id": "a-0001"}]
    read = read_file(put(tmp_path, "a.jsonl", lines(*rows)))
    assert [d.id for d in read.dialogues] == ["a-0001-2", "a-0002", "a-0001"]


def test_weights_of_replies_that_stay_are_kept(tmp_path: Path) -> None:
    talk = [MESSAGES[0], {**MESSAGES[1], "weight": 0}, MESSAGES[0], {**MESSAGES[1], "weight": 1}]
    (dialogue,) = read_file(put(tmp_path, "a.jsonl", lines({"messages": talk}))).dialogues
    assert dialogue.meta["weights"] == [0, 1] and len(dialogue.messages) == 4


def test_scenes_of_a_script_tell_their_lines(tmp_path: Path) -> None:
    text = (
        f"朝の教室。\n客:「{QUESTION}」\n絢音:「{REPLY}」\n\n\n客:「ひとり言」\n\n"
        "絢音:「ごきげんよう。\n今日も晴れですわ。」\n客:「そうだね」\n旁白:「風が吹く」\n"
        "絢音:「ええ」\n友:「じゃあね」\n"
    )
    path = put(tmp_path, "a.txt", text)
    assert detect(path).mapping == {"character": "絢音"}
    read = read_file(path)
    first, second = read.dialogues
    assert first.meta == {"character": "絢音", "narration": ["朝の教室。"]}
    assert second.messages[0].content == "ごきげんよう。\n今日も晴れですわ。"
    assert second.reply == "ええ" and second.meta["narration"] == ["風が吹く"]
    assert [r.line for r in read.rejected] == [6]
    assert [note.en for note in read.notes] == ["1 row: what came after the last reply was cut."]
    other = read_file(path, mapping={"character": "友"})
    assert [d.reply for d in other.dialogues] == ["じゃあね"]
    assert [r.line for r in other.rejected] == [1, 6]


def test_lines_of_a_script_may_stand_apart(tmp_path: Path) -> None:
    assert pairs_of(put(tmp_path, "a.txt", f"客：{QUESTION}\n\n絢音：{REPLY}\n")) == [
        (QUESTION, REPLY)
    ]


def test_talks_of_chatml_tell_their_lines(tmp_path: Path) -> None:
    turn = "<|im_start|>{}\n{}<|im_end|>\n"
    talk = turn.format("user", f"{QUESTION}\n\nどうぞ。") + turn.format("assistant", REPLY)
    read = read_file(put(tmp_path, "a.txt", f"{talk}\n{talk}\n{turn.format('user', 'x')}"))
    assert [d.question for d in read.dialogues] == [f"{QUESTION}\n\nどうぞ。"] * 2
    assert [r.line for r in read.rejected] == [15]
    apart = turn.format("user", "q") + "\n" + turn.format("assistant", "r") + "\n"
    assert pairs_of(put(tmp_path, "b.txt", apart)) == [("q", "r")]


def test_lines_of_a_novel_are_one_talk(tmp_path: Path) -> None:
    rows = [
        {"role": "scene", "text": "教室で", "if_scene": True},
        {"role": "客", "text": f"{QUESTION}：\nどうぞ"},
        {"role": "絢音", "text": REPLY},
    ]
    for path in (
        put(tmp_path, "a.jsonl", lines(*rows)),
        put(tmp_path, "b.json", json.dumps(rows, indent=1)),
    ):
        (dialogue,) = read_file(path).dialogues
        assert (dialogue.question, dialogue.reply) == (f"{QUESTION}：\nどうぞ", REPLY)
        assert dialogue.meta["narration"] == ["教室で"]


def test_a_tavern_chat_refuses_what_is_no_message(tmp_path: Path) -> None:
    header = {"user_name": "客", "character_name": "絢音", "chat_metadata": {}}
    rows = [
        {"name": "絢音", "is_user": False, "mes": "ごきげんよう。"},
        {"name": "客", "is_user": True, "mes": QUESTION},
        {"name": "絢音", "is_user": False, "is_system": True, "mes": "（非表示）"},
        {"name": "絢音", "is_user": False, "mes": REPLY, "swipes": ["x"], "swipe_id": 7},
    ]
    read = read_file(put(tmp_path, "a.jsonl", lines(header, *rows) + "{broken\n"))
    (dialogue,) = read.dialogues
    assert [m.role for m in dialogue.messages] == ["assistant", "user", "assistant"]
    assert dialogue.reply == REPLY and dialogue.meta == {"character": "絢音"}
    assert [(r.line, r.text) for r in read.rejected] == [(4, read.rejected[0].text), (6, "{broken")]
    assert "hidden" in read.rejected[0].reason.en


def test_haruhi_rows_that_are_no_scene_say_what_they_are(tmp_path: Path) -> None:
    rows = [
        {"luotuo_openai": "system_prompt", "text": "姫です"},
        {"bge_zh_s15": "A", "enc_text": "%"},
    ]
    read = read_file(put(tmp_path, "a.jsonl", lines(*rows)), format="haruhi-role")
    assert ["system_prompt" in r.reason.en or "base64" in r.reason.en for r in read.rejected] == [
        True,
        True,
    ]


def test_json_may_be_one_object_or_hold_its_rows(tmp_path: Path) -> None:
    row = {"instruction": QUESTION, "output": REPLY}
    bad = {"instruction": QUESTION, "output": ""}
    assert pairs_of(put(tmp_path, "a.json", json.dumps(row, indent=1))) == [(QUESTION, REPLY)]
    for before in ({"kind": "data", "tags": [1, 2]}, {"kind": "data", "note": "[1"}):
        held = {**before, "data": [row, bad]}
        read = read_file(put(tmp_path, "b.json", json.dumps(held, indent=1)))
        assert len(read.dialogues) == 1
        assert [r.reason.en for r in read.rejected] == ["the reply is empty"]
    flat = read_file(put(tmp_path, "c.json", json.dumps({"data": [row, bad]}, indent=1)))
    assert [r.line for r in flat.rejected] == [7]


def test_an_array_that_breaks_off_keeps_what_came_before(tmp_path: Path) -> None:
    whole = json.dumps([{"instruction": QUESTION, "output": REPLY}] * 3, indent=1)
    read = read_file(put(tmp_path, "a.json", whole[: whole.rindex("output")]))
    assert len(read.dialogues) == 2
    assert [(r.line, r.reason.en[:8]) for r in read.rejected] == [(10, "not JSON")]


def test_the_content_counts_and_not_the_name(tmp_path: Path) -> None:
    assert detect(put(tmp_path, "a.csv", FILES["openai"][1])).format == "openai"
    assert detect(put(tmp_path, "a.txt", FILES["table"][1])).format == "table"
    assert detect(put(tmp_path, "b.jsonl", FILES["table"][1])).format == "table"
    late = put(tmp_path, "c.jsonl", "x\ny\nz\n" + FILES["openai"][1])
    assert [r.line for r in read_file(late).rejected] == [1, 2, 3]
    assert len(read_file(late, "openai").dialogues) == 1
    plain = put(tmp_path, "d.txt", f"{QUESTION},{REPLY}\n{QUESTION},{REPLY}\n")
    with pytest.raises(UserError, match="none of the known"):
        detect(plain)
    assert pairs_of(plain, format="table") == [(QUESTION, REPLY)] * 2


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("example", FILES)
def test_no_overruling_ends_in_a_crash(tmp_path: Path, example: str, format: str) -> None:
    path = put(tmp_path, *FILES[example])
    try:
        read = read_file(path, format)
    except UserError as error:
        assert error.text.ja
    else:
        assert read.dialogues or read.rejected


def test_a_file_too_large_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.truncate(300_000_000)
    with pytest.raises(UserError, match="300 MB; at most 200 MB"):
        detect(path)


def test_twenty_thousand_rows_are_read_in_seconds(tmp_path: Path) -> None:
    """An array, whose lines have to be found, took eighteen seconds once."""
    rows = [{"instruction": f"{QUESTION}{n}", "output": REPLY} for n in range(20_000)]
    path = put(tmp_path, "a.json", json.dumps(rows, ensure_ascii=False, indent=1))
    began = time.perf_counter()
    read = read_file(path)
    assert len(read.dialogues) == 20_000 and time.perf_counter() - began < 10


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.jsonl", b"", "empty"),
        ("a.jsonl", b"\n \n", "empty"),
        ("a.csv", "質問,回答\n".encode(), ""),
        ("a.txt", "客:「".encode("utf-16"), "UTF-16"),
        ("a.bin", b"\x00\x01\x02" * 50, "not a text file"),
        ("a.csv", "質問,回答\n名前は？,絢音".encode("cp932"), "Shift_JIS"),
        ("a.txt", "ただの文章です。\n何の形式でもありません。".encode(), "none of the known"),
        ("a.jsonl", b"[" * 100_000, "not valid JSON"),
        ("a.jsonl", b'{"a": ' * 5000, "not valid JSON"),
        ("a.jsonl", b'{"messages": ' + b"[" * 400 + b"]" * 400 + b"}", ""),
        ("a.jsonl", b'{"id": ' + b"9" * 9000 + b"}", "not valid JSON"),
        ("a.jsonl", b'{"prompt": NaN, "completion": 1e999}\n', ""),
        ("a.csv", b'q,"' + b"a" * 11_000_000, "cannot be read at line 1"),
        ("a.xlsx", b"PK\x03\x04" + b"\0" * 50, "as CSV"),
        ("a.jsonl", b"5\n6\n", "none of the known"),
    ],
)
def test_hostile_files_end_in_words(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    try:
        read = read_file(path)
    except UserError as error:
        assert words in str(error) and error.text.ja
    else:
        assert words == "" and read.dialogues == []


def test_a_mark_at_the_beginning_of_the_file_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(f"質問,回答\n{QUESTION},{REPLY}\n".encode("utf-8-sig"))
    assert read_file(path).dialogues[0].question == QUESTION


def test_refused_rows_as_a_spreadsheet(tmp_path: Path) -> None:
    from charllm.data.errors import Text

    path = tmp_path / "refused.csv"
    write_rejected_csv(path, [Rejected(3, Text("=1+1", "空です"), '=HYPERLINK("http://x")')])
    data = path.read_bytes()
    assert data.startswith(b"\xef\xbb\xbf")
    (head, row) = csv.reader(data.decode("utf-8-sig").splitlines())
    assert head[0] == "line" and row[0] == "3"
    assert row[1].startswith("'=") and row[3].startswith("'=")


def test_the_real_dialogues_come_in_from_all_three_forms(shared: Path) -> None:
    """The files differ in nothing but Latin capitals, which the JSON Lines have in lower case."""
    folder = shared / "data" / "ojousama"
    read = {path.name: read_file(path) for path in sorted(folder.glob("ojousamatalkscript200*"))}
    formats = {name: found.format for name, found in read.items()}
    assert sorted(formats.values()) == ["openai", "openai-completion", "table"]
    assert all(found.rejected == [] for found in read.values())
    pairs = [[(d.question, d.reply) for d in found.dialogues] for found in read.values()]
    assert [len(rows) for rows in pairs] == [202, 202, 202]
    table, completion, messages = pairs
    assert completion == messages
    folded = [[(q.casefold(), r.casefold()) for q, r in rows] for rows in pairs]
    assert folded[0] == folded[1] == folded[2]
    assert sum(a != b for a, b in zip(table, completion, strict=True)) < 12
