"""Which kinds of run there are, and their queue: submit, start the next, stop, resume, delete.

The queue is what lies in the run folders, so it survives any process: whoever calls ``tick``
starts what is due. Runs that need the accelerator go one at a time, the others at once. A run is a
process of its own and outlives the one that started it.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from charllm.data.config import ROOT, Config, Paths
from charllm.data.errors import Text, UserError
from charllm.data.files import SLUG
from charllm.data.locking import FileLock
from charllm.data.progress import StopRequest
from charllm.services.manifest import resolve
from charllm.services.runs import (
    Cursor,
    Event,
    Run,
    Status,
    Words,
    create_run,
    find_process,
    list_runs,
)

CANCEL_SECONDS = 20.0
"""A cancelled run that has reached no safe point for so long is killed."""

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Kind:
    """``config`` and ``function`` are dotted paths ``package.module:name``, loaded when needed.

    A configuration's own ``accelerator`` says whether this run needs one, where runs differ.
    """

    config: str
    function: str
    accelerator: bool
    label: Text


KINDS: dict[str, Kind] = {
    "model": Kind(
        "charllm.core.conversion:ModelConfig",
        "charllm.core.conversion:run_model",
        True,
        Text("Prepare a model", "モデルの準備"),
    ),
    "index": Kind(
        "charllm.core.retrieval:IndexConfig",
        "charllm.core.retrieval:run_index",
        False,
        Text("Index facts", "事実の索引"),
    ),
    "calibrate": Kind(
        "charllm.core.calibration:CalibrateConfig",
        "charllm.core.calibration:run_calibrate",
        False,
        Text("Calibrate retrieval", "検索の調整"),
    ),
    "train": Kind(
        "charllm.core.training_config:TrainConfig",
        "charllm.core.training:run_train",
        True,
        Text("Train", "学習"),
    ),
    "filter": Kind(
        "charllm.core.filtering:FilterConfig",
        "charllm.services.filtering:run_filter",
        False,
        Text("Filter data", "データの選別"),
    ),
    "quality": Kind(
        "charllm.core.judging.quality:QualityConfig",
        "charllm.core.judging.quality:run_quality",
        False,
        Text("Check a judge", "ジャッジの検査"),
    ),
    "evaluate": Kind(
        "charllm.core.evaluation.evaluate_config:EvaluateConfig",
        "charllm.services.evaluated:run_evaluate",
        True,
        Text("Evaluate", "評価"),
    ),
    "rejudge": Kind(
        "charllm.services.evaluate_again:RejudgeConfig",
        "charllm.services.evaluate_again:run_rejudge",
        False,
        Text("Judge again", "再採点"),
    ),
    "interview": Kind(
        "charllm.core.evaluation.interview_config:InterviewConfig",
        "charllm.core.evaluation.interviewing:run_interview",
        True,
        Text("Interview", "インタビュー"),
    ),
    "export": Kind(
        "charllm.core.exporting:ExportConfig",
        "charllm.core.exporting:run_export",
        False,
        Text("Export", "書き出し"),
    ),
    "evolve": Kind(
        "charllm.core.merging.evolve_config:EvolveConfig",
        "charllm.core.merging.evolving:run_evolve",
        True,
        Text("Evolve a merge", "進化的マージ"),
    ),
    "merge": Kind(
        "charllm.core.merging.blend:MergeConfig",
        "charllm.core.merging.blend:run_merge",
        True,
        Text("Merge", "マージ"),
    ),
}


def find_kind(kind: str) -> Kind:
    if kind not in KINDS:
        known = ", ".join(KINDS)
        raise UserError(
            f"There is no kind of run {kind!r}. Known: {known}.",
            f"「{kind}」という種類の実行はありません。あるもの: {known}。",
        )
    return KINDS[kind]


def config_class(kind: str) -> type[Config]:
    """The configuration class of a kind of run."""
    found: type[Config] = resolve(find_kind(kind).config)
    return found


def submit(paths: Paths, kind: str, name: str, config: Config) -> Run:
    """Queue a run; it starts at the next ``tick`` that finds its turn has come."""
    known = find_kind(kind)
    accelerator = getattr(config, "accelerator", known.accelerator)
    return create_run(paths, kind, name, config, function=known.function, accelerator=accelerator)


def prepare_embedded(paths: Paths) -> Run | None:
    """Queue the embedded model's conversion if it is due and nobody has; else None."""
    from charllm.core.catalog import EMBEDDED
    from charllm.core.models import ModelConfig, embedded_available, is_ready

    if is_ready(paths, EMBEDDED) or not embedded_available():
        return None
    if any(run.kind == "model" and not run.status().ended_ for run in list_runs(paths)):
        return None
    return submit(paths, "model", EMBEDDED, ModelConfig(model=EMBEDDED))


