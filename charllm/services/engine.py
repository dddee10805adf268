"""One worker thread for each base model in memory: jobs run there one after another.

Adapter switching is not thread-safe, so nothing else touches a resident model. Between two jobs
the model is given back as soon as somebody else asks for the accelerator.
"""

from __future__ import annotations

import gc
import logging
import queue
import threading
import time
from collections.abc import Callable

from charllm.core.catalog import EMBEDDED
from charllm.core.models import is_ready
from charllm.core.replying import Resident
from charllm.core.variants import Quantization
from charllm.data.config import Paths
from charllm.data.errors import Text
from charllm.services import lease
from charllm.services.runs import list_runs

log = logging.getLogger(__name__)

Job = Callable[["Engine"], None]
CHAT = Text("chat", "チャット")
LOADING = Text("Loading the model…", "モデルを読み込んでいます…")


class Engine:
    """A queue of jobs for one base model; the model loads at the first job that needs it."""

    def __init__(self, paths: Paths, model: str, quantization: Quantization = "none") -> None:
        self.paths = paths
        self.model = model
        self.quantization: Quantization = quantization
        self._resident: Resident | None = None
        self._lease: lease.Lease | None = None
        self._jobs: queue.Queue[Job | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name=f"chat-{model}", daemon=True)
        self._thread.start()

    @property
    def loaded(self) -> bool:
        return self._resident is not None

    def submit(self, job: Job) -> None:
        self._jobs.put(job)

    def close(self, timeout: float = 10.0) -> None:
        """End after the jobs that are queued, and give the model back."""
        self._jobs.put(None)
        self._thread.join(timeout)

    def resident(self, waiting: Callable[[Text], bool]) -> Resident | None:
        """The loaded model; called from a job only.

        ``waiting`` is told what is waited for and answers whether to go on; None where it did not.
        """
        while (preparing := self._preparing()) is not None:
            if not waiting(preparing):
                return None
            time.sleep(0.5)
        if not self._borrow(waiting) or not waiting(LOADING):
            return None
        if self._resident is None:
            try:
                self._resident = Resident(self.paths, self.model, self.quantization)
            except BaseException:
                self._release()
                raise
        return self._resident

    def _borrow(self, waiting: Callable[[Text], bool]) -> bool:
        """Take the accelerator; one lease for the whole wait, since it keeps its place in line."""
        if self._lease is not None:
            return True
        asked = lease.Lease(self.paths, CHAT)
        while True:
            try:
                self._lease = asked.acquire()
                return True
            except lease.Busy as busy:
                if not waiting(busy.text):
                    asked.release()
                    return False

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

    def _work(self) -> None:
        while True:
            if self._lease is not None and lease.wanted(self.paths):
                self._release()
            try:
                job = self._jobs.get(timeout=1.0)
            except queue.Empty:
                continue
            if job is None:
                break
            try:
                job(self)
            except Exception:  # a job records its own errors; this one must not end all later ones
                log.exception("a job of the chat failed")
            del job
        self._release()

    def _release(self) -> None:
        """Forget the model, then let the next one have the accelerator."""
        if self._resident is not None:
            self._resident = None
            gc.collect()  # its hooks and the model refer to each other
            _empty_accelerator_cache()
        if self._lease is not None:
            self._lease.release()
            self._lease = None


def _empty_accelerator_cache() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
