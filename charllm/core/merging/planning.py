"""Which engine holds a set of parents, where, and how much memory that takes: worked out from
configs and file headers, before anything loads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from charllm.core.merging.coefficients import ADAPTER_METHODS, BASE_METHODS, METHODS
from charllm.core.merging.compatibility import check_parents
from charllm.core.merging.mergekit_engine import check_method, working_copies
from charllm.core.merging.parents import Parent, find_parent
from charllm.core.merging.tokenizer_source import Vocabulary, searched_vocabulary
from charllm.data.config import Paths
from charllm.data.errors import Text, UserError

if TYPE_CHECKING:
    from charllm.core.merging.layout import Where

Kind = Literal["adapter", "dense", "layers", "mergekit"]
Device = Literal["auto", "cuda", "cpu"]

GB = 1e9
_RESERVE_SHARE = 0.10
_RESERVE_GB = 1.0
"""Kept free for decoding: a tenth of the weights and a gigabyte (102 replies of a 7B in one batch
were seen to take more; they then run in smaller batches)."""
_STREAMED = 64 * 2**20 * 2 * 2
"""Bytes a parent streamed from RAM has on a GPU: two pieces of 64 million weights."""


class Memory(NamedTuple):
    """What is free, in GB; ``device_gb`` is the RAM again where the device is the CPU."""

    device: Literal["cuda", "cpu"]
    device_gb: float
    ram_gb: float


@dataclass(frozen=True)
class Plan:
    """An engine for these parents. Sizes in GB (10⁹ bytes).

    ``weights_gb``: the model that answers. ``buffers_gb``: what else is on its device (parents,
    adapters, draws). ``total_gb``: both and the reserve for decoding. ``host_gb``: in RAM beside a
    GPU. ``fits``: whether the memory at hand is enough. ``vocabulary``: the merge's, where the
    parents' differ by added tokens.
    """

    engine: Kind
    method: str
    parents: tuple[Parent, ...]
    base: Parent | None
    device: Literal["cuda", "cpu"]
    where: Where
    weights_gb: float
    buffers_gb: float
    total_gb: float
    host_gb: float
    fits: bool
    reasons: tuple[Text, ...]
    vocabulary: Vocabulary | None = None

    def require(self) -> None:
        """``UserError`` where it does not fit."""
        if not self.fits:
            raise UserError(
                " ".join(reason.en for reason in self.reasons),
                "".join(reason.ja for reason in self.reasons),
            )


def memory_at_hand(device: Device = "auto") -> Memory:
    """What is free now on the accelerator and in RAM."""
    import psutil

    from charllm.core.models import pick_device

    ram = psutil.virtual_memory().available / GB
    if (pick_device() if device == "auto" else device) == "cpu":
        return Memory("cpu", ram, ram)
    import torch

    return Memory("cuda", torch.cuda.mem_get_info()[0] / GB, ram)


def plan(
    paths: Paths,
    parents: Sequence[str],
    method: str = "linear",
    base: str = "",
    near: Path | None = None,
    memory: Memory | None = None,
    tokenizer_source: str = "",
) -> Plan:
    """Find the parents, check that they fit together, and choose the engine.

    ``parents`` and ``base`` as in a recipe (folder, ``base+adapter``, another recipe), relative to
    ``near`` or the project's root. ``memory`` None: what is free now. ``tokenizer_source``: union
    or base, for vocabularies that differ by added tokens.
    """
    if len(parents) < 2 or len(set(parents)) != len(parents):
        raise UserError(
            "Choose at least two different parents.", "異なる親を2つ以上選んでください。"
        )
    if method in METHODS:
        _check_base(method, parents, base)
    else:
        check_method(method, parents, base)
    found = tuple(find_parent(name, near or paths.root, paths) for name in parents)
    origin = find_parent(base, near or paths.root, paths) if base else None
    vocabulary = searched_vocabulary(tokenizer_source, found, origin, method)
    check_parents([*found, *([origin] if origin else [])], aligned=vocabulary is not None)
    made = _engine_plan(method, found, origin, memory or memory_at_hand())
    if vocabulary is None:
        return made
    return replace(made, vocabulary=vocabulary, reasons=(vocabulary.told(), *made.reasons))


def _engine_plan(
    method: str, found: tuple[Parent, ...], origin: Parent | None, at_hand: Memory
) -> Plan:
    if _all_adapters(method, found, origin):
        return _adapter_plan(method, found, origin, at_hand)
    if method == "passthrough":
        return _layers_plan(found, at_hand)
    if method not in METHODS:
        return _mergekit_plan(method, found, origin, at_hand)
    return _dense_plan(method, found, origin, at_hand)


def _check_base(method: str, parents: Sequence[str], base: str) -> None:
    if (method in BASE_METHODS) != bool(base) or base in parents:
        raise UserError(
            f"{method} adds the parents' differences to a base: name a base that is no parent."
            if method in BASE_METHODS
            else f"{method} takes no base.",
            f"{method} は親の差分をベースに足します。親とは別のベースを指定してください。"
            if method in BASE_METHODS
            else f"{method} にベースは指定できません。",
        )
    if method == "slerp" and len(parents) != 2:
        raise UserError(
            "slerp mixes exactly two parents.", "slerp で混ぜられる親はちょうど2つです。"
        )


def _all_adapters(method: str, parents: Sequence[Parent], base: Parent | None) -> bool:
    """Whether every parent is an adapter on one base, or that base itself."""
    homes = {parent.base for parent in parents}
    plain = base is None or (base.adapter is None and base.recipe is None and base.base in homes)
    return (
        method in ADAPTER_METHODS
        and plain
        and len(homes) == 1
        and all(parent.recipe is None for parent in parents)
        and any(parent.adapter is not None for parent in parents)
    )


def _gigabytes(parent: Parent) -> float:
    """A parent's weights in 16 bits."""
    return 2 * sum(math.prod(shape) for shape in parent.shapes.values()) / GB


