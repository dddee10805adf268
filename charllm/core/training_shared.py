"""A batch that shares its prefix: the common beginning of its prompts is computed once.

A character's training rows begin with one long system prompt and end in short replies. Laid out
as *prefix, then every row's own rest*, each token sees the prefix and its own row alone and keeps
the position it has in its row, so that loss and gradients are those of separate rows (Llama,
Mistral, Gemma and Qwen families; by test in fp32). Other models get plain batches. It does not
know how a trainer runs, nor which rows belong in one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from charllm.data.prompts import Row

if TYPE_CHECKING:
    import torch

TENSOR_MASK = ("llama", "mistral")
"""Model types that take one attention mask for all layers."""
MASK_BY_LAYER = ("gemma2", "gemma3_text", "qwen2", "qwen3")
"""Model types that take a mask for each kind of layer, full and sliding."""
MASKED_ATTENTION = ("sdpa", "eager")
"""Attention implementations that take any mask; the others know causal rows only."""
NOT_LEARNT = -100


@dataclass(frozen=True)
class SharedBatch:
    """All of shape [1, T]: the prefix (segment 0), then every row's rest (segments 1, 2, …)."""

    input_ids: torch.Tensor
    labels: torch.Tensor
    position_ids: torch.Tensor
    segments: torch.Tensor


def can_share(model: Any) -> bool:
    """Whether this model's attention can be told what each token sees."""
    config = model.config
    known = config.model_type in (*TENSOR_MASK, *MASK_BY_LAYER)
    return known and config._attn_implementation in MASKED_ATTENTION


def common_prefix(rows: Sequence[Row]) -> int:
    """How many tokens all rows begin with, short of the token before the first learnt one.

    A learnt token is predicted from the one before it, which must therefore be the row's own.
    """
    shortest = min(_first_learnt(row) - 1 for row in rows)
    first = rows[0].input_ids
    for place in range(max(0, shortest)):
        if any(row.input_ids[place] != first[place] for row in rows):
            return place
    return max(0, shortest)


def _first_learnt(row: Row) -> int:
    return next(i for i, label in enumerate(row.labels) if label != NOT_LEARNT)


def share(rows: Sequence[Row], multiple: int = 8, pad: int = 0) -> SharedBatch:
    """One sequence of all rows. Its length is a multiple of ``multiple``, for the GPU's kernels.

    What fills it up is a segment of its own that nobody sees and that is not learnt.
    """
    import torch

    prefix = common_prefix(rows)
    ids, labels = list(rows[0].input_ids[:prefix]), [NOT_LEARNT] * prefix
    positions, segments = list(range(prefix)), [0] * prefix
    for number, row in enumerate(rows, 1):
        rest = len(row.input_ids) - prefix
        ids += row.input_ids[prefix:]
        labels += row.labels[prefix:]
        positions += range(prefix, prefix + rest)
        segments += [number] * rest
    fill = -len(ids) % multiple
    ids += [pad] * fill
    labels += [NOT_LEARNT] * fill
    positions += range(fill)
    segments += [len(rows) + 1] * fill
    return SharedBatch(*(torch.tensor([x]) for x in (ids, labels, positions, segments)))


def visible(
    segments: torch.Tensor, positions: torch.Tensor, window: int | None = None
) -> torch.Tensor:
    """[1, 1, T, T], true where the query (third axis) may look at the key (fourth).

    ``window``: only keys fewer than so many positions back, as sliding attention has it.
    """
    import torch

    seg, pos = segments[0], positions[0]
    order = torch.arange(len(seg), device=seg.device)
    seen = (order[None, :] <= order[:, None]) & ((seg[None, :] == 0) | (seg[None] == seg[:, None]))
    if window is not None:
        seen &= pos[:, None] - pos[None, :] < window
    return seen[None, None]


def attention_masks(model: Any, batch: SharedBatch, dtype: torch.dtype) -> Any:
    """The mask as ``model`` takes it: added to the scores, one or one a kind of layer."""
    config = model.config
    window = getattr(config, "sliding_window", None)
    if config.model_type == "llama":
        return _additive(visible(batch.segments, batch.position_ids), dtype)
    if config.model_type in TENSOR_MASK:
        return _additive(visible(batch.segments, batch.position_ids, window), dtype)
    return {
        kind: _additive(
            visible(
                batch.segments,
                batch.position_ids,
                window if kind == "sliding_attention" else None,
            ),
            dtype,
        )
        for kind in set(config.layer_types)
    }


def _additive(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    import torch

    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill(~seen, torch.finfo(dtype).min)


class SharedCollator:
    """Rows as a trainer's data loader gives them to one shared batch."""

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        rows = [Row(f["input_ids"], f["labels"]) for f in features]
        return vars(share(rows, pad=self.pad))


def shared_trainer() -> type:
    """trl's trainer for shared batches: the only thing it adds is what each token sees."""
    import torch
    from trl import SFTTrainer

    class SharedTrainer(SFTTrainer):
        def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **more: Any) -> Any:
            segments = inputs.pop("segments")
            batch = SharedBatch(
                inputs["input_ids"], inputs["labels"], inputs["position_ids"], segments
            )
            whole: Any = self.accelerator.unwrap_model(model)
            dtype = torch.bfloat16 if self.args.bf16 else whole.dtype
            decoder = whole.get_decoder()
            masks = attention_masks(decoder, batch, dtype)

            def give(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
                return given, {**named, "attention_mask": masks}

            # Given here, at the decoder: what lies above it would count or cast a mask in its way.
            hook = decoder.register_forward_pre_hook(give, with_kwargs=True)
            try:
                return super().compute_loss(model, inputs, *args, **more)
            finally:
                hook.remove()

    return SharedTrainer
