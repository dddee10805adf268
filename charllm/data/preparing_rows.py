"""Rows made from a profile: who the character is, how old, where at home, in its own voice.

The profile's example exchanges come first; where none answers, a plain sentence is built from the
fact with the character's first person and copula. Every row says that it was added, and from what.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from charllm.data.errors import Language
from charllm.data.overlaps import overlapping
from charllm.data.preparing_text import with_end_mark
from charllm.data.profile import Profile

Row = dict[str, Any]
_AFTER_NOUN = re.compile(r"です|なの|じゃ|だ|でござ")


@dataclass(frozen=True)
class Topic:
    """What is asked and how the answering fact is known; ``asked`` finds it in an example.

    ``fact`` has one group, what the sentence is about; ``said`` is the sentence around it, with
    {me}, {is} and {it}.
    """

    name: str
    questions: tuple[str, ...]
    asked: str
    fact: str
    said: str


JAPANESE = (
    Topic(
        "name",
        ("お名前は？", "どちら様ですか？", "自己紹介をお願いできますか？", "君の名は？"),
        r"名前|名は|どちら様|誰ですか|自己紹介",
        r"^(?:私の|本人の)?(?:名前|氏名|本名)は(.+)$",
        "{me}の名前は{it}{is}",
    ),
    Topic(
        "reading",
        ("お名前の読み方は？", "何とお読みするのでしょう？", "ふりがなを教えて。"),
        r"読み方|何と読|ふりがな",
        r"^(?:名前の)?(?:読み方|ふりがな)は(.+)$",
        "{it}と読むの{is}",
    ),
    Topic(
        "age",
        ("おいくつですか？", "何歳ですか？", "年齢を聞いてもいい？", "歳はいくつなの？"),
        r"何歳|おいくつ|年齢|いくつなの",
        r"^(?:年齢は)?(\d+(?:歳|才))$",
        "{me}は{it}{is}",
    ),
    Topic(
        "birthday",
        ("お誕生日は？", "誕生日はいつですか？", "いつ生まれたの？"),
        r"誕生日|いつ生まれ",
        r"^誕生日は(.+)$",
        "{me}の誕生日は{it}{is}",
    ),
    Topic(
        "home",
        ("お住まいはどちらですか？", "どこに住んでいるの？", "おうちはどの辺り？"),
        r"住まい|どこに住|おうちは",
        r"^(?:今は|現在は?、?|今、)?(.+)に(?:住んでいる|暮らしている)$",
        "{me}の住まいは{it}{is}",
    ),
    Topic(
        "work",
        ("お仕事は何を？", "ご職業は？", "普段は何をしている方ですか？"),
        r"仕事|職業|何をしている",
        r"^(?:職業|仕事)は(.+)$",
        "{me}の仕事は{it}{is}",
    ),
)
ENGLISH = (
    Topic(
        "name",
        ("What's your name?", "Who are you?", "May I ask your name?", "Tell me who you are."),
        r"(?i)your name|who are you|call you",
        r"^(?:His|Her|Their|My) (?:full )?name is (.+)$",
        "My name is {it}",
    ),
    Topic(
        "age",
        ("How old are you?", "What's your age?", "Mind telling me your age?"),
        r"(?i)how old are you|your age",
        r"^(?:He|She|They|I) (?:is|are|am) (\d+(?: years old)?)$",
        "I am {it}",
    ),
    Topic(
        "birthday",
        ("When is your birthday?", "When were you born?", "What day is your birthday?"),
        r"(?i)your birthday|when were you born",
        r"^(?:His|Her|Their|My) birthday is (.+)$",
        "My birthday is {it}",
    ),
    Topic(
        "home",
        ("Where do you live?", "Where is your home?", "Whereabouts do you live?"),
        r"(?i)where do you live|your home",
        r"^(?:He|She|They|I) lives? ((?:on|in|at|near) .+)$",
        "I live {it}",
    ),
    Topic(
        "work",
        ("What do you do for a living?", "What is your job?", "What work do you do?"),
        r"(?i)for a living|your job|what work",
        r"^(?:He|She|They|I) works? as (an? .+)$",
        "I am {it}",
    ),
)
TOPICS: dict[Language, tuple[Topic, ...]] = {"ja": JAPANESE, "en": ENGLISH}


def rows_from(profile: Profile, queries: Sequence[str], per_topic: int) -> list[Row]:
    """``{"id", "user", "reply", "topic", "facts", "from"}`` for each topic the profile answers.

    A question near one of ``queries`` is not used: training on it would spoil what they measure.
    """
    rows: list[Row] = []
    for topic in TOPICS[profile.language]:
        found = _answer(profile, topic)
        if found is None:
            continue
        reply, facts, origin = found
        for number, question in enumerate(_unasked(topic, queries)[:per_topic], 1):
            made = {"id": f"profile-{topic.name}-{number}", "user": question, "reply": reply}
            rows.append({**made, "topic": topic.name, "facts": facts, "from": origin})
    return rows


def _unasked(topic: Topic, queries: Sequence[str]) -> list[str]:
    near = {i for i, _, _ in overlapping(topic.questions, queries, most=1)} if queries else set()
    return [question for i, question in enumerate(topic.questions) if i not in near]


def _answer(profile: Profile, topic: Topic) -> tuple[str, list[str], str] | None:
    """``(reply, facts it relies on, "example" or "fact")``, None where nothing answers."""
    fact, value = _fact(profile, topic)
    for example in profile.examples:
        if re.search(topic.asked, example.user) and (not value or _says(example.reply, value)):
            return example.reply, [fact] if fact else [], "example"
    if not value:
        return None
    said = topic.said.format(me=_first_person(profile), it=value, **{"is": _copula(profile)})
    return with_end_mark(said), [fact] if fact else [], "fact"


def _fact(profile: Profile, topic: Topic) -> tuple[str, str]:
    for fact in profile.facts:
        if found := re.search(topic.fact, fact.rstrip("。．. ")):
            return fact, re.sub(r"(?:です|である|だ)$", "", found.group(1)).strip()
    return "", profile.name if topic.name == "name" else ""


def _says(reply: str, value: str) -> bool:
    """Whether an example's reply holds what the fact says, or at least its longest part."""
    parts = re.findall(r"\d+|[A-Za-z]{3,}|[\u3040-\u30ff\u3400-\u9fff]{2,}", value)
    return any(part in reply for part in parts)


def _first_person(profile: Profile) -> str:
    return profile.speech.first_person or ("私" if profile.language == "ja" else "I")


def _copula(profile: Profile) -> str:
    """The character's word for です: the first of its endings that can stand after a noun."""
    endings = (end.strip("。") for end in profile.speech.endings)
    return next((end for end in endings if _AFTER_NOUN.match(end)), "です")
