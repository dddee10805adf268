"""How one column chooses its tokens: greedy, sampled, or by beams.

A column gets the scores of its rows and answers which row goes on with which token; it knows
neither the model nor the other columns, so its reply cannot depend on them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from charllm.core.decoding_text import Pieces, TextStream, looped_tokens, text_of
from charllm.core.generation import Done, GenerationPreset, Reason, Request


class Next(NamedTuple):
    """A row of the next step: it continues row ``parent`` of this column with ``token``."""

    parent: int
    token: int


def column_seed(preset: GenerationPreset, noise: str) -> int:
    """The start of a column's random numbers: from the preset's seed and their name."""
    digest = hashlib.sha256(f"{preset.seed}\n{noise}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class Scores:
    """The logits of a step, [places, vocabulary], and what columns ask of them.

    On an accelerator, where every question of a single row is a wait for it, the first answers for
    all rows.
    """

    def __init__(
        self,
        logits: Tensor,
        places: Sequence[int] | None = None,
        likeliest: Sequence[int] | None = None,
    ) -> None:
        """``places`` are where the rows stand, None: in their order; ``likeliest`` the best token
        at every place, where it is known already."""
        self.logits = logits
        self._places = range(len(logits)) if places is None else places
        self._likeliest = likeliest
        self._chances: dict[tuple[int, float, float], tuple[Any, Any]] = {}

    def of(self, row: int) -> Tensor:
        """The logits [vocabulary] of a row."""
        return self.logits[self._places[row]]

    def likeliest(self, row: int) -> int:
        """The best token of a row."""
        if self._likeliest is None:
            best: list[int] = self.logits.argmax(-1).tolist()
            self._likeliest = best
        return self._likeliest[self._places[row]]

    def drawn(self, row: int, preset: GenerationPreset, random: torch.Generator) -> int:
        """A token of a row by temperature, ``top_k`` and ``top_p``, as ``sample`` draws it."""
        count = min(preset.top_k, self.logits.shape[-1])
        if self.logits.device.type == "cpu":
            values, ids = self.of(row).float().topk(count)
            return _drawn(*_chances(values / preset.temperature, ids, preset.top_p), random)
        key = preset.top_k, preset.top_p, preset.temperature
        if key not in self._chances:
            found = self.logits.float().topk(count)
            values, ids = found.values.cpu() / preset.temperature, found.indices.cpu()
            self._chances[key] = _chances(values, ids, preset.top_p)
        chances, ids = self._chances[key]
        place = self._places[row]
        return _drawn(chances[place], ids[place], random)


class Column(Protocol):
    """What the decode loop needs of a column."""

    request: Request

    def advance(self, scores: Scores, first: int, rows: int) -> list[Next]:
        """The rows of the next step, [] at the end; its scores are ``rows`` ones from ``first``."""

    def piece(self) -> str:
        """Text that can be shown since the last call."""

    def cancel(self) -> None:
        """End here."""

    def done(self) -> Done:
        """The reply; only after the end."""


def new_column(
    request: Request, tokenizer: Any, limit: int, started: float, pieces: Pieces | None = None
) -> Column:
    """``limit`` is the number of tokens the reply may have, ``started`` when the call began.

    With ``pieces`` the text is made at the end, for a call whose deltas nobody reads.
    """
    kind = BeamColumn if request.preset.num_beams > 1 else SingleColumn
    return kind(request, tokenizer, limit, started, pieces)


class _Base:
    def __init__(
        self,
        request: Request,
        tokenizer: Any,
        limit: int,
        started: float,
        pieces: Pieces | None = None,
    ) -> None:
        self.request = request
        self.tokenizer = tokenizer
        self.limit = limit
        self.started = started
        self.text = TextStream(tokenizer, request.stop_strings, pieces)
        self.reason: Reason | None = None
        self.ids: list[int] = []
        self.generated = 0
        self.first_token: float | None = None
        self.seed = column_seed(
            request.preset, request.column if request.noise is None else request.noise
        )

    def _count(self) -> None:
        self.generated += 1
        if self.first_token is None:
            self.first_token = time.perf_counter() - self.started

    def piece(self) -> str:
        return self.text.take() if self.reason is None else self.text.finish()

    def cancel(self) -> None:
        self.reason = "cancelled"

    def done(self) -> Done:
        assert self.reason is not None, f"column {self.request.column} has not ended"
        seconds = time.perf_counter() - self.started
        return Done(
            column=self.request.column,
            reason=self.reason,
            text=self.text.text,
            token_ids=self.ids,
            prompt_tokens=len(self.request.prompt_ids),
            first_token_seconds=seconds if self.first_token is None else self.first_token,
            seconds=seconds,
            generated=self.generated,
            seed=self.seed,
        )


class SingleColumn(_Base):
    """Greedy or sampled: one row."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._loop_cut = False
        self._random = torch.Generator().manual_seed(self.seed)

    def advance(self, scores: Scores, first: int, rows: int) -> list[Next]:
        token = self._choose(scores, first)
        self._count()
        if token in self.request.end_ids:
            self.reason = "end"
            return []
        self.ids.append(token)
        self.text.push(token)
        if self.text.stopped:
            self.reason = "stop_string"
        elif self.request.preset.repetition_guard and (surplus := looped_tokens(self.ids)):
            self.reason = "repetition"
            self.ids = self.ids[:-surplus]
            self._loop_cut = True
        elif len(self.ids) >= self.limit:
            self.reason = "length"
        return [] if self.reason else [Next(0, token)]

    def done(self) -> Done:
        if self._loop_cut:
            self.text = text_of(self.tokenizer, self.ids, self.request.stop_strings)
        return super().done()

    def _choose(self, scores: Scores, row: int) -> int:
        preset = self.request.preset
        if preset.repetition_penalty == 1.0:
            if preset.temperature == 0:
                return scores.likeliest(row)
            if preset.top_k:
                return scores.drawn(row, preset, self._random)
        own = penalised(scores.of(row).float(), preset, self.request.prompt_ids, self.ids)
        if preset.temperature == 0:
            return int(own.argmax())
        return sample(own, preset, self._random)


