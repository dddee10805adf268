"""Decoding in kept memory gives the replies of the growing cache, whatever was decoded before."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from test_adapters import save_adapter, tiny_model
from test_generation import MODELS, bytes_tokenizer

from charllm.core.decoding_space import DecodingSpace
from charllm.core.decoding_text import Pieces, TextStream
from charllm.core.generation import Done, GenerationPreset, Request, generate_all
from charllm.core.merging.adapters import AdapterModel

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device here"))]  # fmt: skip


def questions(count: int, seed: int = 0, scales: Sequence[Any] = (None,)) -> list[Request]:
    """Prompts of many lengths, some sampled; most replies end early, a few run on."""
    draw = random.Random(seed)
    beginning = [draw.randrange(1, 120) for _ in range(9)]
    made = []
    for at in range(count):
        preset = GenerationPreset(
            max_new_tokens=40,
            repetition_guard=False,
            temperature=(0.0, 0.9, 0.7)[at % 3],
            top_k=(0, 0, 20)[at % 3],
            seed=at,
        )
        tail = [draw.randrange(1, 120) for _ in range(draw.randrange(1, 12))]
        ends = frozenset(range(100, 128)) if at % 5 else frozenset({0})
        made.append(
            Request(str(at), beginning + tail, scales[at % len(scales)], preset, ends, ("ZZ",))
        )
    return made


def same(found: Sequence[Done], wanted: Sequence[Done]) -> None:
    assert [(d.token_ids, d.text, d.reason) for d in found] == [
        (d.token_ids, d.text, d.reason) for d in wanted
    ]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", MODELS)
def test_replies_are_those_of_the_growing_cache(name: str, device: str) -> None:
    model, tokenizer = MODELS[name]().to(device), bytes_tokenizer()
    space = DecodingSpace()
    for seed, count in enumerate((70, 3, 40, 70)):
        asked = questions(count, seed)
        plain = generate_all(model, tokenizer, asked)
        assert len({d.reason for d in plain}) > 1, "some end early, some run on"
        same(generate_all(model, tokenizer, asked, space), plain)
    space.close()
    same(generate_all(model, tokenizer, asked, space), plain)


@pytest.mark.parametrize("device", DEVICES)
def test_weights_may_change_between_calls(device: str) -> None:
    """In place, as a blend does, and by rows, as adapters do; also where an adapter is left out."""
    model, tokenizer, space = tiny_model().to(device), bytes_tokenizer(), DecodingSpace()
    asked, seen = questions(40), set()
    for seed in range(3):
        with torch.no_grad():
            torch.manual_seed(seed)
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
        plain = generate_all(model, tokenizer, asked)
        same(generate_all(model, tokenizer, asked, space), plain)
        seen.add(str([d.token_ids for d in plain]))
    assert len(seen) == 3


@pytest.mark.parametrize("device", DEVICES)
def test_rows_of_adapters(tmp_path: Path, device: str) -> None:
    for seed, name in enumerate("ab"):
        save_adapter(tmp_path / name, seed)
    engine, tokenizer, space = AdapterModel(tiny_model().to(device)), bytes_tokenizer(), None
    for name in "ab":
        engine.load(name, tmp_path / name)
    space = DecodingSpace()
    mixtures = [{"a": 0.5, "b": 0.5}, {"a": 0.2, "b": 0.8}, {"a": 1.0}, {"a": 0.9, "b": 0.1}]
    for rows in ([m] for m in mixtures):
        asked = questions(40, scales=[engine.row(row) for row in rows])
        same(generate_all(engine, tokenizer, asked, space), generate_all(engine, tokenizer, asked))
    asked = questions(50, scales=[None, *(engine.row(row) for row in mixtures), None])
    same(generate_all(engine, tokenizer, asked, space), generate_all(engine, tokenizer, asked))


@pytest.mark.parametrize("stops", [(), ("。質",), ("c\n", "い、"), ("わ",), ("zz ", "で")])
def test_text_that_nobody_watches_is_the_same(stops: tuple[str, ...]) -> None:
    """Made where a stop string may be complete, and at the end; also within a cut character."""
    tokenizer = bytes_tokenizer()
    ids = [*"はい、zz ですわ。質問：abc\nです".encode(), 0xE3, 0x81]
    for start in range(len(ids)):
        watched, lazy = (
            TextStream(tokenizer, stops),
            TextStream(tokenizer, stops, Pieces(tokenizer)),
        )
        for token in ids[start:]:
            watched.push(token)
            lazy.push(token)
            assert lazy.stopped == watched.stopped
        watched.finish()
        lazy.finish()
        assert lazy.text == watched.text
