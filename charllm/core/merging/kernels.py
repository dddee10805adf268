"""The arithmetic of a blend over flat buffers: read each parent once, accumulate in float32, round
once, write in place.

Buffers are [blocks, BLOCK] views; no tensor shares a block with another, so that one number a
block is one number a tensor. Numbers come as float32 [parents, blocks, 1], or [parents, 1, 1]
where all blocks share them. On a GPU, and on a CPU with a C++ compiler, each kernel is one fused
loop (``torch.compile``); elsewhere the same function runs over pieces that fit a cache.
"""

from __future__ import annotations

import functools
import importlib.util
import shutil
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

BLOCK = 1024
_EAGER_BLOCKS = 512  # half a million elements: what a core's cache holds of a few buffers
_FUSED_BLOCKS = 2**19  # half a billion elements: their offsets fit 32 bits
_EXACT_SIZES = 16
"""On CUDA a kernel made for one size is up to 1.4 times faster than one for any size. Groups of
layers are equally large, so few sizes occur; beyond this many, the one for any size is used."""


def add_weighted(out: Tensor, xs: Sequence[Tensor], weights: Tensor) -> None:
    """``out = Σ w_k x_k``: linear, slerp (with slerp's two factors) and task arithmetic (with the
    base among ``xs``)."""
    total = xs[0].float() * weights[0]
    for k in range(1, len(xs)):
        total = total + xs[k].float() * weights[k]
    out.copy_(total)


def add_trimmed(
    out: Tensor,
    base: Tensor,
    xs: Sequence[Tensor],
    weights: Tensor,
    least: Tensor,
    factor: Tensor,
    normalize: bool,
) -> None:
    """TIES (Yadav et al., arXiv 2306.01708): of each delta what is at least ``least`` in size,
    then the agreeing ones' sum. ``factor`` [blocks, 1] is λ."""
    start = base.float()
    deltas = []
    for k in range(len(xs)):
        delta = xs[k].float() - start
        deltas.append(torch.where(delta.abs() >= least[k], delta, 0.0))
    out.copy_(start + factor * mixed(deltas, weights, normalize, agreeing=True))


def add_thinned(
    out: Tensor,
    base: Tensor,
    xs: Sequence[Tensor],
    draws: Sequence[Tensor],
    weights: Tensor,
    below: Tensor,
    rescale: Tensor,
    factor: Tensor,
    normalize: bool,
    agreeing: bool,
) -> None:
    """DARE (Yu et al., arXiv 2311.03099): of each delta what was drawn, times ``rescale``.

    ``draws[k]`` are bytes, uniform in 0 … 255; those smaller than ``below`` keep their delta.
    """
    start = base.float()
    deltas = []
    for k in range(len(xs)):
        delta = (xs[k].float() - start) * rescale[k]
        deltas.append(torch.where(draws[k].float() < below[k], delta, 0.0))
    out.copy_(start + factor * mixed(deltas, weights, normalize, agreeing))


def mixed(deltas: Sequence[Tensor], weights: Any, normalize: bool, agreeing: bool) -> Tensor:
    """The weighted sum of deltas in float32.

    ``agreeing``: only those whose weighted sign is the sum's (zero counts as plus).
    ``normalize``: divided by the weights that took part, or by 1 where these sum to zero.
    """
    parts = [delta * weights[k] for k, delta in enumerate(deltas)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    if not agreeing:
        if not normalize:
            return total
        weight = sum(weights[k] for k in range(len(deltas)))
        return total / torch.where(torch.as_tensor(weight).abs() < 1e-8, 1.0, weight)
    sign = torch.where(total >= 0, 1.0, -1.0)
    agreed = torch.zeros_like(total)
    shares = torch.zeros_like(total)
    for k, part in enumerate(parts):
        same = torch.sign(part) == sign
        agreed = agreed + torch.where(same, part, 0.0)
        shares = shares + torch.where(same, weights[k], 0.0)
    if not normalize:
        return agreed
    return agreed / torch.where(shares == 0, 1.0, shares)


def can_compile(device: torch.device) -> bool:
    """Whether ``torch.compile`` has what it needs here: triton, or a C++ compiler."""
    if device.type == "cuda":
        return importlib.util.find_spec("triton") is not None
    return device.type == "cpu" and any(map(shutil.which, ("g++", "c++", "clang++")))


@functools.cache
def _fused(kernel: Callable[..., None], size: str) -> Callable[..., None]:
    """For one size of the arguments, or "" for any."""
    if size:  # torch compiles one function for a limited number of sizes: each gets its own
        code = kernel.__code__.replace(co_name=f"{kernel.__name__}_{size}")
        kernel = FunctionType(code, kernel.__globals__)
    fused: Callable[..., None] = torch.compile(kernel, fullgraph=True, dynamic=not size)
    return fused


@functools.cache
def _exact_sizes(kernel: Callable[..., None]) -> set[str]:
    """The sizes that have a kernel of their own."""
    return set()


def _fused_for(kernel: Callable[..., None], arguments: Sequence[Any]) -> Callable[..., None]:
    if not arguments[0].is_cuda:
        return _fused(kernel, "")
    shapes = [one if isinstance(one, Tensor) else (len(one), *one[0].shape) for one in arguments]
    size = "_".join("x".join(map(str, getattr(one, "shape", one))) for one in shapes)
    sizes = _exact_sizes(kernel)
    if len(sizes) < _EXACT_SIZES:
        sizes.add(size)
    return _fused(kernel, size if size in sizes else "")


def run(
    kernel: Callable[..., None],
    out: Tensor,
    *arguments: Any,
    compiled: bool,
    **switches: bool,
) -> None:
    """Apply a kernel to flat buffers, a piece at a time.

    Arguments are buffers [blocks, BLOCK], lists of such, or numbers [parents, blocks, 1] or
    [blocks, 1] (1 instead of blocks where shared); pieces are cut along the blocks.
    """
    step = _FUSED_BLOCKS if compiled else _EAGER_BLOCKS
    for start in range(0, out.shape[0], step):
        part = slice(start, start + step)
        cut = [_cut(argument, part) for argument in arguments]
        function = _fused_for(kernel, [out[part], *cut]) if compiled else kernel
        function(out[part], *cut, **switches)


def _cut(argument: Any, part: slice) -> Any:
    if isinstance(argument, list | tuple):
        return [one[part] for one in argument]
    if argument.shape[-2] == 1:  # one number for all blocks
        return argument
    return argument[..., part, :]
