"""Fine-tuning by a service: the real openai client against a loopback server, crashes included."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from finetune_server import KEY, FinetuneServer, serving

from charllm.core import endpoint, training_remote_job
from charllm.core.claims import claimed
from charllm.core.training import run_train
from charllm.core.training_config import Question, TrainConfig
from charllm.core.training_data import build_rows as token_rows
from charllm.core.training_data import choose_facts, split_dialogues
from charllm.core.training_remote import run_remote
from charllm.core.training_remote_card import curve, losses_of, metric
from charllm.core.training_remote_data import remote_quote
from charllm.core.variants import find_variant, load_checkpoint
from charllm.data.config import Paths
from charllm.data.dialogue import Dialogue, Message, load_dialogues, save_dialogues
from charllm.data.errors import Text, UserError
from charllm.data.files import read_json
from charllm.data.profile import Profile, load_profile, save_profile
from charllm.data.progress import Stopped, StopRequest
from charllm.data.prompts import get_template, labelled_row
from charllm.services import jobs
from charllm.services.train_forms import start_training

FACTS = ("名前は花。", "年齢は18歳。", "好きな季節は秋。", "趣味は観劇。")
JOBS = "/fine_tuning/jobs"
Train = Callable[..., dict[str, Any]]


class Crash(Exception):
    """The process dies here."""


class Listener:
    """A reporter that remembers; it can die at its n-th call, or ask to stop at some words."""

    def __init__(self, die_at: int = 0, stop_at: str = "", stop: StopRequest = "save") -> None:
        self.events: list[dict[str, Any]] = []
        self.lines: list[str] = []
        self.said: list[Text] = []
        self.calls = 0
        self.die_at, self.stop_at, self.stop = die_at, stop_at, stop

    def _called(self) -> None:
        self.calls += 1
        if self.calls == self.die_at:
            raise Crash

    def progress(self, done: float, total: float, message: Text) -> None:
        assert message.en and message.ja and done <= total
        self.said.append(message)
        self._called()

    def event(self, kind: str, **data: Any) -> None:
        json.dumps(data)
        self.events.append({"kind": kind, **data})
        self._called()

    def log(self, line: str) -> None:
        self.lines.append(line)
        self._called()

    def stop_requested(self) -> StopRequest:
        seen = "\n".join([text.en for text in self.said] + self.lines)
        return self.stop if self.stop_at and self.stop_at in seen else ""

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["kind"] == kind]


def dialogue(number: int) -> Dialogue:
    """Every third relies on a fact, every fourth has an earlier turn."""
    said = [Message(role="user", content=f"{number}番目の質問はなあに？")]
    if number % 4 == 0:
        earlier = Message(role="assistant", content=" ごきげんよう。 ")
        said = [Message(role="user", content="やあ"), earlier, *said]
    reply = Message(role="assistant", content=f"{number * 7919 % 997}と申しますわ。\n")
    facts = [FACTS[number % 4]] if number % 3 == 0 else []
    return Dialogue(id=f"d-{number}", messages=(*said, reply), meta={"facts": facts})


@pytest.fixture
def home(tmp_path: Path) -> Paths:
    paths = Paths(tmp_path / "root", tmp_path / "workspace")
    profile = Profile(slug="hana", name="花", facts=FACTS, persona="花です。")
    save_profile(paths, profile)
    save_dialogues(paths.datasets / "hana.jsonl", [dialogue(n) for n in range(16)])
    return paths


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FinetuneServer]:
    """The service, its key known to this session only; nobody waits long for anything."""
    for name, value in (("POLL_FIRST", 0.01), ("POLL_LONGEST", 0.05), ("STOP_SECONDS", 0.01)):
        monkeypatch.setattr(training_remote_job, name, value)
    monkeypatch.setattr(training_remote_job, "PATIENCE", 0.2)
    monkeypatch.setattr(training_remote_job, "CANCEL_PATIENCE", 0.2)
    with serving() as made:
        endpoint.set_session_key(KEY, made.url)
        yield made
        endpoint.set_session_key("", made.url)


def config(server: FinetuneServer, **more: Any) -> TrainConfig:
    data: dict[str, Any] = {"name": "hana-far", "profile": "hana", "dataset": "hana"}
    data |= {"base": "tunable-1", "backend": "openai", "base_url": server.url}
    data |= {"epochs": 2, "batch_size": 8, "seed": 5, "held_out": 0.125, "fact_draws": 2}
    return TrainConfig.model_validate(data | more)


@pytest.fixture
def train(home: Paths, server: FinetuneServer) -> Train:
    def run(listener: Listener, folder: str = "train-1", **more: Any) -> dict[str, Any]:
        return run_remote(config(server, **more), listener, home.workspace / folder, home)

    return run


def everything_written(*folders: Path) -> str:
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    assert files
    return "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)


# ── what is sent ──────────────────────────────────────────────────────────────────────────────


def test_a_run_from_dialogues_to_a_column(
    home: Paths, server: FinetuneServer, train: Train
) -> None:
    listener = Listener()
    result = train(listener)
    assert server.count("POST", "/files") == 2 and len(server.bodies) == 1
    body = server.bodies[0]
    assert body["model"] == "tunable-1" and body["seed"] == 5 and body["suffix"] == "hana-far"
    assert body["method"] == {
        "type": "supervised",
        "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 8}},
    }
    steps = [(m["step"], m["total"], m["epoch"], m["loss"]) for m in listener.of("metric")]
    assert steps == [(1, 4, 0.5, 3.0), (2, 4, 1.0, 1.5), (3, 4, 1.5, 1.0), (4, 4, 2.0, 0.75)]
    assert [m.get("eval_loss") for m in listener.of("metric")] == [9.0, 1.2, 9.0, 1.4]
    assert [m["token_accuracy"] for m in listener.of("metric")] == [0.1, 0.2, 0.3, 0.4]
    assert any("about 3 min left" in text.en for text in listener.said)
    assert result["checkpoint"] == "hana-far" and result["held_out_loss"] == 1.4
    assert (result["model"], result["seconds"]) == ("ft:tunable-1:hana-far", 90)
    assert result["trained_tokens"] == 1234 and result["stopped"] == 2
    assert listener.of("samples")[0]["samples"][0]["reply"] == "はい、花ですわ。"
    card = read_json(home.checkpoints / "hana-far" / "card.json")
    assert card["losses"] == [
        {"epoch": 0.0, "loss": None, "eval_loss": None},
        {"epoch": 1.0, "loss": 2.25, "eval_loss": 1.2},
        {"epoch": 2.0, "loss": 0.875, "eval_loss": 1.4},
    ]
    saved = TrainConfig.load(home.checkpoints / "hana-far" / "train.yaml")
    assert saved == config(server)


def test_the_tuned_model_is_a_column(home: Paths, server: FinetuneServer, train: Train) -> None:
    train(Listener(), label_en="Hana, far")
    found = load_checkpoint(home, "hana-far")
    assert found.kind == "endpoint" and found.weights == {}
    for name, rag in (("hana-far", False), ("hana-far-rag", True)):
        column = find_variant(home, "hana", name)
        assert (column.model, column.base_url) == ("ft:tunable-1:hana-far", server.url)
        assert column.rag == rag and column.label_en.startswith("Hana, far")


def test_the_rows_are_those_of_a_local_run(
    home: Paths, server: FinetuneServer, train: Train, shared: Path
) -> None:
    """Rendered by a template, what was uploaded is token by token what would be trained on."""
    from charllm.core.models import load_tokenizer

    train(Listener())
    chosen = config(server)
    profile = load_profile(home, "hana")
    parts = split_dialogues(
        load_dialogues(home.datasets / "hana.jsonl"), chosen.half, chosen.held_out, 0
    )
    template, tokenizer = get_template("llama-2"), load_tokenizer(shared / "tokenizers/llama-2")
    for which, part, draws in (("training_file", parts[0], 2), ("validation_file", parts[1], 1)):
        examples = choose_facts(part, profile, chosen.rag_share, 0, draws)
        local = token_rows(examples, profile, template, tokenizer, max_length=4096)
        sent = server.rows(server.bodies[0], which)
        assert len(sent) == len(local) == len(examples)
        for row, expected in zip(sent, local, strict=True):
            said = [Message(role=m["role"], content=m["content"]) for m in row["messages"]]
            got = labelled_row(template, tokenizer, said[:-1], said[-1].content)
            assert got == expected


def test_only_the_last_reply_is_learnt(server: FinetuneServer, train: Train) -> None:
    train(Listener(), rag_share=1.0)
    rows = server.rows(server.bodies[0], "training_file")
    replies = [[m for m in row["messages"] if m["role"] == "assistant"] for row in rows]
    assert {len(said) for said in replies} == {1, 2}
    assert all(
        m == {"role": "assistant", "content": "ごきげんよう。", "weight": 0}
        for said in replies
        for m in said[:-1]
    )
    assert all(set(said[-1]) == {"role", "content"} for said in replies)
    assert all(said[-1]["content"].endswith("と申しますわ。") for said in replies)
    with_facts = [row for row in rows if "・" in row["messages"][0]["content"]]
    assert 0 < len(with_facts) < len(rows)


def test_the_quote_is_what_is_sent(home: Paths, server: FinetuneServer, train: Train) -> None:
    quote = remote_quote(config(server), home)
    assert server.requests == []
    train(Listener())
    rows = server.rows(server.bodies[0], "training_file")
    assert quote.examples == len(rows) and quote.held_out == 2
    characters = sum(len(m["content"]) for row in rows for m in row["messages"])
    assert characters * 0.5 < quote.tokens < characters * 1.5
    assert quote.billed == quote.tokens * 2


def test_the_best_epoch_is_asked_for(home: Paths, server: FinetuneServer, train: Train) -> None:
    result = train(Listener(), keep="best")
    assert result["model"] == "ft:tunable-1:hana:step-2" and result["held_out_loss"] == 1.2
    assert {body["model"] for body in server.asked} == {"ft:tunable-1:hana:step-2"}


def test_an_older_service_gets_the_numbers_its_way(server: FinetuneServer, train: Train) -> None:
    server.knows_method = False
    train(Listener())
    assert server.bodies[0]["hyperparameters"] == {"n_epochs": 2, "batch_size": 8}
    assert "method" not in server.bodies[0]


def test_the_samples_are_the_configured_ones(server: FinetuneServer, train: Train) -> None:
    asked = (Question(text="お名前は？", facts=(FACTS[0],)), Question(text="やあ"))
    train(Listener(), samples=asked, held_out=0.0)
    assert [body["messages"][-1]["content"] for body in server.asked] == ["お名前は？", "やあ"]
    assert FACTS[0] in server.asked[0]["messages"][0]["content"]
    assert server.count("POST", "/files") == 1 and "validation_file" not in server.bodies[0]


def test_a_model_that_does_not_answer_yet_is_published(
    server: FinetuneServer, train: Train
) -> None:
    server.hook = lambda method, path: (
        (404, {"error": {"message": "not yet"}}) if path == "/chat/completions" else None
    )
    listener = Listener()
    assert train(listener)["stopped"] == 0
    assert any("not asked further" in line for line in listener.lines)


# ── killed, stopped, cancelled ────────────────────────────────────────────────────────────────


def test_dying_at_any_moment_pays_once(home: Paths, server: FinetuneServer, train: Train) -> None:
    """It dies at its first call of the reporter, then at its second, … until one run gets through.

    Each of them goes on from the folder the one before has left.
    """
    server.steps = 2
    whole = Listener()
    train(whole, folder="whole", name="hana-whole")
    server.files.clear()
    died = 0
    for die_at in range(1, whole.calls + 1):
        folder = f"train-{die_at}"
        before = server.count("POST", "/files"), len(server.jobs)
        with pytest.raises(Crash):
            train(Listener(die_at), folder=folder, replace=True)
        listener = Listener()
        train(listener, folder=folder, replace=True)
        died += 1
        assert server.count("POST", "/files") - before[0] == 2, die_at
        assert len(server.jobs) - before[1] == 1, die_at
        losses = read_json(home.checkpoints / "hana-far" / "card.json")["losses"]
        assert losses == read_json(home.checkpoints / "hana-whole" / "card.json")["losses"]
    assert died == whole.calls > 15


@pytest.mark.parametrize("lost", ["/files", JOBS])
def test_an_answer_that_is_lost_is_looked_for(
    server: FinetuneServer, train: Train, lost: str
) -> None:
    """The service did what it was asked, and the connection broke before it could say so."""
    left = [1]
    server.after = lambda method, path: (
        not (method == "POST" and path == lost and left and left.pop())
    )
    train(Listener())
    assert left == [] and server.count("POST", "/files") == 2 and len(server.jobs) == 1


def test_many_files_and_jobs_hide_nothing(
    home: Paths, server: FinetuneServer, train: Train
) -> None:
    """What a crash left is found on a later page of the lists, past others' jobs."""
    with pytest.raises(Stopped):
        train(Listener(stop_at="job ftjob-1"))
    state = home.workspace / "train-1" / "remote.json"
    saved = read_json(state) | {"job": "", "training_file": "", "validation_file": ""}
    state.write_text(json.dumps(saved))
    for number in range(2, 9):
        train(Listener(), folder=f"other-{number}", name=f"other-{number}")
    train(Listener())
    assert server.count("POST", "/files") == 16 and len(server.jobs) == 8


