"""A model's small steps as one kernel each, where torch can compile.

transformers computes a normalisation in eight kernels and the rotary positions in ten; on an H200
they take a fifth of a decode step of a 7B model with a hundred rows, and half of one with six
hundred. Compiled, each is one. Compiling takes some seconds a step and shape, so it is for work
that takes long; where it fails, they run as they are.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import torch

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
        undo.callback(_wanted.reset, _wanted.set(True))
        for module in model.modules():
            _fuse_norm(module, undo)
        for name in {type(module).__module__ for module in model.modules()}:
            _fuse_positions(sys.modules[name], undo)
        yield


def _fuse_norm(module: Any, undo: ExitStack) -> None:
    kind = type(module)
    if kind.__name__.endswith("RMSNorm") and "forward" not in vars(module):
        module.forward = functools.partial(fused(kind.forward), module)
        undo.callback(vars(module).pop, "forward")


def _fuse_positions(place: Any, undo: ExitStack) -> None:
    plain = getattr(place, "apply_rotary_pos_emb", None)
    if plain is not None and not isinstance(plain, Fused):
        place.apply_rotary_pos_emb = fused(plain)
        undo.callback(setattr, place, "apply_rotary_pos_emb", plain)
