"""Attention for one new token a row: two batched products over the keys and values.

torch's fused kernels are made for many queries; with one query, a mask and a hundred rows they
read the cache at a quarter of an H200's bandwidth. Heads that share keys (grouped queries) are
multiplied together, and so are rows whose prompts begin alike: their common beginning is read once
for all of them, as one matrix product (Juravsky et al. 2024, Hydragen). Scores are float32, as in
the fused kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from charllm.core.decoding_fused import fused

NAME = "charllm_one_token"
Beginnings = Sequence[tuple[Tensor, Tensor]]
"""Each layer's keys and values [groups, key heads, tokens, dim] of what a group's rows share."""

_beginnings: ContextVar[Beginnings] = ContextVar("beginnings", default=())


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
    ``attention_mask`` [rows, 1, 1, tokens], added to the scores. Gives [rows, 1, heads, dim].

    With beginnings of b tokens the mask is [rows, 1, 1, b + tokens], and the rows of a group stand
    one behind the other, as many in each.
    """
    rows, heads, _, dim = query.shape
    shared, tokens = key.shape[1], key.shape[2]
    together = heads // shared
    scale = dim**-0.5 if scaling is None else scaling
    keys, values = key.flatten(0, 1), value.flatten(0, 1)
    own = _product(query.reshape(rows * shared, together, dim), keys.transpose(1, 2))
    own = own.view(rows, shared, together, tokens)
    beginnings = _beginnings.get()
    if not beginnings:
        weighed = fused(_scaled)(own, attention_mask, scale).softmax(-1)
        shares = weighed.to(value.dtype)
        out = torch.bmm(shares.view(rows * shared, together, tokens), values)
        return out.reshape(rows, 1, heads, dim), None
    first_keys, first_values = beginnings[module.layer_idx]
    groups, begun = first_keys.shape[0], first_keys.shape[2]
    each = rows // groups
    asked = query.reshape(groups, each, shared, together, dim).transpose(1, 2)
    first = _product(
        asked.reshape(groups * shared, each * together, dim),
        first_keys.flatten(0, 1).transpose(1, 2),
    ).view(groups, shared, each, together, begun)
    shares = fused(_scaled_both)(first, own, attention_mask, scale).softmax(-1)
    first_shares, own_shares = fused(_split)(shares, begun, groups, value.dtype)
    first_out = _product(
        first_shares.view(groups * shared, each * together, begun), first_values.flatten(0, 1)
    ).view(groups, shared, each, together, dim)
    own_out = _product(own_shares.view(rows * shared, together, tokens), values)
    out = fused(_added)(first_out, own_out.view(rows, shared, together, dim), value.dtype)
    return out.reshape(rows, 1, heads, dim), None


def _scaled(scores: Tensor, mask: Tensor, scale: float) -> Tensor:
    return scores * scale + mask


def _scaled_both(first: Tensor, own: Tensor, mask: Tensor, scale: float) -> Tensor:
    """``first`` [groups, key heads, rows, together, b] and ``own`` [all rows, key heads, together,
    tokens] as [all rows, key heads, together, b + tokens]."""
    groups, shared, each, together, begun = first.shape
    by_row = first.transpose(1, 2).reshape(groups * each, shared, together, begun)
    return torch.cat([by_row, own], -1) * scale + mask


def _split(shares: Tensor, begun: int, groups: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What ``_scaled_both`` put together, in the two shapes it had."""
    rows, shared, together, _ = shares.shape
    first = shares[..., :begun].reshape(groups, rows // groups, shared, together, begun)
    return (
        first.transpose(1, 2).to(dtype).contiguous(),
        shares[..., begun:].to(dtype).contiguous(),
    )


def _added(first: Tensor, own: Tensor, dtype: torch.dtype) -> Tensor:
    """The two parts [groups, key heads, rows, together, dim] and [all rows, key heads, together,
    dim] of the rows' outputs, as the latter."""
    return (first.transpose(1, 2).reshape(own.shape) + own).to(dtype)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """In float32 also where ``a`` and ``b`` are not: rounded scores are other scores."""
    if a.device.type == "cuda" and a.dtype.itemsize == 2:
        product: Tensor = torch.bmm(a, b, out_dtype=torch.float32)
        return product
    return torch.bmm(a, b) if a.dtype == torch.float64 else torch.bmm(a.float(), b.float())


ALL_ATTENTION_FUNCTIONS.register(NAME, one_token)


def replaceable(model: Any) -> bool:
    """Whether the model runs torch's plain attention, which ``one_token`` can stand for."""
    implementation: str = model.config.get_text_config()._attn_implementation
    return implementation == "sdpa"


@contextmanager
def one_token_attention(model: Any, beginnings: Beginnings = ()) -> Iterator[None]:
    """Within, a model with torch's plain attention runs ``one_token``; others stay as they are.

    ``beginnings`` only for a model that is ``replaceable``.
    """
    config = model.config.get_text_config()
    before = config._attn_implementation
    if before == "sdpa":
        config._attn_implementation = NAME
    token = _beginnings.set(beginnings)
    try:
        yield
    finally:
        _beginnings.reset(token)
        config._attn_implementation = before