def test_saving_leaves_the_job_and_resuming_watches_it(
    home: Paths, server: FinetuneServer, train: Train
) -> None:
    with pytest.raises(Stopped) as stop:
        train(Listener(stop_at="step 2 of 4"))
    assert stop.value.kept, "the job goes on there"
    assert server.jobs[0]["status"] == "running" and not home.checkpoints.exists()
    save_dialogues(home.datasets / "hana.jsonl", [dialogue(n) for n in range(40)])
    later = Listener()
    train(later)
    assert [m["step"] for m in later.of("metric")] == [3, 4]
    assert server.count("POST", "/files") == 2 and len(server.jobs) == 1
    card = read_json(home.checkpoints / "hana-far" / "card.json")
    assert card["dialogues"] == 14 and len(card["losses"]) == 3


@pytest.mark.parametrize("moment", ["uploading", "training file", "job ftjob-1", "step 2 of 4"])
def test_cancelling_ends_it_there_too(
    home: Paths, server: FinetuneServer, train: Train, moment: str
) -> None:
    with pytest.raises(Stopped):
        train(Listener(stop_at=moment, stop="cancel"))
    assert [job["status"] for job in server.jobs] in ([], ["cancelled"])
    assert server.files == {} and not home.checkpoints.exists()
    assert not (home.workspace / "train-1" / "remote.json").exists()
    train(Listener())
    assert [job["status"] for job in server.jobs][-1] == "succeeded"


