"""What a model's folder says about itself without a weight being read: config and file headers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from charllm.data.errors import UserError
from charllm.data.files import read_json


def text_config(folder: Path) -> dict[str, Any]:
    """config.json; of a model with pictures, the part for text."""
    config = read_json(folder / "config.json")
    return {**config, **config.get("text_config", {})}


def read_header(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """``tensor name → (dtype, shape)`` of a safetensors file, without reading a weight."""
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
    header.pop("__metadata__", None)
    return {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}


def shard_files(folder: Path) -> list[Path]:
    """The model's safetensors files, by its index where there is one."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(read_json(index)["weight_map"].values()))
        return [folder / name for name in names]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    raise UserError(
        f"{folder} holds no model.safetensors; only safetensors models can be merged.",
        f"{folder} に model.safetensors がありません。マージできるのは safetensors だけです。",
    )


def stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Each stored tensor's shape by name."""
    found = (read_header(file) for file in shard_files(folder))
    return {name: shape for header in found for name, (_, shape) in header.items()}
