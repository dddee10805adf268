"""Decoding in memory that stays: on an accelerator a token costs one launch instead of hundreds.

``DecodingSpace`` keeps keys and values of one model in buffers of fixed size, and each shape's
forward pass as a CUDA graph, from call to call: for many batches on the same model, as a search
over merges or an evaluation has. The model's weights may change in place between calls; where a
tensor is replaced, the space must be made anew. A plain cache grows by copying all of itself at
every token and launches every kernel from Python, which on an H200 takes longer than the
arithmetic of a 7B model for a hundred rows.

The replies are those of ``decoding.Batch``. Rows that have ended are computed along until half of
them have, then the others move together; of the buffers only as much is read as is filled, rounded
up. Where all rows take the likeliest token, an accelerator computes the next step while the tokens
of the last are looked at.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from charllm.core.decoding import Engine, distinct, plain_attention
from charllm.core.decoding_columns import Next, Scores
from charllm.core.decoding_fused import fused_steps
from charllm.core.decoding_prompts import Pass, encode_parts
from charllm.core.decoding_shapes import (
    ROWS_STEP,
    TOKENS_STEP,
    Layout,
    Shape,
    Step,
    laid_out,
    up,
)
from charllm.core.generation import Request

MOST_SHAPES = 96


class DecodingSpace:
    """Buffers, and on CUDA graphs, for one model. ``close`` gives the memory back."""

    def __init__(self, long: bool = False) -> None:
        """``long``: for thousands of steps, worth half a minute of compiling (CUDA)."""
        self._long = long
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.first_keys: list[Tensor] = []
        self.first_values: list[Tensor] = []
        self._shapes: dict[Hashable, Shape] = {}
        self._pool: Any = None

    def reserve(self, like: Sequence[Any], layout: Layout, tokens: int) -> None:
        """Room for the rows' ``tokens`` and the groups' beginnings; ``like`` are cache layers."""
        rows, groups, begun = layout.rows, layout.groups if layout.begun else 0, layout.begun
        if self.keys:
            (had_rows, _, had_tokens, _), (had_groups, _, had_begun, _) = (
                self.keys[0].shape,
                self.first_keys[0].shape,
            )
            if (
                had_rows >= rows
                and had_tokens >= tokens
                and (not begun or (had_groups >= groups and had_begun >= begun))
            ):
                return
            rows, tokens = max(rows, had_rows), max(tokens, had_tokens)
            groups, begun = max(groups, had_groups), max(begun, had_begun)
            self.close()

        def room(rows: int, tokens: int, which: str) -> list[Tensor]:
            found = [getattr(layer, which) for layer in like]
            return [one.new_zeros(rows, one.shape[1], tokens, one.shape[3]) for one in found]

        self.keys, self.values = room(rows, tokens, "keys"), room(rows, tokens, "values")
        self.first_keys = room(groups, begun, "keys")
        self.first_values = room(groups, begun, "values")

    def shape(self, model: Any, layout: Layout, tokens: int, weights: Hashable) -> Shape:
        """The state for batches of this shape whose rows mix weights in this way."""
        key = layout, tokens, weights
        if key not in self._shapes:
            if len(self._shapes) >= MOST_SHAPES:
                self._shapes.pop(next(iter(self._shapes)))
            self._shapes[key] = Shape(model, self, layout, tokens)
        return self._shapes[key]

    @property
    def buffers(self) -> list[Tensor]:
        """All that is kept for keys and values."""
        return [*self.keys, *self.values, *self.first_keys, *self.first_values]

    def steps(self, model: Any) -> AbstractContextManager[None]:
        """How the model's small steps are computed."""
        return fused_steps(model) if self._long else nullcontext()

    def pool(self) -> Any:
        """Memory that all graphs share: they run one after another."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        return self._pool

    def close(self) -> None:
        """Give the memory back; the next call reserves anew."""
        self._shapes.clear()
        self.keys, self.values, self.first_keys, self.first_values = [], [], [], []
        self._pool = None


def space_for(model: Any, long: bool = False) -> DecodingSpace | None:
    """A space where one pays: on CUDA. ``long``: see ``DecodingSpace``."""
    return DecodingSpace(long) if _module(model).device.type == "cuda" else None


def rows_that_fit(
    model: Any, requests: Sequence[Request], rows: int, space: DecodingSpace | None = None
) -> int:
    """``rows``, or as many as the keys and values of the longest of ``requests`` leave room for.

    Counted are four fifths of the free memory of a CUDA device, or of what this process may still
    take of it, and what ``space`` holds already.
    """
    module = _module(model)
    if module.device.type != "cuda" or not requests:
        return rows
    prompts, places = distinct(requests)
    layout, _, _ = laid_out(module, prompts, places)
    begun = layout.begun if layout.groups == 1 else 0  # of many, a part may share less
    tokens = max(len(one.prompt_ids) + one.preset.max_new_tokens for one in requests) - begun
    held = sum(one.nbytes for one in space.buffers) if space else 0
    each = up(tokens, TOKENS_STEP) * _bytes_per_token(module)
    fitting = int(0.8 * (_free(module.device) + held) / each)
    return max(1, min(rows, fitting // ROWS_STEP * ROWS_STEP or ROWS_STEP))


def _free(device: torch.device) -> int:
    """Bytes of a CUDA device that this process can still have."""
    free, whole = torch.cuda.mem_get_info(device)
    allocated = torch.cuda.memory_allocated(device)
    allowed = int(torch.cuda.get_per_process_memory_fraction(device) * whole)
    return min(free + torch.cuda.memory_reserved(device) - allocated, allowed - allocated)


def _module(model: Any) -> Any:
    return model.model if hasattr(model, "select") else model


def _bytes_per_token(model: Any) -> int:
    """Of keys and values in all layers."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * size * model.dtype.itemsize)


