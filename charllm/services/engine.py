"""One worker thread for each base model in memory: jobs run there one after another.

Adapter switching is not thread-safe, so nothing else touches a resident model. A model that is
idle is given back as soon as a run asks for the accelerator.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from charllm.core.catalog import EMBEDDED
from charllm.core.models import is_ready
from charllm.core.replying import Resident
from charllm.data.config import Paths
from charllm.data.errors import Text
from charllm.services import lease
from charllm.services.runs import list_runs

Job = Callable[["Engine"], None]
CHAT = Text("chat", "チャット")


class Engine:
    """A queue of jobs for one base model; the model loads at the first job that needs it."""

    def __init__(self, paths: Paths, model: str) -> None:
        self.paths = paths
        self.model = model
        self._resident: Resident | None = None
        self._lease: lease.Lease | None = None
        self._jobs: queue.Queue[Job] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name=f"chat-{model}", daemon=True)
        self._thread.start()

    @property
    def loaded(self) -> bool:
        return self._resident is not None

    def submit(self, job: Job) -> None:
        self._jobs.put(job)

    def resident(self, waiting: Callable[[Text], bool]) -> Resident | None:
        """The loaded model; called from a job only.

        ``waiting`` is told who holds the accelerator meanwhile and answers whether to go on.
        """
        while (preparing := self._preparing()) is not None:
            if not waiting(preparing):
                return None
            time.sleep(0.5)
        while self._lease is None:
            try:
                self._lease = lease.Lease(self.paths, CHAT).acquire()
            except lease.Busy as busy:
                if not waiting(busy.text):
                    return None
        if self._resident is None:
            self._resident = Resident(self.paths, self.model)
        return self._resident

    def _preparing(self) -> Text | None:
        """How far the embedded model's preparation is; None if it is ready or nobody is at it."""
        if self.model != EMBEDDED or is_ready(self.paths, EMBEDDED):
            return None
        for run in list_runs(self.paths):
            if run.kind == "model" and not (status := run.status()).ended_:
                share = f" {100 * status.progress.share:.0f} %" if status.progress.share else ""
                return Text(
                    f"Waiting for the embedded model to be prepared…{share}",
                    f"内蔵モデルの準備を待っています…{share}",
                )
        return None

    def _release(self) -> None:
        self._resident = None
        if self._lease is not None:
            self._lease.release()
            self._lease = None
        _empty_accelerator_cache()

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=1.0)
            except queue.Empty:
                if self._lease is not None and lease.wanted(self.paths):
                    self._release()
                continue
            job(self)


def _empty_accelerator_cache() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
