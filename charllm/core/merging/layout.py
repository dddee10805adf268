"""Where a model's tensors lie in flat buffers, one buffer a layer group, and where its parents'
buffers are: on the device, in pinned memory beside it, or still in their files.

Tensors start at whole blocks (``kernels.BLOCK`` elements), so that a kernel runs over a group in
one go with one number a block. Nothing here knows what the numbers mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from charllm.core.merging.coefficients import EMBEDDINGS, HEAD
from charllm.core.merging.kernels import BLOCK
from charllm.core.merging.parameters import is_before_layers, layer_of
from charllm.core.merging.sources import Tensors

Where = Literal["device", "pinned", "mapped"]
_STREAM_BLOCKS = 2**16  # 64 million elements, 128 MB in 16 bits: what one copy moves


@dataclass(frozen=True)
class Place:
    """A tensor in its group's buffer: ``blocks`` from block ``start``."""

    name: str
    group: str
    start: int
    blocks: int
    size: int
    shape: tuple[int, ...]


class Layout:
    """The places of all tensors of a model, by group."""

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        groups: Sequence[tuple[str, tuple[int, ...]]],
    ) -> None:
        """``groups`` as ``coefficients.layer_groups`` makes them."""
        by_layer = {layer: name for name, layers in groups for layer in layers}
        self.blocks = {name: 0 for name, _ in groups}
        self.places: dict[str, Place] = {}
        for name, shape in shapes.items():
            layer = layer_of(name)
            if layer is not None:
                group = by_layer[layer]
            else:
                group = EMBEDDINGS if is_before_layers(name) else HEAD
            size = torch.Size(shape).numel()
            place = Place(name, group, self.blocks[group], -(-size // BLOCK), size, tuple(shape))
            self.places[name] = place
            self.blocks[group] += place.blocks

    @property
    def groups(self) -> list[str]:
        return [name for name, blocks in self.blocks.items() if blocks]

    def within(self, group: str) -> list[Place]:
        return [place for place in self.places.values() if place.group == group]

    def buffer(self, group: str, dtype: torch.dtype, device: Any, pinned: bool = False) -> Tensor:
        """A fresh zeroed buffer [blocks, BLOCK] for a group."""
        shape = (self.blocks[group], BLOCK)
        return torch.zeros(shape, dtype=dtype, device=device, pin_memory=pinned)


def view(buffer: Tensor, place: Place) -> Tensor:
    """A tensor's own elements in its group's buffer, in its shape."""
    flat = buffer[place.start : place.start + place.blocks].view(-1)
    return flat[: place.size].view(place.shape)


class Store:
    """One parent's weights in the layout's buffers.

    ``where`` "device": ready for a kernel. "pinned": in page-locked RAM beside a GPU. "mapped":
    read from the parent's files each time, which needs no memory of its own.
    """

    def __init__(self, layout: Layout, source: Tensors, where: Where, device: torch.device) -> None:
        self.layout = layout
        self.where = where
        self.device = device
        self._source = source
        self.dtype = torch.float32
        self._buffers: dict[str, Tensor] = {}

    def load(self, group: str, dtype: torch.dtype) -> None:
        """Read a group; ``dtype`` is what the parent is kept in."""
        self.dtype = dtype
        if self.where == "mapped":
            return
        place = self.device if self.where == "device" else "cpu"
        buffer = self.layout.buffer(group, dtype, place, pinned=self.where == "pinned")
        for at in self.layout.within(group):
            view(buffer, at).copy_(self._source.get(at.name).view(at.shape))
        self._buffers[group] = buffer

    def tensor(self, place: Place) -> Tensor:
        """One tensor, flat, on the device."""
        if self.where == "mapped":
            found = self._source.get(place.name).to(self.dtype)
            return found.reshape(-1).to(self.device)
        return view(self._buffers[place.group], place).view(-1).to(self.device)

    def resident(self, group: str) -> Tensor:
        assert self.where == "device"
        return self._buffers[group]

    def copy(self, group: str, part: slice, out: Tensor) -> None:
        """Copy blocks ``part`` of a group into ``out``, without waiting where that is possible."""
        if self.where != "mapped":
            out.copy_(self._buffers[group][part], non_blocking=True)
            return
        flat = torch.zeros(out.shape, dtype=self.dtype)
        for at in self.layout.within(group):
            low, high = max(at.start, part.start), min(at.start + at.blocks, part.stop)
            if low < high:
                piece = self._source.get(at.name).reshape(-1)
                piece = piece[(low - at.start) * BLOCK : (high - at.start) * BLOCK]
                flat.view(-1)[(low - part.start) * BLOCK :][: piece.numel()].copy_(piece)
        out.copy_(flat)


class Streams:
    """The pieces of several parents' groups, brought to the device one ahead of their use."""

    def __init__(self, stores: Sequence[Store], dtypes: Sequence[torch.dtype]) -> None:
        self.stores = stores
        self._device = stores[0].device
        self._cuda = self._device.type == "cuda"
        self._slots = [
            [torch.empty((_STREAM_BLOCKS, BLOCK), dtype=d, device=self._device) for d in dtypes]
            for _ in range(2 if self._cuda else 1)
        ]
        self._side: Any = torch.cuda.Stream(self._device) if self._cuda else None

    def pieces(self, group: str) -> Iterator[tuple[slice, list[Tensor]]]:
        """``(blocks, the stores' weights there)`` in order; valid until the next piece is taken."""
        total = self.stores[0].layout.blocks[group]
        parts = [
            slice(start, min(start + _STREAM_BLOCKS, total))
            for start in range(0, total, _STREAM_BLOCKS)
        ]
        if not self._cuda:
            for part in parts:
                yield part, self._fetch(group, part, 0)
            return
        ahead: list[Tensor] = self._ahead(group, parts[0], 0)
        for number, part in enumerate(parts):
            now = ahead
            torch.cuda.current_stream(self._device).wait_stream(self._side)
            if number + 1 < len(parts):
                ahead = self._ahead(group, parts[number + 1], (number + 1) % 2)
            yield part, now

    def _ahead(self, group: str, part: slice, slot: int) -> list[Tensor]:
        """Start copying; the slot's last use has to be over first."""
        self._side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._side):
            return self._fetch(group, part, slot)

    def _fetch(self, group: str, part: slice, slot: int) -> list[Tensor]:
        found = [buffer[: part.stop - part.start] for buffer in self._slots[slot]]
        for store, buffer in zip(self.stores, found, strict=True):
            store.copy(group, part, buffer)
        return found
