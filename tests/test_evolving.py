"""An evolution on real parts: a small random model, two adapters, the embedded judge, a recipe."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
from chatting import add_adapter
from judge_server import error, serving
from small_models import byte_tokenizer, save_model

from charllm.core.merging.evolve_config import EvolveConfig
from charllm.core.merging.evolving import quote_evolve, run_evolve
from charllm.core.merging.journal import JOURNAL
from charllm.core.merging.recipe import MergeRecipe
from charllm.core.variants import find_variant
from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.data.files import read_json, write_json_lines
from charllm.data.progress import Paused, Silent, Stopped
from charllm.data.queries import load_queries

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
