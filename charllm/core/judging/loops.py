"""Whether a text repeats itself: tight loops, a sentence said twice, n-grams that cover it.

Laughter and humming are spared: a repeated unit of one or two different signs counts only when
it goes on and on. It does not know why a text repeats.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import NamedTuple

from charllm.data.errors import Language
from charllm.data.text import normal_form


class Scale(NamedTuple):
    """Characters that make up a few words: Japanese writes them shorter."""

    gram: int
    loop: int
    sentence: int


SCALES: dict[Language, Scale] = {"ja": Scale(6, 15, 6), "en": Scale(12, 24, 16)}
SELF_COVER = 0.5
"""Share of a text covered by n-grams that stand in it twice, from which it is a loop."""

_DRONE = re.compile(r"(\w)\1{11,}|(\w\w)\2{7,}|(\w{3})\3{4,}|(.)\4{29,}")
_WHOLE = re.compile(r"(.{3,}?)\1+")
_LOOP = re.compile(r"(.{4,60}?)\1+")
_SENTENCE = re.compile(r"[^。！？!?.\n]+")


def find_loop(text: str, language: Language) -> str:
    """The unit that is repeated, "" where nothing is. ``text`` is NFKC, at most 1,000 signs."""
    scale = SCALES[language]
    if match := _DRONE.search(text):
        return match.group()[:4]
    flat = " ".join(text.split()) if language == "en" else "".join(text.split())
    whole = _WHOLE.fullmatch(normal_form(text))
    if whole and _varied(whole.group(1)):
        return whole.group(1)
    if sentence := _sentence_twice(text, scale):
        return sentence
    for match in _LOOP.finditer(flat):
        unit, times = match.group(1), len(match.group()) // len(match.group(1))
        enough = len(match.group()) >= scale.loop if times > 2 else len(unit) >= scale.gram + 2
        if enough and _varied(unit):
            return unit
    return _covering(flat.casefold(), scale.gram)


def _varied(unit: str) -> bool:
    return len(set(unit)) >= 3


def _sentence_twice(text: str, scale: Scale) -> str:
    seen = set()
    for sentence in _SENTENCE.findall(text):
        form = normal_form(sentence)
        if len(form) >= scale.sentence:
            if form in seen:
                return str(sentence.strip())
            seen.add(form)
    return ""


def _covering(text: str, n: int) -> str:
    """The first repeated n-gram of a text that repeated n-grams cover for the greater part."""
    places: dict[str, list[int]] = defaultdict(list)
    for i in range(len(text) - n + 1):
        places[text[i : i + n]].append(i)
    repeated = {g: at for g, at in places.items() if len(at) > 1 and _varied(g)}
    if not repeated:
        return ""
    covered = {i + k for at in repeated.values() for i in at for k in range(n)}
    return next(iter(repeated)) if len(covered) / len(text) > SELF_COVER else ""
