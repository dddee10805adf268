"""The trial of a search whose candidates are made by a pool's workers.

Judging stays in this process, in the candidates' order, so that what a judge was asked before, and
what a verdict cost, is the same for any number of workers; it goes on beside their generating.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from charllm.core.merging.genome import Candidate
from charllm.core.merging.journal import Failure, Outcomes
from charllm.core.merging.ray_pool import Call, Lost
from charllm.core.merging.trial import Made, Trial
from charllm.data.queries import Split


class PoolTrial(Trial):
    """A trial whose candidates are made by a pool's workers: its ``engine`` is a ``Pool``."""

    engine: Any

    def many(
        self, candidates: Sequence[Candidate], queries: Sequence[str], split: Split
    ) -> Iterator[Outcomes | Failure]:
        """Results in the candidates' order. A judge that cannot go on pauses the search."""
        groups = list(self._groups(candidates, queries))
        waiting: deque[Future[list[Outcomes | Failure]]] = deque()
        with ThreadPoolExecutor(1) as beside:
            try:
                for group, made in zip(groups, self._everything(groups, queries), strict=True):
                    waiting.append(beside.submit(self._judged, group, made, queries))
                    while waiting and waiting[0].done():  # the workers are not kept waiting
                        yield from waiting.popleft().result()
                while waiting:
                    yield from waiting.popleft().result()
            finally:
                beside.shutdown(wait=False, cancel_futures=True)

    def _everything(
        self, groups: Sequence[Sequence[Candidate]], queries: Sequence[str]
    ) -> Iterator[list[Made | Failure]]:
        """What was made of each group; where its workers died, each candidate by itself."""
        calls = [Call("made", (group, queries)) for group in groups]
        for group, answer in zip(groups, self.engine.answers(calls), strict=True):
            if not isinstance(answer, Lost):
                yield answer
            elif len(group) == 1:
                yield [Failure(answer.reason)]
            else:
                alone = self._everything([[one] for one in group], queries)
                yield [one for made in alone for one in made]