@dataclass
class SpaceBatch:
    """``decoding.Rows`` in a space: every request is one row of it, from its prompt to its end."""

    space: DecodingSpace
    model: Any
    engine: Engine | None
    new_tokens: int
    _shape: Shape | None = None
    _rows: list[int] = field(default_factory=list)  # of the shape, that go on
    _weights: list[Any] = field(default_factory=list)  # of all of the shape's rows
    _greedy: bool = False
    _ahead: Step | None = None  # begun before its tokens were asked for
    _chosen: list[int] = field(default_factory=list)  # the likeliest of all of the shape's rows

    @torch.inference_mode()
    def start(self, requests: Sequence[Request]) -> tuple[Scores, list[int]]:
        prompts, places = distinct(requests)
        layout, filled, self._rows = laid_out(self.model, prompts, places)
        longest = max(len(ids) for ids, _ in prompts)
        tokens = up(longest - layout.begun + self.new_tokens, TOKENS_STEP)
        scores: list[Tensor] = []
        device = self.model.get_input_embeddings().weight.device
        with plain_attention(device), self.space.steps(self.model):
            for part in encode_parts(self.model, self.engine, prompts, layout.begun):
                self.space.reserve(part.layers, layout, tokens)
                self._fill(part, layout, filled, sum(map(len, scores)))
                scores.append(part.scores)
        for buffer in (*self.space.keys, *self.space.values):
            # What was not a number in an earlier call would stay so under any mask.
            buffer[: layout.rows, :, longest - layout.begun : tokens].zero_()
        self._weights = [prompts[place][1] for place in filled]
        self._shape = self._selected(layout, up(longest - layout.begun + 1, TOKENS_STEP))
        self._shape.begin(torch.tensor([len(prompts[place][0]) for place in filled]), longest)
        self._greedy = all(
            one.preset.temperature == 0 and one.preset.repetition_penalty == 1 for one in requests
        )
        return Scores(torch.cat(scores), places), [1] * len(places)

    def _fill(self, part: Pass, layout: Layout, filled: Sequence[int], done: int) -> None:
        """Copy the prompts of a pass, the first of which is number ``done``, to their rows.

        Rows in excess keep what they held: nobody reads what they become.
        """
        rows = [row for row in sorted(self._rows) if 0 <= filled[row] - done < len(part.scores)]
        runs = _runs([(row, filled[row] - done) for row in rows])
        # A group's beginning is that of its first row.
        firsts = [row for row in rows if layout.begun and row % layout.each == 0]
        for layer in range(len(part.layers)):
            both = self.space.keys[layer], self.space.values[layer]
            for buffer, states in zip(both, part.states(layer), strict=True):
                for row, place, count in runs:
                    there = buffer[row : row + count, :, : states.shape[2]]
                    there.copy_(states[place : place + count])
            if firsts:
                both = self.space.first_keys[layer], self.space.first_values[layer]
                begun = part.beginnings(layer, [filled[row] - done for row in firsts])
                for buffer, states in zip(both, begun, strict=True):
                    for row, state in zip(firsts, states, strict=True):
                        buffer[row // layout.each, :, : layout.begun] = state

    def step(self, rows: Sequence[Next]) -> Scores:
        self._rows = [self._rows[row.parent] for row in rows]
        going, self._ahead = self._ahead, None
        if going is None:
            self._fit()
            tokens = [0] * self._fitting.layout.rows
            for place, row in zip(self._rows, rows, strict=True):
                tokens[place] = row.token
            going = self._fitting.step(tokens)
        else:
            chosen = [self._chosen[place] for place in self._rows]
            assert chosen == [row.token for row in rows], "another token than the likeliest"
        if not self._greedy:
            return Scores(self._fitting.logits, self._rows)
        if self._fitting.recorded and self._wanted() is None:
            self._ahead = self._fitting.step()
        self._chosen = going.likeliest()
        return Scores(self._fitting.logits, self._rows, self._chosen)

    def close(self) -> None:
        self._shape = self._ahead = None
        if self.engine:
            self.engine.clear()

    @property
    def _fitting(self) -> Shape:
        assert self._shape is not None, "a batch that has begun"
        return self._shape

    def _wanted(self) -> tuple[Layout, list[int]] | None:
        """Another layout, and the row each of its rows is now: where half of the rows have ended,
        or, for more slots, the same."""
        layout = self._fitting.layout
        smaller, filled = layout.holding(self._rows)
        if smaller.rows * 2 <= layout.rows:
            return smaller, filled
        full = self._fitting.used >= self._fitting.tokens
        return (layout, list(range(layout.rows))) if full else None

    def _fit(self) -> None:
        """Go on in the shape that is wanted."""
        wanted = self._wanted()
        if wanted is None:
            return
        old, (layout, filled) = self._fitting, wanted
        moved = {row: at for at, row in reversed(list(enumerate(filled)))}
        self._rows = [moved[row] for row in self._rows]
        self._weights = [self._weights[row] for row in filled]
        self._shape = self._selected(layout, up(old.used + 1, TOKENS_STEP))
        self._shape.take(old, filled)

    def _selected(self, layout: Layout, tokens: int) -> Shape:
        """The shape with its rows' weights. A graph reads them where the first batch put them."""
        if self.engine is None:
            return self.space.shape(self.model, layout, tokens, None)
        self.engine.select(self._weights)
        structure, scales = self.engine.placed()
        shape = self.space.shape(self.model, layout, tokens, structure)
        if not shape.scales:
            shape.scales = scales
        for own, new in zip(shape.scales, scales, strict=True):
            own.copy_(new)
        self.engine.place(shape.scales)
        return shape


def _runs(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Pairs that go up together, each run as its first pair and its length."""
    runs: list[tuple[int, int, int]] = []
    for row, place in pairs:
        if runs and (row, place) == (runs[-1][0] + runs[-1][2], runs[-1][1] + runs[-1][2]):
            runs[-1] = (*runs[-1][:2], runs[-1][2] + 1)
        else:
            runs.append((row, place, 1))
    return runs
