"""The formats that are known: how each row becomes turns of a conversation.

A reader takes one row and gives its talks, or raises ``Refused``. A further format is a further
entry of ``FORMATS``.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from charllm.data.errors import Text
from charllm.data.importing.rejecting import Refused

Container = Literal["json", "table", "text"]


@dataclass
class Talk:
    """Turns as (role, text), and what else the row carried. ``id`` "" takes a number."""

    turns: list[tuple[str, str]]
    id: str = ""
    source: str = ""
    meta: dict[str, Any] = field(default_factory=dict)


Reader = Callable[[Any, Mapping[str, str]], list[Talk]]


@dataclass(frozen=True)
class Format:
    """``fits`` says how well a row fits, 0 not at all; ``read`` gives the row's talks."""

    label: Text
    containers: tuple[Container, ...]
    fits: Callable[[Any], int]
    read: Reader
    why: Text
    mappable: bool = False


ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "char": "assistant",
}


def _refuse_unless(condition: Any, en: str, ja: str) -> None:
    if not condition:
        raise Refused(en, ja)


def _text(value: Any, name: str) -> str:
    """Text, or text parts as OpenAI has them."""
    if isinstance(value, list) and all(isinstance(part, dict) for part in value):
        value = "".join(str(part.get("text", "")) for part in value)
    if not isinstance(value, str):
        raise Refused(f"{name} is not text", f"{name} が文字列ではありません")
    return value


def _role(value: Any) -> str:
    name = str(value).strip().lower()
    if name not in ROLES:
        raise Refused(f"unknown role {name[:30]!r}", f"役割「{name[:30]}」は扱えません")
    return ROLES[name]


def _rest(row: Mapping[str, Any], *used: str) -> dict[str, Any]:
    """What the row carries besides, as far as a card can keep it."""
    kept = {key: value for key, value in row.items() if key not in used and value is not None}
    return {str(k): v for k, v in kept.items() if isinstance(v, str | int | float | bool | list)}


def _has(*names: str) -> Callable[[Any], int]:
    return lambda row: len(names) if isinstance(row, dict) and all(n in row for n in names) else 0


def _messages(value: Any, speaker: str = "role", said: str = "content") -> list[tuple[str, str]]:
    _refuse_unless(isinstance(value, list) and value, "no messages", "発言がありません")
    turns = []
    for number, message in enumerate(value, 1):
        _refuse_unless(
            isinstance(message, dict),
            f"message {number} is no object",
            f"{number}番目の発言の形が正しくありません",
        )
        turns.append((_role(message.get(speaker)), _text(message.get(said), f"message {number}")))
    return turns


# charllm and OpenAI


def _own(row: Any, _: Mapping[str, str]) -> list[Talk]:
    meta = row.get("meta") if isinstance(row.get("meta"), dict) else {}
    return [
        Talk(_messages(row["messages"]), str(row.get("id", "")), str(row.get("source", "")), meta)
    ]


def _openai(row: Any, _: Mapping[str, str]) -> list[Talk]:
    turns = _messages(row["messages"])
    learnt = [
        n
        for n, message in enumerate(row["messages"])
        if turns[n][0] == "assistant" and message.get("weight", 1) != 0
    ]
    _refuse_unless(
        learnt,
        "every reply has weight 0: none is to be learnt",
        "すべての返答が weight 0 で、学習する返答がありません",
    )
    later = [n for n, turn in enumerate(turns) if n > learnt[-1] and turn[0] == "assistant"]
    kept = turns[: learnt[-1] + 1] if later else turns
    return [Talk(kept, str(row.get("id", "")), meta=_rest(row, "messages", "id"))]


def _completion(row: Any, _: Mapping[str, str]) -> list[Talk]:
    """The legacy form: a prompt that ends in `` ->`` and a completion with blanks around it."""
    prompt = re.sub(r"\s*->\s*$", "", _text(row["prompt"], "prompt"))
    reply = _text(row["completion"], "completion").strip()
    return [
        Talk(
            [("user", prompt.strip()), ("assistant", reply)],
            str(row.get("id", "")),
            meta=_rest(row, "prompt", "completion", "id"),
        )
    ]


def _trl(row: Any, mapping: Mapping[str, str]) -> list[Talk]:
    """TRL: prompt with completion, or with the chosen one of two, as text or as messages."""
    answer = row["chosen"] if "chosen" in row else row["completion"]
    prompt = row.get("prompt", [])
    if isinstance(prompt, str) and isinstance(answer, str):
        return _completion({**row, "completion": answer}, mapping)
    turns = _messages(prompt) if prompt else []
    turns += (
        _messages(answer) if isinstance(answer, list) else [("assistant", _text(answer, "answer"))]
    )
    return [
        Talk(
            turns,
            str(row.get("id", "")),
            meta=_rest(row, "prompt", "completion", "chosen", "rejected", "id"),
        )
    ]


# ShareGPT, Alpaca, ChatML