def _total(weights: float, buffers: float) -> float:
    return round(weights * (1 + _RESERVE_SHARE) + buffers + _RESERVE_GB, 2)


def _needs(total: float, memory: Memory) -> Text:
    place = Text(*(("the GPU", "GPU") if memory.device == "cuda" else ("RAM", "メモリー")))
    return Text(
        f"It needs {total:.1f} GB; {place.en} has {memory.device_gb:.1f} GB free.",
        f"必要なメモリーは {total:.1f} GB、{place.ja}の空きは {memory.device_gb:.1f} GB です。",
    )


def _adapter_plan(
    method: str, parents: tuple[Parent, ...], base: Parent | None, memory: Memory
) -> Plan:
    weights = _gigabytes(Parent("", parents[0].base))
    files = [p.adapter / "adapter_model.safetensors" for p in parents if p.adapter is not None]
    buffers = 2 * sum(file.stat().st_size for file in files) / GB  # as loaded, and side by side
    total = _total(weights, buffers)
    reasons = (
        Text(
            "All parents are adapters on one base: it is kept once, a candidate is a row of "
            "coefficients, and a generation runs in one batch.",
            "親はすべて同じベースのアダプターです。ベースは1つだけ読み込み、候補は係数の行として"
            "扱い、1世代をまとめて生成します。",
        ),
        _needs(total, memory),
    )
    fits = total <= memory.device_gb
    return Plan(
        *("adapter", method, parents, base, memory.device, "device"),
        *(round(weights, 3), round(buffers, 3), total, 0.0, fits, reasons),
    )


def _layers_plan(parents: tuple[Parent, ...], memory: Memory) -> Plan:
    weights = sum(map(_gigabytes, parents))
    total = _total(weights, 0.0)
    reasons = (
        Text(
            "Layers are taken from the parents as they are: each parent is kept once, and no "
            "weight is copied.",
            "親の層をそのまま並べます。親はそれぞれ1つずつ読み込み、重みはコピーしません。",
        ),
        _needs(total, memory),
    )
    return Plan(
        *("layers", "passthrough", parents, None, memory.device, "device"),
        *(round(weights, 3), 0.0, total, 0.0, total <= memory.device_gb, reasons),
    )


