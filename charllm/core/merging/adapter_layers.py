"""What adapters add to single linear layers of a model, for the rows of the current batch.

It knows tensors; which adapters there are, and what they are worth in which row, is decided in
``adapters``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

# Layers that read the same tensor as their neighbours.
READS = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "mlp", "up_proj": "mlp"}


class Span(NamedTuple):
    """The part of a batch from its first to its last row with adapters: ``size`` from ``start``.

    ``axis`` 0 counts rows, 1 the tokens of a single sequence; the batch has ``total`` of them.
    """

    axis: int
    start: int
    size: int
    total: int


class Input:
    """Linear layers that read the same tensor (q, k, v; gate, up): one multiplication with A.

    ``down`` is all their A transposed, [in, R], R counting every active adapter of every layer.
    """

    def __init__(self, layer: int) -> None:
        self.layer = layer
        self.targets: list[Target] = []
        self.down: Tensor | None = None
        self.group = -1
        """Index of the batch's scales for these layers; -1 where no active adapter is."""
        self._read: Tensor | None = None
        self._inner: Tensor | None = None
        self._left = 0

    def inner(self, read: Tensor, scales: Tensor, span: Span) -> Tensor:
        """``diag(s) A x`` [span, R] of ``read`` [rows, tokens, in], made once for its readers.

        The scales are float32 and multiply in float32 also where the model is bfloat16: a
        rounded coefficient would act as another one.
        """
        if self._read is not read or self._inner is None:
            assert read.shape[span.axis] == span.total, f"{read.shape} is not the batch of {span}"
            assert self.down is not None
            x = read.narrow(span.axis, span.start, span.size)
            inner = torch.mm(x.reshape(-1, x.shape[-1]).to(self.down.dtype), self.down)
            inner.view(*x.shape[:-1], -1).mul_(scales)
            self._read, self._inner, self._left = read, inner, len(self.targets)
        inner = self._inner
        self._left -= 1
        if self._left <= 0:
            self.forget()
        return inner

    def forget(self) -> None:
        self._read = self._inner = None


@dataclass
class Target:
    """A linear layer of the base that adapters add to."""

    module: nn.Module
    source: Input
    parts: dict[str, tuple[Tensor, Tensor, float]] = field(default_factory=dict)
    columns: tuple[int, int] = (0, 0)  # its part of the input's R
    up: Tensor | None = None  # B transposed, [R, out]
