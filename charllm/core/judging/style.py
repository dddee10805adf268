"""Style: how much a line sounds like one character, learnt from the character's own lines.

Character 1-4-grams (in English one and two words, whose marks are words) with logistic regression,
against what users say, what other characters of the same language say, and *neutralised twins*:
the character's own lines in plain words (``twins``). The twins make it a measure of style instead
of topic and length. It counts behind the gate only, knows nothing of sense or truth, and says more
about a set of replies than of one: some real lines ("うふふ") carry no mark at all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from charllm.core.judging.twins import neutralise
from charllm.data.errors import Language, UserError
from charllm.data.profile import Profile

if TYPE_CHECKING:
    import numpy as np

MIN_LINES = 20
"""Fewer own lines teach their topics rather than a style."""
CAP = 0.75
"""The quantile of the own lines' evidence that earns full marks; more marks earn nothing more."""
NGRAMS = (1, 4)
_WORTH_NAMING = 0.35
"""What gives less than this share of the strongest evidence is not named as a reason."""
_EDGES = " \n。、！？!?…,.;:'’"
_SPAM = re.compile(r"(.{2,12}?)\1+")
_WORD = re.compile(r"[\w']+|[.!?,;:]")


@dataclass(frozen=True)
class StyleModel:
    """Fitted weights in plain dictionaries: fast, and safe to read from any thread."""

    weights: Mapping[str, tuple[float, float]]
    """n-gram → (inverse document frequency, coefficient)."""
    bias: float
    cap: float
    markers: tuple[str, ...]
    lines: int
    language: Language

    @classmethod
    def fit(
        cls, lines: Sequence[str], contrast: Mapping[str, Sequence[str]], profile: Profile
    ) -> StyleModel:
        """Learn from the character's ``lines`` against ``contrast`` (group name → lines).

        The twins are made here. Every group weighs the same, together as much as ``lines``.
        Deterministic. ``UserError`` with fewer than ``MIN_LINES`` lines or nothing to contrast.
        """
        own = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
        if len(own) < MIN_LINES:
            raise UserError(
                f"Style is not scored: {profile.name} has {len(own)} lines of their own, at least "
                f"{MIN_LINES} are needed in datasets/{profile.slug}.jsonl.",
                f"口調は採点していません: {profile.name}の台詞が{len(own)}件しかありません。"
                f"datasets/{profile.slug}.jsonl に{MIN_LINES}件以上必要です。",
            )
        groups = with_twins(own, contrast, profile)
        if not groups:
            raise UserError(
                f"Style is not scored: nothing to compare {profile.name}'s lines with. Add "
                "user lines to the dialogues or speech marks to the profile.",
                f"口調は採点していません: {profile.name}の台詞と比べるものがありません。"
                "対話にユーザーの発言を加えるか、プロファイルに語尾を書いてください。",
            )
        return cls._fit(own, groups, profile)

    @classmethod
    def _fit(
        cls, own: Sequence[str], groups: Mapping[str, Sequence[str]], profile: Profile
    ) -> StyleModel:
        import numpy as np
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

        texts = [*own, *(line for group in groups.values() for line in group)]
        labels = np.array([1] * len(own) + [0] * (len(texts) - len(own)))
        share = len(own) / len(groups)
        balance = [1.0] * len(own) + [share / len(g) for g in groups.values() for _ in g]
        # binary: a mark counts once a line, however often it stands there
        vectors = TfidfVectorizer(analyzer=GRAMS[profile.language], binary=True, min_df=2)
        matrix = vectors.fit_transform(texts)
        model = LogisticRegression(C=30.0, max_iter=300)
        model.fit(matrix, labels, sample_weight=np.array(balance))
        pairs = zip(vectors.idf_.tolist(), model.coef_[0].tolist(), strict=True)
        weights = dict(zip(vectors.get_feature_names_out().tolist(), pairs, strict=True))
        evidence = model.decision_function(matrix[: len(own)])
        marks = tuple(filter(None, (*profile.speech.endings, profile.speech.first_person)))
        cap = max(float(np.quantile(evidence, CAP)), 1.0)
        bias = float(model.intercept_[0])
        return cls(weights, bias, cap, marks, len(own), profile.language)

    def evidence(self, text: str) -> float:
        """The log odds that the character says ``text``, as the classifier sees them."""
        known = [self.weights[g] for g in self._grams(text) if g in self.weights]
        norm = math.sqrt(sum(idf * idf for idf, _ in known)) or 1.0
        return self.bias + sum(idf * weight for idf, weight in known) / norm

    def score(self, text: str) -> float:
        """0 (does not sound like the character) to 1 (as marked as the character's usual line)."""
        return _sigmoid(min(self.evidence(text), self.cap)) / _sigmoid(self.cap)

    def explain(self, text: str, top: int = 3) -> list[str]:
        """What spoke most for the character, the strongest first, without overlaps.

        The profile's own marks come before other pieces of two to four characters.
        """
        grams = self._grams(text)
        gains = {g: self.weights[g][0] * self.weights[g][1] for g in grams & self.weights.keys()}
        within = {mark: {g for g in self._grams(mark) if "\n" not in g} for mark in self.markers}
        marks = {
            m: sum(gains.get(g, 0.0) for g in held) for m, held in within.items() if held <= grams
        }
        pieces: dict[str, float] = {}
        for gram, gain in gains.items():
            piece = gram.strip(_EDGES)
            if len(piece) > 1:
                pieces[piece] = max(gain, pieces.get(piece, 0.0))
        least = _WORTH_NAMING * max(pieces.values(), default=0.0)
        named = [mark for mark in _by_gain(marks) if marks[mark] > 0]
        named += [piece for piece in _by_gain(pieces) if pieces[piece] > max(least, 0.0)]
        chosen: list[str] = []
        for shown in named:
            if len(chosen) < top and not any(_overlap(shown, other) for other in chosen):
                chosen.append(shown)
        return chosen

    def _grams(self, text: str) -> set[str]:
        return set(GRAMS[self.language](text))


