"""What memory a training run will take at its peak, before it starts, and what would make it fit.

An estimate from the model's shape and the largest batch; the sizes it is made of were compared
with measured peaks (``benchmarks/train_memory.py``). It loads no model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from charllm.core.catalog import ModelInfo, find_model, lora_parameters
from charllm.core.training_config import TrainConfig
from charllm.data.config import Paths
from charllm.data.errors import Text, UserError

if TYPE_CHECKING:
    from charllm.core.training_data import Material
    from charllm.data.prompts import Row

PARTS = {
    "weights": Text("Weights of the base", "ベースの重み"),
    "adapter": Text("Adapter, its gradients and moments", "アダプターと勾配・モーメント"),
    "activations": Text("Activations of the largest batch", "最大のバッチの活性値"),
    "logits": Text("Scores over the vocabulary", "語彙全体のスコア"),
    "runtime": Text("Runtime and libraries", "ランタイムとライブラリ"),
}
RUNTIME = {"cuda": 1.4, "cpu": 1.3}
"""GB: a CUDA context with its kernels; Python with torch, transformers and trl."""
NF4 = 0.516
"""Bytes of a weight in NF4 with double quantisation (QLoRA, arXiv 2305.14314)."""


@dataclass(frozen=True)
class Fit:
    """Settings to change so that the run fits, and what it then takes."""

    changes: dict[str, Any]
    total_gb: float


@dataclass(frozen=True)
class MemoryQuote:
    """Peak memory in GB (10⁹ bytes) by part (names in ``PARTS``), on "cuda" or "cpu".

    ``available_gb`` is what is free there now, or the limit that was set; ``fits`` leaves none to
    spare. ``tokens`` of the largest batch. ``measures``, smallest change first, where it does not.
    """

    device: str
    parts: dict[str, float]
    available_gb: float
    tokens: int
    measures: tuple[Fit, ...] = ()

    @property
    def total_gb(self) -> float:
        return round(sum(self.parts.values()), 2)

    @property
    def fits(self) -> bool:
        return self.total_gb <= self.available_gb


@dataclass(frozen=True)
class BatchShape:
    """Of the largest batch: tokens that are computed, and tokens that are learnt."""

    tokens: int
    learnt: int


def quote(config: TrainConfig, paths: Paths, material: Material | None = None) -> MemoryQuote:
    """The peak of this run; without ``material`` every row is taken as ``max_length`` tokens long.

    ``UserError`` where the base's shape is not known.
    """
    del paths  # bases are found by their name; where weights lie does not matter here
    device, free = _device()
    available = min(free, config.memory_gb) if config.memory_gb and device == "cuda" else free
    info = find_model(config.base)
    rows = material.rows if material else None

    def need(settings: TrainConfig) -> tuple[dict[str, float], int]:
        shape = batch_shape(settings, rows)
        return parts(settings, info, shape, device), shape.tokens

    needed, tokens = need(config)
    made = MemoryQuote(device, needed, round(available, 2), tokens)
    if made.fits:
        return made
    fits = []
    for kind in _changes(config, device):
        for changes in kind:
            total = round(sum(need(config.model_copy(update=changes))[0].values()), 2)
            if total <= available:
                fits.append(Fit(changes, total))
                break
    return MemoryQuote(device, needed, round(available, 2), tokens, tuple(fits[:3]))


def batch_shape(config: TrainConfig, rows: Sequence[Row] | None) -> BatchShape:
    """The largest batch of the run, in the order in which its seed shuffles the rows.

    Without rows: all as long as may be, a quarter of their tokens learnt.
    """
    if not rows:
        tokens = config.batch_size * config.max_length
        return BatchShape(tokens, tokens // 4)
    shapes = [_shape(config, batch) for batch in _batches(config, rows)]
    return max(shapes, key=lambda shape: shape.tokens)


def _batches(config: TrainConfig, rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """As accelerate's seeded sampler deals them out: a permutation an epoch, from seed + epoch."""
    import torch

    for epoch in range(math.ceil(config.epochs)):
        generator = torch.Generator().manual_seed(config.seed + epoch)
        order = torch.randperm(len(rows), generator=generator).tolist()
        for start in range(0, len(rows), config.batch_size):
            yield [rows[i] for i in order[start : start + config.batch_size]]


def _shape(config: TrainConfig, batch: Sequence[Row]) -> BatchShape:
    from charllm.core.training_shared import common_prefix

    lengths = [len(row.input_ids) for row in batch]
    learnt = sum(label != -100 for row in batch for label in row.labels)
    prefix = common_prefix(batch) if config.share_prefix else 0
    tokens = prefix + sum(n - prefix for n in lengths) if prefix else len(batch) * max(lengths)
    return BatchShape(tokens, learnt)


