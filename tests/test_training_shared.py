"""A batch that shares its prefix: the same loss and the same gradients as separate rows."""

from __future__ import annotations

from typing import Any

import pytest

from charllm.core.training_shared import attention_masks, can_share, common_prefix, share, visible
from charllm.data.prompts import Row

SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
}
WINDOW = {"sliding_window": 11}


def build(family: str) -> Any:
    import torch
    from transformers import (
        Gemma2Config,
        Gemma2ForCausalLM,
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        LlamaConfig,
        LlamaForCausalLM,
        MistralConfig,
        MistralForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    made = {
        "llama": (LlamaForCausalLM, LlamaConfig(**SMALL)),
        "mistral": (MistralForCausalLM, MistralConfig(**SMALL, sliding_window=None)),
        "mistral-sliding": (MistralForCausalLM, MistralConfig(**SMALL, **WINDOW)),
        "gemma-2": (Gemma2ForCausalLM, Gemma2Config(**SMALL, **WINDOW)),
        "gemma-3": (Gemma3ForCausalLM, Gemma3TextConfig(**SMALL, **WINDOW)),
        "qwen-2": (Qwen2ForCausalLM, Qwen2Config(**SMALL)),
        "qwen-3": (Qwen3ForCausalLM, Qwen3Config(**SMALL)),
    }
    torch.manual_seed(0)
    model_class, config = made[family]
    return model_class(config).eval()


def rows(prefix: int = 23) -> list[Row]:
    """Rows with one prefix and rests of different lengths; two of them share even the question."""
    import random

    rng = random.Random(1)

    def some(count: int) -> list[int]:
        return [rng.randrange(3, 97) for _ in range(count)]

    system, question = some(prefix), some(6)
    made = []
    for asked, reply in (
        (question, some(5)),
        (question, some(9)),
        (some(4), some(3)),
        (some(11), some(14)),
    ):
        prompt = system + asked
        reply = [*reply, 2]
        made.append(Row(prompt + reply, [-100] * len(prompt) + reply))
    return made


def loss_and_gradients(model: Any, run: Any) -> tuple[float, dict[str, Any]]:
    model.zero_grad()
    loss = run()
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters()}


def summed(logits: Any, labels: Any) -> Any:
    import torch

    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
    )


@pytest.mark.parametrize(
    "family",
    ["llama", "mistral", "mistral-sliding", "gemma-2", "gemma-3", "qwen-2", "qwen-3"],
)
def test_loss_and_gradients_are_those_of_separate_rows(family: str) -> None:
    import torch

    model, data = build(family), rows()
    assert can_share(model)
    learnt = sum(label != -100 for row in data for label in row.labels)

    def apart() -> Any:
        total = 0
        for row in data:
            ids, labels = torch.tensor([row.input_ids]), torch.tensor([row.labels])
            total = total + summed(model(input_ids=ids).logits, labels)
        return total / learnt

    def together() -> Any:
        batch = share(data)
        logits = model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            attention_mask=attention_masks(model, batch, torch.float32),
            use_cache=False,
        ).logits
        return summed(logits, batch.labels) / learnt

    expected, wanted = loss_and_gradients(model, apart)
    loss, gradients = loss_and_gradients(model, together)
    assert abs(loss - expected) < 1e-5
    for name, gradient in gradients.items():
        scale = wanted[name].abs().max().item()
        assert (gradient - wanted[name]).abs().max().item() <= 1e-4 * max(scale, 1e-3), name


def test_the_prefix_is_computed_once_and_ends_before_what_is_learnt() -> None:
    data = rows()
    assert common_prefix(data) == 23
    same = data[:2]  # one question, two replies: the token before the first learnt one stays
    assert common_prefix(same) == 23 + 6 - 1
    batch = share(data)
    assert batch.input_ids.shape[1] % 8 == 0
    own = sum(len(row.input_ids) for row in data)
    assert batch.input_ids.shape[1] - own < 8 - 3 * 23 + 1


def test_a_row_sees_the_prefix_and_itself_alone() -> None:
    batch = share(rows(), multiple=1)
    seen = visible(batch.segments, batch.position_ids)[0, 0]
    segments = batch.segments[0].tolist()
    for query, mine in enumerate(segments):
        for key, theirs in enumerate(segments):
            assert bool(seen[query, key]) == (key <= query and theirs in (0, mine))


def test_a_model_that_cannot_be_told_is_named() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=97, n_embd=16, n_layer=1, n_head=2)
    assert not can_share(GPT2LMHeadModel(config))
    model = build("llama")
    model.config._attn_implementation = "flash_attention_2"
    assert not can_share(model)
