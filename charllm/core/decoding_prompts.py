"""Encoding prompts: all lengths in one pass without padding, known beginnings not again.

On a CPU the first token waits for arithmetic, so every token that is encoded twice or is padding
shows. Prompts stand one behind the other in a single sequence, with a mask that keeps them apart,
and come out as the padded cache that decoding needs. It knows a transformers causal LM with plain
or sliding-window attention, and nothing of columns or text.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from charllm.data.errors import UserError

# Tokens of one pass: the mask is quadratic in it, and prompts that are kept apart waste attention.
_PASS_TOKENS = {"cpu": 1024, "cuda": 4096}

States = list[tuple[Tensor, Tensor]]
"""Each layer's keys and values, [prompts, heads, tokens, dim], padded on the left."""


@dataclass(frozen=True)
class Kept:
    """One prompt's keys and values within those of the call that encoded it."""

    states: States
    row: int
    length: int

    def beginning(self, layer: int, tokens: int) -> tuple[Tensor, Tensor]:
        """Keys and values [1, heads, tokens, dim] of the first ``tokens`` tokens."""
        keys, values = self.states[layer]
        first = keys.shape[2] - self.length
        part = slice(first, first + tokens)
        return keys[self.row : self.row + 1, :, part], values[self.row : self.row + 1, :, part]


class PromptMemory:
    """The keys and values of recent prompts, at most ``tokens`` tokens in all.

    A prompt that begins like an earlier one under the same weights starts where they part.
    """

    def __init__(self, tokens: int) -> None:
        self._limit = tokens
        self._entries: OrderedDict[tuple[str, tuple[int, ...]], Kept] = OrderedDict()

    def find(self, weights: str, ids: tuple[int, ...]) -> tuple[Kept | None, int]:
        """The entry with the longest common beginning, and its length (never all of ``ids``)."""
        best: tuple[Kept | None, int] = None, 0
        for (name, known), kept in self._entries.items():
            common = 0
            if name == weights:
                common = common_length(known, ids[:-1])
            if common > best[1]:
                best = kept, common
        return best

    def add(self, weights: str, ids: tuple[int, ...], kept: Kept) -> None:
        self._entries[weights, ids] = kept
        self._entries.move_to_end((weights, ids))
        while sum(len(known) for _, known in self._entries) > self._limit:
            self._entries.popitem(last=False)

    def clear(self) -> None:
        self._entries.clear()