def parts(config: TrainConfig, info: ModelInfo, shape: BatchShape, device: str) -> dict[str, float]:
    """GB by part.

    - Weights: 2 bytes each; in NF4 those of the layers 0.516, and the largest matrix once more in
      16 bits, twice, while it is unpacked.
    - Adapter: weight, gradient and two moments in fp32, 16 bytes a parameter.
    - Activations that are kept for the way back, in bytes a layer and token with adapters on all
      linear layers: 12 · hidden + 6 · kv + 8.25 · ffn, fitted to measured peaks of three shapes;
      with checkpointing 2 · hidden a layer and token, and one layer in full.
    - Scores: bf16, fp32 and their gradient for learnt tokens only, 12 bytes an entry.
    """
    embedding = info.vocab * info.hidden * (1 if info.tied else 2)
    inner = info.parameters - embedding
    weights = 2.0 * embedding + info.weight_bytes * inner
    if config.quantization == "nf4":
        weights = 2.0 * embedding + NF4 * inner + 4.0 * info.hidden * info.ffn
    kept = (12.0 * info.hidden + 6.0 * info.kv + 8.25 * info.ffn) * shape.tokens
    activations = kept * info.layers
    if config.gradient_checkpointing:
        activations = 2.0 * info.hidden * shape.tokens * info.layers + kept
    sizes = {
        "weights": weights,
        "adapter": 16.0 * lora_parameters(info, config.r),
        "activations": activations,
        "logits": 12.0 * info.vocab * shape.learnt,
        "runtime": RUNTIME[device] * 1e9,
    }
    return {name: round(size / 1e9, 3) for name, size in sizes.items()}


def _changes(config: TrainConfig, device: str) -> list[list[dict[str, Any]]]:
    """What may be changed without changing what is learnt: by kind, the smallest change first."""
    halves: list[dict[str, Any]] = []
    batch, accumulate = config.batch_size, config.accumulate
    while batch > 1:
        batch, accumulate = (batch + 1) // 2, accumulate * 2
        halves.append({"batch_size": batch, "accumulate": accumulate})
    packed: list[dict[str, Any]] = []
    if device == "cuda" and config.quantization == "none":
        packed.append({"quantization": "nf4"})
    saving: list[dict[str, Any]] = []
    if not config.gradient_checkpointing:
        saving.append({"gradient_checkpointing": True})
    pairs = [(packed, halves), (packed, saving), (saving, halves)]
    together = [[{**one, **other} for one in a for other in b] for a, b in pairs]
    everything = [{**one, **two, **three} for one in packed for two in saving for three in halves]
    return [halves, packed, saving, *together, everything]


def limit_memory(gb: float) -> None:
    """Let PyTorch take at most ``gb`` on the CUDA device; 0 or no such device: as before."""
    import torch

    if gb and torch.cuda.is_available():
        whole = torch.cuda.get_device_properties(0).total_memory / 1e9
        torch.cuda.set_per_process_memory_fraction(min(1.0, gb / whole))


@contextmanager
def explained_memory(
    config: TrainConfig, paths: Paths, material: Material | None
) -> Iterator[None]:
    """Turns "out of memory" into a ``UserError`` that names the settings to change."""
    import torch

    try:
        yield
    except (torch.cuda.OutOfMemoryError, MemoryError) as error:
        raise _too_little(config, paths, material) from error
    except RuntimeError as error:  # what PyTorch raises where the CPU's memory is at its end
        if "not enough memory" not in str(error):
            raise
        raise _too_little(config, paths, material) from error


def _too_little(config: TrainConfig, paths: Paths, material: Material | None) -> UserError:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    made = quote(config, paths, material)
    halved = {"batch_size": max(1, config.batch_size // 2), "accumulate": config.accumulate * 2}
    changes = made.measures[0].changes if made.measures else halved
    words = ", ".join(f"{name}: {value}" for name, value in changes.items())
    others = "; ".join(
        ", ".join(f"{name}: {value}" for name, value in fit.changes.items())
        for fit in made.measures[1:]
    )
    return UserError(
        f"The memory did not suffice. Start again with {words}"
        f"{f' (or with {others})' if others else ''}: what is learnt stays the same. "
        "End what else uses the memory, the chat's models included.",
        f"メモリーが足りませんでした。{words} に変えて開始し直してください"
        f"{f'（または {others}）' if others else ''}。学習の内容は変わりません。"
        "チャットのモデルなど、メモリーを使っているほかの処理は終えてください。",
    )


def _device() -> tuple[str, float]:
    """The device a run would take and its free memory in GB; asked without loading torch twice."""
    from charllm.core.models import pick_device

    if pick_device() == "cuda":
        import torch

        return "cuda", torch.cuda.mem_get_info()[0] / 1e9
    import psutil

    return "cpu", psutil.virtual_memory().available / 1e9
