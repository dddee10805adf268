"""Decoding in memory that stays: on an accelerator a token costs one launch instead of hundreds.

``DecodingSpace`` keeps keys and values of one model in buffers of fixed size, and each shape's
forward pass as a CUDA graph, from call to call: for many batches on the same model, as a search
over merges or an evaluation has. The model's weights may change in place between calls; where a
tensor is replaced, the space must be made anew. A plain cache grows by copying all of itself at
every token and launches every kernel from Python, which on an H200 takes longer than the
arithmetic of a 7B model for a hundred rows.

The replies are those of ``decoding.Batch``; rows that have ended are computed along until half of
them have, then the others move together.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from charllm.core.decoding import Engine, distinct, plain_attention
from charllm.core.decoding_attention import one_token_attention
from charllm.core.decoding_columns import Next
from charllm.core.decoding_prompts import Pass, encode_parts, windows
from charllm.core.generation import Request

ROWS_STEP = 16
TOKENS_STEP = 64
"""Shapes are rounded up to these, so that few graphs serve many batches."""
MOST_SHAPES = 24


class DecodingSpace:
    """Buffers, and on CUDA graphs, for one model. ``close`` gives the memory back."""

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self._shapes: dict[Hashable, Shape] = {}
        self._pool: Any = None

    def reserve(self, like: Sequence[Any], rows: int, tokens: int) -> None:
        """Room for ``rows`` of ``tokens``; ``like`` are a cache's layers."""
        if self.keys:
            had_rows, had_tokens = self.keys[0].shape[0], self.keys[0].shape[2]
            if had_rows >= rows and had_tokens >= tokens:
                return
            rows, tokens = max(rows, had_rows), max(tokens, had_tokens)
            self.close()
        self.keys, self.values = (
            [one.new_zeros(rows, one.shape[1], tokens, one.shape[3]) for one in whole]
            for whole in ([layer.keys for layer in like], [layer.values for layer in like])
        )

    def shape(self, model: Any, rows: int, tokens: int, weights: Hashable) -> Shape:
        """The state for batches of this shape whose rows mix weights in this way."""
        key = rows, tokens, weights
        if key not in self._shapes:
            if len(self._shapes) >= MOST_SHAPES:
                self._shapes.pop(next(iter(self._shapes)))
            self._shapes[key] = Shape(model, self, rows, tokens)
        return self._shapes[key]

    def pool(self) -> Any:
        """Memory that all graphs share: they run one after another."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        return self._pool

    def close(self) -> None:
        """Give the memory back; the next call reserves anew."""
        self._shapes.clear()
        self.keys, self.values, self._pool = [], [], None


def space_for(model: Any) -> DecodingSpace | None:
    """A space where one pays: on CUDA."""
    return DecodingSpace() if _module(model).device.type == "cuda" else None


def rows_that_fit(
    model: Any, requests: Sequence[Request], rows: int, space: DecodingSpace | None = None
) -> int:
    """``rows``, or as many as the keys and values of the longest of ``requests`` leave room for.

    Counted are four fifths of the free memory of a CUDA device, and what ``space`` holds already.
    """
    module = _module(model)
    if module.device.type != "cuda" or not requests:
        return rows
    tokens = max(len(one.prompt_ids) + one.preset.max_new_tokens for one in requests)
    free = torch.cuda.mem_get_info(module.device)[0]
    free += torch.cuda.memory_reserved(module.device) - torch.cuda.memory_allocated(module.device)
    held = sum(one.nbytes for one in (*space.keys, *space.values)) if space else 0
    each = _up(tokens, TOKENS_STEP) * _bytes_per_token(module)
    return max(1, min(rows, int(0.8 * (free + held) / each) // ROWS_STEP * ROWS_STEP or ROWS_STEP))


def _module(model: Any) -> Any:
    return model.model if hasattr(model, "select") else model


def _bytes_per_token(model: Any) -> int:
    """Of keys and values in all layers."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * size * model.dtype.itemsize)


