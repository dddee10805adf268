"""Attention for one new token a row: two batched products over the keys and values.

torch's fused kernels are made for many queries; with one query, a mask and a hundred rows they
read the cache at a quarter of an H200's bandwidth. Heads that share keys (grouped queries) are
multiplied together. Scores are float32, as in the fused kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "charllm_one_token"


def one_token(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """``query`` [rows, heads, 1, dim], ``key`` and ``value`` [rows, key heads, tokens, dim],
    ``attention_mask`` [rows, 1, 1, tokens], added to the scores. Gives [rows, 1, heads, dim]."""
    rows, heads, _, dim = query.shape
    shared, tokens = key.shape[1], key.shape[2]
    together = heads // shared
    keys, values = key.flatten(0, 1), value.flatten(0, 1)
    scores = _product(query.reshape(rows * shared, together, dim), keys.transpose(1, 2))
    scores = scores * (dim**-0.5 if scaling is None else scaling)
    scores = scores.view(rows, shared, together, tokens) + attention_mask
    shares = scores.softmax(-1).to(value.dtype).view(rows * shared, together, tokens)
    return torch.bmm(shares, values).view(rows, 1, heads, value.shape[-1]), None


def _product(a: Tensor, b: Tensor) -> Tensor:
    """In float32 also where ``a`` and ``b`` are not: rounded scores are other scores."""
    if a.device.type == "cuda" and a.dtype != torch.float32:
        product: Tensor = torch.bmm(a, b, out_dtype=torch.float32)
        return product
    return torch.bmm(a.float(), b.float())


ALL_ATTENTION_FUNCTIONS.register(NAME, one_token)


@contextmanager
def one_token_attention(model: Any) -> Iterator[None]:
    """Within, a model with torch's plain attention runs ``one_token``; others stay as they are."""
    config = model.config.get_text_config()
    before = config._attn_implementation
    if before == "sdpa":
        config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
