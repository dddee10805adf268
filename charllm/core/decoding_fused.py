"""A model's small steps in few kernels, where torch can compile.

transformers computes a normalisation in eight kernels and the rotary positions in ten; on an H200
they take a fifth of a decode step of a 7B model with a hundred rows, and half of one with six
hundred. Compiling takes some seconds a step, so it is for work that takes long; where it fails,
the steps run as they are.

Only what is computed number by number is compiled. Sums are left to torch's own kernels: compiled,
their order is chosen by timing, and the same search would reply otherwise in another process.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Any]

_wanted: ContextVar[bool] = ContextVar("fused", default=False)


class Fused:
    """``plain``, compiled within ``fused_steps``; as it is elsewhere, and after a failure."""

    def __init__(self, plain: Function) -> None:
        functools.update_wrapper(self, plain)
        self.plain = plain
        self._compiled: Function | None = None
        self._failed = importlib.util.find_spec("triton") is None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._failed or not _wanted.get():
            return self.plain(*args, **kwargs)
        if self._compiled is None:
            self._compiled = torch.compile(self.plain)
        try:
            return self._compiled(*args, **kwargs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a missing C compiler, a driver that is too old, …
            warnings.warn(f"{self.plain.__qualname__} runs uncompiled: {error}", stacklevel=2)
            self._failed = True
            return self.plain(*args, **kwargs)


fused = functools.cache(Fused)
"""One for each function, so that it is compiled once a process."""


@contextmanager
def fused_steps(model: Any) -> Iterator[None]:
    """Within, RMS normalisation and rotary positions of a transformers model run compiled, and so
    do steps of ours that are ``fused``. Nothing happens where the model is not on CUDA."""
    if model.device.type != "cuda":
        yield
        return
    with ExitStack() as undo:
        for module in model.modules():
            if type(module).__name__.endswith("RMSNorm") and "forward" not in vars(module):
                _fuse_norm(module, undo)
        for name in {type(module).__module__ for module in model.modules()}:
            _fuse_positions(sys.modules[name], undo)
        undo.callback(_wanted.reset, _wanted.set(True))
        yield


def _fuse_norm(module: Any, undo: ExitStack) -> None:
    if type(module) not in _norms:
        _norms[type(module)] = norm_like(module)
    if (norm := _norms[type(module)]) is not None:
        module.forward = functools.partial(norm, module)
        undo.callback(vars(module).pop, "forward")


def _fuse_positions(place: Any, undo: ExitStack) -> None:
    plain = getattr(place, "apply_rotary_pos_emb", None)
    if plain is not None and not isinstance(plain, Fused):
        place.apply_rotary_pos_emb = fused(plain)
        undo.callback(setattr, place, "apply_rotary_pos_emb", plain)


_norms: dict[type, Function | None] = {}


def norm_like(module: Any) -> Function | None:
    """The normalisation that gives the numbers of ``module``, as a function of it and its input.

    None where neither of the two that models have does.
    """
    probe = copy.deepcopy(module)  # its own weights may be anything
    place = {"device": module.weight.device, "dtype": module.weight.dtype}
    probe.weight.data = torch.linspace(0.5, 1.5, len(module.weight), **place)
    tried = torch.linspace(-2, 3, 2 * len(module.weight), **place).view(2, -1)
    wanted = probe(tried)
    for weighed in (_weighed_after, _weighed_before):
        norm = functools.partial(_norm, weighed)
        if torch.equal(norm(probe, tried), wanted):
            return norm
    return None


def _norm(weighed: Function, module: Any, x: Tensor) -> Tensor:
    """``x`` over the root of the mean of its squares (Zhang and Sennrich 2019, RMSNorm)."""
    eps = module.variance_epsilon if hasattr(module, "variance_epsilon") else module.eps
    mean = fused(_squares)(x).mean(-1, keepdim=True)
    normed: Tensor = fused(weighed)(x, mean, module.weight, eps)
    return normed


def _squares(x: Tensor) -> Tensor:
    return x.float().pow(2)


def _weighed_after(x: Tensor, mean: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Rounded, then weighed: Llama's way."""
    return weight * (x.float() * torch.rsqrt(mean + eps)).to(x.dtype)


def _weighed_before(x: Tensor, mean: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Weighed by what the weight is above one, then rounded: Gemma's way."""
    return (x.float() * torch.rsqrt(mean + eps) * (1.0 + weight.float())).to(x.dtype)
