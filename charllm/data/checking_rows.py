"""What is wrong with one row by itself: language, marks, leftovers, first person, turns.

Each rule gives the code of ``CODES`` and what it has found. None of them decides anything: a
finding is shown, and the user decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from charllm.data.dialogue import Dialogue
from charllm.data.errors import Text
from charllm.data.preparing_text import lacks_end_mark
from charllm.data.profile import Profile
from charllm.data.text import first_lines

TOO_LONG = 3
"""A reply is too long from so many times the profile's reply length."""
TOO_SHORT = 5
"""A reply is too short under one of so many parts of the profile's reply length."""
FOREIGN_RUN = 4
"""So many Latin words in a row are no name any more in a Japanese reply."""
KANJI_ONLY = 10
"""Japanese of so many letters has kana among them; without, it is likely Chinese."""

Found = tuple[str, Text]


class Code(NamedTuple):
    """A kind of finding. ``serious``: the row should not be learnt from as it is."""

    label: Text
    serious: bool


CODES: dict[str, Code] = {
    "duplicate": Code(Text("exact duplicate", "完全な重複"), True),
    "near-duplicate": Code(Text("near-duplicate", "よく似た行"), True),
    "leak": Code(Text("near a query", "評価用の質問に近い"), True),
    "empty": Code(Text("says nothing", "中身がない"), True),
    "wrong-language": Code(Text("wrong language", "言語が違う"), True),
    "mixed-language": Code(Text("mixed languages", "言語が混ざっている"), True),
    "broken": Code(Text("broken characters", "文字化け"), True),
    "template": Code(Text("template leftovers", "テンプレートの残り"), True),
    "role-order": Code(Text("unusual order of turns", "発言の順序が不自然"), True),
    "no-question": Code(Text("no question", "質問がない"), False),
    "same-reply": Code(Text("same reply to another question", "別の質問に同じ返答"), False),
    "too-long": Code(Text("too long", "長すぎる"), False),
    "too-short": Code(Text("too short", "短すぎる"), False),
    "no-end-mark": Code(Text("no end mark", "文末の記号がない"), False),
    "first-person": Code(Text("other first person", "一人称が違う"), False),
    "system": Code(Text("system prompt inside", "システムプロンプトを含む"), False),
}
"""Every kind of finding, the serious ones first."""

