"""Every format is known by its content, read right, and refuses rows with line and reason."""

from __future__ import annotations

import base64
import csv
import json
from pathlib import Path
from typing import Any

import pytest

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
    assert found.format == name and found.reason == FORMATS[name].why
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


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.jsonl", b"", "empty"),
        ("a.jsonl", b"\n \n", "empty"),
        ("a.csv", "質問,回答\n".encode(), ""),
        ("a.bin", b"\x00\x01\x02" * 50, "not a text file"),
        ("a.csv", "質問,回答\n名前は？,絢音".encode("cp932"), "Shift_JIS"),
        ("a.txt", "ただの文章です。\n何の形式でもありません。".encode(), "none of the known"),
        ("a.jsonl", b"[" * 100_000, ""),
        ("a.jsonl", b'{"prompt": NaN, "completion": 1e999}\n', ""),
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
