"""The run's own process: runs one stage in its folder and writes down how it goes.

``python -m charllm run-stage FOLDER`` ends here. This is the one place that records a failed run.
A stage is a function ``(config, reporter, folder, paths) -> dict``; what it does is not known here.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import psutil

from charllm.data.config import Config, Paths
from charllm.data.errors import Text, UserError
from charllm.data.files import write_text
from charllm.data.progress import Paused, Reporter, Stopped, StopRequest
from charllm.services import lease
from charllm.services.manifest import Manifest, resolve
from charllm.services.redaction import RedactingStream, redact
from charllm.services.runs import Progress, Run, Status, Words

HEARTBEAT_SECONDS = 5.0
STATUS_SECONDS = 0.5
"""Progress may be reported at every step; the file is written at most twice a second."""

Stage = Callable[[Config, Reporter, Path, Paths], dict[str, Any]]


class Speed:
    """Seconds left, from how fast the last minute went; None until that can be known."""

    WINDOW = 60.0

    def __init__(self) -> None:
        self._total = 0.0
        self._samples: deque[tuple[float, float]] = deque()

    def seconds_left(self, done: float, total: float, now: float) -> float | None:
        """Take a sample and estimate. Another total, or going back, is another phase of the work.

        A resumed run starts at the units it has already, which are no measure of speed.
        """
        if total != self._total or (self._samples and done < self._samples[-1][1]):
            self._samples.clear()
            self._total = total
        if not self._samples or now - self._samples[-1][0] >= STATUS_SECONDS:
            self._samples.append((now, done))
        while len(self._samples) > 2 and now - self._samples[0][0] > self.WINDOW:
            self._samples.popleft()
        first_time, first_done = self._samples[0]
        if total <= 0 or done <= first_done or now <= first_time:
            return None
        return max(0.0, total - done) * (now - first_time) / (done - first_done)


class RunReporter:
    """Implements ``Reporter`` for a run folder, of which it is the only writer.

    A context manager: inside it, a thread keeps the heartbeat and SIGTERM is a request to save.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._lock = threading.RLock()
        self._written = 0.0
        self.answered: StopRequest = ""
        self._terminated = False
        self._closed = threading.Event()
        self._speed = Speed()
        self._events = (run.folder / "events.jsonl").open("a", buffering=1, encoding="utf-8")
        self._next = _cut_torn_line(run) + 1
        self.resumed = self._next > 1
        me = psutil.Process()
        self._status: Status = run.stored_status().model_copy(
            update={"state": "running", "pid": me.pid, "pid_started": me.create_time()}
        )
        self._save()
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        signal.signal(signal.SIGTERM, self._on_term)
        self._heart.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed.set()
        self._heart.join()
        self._events.close()

    def progress(self, done: float, total: float, message: Text) -> None:
        now = time.time()
        with self._lock:
            words = Words(en=redact(message.en), ja=redact(message.ja))
            changed = words != self._status.progress.message
            self._status = self._status.model_copy(
                update={
                    "progress": Progress(done=done, total=total, message=words),
                    "seconds_left": self._speed.seconds_left(done, total, now),
                }
            )
            if changed or done >= total or now - self._written >= STATUS_SECONDS:
                self._save()

    def event(self, kind: str, **data: Any) -> None:
        with self._lock:
            row = {"n": self._next, "time": time.time(), "kind": kind, "data": to_json(data)}
            self._events.write(redact(json.dumps(row, ensure_ascii=False)) + "\n")
            self._next += 1

    def log(self, line: str) -> None:
        print(time.strftime("%H:%M:%S"), line, flush=True)

    def stop_requested(self) -> StopRequest:
        asked = self.run.stop_asked() or ("save" if self._terminated else "")
        if asked and asked != self.answered:
            self.answered = asked
            self.event("stop", how=asked)
        return asked

    def finish(
        self, state: str, error: Text | None = None, *, user: bool = False, kept: bool = False
    ) -> None:
        """The last word on this attempt; ``user``: the error is the user's to mend; ``kept``: a
        stop came before its end, and what was done is saved."""
        with self._lock:
            words = Words(en=redact(error.en), ja=redact(error.ja)) if error else None
            self.event(state, **({"error": words.model_dump(), "user": user} if words else {}))
            self._status = self._status.model_copy(
                update={
                    "state": state,
                    "ended": time.time(),
                    "seconds_left": None,
                    "stopped": self.answered,
                    "kept": kept,
                    "error": words,
                }
            )
            self._save()
            self._closed.set()

    def _save(self) -> None:
        with self._lock:
            if self._closed.is_set():  # the status may be another attempt's by now
                return
            self._written = time.time()
            self._status = self._status.model_copy(update={"heartbeat": self._written})
            self.run.write_status(self._status)

    def _beat(self) -> None:
        while not self._closed.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):  # a disk that is full for a moment
                self._save()

    def _on_term(self, number: int, frame: FrameType | None) -> None:
        # Only a note: a handler that writes could interrupt the very write it needs.
        self._terminated = True