def penalised(scores: Tensor, preset: GenerationPreset, *used: list[int]) -> Tensor:
    """``scores`` with the tokens in ``used`` made less likely (Keskar et al. 2019, CTRL, 4.1)."""
    if preset.repetition_penalty == 1.0:
        return scores
    ids = torch.tensor(sorted(set().union(*used)), device=scores.device)
    old = scores[ids]
    new = torch.where(old < 0, old * preset.repetition_penalty, old / preset.repetition_penalty)
    return scores.index_copy(0, ids, new)


def sample(scores: Tensor, preset: GenerationPreset, random: torch.Generator) -> int:
    """A token by temperature, then top_k, then top_p; one random number from ``random``.

    The number picks along the tokens in the order of their ids, not of their scores: a last-bit
    difference between two batch shapes then moves a border a little instead of swapping tokens.
    """
    scores = scores.float() / preset.temperature
    if preset.top_k:
        values, ids = scores.topk(min(preset.top_k, len(scores)))
    elif preset.top_p < 1:
        values, ids = scores.sort(descending=True)
    else:
        values, ids = scores, torch.arange(len(scores), device=scores.device)
    return _drawn(*_chances(values, ids, preset.top_p), random)


def _drawn(chances: Any, ids: Any, random: torch.Generator) -> int:
    """One of ``ids`` by its place in the running sum of their chances."""
    point = float(torch.rand((), generator=random, dtype=torch.float64)) * chances[-1]
    return int(ids[min(int(chances.searchsorted(point, side="right")), len(ids) - 1)])


def _chances(values: Tensor, ids: Tensor, top_p: float) -> tuple[Any, Any]:
    """The running sum of the chances of tokens, and the tokens, in the order of their ids.

    ``values`` [.., tokens] are scores, in falling order where ``top_p`` is below 1. NumPy arrays
    of that shape in float64, since single numbers are read from them.
    """
    if top_p < 1:
        shares = values.softmax(-1)
        outside = shares.cumsum(-1) - shares >= top_p  # never the first
        values = values.masked_fill(outside, -torch.inf)
    order = ids.argsort(-1)
    chances = values.gather(-1, order).double().softmax(-1).cumsum(-1)
    return chances.cpu().numpy(), ids.gather(-1, order).cpu().numpy()


class _Hypothesis(NamedTuple):
    score: float
    ids: list[int]
    reason: Reason | None = None


