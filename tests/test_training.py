"""Training on a random tiny model: the data, the gate, stop and resume, what is published."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from charllm.core.training import run_train
from charllm.core.training_config import PRESETS, Question, TrainConfig
from charllm.core.training_data import (
    build_rows,
    choose_facts,
    leaks,
    prepare,
    split_dialogues,
)
from charllm.core.training_watch import newest_checkpoint
from charllm.data.config import Paths
from charllm.data.dialogue import Dialogue, Message, save_dialogues
from charllm.data.errors import Text, UserError
from charllm.data.files import read_json, write_json
from charllm.data.profile import Profile, save_profile
from charllm.data.progress import Stopped, StopRequest
from charllm.data.prompts import get_template
from charllm.services import jobs
from charllm.services.runs import Run

FACTS = ("名前は花。", "年齢は17歳。", "母の名前は雪。", "好きな色は青。", "犬を飼っている。")


class Listener:
    """A reporter that remembers, and asks to stop at a step."""

    def __init__(self, stop_at: int = 0, stop: StopRequest = "save") -> None:
        self.events: list[dict[str, Any]] = []
        self.lines: list[str] = []
        self.at: float = 0
        self.stop_at, self.stop = stop_at, stop

    def progress(self, done: float, total: float, message: Text) -> None:
        assert message.en and message.ja
        self.at = done

    def event(self, kind: str, **data: Any) -> None:
        json.dumps(data)
        self.events.append({"kind": kind, **data})

    def log(self, line: str) -> None:
        self.lines.append(line)

    def stop_requested(self) -> StopRequest:
        return self.stop if self.stop_at and self.at >= self.stop_at else ""

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["kind"] == kind]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama with a small byte-level tokenizer of its own."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(["質問：回答：ですわ。ますわ。"] * 3, trainer)
    folder = tmp_path_factory.mktemp("tiny")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer.get_vocab()),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    ).save_pretrained(folder)
    return folder


def dialogue(number: int, facts: tuple[str, ...] = ()) -> Dialogue:
    text = (Message(role="user", content=f"{number}番目の質問はなあに？"),)
    reply = Message(role="assistant", content=f"{number * 7919 % 997}と申しますわ。")
    return Dialogue(id=f"d-{number}", messages=(*text, reply), meta={"facts": list(facts)})


@pytest.fixture
def home(tmp_path: Path, tiny: Path) -> Paths:
    paths = Paths(tmp_path / "root", tmp_path / "workspace")
    shutil.copytree(tiny, tmp_path / "tiny")
    save_profile(paths, Profile(slug="hana", name="花", facts=FACTS))
    rows = [dialogue(n, (FACTS[n % 3],) if n % 2 else ()) for n in range(24)]
    save_dialogues(paths.datasets / "hana.jsonl", rows)
    return paths


def config(home: Paths, **changes: Any) -> TrainConfig:
    fields = {
        "name": "hana-one",
        "profile": "hana",
        "dataset": "hana",
        "base": str(home.root.parent / "tiny"),
        "template": "plain-ja",
        "held_out": 0.25,
        "epochs": 2,
        "batch_size": 4,
        "r": 4,
        "dropout": 0.1,
        "save_steps": 3,
        "samples": [{"text": "お名前は？", "facts": [FACTS[0]]}, {"text": "元気？"}],
        **changes,
    }
    return TrainConfig.model_validate(fields)


Train = Callable[..., dict[str, Any]]


@pytest.fixture
def train(home: Paths) -> Train:
    def run(listener: Listener, folder: str = "run", **changes: Any) -> dict[str, Any]:
        return run_train(config(home, **changes), listener, home.workspace / folder, home)

    return run


def weights(home: Paths, name: str) -> dict[str, Any]:
    return dict(load_file(home.checkpoints / name / "adapter_model.safetensors"))


# ── data ──────────────────────────────────────────────────────────────────────────────────────────


def test_halves_are_disjoint_and_share_what_is_held_out() -> None:
    rows = [dialogue(n) for n in range(40)]
    parts = {h: split_dialogues(rows, h, 0.2, seed=3) for h in ("all", "a", "b")}
    ids = {h: {d.id for d in train} for h, (train, _) in parts.items()}
    assert not ids["a"] & ids["b"] and ids["a"] | ids["b"] == ids["all"]
    assert len(ids["a"]) == len(ids["b"]) == 16
    held = [{d.id for d in kept} for _, kept in parts.values()]
    assert held[0] == held[1] == held[2] and len(held[0]) == 8 and not held[0] & ids["all"]
    assert split_dialogues(rows, "a", 0.2, seed=4) != parts["a"]
    assert split_dialogues(rows[::-1], "a", 0.2, seed=3) == parts["a"]
    with pytest.raises(UserError, match="too few"):
        split_dialogues([], "all", 0.1, seed=0)


def test_facts_shown_always_support_the_reply() -> None:
    profile = Profile(slug="hana", name="花", facts=FACTS)
    rows = [dialogue(n, (FACTS[n % 3],) if n % 2 else ()) for n in range(60)]
    examples = choose_facts(rows, profile, 0.3, seed=1)
    shown = [e for e in examples if e.facts is not None]
    assert len(shown) == 18
    for example in shown:
        assert set(example.dialogue.facts) <= set(example.facts or ())
        assert len(set(example.facts or ())) == len(example.facts or ())
    assert {len(e.facts or ()) for e in shown} == {1, 2, 3}
    assert any(e.facts and e.facts[0] not in e.dialogue.facts for e in shown), "never shuffled"
    every = choose_facts(rows, profile, 1.0, seed=1)
    assert [e.facts is not None for e in every] == [bool(d.facts) for d in rows]
    assert all(e.facts is None for e in choose_facts(rows, profile, 0.0, seed=1))
    assert choose_facts(rows, profile, 0.3, seed=1) == examples
    thrice = choose_facts(rows, profile, 0.3, seed=1, draws=3)
    assert len(thrice) == 60 + 2 * 18
    drawn = [e.facts for e in thrice if e.dialogue.id == shown[0].dialogue.id]
    assert len(drawn) == 3 and all(shown[0].dialogue.facts[0] in (f or ()) for f in drawn)
    assert len({e.facts for e in thrice}) > len({e.facts for e in examples})


def test_rows_learn_the_reply_and_one_end_token(home: Paths) -> None:
    material = prepare(config(home), home)
    end = material.tokenizer.eos_token_id
    for row in [*material.rows, *material.held_out_rows]:
        learnt = [label for label in row.labels if label != -100]
        assert learnt[-1] == end and learnt.count(end) == 1
        assert learnt == row.input_ids[-len(learnt) :]
        assert material.tokenizer.decode(learnt[:-1]).strip().endswith("と申しますわ。")
    assert [q.text for q in material.questions] == ["お名前は？", "元気？"]


def test_what_would_be_cut_is_refused_by_name(home: Paths) -> None:
    long = dialogue(99).model_copy(
        update={"messages": (Message(role="user", content="あ" * 2000), dialogue(99).messages[-1])}
    )
    save_dialogues(home.datasets / "hana.jsonl", [*(dialogue(n) for n in range(5)), long])
    with pytest.raises(UserError, match=r"1 of 6 .*max_length = 300.*d-99"):
        prepare(config(home, held_out=0.0, max_length=300), home)


def test_earlier_turns_are_shown_but_not_learnt(home: Paths) -> None:
    first, reply = dialogue(1).messages, dialogue(2).messages
    both = Dialogue(id="long", messages=(*first, *reply))
    material = prepare(config(home), home)
    profile, template = material.profile, get_template("plain-ja")
    examples = choose_facts([both], profile, 0.0, seed=0)
    (row,) = build_rows(examples, profile, template, material.tokenizer, max_length=1024)
    shown = material.tokenizer.decode(row.input_ids)
    learnt = material.tokenizer.decode([label for label in row.labels if label != -100])
    assert first[1].content in shown and first[1].content not in learnt
    assert reply[1].content in learnt


def test_leaks_are_found() -> None:
    twin = dialogue(1).model_copy(update={"id": "twin"})
    assert leaks([dialogue(1), dialogue(500)], [twin]) == [("twin", "d-1")]


# ── a run ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_publishes_a_small_adapter_that_peft_loads(home: Paths, train: Train) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    listener = Listener()
    result = train(listener, learning_rate=1e-2, epochs=4)
    folder = home.checkpoints / "hana-one"
    names = {file.name for file in folder.iterdir()}
    assert names >= {
        "adapter_model.safetensors",
        "adapter_config.json",
        "train.yaml",
        "card.json",
        "README.md",
    }
    assert all(
        str(tensor.dtype) == "torch.bfloat16" for tensor in weights(home, "hana-one").values()
    )
    adapter_config = read_json(folder / "adapter_config.json")
    assert adapter_config["base_model_name_or_path"] == "tiny"
    assert str(home.root) not in (folder / "adapter_config.json").read_text("utf-8")
    assert TrainConfig.load(folder / "train.yaml") == config(home, learning_rate=1e-2, epochs=4)
    base = AutoModelForCausalLM.from_pretrained(home.root.parent / "tiny")
    loaded = PeftModel.from_pretrained(base, folder)
    assert any(p.abs().sum() > 0 for n, p in loaded.named_parameters() if "lora_B" in n)

    card = read_json(folder / "card.json")
    assert (card["dialogues"], card["held_out"], card["profile"]) == (18, 6, "hana")
    assert [row["epoch"] for row in card["losses"]] == [0, 1, 2, 3, 4]
    assert card["losses"][0]["eval_loss"] > card["losses"][-1]["eval_loss"] == card["held_out_loss"]
    assert result["held_out_loss"] == card["held_out_loss"]
    assert [s["question"] for s in card["samples"]] == ["お名前は？", "元気？"]
    assert len(card["data_hash"]) == 64 and card["base_hash"]
    assert "hana-one" in (folder / "README.md").read_text("utf-8")

    metrics = listener.of("metric")
    steps = [m["step"] for m in metrics if "loss" in m]
    assert steps == list(range(1, 21)) and metrics[-1]["total"] == 20
    assert all({"lr", "grad_norm", "epoch"} <= m.keys() for m in metrics if "loss" in m)
    assert len([m for m in metrics if "eval_loss" in m]) == 5
    asked = listener.of("samples")
    assert asked[-1]["samples"] == card["samples"] and asked[-1]["stopped"] == card["stopped"]
    assert [round(event["epoch"]) for event in asked] == [1, 2, 3, 4], "asked at each evaluation"
    assert all({"gate", "style", "stopped"} <= sample.keys() for sample in card["samples"])
    speeds = [m["tokens_per_second"] for m in metrics if "tokens_per_second" in m]
    assert len(speeds) == 20 - 4 and min(speeds) > 0, "the first step of an epoch has no speed"
    assert all(0.1 < m["memory_gb"] < 50 for m in metrics if "loss" in m)
    assert listener.of("data")[0]["dialogues"] == 18


def test_stop_and_resume_give_the_same_weights(home: Paths, train: Train) -> None:
    """Stopped at step 4 and again at 7, the run ends in the very bytes of an undisturbed one."""
    whole = Listener()
    expected = train(whole, folder="whole")
    for step in (5, 7):  # five steps are an epoch, which is evaluated before it stops
        with pytest.raises(Stopped):
            train(Listener(stop_at=step), folder="parts", name="hana-two")
        assert not (home.checkpoints / "hana-two").exists()
        assert newest_checkpoint(home.workspace / "parts" / "trainer") is not None
    rest = Listener()
    result = train(rest, folder="parts", name="hana-two")
    one, two = (
        (home.checkpoints / name / "adapter_model.safetensors").read_bytes()
        for name in ("hana-one", "hana-two")
    )
    assert one == two
    assert result["held_out_loss"] == expected["held_out_loss"]
    cards = [read_json(home.checkpoints / n / "card.json") for n in ("hana-one", "hana-two")]
    assert cards[0]["losses"] == cards[1]["losses"]
    assert cards[0]["samples"] == cards[1]["samples"]
    later = {m["step"]: m["loss"] for m in rest.of("metric") if "loss" in m}
    earlier = {m["step"]: m["loss"] for m in whole.of("metric") if "loss" in m}
    assert min(later) == 8 and all(earlier[step] == loss for step, loss in later.items())


def test_a_torn_checkpoint_is_passed_over(home: Paths, train: Train) -> None:
    """After a kill while saving, the newest folder is broken: the one before it is taken."""
    train(Listener(), folder="whole")
    with pytest.raises(Stopped) as stop:
        train(Listener(stop_at=4), folder="torn", name="hana-two")
    assert stop.value.kept
    trainer = home.workspace / "torn" / "trainer"
    shutil.copytree(trainer / "checkpoint-4", trainer / "checkpoint-6")
    (trainer / "checkpoint-6" / "trainer_state.json").write_text('{"epoch": 1.')
    (trainer / "checkpoint-99").mkdir()
    assert newest_checkpoint(trainer) == trainer / "checkpoint-4"
    listener = Listener()
    train(listener, folder="torn", name="hana-two")
    assert "going on from checkpoint-4" in listener.lines
    one, two = weights(home, "hana-one"), weights(home, "hana-two")
    assert all((one[name] == two[name]).all() for name in one)


def test_cancel_leaves_nothing(home: Paths, train: Train) -> None:
    with pytest.raises(Stopped) as stop:
        train(Listener(stop_at=2, stop="cancel"))
    assert not stop.value.kept
    assert not home.checkpoints.exists() or not list(home.checkpoints.iterdir())
    assert not (home.workspace / "run" / "trainer").exists()


def test_a_stopped_run_refuses_other_inputs(home: Paths, train: Train) -> None:
    with pytest.raises(Stopped):
        train(Listener(stop_at=4))
    with pytest.raises(UserError, match="changed since this run was stopped"):
        train(Listener(), learning_rate=0.002)
    profile = Profile(slug="hana", name="花", facts=FACTS, persona="別の人。")
    save_profile(home, profile)
    with pytest.raises(UserError, match="changed since this run was stopped"):
        train(Listener())


def test_the_best_epoch_is_kept(home: Paths, train: Train) -> None:
    """What the first epoch left is published if no later one is better, across a stop too."""
    with pytest.raises(Stopped):
        train(Listener(stop_at=7), keep="best", epochs=3)
    note = home.workspace / "run" / "trainer" / "best.json"
    best = read_json(note)
    assert best["step"] == 5
    write_json(note, {**best, "loss": 0.0})  # no epoch can be better
    train(Listener(), keep="best", epochs=3)
    assert read_json(note)["step"] == 5
    kept = load_file(note.with_name(best["file"]))
    published = weights(home, "hana-one")
    assert all((kept[n].bfloat16() == published[n]).all() for n in published)
    train(Listener(), folder="last", name="hana-two", epochs=3)
    last = weights(home, "hana-two")
    assert any((last[n] != published[n]).any() for n in published)


def test_the_compact_head_changes_nothing(
    home: Paths, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same losses and weights without reaching into trl (as with an unknown version)."""
    train(Listener(), folder="fast")
    monkeypatch.setattr("trl.__version__", "9.0.0")
    slow = Listener()
    train(slow, folder="slow", name="hana-two")
    assert any("compact head is not known" in line for line in slow.lines)
    one, two = weights(home, "hana-one"), weights(home, "hana-two")
    assert all((one[name] == two[name]).all() for name in one)


