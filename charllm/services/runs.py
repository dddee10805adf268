"""Run folders: what a long operation has written, read back by anyone at any time.

``workspace/runs/<kind>-<YYYYmmdd-HHMMSS>-<name>/`` holds ``config.yaml``, ``events.jsonl``,
``log.txt``, ``status.json``, ``result.json`` and, once somebody asked, ``stop``. Only the run's
own process writes events and progress; everyone else reads. A process is known by its number and
its start time, so a killed run shows as crashed and a reused number is never taken for it.
It does not know how runs are queued or started (``jobs``), nor what they do.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import psutil

from charllm.data.config import Config, Paths, load_yaml
from charllm.data.errors import Text, UserError
from charllm.data.files import check_slug, read_json, write_json, write_text
from charllm.data.progress import StopRequest
from charllm.services.manifest import FILE, Manifest, make_manifest

State = Literal["queued", "running", "stopping", "done", "paused", "failed", "cancelled", "crashed"]
LIVE: tuple[State, ...] = ("running", "stopping")
ENDED: tuple[State, ...] = ("done", "paused", "failed", "cancelled", "crashed")

START_SECONDS = 30.0
"""A started process that has not written its number for so long is taken to be dead."""

STALLED_SECONDS = 30.0

_ID = re.compile(r"(?P<kind>[a-z_]+)-(?P<time>\d{8}-\d{6})-(?P<name>.+)")


class Words(Config):
    """A ``Text`` as it lies in a file."""

    en: str = ""
    ja: str = ""

    @property
    def text(self) -> Text:
        return Text(self.en, self.ja)


class Progress(Config):
    """``done`` of ``total`` units; ``total`` 0 where the amount is not known."""

    done: float = 0.0
    total: float = 0.0
    message: Words = Words()

    @property
    def share(self) -> float | None:
        return min(1.0, self.done / self.total) if self.total > 0 else None


class Status(Config):
    """How a run stands. Times are seconds since 1970; ``seconds_left`` is an estimate.

    ``stopped`` says which stop request the stage has answered; a run that was stopped with "save"
    is done, and can be resumed. ``kept``: it was stopped before its end, and what it had done until
    then is saved.
    """

    state: State
    created: float
    queued: float
    started: float | None = None
    ended: float | None = None
    pid: int | None = None
    pid_started: float | None = None
    heartbeat: float | None = None
    progress: Progress = Progress()
    seconds_left: float | None = None
    stopped: StopRequest = ""
    kept: bool = False
    error: Words | None = None

    @property
    def live(self) -> bool:
        return self.state in LIVE

    @property
    def ended_(self) -> bool:
        """Nothing more happens by itself; ``ended`` is when that began."""
        return self.state in ENDED

    @property
    def resumable(self) -> bool:
        return self.state in ("paused", "failed", "cancelled", "crashed") or (
            self.state == "done" and self.stopped == "save"
        )

    @property
    def stalled(self) -> bool:
        """The process lives but its heartbeat does not: it is swapped out or stuck."""
        silent = time.time() - (self.heartbeat or self.started or self.queued)
        return self.live and silent > STALLED_SECONDS

    def seconds(self) -> float | None:
        """How long the last attempt has run, None before it starts."""
        return None if self.started is None else (self.ended or time.time()) - self.started


class Event(NamedTuple):
    """A line of ``events.jsonl``; ``n`` counts from 1 and goes on after a resume."""

    n: int
    time: float
    kind: str
    data: dict[str, Any]


class Cursor(NamedTuple):
    """Where a reader of events stands: the last event read, and the byte after it."""

    n: int = 0
    offset: int = 0


@dataclass(frozen=True)
class Run:
    """One run folder. Reading never changes it."""

    folder: Path

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def kind(self) -> str:
        return _parts(self.id)["kind"]

    @property
    def name(self) -> str:
        return _parts(self.id)["name"]

    @property
    def log_file(self) -> Path:
        return self.folder / "log.txt"

    def manifest(self) -> Manifest:
        path = self.folder / FILE
        return Manifest.from_data(load_yaml(path), str(path))

    def stored_status(self) -> Status:
        """What was last written, whether or not it still holds."""
        path = self.folder / "status.json"
        return Status.from_data(read_json(path), str(path))

    def write_status(self, status: Status) -> None:
        write_json(self.folder / "status.json", status.model_dump(mode="json"))

    def status(self) -> Status:
        """How the run stands now: a dead process shows as crashed, or cancelled if that was
        asked for; a living one that was asked to stop as stopping; a damaged status file as
        crashed, with the damage as its error."""
        try:
            return self._status_now()
        except UserError as error:  # one damaged folder must not hide or block all others
            made = self.folder.stat().st_mtime
            words = Words(en=error.text.en, ja=error.text.ja)
            return Status(state="crashed", created=made, queued=made, error=words)

    def _status_now(self) -> Status:
        stored = self.stored_status()
        if stored.state != "running":
            return stored
        if process_alive(stored):
            return stored.model_copy(update={"state": "stopping"}) if self.stop_asked() else stored
        stored = self.stored_status()  # it may have ended properly between the two looks
        if stored.state != "running":
            return stored
        state: State = "cancelled" if self.stop_asked() == "cancel" else "crashed"
        return stored.model_copy(
            update={"state": state, "ended": stored.heartbeat or stored.started}
        )

    def events(self, after: int = 0) -> list[Event]:
        """All events whose number is greater than ``after``."""
        return [event for event in self.poll()[0] if event.n > after]

    def poll(self, cursor: Cursor = Cursor()) -> tuple[list[Event], Cursor]:  # noqa: B008
        """Events since ``cursor`` and the cursor behind them; reads only what is new.

        A last line without a line end is still being written and is left for the next poll. A
        cursor that does not fit the file (it was made anew) starts again from the beginning.
        """
        path = self.folder / "events.jsonl"
        if not path.exists():
            return [], Cursor()
        with path.open("rb") as file:
            fits = file.seek(0, os.SEEK_END) >= cursor.offset
            file.seek(cursor.offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        events = _parse(whole) if fits else None
        if events is None or (events and events[0].n != cursor.n + 1):
            if cursor == Cursor():
                raise _broken(path)
            return self.poll()
        last = events[-1].n if events else cursor.n
        return events, Cursor(last, cursor.offset + len(whole))

    def result(self) -> dict[str, Any] | None:
        """What the stage has returned, None if it has not (yet)."""
        path = self.folder / "result.json"
        if not path.exists():
            return None
        value: dict[str, Any] = read_json(path)
        return value

    def log_tail(self, size: int = 16_000) -> str:
        """The end of the log, at most ``size`` bytes of it, from the start of a line."""
        if not self.log_file.exists():
            return ""
        with self.log_file.open("rb") as file:
            length = file.seek(0, os.SEEK_END)
            file.seek(max(0, length - size))
            text = file.read().decode("utf-8", "replace")
        return text if length <= size else text.partition("\n")[2]

    def stop_asked(self) -> StopRequest:
        try:
            asked = (self.folder / "stop").read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""
        return "cancel" if asked == "cancel" else "save"

    def ask_stop(self, how: StopRequest) -> None:
        """Leave the request for the stage's next safe point; "cancel" is never weakened."""
        if self.stop_asked() != "cancel":
            write_text(self.folder / "stop", how)

    def as_json(self) -> dict[str, Any]:
        """What the command line prints of a run."""
        status = self.status()
        return {
            "run": self.id,
            "kind": self.kind,
            "status": status.state,
            "progress": status.progress.model_dump(),
            "seconds_left": status.seconds_left,
            "stalled": status.stalled,
            "resumable": status.resumable,
            "created": status.created,
            "started": status.started,
            "ended": status.ended,
            "error": status.error.model_dump() if status.error else None,
            "folder": str(self.folder),
        }


