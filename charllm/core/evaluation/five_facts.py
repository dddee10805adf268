"""A question for a fact, by the shape of its sentence: no model, the same question every time.

「好きな季節は秋。」 becomes 「好きな季節は何ですか。」. A fact of no known shape is asked about
loosely, by its first words; such a question is marked, for it may name a part of its own answer.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from charllm.data.errors import Language


class Asked(NamedTuple):
    """``loose``: the sentence had no shape that a question could be made of."""

    text: str
    loose: bool = False


def questions_for(fact: str, language: Language) -> tuple[Asked, ...]:
    """Questions that the fact answers, the best first, all different from each other."""
    sentence = fact.strip().rstrip("。.．！!")
    made = _japanese(sentence) if language == "ja" else _english(sentence)
    return tuple(dict.fromkeys(made))


def is_name(fact: str, name: str, language: Language) -> bool:
    """Whether the fact says the character's own name."""
    shape = r"^(本名|氏名|名前|フルネーム)は" if language == "ja" else r"\bname is\b"
    return bool(re.search(shape, fact)) and any(part in fact for part in [name, *name.split()])


def is_age(fact: str, language: Language) -> bool:
    """Whether the fact says how old the character is now."""
    shape = (
        r"^(年齢は|\d+歳)" if language == "ja" else r"^(He|She|They) (is|are) \d+( years old|$|\.)"
    )
    return bool(re.search(shape, fact))


# --- Japanese -----------------------------------------------------------------------------------

_WHEN = r"(?:時|頃|ころ|日|年|月|歳|朝|夜|前)"
_JA_VERBS = (
    (_WHEN + r"に(?P<verb>(?:んで|[^にをがで、])+)$", "いつ"),
    (_WHEN + r"から(?P<verb>(?:んで|[^にをがで、])+)$", "いつから"),
    (
        r"に(?P<verb>(?:んで|[^にをがで、])*(?:され|譲られ|教わ|もら)(?:んで|[^にをがで、])*)$",
        "誰に",
    ),
    (
        r"に(?P<verb>(?:通|住んで|勤め|勤務|入|所属|留学|出かけ|行)(?:んで|[^にをがで、])*)$",
        "どこに",
    ),
    (r"で(?P<verb>(?:働|暮ら|勤務|生まれ|育)(?:んで|[^にをがで、])*)$", "どこで"),
    (r"を(?P<verb>(?:んで|[^にをがで、])+)$", "何を"),
    (r"(?:さん|様|人|くん|ちゃん)が(?P<verb>いる|いた)$", "誰が"),
    (r"が(?P<verb>(?:大好き|好き|得意|苦手|嫌い|欲し|ほし)(?:んで|[^にをがで、])*)$", "何が"),
)
"""How a sentence ends, and the word that asks for what stands before; the first that fits."""

_JA_WHAT = (
    (r"", r"^\d+歳", "いくつ"),
    (r"", r"^(\d+年)?\d+月", "いつ"),
    (r"", r"^\d", "どれくらい"),
    (r"(髪|瞳|(?<!科)目|声|顔|性格|見た目|外見)$", r"", "どんなふう"),
    (r"(家|人|歌手|俳優|先生|選手|監督)$", r"", "誰"),
)
"""Topic and beginning of the answer, and the word that asks for such an answer; else 何."""

_JA_PARTICLES = ("との", "で", "に", "と", "から", "へ")
_VERBAL = re.compile(r"(る|た|だ|い|う|く|す|つ|ぬ|ぶ|む|ぐ|予定)$")
_LONGEST_TOPIC = 16


def _japanese(sentence: str) -> list[Asked]:
    topic, found, rest = sentence.partition("は")
    if found and topic and "、" not in topic and len(topic) <= _LONGEST_TOPIC:
        return _topic(topic, rest)
    asked = _by_verb(sentence)
    return [*([Asked(asked)] if asked else []), *_loosely(sentence)]


def _by_verb(sentence: str) -> str:
    """「東京の学校に通っている」 becomes 「どこに通っているのですか。」; "" for unknown verbs."""
    for shape, word in _JA_VERBS:
        if match := re.search(shape, sentence):
            verb = re.sub(r"(好き|得意|苦手|嫌い|予定)$", r"\1な", match["verb"].removesuffix("だ"))
            return f"{word}{verb}のですか。"
    return ""


def _topic(topic: str, rest: str) -> list[Asked]:
    about = [
        Asked(f"{_noun(topic)}のことを教えてください。"),
        Asked(f"{_noun(topic)}のお話を聞かせてください。"),
    ]
    if asked := _by_verb(rest):
        return [Asked(f"{topic}は{asked}"), *about]
    if topic.endswith(_JA_PARTICLES):
        return about
    if rest.endswith("だった"):
        return [Asked(f"{topic}は何でしたか。"), *about]
    return (
        about if _VERBAL.search(rest) else [Asked(f"{topic}は{_what(topic, rest)}ですか。"), *about]
    )


def _what(topic: str, rest: str) -> str:
    fits = (w for t, r, w in _JA_WHAT if re.search(t, topic) and re.search(r, rest))
    return next(fits, "何")


def _noun(topic: str) -> str:
    """The topic with a particle that a の can follow: 「家に」 becomes 「家」, 「美咲と」 stays."""
    return topic[:-1] if topic.endswith(("に", "へ")) else topic