def _by_gain(gains: Mapping[str, float]) -> list[str]:
    return sorted(gains, key=lambda piece: (-gains[piece], -len(piece), piece))


def with_twins(
    own: Sequence[str], contrast: Mapping[str, Sequence[str]], profile: Profile
) -> dict[str, list[str]]:
    """The non-empty groups to contrast ``own`` with, the twins of ``own`` among them."""
    twins = [twin for line in own if (twin := neutralise(line, profile))]
    groups = {name: list(dict.fromkeys(group)) for name, group in contrast.items()}
    return {name: group for name, group in {**groups, "twins": twins}.items() if group}


def cross_validated_auc(
    lines: Sequence[str],
    contrast: Mapping[str, Sequence[str]],
    profile: Profile,
    folds: int = 5,
    seed: int = 0,
) -> dict[str, float]:
    """AUC of held-out own lines against each group's held-out lines, 0.5 chance to 1.

    A line and its twin lie in one fold, so that no twin of a training line is tested.
    """
    import numpy as np
    from sklearn.metrics import roc_auc_score

    own = list(dict.fromkeys(lines))
    random = np.random.default_rng(seed)
    fold_of = random.permutation(len(own)) % folds
    other_fold = {name: random.permutation(len(g)) % folds for name, g in contrast.items()}
    mine: list[float] = []
    theirs: dict[str, list[float]] = {}
    for fold in range(folds):
        rest = {n: _pick(g, other_fold[n] != fold) for n, g in contrast.items()}
        model = StyleModel.fit(_pick(own, fold_of != fold), rest, profile)
        tested = _pick(own, fold_of == fold)
        held = {n: _pick(g, other_fold[n] == fold) for n, g in contrast.items()}
        mine += [model.evidence(line) for line in tested]
        for name, group in with_twins(tested, held, profile).items():
            theirs.setdefault(name, []).extend(model.evidence(line) for line in group)
    return {
        name: float(roc_auc_score([1] * len(mine) + [0] * len(group), mine + group))
        for name, group in theirs.items()
    }


def _pick(lines: Sequence[str], mask: np.ndarray[Any, Any]) -> list[str]:
    return [line for line, keep in zip(lines, mask, strict=True) if keep]


def _characters(text: str) -> list[str]:
    """All 1- to 4-grams; a unit said several times in a row is read once."""
    return list(_all_grams(_SPAM.sub(r"\1", " ".join(text.split()))))


def _all_grams(text: str) -> Iterator[str]:
    # The end of the line is a sign of its own: endings are what matters.
    text = text.rstrip("。.") + "\n"
    for n in range(NGRAMS[0], NGRAMS[1] + 1):
        for i in range(len(text) - n + 1):
            yield text[i : i + n]


def _words(text: str) -> list[str]:
    """All words, marks of punctuation and pairs of them, both ends of the line being words too."""
    plain = _SPAM.sub(r"\1", " ".join(text.split())).casefold().replace("’", "'")
    words = ["\n", *_WORD.findall(plain), "\n"]
    return [*words, *(f"{one} {two}" for one, two in pairwise(words))]


GRAMS: dict[Language, Callable[[str], list[str]]] = {"ja": _characters, "en": _words}


def _overlap(one: str, other: str) -> bool:
    """Whether two pieces share a pair of characters: too alike to show both."""
    return any(one[i : i + 2] in other for i in range(len(one) - 1)) or one in other


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
