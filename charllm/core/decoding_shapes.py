"""One batch shape of a ``DecodingSpace``: where its rows' tokens stand, and its forward pass.

Rows that begin with the same tokens under the same weights stand in one group, whose beginning is
kept, and read, once. The rest of every row is padded on the left, so that a step writes one and the
same slot of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from charllm.core.decoding_attention import Beginnings, one_token_attention, replaceable
from charllm.core.decoding_prompts import common_length, on_device, windows

ROWS_STEP = 16
GROUP_STEP = 8
TOKENS_STEP = 32
"""Shapes are rounded up to these, so that few graphs serve many batches."""
BEGINNING_STEP = 16
SHORTEST_BEGINNING = 32
"""A shorter one is not worth its own products."""
MOST_PADDING = 1.25
"""Groups may take so many times the rows that one group would."""


def up(number: int, step: int) -> int:
    """The next multiple of ``step``."""
    return -(-number // step) * step


class Layout(NamedTuple):
    """``groups`` of ``each`` rows; the rows of a group share their first ``begun`` tokens."""

    groups: int
    each: int
    begun: int = 0

    @property
    def rows(self) -> int:
        return self.groups * self.each

    def holding(self, rows: Sequence[int]) -> tuple[Layout, list[int]]:
        """The smallest layout for some of the rows; and which of the old rows each of its own is.

        Rows in excess repeat the last of their group.
        """
        members: dict[int, list[int]] = {}
        for row in sorted(rows):
            members.setdefault(row // self.each, []).append(row)
        each = up(max(map(len, members.values())), GROUP_STEP if self.groups > 1 else ROWS_STEP)
        filled = [rest for own in members.values() for rest in _filled(own, each)]
        return Layout(len(members), each, self.begun), filled


def laid_out(
    model: Any, prompts: Sequence[tuple[tuple[int, ...], Any]], places: Sequence[int]
) -> tuple[Layout, list[int], list[int]]:
    """The layout for requests with the prompts (ids, weights) at ``places``.

    With it the prompt of each of its rows, and the row of each request.
    """
    members: dict[Any, list[int]] = {}
    for request, place in enumerate(places):
        members.setdefault(prompts[place][1], []).append(request)
    each = up(max(map(len, members.values())), GROUP_STEP if len(members) > 1 else ROWS_STEP)
    begun = min(_shared([prompts[places[r]][0] for r in own]) for own in members.values())
    begun = begun // BEGINNING_STEP * BEGINNING_STEP
    alone = Layout(1, up(len(places), ROWS_STEP))
    if (
        begun < SHORTEST_BEGINNING
        or len(members) * each > MOST_PADDING * alone.rows
        or not replaceable(model)
    ):
        return alone, _filled(places, alone.each), list(range(len(places)))
    filled = [one for own in members.values() for one in _filled([places[r] for r in own], each)]
    rows = [0] * len(places)
    for group, own in enumerate(members.values()):
        for at, request in enumerate(own):
            rows[request] = group * each + at
    return Layout(len(members), each, begun), filled, rows


def _filled(own: Sequence[int], size: int) -> list[int]:
    return [*own, *[own[-1]] * (size - len(own))]


def _shared(prompts: Sequence[tuple[int, ...]]) -> int:
    """Tokens all of ``prompts`` begin with, the last one of each left out."""
    first = prompts[0]
    return min(common_length(first[:-1], ids[:-1]) for ids in prompts)


class Buffers(Protocol):
    """What a shape needs of its space."""

    keys: list[Tensor]
    values: list[Tensor]
    first_keys: list[Tensor]
    first_values: list[Tensor]

    def pool(self) -> Any:
        """Memory that all graphs share."""

    def steps(self, model: Any) -> AbstractContextManager[None]:
        """How the model's small steps are computed."""


@dataclass(frozen=True)
class Step:
    """What a step chose, once it is done."""

    best: Tensor
    ended: Any

    def likeliest(self) -> list[int]:
        """The best token of every row. Waits for the step."""
        if self.ended is not None:
            self.ended.synchronize()
        tokens: list[int] = self.best.tolist()
        return tokens


