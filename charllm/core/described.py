"""What the catalog would say of a model that it does not list, read from the model's own files.

Only JSON and the headers of safetensors are read; no weights, no torch, no network.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from charllm.core.catalog import ModelInfo
from charllm.data.errors import UserError
from charllm.data.files import read_json

HEADER_LIMIT = 100_000_000
"""Bytes; safetensors' own limit for its header."""


def describe(folder: Path, name: str) -> ModelInfo:
    """A catalog entry for the model in ``folder``; ``UserError`` where its config is no model's.

    Its own chat template is used where it has one, else the plain one of the character's language.
    """
    whole = read_json(folder / "config.json")
    config = whole.get("text_config", whole) if isinstance(whole, dict) else {}
    try:
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        shape = {
            "layers": config["num_hidden_layers"],
            "hidden": hidden,
            "ffn": config["intermediate_size"],
            "kv": (config.get("num_key_value_heads") or heads)
            * (config.get("head_dim") or hidden // heads),
            "vocab": config["vocab_size"],
            "tied": bool(config.get("tie_word_embeddings", whole.get("tie_word_embeddings"))),
        }
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise UserError(
            f"{folder / 'config.json'} does not describe a language model that charllm knows "
            f"({error}).",
            f"{folder / 'config.json'} は charllm が扱える言語モデルの設定ではありません"
            f"（{error}）。",
        ) from error
    stored = whole.get("quantization_config")
    method = stored.get("quant_method", "quantised") if isinstance(stored, dict) else ""
    return ModelInfo.from_data(
        {
            "id": name,
            "label": folder.name if folder.is_dir() and Path(name).is_dir() else name,
            "family": str(config.get("model_type", "unknown")).replace("_", "-"),
            "template": "tokenizer" if _has_chat_template(folder) else "plain-ja",
            "license": "see its own card",
            "parameters": parameters(folder) or _estimated(shape),
            "source": "folder" if Path(name).is_dir() else "hub",
            "trainable": not method,
            "weight_bytes": 0.52 if method in ("awq", "gptq") else 2.0,
            **shape,
        },
        str(folder / "config.json"),
    )


def fetched(hub_id: str) -> Path | None:
    """The hub's cached folder of a model that was fetched before; asks no network."""
    if hub_id.count("/") != 1 or hub_id.startswith((".", "/", "~")):
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(hub_id, "config.json")
    except HFValidationError:  # a name the hub itself would refuse
        return None
    return Path(found).parent if isinstance(found, str) else None


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    config = folder / "tokenizer_config.json"
    return config.is_file() and bool(read_json(config).get("chat_template"))


def _estimated(shape: dict[str, Any]) -> int:
    """Parameters by the shape of a gated feed-forward transformer."""
    hidden, kv = shape["hidden"], shape["kv"]
    layer = 2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * shape["ffn"]
    embedding = shape["vocab"] * hidden * (1 if shape["tied"] else 2)
    return int(embedding + shape["layers"] * layer)


def parameters(folder: Path) -> int:
    """Weights in the folder's safetensors, counted from their headers; 0 where there are none."""
    headers = [header(file) for file in sorted(folder.glob("*.safetensors"))]
    if any(entries is None for entries in headers):
        return 0
    return sum(
        math.prod(entry["shape"])
        for entries in headers
        for key, entry in (entries or {}).items()
        if key != "__metadata__"
    )


def header(file: Path) -> dict[str, Any] | None:
    """A safetensors file's header, by its format's first 8 bytes; None if the file is not whole.

    Whole: the header can be read and the data behind it are as long as it says.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= min(HEADER_LIMIT, size - 8):
            return None
        try:
            entries = json.loads(stream.read(length))
        except ValueError:
            return None
    if not isinstance(entries, dict):
        return None
    ends = [e["data_offsets"][1] for k, e in entries.items() if k != "__metadata__"]
    return entries if size == 8 + length + max(ends, default=0) else None
