"""A reply with another value where its fact stands: 18歳 becomes 21歳, Bosun becomes Tom.

What is put in the place comes from a fact that is much like the one replaced, so that the reply
stays fluent and only somebody who knows the facts can tell. It knows values by their form alone
(numbers, names, what follows は), so now and then the new one makes no sense.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from charllm.data.errors import Language

_NUMBER = re.compile(r"\d+")
_NUMBER_WORDS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twelve")
_NUMBER_WORD = re.compile(rf"\b(?:{'|'.join(_NUMBER_WORDS)})\b")
_PREDICATE_JA = re.compile(r"は「?([^は「」、]{1,12}?)」?(?:だった|である|です)?。?$")
_VERB_JA = re.compile(r"[るただいう]$")
_NAME_JA = re.compile(r"[\u30a1-\u30faー]{3,}")
_NAME_EN = re.compile(r"(?<=[a-z,] )[A-Z][\w-]+(?: [A-Z][\w-]+)*")
_NEAREST = 3
"""The new value is drawn from the so many facts most like the old one."""
_ALIKE = 0.1
"""The least share of words or pairs of signs that two facts of one sort have in common."""
_KINDS = ("number", "predicate", "name")
"""The surest first: a changed number is always wrong."""


class _Value(NamedTuple):
    text: str
    kind: str
    fact: str


def with_wrong_fact(
    reply: str, gold: Sequence[str], query: str, facts: Sequence[str], language: Language, seed: int
) -> str:
    """``reply`` with one value of its ``gold`` facts replaced; "" where none is found in it.

    A value that the question names stays: the reply could not be wrong about it.
    """
    random = Random(seed)
    told = [v for fact in gold for v in _values(fact, language) if _stands(v.text, reply)]
    told = [v for v in told if not _stands(v.text, query)]
    known = f"{query} {reply} {' '.join(gold)}"
    for value in sorted(told, key=lambda v: (_KINDS.index(v.kind), -len(v.text))):
        found = [new for new in _alternatives(value, facts, language) if new not in known]
        if found:
            return _replace(reply, value.text, random.choice(found[:_NEAREST]))
    return ""


def _values(fact: str, language: Language) -> list[_Value]:
    if language == "ja":
        found = [("number", m) for m in _NUMBER.findall(fact)]
        nouns = [m for m in _PREDICATE_JA.findall(fact) if not _VERB_JA.search(m)]
        found += [("predicate", m) for m in nouns if not _NUMBER.search(m)]
        # What stands before は is what the fact is about, not what it says.
        found += [("name", m) for m in _NAME_JA.findall(fact.rpartition("は")[2])]
    else:
        found = [("number", m) for m in _NUMBER.findall(fact) + _NUMBER_WORD.findall(fact)]
        found += [("name", m) for m in _NAME_EN.findall(fact)]
    return [_Value(text, kind, fact) for kind, text in found]


def _alternatives(value: _Value, facts: Sequence[str], language: Language) -> list[str]:
    """Other values of the same kind, those of the most similar facts first."""
    if value.text.isdecimal():
        number = int(value.text)
        return [str(number + step) for step in (-2, -3, 2, 3) if number + step > 0]
    if value.kind == "number":
        return [word for word in _NUMBER_WORDS if word != value.text]
    frame = _frame(value.fact, language)
    shares = {fact: _alike(frame, _frame(fact, language)) for fact in facts if fact != value.fact}
    near = sorted((f for f, share in shares.items() if share >= _ALIKE), key=lambda f: -shares[f])
    found = [v.text for fact in near for v in _values(fact, language) if v.kind == value.kind]
    return [new for new in dict.fromkeys(found) if value.text not in new and new not in value.text]


def _alike(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other)


def _frame(fact: str, language: Language) -> set[str]:
    """What two facts of one sort share: pairs of signs, or words."""
    if language == "en":
        return set(fact.casefold().split())
    return {fact[i : i + 2] for i in range(len(fact) - 1)}


def _pattern(text: str) -> re.Pattern[str]:
    # 3 does not stand in 38, nor Tom in Tomorrow; Japanese words have no edges to look for.
    edge = r"[0-9]" if text.isdecimal() else r"[A-Za-z]" if text.isascii() else r"(?!)"
    return re.compile(rf"(?<!{edge}){re.escape(text)}(?!{edge})", re.IGNORECASE)


def _stands(text: str, within: str) -> bool:
    return bool(_pattern(text).search(within))


def _replace(reply: str, old: str, new: str) -> str:
    def put(match: re.Match[str]) -> str:
        return new.capitalize() if match.group()[0].isupper() and new.islower() else new

    return _pattern(old).sub(put, reply)
