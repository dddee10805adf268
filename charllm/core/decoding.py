"""The decode loop: one batch, one cache, rows that come from prompts and leave as replies end.

It knows a transformers causal LM and, where weights differ between rows, an engine that is told
which row runs which weights. What a column does with its scores is ``decoding_columns``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from charllm.core.decoding_columns import Column, Next, Scores, new_column
from charllm.core.decoding_prompts import batch_cache, encode
from charllm.core.decoding_text import Pieces
from charllm.core.generation import Delta, Done, Request
from charllm.data.errors import UserError

if TYPE_CHECKING:
    from charllm.core.decoding_space import DecodingSpace


class Engine(Protocol):
    """What gives each row of a batch its own weights (``merging.adapters.AdapterModel``)."""

    model: Any

    def select(self, rows: Sequence[Any], lengths: Sequence[int] | None = None) -> None:
        """The rows of the coming batches, None for the base; or of parts of one sequence."""

    def keep(self, indices: Sequence[int]) -> None:
        """The batch now consists of these of its rows, in this order."""

    def placed(self) -> tuple[Hashable, list[Tensor]]:
        """How the selected rows are computed, and the numbers that may differ between batches."""

    def place(self, scales: list[Tensor]) -> None:
        """The selected rows read these numbers, of the same shapes."""

    def clear(self) -> None:
        """The base for all that follows."""


def decode(
    model: Any,
    tokenizer: Any,
    requests: Sequence[Request],
    cancelled: Callable[[str], bool],
    watched: bool = True,
    space: DecodingSpace | None = None,
) -> Iterator[Delta | Done]:
    """See ``generation.stream``. Not ``watched``: no deltas. ``space``: see ``decoding_space``."""
    started = time.perf_counter()
    names = [request.column for request in requests]
    assert len(set(names)) == len(names), f"columns of one call differ in name: {names}"
    module, engine = _unwrap(model, requests)
    limits = [_limit(module, request) for request in requests]
    pairs = zip(requests, limits, strict=True)
    pieces = None if watched else Pieces(tokenizer)
    columns = [new_column(request, tokenizer, limit, started, pieces) for request, limit in pairs]
    batch: Rows = Batch(module, engine)
    if space is not None and all(request.preset.num_beams == 1 for request in requests):
        from charllm.core.decoding_space import SpaceBatch

        batch = SpaceBatch(space, module, engine, max(limits))
    try:
        yield from _run(batch, columns, cancelled, watched)
    finally:
        batch.close()


def _run(
    batch: Rows, columns: list[Column], cancelled: Callable[[str], bool], watched: bool
) -> Iterator[Delta | Done]:
    alive = []
    for column in columns:
        if cancelled(column.request.column):
            column.cancel()
            yield column.done()
        else:
            alive.append(column)
    if not alive:
        return
    scores, widths = batch.start([column.request for column in alive])
    while True:
        going_on: list[Column] = []
        rows: list[Next] = []
        next_widths = []
        at = 0
        for column, width in zip(alive, widths, strict=True):
            steps = column.advance(scores, at, width)
            if steps and cancelled(column.request.column):
                column.cancel()
                steps = []
            if (watched or not steps) and (text := column.piece()) and watched:
                yield Delta(column.request.column, text)
            if steps:
                going_on.append(column)
                next_widths.append(len(steps))
                rows += [Next(at + step.parent, step.token) for step in steps]
            else:
                yield column.done()
            at += width
        if not going_on:
            return
        alive, widths = going_on, next_widths
        scores = batch.step(rows)


class Rows(Protocol):
    """The rows that are decoded together."""

    def start(self, requests: Sequence[Request]) -> tuple[Scores, list[int]]:
        """Encode the prompts; the scores after them, and how many rows each request has."""

    def step(self, rows: Sequence[Next]) -> Scores:
        """The scores after each row's token, until the next step; ``parent`` indexes the last
        rows."""

    def close(self) -> None:
        """Give the memory back, and the model its own weights."""


class Batch:
    """``Rows`` whose cache grows with every token: for any device, and for beams."""

    def __init__(self, model: Any, engine: Engine | None) -> None:
        self._model = model
        self._engine = engine
        self._device = model.get_input_embeddings().weight.device
        self._cache: Any = None
        self._mask = torch.empty(0)
        self._lengths = torch.empty(0)

    def start(self, requests: Sequence[Request]) -> tuple[Scores, list[int]]:
        prompts, rows = distinct(requests)
        logits = self._prefill(prompts)
        if rows != list(range(len(prompts))):
            self._select(rows)
            logits = logits[rows]
        return Scores(logits), [1] * len(requests)

    @torch.inference_mode()
    def _prefill(self, prompts: list[tuple[tuple[int, ...], Any]]) -> Tensor:
        with plain_attention(self._device):
            encoded = encode(self._model, self._engine, prompts)
        lengths = [len(ids) for ids, _ in prompts]
        self._cache, self._mask = batch_cache(self._model, encoded, lengths)
        self._lengths = self._mask.sum(-1)
        if self._engine:
            self._engine.select([row for _, row in prompts])
        return encoded.scores

    @torch.inference_mode()
    def step(self, rows: Sequence[Next]) -> Scores:
        parents = [row.parent for row in rows]
        if parents != list(range(len(self._mask))):
            self._select(parents)
        tokens = torch.tensor([[row.token] for row in rows], device=self._device)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(rows), 1)], -1)
        self._lengths = self._lengths + 1
        with plain_attention(self._device):
            out = self._model(
                input_ids=tokens,
                attention_mask=self._mask,
                position_ids=self._lengths[:, None] - 1,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return Scores(out.logits[:, -1])

    @torch.inference_mode()
    def _select(self, parents: list[int]) -> None:
        index = torch.tensor(parents, device=self._device)
        self._cache.batch_select_indices(index)
        self._mask, self._lengths = self._mask[index], self._lengths[index]
        if self._engine:
            self._engine.keep(parents)

    def close(self) -> None:
        self._cache = None
        if self._engine:
            self._engine.clear()


def distinct(requests: Sequence[Request]) -> tuple[list[tuple[tuple[int, ...], Any]], list[int]]:
    """Prompts with their weights rows, equal ones once, and which of them each request has.

    Those of one weights row stand together, so that they can share what they begin with.
    """
    by_weights: dict[object, dict[tuple[int, ...], int]] = {}
    for request in requests:
        own = by_weights.setdefault(request.scales, {})
        own.setdefault(tuple(request.prompt_ids), len(own))
    starts, count = {}, 0
    for weights, own in by_weights.items():
        starts[weights] = count
        count += len(own)
    rows = [
        starts[request.scales] + by_weights[request.scales][tuple(request.prompt_ids)]
        for request in requests
    ]
    return [(ids, weights) for weights, own in by_weights.items() for ids in own], rows


def plain_attention(device: torch.device) -> AbstractContextManager[None]:
    """Attention without cuDNN, which plans anew for every length: 20 ms a token on an H200."""
    if device.type != "cuda":
        return nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    others = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    context: AbstractContextManager[None] = sdpa_kernel(others)
    return context


def _unwrap(model: Any, requests: Sequence[Request]) -> tuple[Any, Engine | None]:
    """The transformers model, and the engine that the model or its rows belong to."""
    engines = {id(e): e for r in requests if (e := getattr(r.scales, "engine", None)) is not None}
    if hasattr(model, "select"):
        engines[id(model)] = model
    if not engines:
        assert all(request.scales is None for request in requests), "rows of no engine"
        return model, None
    (engine,) = engines.values()  # rows of two engines cannot share a batch
    assert model is engine or model is engine.model, "the rows belong to another model"
    return engine.model, engine


def _limit(model: Any, request: Request) -> int:
    """Tokens the reply may have: the preset's, or what the model's positions leave."""
    prompt = len(request.prompt_ids)
    assert prompt, f"column {request.column} has an empty prompt"
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    room = (positions or 1 << 30) - prompt
    if room < 1:
        raise UserError(
            f"The prompt has {prompt} tokens; the model takes at most {positions} with the reply. "
            "Shorten the question, the conversation or the facts.",
            f"プロンプトが {prompt} トークンあり、モデルの上限（返答を含めて {positions}）を"
            "超えています。質問、会話、または事実を短くしてください。",
        )
    return min(request.preset.max_new_tokens, room)
