"""The queue, with real child processes: start, stop, kill -9, resume, the accelerator's lease."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_stage import ToyConfig

from charllm.data.config import ROOT, Paths
from charllm.data.errors import Text, UserError
from charllm.services import jobs, lease
from charllm.services.runs import Event, Run, Status, find_process
from charllm.ui.runs_tab import state_text

SECONDS = 30.0


@pytest.fixture(autouse=True)
def toy_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two kinds whose stage is the toy; the child finds it by PYTHONPATH."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    for name, accelerator in (("toy", False), ("heavy", True)):
        kind = jobs.Kind("toy_stage:ToyConfig", "toy_stage:run_toy", accelerator, Text(name, name))
        monkeypatch.setitem(jobs.KINDS, name, kind)


def wait(paths: Paths, condition: Callable[[], object], what: str, *, tick: bool = True) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"timed out: {what}"
        if tick:
            jobs.tick(paths)
        time.sleep(0.05)


def counted(run: Run) -> int:
    file = run.folder / "counted.txt"
    return len(file.read_text()) if file.exists() else 0


def end(paths: Paths, run: Run) -> Status:
    wait(paths, lambda: run.status().ended_, f"{run.id} ends: {run.log_tail()}")
    return run.status()


def kill(run: Run) -> None:
    pid = run.stored_status().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def test_a_run_in_the_foreground_tells_everything(paths: Paths) -> None:
    events: list[Event] = []
    statuses: list[Status] = []
    run = jobs.run_now(paths, "toy", ToyConfig(), events.append, on_status=statuses.append)
    assert run.status().state == "done", run.log_tail()
    assert run.name == "toy"
    kinds = [event.kind for event in events]
    assert kinds == ["started", "metric", "metric", "metric", "done"]
    assert [event.n for event in events] == [1, 2, 3, 4, 5]
    assert events[1].data == {"step": 1, "loss": None}, "JSON has no NaN"
    result = run.result()
    assert result is not None and result["steps"] == 3
    assert Path(result["root"]) == paths.root and Path(result["home"]) == paths.workspace
    status = run.status()
    assert status.progress.share == 1.0 and status.progress.message.ja == "ステップ3"
    assert status.started and status.ended and status.seconds() and status.seconds_left is None
    assert statuses[-1].ended_
    with pytest.raises(UserError, match="cannot be resumed"):
        jobs.resume(paths, run)
    with pytest.raises(UserError, match="ended already"):
        jobs.stop(paths, run)


def test_kill_9_shows_as_crashed_and_resumes(paths: Paths) -> None:
    run = jobs.submit(paths, "toy", "long", ToyConfig(steps=400, pause=0.05))
    wait(paths, lambda: counted(run) >= 3, "it counts")
    assert run.status().state == "running"
    kill(run)
    wait(paths, lambda: run.status().state == "crashed", "it shows as crashed", tick=False)
    before = run.events()
    had = counted(run)
    # the same folder goes on, with fewer steps left to count than a whole test would take
    (run.folder / "counted.txt").write_text("x" * 398)
    assert had < 398
    jobs.resume(paths, run)
    assert run.status().state == "queued"
    assert end(paths, run).state == "done", run.log_tail()
    result = run.result()
    assert result is not None and result["first"] == 398
    events = run.events()
    assert events[: len(before)] == before
    assert [event.n for event in events] == list(range(1, len(events) + 1))
    started = [event for event in events if event.kind == "started"]
    assert [event.data["resumed"] for event in started] == [False, True]


def test_stop_and_save_then_resume(paths: Paths) -> None:
    run = jobs.submit(paths, "toy", "saved", ToyConfig(steps=30, pause=0.05))
    wait(paths, lambda: counted(run) >= 2, "it counts")
    jobs.stop(paths, run, "save")
    status = end(paths, run)
    assert (status.state, status.stopped) == ("done", "save") and status.resumable
    assert state_text(status) == Text("stopped, kept", "停止（保存済み）")
    result = run.result()
    assert result is not None and result["steps"] < 30
    jobs.resume(paths, run)
    assert run.result() is None, "an unfinished run shows no old result"
    status = end(paths, run)
    assert status.stopped == "" and state_text(status).en == "done"
    assert counted(run) == 30


def test_what_is_left_of_an_attempt_does_not_touch_the_next(paths: Paths) -> None:
    """The old process is still ending while the resumed run is being started."""
    run = jobs.submit(paths, "toy", "again", ToyConfig())
    attempt = run.stored_status().model_copy(update={"state": "running", "started": time.time()})
    run.write_status(attempt)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    jobs._reap(ended, run, started=1000.0)
    assert run.stored_status() == attempt
    jobs._reap(ended, run, started=attempt.started or 0.0)
    assert run.stored_status().state == "failed", "this attempt's own process died without a word"


def test_sigterm_is_a_request_to_save(paths: Paths) -> None:
    run = jobs.submit(paths, "toy", "term", ToyConfig(steps=400, pause=0.05))
    wait(paths, lambda: counted(run) >= 2, "it counts")
    pid = run.stored_status().pid
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    status = end(paths, run)
    assert (status.state, status.stopped) == ("done", "save")


def test_cancel_drops_and_a_deaf_stage_is_killed(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    polite = jobs.submit(paths, "toy", "polite", ToyConfig(steps=400, pause=0.05))
    deaf = jobs.submit(paths, "toy", "deaf", ToyConfig(steps=400, pause=0.05, deaf=True))
    wait(paths, lambda: counted(polite) and counted(deaf), "both count")
    jobs.stop(paths, polite, "cancel")
    status = end(paths, polite)
    assert (status.state, state_text(status).en) == ("cancelled", "cancelled")
    assert polite.result() is None
    jobs.stop(paths, deaf, "save")
    monkeypatch.setattr(jobs, "CANCEL_SECONDS", 0.0)
    jobs.tick(paths)
    time.sleep(0.3)
    assert deaf.status().state == "stopping", "only a cancelled run is ever killed"
    jobs.stop(paths, deaf, "cancel")
    assert end(paths, deaf).state == "cancelled"
    stored = deaf.stored_status()
    assert stored.pid is not None and find_process(stored.pid, stored.pid_started) is None


def test_the_users_mistake_and_ours_are_told_apart(paths: Paths) -> None:
    user = jobs.run_now(paths, "toy", ToyConfig(then="user"))
    status = user.status()
    assert status.state == "failed" and status.error is not None
    assert status.error.text == Text("Add a dataset first.", "先にデータを追加してください。")
    assert "Traceback" not in user.log_tail()
    ours = jobs.run_now(paths, "toy", ToyConfig(then="ours"))
    status = ours.status()
    assert status.state == "failed" and status.error is not None
    assert "ValueError: the sum does not come out" in status.error.en
    assert "Traceback" in ours.log_tail() and "toy_stage.py" in ours.log_tail()
    assert [user.events()[-1].data["user"], ours.events()[-1].data["user"]] == [True, False]
    exited = jobs.run_now(paths, "toy", ToyConfig(then="exit"))
    assert exited.status().state == "failed", "a stage that calls exit has not ended well"


def test_a_child_that_dies_before_its_first_word(paths: Paths) -> None:
    run = jobs.submit(paths, "toy", "stillborn", ToyConfig())
    (run.folder / "events.jsonl").write_text("damaged\n")
    status = end(paths, run)
    assert status.state == "failed" and "numbered events" in run.log_tail()


def test_no_secret_reaches_the_run_folder(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "very-private-0123456789"
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    run = jobs.run_now(paths, "toy", ToyConfig(then="leak"))
    assert run.status().state == "failed"
    assert run.log_tail().count("[hidden]") >= 3
    for file in run.folder.iterdir():
        assert secret not in file.read_text(encoding="utf-8"), file.name


def test_runs_that_need_the_accelerator_go_one_at_a_time(paths: Paths) -> None:
    first = jobs.submit(paths, "heavy", "one", ToyConfig(steps=400, pause=0.05))
    second = jobs.submit(paths, "heavy", "two", ToyConfig(steps=1))
    light = jobs.submit(paths, "toy", "light", ToyConfig(steps=1))
    assert {run.id for run in jobs.tick(paths)} == {first.id, light.id}
    assert end(paths, light).state == "done"
    wait(paths, lambda: counted(first), "the first counts")
    assert second.status().state == "queued"
    held = lease.holder(paths)
    assert held is not None and "one" in held.who.en
    kill(first)
    assert end(paths, second).state == "done", "the lease of a killed run is free"
    assert first.status().state == "crashed"
    assert lease.holder(paths) is None


def test_a_queued_run_can_be_cancelled_and_deleted(paths: Paths) -> None:
    run = jobs.submit(paths, "toy", "never", ToyConfig())
    jobs.stop(paths, run)
    assert run.status().state == "cancelled" and jobs.tick(paths) == []
    jobs.delete(paths, run)
    assert not run.folder.exists() and list(paths.runs.iterdir()) == []


def test_a_running_run_is_not_deleted(paths: Paths) -> None:
    run = jobs.submit(paths, "toy", "busy", ToyConfig(steps=400, pause=0.05))
    wait(paths, lambda: counted(run), "it counts")
    with pytest.raises(UserError, match="Stop it first"):
        jobs.delete(paths, run)
    jobs.stop(paths, run, "cancel")
    assert end(paths, run).state == "cancelled"


def test_many_schedulers_start_a_run_once(paths: Paths) -> None:
    runs = [jobs.submit(paths, "toy", f"n{n}", ToyConfig(steps=2)) for n in range(3)]
    halt = threading.Event()
    threads = [jobs.start_scheduler(paths, halt, seconds=0.01) for _ in range(4)]
    wait(paths, lambda: all(run.status().ended_ for run in runs), "all end", tick=False)
    halt.set()
    for thread in threads:
        thread.join(10)
    for run in runs:
        assert run.status().state == "done", run.log_tail()
        assert [event.kind for event in run.events()].count("started") == 1


def test_a_run_outlives_the_process_that_started_it(paths: Paths) -> None:
    run = jobs.submit(paths, "toy", "orphan", ToyConfig(steps=400, pause=0.05))
    code = (
        "from pathlib import Path; from charllm.data.config import Paths; "
        "from charllm.services import jobs; import time\n"
        f"jobs.tick(Paths(Path({str(paths.root)!r}), Path({str(paths.workspace)!r})))\n"
        "time.sleep(600)"
    )
    search = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    server = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": search}
    )
    try:
        wait(paths, lambda: counted(run) >= 2, "it counts", tick=False)
    finally:
        server.kill()
        server.wait()
    seen = counted(run)
    wait(paths, lambda: counted(run) > seen + 2, "it goes on counting", tick=False)
    assert run.status().state == "running"
    jobs.stop(paths, run, "cancel")
    assert end(paths, run).state == "cancelled"


def test_chat_gives_way_to_a_run(paths: Paths) -> None:
    chat = lease.Lease(paths, Text("chat", "チャット")).acquire()
    assert lease.wanted(paths) is None
    held = lease.holder(paths)
    assert held is not None and held.who.ja == "チャット" and held.pid == os.getpid()
    run = jobs.submit(paths, "heavy", "train", ToyConfig(steps=2))
    wait(paths, lambda: lease.wanted(paths), "the run asks for the accelerator")
    wait(paths, lambda: "chat" in run.status().progress.message.en, "the run says who holds it")
    assert counted(run) == 0
    chat.release()
    assert end(paths, run).state == "done", run.log_tail()
    assert lease.wanted(paths) is None
    assert lease.Lease(paths, Text("chat", "チャット")).acquire() is not None


def test_waiting_for_the_accelerator_can_be_cancelled(paths: Paths) -> None:
    with lease.Lease(paths, Text("chat", "チャット")):
        run = jobs.submit(paths, "heavy", "waits", ToyConfig())
        wait(paths, lambda: lease.wanted(paths), "the run asks for the accelerator")
        jobs.stop(paths, run, "cancel")
        assert end(paths, run).state == "cancelled"
        assert lease.wanted(paths) is None


def test_waiters_are_served_in_order(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    holder, second, third = (lease.Lease(paths, Text(n, n)) for n in ("holder", "second", "third"))
    holder.acquire()
    for one in (second, third):
        with pytest.raises(lease.Busy, match="holder") as busy:
            one.acquire(timeout=0)
        assert busy.value.holder == Text("holder", "holder")
    holder.release()
    with pytest.raises(lease.Busy, match="second"):
        third.acquire(timeout=0)
    assert second.acquire(timeout=0) is second
    second.release()
    monkeypatch.setattr(lease, "WAITING_SECONDS", 0.0)
    assert holder.acquire(timeout=0), "who stopped asking is not waited for"


def test_a_damaged_run_does_not_block_the_queue(paths: Paths) -> None:
    no_status, no_manifest = (jobs.submit(paths, "toy", f"bad{n}", ToyConfig()) for n in range(2))
    (no_status.folder / "status.json").write_text("{")
    (no_manifest.folder / "config.yaml").write_text("kind: [")
    good = jobs.submit(paths, "toy", "good", ToyConfig(steps=1))
    assert end(paths, good).state == "done"
    status = end(paths, no_manifest)
    assert status.state == "failed" and status.error is not None
    assert "not valid YAML" in status.error.en
    assert no_status.status().state == "crashed"
    jobs.delete(paths, no_status)
    assert not no_status.folder.exists()


def test_an_unknown_kind_is_told(paths: Paths) -> None:
    with pytest.raises(UserError, match="no kind of run 'distil'"):
        jobs.submit(paths, "distil", "x", ToyConfig())


def test_every_kind_names_what_exists() -> None:
    """The registry's dotted paths lead to files of the package and to functions in them."""
    for name, kind in jobs.KINDS.items():
        for dotted in (kind.config, kind.function):
            module, _, attribute = dotted.partition(":")
            if not module.startswith("charllm."):
                continue
            source = ROOT / (module.replace(".", "/") + ".py")
            assert source.is_file(), f"{name}: {source} does not exist"
            text = source.read_text(encoding="utf-8")
            assert f"class {attribute}(" in text or f"def {attribute}(" in text, dotted
