"""The gate: deterministic reasons for which a reply is not worth judging at all.

Leaked markup, role tags, loops, runaways, the wrong language, an echo, "as an AI", a recital of
the profile, broken characters, no end. About a tenth of a millisecond a reply, no model. It
knows nothing of style or truth: a fluent wrong answer passes. The thresholds are set so that
real lines of a character pass (98 % and more) and runaways, loops and recitals never do.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from charllm.core.judging.languages import (
    latin_words,
    not_english,
    not_japanese,
    other_letters,
)
from charllm.core.judging.loops import find_loop
from charllm.core.judging.recital import Recital
from charllm.data.errors import Text
from charllm.data.profile import Profile
from charllm.data.text import first_lines, ngrams, normal_form

TOO_LONG = 4
"""A reply longer than this many times the profile's reply length has not stopped in time."""
ECHO_SHARE = 0.8
"""Share of the reply's character trigrams that stand in the question."""
LONGEST_READ = 800
"""Of a runaway only the beginning and the end are searched for loops and recitals."""


class Finding(NamedTuple):
    """Why a reply is stopped: a stable code for counting, and the reason in words."""

    code: str
    text: Text


_TEMPLATE = re.compile(
    r"\[/?\s?(?:INST|SYS|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\b\]?|<</?SYS>>"
    r"|<\|[^|<>\n]{1,40}\|>|</?(?:s|bos|eos|pad|unk|mask|think)>|</?(?:start|end)_of_\w+>"
    r"|<(?:unused|extra_id_|reserved_)\w*>|\{\{?(?:user|char|facts|name|query)\}?\}|#{3,}"
    r"|^\s*##\s|```|</[a-z]\w{1,20}>|\{\s*\"\w+\"\s*:"
    r"|</?(?:br|p|div|span|a|b|i|em|strong|h[1-6]|ul|ol|li|table|html|body|script|code|pre)"
    r"\b[^<>]{0,80}>",
    re.IGNORECASE | re.MULTILINE,
)
_ROLES_JA = "質問者?|回答者?|ユーザー?|アシスタント|システム|指示|入力|応答|命令|会話"
_ROLES_EN = "user|assistant|system|human|ai|bot|model|question|answer|instruction|response|input"
_ALONE = re.compile(r"^\s*(?:user|assistant|system|human|model)\s*$", re.IGNORECASE | re.MULTILINE)
_BROKEN = re.compile(
    "\ufffd|<0x[0-9A-Fa-f]{2}>|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ue000-\uf8ff]"
    "|ã[\u0081\u0082‚€]|â€[™œ\u009d“”]|Ã[©¨¤¶¼]|[縺繧繝][^。、\n]{0,6}[縺繧繝]"
)
_AI_JA = "AI|人工知能|言語モデル|チャットボット|アシスタント|AIモデル"
_I_JA = "私|わたし|わたくし|あたし|僕|ぼく|俺|自分|当方"
_AS_AI = re.compile(
    rf"(?:{_AI_JA})(?:として|ですので|ですから|なので|であり|でございます|です(?!って|か|の[？?]|もの)|だから"
    rf"|(?:の|である)(?:{_I_JA}))"
    rf"|(?:{_I_JA})は、?[^。！？!?\n]{{0,12}}プログラム(?:です(?!って|か|の[？?])|なので|であり|だから|に[過す]ぎ)"
    r"|\b(?:as|i am|i'm|i’m|being)\s+(?:just\s+|only\s+|merely\s+)?(?:an?|your)\s+(?:\w+\s+){0,2}"
    r"(?:AI\b|artificial intelligence|language model|chatbot|(?:virtual|digital) assistant"
    r"|(?:computer|software) program\b)",
    re.IGNORECASE,
)
_GREETINGS = re.compile(
    r"おはよう|こんにち[はわ]|こんばん[はわ]|おやすみ|ごきげんよう|はじめまして|初めまして|さようなら|またね"
    r"|お疲れ|おつかれ|ありがとう|よろしく|おめでとう|ただいま"
    r"|hello|hi there|good (?:morning|evening|night|day|afternoon)|goodbye|farewell|thank|welcome",
    re.IGNORECASE,
)
_OPEN_QUESTION = re.compile(
    r"何|なに|なん[でのだ]|どこ|どの|どれ|どちら|どっち|どう|どんな|誰|だれ|いつ|なぜ|いく[つら]"
    r"|\b(?:what|which|where|who|whose|when|why|how)\b",
    re.IGNORECASE,
)
_POLITE = re.compile(r"(?:です|ます)?か$")


