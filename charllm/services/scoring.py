"""Live scores: a thread that judges each reply after its text is complete, never before.

One scorer a profile is kept, made again when the profile changes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from charllm.core.judging.score import Judgement, Scorer, build_scorer
from charllm.data.config import Paths
from charllm.data.profile import load_profile, revision


class LiveScorer:
    """``submit`` returns at once; ``done`` is called in the scoring thread."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="score")
        self._scorers: dict[tuple[str, str], Scorer] = {}
        self._lock = threading.Lock()

    def submit(
        self,
        slug: str,
        question: str,
        reply: str,
        reason: str,
        done: Callable[[Judgement | Exception], Any],
    ) -> None:
        self._pool.submit(self._score, slug, question, reply, reason, done)

    def warm(self, slug: str) -> None:
        """Make the profile's scorer while its replies are still being written."""
        self._pool.submit(self.scorer, slug)

    def _score(
        self,
        slug: str,
        question: str,
        reply: str,
        reason: str,
        done: Callable[[Judgement | Exception], Any],
    ) -> None:
        try:
            result: Judgement | Exception = self.scorer(slug).score(question, reply, reason)
        except Exception as error:  # a reply stays readable whatever its score does
            result = error
        done(result)

    def scorer(self, slug: str) -> Scorer:
        with self._lock:
            key = (slug, revision(self.paths, slug))
            if key not in self._scorers:
                self._scorers = {k: v for k, v in self._scorers.items() if k[0] != slug}
                self._scorers[key] = build_scorer(self.paths, load_profile(self.paths, slug))
            return self._scorers[key]
