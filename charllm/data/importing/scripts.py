"""Scripts, where every line names its speaker, and what ChatHaruhi makes of them.

Whoever speaks in the most scenes is the character, the last speaker where that is a tie;
``character=NAME`` tells it otherwise. Everybody else is the user.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from charllm.data.importing.rejecting import Refused, refuse_unless
from charllm.data.importing.talks import Rows, Talk, id_of, rest_of, text_of

_LINE = re.compile(r"^\s*([^:：「」『』\n]{1,30}?)\s*[:：]\s*(.*?)\s*$")
_NARRATORS = {"旁白", "ナレーション", "ナレーター", "narrator", "narration", "scene"}
_EMBEDDINGS = ("luotuo_", "bge_")


@dataclass
class Scene:
    """Who says what, in order, and what nobody says."""

    said: list[tuple[str, str]] = field(default_factory=list)
    narration: list[str] = field(default_factory=list)

    def add(self, who: str, text: str) -> None:
        if who.lower() in _NARRATORS:
            self.narration.append(text)
        elif text.strip():
            self.said.append((who, text))


def scene_of(text: str) -> Scene:
    """``name:「line」`` lines; a line in brackets may go on over several."""
    scene, who, parts = Scene(), "", [""]
    for line in text.split("\n"):
        match = _LINE.match(line)
        if match:
            scene.add(who, _unbracketed("\n".join(parts)))
            who, parts = match[1].strip(), [match[2]]
        elif who and _is_open(parts):
            parts.append(line.strip())
        elif line.strip():
            scene.narration.append(line.strip())
    scene.add(who, _unbracketed("\n".join(parts)))
    return scene


def _is_open(parts: list[str]) -> bool:
    return parts[0].startswith("「") and not parts[-1].endswith("」")


def _unbracketed(text: str) -> str:
    """Without the brackets around the whole; 「a」 and 「b」 side by side keep theirs."""
    inner = text[1:-1]
    whole = text.startswith("「") and text.endswith("」") and "」" not in inner.split("「")[0]
    return inner if whole else text


def talk_of(scene: Scene, mapping: Mapping[str, str]) -> Talk:
    refuse_unless(
        len({who for who, _ in scene.said}) > 1,
        "no lines of two speakers in it",
        "二人以上の台詞がありません",
    )
    character = mapping.get("character") or scene.said[-1][0]
    refuse_unless(
        any(who == character for who, _ in scene.said),
        f"{character[:30]} says nothing in it",
        f"{character[:30]} の台詞がありません",
    )
    turns = [("assistant" if who == character else "user", text) for who, text in scene.said]
    meta: dict[str, Any] = {"character": character}
    if scene.narration:
        meta["narration"] = scene.narration
    return Talk(turns, meta=meta)


def guess_character(scenes: list[Scene]) -> dict[str, str]:
    present: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    for scene in scenes:
        speakers = {who for who, _ in scene.said}
        if len(speakers) < 2:
            continue
        present.update(speakers)
        lines.update(who for who, _ in scene.said)
        ends.update(who for who, _ in scene.said[-1:])
    rank = {who: (present[who], ends[who], lines[who]) for who in present}
    return {"character": max(rank, key=lambda who: rank[who])} if rank else {}


# Script: plain text


def script_rows(rows: Rows) -> Rows:
    """Scenes, which an empty line parts, unless the empty lines part the speakers."""
    scenes: Rows = []
    for start, text in rows:
        held: list[str] = []
        for number, line in enumerate([*str(text).split("\n"), ""], start):
            if line.strip():
                held.append(line)
            elif held:
                scenes.append((number - len(held), "\n".join(held)))
                held = []
    found = [scene_of(text) for _, text in scenes]
    if any(len({who for who, _ in scene.said}) > 1 for scene in found):
        return scenes
    return [(scenes[0][0], "\n".join(text for _, text in scenes))] if scenes else []


def script(row: Any, mapping: Mapping[str, str]) -> Talk:
    return talk_of(scene_of(row), mapping)


def guess_script(rows: Rows) -> dict[str, str]:
    return guess_character([scene_of(row) for _, row in rows if isinstance(row, str)])


def fits_script(row: Any) -> int:
    if not isinstance(row, str):
        return 0
    lines = [line for line in row.split("\n", 100)[:100] if line.strip()][:40]
    matched = [match for line in lines if (match := _LINE.match(line))]
    speakers = {match[1] for match in matched}
    return 1 if len(matched) * 2 > len(lines) and 2 <= len(speakers) <= 12 else 0


# ChatHaruhi's role file: a scene a row, beside its embedding


def _role_text(row: Any) -> str:
    said = [value for key, value in row.items() if str(key).startswith(_EMBEDDINGS)]
    for name in ("system_prompt", "config"):
        refuse_unless(
            name not in said,
            f"no scene, but the role's {name}",
            f"場面ではなく、ロールの {name} です",
        )
    if isinstance(row.get("text"), str):
        return str(row["text"])
    try:
        return base64.b64decode(str(row.get("enc_text", "")), validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise Refused("enc_text is not base64 of UTF-8", "enc_text を復号できません") from error


def role(row: Any, mapping: Mapping[str, str]) -> Talk:
    """The embedding is not kept: it is large and belongs to another model."""
    talk = talk_of(scene_of(_role_text(row)), mapping)
    talk.id = id_of(row)
    kept = {k: v for k, v in row.items() if not str(k).startswith(_EMBEDDINGS)}
    talk.meta |= rest_of(kept, "id", "text", "enc_text")
    return talk


def guess_role(rows: Rows) -> dict[str, str]:
    scenes = []
    for _, row in rows:
        try:
            scenes.append(scene_of(_role_text(row)))
        except (Refused, AttributeError):
            continue
    return guess_character(scenes)


def fits_role(row: Any) -> int:
    if not isinstance(row, dict):
        return 0
    marked = any(str(k).startswith(_EMBEDDINGS) or k == "enc_text" for k in row)
    return 3 if marked and row.keys() & {"text", "enc_text"} else 0


# ChatHaruhi's novel: a list of role and text a row


def _novel_scene(row: Any) -> Scene:
    refuse_unless(
        isinstance(row, list), "no list of role and text", "role と text の列ではありません"
    )
    scene = Scene()
    for line in row:
        refuse_unless(isinstance(line, dict), "a line is no object", "台詞の形が正しくありません")
        text, who = text_of(line.get("text"), "text"), str(line.get("role") or "").strip()
        scene.add("scene" if line.get("if_scene") or not who else who, _unbracketed(text.strip()))
    return scene


def novel(row: Any, mapping: Mapping[str, str]) -> Talk:
    return talk_of(_novel_scene(row), mapping)


def guess_novel(rows: Rows) -> dict[str, str]:
    scenes = []
    for _, row in rows:
        try:
            scenes.append(_novel_scene(row))
        except Refused:
            continue
    return guess_character(scenes)


def fits_novel(row: Any) -> int:
    first = row[0] if isinstance(row, list) and row else None
    return 2 if isinstance(first, dict) and {"role", "text"} <= first.keys() else 0


# ChatHaruhi's chats: query and response, and the names of the 54K set


def haruhi_chat(row: Any, _: Mapping[str, str]) -> Talk:
    """``meta.speakers``: the names that stood in front of the lines, as ``name:「line」``."""
    asked = text_of(row.get("query", row.get("user_question")), "query")
    reply = text_of(row.get("response", row.get("agent_response")), "response")
    asker, asked = _quoted(asked)
    speaker, reply = _quoted(reply)
    meta = rest_of(row, "query", "response", "user_question", "agent_response", "id")
    if asker or speaker:
        meta["speakers"] = [asker, speaker]
    return Talk([("user", asked), ("assistant", reply)], id_of(row), meta=meta)


def _quoted(text: str) -> tuple[str, str]:
    """Name and line of ``name:「line」``; "" and the text where it is nothing of the kind."""
    match = re.fullmatch(r"\s*([^:：「」\n]{1,30}?)\s*[:：]\s*(「.*」)\s*", text, re.DOTALL)
    if match is None or (inner := _unbracketed(match[2])) == match[2]:
        return "", text
    return match[1], inner


def fits_haruhi_chat(row: Any) -> int:
    if not isinstance(row, dict):
        return 0
    short = {"query", "response"} <= row.keys()
    return 2 if short or {"user_question", "agent_response"} <= row.keys() else 0
