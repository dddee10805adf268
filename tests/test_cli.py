"""The command line: forms of its answers, exit statuses, one clear line for a mistake."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from toy_stage import ToyConfig

from charllm.data.config import ROOT, Paths
from charllm.data.errors import Text
from charllm.services import cli, jobs, verb_table
from charllm.services.runs import create_run, list_runs

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def installation(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv("CHARLLM_ROOT", str(paths.root))
    monkeypatch.setenv("CHARLLM_HOME", str(paths.workspace))
    monkeypatch.setenv("CHARLLM_LANG", "en")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    return paths


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """``train`` runs the toy stage: the way there is real, what is trained is not."""
    kind = jobs.Kind("toy_stage:ToyConfig", "toy_stage:run_toy", True, Text("toy", "toy"))
    monkeypatch.setitem(jobs.KINDS, "train", kind)


def call(capsys: Capture, *arguments: str, status: int = 0) -> Any:
    """The JSON that a command line prints; ``status`` is the exit status that it must have."""
    got = cli.main([*arguments, "--json"])
    out, err = capsys.readouterr()
    assert got == status, err
    return json.loads(out) if out else None


def mistake(capsys: Capture, *arguments: str) -> str:
    """The single line that a user's mistake gets."""
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("charllm: ") and err.count("\n") == 1, err
    assert "Traceback" not in err
    return err


def test_profiles_are_listed_and_shown(capsys: Capture) -> None:
    rows = call(capsys, "profile", "list")
    ayane = next(row for row in rows if row["slug"] == "ayane")
    assert ayane["language"] == "ja" and ayane["facts"] >= 60
    shown = call(capsys, "profile", "show", "ayane")
    assert shown["slug"] == "ayane" and shown["facts"] == ayane["facts"]
    assert shown["warnings"] == [] and shown["profile"]["name"] == ayane["name"]


@pytest.mark.parametrize("ending", [".json", ".png", ".charx"])
def test_a_profile_goes_out_and_comes_back(capsys: Capture, tmp_path: Path, ending: str) -> None:
    facts = call(capsys, "profile", "show", "ayane")["facts"]
    file = tmp_path / f"card{ending}"
    out = call(capsys, "profile", "export", "ayane", "--to", str(file))
    assert out["slug"] == "ayane" and file.stat().st_size > 100
    back = call(capsys, "profile", "import", str(file), "--as", "again")
    assert back["slug"] == "again" and back["facts"] == facts and isinstance(back["warnings"], list)
    assert "--replace" in mistake(capsys, "profile", "import", str(file), "--as", "again")
    call(capsys, "profile", "import", str(file), "--as", "again", "--replace")


def test_mistakes_are_one_line_in_the_users_language(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no profile 'nobody'" in mistake(capsys, "profile", "show", "nobody")
    assert "../x" in mistake(capsys, "profile", "show", "../x")
    assert "invalid choice" in mistake(capsys, "serve")
    assert "required" in mistake(capsys, "merge", "x.yaml")
    assert "does not exist" in mistake(capsys, "train", "nowhere.yaml")
    assert "There is no run" in mistake(capsys, "runs", "show", "nothing")
    assert "at least 1" in mistake(capsys, "retrieve", "ayane", "name?", "--k", "0")
    monkeypatch.setenv("CHARLLM_LANG", "ja")
    assert "がありません" in mistake(capsys, "profile", "show", "nobody")
    assert "引数が正しくありません" in mistake(capsys, "labels")


def test_our_own_mistakes_exit_with_1(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, paths: Paths
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "very-private-key")

    def broken(*_: object) -> None:
        raise RuntimeError("with very-private-key")

    verb = verb_table.Verb("broken", Text("", ""), (), broken)
    monkeypatch.setattr(cli, "VERBS", (verb,))
    assert cli.main(["broken"]) == 1
    error = capsys.readouterr().err
    assert "RuntimeError" in error and "very-private-key" not in error


def test_a_dataset_is_checked(capsys: Capture, paths: Paths) -> None:
    def row(n: int, question: str, reply: str) -> dict[str, Any]:
        messages = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": reply},
        ]
        return {"id": f"d{n}", "messages": messages}

    rows = [
        row(1, "好きな季節はいつですか？", "秋が好きですわ。"),
        row(2, "好きな季節はいつですか", "秋が好きですわ！"),
        row(3, "バイオリンは何歳から弾いていますか？", "五歳からですわ。"),
        row(3, "べつの質問", "べつの答え"),
        {"id": "d4", "messages": [{"role": "user", "content": "答えがない"}]},
    ]
    text = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in rows) + "{broken\n"
    (paths.datasets / "mine.jsonl").write_text(text, encoding="utf-8")
    query = {"id": "q1", "text": "バイオリンは何歳から弾いていますか", "split": "report"}
    paths.queries.mkdir(exist_ok=True)
    for file in paths.queries.glob("*.jsonl"):
        file.unlink()
    (paths.queries / "ayane.jsonl").write_text(json.dumps(query, ensure_ascii=False) + "\n")
    found = call(capsys, "data", "check", "mine")
    assert (found["rows"], found["duplicates"], found["leaks"]) == (3, 1, 1)
    assert [item["line"] for item in found["rejected"]] == [4, 5, 6]
    assert all(item["reason"] for item in found["rejected"])
    assert found["duplicate_pairs"][0]["ids"] == ["d1", "d2"]
    assert found["leak_pairs"][0] == {"id": "d3", "query": "ayane/q1", "overlap": 1.0}
    assert "does not exist" in mistake(capsys, "data", "check", "missing")