def _sharegpt(row: Any, _: Mapping[str, str]) -> list[Talk]:
    turns = _messages(row["conversations"], "from", "value")
    chosen = row.get("chosen")
    if isinstance(chosen, dict):
        turns.append((_role(chosen.get("from", "gpt")), _text(chosen.get("value"), "chosen")))
    if isinstance(row.get("system"), str) and row["system"].strip():
        turns.insert(0, ("system", row["system"]))
    return [
        Talk(
            turns,
            str(row.get("id", "")),
            meta=_rest(row, "conversations", "id", "system", "chosen", "rejected"),
        )
    ]


def _fits_sharegpt(row: Any) -> int:
    talk = row.get("conversations") if isinstance(row, dict) else None
    return (
        2
        if isinstance(talk, list) and talk and isinstance(talk[0], dict) and "from" in talk[0]
        else 0
    )


def _alpaca(row: Any, _: Mapping[str, str]) -> list[Talk]:
    turns: list[tuple[str, str]] = []
    if isinstance(row.get("system"), str) and row["system"].strip():
        turns.append(("system", row["system"]))
    for pair in row.get("history") or []:
        _refuse_unless(
            isinstance(pair, list) and len(pair) == 2,
            "history is no list of pairs",
            "history が二つ組の列ではありません",
        )
        turns += [("user", _text(pair[0], "history")), ("assistant", _text(pair[1], "history"))]
    asked = "\n".join(
        filter(
            None, (_text(row["instruction"], "instruction"), _text(row.get("input") or "", "input"))
        )
    )
    turns += [("user", asked), ("assistant", _text(row["output"], "output"))]
    return [
        Talk(
            turns,
            str(row.get("id", "")),
            meta=_rest(row, "instruction", "input", "output", "system", "history", "id"),
        )
    ]


_CHATML = re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", re.DOTALL)


def _chatml(row: Any, _: Mapping[str, str]) -> list[Talk]:
    text = row if isinstance(row, str) else _text(row.get("text"), "text")
    talks = []
    for block in re.split(r"\n\s*\n(?=<\|im_start\|>)", text):
        turns = [(_role(role), said.strip()) for role, said in _CHATML.findall(block)]
        if turns:
            talks.append(Talk(turns))
    _refuse_unless(
        talks, "no <|im_start|> … <|im_end|> in it", "<|im_start|> … <|im_end|> がありません"
    )
    return talks


def _fits_chatml(row: Any) -> int:
    text = row if isinstance(row, str) else row.get("text") if isinstance(row, dict) else ""
    return 3 if isinstance(text, str) and "<|im_start|>" in text else 0


# Role play


def _haruhi_chat(row: Any, _: Mapping[str, str]) -> list[Talk]:
    reply = row.get("response", row.get("agent_response"))
    asked = row.get("query", row.get("user_question"))
    meta = _rest(row, "query", "response", "user_question", "agent_response")
    return [
        Talk([("user", _text(asked, "query")), ("assistant", _text(reply, "response"))], meta=meta)
    ]