def test_every_question_is_asked_once_at_the_end_where_no_epoch_asks(train: Train) -> None:
    listener = Listener()
    train(listener, sample_each_epoch=False)
    assert len(listener.of("samples")) == 1


def test_killed_at_any_moment_it_ends_in_the_same_weights(home: Paths, train: Train) -> None:
    """kill -9 of the real process, twice, at steps that nobody chose; then to the end."""
    expected = train(Listener(), folder="whole", name="hana-whole", epochs=4)
    run = jobs.submit(home, "train", "hana-one", config(home, epochs=4, threads=1))
    for after in (2, 9):
        jobs.tick(home)
        _kill_after_step(home, run, after)
        jobs.resume(home, run)
    assert jobs.follow(home, run).status().state == "done", run.log_tail(2000)
    assert run.result()["held_out_loss"] == expected["held_out_loss"]
    one, two = weights(home, "hana-one"), weights(home, "hana-whole")
    assert all((one[name] == two[name]).all() for name in one)


def _kill_after_step(home: Paths, run: Run, step: int) -> None:
    deadline = time.monotonic() + 120
    while not any(e.kind == "metric" and e.data["step"] >= step for e in run.events()):
        assert time.monotonic() < deadline and not run.status().ended_, run.log_tail(2000)
        time.sleep(0.01)
    pid = run.stored_status().pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    while not run.status().ended_:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="trackio is optional")
