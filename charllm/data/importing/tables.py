"""Which column of a table holds what: by names that datasets use, in English and Japanese."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

FIELDS: dict[str, tuple[str, ...]] = {
    "user": (
        *("user", "prompt", "question", "query", "instruction", "input", "human", "q"),
        *("質問", "問い", "問", "ユーザー", "ユーザ", "話しかけ", "話しかける側", "入力", "発話"),
        *("相手", "会話相手", "user_question", "user_message", "message", "発言", "セリフ相手"),
    ),
    "reply": (
        *("reply", "completion", "answer", "response", "output", "assistant", "bot", "gpt", "a"),
        *("回答", "返答", "返事", "お返事", "応答", "答え", "出力", "台詞", "セリフ"),
        *("キャラクター", "つくよみちゃん", "ずんだもん", "agent_response", "zundamon", "mes"),
    ),
    "context": ("context", "文脈", "補足"),
    "user2": ("user2", "question2", "bに対するa話者の返事", "質問2"),
    "reply2": (
        *("reply2", "answer2", "cに対するつくよみちゃんのお返事", "cに対するお返事"),
        *("回答2", "返答2"),
    ),
    "system": ("system", "システム", "system_prompt", "システムプロンプト"),
    "topic": (
        *("topic", "category", "tag", "tags"),
        *("話題", "カテゴリ", "カテゴリー", "分類", "ジャンル"),
    ),
    "id": ("id", "no", "番号", "num", "index"),
    "source": ("source", "出典", "作成者", "author"),
}
"""What a column may hold. ``context`` is added to the user's line; ``user2`` and ``reply2`` are a
second exchange, as the Tsukuyomi-chan table has it."""


def _folded(name: str) -> str:
    return re.sub(r"[\s_・]+", "_", unicodedata.normalize("NFKC", name).strip().casefold())


_MEANING = {_folded(name): field for field, names in FIELDS.items() for name in names}


def known_field(column: str) -> str:
    """The field that a column's name means, "" for none."""
    name = _folded(column).strip("_.")
    bare = re.sub(r"^[【\[(].*?[】\])]", "", name)
    bare = re.sub(r"[(【\[].*", "", bare).strip("_.")
    return _MEANING.get(name) or _MEANING.get(bare, "")


def has_both(columns: Iterable[str]) -> bool:
    """Whether the names alone tell which column asks and which replies."""
    return {"user", "reply"} <= {known_field(column) for column in columns}


def guess_mapping(columns: Sequence[str]) -> dict[str, str]:
    """Field → column. Where names do not tell, the question comes first, the reply after it."""
    found: dict[str, str] = {}
    for column in columns:
        field = known_field(column)
        if field and field not in found:
            found[field] = column
    _apart_input(columns, found)
    for field in ("user", "reply"):
        rest = [column for column in columns if column not in found.values()]
        if field not in found and rest:
            after = columns.index(found["user"]) if "user" in found else -1
            later = [column for column in rest if columns.index(column) > after]
            found[field] = (later or rest)[0]
    return found


def _apart_input(columns: Sequence[str], found: dict[str, str]) -> None:
    """Beside an instruction, the input is its context and not the question."""
    by_name = {_folded(column): column for column in reversed(columns)}
    if {"instruction", "input"} <= by_name.keys():
        found |= {"user": by_name["instruction"], "context": by_name["input"]}