_LEFTOVER = re.compile(
    r"<\|[^|<>\n]{1,40}\|>|\[/?(?:INST|SYS)\]|<</?SYS>>|</?(?:s|bos|eos|pad|unk)>"
    r"|</?(?:start|end)_of_turn>|\{\{?(?:user|char|facts|name)\}?\}|<START>|#{3} ?\w"
    r"|^(?:user|assistant|system|human|ユーザー|アシスタント|システム) ?[:：]|[ \t]->[ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)
_BROKEN = re.compile(
    "\ufffd|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ue000-\uf8ff]|[\ud800-\udfff]"
    r"|\\u[0-9a-fA-F]{4}|<0x[0-9A-F]{2}>|&(?:amp|lt|gt|quot|nbsp|#\d+);"
    "|ã[\u0080-\u00bf‚€]|â€[™œ\u009d“”]|[縺繧繝][^。、\n]{0,6}[縺繧繝]"
)
_QUOTED = re.compile(r"「[^」]*」|『[^』]*』|“[^”]*”|\"[^\"]*\"")
_KANA = re.compile(r"[\u3040-\u30ff\uff66-\uff9f]")
_KANJI = re.compile(r"[\u3400-\u9fff々〆]")
_LATIN_WORD = re.compile(r"[A-Za-zＡ-Ｚａ-ｚ\u00c0-\u024f]+(?:['’\-][A-Za-z\u00c0-\u024f]+)*")
_LATIN_RUN = re.compile(
    rf"(?:{_LATIN_WORD.pattern}[\s,.;:!?\"“”()]+){{{FOREIGN_RUN - 1},}}{_LATIN_WORD.pattern}"
)
_FIRST_PERSONS = (
    ("私", "わたし", "わたくし", "ワタシ"),
    ("僕", "ぼく", "ボク"),
    ("俺", "おれ", "オレ"),
    ("儂", "わし", "ワシ"),
    ("あたし", "アタシ"),
    ("わらわ", "妾"),
    ("吾輩", "我輩", "わがはい"),
    ("拙者",),
    ("小生",),
)
"""Words for I; those of one group are the same word in other letters or more polite."""
_PARTICLE = r"(?=[はがのもをにと、]|って|だ|で|達|たち|ら[はがのもを])"


class RowRules:
    """The rules for one profile; without a profile those that need none. Safe in any thread."""

    def __init__(self, profile: Profile | None, language: str) -> None:
        self.language = profile.language if profile else language
        self.length = profile.reply_length if profile else 0
        self._others = _other_first_persons(profile)

    def check(self, row: Dialogue) -> Iterator[Found]:
        """``(code, what was found)`` of every rule that the row breaks."""
        yield from _turns(row)
        yield from self._texts(row)
        if not any(char.isalnum() for char in row.reply):
            yield "empty", Text("the reply has no letters", "返答に文字がありません")
            return
        yield from self._language(row.reply)
        yield from self._length(row.reply)
        if lacks_end_mark(row.reply):
            end = first_lines(row.reply)[-8:]
            yield "no-end-mark", Text(f"ends with “{end}”", f"「{end}」で終わっています")
        if self._others and (other := self._others.search(_QUOTED.sub(" ", row.reply))):
            word = other.group()
            yield (
                "first-person",
                Text(f"says {word} for I", f"一人称に「{word}」を使っています"),
            )

    def _texts(self, row: Dialogue) -> Iterator[Found]:
        text = "\n".join(message.content for message in row.messages if message.role != "system")
        for code, pattern in (("template", _LEFTOVER), ("broken", _BROKEN)):
            if match := pattern.search(text):
                # A lone surrogate or a control sign can neither be stored nor shown.
                seen = match.group().strip().encode("ascii", "backslashreplace").decode()
                seen = match.group().strip() if match.group().isprintable() else seen
                yield code, Text(f"contains {seen}", f"{seen} が含まれています")

    def _language(self, reply: str) -> Iterator[Found]:
        unquoted = _QUOTED.sub(" ", reply)
        text = unquoted if any(char.isalpha() for char in unquoted) else reply
        kana, kanji = len(_KANA.findall(text)), len(_KANJI.findall(text))
        words = _LATIN_WORD.findall(text)
        if self.language == "ja":
            if len(words) > 1 and not kana + kanji:
                yield "wrong-language", Text("not in Japanese", "日本語ではありません")
            elif kanji >= KANJI_ONLY and not kana:
                yield "wrong-language", Text("no kana in it", "かなが1文字もありません")
            elif run := _LATIN_RUN.search(text):
                yield "mixed-language", _mixed(run.group())
        elif self.language == "en":
            if kana + kanji and len(words) < 2:
                yield "wrong-language", Text("not in English", "英語ではありません")
            elif kana + kanji:
                japanese = _KANA.search(text) or _KANJI.search(text)
                yield "mixed-language", _mixed(text[japanese.start() :] if japanese else text)
        if other := _other_script(text):
            yield "mixed-language", _mixed(other)

    def _length(self, reply: str) -> Iterator[Found]:
        size = len(reply.strip())
        if not self.length:
            return
        about = Text(
            f"{size} characters; the profile asks for about {self.length}",
            f"{size}文字です（プロファイルの目安は{self.length}文字）",
        )
        if size > TOO_LONG * self.length:
            yield "too-long", about
        elif size * TOO_SHORT < self.length:
            yield "too-short", about


def _mixed(part: str) -> Text:
    shown = first_lines(part, 40)
    return Text(f"another language: {shown}", f"別の言語: {shown}")


def _other_script(text: str) -> str:
    """The letters that are neither Japanese nor Latin, from three on; else ""."""
    other = "".join(
        char
        for char in text
        if char > "\u024f"
        and char.isalpha()
        and not ("\u3040" <= char <= "\u9fff" or "\uf900" <= char <= "\uffdc" or char == "々")
    )
    return other if len(other) >= 3 else ""


def _turns(row: Dialogue) -> Iterator[Found]:
    roles = [message.role for message in row.messages]
    talk = [role for role in roles if role != "system"]
    if "system" in roles:
        yield "system", Text("has a system prompt of its own", "独自のシステムプロンプトがあります")
    if "system" in roles[1:]:
        yield (
            "role-order",
            Text("a system prompt in the middle", "途中にシステムプロンプトがあります"),
        )
    if "user" not in talk:
        yield "no-question", Text("nobody asks anything", "ユーザーの発言がありません")
    if any(a == b for a, b in pairwise(talk)):
        yield (
            "role-order",
            Text("two turns of one speaker in a row", "同じ話者の発言が続いています"),
        )
    empty = any(not message.content.strip() for message in row.messages)
    if empty:
        yield "empty", Text("a turn is empty", "空の発言があります")


def _other_first_persons(profile: Profile | None) -> re.Pattern[str] | None:
    """Words for I that are not the character's; None where its own is not known."""
    own = profile.speech.first_person.strip() if profile and profile.language == "ja" else ""
    if not own:
        return None
    words = [word for group in _FIRST_PERSONS if own not in group for word in group]
    return re.compile(rf"(?<![\u3041-\u9fff々])(?:{'|'.join(words)}){_PARTICLE}")
