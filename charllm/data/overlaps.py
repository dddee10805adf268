"""Near-duplicates among many lines, exactly as ``text.near_duplicates`` finds them, but fast.

Two gram sets that share enough have to share one of their rarest grams, so only those are indexed
and looked up: no pair is missed, and common grams cost nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from math import ceil

from charllm.data.text import NEAR_DUPLICATE, ngrams, normal_form

_TINY = 1e-9
"""Against rounding: a pair at the threshold itself counts."""


def overlapping(
    texts: Sequence[str],
    against: Sequence[str] | None = None,
    threshold: float = NEAR_DUPLICATE,
    most: int = 0,
) -> list[tuple[int, int, float]]:
    """Pairs ``(i, j, overlap)`` as ``near_duplicates`` gives them; ``threshold`` lies in (0, 1].

    With ``most``, each text that is looked up is paired with at most so many others: within
    ``texts`` each j with earlier i, with ``against`` each i. That keeps thousands of equal lines
    from making millions of pairs.
    """
    left = [_grams(text) for text in texts]
    right = left if against is None else [_grams(text) for text in against]
    common = Counter(gram for grams in right for gram in grams)
    rank = _ranks(common)
    if against is None:
        pairs = [(i, j, share) for j, i, share in _within(_ranked(left, rank), threshold, most)]
    else:
        pairs = list(_across(_ranked(left, rank), _ranked(right, rank), threshold, most))
    return sorted(pairs)


def repeats(texts: Sequence[str], threshold: float = NEAR_DUPLICATE) -> dict[int, int]:
    """Which lines go if only the first of its like stays: ``{place: place of the one that stays}``.

    A line is compared with those that stay, so of a chain of ever smaller changes some remain.
    """
    texts_grams = [_grams(text) for text in texts]
    common = Counter(gram for grams in texts_grams for gram in grams)
    ranked = _ranked(texts_grams, _ranks(common))
    return {place: other for place, other, _ in _within(ranked, threshold, most=1, keep=False)}


def _grams(text: str) -> set[str]:
    return set(ngrams(normal_form(text), 3))


def _ranks(common: Counter[str]) -> dict[str, int]:
    """Rarest first; the gram itself makes the order the same for every text."""
    order = sorted(common.items(), key=lambda item: (item[1], item[0]))
    return {gram: place for place, (gram, _) in enumerate(order)}


def _ranked(texts: list[set[str]], rank: dict[str, int]) -> list[list[int]]:
    """Each text's grams as numbers, rarest first; grams that ``rank`` lacks are rarest of all."""
    unknown: dict[str, int] = {}
    ranked = []
    for grams in texts:
        numbers = [
            rank[gram] if gram in rank else unknown.setdefault(gram, -1 - len(unknown))
            for gram in grams
        ]
        ranked.append(sorted(numbers))
    return ranked


def _within(
    texts: list[list[int]], threshold: float, most: int, keep: bool = True
) -> Iterator[tuple[int, int, float]]:
    """Pairs ``(place, earlier place, overlap)``; without ``keep`` no later line is paired with one
    that has a pair itself."""
    index = _Index([frozenset(grams) for grams in texts], threshold)
    for place, grams in enumerate(texts):
        matches = list(index.matches(grams, index.sets[place], most))
        yield from ((place, other, share) for other, share in matches)
        if keep or not matches:
            index.add(place, grams)


def _across(
    left: list[list[int]], right: list[list[int]], threshold: float, most: int
) -> Iterator[tuple[int, int, float]]:
    index = _Index([frozenset(grams) for grams in right], threshold)
    for place, grams in enumerate(right):
        index.add(place, grams)
    for place, grams in enumerate(left):
        for other, share in index.matches(grams, frozenset(grams), most):
            yield place, other, share


class _Index:
    """Where the rarest grams of each text stand.

    Texts of a and b grams whose overlap reaches t share at least t / (1 + t) * (a + b) of them, and
    never more than what follows their first shared gram in either. That rules most pairs out
    before the sets are compared.
    """

    def __init__(self, sets: list[frozenset[int]], threshold: float) -> None:
        self.sets = sets
        self.threshold = threshold
        self._part = threshold / (1 + threshold)
        self._holders: dict[int, list[tuple[int, float]]] = defaultdict(list)

    def add(self, place: int, grams: list[int]) -> None:
        for passed, gram in enumerate(self._head(grams)):
            spare = len(grams) - passed - self._part * len(grams)
            self._holders[gram].append((place, spare))

    def _head(self, grams: list[int]) -> list[int]:
        """So many rarest grams hold a shared one, if the overlap reaches the threshold."""
        size = len(grams)
        return grams[: size - ceil(self.threshold * size - _TINY) + 1] if size else []

    def matches(
        self, grams: list[int], own: frozenset[int], most: int
    ) -> Iterator[tuple[int, float]]:
        size, sets, found = len(grams), self.sets, 0
        needed = self._part * size - _TINY
        seen: set[int] = set()
        for passed, gram in enumerate(self._head(grams)):
            longest = (size - passed + _TINY) / self._part - size
            for other, spare in self._holders.get(gram, ()):
                if spare < needed or other in seen:
                    continue
                seen.add(other)
                length = len(sets[other])
                if length > longest:
                    continue
                shared = len(own & sets[other])
                share = shared / (size + length - shared)
                if share >= self.threshold:
                    yield other, share
                    found += 1
                    if found == most:
                        return