def test_trackio_gets_the_curves_and_keeps_them_here(home: Paths, train: Train) -> None:
    train(Listener(), report_to="trackio")
    assert any((home.workspace / "trackio").rglob("*.db"))


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is optional")
def test_wandb_gets_the_curves(home: Paths, train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(Listener(), report_to="wandb")
    assert any((home.workspace / "run").rglob("*.wandb"))


# ── refusals ──────────────────────────────────────────────────────────────────────────────────────


def test_what_cannot_start_says_why(home: Paths, train: Train) -> None:
    import torch

    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="CUDA"):
            train(Listener(), quantization="nf4")
    for name in ("trackio", "wandb"):
        if importlib.util.find_spec(name) is None:
            with pytest.raises(UserError, match=f"pip install {name}"):
                train(Listener(), report_to=name)
    with pytest.raises(UserError, match="name one"):
        train(Listener(), template="auto")
    with pytest.raises(UserError, match=r"nobody\.jsonl does not exist"):
        train(Listener(), dataset="nobody")
    (home.checkpoints / "hana-one").mkdir(parents=True)
    with pytest.raises(UserError, match="already"):
        train(Listener())
    with pytest.raises(UserError, match=r"r: .*greater than or equal to 1"):
        TrainConfig.from_data({**config(home).model_dump(), "r": 0}, "train.yaml")
    with pytest.raises(UserError, match="held_out share above 0"):
        TrainConfig.from_data({**config(home).model_dump(), "held_out": 0, "keep": "best"}, "t")
    with pytest.raises(UserError, match="rank"):
        TrainConfig.from_data({**config(home).model_dump(), "rank": 8}, "train.yaml")


def test_presets_and_recipes_are_valid(paths: Paths, home: Paths) -> None:
    for preset in PRESETS.values():
        assert config(home, **preset).alpha == preset["alpha"]
    for name in ("parent-a", "parent-b", "magnus"):
        loaded = TrainConfig.load(paths.root / "recipes" / f"{name}.yaml")
        assert TrainConfig.model_validate(yaml.safe_load(loaded.to_yaml())) == loaded
        assert all(isinstance(sample, Question) for sample in loaded.samples)