def test_labels_show_what_is_learnt(capsys: Capture, shared: Path) -> None:
    reply = "こんにちは。お会いできて嬉しいですわ。"
    form = ("--template", "llama-2", "--system", "S", "--user", "U", "--reply", reply)
    row = call(capsys, "labels", "--tokenizer", str(shared / "tokenizers" / "llama-2"), *form)
    assert len(row["input_ids"]) == len(row["labels"])
    learnt = [label for label in row["labels"] if label != -100]
    assert learnt[-1] == 2 and learnt.count(2) == 1
    assert row["labels"][: -len(learnt)] == [-100] * (len(row["labels"]) - len(learnt))


def test_train_follows_its_run(capsys: Capture, paths: Paths, tmp_path: Path, toy: None) -> None:
    config = tmp_path / "My Config.yaml"
    config.write_text("steps: 2\nprofile: ayane\n", encoding="utf-8")
    done = call(capsys, "train", str(config))
    assert done["status"] == "done" and done["result"]["steps"] == 2
    assert re.fullmatch(r"train-\d{8}-\d{6}-my-config", done["run"])
    assert cli.main(["train", str(config)]) == 0
    out, err = capsys.readouterr()
    assert "status: done" in out and "100%" in err and "step 2" in err
    config.write_text("steps: 2\nlearning_rate: 1\n", encoding="utf-8")
    assert "learning_rate" in mistake(capsys, "train", str(config))
    assert len(list_runs(paths)) == 2, "a wrong configuration makes no run"


@pytest.mark.parametrize(("then", "status"), [("user", 2), ("ours", 1)])
def test_a_failed_run_says_whose_fault_it_is(
    capsys: Capture, tmp_path: Path, toy: None, then: str, status: int
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(f"steps: 1\nthen: {then}\n", encoding="utf-8")
    value = call(capsys, "train", str(config), status=status)
    assert value["status"] == "failed" and value["result"] is None and value["error"]["ja"]


def test_runs_are_listed_stopped_and_resumed(capsys: Capture, paths: Paths, toy: None) -> None:
    assert call(capsys, "runs", "list") == []
    run = jobs.submit(paths, "train", "long", ToyConfig(steps=5, pause=0.01))
    row = call(capsys, "runs", "list")[0]
    assert (row["run"], row["kind"], row["status"]) == (run.id, "train", "queued")
    assert row["progress"]["done"] == 0
    assert call(capsys, "runs", "stop", "long")["status"] == "cancelled"
    assert "ended already" in mistake(capsys, "runs", "stop", "long")
    done = call(capsys, "runs", "resume", run.id)
    assert (done["status"], done["result"]["steps"]) == ("done", 5)
    shown = call(capsys, "runs", "show", run.id)
    assert shown["status"] == "done" and shown["result"]["steps"] == 5
    assert "cannot be resumed" in mistake(capsys, "runs", "resume", "long")


def test_cancelling_waits_for_the_end(
    capsys: Capture, paths: Paths, toy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "CANCEL_SECONDS", 0.2)
    run = jobs.submit(paths, "train", "deaf", ToyConfig(steps=400, pause=0.05, deaf=True))
    deadline = time.monotonic() + 30
    while not (run.folder / "counted.txt").exists() and time.monotonic() < deadline:
        jobs.tick(paths)
        time.sleep(0.05)
    assert call(capsys, "runs", "stop", run.id, "--cancel")["status"] == "cancelled"


def test_ctrl_c_saves(paths: Paths, tmp_path: Path) -> None:
    """A real process in the foreground; the run it follows is saved when it is interrupted."""
    run = create_run(
        paths, "toy", "slow", ToyConfig(steps=400, pause=0.05), function="toy_stage:run_toy"
    )
    jobs.stop(paths, run)
    search = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    process = subprocess.Popen(
        [sys.executable, "-m", "charllm", "runs", "resume", run.id, "--json"],
        env={**os.environ, "PYTHONPATH": search},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts what it puts in the background deaf to this signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 30
    while not (run.folder / "counted.txt").exists():
        assert time.monotonic() < deadline, run.log_tail()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    value = json.loads(out)
    assert value["status"] == "done" and 0 < value["result"]["steps"] < 400


def test_help_offers_every_verb_but_the_hidden(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for word in {verb.name.split()[0] for verb in cli.VERBS if not verb.hidden}:
        assert re.search(rf"^\s+{word}\b", text, re.MULTILINE), word
    assert "run-stage" not in text and "serve" not in text


def test_every_verb_has_a_form_without_json(capsys: Capture) -> None:
    assert cli.main(["profile", "list"]) == 0
    assert "ayane" in capsys.readouterr().out


def test_models_and_doctor(capsys: Capture) -> None:
    rows = call(capsys, "models", "list")
    gemma = next(row for row in rows if row["id"] == "gemma-3-270m")
    assert gemma["ready"] is False
    report = call(capsys, "doctor")
    assert {"python", "torch", "device", "memory_gb", "models", "missing"} <= report.keys()


def test_training_is_set_and_checked_without_being_started(
    capsys: Capture, installation: Paths, base_folder: Path
) -> None:
    installation.models.mkdir(parents=True)
    (installation.models / base_folder.name).symlink_to(base_folder)
    own = ["--set", "name=mine", "--set", "profile=ayane", "--set", "dataset=ayane"]
    found = call(capsys, "train", "--preset", "demo", *own, "--check")
    assert found["rows"] == 60 and found["held_out_rows"] > 0 and found["memory"]
    more = call(capsys, "train", "--preset", "demo", *own, "--set", "limit=30", "--check")
    assert more["rows"] == 30
    assert "NAME=VALUE" in mistake(capsys, "train", "--preset", "demo", "--set", "rank=3")
    assert "--preset" in mistake(capsys, "train")
    assert "learning_rate" in mistake(
        capsys, "train", "--preset", "demo", *own, "--set", "learning_rate=7", "--check"
    )
    assert list_runs(installation) == []
