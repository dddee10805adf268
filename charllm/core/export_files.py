"""Writing a model's safetensors files tensor by tensor, so that none has to fit into memory.

The format is a length, a JSON header and the tensors' bytes; it allows to write each tensor when
it is made. What the tensors are is not known here.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from charllm.data.files import write_json

if TYPE_CHECKING:
    import torch

SHARD_BYTES = 4 * 2**30
"""A file's size at most, where the model's own division into files cannot be kept."""


def write_tensors(
    file: Path,
    shapes: Mapping[str, Sequence[int]],
    tensor: Callable[[str], torch.Tensor],
    tick: Callable[[int], None],
) -> str:
    """Write bfloat16 tensors in the order of ``shapes``; returns the file's SHA-256.

    ``tensor(name)`` gives each when its turn comes; ``tick`` is told the bytes after each.
    """
    import torch

    digest = hashlib.sha256()
    with file.open("wb") as stream:

        def write(data: bytes | memoryview) -> None:
            stream.write(data)
            digest.update(data)

        write(_head(shapes))
        for name, shape in shapes.items():
            found = tensor(name)
            assert found.dtype == torch.bfloat16, f"{name} is {found.dtype}"
            assert tuple(found.shape) == tuple(shape), f"{name}: {found.shape}, not {shape}"
            write(found.contiguous().view(torch.uint8).numpy().data)
            tick(2 * found.numel())
    return digest.hexdigest()


def _head(shapes: Mapping[str, Sequence[int]]) -> bytes:
    """The length in 8 bytes, then the header, padded so that the tensors' bytes are aligned."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        end = at + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def divide(shapes: Mapping[str, Sequence[int]], limit: int = SHARD_BYTES) -> dict[str, list[str]]:
    """Tensors by file name, each file of ``limit`` bytes at most unless one tensor is larger."""
    parts: list[list[str]] = [[]]
    size = 0
    for name, shape in shapes.items():
        one = 2 * math.prod(shape)
        if parts[-1] and size + one > limit:
            parts.append([])
            size = 0
        parts[-1].append(name)
        size += one
    if len(parts) == 1:
        return {"model.safetensors": parts[0]}
    total = len(parts)
    return {f"model-{k:05d}-of-{total:05d}.safetensors": p for k, p in enumerate(parts, 1)}


def write_index(folder: Path, files: Mapping[str, Iterable[str]], total: int) -> None:
    """Which tensor lies in which file, for a model of several; ``total`` bytes of weights."""
    where = {name: file for file, names in files.items() for name in names}
    index = {"metadata": {"total_size": total}, "weight_map": where}
    write_json(folder / "model.safetensors.index.json", index)
