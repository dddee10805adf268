"""Live scores: a thread that judges each reply after its text is complete, never before.

One scorer a profile is kept, made again when the profile or its dialogues change.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from charllm.core.judging.score import Judgement, Scorer, build_scorer
from charllm.data.config import Paths
from charllm.data.dialogue import dataset_path
from charllm.data.profile import load_profile, revision


class LiveScorer:
    """``submit`` returns at once; ``done`` is called in the scoring thread."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="score")
        self._scorers: dict[str, tuple[str, Scorer]] = {}

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
        self._pool.submit(self._scorer, slug)

    def _score(
        self,
        slug: str,
        question: str,
        reply: str,
        reason: str,
        done: Callable[[Judgement | Exception], Any],
    ) -> None:
        try:
            result: Judgement | Exception = self._scorer(slug).score(question, reply, reason)
        except Exception as error:  # a reply stays readable whatever its score does
            result = error
        done(result)

    def _scorer(self, slug: str) -> Scorer:
        """Only called in the pool's one thread, which makes scorers one after another."""
        dataset = dataset_path(self.paths, slug)
        changed = dataset.stat().st_mtime_ns if dataset.is_file() else 0
        mark = f"{revision(self.paths, slug)} {changed}"
        known = self._scorers.get(slug)
        if known is None or known[0] != mark:
            scorer = build_scorer(self.paths, load_profile(self.paths, slug))
            known = self._scorers[slug] = (mark, scorer)
        return known[1]