def test_one_name_is_one_runs_before_anything_is_spent(
    home: Paths, server: FinetuneServer, train: Train
) -> None:
    """A training here and one at a service, or two at a service, do not write over each other."""
    first, second = home.workspace / "train-1", home.workspace / "train-2"
    first.mkdir(parents=True)
    asked = config(server)
    with claimed(home, "hana-far", first), pytest.raises(UserError, match="another name") as caught:
        run_train(asked, Listener(), second, home)
    assert "作成しています" in caught.value.text.ja and server.requests == []
    with pytest.raises(Stopped):
        run_train(asked, Listener(stop_at="step 2 of 4"), first, home)
    sent = len(server.requests)
    here = TrainConfig(name="hana-far", profile="hana", dataset="hana")
    for other in (asked, here):
        with pytest.raises(UserError, match="train-1 has a job at a service"):
            run_train(other, Listener(), second, home)
        with pytest.raises(UserError, match="train-1 has a job at a service"):
            start_training(home, other)
    assert len(server.requests) == sent and not second.exists()
    assert run_train(asked, Listener(), first, home)["checkpoint"] == "hana-far"
    with pytest.raises(UserError, match="There is a checkpoint"):
        run_train(asked, Listener(), second, home)
    assert len(server.jobs) == 1


@pytest.mark.parametrize("how", ["cancelled", "failed", "deleted"])
def test_a_job_that_is_over_leaves_the_name(
    home: Paths, server: FinetuneServer, train: Train, how: str
) -> None:
    server.stages = ("running", "failed" if how == "failed" else "running", "succeeded")
    at = "" if how == "failed" else "step 2 of 4"
    with pytest.raises(UserError if how == "failed" else Stopped):
        train(Listener(stop_at=at, stop="cancel" if how == "cancelled" else "save"))
    server.stages = ("running", "running", "succeeded")
    if how == "deleted":
        shutil.rmtree(home.workspace / "train-1")
    train(Listener(), folder="train-2")
    assert (home.checkpoints / "hana-far").is_dir()