def tick(paths: Paths) -> list[Run]:
    """Start what is due and kill what was cancelled but does not end; the runs started.

    Any process may call this at any time. If another one is at it, nothing is done.
    """
    lock = queue_lock(paths)
    if not lock.try_acquire():
        return []
    try:
        return _tick(paths)
    finally:
        lock.release()


def _tick(paths: Paths) -> list[Run]:
    states = [(run, run.status()) for run in list_runs(paths)]
    live = [run for run, status in states if status.live]
    for run in live:
        _kill_if_overdue(run)
    queued = sorted(
        ((status.queued, run) for run, status in states if status.state == "queued"),
        key=lambda item: item[0],
    )
    if not queued:
        return []
    busy = any(_needs_accelerator(run) for run in live)
    started = []
    for _, run in queued:
        accelerator = _needs_accelerator(run)
        if not (accelerator and busy):
            _start(paths, run)
            started.append(run)
            busy = busy or accelerator
    return started


def start_scheduler(paths: Paths, stop: threading.Event, seconds: float = 1.0) -> threading.Thread:
    """A thread that ticks until ``stop`` is set; for a server that lives long."""

    def work() -> None:
        while not stop.wait(seconds):
            try:
                tick(paths)
            except Exception:  # a full disk must not end the queue for good
                logging.getLogger(__name__).exception("the queue could not be looked after")

    thread = threading.Thread(target=work, name="scheduler", daemon=True)
    thread.start()
    return thread


def run_now(
    paths: Paths,
    kind: str,
    config: Config,
    on_event: Callable[[Event], None] | None = None,
    *,
    name: str = "",
    on_status: Callable[[Status], None] | None = None,
) -> Run:
    """Submit a run and follow it to its end, as the command line does."""
    return follow(
        paths, submit(paths, kind, name or default_name(config), config), on_event, on_status
    )


def follow(
    paths: Paths,
    run: Run,
    on_event: Callable[[Event], None] | None = None,
    on_status: Callable[[Status], None] | None = None,
) -> Run:
    """Tick and report until the run has ended. The first Ctrl+C asks it to save, the second to
    cancel; the run is never left to itself without a request."""
    cursor = run.poll()[1] if run.status().state == "queued" else Cursor()
    while True:
        try:
            tick(paths)
            status = run.status()
            events, cursor = run.poll(cursor)
            for event in events if on_event else ():
                on_event(event)  # type: ignore[misc]
            if on_status:
                on_status(status)
            if status.ended_:
                return run
            time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            if not run.status().ended_:
                stop(paths, run, "cancel" if run.stop_asked() else "save")


def default_name(config: Config) -> str:
    """What a run is called where nobody has said so: after its output or its profile."""
    for field in ("name", "profile", "slug", "model"):
        value = getattr(config, field, None)
        if isinstance(value, str) and SLUG.fullmatch(value):
            return value
    return "run"


