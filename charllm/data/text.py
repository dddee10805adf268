"""Plain-text measures that need no model: normal form, n-grams, near-duplicates, script shares.

Everything here is deterministic and language-neutral; what counts as good or bad text is
decided elsewhere (the gate, the data checks).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

NEAR_DUPLICATE = 0.6
"""Jaccard overlap of character trigrams from which two lines count as near-duplicates."""

_NOT_WORD = re.compile(r"[\W_]+")
_JAPANESE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff々〆ー]")
_LATIN = re.compile(r"[A-Za-z]")


def normal_form(text: str) -> str:
    """NFKC, case-folded, without punctuation and spaces: what two spellings of one line share."""
    return _NOT_WORD.sub("", unicodedata.normalize("NFKC", text).casefold())


def ngrams(text: str, n: int) -> Counter[str]:
    """Character n-grams with their counts; a text shorter than n is its own single gram."""
    if len(text) < n:
        return Counter([text] if text else [])
    return Counter(text[i : i + n] for i in range(len(text) - n + 1))


def near_duplicates(
    texts: Sequence[str], against: Sequence[str] | None = None, threshold: float = NEAR_DUPLICATE
) -> list[tuple[int, int, float]]:
    """Pairs ``(i, j, overlap)`` whose trigram Jaccard overlap reaches ``threshold``.

    Without ``against``, pairs within ``texts`` with i < j; with it, i indexes ``texts`` and
    j ``against``. Overlap lies in [0, 1]; equal normal forms give 1.
    """
    left = [set(ngrams(normal_form(t), 3)) for t in texts]
    right = left if against is None else [set(ngrams(normal_form(t), 3)) for t in against]
    holders: dict[str, list[int]] = defaultdict(list)
    for j, grams in enumerate(right):
        for gram in grams:
            holders[gram].append(j)
    found = []
    for i, grams in enumerate(left):
        shared: Counter[int] = Counter()
        for gram in grams:
            shared.update(holders[gram])
        for j, common in shared.items():
            if against is None and j <= i:
                continue
            overlap = common / (len(grams) + len(right[j]) - common)
            if overlap >= threshold:
                found.append((i, j, overlap))
    return sorted(found)


def script_shares(text: str) -> dict[str, float]:
    """Shares in [0, 1] of Japanese and Latin letters among the letters of either script."""
    japanese, latin = len(_JAPANESE.findall(text)), len(_LATIN.findall(text))
    total = japanese + latin
    return {"ja": japanese / total, "en": latin / total} if total else {"ja": 0.0, "en": 0.0}


def first_lines(text: str, limit: int = 80) -> str:
    """One line of at most ``limit`` characters, for messages and lists."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def lines_of(texts: Iterable[str]) -> list[str]:
    """Non-empty lines, stripped, in order."""
    return [line.strip() for text in texts for line in text.splitlines() if line.strip()]