def test_cancelling_what_has_just_ended(server: FinetuneServer, train: Train, home: Paths) -> None:
    with pytest.raises(Stopped):
        train(Listener(stop_at="asking sample", stop="cancel"))
    assert server.jobs[0]["status"] == "succeeded" and not home.checkpoints.exists()


def test_a_cancellation_that_is_not_taken_is_told(server: FinetuneServer, train: Train) -> None:
    server.hook = lambda method, path: (
        (503, {"error": {"message": "down"}}) if path.endswith("/cancel") else None
    )
    with pytest.raises(UserError, match=r"job ftjob-1 may go on and cost money") as caught:
        train(Listener(stop_at="step 2 of 4", stop="cancel"))
    assert "サービス側でキャンセル" in caught.value.text.ja


# ── failures ──────────────────────────────────────────────────────────────────────────────────


def test_a_failed_job_is_told_and_can_be_tried_again(server: FinetuneServer, train: Train) -> None:
    server.stages = ("running", "failed")
    with pytest.raises(UserError, match="too few examples") as caught:
        train(Listener())
    assert "too few examples" in caught.value.text.ja and "再開" in caught.value.text.ja
    server.stages = ("running", "running", "succeeded")
    again = Listener()
    train(again)
    assert [m["step"] for m in again.of("metric")] == [1, 2, 3, 4]
    assert server.count("POST", "/files") == 2
    assert [job["status"] for job in server.jobs] == ["failed", "succeeded"]


