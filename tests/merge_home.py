"""What the tests of the Merge tab share: a small model with two adapters, and a quick evolution."""

from __future__ import annotations

from typing import Any

from chatting import add_adapter
from small_models import byte_tokenizer, save_model

from charllm.core.merging.evolve_config import EvolveConfig
from charllm.data.config import Paths
from charllm.data.files import write_json_lines
from charllm.data.queries import load_queries

EACH = 10
"""Questions in each split: the fewest that a search takes."""


def small_home(paths: Paths) -> Paths:
    """A small Llama that says one reply, two random adapters on it, thirty questions."""
    folder = paths.models / "tiny"
    tokenizer = byte_tokenizer(bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    tokenizer.save_pretrained(folder)
    chain = tokenizer("：はいですわ。", add_special_tokens=False)["input_ids"]
    save_model(folder, "llama", len(tokenizer), [*chain, tokenizer.eos_token_id])
    for seed, name in enumerate(("one", "two")):
        add_adapter(paths, name, folder, seed, module="o_proj", strength=0.3)
    queries = load_queries(paths.queries / "ayane.jsonl")
    splits = [
        [one for one in queries if one.split == name] for name in ("search", "selection", "report")
    ]
    rows = [one for split in splits for one in split[:EACH]]
    write_json_lines(paths.queries / "few.jsonl", [row.model_dump(mode="json") for row in rows])
    return paths


def evolve_config(**changes: Any) -> EvolveConfig:
    """Two generations of four, which take seconds."""
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
        "search": {"objective": "loss=1, score=0.5", "max_candidates": 8, "population": 4},
        "insist": True,
        "label_en": "Bred",
        "label_ja": "交配",
    }
    return EvolveConfig.from_data({**fields, **changes}, "the test")