class BeamColumn(_Base):
    """Beam search with the rule of transformers' ``generate`` (length penalty 1, no early stop).

    Running hypotheses are ranked by summed log-probability, finished ones by its mean over their
    tokens, the end token counted. It ends when no running one can beat the worst finished one.
    Text that all hypotheses share is shown on the way; nothing shown is ever taken back.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.beams = self.request.preset.num_beams
        self._running = [_Hypothesis(0.0, [])]
        self._finished: list[_Hypothesis] = []
        self._pushed = 0

    def advance(self, scores: Scores, first: int, rows: int) -> list[Next]:
        # The first scores are those of the prompt: every row is the same, one is enough.
        own = scores.logits[first : first + min(rows, len(self._running))].float().log_softmax(-1)
        own = torch.stack(
            [
                penalised(row, self.request.preset, self.request.prompt_ids, hypothesis.ids)
                + hypothesis.score
                for row, hypothesis in zip(own, self._running, strict=True)
            ]
        )
        self._count()
        candidates, parents = self._expand(own)
        going_on = [i for i, c in enumerate(candidates) if c.reason is None][: self.beams]
        self._finish(candidates[: self.beams])
        self._running = [candidates[i] for i in going_on]
        if self._ended():
            return []
        self._push(_common([h.ids for h in self._running + self._finished]))
        return [Next(parents[i], candidates[i].ids[-1]) for i in going_on]

    def cancel(self) -> None:
        best = self._finished[:1] or self._running[:1]
        self._settle(best[0].ids, "cancelled")

    def _expand(self, scores: Tensor) -> tuple[list[_Hypothesis], list[int]]:
        """The best continuations, best first: enough that ``beams`` of them do not end."""
        vocabulary = scores.shape[-1]
        count = max(2, 1 + len(self.request.end_ids)) * self.beams
        top = scores.flatten().topk(min(count, scores.numel()))
        hypotheses, parents = [], []
        for value, index in zip(top.values.tolist(), top.indices.tolist(), strict=True):
            parent, token = divmod(index, vocabulary)
            ids = [*self._running[parent].ids, token]
            hypotheses.append(_Hypothesis(value, ids, self._end_of(ids)))
            parents.append(parent)
        return hypotheses, parents

    def _end_of(self, ids: list[int]) -> Reason | None:
        if ids[-1] in self.request.end_ids:
            return "end"
        stops = self.request.stop_strings
        if stops and text_of(self.tokenizer, ids, stops).stopped:
            return "stop_string"
        return "length" if len(ids) >= self.limit else None

    def _finish(self, best: list[_Hypothesis]) -> None:
        ended = [h._replace(score=h.score / len(h.ids)) for h in best if h.reason is not None]
        merged = sorted(self._finished + ended, key=lambda h: h.score, reverse=True)
        self._finished = merged[: self.beams]

    def _ended(self) -> bool:
        if not self._running or self._cannot_improve():
            best = self._finished[0]
            self._settle(best.ids, best.reason)
        elif self.request.preset.repetition_guard:
            ids = self._running[0].ids
            if (surplus := looped_tokens(ids)) and not self._finished:
                self._settle(ids[:-surplus], "repetition")
            elif surplus:
                self._settle(self._finished[0].ids, self._finished[0].reason)
        return self.reason is not None

    def _cannot_improve(self) -> bool:
        if len(self._finished) < self.beams:
            return False
        best = self._running[0]
        return best.score / len(best.ids) <= self._finished[-1].score

    def _settle(self, ids: list[int], reason: Reason | None) -> None:
        self.reason = reason
        self.ids = ids[:-1] if ids and ids[-1] in self.request.end_ids else ids
        if reason == "repetition":
            self.text = text_of(self.tokenizer, self.ids, self.request.stop_strings)
        else:
            self._push(self.ids)

    def _push(self, ids: list[int]) -> None:
        for token in ids[self._pushed :]:
            if token not in self.request.end_ids:
                self.text.push(token)
        self._pushed = max(self._pushed, len(ids))


def _common(lists: list[list[int]]) -> list[int]:
    """The beginning that all lists share."""
    first, *others = lists
    for at, token in enumerate(first):
        if any(len(other) <= at or other[at] != token for other in others):
            return first[:at]
    return first