def test_a_job_cancelled_at_the_service(server: FinetuneServer, train: Train) -> None:
    server.stages = ("running", "cancelled")
    with pytest.raises(UserError, match="was cancelled at"):
        train(Listener())


def test_a_service_that_is_away_is_waited_for(server: FinetuneServer, train: Train) -> None:
    """Longer than the patience before a job: 503, then too many requests, then it is back."""
    looks: list[float] = []

    def away(method: str, path: str) -> tuple[int, Any] | None:
        if path == f"{JOBS}/ftjob-1":
            looks.append(time.monotonic())
        if not 2 <= len(looks) <= 12:
            return None
        return (503 if len(looks) < 8 else 429), {"error": {"message": "later"}}

    server.hook = away
    listener = Listener()
    train(listener)
    told = [text for text in listener.said if "Asking again" in text.en]
    assert len(told) == 11 and "The job goes on there" in told[0].en and "再接続" in told[0].ja
    assert looks[12] - looks[1] > training_remote_job.PATIENCE


def test_before_there_is_a_job_patience_ends(
    server: FinetuneServer, train: Train, unused_port: int
) -> None:
    start = time.monotonic()
    with pytest.raises(endpoint.Unreachable, match="cannot be reached"):
        train(Listener(), base_url=f"http://127.0.0.1:{unused_port}/v1")
    assert 0.2 < time.monotonic() - start < 5


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize(
    ("status", "error", "says"),
    [
        (401, {"message": f"Incorrect API key provided: {KEY}"}, "refused the API key"),
        (403, {"message": "no access"}, "does not allow this key"),
        (404, {"message": "no route"}, "offers no fine-tuning at this address"),
        (429, {"message": "quota", "code": "insufficient_quota"}, "quota .* is used up"),
        (413, {"message": f"too large for {KEY}"}, "refused the request"),
    ],
)
def test_a_refusal_is_told_at_once(
    home: Paths, server: FinetuneServer, train: Train, status: int, error: Any, says: str
) -> None:
    server.hook = lambda method, path: (status, {"error": error}) if path == "/files" else None
    listener = Listener()
    with pytest.raises(UserError, match=says) as caught:
        train(listener)
    assert len(server.requests) == 1 and caught.value.text.ja != caught.value.text.en
    assert KEY not in f"{caught.value.text}{listener.lines}{listener.said}{listener.events}"
    assert KEY not in everything_written(home.workspace)
    server.hook = lambda method, path: None
    train(Listener())


