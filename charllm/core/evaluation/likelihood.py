"""How likely a model finds given tokens: the mean log-likelihood of the end of each row.

For multiple choice (the options behind a question) and for held-out lines (the reply behind its
prompt). Rows of similar length share a batch, padded on the left; only the scores of the wanted
tokens are computed, since a large vocabulary makes them the dearest part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

from charllm.data.own_template import plain_ids

if TYPE_CHECKING:
    from torch import Tensor

    from charllm.data.prompts import Row

CELLS = 2**26
"""Scores in memory at once (256 MB in float32): rows × wanted tokens × vocabulary."""
ROWS = 64
"""Rows of a batch at most."""

Opened = Callable[[int], AbstractContextManager[Any]]
"""The model for a batch of so many rows, as long as the context is open."""


class Ending(NamedTuple):
    """Token ids whose last ``wanted`` (at least 1) are asked for; at least one stands before."""

    ids: list[int]
    wanted: int


def ending_of(row: Row) -> Ending:
    """The learnt tokens of a training row, which end it."""
    return Ending(row.input_ids, sum(label != -100 for label in row.labels))


def continuation(tokenizer: Any, text: str, more: str) -> Ending:
    """``more`` as it goes on behind ``text``, tokenised together, a beginning token first.

    Where both share a token, that token counts as ``more``'s.
    """
    head, whole = plain_ids(tokenizer, text), plain_ids(tokenizer, text + more)
    same = next(
        (i for i, (a, b) in enumerate(zip(head, whole, strict=False)) if a != b),
        min(len(head), len(whole) - 1),
    )
    bos = tokenizer.bos_token_id
    before = [] if bos is None else [int(bos)]
    return Ending([*before, *whole], len(whole) - (same if before else max(1, same)))


def mean_log_likelihoods(
    opened: Opened, endings: Sequence[Ending], rows: int = ROWS
) -> list[float]:
    """Nats per wanted token, at most 0, for each ending in the order given.

    The same endings make the same batches, so that repeating gives the same numbers.
    """
    found = [0.0] * len(endings)
    for batch in _batches(opened, endings, rows):
        with opened(len(batch)) as model:
            values = _of_batch(model, [endings[i] for i in batch])
        for place, value in zip(batch, values, strict=True):
            found[place] = value
    return found


def _batches(opened: Opened, endings: Sequence[Ending], rows: int) -> Iterator[list[int]]:
    """Places of rows that go together: similar lengths, as many as ``CELLS`` allows."""
    if not endings:
        return
    with opened(1) as model:
        vocabulary = model.get_output_embeddings().weight.shape[0]
    order = sorted(range(len(endings)), key=lambda i: len(endings[i].ids))
    batch: list[int] = []
    widest = 0
    for i in order:
        wider = max(widest, endings[i].wanted)
        cells = (len(batch) + 1) * (wider + 1) * vocabulary
        if batch and (len(batch) == rows or cells > CELLS):
            yield batch
            batch, wider = [], endings[i].wanted
        batch.append(i)
        widest = wider
    yield batch


def _of_batch(model: Any, endings: Sequence[Ending]) -> list[float]:
    import torch

    device = model.get_input_embeddings().weight.device
    width, tail = max(len(one.ids) for one in endings), max(one.wanted for one in endings)
    ids = torch.tensor([[0] * (width - len(one.ids)) + one.ids for one in endings], device=device)
    lengths = torch.tensor([len(one.ids) for one in endings], device=device)
    places = torch.arange(width, device=device) - (width - lengths)[:, None]
    padded = {"attention_mask": (places >= 0).long(), "position_ids": places.clamp(min=0)}
    with torch.inference_mode():
        logits = model(
            input_ids=ids,
            logits_to_keep=tail + 1,
            use_cache=False,
            **(padded if int(lengths.min()) < width else {}),
        ).logits[:, :-1]
        counts = torch.tensor([one.wanted for one in endings], device=device)
        return [float(value) for value in _means(logits, ids[:, -tail:], counts)]


def _means(logits: Tensor, wanted: Tensor, counts: Tensor) -> Tensor:
    """``logits`` [rows, tail, vocabulary], ``wanted`` [rows, tail], the last ``counts`` of each."""
    import torch

    losses = torch.nn.functional.cross_entropy(
        logits.float().transpose(1, 2), wanted, reduction="none"
    )
    tail = wanted.shape[1]
    kept = torch.arange(tail, device=wanted.device) >= (tail - counts)[:, None]
    return -(losses * kept).sum(1) / counts
