"""Relevance: whether a reply answers its question, by centred cosine of embeddings.

Raw cosines of such embedders lie within a few hundredths. So what a reply shares with every
question of the character, and a question with every reply, is subtracted (on our dialogues, true
against random pairs: AUC .88 and .89, raw .79 and .86), and the rest is placed between the
character's true and randomly paired dialogues. It finds off-the-point replies; it does not see
runaways, loops or recitals and likes an echo: the gate comes first. It does not check facts.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charllm.core.embedding import Embedder, embedder_key
from charllm.data.config import Config
from charllm.data.errors import UserError
from charllm.data.files import read_json, sha256, write_json
from charllm.data.profile import Profile

if TYPE_CHECKING:
    import numpy as np

MIN_PAIRS = 20
MAX_PAIRS = 160
"""More pairs no longer move the calibration, and each costs two embeddings."""
_REMEMBERED = 256


class Calibration(Config):
    """The mean question and reply, and how centred cosines of true and random pairs lie."""

    embedder: str
    data: str
    pairs: int
    mean_question: tuple[float, ...]
    mean_reply: tuple[float, ...]
    true_mean: float
    true_sd: float
    random_mean: float
    random_sd: float


class Relevance:
    """Scores question–reply pairs of one character. Safe in any thread."""

    def __init__(self, embedder: Embedder, calibration: Calibration) -> None:
        import numpy as np

        self._embedder = embedder
        self.calibration = calibration
        self._mean_question = np.array(calibration.mean_question, dtype=np.float32)
        self._mean_reply = np.array(calibration.mean_reply, dtype=np.float32)
        self._questions: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def fit(
        cls, pairs: Sequence[tuple[str, str]], embedder: Embedder, profile: Profile,
        folder: Path | None = None,
    ) -> Relevance:  # fmt: skip
        """Calibrate on the character's ``(question, reply)`` pairs.

        With ``folder``, the calibration is kept there and read again while the dialogues stay
        the same. ``UserError`` with fewer than ``MIN_PAIRS`` pairs.
        """
        clean = usable(pairs)
        if len(clean) < MIN_PAIRS:
            raise UserError(
                f"Relevance is not scored: {profile.name} has {len(clean)} dialogues, at least "
                f"{MIN_PAIRS} are needed in datasets/{profile.slug}.jsonl.",
                f"関連度は採点していません: {profile.name}の対話が{len(clean)}件しかありません。"
                f"datasets/{profile.slug}.jsonl に{MIN_PAIRS}件以上必要です。",
            )
        chosen = [clean[i * len(clean) // MAX_PAIRS] for i in range(MAX_PAIRS)]
        chosen = chosen if len(clean) > MAX_PAIRS else clean
        if folder is None:
            return cls(embedder, calibrate(chosen, embedder))
        path = folder / f"{profile.slug}-{embedder_key(embedder)}.json"
        return cls(embedder, _kept(path, embedder, chosen, lambda: calibrate(chosen, embedder)))

    def centred(self, query: str, reply: str) -> float:
        """The cosine without what the reply shares with every question, and the query with
        every reply: the inner product of both vectors' differences from their means.
        """
        said = self._embedder.embed_facts([reply])[0] - self._mean_reply
        return float(said @ (self._question(query) - self._mean_question))

    def score(self, query: str, reply: str) -> float:
        """0 (like a random pair) to 1 (like a true one); 0.5 half-way between the two.

        The chance of a true pair where both are as likely, for two normal distributions with the
        pooled standard deviation: a logistic curve of the centred cosine.
        """
        c = self.calibration
        middle = (c.true_mean + c.random_mean) / 2
        variance = (c.true_sd**2 + c.random_sd**2) / 2
        gap = max(c.true_mean - c.random_mean, 0.0)
        odds = (self.centred(query, reply) - middle) * gap / max(variance, 1e-9)
        return 1 / (1 + math.exp(-max(-30.0, min(30.0, odds))))

    def _question(self, query: str) -> np.ndarray[Any, Any]:
        """The question's vector; several columns answer the same one."""
        with self._lock:
            if query in self._questions:
                self._questions.move_to_end(query)
                return self._questions[query]
        vector = self._embedder.embed_queries([query])[0]
        with self._lock:
            self._questions[query] = vector
            while len(self._questions) > _REMEMBERED:
                self._questions.popitem(last=False)
        return vector


def usable(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The pairs that can be calibrated on, each once."""
    return list(dict.fromkeys((q, r) for q, r in pairs if q.strip() and r.strip()))


def calibrate(pairs: Sequence[tuple[str, str]], embedder: Embedder) -> Calibration:
    """The means, and how the true pairs and all other pairings are distributed."""
    import numpy as np

    questions = embedder.embed_queries([question for question, _ in pairs])
    replies = embedder.embed_facts([reply for _, reply in pairs])
    mean_question, mean_reply = questions.mean(axis=0), replies.mean(axis=0)
    similarity = (questions - mean_question) @ (replies - mean_reply).T
    true = np.diag(similarity)
    random = similarity[_strangers(pairs)]
    return Calibration(
        embedder=embedder.id,
        data=_pairs_hash(pairs),
        pairs=len(pairs),
        mean_question=tuple(mean_question.tolist()),
        mean_reply=tuple(mean_reply.tolist()),
        true_mean=float(true.mean()),
        true_sd=float(true.std()),
        random_mean=float(random.mean()),
        random_sd=float(random.std()),
    )


def _strangers(pairs: Sequence[tuple[str, str]]) -> np.ndarray[Any, Any]:
    """[n, n] mask: question of row i and reply of column j never stand together."""
    import numpy as np

    true = set(pairs)
    return np.array(
        [[(question, reply) not in true for _, reply in pairs] for question, _ in pairs]
    )


def _kept(
    path: Path,
    embedder: Embedder,
    pairs: Sequence[tuple[str, str]],
    make: Callable[[], Calibration],
) -> Calibration:
    """The calibration stored for exactly this embedder and data, else a new one, stored."""
    if path.is_file():
        try:
            stored = Calibration.from_data(read_json(path), str(path))
            if stored.embedder == embedder.id and stored.data == _pairs_hash(pairs):
                return stored
        except UserError:
            pass  # of another version, or broken: only a copy of what is made again here
    made = make()
    write_json(path, made.model_dump(mode="json"))
    return made


def _pairs_hash(pairs: Sequence[tuple[str, str]]) -> str:
    return sha256("\0".join(text for pair in pairs for text in pair).encode())