def common_length(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """How many ids the two begin with in common. By halves: a slice compares much faster."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


@dataclass(frozen=True)
class Prompt:
    """A prompt to encode under a weights row, from its token ``start`` on.

    The tokens before come from ``known``, or else from the prompt at ``donor`` in the same pass.
    """

    ids: tuple[int, ...]
    row: Any
    known: Kept | None = None
    start: int = 0
    donor: int = -1

    @property
    def new(self) -> int:
        return len(self.ids) - self.start

    @property
    def old(self) -> int:
        """Tokens it brings along from earlier calls."""
        return self.start if self.known else 0


@dataclass(frozen=True)
class Encoded:
    """Prompts ready to be continued; ``scores`` [prompts, vocabulary] are the logits after each."""

    scores: Tensor
    states: States


@dataclass(frozen=True)
class Pass:
    """Prompts encoded in one pass, their states still one behind the other."""

    scores: Tensor
    layers: list[Any]
    places: _Places

    def states(self, layer: int) -> tuple[Tensor, Tensor]:
        """A layer's keys and values, as in ``States``, without the tokens that were skipped."""
        found = self.layers[layer]
        return self.places.rows_of(found.keys), self.places.rows_of(found.values)

    def beginnings(self, layer: int, prompts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Keys and values [prompts, heads, skipped, dim] of the skipped tokens of ``prompts``."""
        found = self.layers[layer]
        return (
            self.places.beginnings_of(found.keys, prompts),
            self.places.beginnings_of(found.values, prompts),
        )


def encode(model: Any, engine: Any, prompts: Sequence[tuple[tuple[int, ...], Any]]) -> Encoded:
    """Encode prompts, each ids and weights row; ``engine`` is None for a plain model."""
    passes = list(encode_parts(model, engine, prompts))
    states = []
    for layer in range(len(passes[0].layers)):
        parts = [one.states(layer) for one in passes]
        states.append((_joined([k for k, _ in parts]), _joined([v for _, v in parts])))
    memory: PromptMemory | None = getattr(engine, "memory", None)
    if memory:
        for at, (ids, row) in enumerate(prompts):
            memory.add(engine.fingerprint(row), ids, Kept(states, at, len(ids)))
    return Encoded(_joined([one.scores for one in passes]), states)


def encode_parts(
    model: Any, engine: Any, prompts: Sequence[tuple[tuple[int, ...], Any]], skipped: int = 0
) -> Iterator[Pass]:
    """The same, as many prompts at a time as make one pass, in their order.

    The states of the first ``skipped`` tokens of every prompt are had apart.
    """
    memory: PromptMemory | None = getattr(engine, "memory", None)
    names = [engine.fingerprint(row) if memory else "" for _, row in prompts]
    jobs = []
    for (ids, row), name in zip(prompts, names, strict=True):
        known, start = memory.find(name, ids) if memory else (None, 0)
        jobs.append(Prompt(ids, row, known, start))
    longest = max(len(job.ids) for job in jobs)
    for part in _passes(jobs, _PASS_TOKENS.get(model.device.type, 1024)):
        yield _one_pass(model, engine, part, longest, skipped)


def on_device(values: Any, device: torch.device) -> Tensor:
    """A tensor of ``values``, brought there without waiting for what the device is doing."""
    tensor = values if isinstance(values, Tensor) else torch.tensor(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0]


def batch_cache(model: Any, encoded: Encoded, prompts: Sequence[int]) -> tuple[Any, Tensor]:
    """The cache to continue with, and its mask [rows, tokens]; ``prompts`` are their lengths."""
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    for index, (keys, values) in enumerate(encoded.states):
        cache.update(keys, values, index)
    longest = max(prompts)
    mask = torch.arange(longest)[None] >= longest - torch.tensor(list(prompts))[:, None]
    return cache, mask.long().to(encoded.scores.device)


def _passes(jobs: Sequence[Prompt], limit: int) -> list[list[Prompt]]:
    """The prompts in order, in groups of at most ``limit`` tokens; a longer one stands alone.

    Within a group a beginning that two prompts share under the same weights is encoded once.
    """
    groups: list[list[Prompt]] = [[]]
    size = 0
    for job in jobs:
        shared = _with_donor(job, groups[-1])
        if groups[-1] and size + shared.old + shared.new > limit:
            groups.append([])
            size, shared = 0, job
        groups[-1].append(shared)
        size += shared.old + shared.new
    return groups


def _with_donor(job: Prompt, others: Sequence[Prompt]) -> Prompt:
    """``job`` starting where it parts from the most alike of ``others``, where that is later."""
    best = job
    for at, other in enumerate(others):
        common = common_length(job.ids[:-1], other.ids) if other.row == job.row else 0
        if common > best.start:
            best = replace(job, known=None, start=common, donor=at)
    return best


def _one_pass(model: Any, engine: Any, jobs: Sequence[Prompt], longest: int, skipped: int) -> Pass:
    from transformers import DynamicCache

    device = model.get_input_embeddings().weight.device
    views = windows(model)
    cache = DynamicCache()  # plain layers: what a window drops, a later prompt may begin with
    known = [(job.known, job.start) for job in jobs if job.known]
    for index in range(len(views) if known else 0):
        pairs = [kept.beginning(index, start) for kept, start in known]
        keys, values = torch.cat([k for k, _ in pairs], 2), torch.cat([v for _, v in pairs], 2)
        cache.update(keys, values, index)
    if engine is not None:
        engine.select([job.row for job in jobs], [job.new for job in jobs])
    ids = [token for job in jobs for token in job.ids[job.start :]]
    places = _Places(jobs, device, longest, skipped)
    out = model(
        input_ids=on_device([ids], device),
        attention_mask=_masks(model, places, views) if len(jobs) > 1 or known else None,
        position_ids=places.new_positions[None],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=places.last,
    )
    return Pass(out.logits[0], cache.layers, places)


class _Places:
    """Where the tokens of a pass are: known ones first, then the new ones, prompt by prompt."""

    def __init__(
        self, jobs: Sequence[Prompt], device: torch.device, longest: int, skipped: int
    ) -> None:
        old = [position for job in jobs for position in range(job.old)]
        new = [position for job in jobs for position in range(job.start, len(job.ids))]
        new_rows = [row for row, job in enumerate(jobs) for _ in range(job.new)]
        slots: list[list[int]] = []  # of each prompt's tokens
        at_old, at_new = 0, len(old)
        for job in jobs:
            begin = slots[job.donor][: job.start] if job.donor >= 0 else []
            begin = begin or list(range(at_old, at_old + job.old))
            slots.append(begin + list(range(at_new, at_new + job.new)))
            at_old, at_new = at_old + job.old, at_new + job.new
        seen = torch.zeros(len(jobs), at_new, dtype=torch.bool)
        for row, own in enumerate(slots):
            seen[row, own] = True
        # Padding repeats a token; its mask hides it.
        padded = [[0] * (longest - len(own)) + own[skipped:] for own in slots]
        self._slots = on_device(padded, device)
        self._first = [own[:skipped] for own in slots]
        self.last = on_device([own[-1] - len(old) for own in slots], device)
        self.new_positions = on_device(new, device)
        self.positions = on_device(old + new, device)
        # [new, known + new]: of the same prompt
        self.seen = on_device(seen, device)[on_device(new_rows, device)]

    def rows_of(self, states: Tensor) -> Tensor:
        """``states`` [1, heads, known + new, dim] as [prompts, heads, longest - skipped, dim]."""
        return _picked(states, self._slots)

    def beginnings_of(self, states: Tensor, prompts: Sequence[int]) -> Tensor:
        """``states`` of the skipped tokens of ``prompts``, as [prompts, heads, skipped, dim]."""
        slots = on_device([self._first[prompt] for prompt in prompts], states.device)
        return _picked(states, slots)


def _picked(states: Tensor, slots: Tensor) -> Tensor:
    """``slots`` [prompts, tokens] of ``states`` [1, heads, .., dim]."""
    found = states[0].index_select(1, slots.flatten())
    return found.unflatten(1, slots.shape).transpose(0, 1)


def windows(model: Any) -> list[int | None]:
    """Each layer's attention window; None sees everything."""
    from transformers import DynamicCache

    types = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    if others := types - {"full_attention", "sliding_attention"}:
        kinds = ", ".join(sorted(others))
        raise UserError(
            f"This model's attention ({kinds}) is not supported. Choose another model.",
            f"このモデルのアテンション（{kinds}）には対応していません。別のモデルを選んでください。",
        )
    layers = DynamicCache(config=model.config).layers
    return [getattr(layer, "sliding_window", None) for layer in layers]


def _masks(model: Any, places: _Places, views: Sequence[int | None]) -> Any:
    """What each new token may see, [1, 1, new, known + new], added to the attention scores.

    One mask where all layers see the same, else one for each layer type.
    """
    distance = places.new_positions[:, None] - places.positions[None]
    seen = places.seen & (distance >= 0)
    made: dict[int | None, Tensor] = {}
    for window in set(views):
        allowed = seen if window is None else seen & (distance < window)
        blocked = torch.zeros(allowed.shape, dtype=model.dtype, device=allowed.device)
        made[window] = blocked.masked_fill_(~allowed, torch.finfo(model.dtype).min)[None, None]
    if len(made) == 1:
        return next(iter(made.values()))
    types = model.config.get_text_config().layer_types
    return {kind: made[window] for kind, window in zip(types, views, strict=True)}
