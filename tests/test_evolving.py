"""An evolution on real parts: a small random model, two adapters, the embedded judge, a recipe."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from chatting import add_adapter
from judge_server import Reply, error, serving
from safetensors.torch import load_file, save_file
from small_models import byte_tokenizer, save_model

from charllm.core.merging.budget import raise_budget, raised
from charllm.core.merging.evolve_config import EvolveConfig
from charllm.core.merging.evolving import quote_evolve, run_evolve
from charllm.core.merging.journal import JOURNAL
from charllm.core.merging.recipe import MergeRecipe
from charllm.core.variants import find_variant
from charllm.data.config import Paths, dump_yaml
from charllm.data.errors import UserError
from charllm.data.files import read_json, write_json_lines
from charllm.data.progress import Paused, Silent, Stopped
from charllm.data.queries import load_queries

UNPRICED = {"kind": "endpoint", "model": "judge-1", "base_url": "https://judge.invalid/v1"}
QUERIES = {"search": 10, "selection": 10, "report": 10}


class Watcher(Silent):
    """Remembers events; cancels after so many candidates."""

    def __init__(self, cancel_after: int = 0) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.cancel_after = cancel_after

    def event(self, kind: str, **data: Any) -> None:
        json.dumps(data)
        self.events.append((kind, data))

    def stop_requested(self) -> Any:
        seen = sum(kind == "candidate" for kind, _ in self.events)
        return "cancel" if self.cancel_after and seen >= self.cancel_after else ""


@pytest.fixture
def home(paths: Paths) -> Paths:
    """A small Llama that says one reply, two random adapters on it, thirty questions."""
    folder = paths.models / "tiny"
    tokenizer = byte_tokenizer(bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    tokenizer.save_pretrained(folder)
    chain = tokenizer("：はいですわ。", add_special_tokens=False)["input_ids"]
    save_model(folder, "llama", len(tokenizer), [*chain, tokenizer.eos_token_id])
    for seed, name in enumerate(("one", "two")):
        add_adapter(paths, name, folder, seed, module="o_proj", strength=0.3)
    queries = load_queries(paths.queries / "ayane.jsonl")
    rows = [q for split, n in QUERIES.items() for q in [q for q in queries if q.split == split][:n]]
    write_json_lines(paths.queries / "few.jsonl", [row.model_dump(mode="json") for row in rows])
    return paths


def config(**changes: Any) -> EvolveConfig:
    fields = {
        "name": "bred",
        "profile": "ayane",
        "parents": [f"workspace/models/tiny+checkpoints/{name}" for name in ("one", "two")],
        "group_size": 1,
        "queries": "few",
        "rag": False,
        "template": "plain-ja",
        "preset": {"max_new_tokens": 6, "temperature": 0.7},
        "lines": "ayane",
        "search": {
            "objective": "loss=1, score=0.5",
            "max_candidates": 8,
            "population": 4,
            "seed": 3,
        },
        "insist": True,
        "label_en": "Bred",
        "label_ja": "交配",
        **changes,
    }
    return EvolveConfig.from_data(fields, "the test")


def evolve(home: Paths, folder: str, watcher: Watcher, **changes: Any) -> dict[str, Any]:
    return run_evolve(config(**changes), watcher, home.workspace / folder, home)


def test_an_evolution_ends_in_a_recipe_that_chat_can_load_and_says_what_it_is_worth(
    home: Paths,
) -> None:
    asked = quote_evolve(config(), home)
    assert asked["plan"]["engine"] == "adapter" and asked["groups"] == ["layers 0-0", "layers 1-1"]
    assert asked["candidates"] == 8 and asked["replies"] > 8 * 3
    watcher = Watcher()
    result = evolve(home, "run", watcher)
    out = home.checkpoints / "bred"
    assert result["out"] == str(out) and result["candidates"] == 8
    assert result["over_uniform"] in ("yes", "no", "cannot tell")
    report = read_json(out / "report.json")
    ids = {row["id"] for row in report["rows"]}
    assert {"uniform", "parent-1", "parent-2", "mean"} <= ids
    reported = [row for row in report["rows"] if row["report"]]
    assert all(
        {"loss", "score", "gate", "stopped"} <= r["report"]["parts"].keys() for r in reported
    )
    assert all(text["en"] and text["ja"] for text in report["told"])
    assert report["quality"]["insisted"], "nobody has checked this judge"
    recipe = MergeRecipe.load(out / "recipe.yaml")
    assert all(parent in recipe.to_yaml() for parent in config().parents)
    assert find_variant(home, "ayane", "bred").label.ja == "交配"
    lines = [json.loads(line) for line in (home.workspace / "run/search" / JOURNAL).open()]
    notes = [one["note"] for row in lines for one in row["outcomes"] if one["note"]]
    assert notes and all(isinstance(note, str) for note in notes)
    kinds = [kind for kind, _ in watcher.events]
    assert kinds[0] == "plan" and {"generation", "candidate", "chosen", "reported"} <= set(kinds)


def test_a_cancelled_evolution_goes_on_to_the_same_result(home: Paths) -> None:
    whole = evolve(home, "whole", Watcher())
    shutil.rmtree(home.checkpoints / "bred")
    for seen in (2, 5):
        with pytest.raises(Stopped):
            evolve(home, "parts", Watcher(cancel_after=seen))
        assert not (home.checkpoints / "bred").exists()
    again = evolve(home, "parts", Watcher())
    assert {**again, "spent": 0} == {**whole, "spent": 0}
    one, two = (
        [_without_time(line) for line in (home.workspace / name / "search" / JOURNAL).open()]
        for name in ("whole", "parts")
    )
    assert one == two


def _without_time(line: str) -> Any:
    row = json.loads(line)
    for outcome in row["outcomes"]:
        outcome.pop("seconds")
    return row


def test_one_batch_or_one_after_another_say_the_same(home: Paths) -> None:
    """Candidates that share a batch get the replies and losses that each gets alone."""
    found = []
    for rows in (64, 1):
        greedy = {"rows": rows, "preset": {"max_new_tokens": 6}, "replace": True}
        evolve(home, f"rows-{rows}", Watcher(), **greedy)
        lines = (home.workspace / f"rows-{rows}" / "search" / JOURNAL).open()
        baselines = [row for row in map(json.loads, lines) if row["role"] != "candidate"][:7]
        found.append([one for row in baselines for one in row["outcomes"]])
    assert [one["note"] for one in found[0]] == [one["note"] for one in found[1]]
    losses = [[one["parts"]["loss"] for one in part if "loss" in one["parts"]] for part in found]
    assert losses[0] == pytest.approx(losses[1]) and len(set(losses[0])) > 10


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"insist": False}, "never checked"),
        ({"queries": "nothing"}, "nothing.jsonl"),
        ({"parents": ["workspace/models/tiny+checkpoints/one"] * 2}, "two different parents"),
        ({"lines": ""}, "loss needs lines"),
        ({"search": {"objective": "beauty=1"}}, "beauty"),
        ({"search": {"objective": "score=-1"}}, "score=-1"),
        ({"name": "one"}, "already"),
        ({"name": "tiny"}, "models/tiny"),
        ({"name": "one", "replace": True}, "only an earlier merge"),
        ({"method": "nonsense"}, "mergekit does not know"),
        ({"method": "model_stock"}, "takes no weights"),
        ({"method": "della"}, "does not take these parents"),
        ({"search": {"max_money": 1}, "judge": UNPRICED}, "judge.price_in"),
    ],
)
def test_what_cannot_be_evolved_says_why(home: Paths, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        evolve(home, "run", Watcher(), **changes)
    assert not (home.checkpoints / "bred").exists()


def test_a_judge_without_quota_pauses_and_blames_no_candidate(home: Paths) -> None:
    with serving(lambda asked: error(429, "insufficient_quota")) as server:
        judge = {"kind": "endpoint", "model": "judge-1", "base_url": server.url}
        with pytest.raises(Paused):
            evolve(home, "run", Watcher(), judge=judge)
        assert server.requests > 0
    journal = home.workspace / "run/search" / JOURNAL
    assert not journal.exists() or not journal.read_text(encoding="utf-8")


def test_a_budget_that_paused_a_run_can_be_raised_for_it(home: Paths) -> None:
    with serving(lambda asked: Reply(content="評価: 6")) as server:
        judge = {"kind": "endpoint", "model": "judge-1", "base_url": server.url, "in_flight": 1}
        began = {"max_candidates": 4, "population": 4, "max_calls": 6}
        changes: dict[str, Any] = {"judge": judge, "search": began, "lines": ""}
        with pytest.raises(Paused, match=r"runs resume RUN --set search\.max_calls"):
            evolve(home, "run", Watcher(), **changes)
        asked = server.requests
        search, folder = config(**changes).search, home.workspace / "run"
        for text, words in (
            ("search.max_calls=5", "can only be raised, and it is 6"),
            ("search.seed=5", "fork it"),
            ("search.max_hours=2", "without limit"),
            ("search.max_calls=many", "max_calls"),
        ):
            with pytest.raises(UserError, match=words):
                raise_budget(search, folder, [text])
        with pytest.raises(Paused):  # nothing has changed, and nothing is asked twice
            evolve(home, "run", Watcher(), **changes)
        assert server.requests == asked
        raise_budget(search, folder, ["search.max_calls=400"])
        assert raised(search, folder).max_calls == 400
        done = evolve(home, "run", Watcher(), **changes)
    assert done["candidates"] == 4 and 6 < done["spent"]["calls"] <= 400


def test_killed_while_it_is_published_it_goes_on(home: Paths, monkeypatch: Any) -> None:
    def killed(*_: Any) -> None:
        raise SystemExit

    monkeypatch.setattr("charllm.core.merging.evolving.shutil.copy", killed)
    with pytest.raises(SystemExit):
        evolve(home, "run", Watcher())
    assert (home.checkpoints / "bred").is_dir() and not (
        home.checkpoints / "bred/report.json"
    ).is_file()
    monkeypatch.undo()
    with pytest.raises(UserError, match="already"):  # to anybody else the name is taken
        evolve(home, "another", Watcher())
    evolve(home, "run", Watcher())
    assert (home.checkpoints / "bred/report.json").is_file()


@pytest.mark.parametrize("method", ["ties", "dare_linear", "nuslerp"])
def test_other_methods_go_from_the_parents_to_a_model(home: Paths, method: str) -> None:
    """Full models on a base, with a density that is searched, and by mergekit itself."""
    for seed, name in enumerate(("left", "right")):
        shutil.copytree(home.models / "tiny", home.models / name)
        file = home.models / name / "model.safetensors"
        torch.manual_seed(seed)
        noisy = {k: v + 0.02 * torch.randn_like(v) for k, v in load_file(file).items()}
        save_file(noisy, file, metadata={"format": "pt"})
    done = evolve(
        home,
        "run",
        Watcher(),
        parents=["workspace/models/left", "workspace/models/right"],
        method=method,
        base="" if method == "nuslerp" else "workspace/models/tiny",
        search={"objective": "loss=1", "max_candidates": 4, "population": 4},
    )
    rows = [
        json.loads(line)
        for line in (home.workspace / "run/search" / JOURNAL).read_text("utf-8").splitlines()
    ]
    members = [row["coefficients"] for row in rows if row["role"] == "candidate"]
    assert {one["method"] for one in members} == {method}
    densities = {one["extra"].get("density") for one in members}
    assert len(densities) == 4 if method != "nuslerp" else densities == {None}
    assert Path(done["out"], "model.safetensors").is_file() and not any(
        row["failure"] for row in rows
    )


def test_lines_that_a_parent_was_trained_on_are_refused(home: Paths) -> None:
    trained = {"name": "one", "profile": "ayane", "dataset": "ayane", "half": "a"}
    text = dump_yaml({**trained, "held_out": 0.05, "split_seed": 0})
    (home.checkpoints / "one" / "train.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(
        UserError, match=r"one was trained on .* lines_held_out to 0\.05 or less"
    ) as it:
        quote_evolve(config(lines_held_out=0.1), home)
    assert "学習しています" in it.value.text.ja
    with pytest.raises(UserError, match="lines_seed"):
        quote_evolve(config(lines_held_out=0.05, lines_seed=1), home)
    assert quote_evolve(config(lines_held_out=0.05), home)["candidates"] == 8


def test_the_demo_s_parents_have_not_seen_its_lines(paths: Paths, base_folder: Path) -> None:
    demo = EvolveConfig.load(paths.root / "recipes" / "demo.yaml")
    linked = paths.models / base_folder.name
    linked.parent.mkdir(parents=True, exist_ok=True)
    if not linked.exists():
        linked.symlink_to(base_folder)
    quote_evolve(demo.model_copy(update={"name": "mine"}), paths)
