"""Run folders: what is written can be read by anyone, after a kill too; no secret is written."""

from __future__ import annotations

import json
import os
import time

import pytest
from toy_stage import ToyConfig

from charllm.data.config import Paths
from charllm.data.errors import Text, UserError
from charllm.data.files import sha256_file
from charllm.services.redaction import HIDDEN, RedactingStream, redact
from charllm.services.reporter import RunReporter, Speed
from charllm.services.runs import Cursor, Run, Status, create_run, find_run, list_runs


@pytest.fixture
def run(paths: Paths) -> Run:
    return create_run(
        paths, "toy", "first", ToyConfig(profile="ayane"), function="toy_stage:run_toy"
    )


def write_events(run: Run, count: int, start: int = 1, tail: str = "") -> None:
    with (run.folder / "events.jsonl").open("a", encoding="utf-8") as file:
        for n in range(start, start + count):
            row = {"n": n, "time": 1.0, "kind": "metric", "data": {"text": f"歩{n}"}}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        file.write(tail)


def test_a_new_run_is_queued_and_names_itself(run: Run, paths: Paths) -> None:
    assert run.kind == "toy" and run.name == "first"
    assert run.status().state == "queued"
    assert run.events() == [] and run.result() is None and run.log_tail() == ""
    assert [item.id for item in list_runs(paths)] == [run.id]
    assert not [item for item in paths.runs.iterdir() if item.name.startswith(".")]


def test_the_manifest_reproduces_the_run(run: Run, paths: Paths) -> None:
    manifest = run.manifest()
    assert manifest.load_config(run.folder) == ToyConfig(profile="ayane")
    assert manifest.seeds == {"seed": 7}
    assert {"charllm", "python", "pydantic"} <= manifest.versions.keys()
    facts = paths.profiles / "ayane" / "facts.txt"
    assert manifest.inputs["profiles/ayane/facts.txt"] == sha256_file(facts)


def test_texts_that_are_no_paths_are_not_looked_up(paths: Paths) -> None:
    for note in ("长" * 400 + ".", "a\0b.txt", "line\nline.", "../..", "x" * 5000 + "/y"):
        assert create_run(paths, "toy", "odd", ToyConfig(note=note)).manifest().inputs == {}


def test_names_never_collide_and_are_checked(paths: Paths) -> None:
    runs = [create_run(paths, "toy", "same", ToyConfig()) for _ in range(3)]
    assert len({run.id for run in runs}) == 3
    assert [run.id for run in list_runs(paths)] == [run.id for run in reversed(runs)]
    with pytest.raises(UserError, match="cannot be a run name"):
        create_run(paths, "toy", "../out", ToyConfig())
    with pytest.raises(UserError, match="fits 3 runs"):
        find_run(paths, "same")
    with pytest.raises(UserError, match="There is no run"):
        find_run(paths, "..")
    assert find_run(paths, runs[0].id) == runs[0]


def test_polling_reads_only_what_is_new(run: Run) -> None:
    write_events(run, 2)
    events, cursor = run.poll()
    assert [event.n for event in events] == [1, 2] and events[0].data == {"text": "歩1"}
    assert run.poll(cursor) == ([], cursor)
    write_events(run, 1, start=3)
    events, cursor = run.poll(cursor)
    assert [event.n for event in events] == [3]
    assert cursor.offset == (run.folder / "events.jsonl").stat().st_size
    assert [event.n for event in run.events(after=1)] == [2, 3]


def test_a_line_being_written_is_left_for_later(run: Run) -> None:
    write_events(run, 1, tail='{"n": 2, "time": 1.0, "ki')
    events, cursor = run.poll()
    assert [event.n for event in events] == [1]
    with (run.folder / "events.jsonl").open("a") as file:
        file.write('nd": "x", "data": {}}\n')
    assert [event.n for event in run.poll(cursor)[0]] == [2]


