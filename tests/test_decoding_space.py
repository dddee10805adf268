"""Decoding in kept memory gives the replies of the growing cache, whatever was decoded before."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_adapters import save_adapter, tiny_model
from test_generation import MODELS, bytes_tokenizer

from charllm.core.decoding_fused import norm_like
from charllm.core.decoding_space import DecodingSpace
from charllm.core.decoding_text import Pieces, TextStream
from charllm.core.generation import Done, GenerationPreset, Request, generate_all
from charllm.core.merging.adapters import AdapterModel

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device here"))]  # fmt: skip


def questions(
    count: int, seed: int = 0, scales: Sequence[Any] = (None,), begun: int = 9, new: int = 40
) -> list[Request]:
    """Prompts of many lengths, some sampled; most replies end early, a few run on."""
    draw = random.Random(seed)
    beginning = [draw.randrange(1, 120) for _ in range(begun)]
    made = []
    for at in range(count):
        preset = GenerationPreset(
            max_new_tokens=new,
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


def on(model: Any, device: str) -> Any:
    """In float64 on an accelerator: its sums in another order could draw another token."""
    return model.to(device, torch.float64 if device == "cuda" else torch.float32)


def same(found: Sequence[Done], wanted: Sequence[Done]) -> None:
    assert [(d.token_ids, d.text, d.reason) for d in found] == [
        (d.token_ids, d.text, d.reason) for d in wanted
    ]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", MODELS)
def test_replies_are_those_of_the_growing_cache(name: str, device: str) -> None:
    model, tokenizer = on(MODELS[name](), device), bytes_tokenizer()
    space = DecodingSpace()
    for seed, count in enumerate((70, 3, 40, 70)):
        asked = questions(count, seed)
        plain = generate_all(model, tokenizer, asked)
        assert len({d.reason for d in plain}) > 1, "some end early, some run on"
        same(generate_all(model, tokenizer, asked, space), plain)
    space.close()
    same(generate_all(model, tokenizer, asked, space), plain)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", MODELS)
def test_a_shared_beginning_and_growing_replies(name: str, device: str) -> None:
    """The beginning is kept once; replies longer than the first buffers are read in full."""
    model, tokenizer = on(MODELS[name](), device), bytes_tokenizer()
    space = DecodingSpace()
    for seed, (count, begun, new) in enumerate(((40, 50, 40), (20, 70, 130), (33, 9, 130))):
        asked = questions(count, seed, begun=begun, new=new)
        same(generate_all(model, tokenizer, asked, space), generate_all(model, tokenizer, asked))
        kept = {layout.begun for layout, *_ in space._shapes}
        assert begun // 16 * 16 in kept if begun > 32 else 0 in kept
    assert len({tokens for _, tokens, _ in space._shapes}) > 2, "the slots grew with the replies"


@pytest.mark.parametrize("device", DEVICES)
def test_likeliest_tokens_go_on_by_themselves(device: str) -> None:
    """Without sampling an accelerator computes ahead: the same replies, however they end."""
    model, tokenizer = on(tiny_model(), device), bytes_tokenizer()
    space = DecodingSpace(long=True)
    greedy = GenerationPreset(max_new_tokens=90, repetition_guard=False)
    for seed in range(3):
        asked = [replace(one, preset=greedy) for one in questions(48, seed, begun=9 + 30 * seed)]
        plain = generate_all(model, tokenizer, asked)
        same(generate_all(model, tokenizer, asked, space), plain)
        same(generate_all(model, tokenizer, asked, space), plain)


@pytest.mark.parametrize("device", DEVICES)
def test_weights_may_change_between_calls(device: str) -> None:
    """In place, as a blend does, and by rows, as adapters do; also where an adapter is left out."""
    model, tokenizer, space = on(tiny_model(), device), bytes_tokenizer(), DecodingSpace()
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
def test_a_blend_that_is_no_number_costs_only_itself(device: str) -> None:
    """What it left in the buffers does not reach the next candidate's replies."""
    model, tokenizer, space = on(tiny_model(), device), bytes_tokenizer(), DecodingSpace()
    asked = questions(40, begun=40)
    plain = generate_all(model, tokenizer, asked)
    weight = next(model.model.layers[0].parameters())
    sound = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(torch.nan)
        greedy = GenerationPreset(max_new_tokens=40, repetition_guard=False)
        generate_all(model, tokenizer, [replace(one, preset=greedy) for one in asked], space)
        weight.copy_(sound)
    same(generate_all(model, tokenizer, asked, space), plain)


@pytest.mark.parametrize("device", DEVICES)
def test_rows_of_adapters(tmp_path: Path, device: str) -> None:
    for seed, name in enumerate("ab"):
        save_adapter(tmp_path / name, seed)
    engine, tokenizer, space = AdapterModel(on(tiny_model(), device)), bytes_tokenizer(), None
    for name in "ab":
        engine.load(name, tmp_path / name)
    space = DecodingSpace()
    mixtures = [{"a": 0.5, "b": 0.5}, {"a": 0.2, "b": 0.8}, {"a": 1.0}, {"a": 0.9, "b": 0.1}]
    for rows in ([m] for m in mixtures):
        asked = questions(40, scales=[engine.row(row) for row in rows])
        same(generate_all(engine, tokenizer, asked, space), generate_all(engine, tokenizer, asked))
    asked = questions(50, scales=[None, *(engine.row(row) for row in mixtures), None])
    same(generate_all(engine, tokenizer, asked, space), generate_all(engine, tokenizer, asked))
    # Candidates that are asked the same: a group of rows each, some of which end before others.
    asked = questions(64, scales=[engine.row(row) for row in mixtures], begun=40)
    same(generate_all(engine, tokenizer, asked, space), generate_all(engine, tokenizer, asked))
    groups = {(layout.groups, layout.begun) for layout, *_ in space._shapes}
    assert (4, 32) in groups


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_normalisation_in_parts_gives_the_models_numbers(name: str, dtype: torch.dtype) -> None:
    model = MODELS[name]().to(dtype)
    norms = [m for m in model.modules() if type(m).__name__.endswith("RMSNorm")]
    assert norms
    torch.manual_seed(0)
    for module in norms:
        with torch.no_grad():
            module.weight.add_(torch.randn_like(module.weight))
        x = torch.randn(3, 5, len(module.weight), dtype=dtype)
        found = norm_like(module)
        assert found is not None
        assert torch.equal(found(module, x), module(x))


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