class Gate:
    """The gate of one profile, with what it needs to know of it prepared. Safe in any thread."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self._recital = Recital(profile)
        self._roles = _role_pattern(profile)
        self._is_ai = _plays_an_ai(profile)
        self._known_words = latin_words("\n".join((profile.name, *profile.facts)))

    def check(self, reply: str, *, query: str = "", stop_reason: str = "") -> list[Finding]:
        """All findings, [] for a reply that may be judged.

        ``stop_reason`` is generation's ("" unknown): "length" and "repetition" are findings.
        """
        text = unicodedata.normalize("NFKC", reply).strip()
        if not any(char.isalnum() for char in text):
            return [_EMPTY]
        ends = text if len(text) <= LONGEST_READ else text[:500] + "\n" + text[-300:]
        found = [
            *self._markup(text),
            *self._turns(text),
            *self._loops(ends, stop_reason),
            *self._length(reply.strip()),
            *self._language(_TEMPLATE.sub(" ", ends), query),
            *_echo(text, query),
            *self._assistant(text),
            *self._dump(ends),
        ]
        if stop_reason == "length":
            found.append(_CUT)
        return found

    def _markup(self, text: str) -> Iterator[Finding]:
        if match := _TEMPLATE.search(text):
            mark = first_lines(match.group(), 20)
            yield Finding(
                "template",
                Text(
                    f"contains markup that is no speech ({mark})",
                    f"台詞ではない記号が混ざっています（{mark}）",
                ),
            )
        if _BROKEN.search(text):
            yield _MOJIBAKE

    def _turns(self, text: str) -> Iterator[Finding]:
        match = self._roles.search(text) or _ALONE.search(text)
        if match is None:
            return
        tag = first_lines(match.group().strip(" \n。！？!?.」"), 20)
        if text[: match.start()].strip():
            yield Finding(
                "second_turn",
                Text(
                    f"goes on with another turn ({tag})",
                    f"返事のあとに次の発言まで続けています（{tag}）",
                ),
            )
        else:
            yield Finding(
                "role_tag",
                Text(f"begins with a role tag ({tag})", f"役割の見出しで始まっています（{tag}）"),
            )

    def _loops(self, text: str, stop_reason: str) -> Iterator[Finding]:
        loop = find_loop(text, self.profile.language)
        if loop or stop_reason == "repetition":
            unit = first_lines(loop, 20)
            yield Finding(
                "repetition",
                Text(
                    f"repeats itself ({unit})" if unit else "ran in a loop and was ended",
                    f"同じ言葉を繰り返しています（{unit}）"
                    if unit
                    else "同じ言葉の繰り返しになったため打ち切られました",
                ),
            )

    def _length(self, reply: str) -> Iterator[Finding]:
        asked = self.profile.reply_length
        if len(reply) > TOO_LONG * asked:
            yield Finding(
                "too_long",
                Text(
                    f"is far too long: {len(reply)} characters, about {asked} were asked for",
                    f"長すぎます（{asked}文字ほどのところ{len(reply)}文字）",
                ),
            )

    def _language(self, text: str, query: str) -> Iterator[Finding]:
        japanese = self.profile.language == "ja"
        wrong = (
            not_japanese(text, self._known_words | latin_words(query))
            if japanese
            else not_english(text)
        )
        if wrong or other_letters(text):
            yield _NOT_JAPANESE if japanese else _NOT_ENGLISH

    def _assistant(self, text: str) -> Iterator[Finding]:
        match = None if self._is_ai else _AS_AI.search(text)
        if match:
            yield Finding(
                "as_ai",
                Text(
                    f"speaks as an AI ({first_lines(match.group(), 30)})",
                    f"AIとして話しています（{first_lines(match.group(), 30)}）",
                ),
            )

    def _dump(self, text: str) -> Iterator[Finding]:
        count = self._recital.facts_strung(text)
        if count:
            yield Finding(
                "dump",
                Text(
                    f"strings {count} facts of the profile together",
                    f"プロファイルの事実を{count}個並べ立てています",
                ),
            )
        elif self._recital.recites_prompt(text):
            yield _RECITES


_gates: dict[int, Gate] = {}
_lock = threading.Lock()


def gate_of(profile: Profile) -> Gate:
    """The profile's gate, prepared once for each of the last few profile objects."""
    with _lock:
        gate = _gates.get(id(profile))
        # A gate keeps its profile alive, so an id in the table is never another object's.
        if gate is None:
            while len(_gates) >= 8:
                del _gates[next(iter(_gates))]
            gate = _gates[id(profile)] = Gate(profile)
        return gate