def test_a_model_that_is_not_tuned_there(server: FinetuneServer, train: Train) -> None:
    with pytest.raises(UserError, match=r"does not fine-tune the model 'big-9'") as caught:
        train(Listener(), base="big-9")
    assert "not available for fine-tuning" in caught.value.text.ja


def test_what_is_refused_before_anything_is_sent(
    home: Paths, server: FinetuneServer, train: Train
) -> None:
    with pytest.raises(UserError, match=r"whole epochs, not 1\.5"):
        train(Listener(), epochs=1.5)
    host = server.url.removeprefix("http://")
    with pytest.raises(UserError, match="user name or password"):
        train(Listener(), base_url=f"http://me:secret@{host}")
    assert not home.workspace.exists()
    save_dialogues(home.datasets / "hana.jsonl", [dialogue(n) for n in range(5, 9)])
    with pytest.raises(UserError, match=r"gives \d training examples; .* takes 10 or more"):
        train(Listener())
    alone = Dialogue(id="alone", messages=(Message(role="assistant", content="まあ。"),))
    save_dialogues(home.datasets / "hana.jsonl", [alone, *(dialogue(n) for n in range(16))])
    with pytest.raises(UserError, match="Dialogue alone: the reply must follow"):
        train(Listener(), held_out=0.0)
    assert server.requests == []


def test_openai_itself_needs_a_key(home: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    data = {"name": "x", "profile": "hana", "dataset": "hana", "base": "m", "backend": "openai"}
    for url in ("", endpoint.OPENAI):
        with pytest.raises(UserError, match="No API key for OpenAI"):
            chosen = TrainConfig.model_validate(data | {"base_url": url})
            run_remote(chosen, Listener(), home.workspace / "run", home)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert endpoint.has_key(endpoint.OPENAI) and not endpoint.has_key("http://127.0.0.1:9/v1")


def test_the_numbers_of_a_step() -> None:
    """The loss over all held-out rows is told before that of one batch."""
    assert metric({"train_loss": 1.0}, 10, 2) == {}
    row = metric({"step": 5, "valid_loss": 3.0, "full_valid_loss": 2.0}, 10, 2)
    assert row == {"step": 5, "total": 10, "epoch": 1.0, "eval_loss": 2.0}
    assert metric({"step": 5, "valid_loss": 3.0}, 10, 2)["eval_loss"] == 3.0
    assert metric({"step": 12, "train_loss": 3.0}, 10, 2)["epoch"] == 2.0
    assert metric({"step": 12, "checkpoint": 7.0}, 10, 2) == {}
    batches = [{"step": n, "train_loss": 1.0, "valid_loss": 9.0} for n in (1, 2, 3)]
    assert [row["eval_loss"] for row in curve(batches, 3, 1)] == [9.0] * 3
    whole = [*batches[:1], batches[1] | {"full_valid_loss": 2.0}, batches[2]]
    assert losses_of(curve(whole, 3, 1))[1:] == [{"epoch": 1.0, "loss": 1.0, "eval_loss": 2.0}]
    assert losses_of([]) == [{"epoch": 0.0, "loss": None, "eval_loss": None}]


# ── the whole way, in a process of its own ────────────────────────────────────────────────────


def test_killed_while_the_job_is_being_created(home: Paths, server: FinetuneServer) -> None:
    """kill -9 of the real process, when the service has made the job and not yet said so."""
    created, killed = threading.Event(), threading.Event()

    def hold(method: str, path: str) -> bool:
        if (method, path) == ("POST", JOBS):
            created.set()
            killed.wait(60)
            return False
        return True

    server.after = hold
    server.stages = ("succeeded",)
    run = jobs.submit(home, "train", "hana-far", config(server, samples=[Question(text="やあ")]))
    jobs.tick(home)
    assert created.wait(60), run.log_tail(2000)
    pid = run.stored_status().pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    killed.set()
    deadline = time.monotonic() + 60
    while not run.status().ended_:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    jobs.resume(home, run)
    assert jobs.follow(home, run).status().state == "done", run.log_tail(2000)
    assert (run.result() or {})["model"] == "ft:tunable-1:hana-far"
    assert server.count("POST", "/files") == 2 and len(server.jobs) == 1
    assert KEY not in everything_written(home.root, home.workspace)