def stop(paths: Paths, run: Run, how: StopRequest = "save") -> None:
    """Ask a run to end: "save" keeps what it can, "cancel" drops it.

    A queued run is cancelled at once. A running one ends at its next safe point; a cancelled one
    is killed by a later ``tick`` if it does not. ``UserError`` if it has ended already.
    """
    with queue_lock(paths).hold():
        status = run.status()
        if status.ended_:
            raise UserError(
                f"{run.id} has ended already ({status.state}).",
                f"{run.id} はすでに終わっています（{status.state}）。",
            )
        if status.state == "queued":
            ended = {"state": "cancelled", "ended": time.time()}
            run.write_status(status.model_copy(update=ended))
        else:
            run.ask_stop(how or "save")


def resume(paths: Paths, run: Run) -> Run:
    """Queue an ended run again, in the same folder; its stage goes on from what it finds there."""
    with queue_lock(paths).hold():
        status = run.status()
        if not status.resumable:
            raise UserError(
                f"{run.id} cannot be resumed: it is {status.state}.",
                f"{run.id} は再開できません（状態: {status.state}）。",
            )
        (run.folder / "stop").unlink(missing_ok=True)
        (run.folder / "result.json").unlink(missing_ok=True)
        fresh = Status(state="queued", created=status.created, queued=time.time())
        run.write_status(fresh.model_copy(update={"progress": status.progress}))
    return run


def delete(paths: Paths, run: Run) -> None:
    """Remove a run's folder; what it has published stays. Refused while it may still write."""
    with queue_lock(paths).hold():
        if run.status().live:
            raise UserError(
                f"{run.id} is still running. Stop it first.",
                f"{run.id} はまだ実行中です。先に停止してください。",
            )
        bin_ = paths.runs / f".deleted-{run.id}"
        os.replace(run.folder, bin_)
        shutil.rmtree(bin_)


def _needs_accelerator(run: Run) -> bool:
    try:
        return run.manifest().accelerator
    except UserError:  # its process will say what is damaged; until then it takes no risk
        return True


def queue_lock(paths: Paths) -> FileLock:
    """Held, no run is started, stopped or deleted."""
    return FileLock(paths.workspace / "queue.lock")


def _start(paths: Paths, run: Run) -> None:
    """Start the run's process; its output goes to the log file, never to a pipe."""
    now = time.time()
    status = run.stored_status().model_copy(
        update={"state": "running", "started": now, "heartbeat": now}
    )
    run.write_status(status)
    search = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(search),
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
        "CHARLLM_ROOT": str(paths.root),
        "CHARLLM_HOME": str(paths.workspace),
    }
    try:
        with run.log_file.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "charllm", "run-stage", str(run.folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=paths.root,
                env=environment,
            )
    except OSError as error:
        _fail(run, Text(f"Could not be started: {error}.", f"開始できませんでした: {error}。"))
        return
    threading.Thread(target=_reap, args=(process, run, now), daemon=True).start()


def _reap(process: subprocess.Popen[bytes], run: Run, started: float) -> None:
    """Collect the ended child, and say so if it died before it could write a word.

    ``started`` tells its attempt from a later one: the run may have been resumed meanwhile.
    """
    process.wait()
    if not run.folder.exists():
        return
    status = run.stored_status()
    if status.state == "running" and status.pid is None and status.started == started:
        _fail(run, Text("Ended at once: see the log.", "すぐに終了しました。ログを見てください。"))


def _fail(run: Run, why: Text) -> None:
    ended = {"state": "failed", "ended": time.time(), "error": Words(en=why.en, ja=why.ja)}
    run.write_status(run.stored_status().model_copy(update=ended))


def _kill_if_overdue(run: Run) -> None:
    """SIGKILL for a run, and what it has started, whose cancellation is long overdue."""
    if run.stop_asked() != "cancel":
        return
    asked = (run.folder / "stop").stat().st_mtime
    status = run.stored_status()
    if time.time() - asked < CANCEL_SECONDS or status.pid is None:
        return
    process = find_process(status.pid, status.pid_started)
    if process is not None:
        for one in [*process.children(recursive=True), process]:
            try:
                one.kill()
            except psutil.NoSuchProcess:  # it ended between the look and the blow
                continue