def _mergekit_plan(
    method: str, parents: tuple[Parent, ...], base: Parent | None, memory: Memory
) -> Plan:
    """The model alone; the parents are read tensor by tensor, in float32 while they are merged."""
    weights = _gigabytes(parents[0])
    largest = max(math.prod(shape) for shape in parents[0].shapes.values())
    working = 4 * largest * working_copies(method, len(parents) + (base is not None)) / GB
    on_cpu = memory.device == "cpu"
    total = _total(weights, working if on_cpu else 0.0)
    fits = total <= memory.device_gb and (on_cpu or working <= memory.ram_gb)
    reasons = (
        Text(
            f"{method} is computed by mergekit itself, tensor by tensor: much slower than the "
            "methods that have a kernel here (some seconds for every 100 million weights).",
            f"{method} は mergekit 自身がテンソルごとに計算します。専用の実装がある方法より"
            "ずっと遅くなります（重み1億個あたり数秒）。",
        ),
        _needs(total, memory),
    )
    return Plan(
        *("mergekit", method, parents, base, memory.device, "mapped"),
        *(round(weights, 3), round(working if on_cpu else 0.0, 3), total),
        *(0.0 if on_cpu else round(working, 3), fits, reasons),
    )


def _dense_plan(
    method: str, parents: tuple[Parent, ...], base: Parent | None, memory: Memory
) -> Plan:
    weights = _gigabytes(parents[0])
    count = len(parents) + (base is not None)
    draws = weights / 2 * len(parents) if method.startswith("dare") else 0.0
    copies = weights * count + draws
    streamed = count * _STREAMED / GB
    on_files = all(p.adapter is None and p.recipe is None for p in (*parents, base) if p)
    where: Where
    if _total(weights, copies) <= memory.device_gb:
        where, buffers, host, reason = "device", copies, 0.0, _BESIDE
    elif memory.device == "cuda" and copies <= 0.8 * memory.ram_gb:
        where, buffers, host, reason = "pinned", streamed, copies, _PINNED
    elif on_files:
        where, buffers, host, reason = "mapped", streamed, draws, _MAPPED
        if memory.device == "cpu":
            buffers, host = streamed / 2 + draws, 0.0
    else:
        where, buffers, host, reason = "device", copies, 0.0, _TOO_BIG
    total = _total(weights, buffers)
    fits = total <= memory.device_gb and host <= memory.ram_gb
    reasons = (reason, _needs(total, memory))
    return Plan(
        *("dense", method, parents, base, memory.device, where),
        *(round(weights, 3), round(buffers, 3), total, round(host, 3), fits, reasons),
    )


_BESIDE = Text(
    "Full models: the parents are kept beside the model that answers, a candidate is one pass over "
    "them.",
    "モデル全体を混ぜます。親を応答用のモデルと並べて置き、候補は1回の走査で作ります。",
)
_PINNED = Text(
    "Full models: the parents stay in pinned RAM and are streamed through the GPU for each "
    "candidate.",
    "モデル全体を混ぜます。親は固定されたメインメモリーに置き、候補ごとに GPU へ流します。",
)
_MAPPED = Text(
    "Full models: the parents do not fit in memory and are read from their files for each "
    "candidate, which is slow if the disk is.",
    "モデル全体を混ぜます。親がメモリーに入らないため、候補ごとにファイルから読みます"
    "（ディスクが遅いと時間がかかります）。",
)
_TOO_BIG = Text(
    "The parents do not fit, and adapters or recipes among them cannot be read piece by piece: "
    "write each of these as a model first.",
    "親がメモリーに入りません。アダプターやレシピの親は少しずつ読めないため、先にモデルとして"
    "書き出してください。",
)