def check(reply: str, *, profile: Profile, query: str = "", stop_reason: str = "") -> list[Finding]:
    """``Gate.check`` for ``profile``."""
    return gate_of(profile).check(reply, query=query, stop_reason=stop_reason)


def _role_pattern(profile: Profile) -> re.Pattern[str]:
    """Role words, and the character's own name, where a turn could begin, before a colon."""
    name = unicodedata.normalize("NFKC", profile.name)
    parts = {name, *(part for part in re.split(r"[\s・]+", name) if len(part) > 1)}
    names = "|".join(re.escape(part) for part in sorted(parts, key=len, reverse=True))
    begin, sentence_end = r"(?:^\s*[\[(【*]*", r"[。！？!?.」]\s*"
    return re.compile(
        rf"{begin}|{sentence_end}|\s)(?:{_ROLES_JA})\s*[\])】*]*:"
        rf"|{begin}|{sentence_end})(?:{_ROLES_EN}|{names})\s*[\])】*]*:"
        rf"|^\s*(?:[QA問答])\s*[:.]\s",
        re.IGNORECASE | re.MULTILINE,
    )


def _plays_an_ai(profile: Profile) -> bool:
    """Whether the character is an AI by its own profile, so that it may say so."""
    first = re.split(r"[。.\n]", profile.persona, maxsplit=1)[0]
    own = (profile.name, first, profile.greeting, *profile.facts)
    said = "\n".join((*own, *(example.reply for example in profile.examples)))
    return bool(
        _AS_AI.search(said) or re.search(r"\ban AI\b|(?:はAI|AI[。\n]|人工知能[。\n])", said)
    )


def _echo(text: str, query: str) -> Iterator[Finding]:
    """The question said again instead of an answer. A greeting may be returned."""
    said, asked = normal_form(text), normal_form(query)
    if len(said) < 6 or len(asked) < 5 or (_GREETINGS.search(query) and len(said) < 20):
        return
    grams = ngrams(said, 3)
    shared = sum(n for gram, n in grams.items() if gram in asked) / grams.total()
    # "Do you like France?" may be answered in its own words; "What do you like?" may not.
    core = _POLITE.sub("", asked)
    parrots = len(asked) >= 12 or (len(core) >= 5 and bool(_OPEN_QUESTION.search(query)))
    if shared >= ECHO_SHARE or (parrots and core in said):
        yield _ECHOES


_EMPTY = Finding("empty", Text("says nothing", "何も言っていません"))
_CUT = Finding(
    "cut",
    Text(
        "did not end by itself: it was cut off at the length limit",
        "自分で話し終えず、長さの上限で打ち切られました",
    ),
)
_MOJIBAKE = Finding("mojibake", Text("contains broken characters", "文字化けしています"))
_NOT_JAPANESE = Finding("language", Text("is not in Japanese", "日本語ではない部分が多すぎます"))
_NOT_ENGLISH = Finding("language", Text("is not in English", "英語ではない部分が多すぎます"))
_ECHOES = Finding("echo", Text("only repeats the question", "質問をそのまま繰り返しています"))
_RECITES = Finding(
    "dump", Text("recites its own instructions", "プロファイルや指示文を読み上げています")
)