class Shape:
    """Rows in a layout, with ``tokens`` of their own each at most."""

    def __init__(self, model: Any, space: Buffers, layout: Layout, tokens: int) -> None:
        device = space.keys[0].device
        self._model, self._space = model, space
        self.layout, self.tokens = layout, tokens
        self.used = 0
        rows, begun = layout.rows, layout.begun
        self._ids = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self._positions = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self._slot = torch.zeros(1, dtype=torch.long, device=device)
        self._mask = torch.zeros(rows, 1, 1, begun + tokens, dtype=model.dtype, device=device)
        self.scales: list[Tensor] = []
        self._slots = torch.arange(tokens, device=device)
        self._windows = windows(model)
        self._blocked = torch.finfo(model.dtype).min
        pairs = zip(space.keys, space.values, strict=True)
        self._cache = Cache(
            layers=[
                FixedLayer(k[:rows, :, :tokens], v[:rows, :, :tokens], self._slot) for k, v in pairs
            ]
        )
        pairs = zip(space.first_keys, space.first_values, strict=True)
        self._beginnings: Beginnings = [
            (k[: layout.groups, :, :begun], v[: layout.groups, :, :begun])
            for k, v in pairs
            if begun
        ]
        self._graph: Any = None
        self._calls = 0
        self.logits = torch.empty(0)
        self._best = torch.empty(0)
        self._host = [torch.empty(0)] * 2

    @property
    def recorded(self) -> bool:
        """Whether a step is one launch, and goes on while others compute."""
        return self._graph is not None

    @torch.inference_mode()
    def begin(self, lengths: Tensor, longest: int) -> None:
        """Rows with ``lengths`` [rows] tokens each, the ``longest`` of which fills its slots."""
        used = longest - self.layout.begun
        lengths = on_device(lengths, self._slots.device)
        first = longest - lengths[:, None]
        hidden = (self._slots[None] < first) | (self._slots[None] >= used)
        self._mask.zero_()
        self._mask[..., self.layout.begun :].masked_fill_(hidden[:, None, None], self._blocked)
        self._positions.copy_(lengths[:, None])
        self._slot.fill_(used)
        self.used = used

    @torch.inference_mode()
    def take(self, other: Shape, rows: Sequence[int]) -> None:
        """Go on with ``rows`` of another shape in the same buffers."""
        if list(rows) != list(range(other.layout.rows)):
            index = on_device(rows, self._slots.device)
            for buffer in (*self._space.keys, *self._space.values):
                buffer[: len(rows), :, : other.used] = buffer[:, :, : other.used][index]
            if self._beginnings:
                groups = index[:: self.layout.each] // other.layout.each
                for buffer in (*self._space.first_keys, *self._space.first_values):
                    buffer[: len(groups)] = buffer[groups]
            mask, positions = other._mask[index], other._positions[index]
        else:
            mask, positions = other._mask, other._positions
        width = min(mask.shape[-1], self._mask.shape[-1])
        self._mask.fill_(self._blocked)
        self._mask[..., :width] = mask[..., :width]
        self._positions.copy_(positions)
        self._slot.copy_(other._slot)
        self.used = other.used

    @torch.inference_mode()
    def step(self, tokens: Sequence[int] | None = None) -> Step:
        """One more token a row; None: the likeliest of the last step, which may still be going on.

        ``logits`` [rows, vocabulary] hold until the next step.
        """
        chosen = self._best if tokens is None else on_device(tokens, self._slots.device)
        self._ids.copy_(chosen[:, None])
        self._calls += 1
        if self._slots.is_cuda and self._graph is None and self._calls == 2:
            self._capture()  # the first pass has made what a graph cannot make
        if self._graph is None:
            self._forward()
        else:
            self._graph.replay()
        self.used += 1
        return self._ended() if self._slots.is_cuda else Step(self._best, None)

    def _ended(self) -> Step:
        """The likeliest tokens on their way to the CPU; two steps may be under way."""
        if not self._host[0].numel():
            self._host = [torch.empty_like(self._best, device="cpu").pin_memory() for _ in "ab"]
        self._host.reverse()
        self._host[0].copy_(self._best, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        return Step(self._host[0], event)

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._space.pool()):
            self._forward()
        self._graph = graph

    def _forward(self) -> None:
        self._mask.index_fill_(-1, self._slot + self.layout.begun, 0)
        with one_token_attention(self._model, self._beginnings), self._space.steps(self._model):
            out = self._model(
                input_ids=self._ids,
                attention_mask=self._masks(),
                position_ids=self._positions,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
        self.logits = out.logits[:, -1]
        self._best = self.logits.argmax(-1)
        self._positions.add_(1)
        self._slot.add_(1)

    def _masks(self) -> Any:
        """As ``decoding_prompts`` makes them: one for all layers, or one a layer type."""
        near: dict[int | None, Tensor] = {None: self._mask}
        for window in {window for window in self._windows if window is not None}:
            first = torch.arange(self.layout.begun, device=self._slots.device)
            far = torch.cat(
                [
                    self._positions - first >= window,
                    (self._slot - self._slots >= window).expand(self.layout.rows, -1),
                ],
                -1,
            )
            near[window] = self._mask.masked_fill(far[:, None, None], self._blocked)
        if len(set(self._windows)) == 1:
            return near[self._windows[0]]
        types = self._model.config.get_text_config().layer_types
        return {kind: near[window] for kind, window in zip(types, self._windows, strict=True)}


class FixedLayer(CacheLayerMixin):
    """A layer's keys and values in buffers; a step writes slot ``slot`` of every row."""

    is_sliding = False

    def __init__(self, keys: Tensor, values: Tensor, slot: Tensor) -> None:
        super().__init__()
        self.keys, self.values, self._slot = keys, values, slot
        self.is_initialized = True

    def lazy_initialization(self, *_: Any, **__: Any) -> None:
        """Nothing to make."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        assert self.keys is not None and self.values is not None
        self.keys.index_copy_(2, self._slot, key_states)
        self.values.index_copy_(2, self._slot, value_states)
        return self.keys, self.values

    def get_seq_length(self, *_: Any) -> int:
        assert self.keys is not None
        return self.keys.shape[2] - 1

    def get_mask_sizes(self, *_: Any) -> tuple[int, int]:
        assert self.keys is not None
        return self.keys.shape[2], 0

    def get_max_length(self) -> int:
        return self.get_seq_length() + 1

    get_max_cache_shape = get_max_length
