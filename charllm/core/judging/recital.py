"""Whether a reply recites the profile: several facts strung together, or the instructions.

A fact counts as told when most of what is particular to it (its rarer character pairs or words)
stands in the reply, whatever the wording around it. It does not know whether the facts are the
ones that were asked for: naming one or two, or three in a short introduction, is no recital.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict

from charllm.data.profile import Profile
from charllm.data.text import normal_form

TOLD = 0.6
"""Share of a fact's weight that must stand in the reply."""
STRUNG = 4
STRUNG_IF_LONG = 3
"""So many facts are a recital in a reply of more than twice the length asked for."""
COPIED = 3
"""So many sentences that are a fact word for word, without the character's voice."""

_RUNS = re.compile(r"[\u30a0-\u30ff\u3400-\u9fff々ー]+|[0-9]+|[a-z]{3,}")
_SENTENCES = re.compile(r"[^。！？!?\n]+|\n")
_WORDS_EN = re.compile(r"[a-z0-9']{3,}")
_FRAME_WORDS = """
the and his her him was were has had have for with from that this but not are she they its their
into once who whom would when then than out about always never every your you
"""
_COMMON_EN = frozenset(_FRAME_WORDS.split())


class Recital:
    """What is particular to each fact of a profile, and the runs of its instructions."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._english = profile.language == "en"
        units = [self._units(fact) for fact in profile.facts]
        holders = Counter(unit for fact in units for unit in fact)
        self._weights = [{unit: 1 / holders[unit] for unit in fact} for fact in units]
        self._facts_of: dict[str, list[int]] = defaultdict(list)
        for number, fact in enumerate(units):
            for unit in fact:
                self._facts_of[unit].append(number)
        self._verbatim = frozenset(map(normal_form, profile.facts))
        self._run = 40 if self._english else 20
        self._instructions = frozenset(
            form[i : i + self._run]
            for text in _instructions(profile)
            for form in [normal_form(text)]
            for i in range(len(form) - self._run + 1)
        )

    def facts_strung(self, text: str) -> int:
        """How many facts ``text`` strings together; 0 where that is no recital."""
        copied = {normal_form(s.lstrip("・-* ")) for s in _SENTENCES.findall(text)}
        verbatim = len({form for form in copied if len(form) >= 5} & self._verbatim)
        if verbatim >= COPIED:
            return verbatim
        told = self._told(text)
        long = len(text) > 2 * self._profile.reply_length
        return told if told >= (STRUNG_IF_LONG if long else STRUNG) else 0

    def recites_prompt(self, text: str) -> bool:
        """Whether a long run of the persona or of a system prompt stands in ``text``."""
        form = normal_form(text)
        return any(
            form[i : i + self._run] in self._instructions for i in range(len(form) - self._run + 1)
        )

    def _told(self, text: str) -> int:
        """The number of facts told, each part of the reply counting for one fact only."""
        left = set(self._units(text))
        candidates = {n for unit in left for n in self._facts_of.get(unit, ())}
        told = 0
        while candidates:
            shares = {n: self._share(n, left) for n in candidates}
            candidates = {n for n, share in shares.items() if share >= TOLD}
            if not candidates:
                break
            best = max(candidates, key=lambda n: (shares[n], len(self._weights[n]), -n))
            told += 1
            left -= self._weights[best].keys()
            candidates.discard(best)
        return told

    def _share(self, number: int, units: set[str]) -> float:
        weights = self._weights[number]
        total = sum(weights.values())
        return sum(w for unit, w in weights.items() if unit in units) / total if total else 0.0

    def _units(self, text: str) -> set[str]:
        """What a fact is recognised by: words in English, character pairs of what is not kana."""
        if self._english:
            words = _WORDS_EN.findall(text.casefold())
            return {word for word in words if word not in _COMMON_EN}
        return {
            run[i : i + 2]
            for run in _RUNS.findall(text.casefold())
            for i in range(max(1, len(run) - 1))
        }


def _instructions(profile: Profile) -> list[str]:
    prompts = [p for s in profile.system_prompts.values() for p in (s.plain, s.rag)]
    return [part for text in (profile.persona, *prompts) for part in text.split("{facts}")]