def _loosely(sentence: str) -> list[Asked]:
    head = re.split(r"[、はがをにでと]", sentence, maxsplit=1)[0] or sentence[:8]
    return [
        Asked(f"{head}のことを教えてください。", loose=True),
        Asked(f"{head}について、思い出はありますか。", loose=True),
    ]


# --- English ------------------------------------------------------------------------------------

_PERSON = r"^(?:He|She|They) "
_EN_SHAPES = (
    (_PERSON + r"(?:is|are) \d+ years old$", "How old are you?"),
    (_PERSON + r"lives? (?:in|on|at|by|near)\b", "Where do you live?"),
    (_PERSON + r"(?:was|were) born\b", "Where and when were you born?"),
    (
        _PERSON + r"(?:is|are) (?P<a>afraid|proud|fond|tired|ashamed|scared) of\b",
        "What are you {a} of?",
    ),
    (_PERSON + r"wants? to (?P<a>\w+)", "What do you want to {a}?"),
    (_PERSON + r"(?:cannot|can't|can not) (?P<a>\w+)", "What can you not {a}?"),
    (_PERSON + r"(?:has|have) never (?P<a>\w+)", "What have you never {a}?"),
    (_PERSON + r"never learn(?:ed|t) to\b", "What did you never learn to do?"),
    (_PERSON + r"(?:has|have) been an? .*? for\b", "What have you been, and for how long?"),
    (_PERSON + r"was an? ", "What were you before?"),
    (_PERSON + r"gets? up\b", "When do you get up?"),
    (_PERSON + r"has (?P<a>read|seen|written|visited|won|built)\b", "What have you {a}?"),
    (_PERSON + r"has an? (?P<a>[\w-]+)", "Do you have a {a}? Tell me about it."),
)
_THING = re.compile(r"^(?:His|Her|Their) (?P<thing>[\w' -]+?) (?:is|was|are|were) (?P<rest>.+)$")
_DOES = re.compile(_PERSON + r"(?P<verb>(?!is\b|was\b|has\b|does\b)[a-z]+s) ")
_OTHER = re.compile(
    r"^(?P<thing>[\w' -]+?) (?:is|was|are|were|has|had|can|could|will|would|who|that|"
    r"[a-z]{3,}s|[a-z]{2,}ed|met|taught|came|went|kept|ran)\b"
)
_DID = re.compile(
    _PERSON + r"(?P<did>(?:[a-z]+ed|met|saw|won|lost|left|found|built|wrote|made|took|gave|bought) "
    r".*?)(?: (?:at|on|in|off|from|with|by|for|out|to|when|before|after)\b|,|$)"
)
_PEOPLE = ("friend", "teacher", "rival", "neighbour", "neighbor", "master", "idol", "hero")
_FAMILY = ("father", "mother", "brother", "sister", "wife", "husband", "son", "daughter", "uncle")
_YOURS = {"his": "your", "her": "your", "their": "your", "he": "you", "she": "you", "they": "you"}


def _english(sentence: str) -> list[Asked]:
    for shape, question in _EN_SHAPES:
        if match := re.search(shape, sentence):
            return [Asked(question.format(**match.groupdict())), *_about(sentence)]
    if match := _THING.match(sentence):
        return [Asked(_of_thing(match["thing"], match["rest"])), *_about(sentence)]
    if match := _DOES.match(sentence):
        verb = _base(match["verb"])
        also = [Asked(f"What do you {verb}?"), Asked(f"What else do you {verb}?")]
        return [*also, *_about(sentence)]
    if match := _DID.match(sentence):
        return [Asked(f"Tell me about the time you {_to_you(match['did'])}."), *_about(sentence)]
    return _about(sentence)


def _of_thing(thing: str, rest: str) -> str:
    """``thing`` is "favourite food" or "daughter Kirsten": what, who, or tell me."""
    words = thing.split()
    if rest.startswith("called "):
        return f"What is your {thing} called?"
    named = any(word[:1].isupper() for word in words) or words[-1] in _FAMILY
    if named or re.match(r"(?:an?|the|to|one)\b", rest):
        return f"Tell me about your {thing}."
    return f"{'Who' if words[-1] in _PEOPLE else 'What'} is your {thing}?"


def _about(sentence: str) -> list[Asked]:
    """By the sentence's subject, said to the character; by its first words where it is they."""
    match = _OTHER.match(sentence)
    if match and match["thing"].split()[0] not in ("He", "She", "They"):
        thing = _to_you(match["thing"])
        return [
            Asked(f"Tell me about {thing}."),
            Asked(f"What can you tell me about {thing}?"),
            Asked(f"Is there anything else that I should know about {thing}?"),
        ]
    words = [word for word in sentence.split()[1:5] if word.lower() not in ("is", "was", "has")]
    head = _to_you(" ".join(words)) or sentence
    return [
        Asked(f"Does this mean anything to you: {head}?", loose=True),
        Asked(f"What comes to your mind at: {head}?", loose=True),
    ]


def _to_you(words: str) -> str:
    first, _, rest = words.partition(" ")
    first = first.lower() if first in ("The", "A", "An", "His", "Her", "Their") else first
    return " ".join(_YOURS.get(word.lower(), word) for word in [first, *rest.split()])


def _base(verb: str) -> str:
    """The plain form of a verb's third person: carries → carry, washes → wash, keeps → keep."""
    if verb.endswith("ies"):
        return f"{verb[:-3]}y"
    return verb[:-2] if verb.endswith(("shes", "ches", "sses", "xes", "zzes", "oes")) else verb[:-1]
