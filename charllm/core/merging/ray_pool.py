"""Several workers instead of one engine: the same candidates, the same journal, more of them a
minute.

``Pool`` hands calls to whichever worker is free and gives the answers back in order. A call whose
worker dies is made once more on another one; if that dies too, the call is given up, and a new
worker takes the place of each dead one. It does not know what the answers are for.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charllm.core.merging.coefficients import Coefficients
from charllm.core.merging.ray_cluster import Cluster, check_ray
from charllm.core.merging.ray_worker import Loaded, Worker
from charllm.core.merging.trial import Stage
from charllm.data.errors import Text, UserError
from charllm.data.progress import Paused, Reporter, Stopped

if TYPE_CHECKING:
    from charllm.core.merging.planning import Plan
    from charllm.core.merging.recipe import MergeRecipe

TRIES = 2
"""How many workers a call may cost."""
POLL_SECONDS = 0.5
ALONE_SECONDS = 1800.0
"""How long a search waits where no worker is left and Ray finds no place for a new one."""


@dataclass
class Call:
    """A method of a worker with its arguments, how often it was begun, and what it gave."""

    method: str
    arguments: tuple[Any, ...]
    tries: int = 0
    answered: bool = False
    answer: Any = None


@dataclass(frozen=True)
class Lost:
    """The answer to a call that no worker survived."""

    reason: Text


class Pool:
    """Workers with the same parents. In place of an engine it has what a search asks one for."""

    def __init__(
        self,
        plan: Plan,
        group_size: int,
        stage: Stage,
        workers: int,
        address: str,
        workspace: Path,
        reporter: Reporter,
    ) -> None:
        """Start and load all of them. ``UserError`` where that cannot be, ``Stopped`` when
        cancelled meanwhile."""
        check_room(plan, workers, address)
        self._reporter = reporter
        self._queue: deque[Call] = deque()
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, Call]] = {}
        self._loading: dict[Any, Any] = {}
        self._loaded: list[Loaded] = []
        self._last_seen = time.monotonic()
        self._cluster = Cluster(workspace, address, workers, plan.device)
        try:
            self._start = _starter(plan, group_size, stage)
            for _ in range(workers):
                self._begin()
            self._wait_for_all()
        except BaseException:  # also Ctrl+C: no worker may be left behind
            self.close()
            raise

    @property
    def processes(self) -> list[int]:
        """The process numbers of the workers that were loaded, the latest last."""
        return [one.pid for one in self._loaded]

    def recipe(self, genome: Coefficients) -> MergeRecipe:
        """The candidate as a recipe, from any worker. ``Paused`` where none survives it."""
        (answer,) = self.answers([Call("recipe", (genome,))])
        if isinstance(answer, Lost):
            raise Paused(answer.reason.en, answer.reason.ja)
        found: MergeRecipe = answer
        return found

    def answers(self, calls: Sequence[Call]) -> Iterator[Any]:
        """What each call gave, or ``Lost``, in the calls' order, as soon as it is there.

        May be called again before it has ended. ``Stopped`` when the run is cancelled, ``Paused``
        where no worker is left.
        """
        self._queue.extend(calls)
        try:
            for call in calls:
                while not call.answered:
                    self._pump()
                yield call.answer
        finally:
            ours = {id(call) for call in calls}
            self._queue = deque(call for call in self._queue if id(call) not in ours)

    def close(self) -> None:
        """End the workers, whatever they are doing, and Ray with them."""
        import ray

        for worker in self._everyone():
            ray.kill(worker)
        self._cluster.close()

    # ── workers ───────────────────────────────────────────────────────────────────────────────

    def _everyone(self) -> list[Any]:
        return [*self._idle, *(w for w, _ in self._busy.values()), *self._loading.values()]

    def _begin(self) -> None:
        worker = self._start()
        self._loading[worker.load.remote()] = worker

    def _wait_for_all(self) -> None:
        while self._loading:
            for error in self._pump():
                raise UserError(error.en, error.ja)
        first = self._loaded[0]
        self.groups, self.parents, self.batched = first.groups, first.parents, first.batched

    def _pump(self) -> list[Text]:
        """Hand out calls, wait a moment for answers; why workers could not be loaded."""
        import ray

        while self._idle and self._queue:
            worker, call = self._idle.pop(0), self._queue.popleft()
            call.tries += 1
            ref = getattr(worker, call.method).remote(*call.arguments)
            self._busy[ref] = (worker, call)
        self._check_alive()
        waited = [*self._busy, *self._loading]
        done, _ = ray.wait(waited, num_returns=len(waited), timeout=0)
        if not done:
            done, _ = ray.wait(waited, num_returns=1, timeout=POLL_SECONDS)
        if self._reporter.stop_requested() == "cancel":
            raise Stopped
        errors = [self._arrived(ref) for ref in done if ref in self._loading]
        for ref in done:
            if ref in self._busy:
                self._answered(ref)
        return [error for error in errors if error]

    def _check_alive(self) -> None:
        now = time.monotonic()
        if self._busy or self._idle:
            self._last_seen = now
        elif not self._loading or now - self._last_seen > ALONE_SECONDS:
            raise Paused(
                "No worker is left. Everything scored so far is kept; mend the cause (the log "
                "names it) and resume.",
                "動いているワーカーがなくなりました。採点済みの結果は残っています。"
                "ログで原因を確認し、取り除いてから再開してください。",
            )

    def _arrived(self, ref: Any) -> Text | None:
        """Take in a worker that has loaded, or say why it has not."""
        from ray import get
        from ray.exceptions import RayError

        worker = self._loading.pop(ref)
        try:
            found: Loaded | Text = get(ref)
        except RayError as error:
            found = Text(
                f"A worker could not load the parents: {_cause(error)}",
                f"ワーカーが親モデルを読み込めませんでした: {_cause(error)}",
            )
        if isinstance(found, Text):
            self._reporter.log(found.en)
            return found
        self._loaded.append(found)
        self._idle.append(worker)
        return None

    def _answered(self, ref: Any) -> None:
        """Keep an answer; where the worker died instead, try again or give up, and replace it."""
        from ray import get
        from ray.exceptions import RayError, RayTaskError

        worker, call = self._busy.pop(ref)
        try:
            call.answer, call.answered = get(ref), True
            self._idle.append(worker)
        except RayTaskError:  # a fault of ours: what can fail for a candidate comes as Failure
            self._idle.append(worker)
            raise
        except RayError as error:
            self._reporter.log(f"A worker died ({call.method}, try {call.tries}): {_cause(error)}")
            self._begin()
            if call.tries < TRIES:
                self._queue.appendleft(call)
            else:
                call.answer, call.answered = Lost(_lost(error)), True


def check_room(plan: Plan, workers: int, address: str) -> None:
    """``UserError`` where Ray is not installed or this machine has no room for so many workers; a
    cluster's room shows when it is joined."""
    from charllm.core.merging.planning import memory_at_hand

    check_ray(address)
    if address:
        return
    memory = memory_at_hand(plan.device)
    if plan.device == "cuda":
        import torch

        found, needed = torch.cuda.device_count(), plan.host_gb * workers
        if found < workers:
            raise UserError(
                f"workers: {workers} workers need a GPU each; this machine has {found}.",
                f"workers: ワーカーは1つにつき GPU を1枚使います。{workers} 個には足りません"
                f"（この PC には {found} 枚）。",
            )
    else:
        needed = plan.total_gb * workers
    if needed > memory.ram_gb:
        raise UserError(
            f"workers: {workers} workers hold the parents {workers} times, {needed:.1f} GB; "
            f"{memory.ram_gb:.1f} GB are free.",
            f"workers: ワーカー {workers} 個が親をそれぞれ読み込むため {needed:.1f} GB 必要です"
            f"（空きは {memory.ram_gb:.1f} GB）。",
        )


def _starter(plan: Plan, group_size: int, stage: Stage) -> Any:
    """A function that asks Ray for one more worker; what it needs is handed over only once."""
    import ray

    actor = ray.remote(Worker).options(
        num_cpus=1, num_gpus=1 if plan.device == "cuda" else 0, max_restarts=0, max_task_retries=0
    )
    shared = [ray.put(value) for value in (plan, group_size, stage)]
    return lambda: actor.remote(*shared)


def _cause(error: Exception) -> str:
    """Ray's explanation in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "exit type" in line] or lines
    return (told or [type(error).__name__])[-1][:300]


def _lost(error: Exception) -> Text:
    return Text(
        f"{TRIES} workers died of it: {_cause(error)}",
        f"ワーカーが {TRIES} 回続けて異常終了しました: {_cause(error)}",
    )