def _haruhi_role(row: Any, _: Mapping[str, str]) -> list[Talk]:
    """A scene of the library's role file: text, plain or in base64, of ``name:「line」`` lines."""
    text = row.get("text")
    if not isinstance(text, str):
        try:
            text = base64.b64decode(str(row.get("enc_text", "")), validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise Refused("enc_text is not base64 of UTF-8", "enc_text を復号できません") from error
    return _scene(text, {})


_LINE = re.compile(r"^\s*([^:：「」\n]{1,30})\s*[:：]\s*「?(.*?)」?\s*$")


def _scene(row: Any, mapping: Mapping[str, str]) -> list[Talk]:
    """``name:「line」`` lines; the speaker of the last line is the character."""
    talks = []
    for part in re.split(r"\n\s*\n", str(row)):
        said = [match.groups() for line in part.splitlines() if (match := _LINE.match(line))]
        said = [(who, text) for who, text in said if text.strip()]
        if len({who for who, _ in said}) < 2:
            continue
        character = mapping.get("character") or said[-1][0]
        while said and said[-1][0] != character:
            said.pop()
        turns = [("assistant" if who == character else "user", text) for who, text in said]
        talks.append(Talk(turns, meta={"character": character}))
    _refuse_unless(talks, "no lines of two speakers in it", "二人以上の台詞がありません")
    return talks


def _fits_scene(row: Any) -> int:
    if not isinstance(row, str):
        return 0
    lines = [line for line in row.splitlines() if line.strip()][:40]
    matched = [match for line in lines if (match := _LINE.match(line))]
    speakers = {match[1] for match in matched}
    return 1 if len(matched) * 2 > len(lines) and 2 <= len(speakers) <= 12 else 0


def _novel(row: Any, mapping: Mapping[str, str]) -> list[Talk]:
    lines = [r for r in row if isinstance(r, dict) and not r.get("if_scene") and r.get("role")]
    text = "\n".join(f"{r['role']}:{_text(r.get('text'), 'text')}" for r in lines)
    return _scene(text, mapping)


def _fits_novel(row: Any) -> int:
    return (
        2
        if isinstance(row, list)
        and row
        and isinstance(row[0], dict)
        and {"role", "text"} <= row[0].keys()
        else 0
    )


# Tables


def _table(row: Any, mapping: Mapping[str, str]) -> list[Talk]:
    for name in ("user", "reply"):
        column = mapping.get(name, "")
        _refuse_unless(
            column in row,
            f"no column {column!r} for {name}",
            f"{name} に対応する列「{column}」がありません",
        )
    turns = []
    system = str(row.get(mapping.get("system", ""), "") or "")
    if system.strip():
        turns.append(("system", system))
    turns += [
        ("user", str(row[mapping["user"]] or "")),
        ("assistant", str(row[mapping["reply"]] or "")),
    ]
    used = [column for column in mapping.values()]
    meta = {
        str(k): v for k, v in row.items() if k is not None and k not in used and v not in (None, "")
    }
    topic = str(row.get(mapping.get("topic", ""), "") or "").strip()
    if topic:
        meta["topic"] = topic
    return [
        Talk(
            turns,
            str(row.get(mapping.get("id", ""), "") or ""),
            str(row.get(mapping.get("source", ""), "") or ""),
            meta,
        )
    ]


def _is_table_row(row: Any) -> int:
    return 1 if isinstance(row, dict) and len(row) >= 2 else 0


def _legacy(row: Any) -> int:
    if not (
        isinstance(row, dict)
        and isinstance(row.get("prompt"), str)
        and isinstance(row.get("completion"), str)
    ):
        return 0
    return 4 if row["prompt"].rstrip().endswith("->") else 1


FORMATS: dict[str, Format] = {
    "charllm": Format(
        Text("charllm", "charllm"),
        ("json",),
        lambda r: 5 if _has("id", "messages", "source")(r) else 0,
        _own,
        why=Text("rows have id, messages and source", "id・messages・source があります"),
    ),
    "openai": Format(
        Text("OpenAI messages", "OpenAI のメッセージ"),
        ("json",),
        lambda r: 2 if _has("messages")(r) else 0,
        _openai,
        why=Text("rows have messages with roles", "messages（role と content）があります"),
    ),
    "openai-completion": Format(
        Text("OpenAI completion (prompt ->)", "OpenAI の旧形式（prompt ->）"),
        ("json",),
        _legacy,
        _completion,
        why=Text("prompts end in ->", "prompt が「->」で終わっています"),
    ),
    "trl": Format(
        Text("TRL prompt and completion, or preference", "TRL の prompt/completion・選好"),
        ("json",),
        lambda r: 2 if _has("prompt", "completion")(r) or _has("chosen", "rejected")(r) else 0,
        _trl,
        why=Text(
            "rows have prompt and completion or chosen",
            "prompt と completion、または chosen があります",
        ),
    ),
    "sharegpt": Format(
        Text("ShareGPT", "ShareGPT"),
        ("json",),
        _fits_sharegpt,
        _sharegpt,
        why=Text(
            "rows have conversations with from and value",
            "conversations（from と value）があります",
        ),
    ),
    "alpaca": Format(
        Text("Alpaca", "Alpaca"),
        ("json",),
        _has("instruction", "output"),
        _alpaca,
        why=Text("rows have instruction and output", "instruction と output があります"),
    ),
    "chatml": Format(
        Text("ChatML text", "ChatML"),
        ("json", "text"),
        _fits_chatml,
        _chatml,
        why=Text("the text has <|im_start|> marks", "<|im_start|> の印があります"),
    ),
    "haruhi-chat": Format(
        Text("ChatHaruhi chats", "ChatHaruhi の会話"),
        ("json",),
        lambda r: (
            2 if _has("query", "response")(r) or _has("user_question", "agent_response")(r) else 0
        ),
        _haruhi_chat,
        why=Text("rows have query and response", "query と response があります"),
    ),
    "haruhi-role": Format(
        Text("ChatHaruhi role file", "ChatHaruhi のロールファイル"),
        ("json",),
        lambda r: (
            3
            if isinstance(r, dict)
            and any(str(k).startswith(("luotuo_", "bge_")) or k == "enc_text" for k in r)
            else 0
        ),
        _haruhi_role,
        why=Text("rows have embeddings and a scene", "埋め込みと場面のテキストがあります"),
    ),
    "haruhi-novel": Format(
        Text("ChatHaruhi novel", "ChatHaruhi の小説形式"),
        ("json",),
        _fits_novel,
        _novel,
        why=Text("rows are lists of role and text", "role と text の列です"),
    ),
    "scene": Format(
        Text("Script (name: line)", "台本（名前：「台詞」）"),
        ("text",),
        _fits_scene,
        _scene,
        why=Text("lines are name: line", "「名前：台詞」の行です"),
    ),
    "sillytavern": Format(
        Text("SillyTavern chat", "SillyTavern のチャット"),
        ("json",),
        lambda r: 3 if _has("mes", "is_user")(r) else 0,
        lambda row, _: [],
        why=Text("rows have mes and is_user", "mes と is_user があります"),
    ),
    "table": Format(
        Text("Table with columns", "表（列を選ぶ）"),
        ("table", "json"),
        _is_table_row,
        _table,
        mappable=True,
        why=Text("a table with columns", "列のある表です"),
    ),
}
