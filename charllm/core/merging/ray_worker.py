"""A worker: one process with the parents resident, which makes candidates' replies and losses.

Ray starts it where there is room and calls its methods one at a time. It has no judge and no keys:
what it made goes back to the search, which has it judged.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from charllm.core.merging.coefficients import Coefficients
from charllm.core.merging.genome import Candidate
from charllm.core.merging.journal import Failure
from charllm.core.merging.trial import Made, Stage, Trial
from charllm.data.errors import Text, UserError
from charllm.data.progress import Silent

if TYPE_CHECKING:
    from charllm.core.merging.engines import Engine
    from charllm.core.merging.planning import Plan
    from charllm.core.merging.recipe import MergeRecipe


@dataclass(frozen=True)
class Loaded:
    """What a worker's engine has, as the search must know it; ``pid`` is the worker's process."""

    groups: list[str]
    parents: list[str]
    batched: bool
    pid: int


class Making(Trial):
    """The half of a trial that makes: nobody judges here."""

    def __init__(self, engine: Engine, stage: Stage) -> None:
        nobody: Any = None
        super().__init__(engine, stage, nobody, nobody, Silent())

    def made(self, group: Sequence[Candidate], queries: Sequence[str]) -> list[Made | Failure]:
        return self._make(group, queries)


class Worker:
    """What runs in the worker's process."""

    def __init__(self, plan: Plan, group_size: int, stage: Stage) -> None:
        self._plan, self._group_size, self._stage = plan, group_size, stage

    def load(self) -> Loaded | Text:
        """Load the parents; the words of the ``UserError`` where that cannot be."""
        import torch

        from charllm.core.merging.engines import open_engine

        if self._plan.device == "cpu":  # as many workers as cores, rather than threads
            torch.set_num_threads(1)
        try:
            self._engine = open_engine(self._plan, self._group_size)
        except UserError as error:
            return error.text
        self._making = Making(self._engine, self._stage)
        engine = self._engine
        return Loaded(list(engine.groups), list(engine.parents), engine.batched, os.getpid())

    def made(self, group: Sequence[Candidate], queries: Sequence[str]) -> list[Made | Failure]:
        """Replies and losses of candidates that are decoded together."""
        return self._making.made(group, queries)

    def recipe(self, genome: Coefficients) -> MergeRecipe:
        return self._engine.recipe(genome)
