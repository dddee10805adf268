"""Whether a reply uses a fact: the words that set the fact apart, found in the reply.

Content words of the fact count that the question does not already hold; a word that several of the
character's facts share counts one part in as many. Japanese is cut where its scripts change,
without a dictionary; English words are compared without their endings. It reads words, not
meaning: a reply that denies a fact in the fact's own words counts as using it, and one that says it
in other words (十八歳 for 18歳) does not. How often that happens is measured in the tests, on a
table that was labelled by hand.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache

USED = 0.5
"""The weighted share of a fact's own words from which a reply counts as using it."""

_KANJI = r"[\u3400-\u9fff々〆]"
_PIECES = re.compile(
    rf"(?:\d+(?:[.,:]\d+)*|[a-z](?={_KANJI}))(?:{_KANJI}|[ァ-ヺー]+)?"  # with a counter: 18歳, a型
    rf"|{_KANJI}+(?:[いえきぎけげしせちてねびべみめりれ]{_KANJI}+)*"  # 食べ物 is one word
    r"|[ァ-ヺー]+"
    r"|[ぁ-ゖ]+"
    r"|[a-z\u00df-\u024f][a-z\u00df-\u024f0-9'’-]*"
)
_BEFORE = re.compile(r"^(?:から|まで|より|など|さん|[はがをにでとのもへや])+")
_BEHIND = re.compile(
    r"(?:ということ|だった|でした|ました|になる|なる|ている|でいる|ていた|にいる|られた|られる|こと"
    r"|から|まで|より|ほど|など|です|ます|する|した|して|せず|ある|いる|いて|った|もの|とき|れる|まれ"
    r"|だが|さん|[はがをにでとのもへやだなた])+$"
)
"""Particles and verb endings around a word in hiragana; what is left is a word from three letters
on."""
_LEAST_HIRAGANA = 3
_STOP_WORDS = (
    "a an the this that these those he she it they we you i him her them us me his hers its "
    "their our your my mine is are was were be been being am do does did has have had will "
    "would can could may might must shall should to of in on at by for from with about as and "
    "or but not no yes so if than then there here when where who whom whose which what how why "
    "very too also just only get gets got one up out off over into after before i'm i've it's "
    "he's she's don't isn't"
)
_STOP = frozenset(_STOP_WORDS.split())
_ENDINGS = ("ingly", "edly", "ing", "ies", "ied", "es", "ed", "ly", "s", "e", "y")
_LEAST_STEM = 3


def content_words(text: str) -> tuple[str, ...]:
    """The words of a text that mean something, each once, in order, in the form they compare in.

    A run of three or more kanji is cut into pairs, since parts of a compound are said alone.
    """
    return tuple(_weighted(text))


def _weighted(text: str) -> dict[str, float]:
    """The content words; parts of a compound together weigh as much as one word."""
    found: dict[str, float] = {}
    for piece in _PIECES.findall(_plain(text)):
        parts = _words_of(piece)
        for part in parts:
            found.setdefault(part, 1 / len(parts))
    return found


class FactUse:
    """Knows how rare a word is among a character's facts."""

    def __init__(self, facts: Iterable[str]) -> None:
        self._facts = [frozenset(content_words(fact)) for fact in facts]

    def share(self, gold: Sequence[str], question: str, reply: str) -> float | None:
        """The largest share in [0, 1] that the reply holds of one of these facts' own words.

        None where the question already says all that the facts could add.
        """
        asked, said = _Holder(question), _Holder(reply)
        found = []
        for fact in gold:
            weights = {
                word: weight / self._holders(word)
                for word, weight in _weighted(fact).items()
                if not asked.holds(word)
            }
            if weights:
                got = sum(weight for word, weight in weights.items() if said.holds(word))
                found.append(got / sum(weights.values()))
        return max(found, default=None)

    def used(self, gold: Sequence[str], question: str, reply: str) -> bool | None:
        """Whether the reply uses one of these facts; None where that cannot be seen."""
        share = self.share(gold, question, reply)
        return None if share is None else share >= USED

    def _holders(self, word: str) -> int:
        """How many of the character's facts have this word, at least 1."""
        return max(1, sum(word in fact for fact in self._facts))


class _Holder:
    """A text in which words are looked for: Japanese anywhere, others as whole words."""

    def __init__(self, text: str) -> None:
        self._text = _plain(text)
        self._words = set(content_words(text))

    def holds(self, word: str) -> bool:
        whole = word[0].isascii() or word[0].isdigit()
        return word in self._words or (not whole and word in self._text)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


@lru_cache(maxsize=4096)
def _words_of(piece: str) -> tuple[str, ...]:
    if re.match(_KANJI, piece):
        return _kanji(piece)
    if re.match(r"[ぁ-ゖ]", piece):
        bare = _BEHIND.sub("", _BEFORE.sub("", piece))
        return (bare,) if len(bare) >= _LEAST_HIRAGANA else ()
    if piece[0].isalpha() and not re.match(r"[ァ-ヺー]", piece):
        return () if piece in _STOP else (_stem(piece),)
    return (piece,)


def _kanji(run: str) -> tuple[str, ...]:
    """A compound as pairs: 舞台 and 女優, 美術 and 術館; one with kana in it stays whole."""
    if len(run) < 3 or not re.fullmatch(f"{_KANJI}+", run):
        return (run,)
    return tuple(run[i : i + 2] for i in range(0, len(run) - 1, 1 if len(run) % 2 else 2))


def _stem(word: str) -> str:
    """Without the first ending that leaves enough: ``keeps`` and ``keep``, ``carves``, ``carving``.

    Rules of thumb; two forms of one word need only come out alike.
    """
    word = word.replace("’", "'").removesuffix("'s")
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _LEAST_STEM:
            return word[: -len(ending)]
    return word