class Shape:
    """One batch shape: where its tokens stand, what they may see, and its forward pass.

    All rows are padded on the left, so that a step writes one and the same slot of each.
    """

    def __init__(self, model: Any, space: DecodingSpace, rows: int, tokens: int) -> None:
        device = space.keys[0].device
        self._model, self._space = model, space
        self.rows, self.tokens = rows, tokens
        self.ids = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self.positions = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self.slot = torch.zeros(1, dtype=torch.long, device=device)
        self.mask = torch.zeros(rows, 1, 1, tokens, dtype=model.dtype, device=device)
        self.scales: list[Tensor] = []
        self._slots = torch.arange(tokens, device=device)
        self._windows = windows(model)
        self._blocked = torch.finfo(model.dtype).min
        self._cache = Cache(
            layers=[
                FixedLayer(k[:rows, :, :tokens], v[:rows, :, :tokens], self.slot)
                for k, v in zip(space.keys, space.values, strict=True)
            ]
        )
        self._graph: Any = None
        self._logits = torch.empty(0)
        self._calls = 0

    @torch.inference_mode()
    def begin(self, lengths: Tensor, longest: int) -> None:
        """Rows with ``lengths`` [rows] tokens each, which end at slot ``longest``."""
        first = longest - lengths.to(self._slots.device)[:, None]
        hidden = (self._slots[None] < first) | (self._slots[None] >= longest)
        self.mask.zero_().masked_fill_(hidden[:, None, None], self._blocked)
        self.positions.copy_(lengths[:, None])
        self.slot.fill_(longest)

    @torch.inference_mode()
    def take(self, other: Shape, rows: Tensor) -> None:
        """Go on with ``rows`` [rows] of a larger shape in the same buffers."""
        used = int(other.slot)
        for buffer in (*self._space.keys, *self._space.values):
            buffer[: self.rows, :, :used] = buffer[rows][:, :, :used]
        self.mask.copy_(other.mask[rows])
        self.positions.copy_(other.positions[rows])
        self.slot.copy_(other.slot)

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """Logits [rows, vocabulary] after one more token a row; they hold until the next step."""
        self.ids.copy_(torch.tensor(tokens)[:, None])
        self._calls += 1
        if self._slots.is_cuda and self._graph is None and self._calls == 2:
            self._capture()  # the first pass has made what a graph cannot make
        if self._graph is None:
            self._forward()
        else:
            self._graph.replay()
        return self._logits

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._space.pool()):
            self._forward()
        self._graph = graph

    def _forward(self) -> None:
        self.mask.index_fill_(-1, self.slot, 0)
        with one_token_attention(self._model):
            out = self._model(
                input_ids=self.ids,
                attention_mask=self._masks(),
                position_ids=self.positions,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
        self._logits = out.logits[:, -1]
        self.positions.add_(1)
        self.slot.add_(1)

    def _masks(self) -> Any:
        """As ``decoding_prompts`` makes them: one for all layers, or one a layer type."""
        near: dict[int | None, Tensor] = {None: self.mask}
        for window in {window for window in self._windows if window is not None}:
            far = self.slot - self._slots >= window
            near[window] = self.mask.masked_fill(far, self._blocked)
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


@dataclass
class SpaceBatch:
    """``decoding.Rows`` in a space: every request is one row of it, from its prompt to its end."""

    space: DecodingSpace
    model: Any
    engine: Engine | None
    new_tokens: int
    _shape: Shape | None = None
    _slots: list[int] = field(default_factory=list)  # of the rows that go on, within the shape
    _rows: list[Any] = field(default_factory=list)  # weights of all of the shape's rows

    @torch.inference_mode()
    def start(self, requests: Sequence[Request]) -> tuple[Tensor, list[int]]:
        prompts, places = distinct(requests)
        longest = max(len(ids) for ids, _ in prompts)
        rows = _up(len(places), ROWS_STEP)
        tokens = _up(longest + self.new_tokens, TOKENS_STEP)
        filled = places + [places[-1]] * (rows - len(places))  # rows that fill up are never read
        scores = []
        done = 0
        with plain_attention(self.model.get_input_embeddings().weight.device):
            for part in encode_parts(self.model, self.engine, prompts):
                self.space.reserve(part.layers, rows, tokens)
                self._fill(part, filled, done, longest)
                scores.append(part.scores)
                done += len(part.scores)
        self._rows = [prompts[place][1] for place in filled]
        self._shape = self._selected(rows, tokens)
        self._shape.begin(torch.tensor([len(prompts[place][0]) for place in filled]), longest)
        self._slots = list(range(len(places)))
        return torch.cat(scores)[places], [1] * len(places)

    def _fill(self, part: Pass, filled: Sequence[int], done: int, longest: int) -> None:
        """Copy the prompts of a pass, the first of which is number ``done``, to their rows."""
        device = part.scores.device
        pairs = [
            (row, place - done)
            for row, place in enumerate(filled)
            if done <= place < done + len(part.scores)
        ]
        to = torch.tensor([row for row, _ in pairs], device=device)
        of = torch.tensor([place for _, place in pairs], device=device)
        straight = pairs == [(done + place, place) for place in range(len(part.scores))]
        for layer in range(len(part.layers)):
            both = (self.space.keys[layer], self.space.values[layer])
            for buffer, states in zip(both, part.states(layer), strict=True):
                if straight:
                    buffer[done : done + len(pairs), :, :longest] = states
                else:
                    buffer[:, :, :longest].index_copy_(0, to, states[of])

    def step(self, rows: Sequence[Next]) -> Tensor:
        shape = self._shape
        assert shape is not None
        self._slots = [self._slots[row.parent] for row in rows]
        if _up(len(rows), ROWS_STEP) * 2 <= shape.rows:
            shape = self._shape = self._moved(shape)
        tokens = [0] * shape.rows
        for slot, row in zip(self._slots, rows, strict=True):
            tokens[slot] = row.token
        logits = shape.step(tokens)
        return logits[: len(rows)] if self._slots[-1] == len(rows) - 1 else logits[self._slots]

    def close(self) -> None:
        self._shape = None
        if self.engine:
            self.engine.clear()

    def _moved(self, old: Shape) -> Shape:
        """The rows that go on, together at the beginning of the buffers."""
        size = _up(len(self._slots), ROWS_STEP)
        filled = self._slots + [self._slots[-1]] * (size - len(self._slots))
        self._rows = [self._rows[slot] for slot in filled]
        new = self._selected(size, old.tokens)
        new.take(old, torch.tensor(filled, device=old.slot.device))
        self._slots = list(range(len(self._slots)))
        return new

    def _selected(self, rows: int, tokens: int) -> Shape:
        """The shape with its rows' weights. A graph reads them where the first batch put them."""
        if self.engine is None:
            return self.space.shape(self.model, rows, tokens, None)
        self.engine.select(self._rows)
        structure, scales = self.engine.placed()
        shape = self.space.shape(self.model, rows, tokens, structure)
        if not shape.scales:
            shape.scales = scales
        for own, new in zip(shape.scales, scales, strict=True):
            own.copy_(new)
        self.engine.place(shape.scales)
        return shape


def _up(number: int, step: int) -> int:
    return -(-number // step) * step