def test_a_cursor_that_does_not_fit_starts_again(run: Run) -> None:
    write_events(run, 3)
    for wrong in (Cursor(9, 10_000), Cursor(1, 7), Cursor(1, run.poll()[1].offset // 3 * 2)):
        assert [event.n for event in run.poll(wrong)[0]] == [1, 2, 3]


def test_damaged_events_are_told(run: Run) -> None:
    write_events(run, 1, tail="not an event\n")
    with pytest.raises(UserError, match="not numbered events"):
        run.events()


def test_a_writer_goes_on_behind_a_torn_line(run: Run) -> None:
    write_events(run, 2, tail='{"n": 3, "ti')
    with RunReporter(run) as reporter:
        reporter.event("metric", loss=float("inf"), where=run.folder)
    events = run.events()
    assert [event.n for event in events] == [1, 2, 3]
    assert events[-1].data == {"loss": None, "where": str(run.folder)}


def test_progress_is_written_with_a_heartbeat(run: Run) -> None:
    with RunReporter(run) as reporter:
        reporter.progress(1, 4, Text("one", "いち"))
        status = run.status()
        assert status.state == "running" and status.pid == os.getpid()
        assert status.progress.share == 0.25 and status.progress.message.text.ja == "いち"
        assert status.heartbeat and abs(status.heartbeat - time.time()) < 5
        run.ask_stop("save")
        assert run.status().state == "stopping" and reporter.stop_requested() == "save"
        run.ask_stop("cancel")
        run.ask_stop("save")
        assert reporter.stop_requested() == "cancel", "a request to cancel is never weakened"
        reporter.finish("cancelled")
        run.write_status(run.stored_status().model_copy(update={"state": "queued"}))
        reporter.progress(4, 4, Text("late", "遅い"))
        assert run.stored_status().state == "queued", "a resumed run is not the old writer's"
        run.write_status(run.stored_status().model_copy(update={"state": "cancelled"}))
    assert run.status().state == "cancelled"
    assert [event.kind for event in run.events()] == ["stop", "stop", "cancelled"]


def test_a_reused_process_number_is_not_the_run(run: Run) -> None:
    stored = run.stored_status().model_copy(
        update={"state": "running", "pid": os.getpid(), "pid_started": 1000.0, "heartbeat": 5.0}
    )
    run.write_status(stored)
    assert run.status().state == "crashed" and run.status().ended == 5.0
    assert run.status().resumable
    run.ask_stop("cancel")
    assert run.status().state == "cancelled", "killed after it was cancelled"


def test_a_process_that_never_reported_is_dead_after_a_while(run: Run) -> None:
    fresh = run.stored_status().model_copy(update={"state": "running", "started": time.time()})
    run.write_status(fresh)
    assert run.status().state == "running"
    run.write_status(fresh.model_copy(update={"started": time.time() - 1000}))
    assert run.status().state == "crashed"


def test_stalled_means_alive_without_a_heartbeat() -> None:
    status = Status(state="running", created=0, queued=0, heartbeat=time.time() - 100)
    assert status.stalled
    assert not status.model_copy(update={"heartbeat": time.time()}).stalled
    assert not status.model_copy(update={"state": "done"}).stalled


def test_seconds_left_come_from_measured_speed() -> None:
    speed = Speed()
    assert speed.seconds_left(30, 100, now=0.0) is None, "a resumed start is no speed"
    assert speed.seconds_left(40, 100, now=10.0) == pytest.approx(60.0)
    assert speed.seconds_left(41, 100, now=200.0) == pytest.approx(59 * 190), "the last minute only"
    assert speed.seconds_left(1, 5, now=201.0) is None, "another phase starts anew"
    assert speed.seconds_left(2, 0, now=202.0) is None


def test_a_broken_status_names_the_file_and_hides_no_other_run(run: Run, paths: Paths) -> None:
    (run.folder / "status.json").write_text("{", encoding="utf-8")
    status = run.status()
    assert status.state == "crashed" and status.error is not None
    assert "status.json" in status.error.en and "status.json" in status.error.ja
    assert run.as_json()["status"] == "crashed"
    other = create_run(paths, "toy", "other", ToyConfig())
    assert {item.id for item in list_runs(paths)} == {run.id, other.id}


def test_the_log_shows_its_end(run: Run) -> None:
    run.log_file.write_text("".join(f"行 {n}\n" for n in range(1000)), encoding="utf-8")
    tail = run.log_tail(100)
    assert tail.startswith("行 ") and tail.endswith("行 999\n") and len(tail.encode()) <= 100


def test_secrets_are_refused_in_a_configuration(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "very-private-key")
    with pytest.raises(UserError, match="'note' holds a key"):
        create_run(paths, "toy", "leak", ToyConfig(note="Bearer very-private-key"))
    with pytest.raises(UserError, match="environment variable"):
        create_run(paths, "toy", "leak", ToyConfig(note="sk-proj-0123456789abcdef0123"))
    assert list_runs(paths) == []


def test_redaction_sees_secrets_that_arrive_in_pieces(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "abcdefgh12345678")
    monkeypatch.setenv("SHORT_KEY", "none")
    assert redact("x abcdefgh12345678 none") == f"x {HIDDEN} none"
    import sys

    stream = RedactingStream(sys.stdout)
    for piece in ("token abcdef", "gh12345678 end\nrest abc", "defgh12345678"):
        stream.write(piece)
    stream.finish()
    assert capsys.readouterr().out == f"token {HIDDEN} end\nrest {HIDDEN}"