def run_stage(folder: Path, paths: Paths) -> int:
    """Run the stage that the folder's ``config.yaml`` names; 0 done, 2 the user's mistake, 1 ours.

    What is printed goes to the log, keys and passwords hidden.
    """
    run = Run(folder.resolve())
    stored = run.stored_status()
    if stored.pid is not None and stored.pid != os.getpid() and run.status().live:
        raise UserError(f"{run.id} is running already.", f"{run.id} はすでに実行中です。")
    with _redacted_output(), RunReporter(run) as reporter:
        try:
            result = _run(run, reporter, paths)
        except Stopped as stop:
            reporter.finish("cancelled", kept=stop.kept)
            return 0
        except Paused as pause:
            print(pause.text.en, flush=True)
            reporter.finish("paused", pause.text, user=True)
            return 2
        except UserError as error:
            print(error.text.en, flush=True)
            reporter.finish("failed", error.text, user=True)
            return 2
        except BaseException as error:  # whatever ends a stage, SystemExit too, must be recorded
            traceback.print_exc()
            reporter.finish("failed", _short(error))
            return 1
        if reporter.answered == "cancel":  # a stage may also return when it is told to cancel
            reporter.finish("cancelled")
            return 0
        text = json.dumps(to_json(result), ensure_ascii=False, indent=1)
        write_text(run.folder / "result.json", redact(text) + "\n")
        reporter.finish("done", kept=reporter.answered == "save")
        return 0


def _run(run: Run, reporter: RunReporter, paths: Paths) -> dict[str, Any]:
    manifest = run.manifest()
    reporter.event("started", pid=os.getpid(), resumed=reporter.resumed)
    stage: Stage = resolve(manifest.function)
    config = manifest.load_config(run.folder)
    with _accelerator(run, manifest, reporter, paths):
        return stage(config, reporter, run.folder, paths)


@contextlib.contextmanager
def _accelerator(
    run: Run, manifest: Manifest, reporter: RunReporter, paths: Paths
) -> Iterator[None]:
    """Hold the accelerator where the stage needs it; waiting for it can be stopped."""
    if not manifest.accelerator:
        yield
        return
    mine = lease.Lease(paths, Text(f"{manifest.kind} run {manifest.name}", f"実行 {run.id}"))
    try:
        while True:
            try:
                mine.acquire()
                break
            except lease.Busy as busy:
                en, ja = busy.holder
                message = Text(f"Waiting for the accelerator: {en}", f"{ja} の終了を待っています")
                reporter.progress(0, 0, message)
            if reporter.stop_requested():
                raise Stopped
        yield
    finally:
        mine.release()


@contextlib.contextmanager
def _redacted_output() -> Iterator[None]:
    """Everything that Python prints goes through the redaction, libraries' loggers included."""
    streams = sys.stdout, sys.stderr
    out, err = RedactingStream(streams[0]), RedactingStream(streams[1])
    sys.stdout, sys.stderr = out, err
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        out.finish()
        err.finish()


def to_json(value: Any) -> Any:
    """JSON-serialisable data: arrays' scalars as numbers, paths as text, NaN and infinity as null.

    JSON knows no NaN, and a browser refuses a line that holds one.
    """
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, Text):
        return value.as_json()
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Config):
        return to_json(value.model_dump(mode="json"))
    if hasattr(value, "tolist"):
        return to_json(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _short(error: BaseException) -> Text:
    what = f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]
    return Text(
        f"The program failed ({what}). The log has the details.",
        f"プログラムのエラーです（{what}）。詳しくはログを見てください。",
    )


def _cut_torn_line(run: Run) -> int:
    """Drop a line that a killed writer left unfinished; the number of the last whole event."""
    events, cursor = run.poll()
    os.truncate(run.folder / "events.jsonl", cursor.offset)
    return events[-1].n if events else 0