def create_run(
    paths: Paths,
    kind: str,
    name: str,
    config: Config,
    *,
    function: str = "",
    accelerator: bool = False,
) -> Run:
    """A queued run in a folder of its own, complete before anyone can see it."""
    check_slug(name, "run name")
    manifest = make_manifest(paths, kind, name, config, function, accelerator)
    paths.runs.mkdir(parents=True, exist_ok=True)
    work = Run(Path(tempfile.mkdtemp(dir=paths.runs, prefix=".new-")))
    manifest.save(work.folder / FILE)
    now = time.time()
    work.write_status(Status(state="queued", created=now, queued=now))
    work.folder.chmod(0o755)
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(now))
    for number in range(1, 1000):
        ending = f"-{number}" if number > 1 else ""
        target = paths.runs / f"{kind}-{stamp}-{name}{ending}"
        if not target.exists():
            try:
                os.rename(work.folder, target)
            except OSError:  # another process took this very name since the look
                continue
            return Run(target)
    raise RuntimeError(f"a thousand runs called {kind}-{stamp}-{name}")


def list_runs(paths: Paths) -> list[Run]:
    """All runs, the newest first."""
    if not paths.runs.is_dir():
        return []
    found = [
        (match["time"], (item / FILE).stat().st_mtime_ns, Run(item))
        for item in paths.runs.iterdir()
        if (match := _ID.fullmatch(item.name)) and (item / "status.json").is_file()
    ]
    return [run for *_, run in sorted(found, key=lambda f: f[:2], reverse=True)]


