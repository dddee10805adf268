"""Whether a reply is in the character's language, Japanese or English.

Names, titles in quotes and words that the question or the facts brought up may be foreign. It
cannot tell other languages in Latin letters apart, beyond their lack of common English words.
"""

from __future__ import annotations

import re

from charllm.data.text import script_shares

LANGUAGE_SHARE = 0.6
FOREIGN_RUN = 4
"""So many Latin words in a row are no name any more in a Japanese reply."""

_LATIN_WORD = re.compile(r"[A-Za-z\u00c0-\u024f]+(?:['’\-][A-Za-z\u00c0-\u024f]+)*")
_FOREIGN_RUN = re.compile(
    rf"(?:{_LATIN_WORD.pattern}[\s,.;:!?\"“”()]+){{{FOREIGN_RUN - 1},}}{_LATIN_WORD.pattern}"
)
_QUOTED = re.compile(r"「[^」]*」|『[^』]*』|“[^”]*”|\"[^\"]*\"")
_KANA = re.compile(r"[\u3040-\u30ff]")
_JAPANESE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff々〆]")
_COMMON_ENGLISH = """
a an and are as at be but by can do for from had has have he her his i if in is it me my no not of
on or our she so that the them there they this to was we what when will with ye yer you your i'm
i'd i'll i've it's don't
"""
_ENGLISH = frozenset(_COMMON_ENGLISH.split())
"""Words one of which stands in practically every English sentence of eight words."""


def latin_words(text: str) -> frozenset[str]:
    """The words in Latin letters, case-folded."""
    return frozenset(word.casefold() for word in _LATIN_WORD.findall(text))


def not_japanese(text: str, known: frozenset[str]) -> bool:
    """Whether too much of ``text`` is Latin words other than ``known`` ones, or has no kana."""
    # Names and titles come in quotes, from the question or from the facts.
    unquoted = _QUOTED.sub(" ", text)
    text = unquoted if any(char.isalpha() for char in unquoted) else text
    letters, kana = len(_JAPANESE.findall(text)), len(_KANA.findall(text))
    words = [word for word in _LATIN_WORD.findall(text) if word.casefold() not in known]
    if not letters and len(_LATIN_WORD.findall(text)) > 1:
        return True
    # A Latin word weighs like two Japanese letters: "Twitter" is one word, not seven signs.
    if words and letters + 2 * len(words) >= 4:
        if letters / (letters + 2 * len(words)) < LANGUAGE_SHARE:
            return True
        run = _FOREIGN_RUN.search(text)
        if run and any(w.casefold() not in known for w in _LATIN_WORD.findall(run.group())):
            return True
    return letters >= 10 and kana / letters < 0.1


def other_letters(text: str) -> bool:
    """Whether more than a tenth of the letters are neither Japanese nor Latin (3 at least)."""
    letters = [char for char in text if char.isalpha()]
    other = sum(not (_JAPANESE.match(c) or c < "\u0250" or c in "ー々") for c in letters)
    return other >= 3 and other / len(letters) > 0.1


def not_english(text: str) -> bool:
    """Whether too much of ``text`` is Japanese, or eight words and more hold no English one."""
    words = _LATIN_WORD.findall(text)
    shares = script_shares(text)
    if shares["ja"] and shares["en"] < LANGUAGE_SHARE:
        return True
    lower = (word.casefold().replace("’", "'") for word in words)
    return len(words) >= 8 and not any(word in _ENGLISH for word in lower)
