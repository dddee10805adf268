"""Neutralised twins: what a character said, in the plain words anybody would use.

Rules for each language, fed by the profile's own list of marks; no character is named here.
A Japanese ending loses its final particles (ですわ → です), an English mark is replaced by the
plain word or left out with its comma (Aye, lad. → Yes.). It does not paraphrase: topic, politeness
and length stay, so that a twin differs from its line in style alone.
"""

from __future__ import annotations

import re

from charllm.data.profile import Profile

_STEMS = (
    "ませんでした",
    "ました",
    "ません",
    "でした",
    "です",
    "ます",
    "でしょう",
    "ましょう",
    "った",
    "ない",
)
_PLAIN_JA = {
    "かしら": "かな",
    "くださいませ": "ください",
    "くださいまし": "ください",
    "ごきげんよう": "こんにちは",
    "いたしますわ": "します",
    "ございます": "あります",
    "でございます": "です",
    "でござる": "です",
    "ござる": "です",
    "のじゃ": "のです",
    "じゃのう": "ですね",
    "じゃ": "だ",
    "なのだ": "なのです",
    "のだ": "のです",
    "だぜ": "だよ",
    "ぜよ": "よ",
    "だぞ": "だよ",
    "ってばよ": "よ",
    "だべ": "だね",
    "やで": "だよ",
    "やん": "だよね",
    "どす": "です",
    "であります": "です",
    "っす": "です",
    "ますこと": "ます",
}
_PARTICLES = ("もの", "こと", "の", "わ")
_PLAIN_EN = {
    "aye": "yes",
    "nay": "no",
    "ye": "you",
    "yer": "your",
    "yerself": "yourself",
    "thou": "you",
    "thee": "you",
    "thy": "your",
    "thine": "yours",
    "hath": "has",
    "doth": "does",
    "ain't": "isn't",
    "'tis": "it is",
    "tis": "it is",
    "'twas": "it was",
    "twas": "it was",
    "o'": "of",
    "'em": "them",
    "wee": "small",
    "ken": "know",
    "reckon": "think",
    "mayhap": "maybe",
    "verily": "truly",
    "shan't": "won't",
    "naught": "nothing",
    "nowt": "nothing",
    "owt": "anything",
    "dinna": "don't",
    "canna": "can't",
    "cannae": "can't",
    "ere": "before",
    "yonder": "there",
    "howdy": "hello",
    "ahoy": "hello",
    "y'all": "you",
}


def neutralise(line: str, profile: Profile) -> str:
    """The plain twin of ``line``, "" where nothing in it marks the character."""
    twin = _japanese(line, profile) if profile.language == "ja" else _english(line, profile)
    twin = twin.strip()
    return twin if twin != line.strip() and any(char.isalnum() for char in twin) else ""


def plain_ending(ending: str) -> str:
    """What an ending is without its character: ですわ → です, ますもの → ます, ぴょん → nothing."""
    if ending in _PLAIN_JA:
        return _PLAIN_JA[ending]
    for stem in sorted(_STEMS, key=len, reverse=True):
        if ending.startswith(stem):
            return stem
    if ending.startswith("まして"):
        return "ました"
    for mark in sorted(_PLAIN_JA, key=len, reverse=True):
        if ending.endswith(mark):
            return ending.removesuffix(mark) + _PLAIN_JA[mark]
    return ""


def _japanese(line: str, profile: Profile) -> str:
    speech = profile.speech
    endings = [ending for ending in speech.endings if ending != plain_ending(ending)]
    for ending in sorted(endings, key=len, reverse=True):
        plain = plain_ending(ending)
        if ending.endswith(("の", "こと")):  # a question needs its か once the particle is gone
            line = re.sub(rf"{re.escape(ending)}(?=[？?])", f"{plain}か", line)
        line = line.replace(ending, plain)
    particles = "|".join(p for p in _PARTICLES if any(e.endswith(p) for e in endings))
    if particles:  # after stems that the profile does not list one by one
        stop = r"(?=[ねよ。！？!?…」\n]|$)"
        line = re.sub(rf"({'|'.join(_STEMS)})(?:{particles}){stop}", r"\1", line)
        if "わ" in particles:
            line = re.sub(rf"(?<=[いたるすん])わ{stop}", "", line)
    if mine := speech.first_person:
        line = line.replace(mine, "僕" if mine in ("私", "わたし") else "私")
    return line


def _english(line: str, profile: Profile) -> str:
    marks = {mark.strip(" ,.!?…").casefold() for mark in profile.speech.endings} - {""}
    twin = line
    for mark in sorted(marks | _PLAIN_EN.keys(), key=len, reverse=True):
        plain = _PLAIN_EN.get(mark, "")
        word = rf"(?<![\w’'-]){re.escape(mark).replace(chr(39), '[’' + chr(39) + ']')}(?![\w’'-])"
        if plain:
            twin = re.sub(word, plain, twin, flags=re.IGNORECASE)
        else:  # an address or a tag goes with its commas
            twin = re.sub(rf"\s*,\s*{word}(?=\s*[,.!?…;:]|$)", "", twin, flags=re.IGNORECASE)
            twin = re.sub(rf"{word}\s*,?\s*", "", twin, flags=re.IGNORECASE)
    twin = re.sub(r"\b(\w{3,})in[’'](?!\w)", r"\1ing", twin)
    twin = re.sub(r"\s+([,.!?;:])", r"\1", re.sub(r"\s{2,}", " ", twin)).strip(" ,;")
    twin = re.sub(r"([.!?]\s*)[.!?,]+", r"\1", twin)
    return re.sub(r"(^|[.!?]\s+)([a-z])", lambda m: m.group(1) + m.group(2).upper(), twin)