def find_run(paths: Paths, name: str) -> Run:
    """The run with this id, or the only one whose id contains ``name``; else ``UserError``."""
    runs = list_runs(paths)
    exact = [run for run in runs if run.id == name]
    near = exact or [run for run in runs if name and name in run.id]
    if len(near) == 1:
        return near[0]
    if near:
        ids = ", ".join(run.id for run in near[:5])
        raise UserError(
            f"{name!r} fits {len(near)} runs: {ids}. Give more of the name.",
            f"「{name}」に当てはまる実行が {len(near)} 件あります: {ids}。"
            "もう少し詳しく書いてください。",
        )
    raise UserError(
        f"There is no run {name!r}. `runs list` shows all of them.",
        f"「{name}」という実行はありません。`runs list` で一覧が見られます。",
    )


def process_alive(status: Status) -> bool:
    """Whether the very process that the status names still runs."""
    if status.pid is None:
        return time.time() - (status.started or status.queued) < START_SECONDS
    return find_process(status.pid, status.pid_started) is not None


def find_process(pid: int, started: float | None) -> psutil.Process | None:
    """The living process with this number *and* start time; None if it is gone or a zombie."""
    try:
        process = psutil.Process(pid)
        # Two seconds: the clock that start times are counted from may be set by a little.
        same = started is None or abs(process.create_time() - started) < 2.0
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def _parts(run_id: str) -> dict[str, str]:
    match = _ID.fullmatch(run_id)
    if match is None:
        raise UserError(f"{run_id!r} is not a run.", f"「{run_id}」は実行の名前ではありません。")
    return match.groupdict()


def _parse(data: bytes) -> list[Event] | None:
    """The events in whole lines; None if they are not events, numbered without a gap."""
    events = []
    for line in data.splitlines():
        try:
            row = json.loads(line)
            events.append(Event(row["n"], row["time"], row["kind"], row["data"]))
        except (ValueError, KeyError, TypeError):
            return None
    in_order = all(event.n == events[0].n + i for i, event in enumerate(events))
    return events if in_order else None


def _broken(path: Path) -> UserError:
    return UserError(
        f"{path} was changed by hand or damaged: its lines are not numbered events.",
        f"{path} が書き換えられたか壊れています。番号の付いたイベントの行になっていません。",
    )
