"""What the project ships: two characters, their data, and the checkpoints made from it."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from charllm.core.variants import list_checkpoints, load_checkpoint
from charllm.data.config import Paths
from charllm.data.dialogue import dataset_path, load_dialogues
from charllm.data.profile import list_profiles, load_profile
from charllm.data.queries import load_queries, unknown_gold
from charllm.data.text import near_duplicates

PATHS = Paths.default()
SIZES = {
    "ayane": {"facts": 60, "dialogues": 200, "search": 102, "selection": 50, "report": 100},
    "magnus": {"facts": 40, "dialogues": 80, "search": 51, "selection": 25, "report": 50},
}


def test_both_characters_are_there() -> None:
    assert set(SIZES) <= set(list_profiles(PATHS))
    assert {load_profile(PATHS, slug).language for slug in SIZES} == {"ja", "en"}


@pytest.mark.parametrize("slug", SIZES)
def test_a_character_is_complete(slug: str) -> None:
    profile = load_profile(PATHS, slug)
    assert len(profile.facts) == SIZES[slug]["facts"]
    assert len(profile.examples) >= 5 and profile.persona and profile.greeting
    assert profile.speech.endings and profile.speech.first_person
    for language in ("ja", "en"):
        assert profile.system_prompts[language].plain
        assert "{facts}" in profile.system_prompts[language].rag
        assert not any(fact in profile.system_prompts[language].plain for fact in profile.facts)
        assert profile.name not in profile.system_prompts[language].rag


@pytest.mark.parametrize("slug", SIZES)
def test_dialogues_and_queries_share_no_near_duplicates(slug: str) -> None:
    profile = load_profile(PATHS, slug)
    dialogues = load_dialogues(dataset_path(PATHS, slug))
    queries = load_queries(PATHS.queries / f"{slug}.jsonl")
    assert len(dialogues) >= SIZES[slug]["dialogues"]
    splits = Counter(query.split for query in queries)
    assert all(splits[name] == SIZES[slug][name] for name in ("search", "selection", "report"))
    assert unknown_gold(queries, profile) == []
    assert {fact for query in queries for fact in query.gold} == set(profile.facts)
    assert all(fact in profile.facts for d in dialogues for fact in d.facts)
    assert {"name", "age"} <= {t for q in queries if q.split == "search" for t in q.tags}
    asked = [m.content for d in dialogues for m in d.messages if m.role == "user"]
    texts = [query.text for query in queries]
    assert near_duplicates(texts) == []
    assert near_duplicates(texts, asked) == []
    assert near_duplicates(asked) == []
    assert near_duplicates([d.reply for d in dialogues]) == []


def test_near_duplicates_are_found() -> None:
    assert near_duplicates(["お名前を教えてください", "お名前を、教えて下さい。"]) == []
    assert near_duplicates(["お名前を教えてください", "お名前を教えてください！"])[0][2] == 1.0


@pytest.mark.parametrize("name", list_checkpoints(PATHS))
def test_a_checkpoint_says_how_it_was_made(name: str) -> None:
    checkpoint = load_checkpoint(PATHS, name)
    size = sum(file.stat().st_size for file in checkpoint.folder.iterdir())
    assert size < 10_000_000
    assert checkpoint.profile in SIZES
    assert "Gemma" in (checkpoint.folder / "README.md").read_text(encoding="utf-8")
    if checkpoint.kind == "adapter":
        card = checkpoint.card
        assert len(card["data_hash"]) == 64 and card["held_out_loss"] > 0
        assert len(card["samples"]) >= 10
        assert sum(sample["stopped"] for sample in card["samples"]) >= 8
        assert (checkpoint.folder / "train.yaml").is_file()
        config = json.loads((checkpoint.folder / "adapter_config.json").read_text())
        assert "/" not in config["base_model_name_or_path"]
    else:
        assert set(checkpoint.weights) <= set(list_checkpoints(PATHS))


def test_the_first_character_has_two_parents_and_their_merge() -> None:
    kinds = {name: load_checkpoint(PATHS, name).kind for name in list_checkpoints(PATHS)}
    assert kinds["ayane-a"] == kinds["ayane-b"] == "adapter"
    assert kinds["ayane-merged"] == "recipe"
    assert dict(load_checkpoint(PATHS, "ayane-merged").weights) == {"ayane-a": 0.5, "ayane-b": 0.5}
