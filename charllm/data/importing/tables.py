"""Which column of a table holds what: by names that datasets use, in English and Japanese."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

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
    "system": ("system", "システム", "system_prompt", "システムプロンプト"),
    "topic": (
        "topic",
        "category",
        "tag",
        "tags",
        "話題",
        "カテゴリ",
        "カテゴリー",
        "分類",
        "ジャンル",
    ),
    "id": ("id", "no", "番号", "num", "index"),
    "source": ("source", "出典", "作成者", "author"),
}


def known_field(column: str) -> str:
    """The field that a column's name means, "" for none."""
    name = re.sub(r"[\s_・]+", "_", unicodedata.normalize("NFKC", column).strip().casefold())
    bare = re.sub(r"[(（【\[].*", "", name).strip("_")
    for field, names in FIELDS.items():
        folded = {re.sub(r"[\s_・]+", "_", known.casefold()) for known in names}
        if name in folded or bare in folded:
            return field
    return ""


def guess_mapping(columns: Sequence[str]) -> dict[str, str]:
    """Field → column. A table without known names is read as question, reply, in that order."""
    found: dict[str, str] = {}
    for column in columns:
        field = known_field(column)
        if field and field not in found:
            found[field] = column
    if "user" in found and "reply" in found:
        return found
    rest = [column for column in columns if column not in found.values()]
    for field in ("user", "reply"):
        if field not in found and rest:
            found[field] = rest.pop(0)
    return found
