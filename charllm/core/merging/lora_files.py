"""Reading a peft LoRA folder: ``adapter_config.json`` and ``adapter_model.safetensors``.

Only plain LoRA on linear layers is accepted, because only that is linear in its coefficient; what
else a folder may hold is refused with the name of the field. It does not know the base model.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor

from charllm.data.errors import UserError
from charllm.data.files import read_json, sha256_file

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

# Fields of peft's configuration that make an adapter more than W0 + scale * B A.
_NOT_PLAIN = (
    "modules_to_save",
    "use_dora",
    "lora_bias",
    "trainable_token_indices",
    "fan_in_fan_out",
    "layer_replication",
    "target_parameters",
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
)
# Initialisations that change the base's own weights, which the folder does not hold.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_KEY = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_(A|B)\.weight")


@dataclass(frozen=True)
class Lora:
    """An adapter: for each module path A [r, in], B [out, r] and its scale; ``digest`` names it."""

    folder: Path
    digest: str
    pairs: dict[str, tuple[Tensor, Tensor, float]]


def read_lora(folder: Path) -> Lora:
    """The adapter in ``folder``, on the CPU; ``UserError`` where it is missing or not plain."""
    config = _read_config(folder)
    halves: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in _read_tensors(folder / WEIGHTS_FILE).items():
        match = _KEY.fullmatch(key)
        if not match:
            refuse_field(folder, key)
        if not tensor.isfinite().all():
            _damaged(folder / WEIGHTS_FILE, f"{key}: NaN")
        halves[match[1]][match[2]] = tensor
    pairs = {path: _pair(folder, path, half, config) for path, half in sorted(halves.items())}
    if not pairs:
        _damaged(folder / WEIGHTS_FILE, "lora_A, lora_B")
    scales = json.dumps({path: scale for path, (_, _, scale) in pairs.items()})
    digest = hashlib.sha256((sha256_file(folder / WEIGHTS_FILE) + scales).encode()).hexdigest()
    return Lora(folder, digest, pairs)


def _pair(
    folder: Path, path: str, half: dict[str, Tensor], config: dict[str, Any]
) -> tuple[Tensor, Tensor, float]:
    if set(half) != {"A", "B"}:
        _damaged(folder / WEIGHTS_FILE, f"{path}: lora_A + lora_B")
    down, up = half["A"], half["B"]
    rank = _pattern(config.get("rank_pattern"), path, config.get("r"))
    alpha = _pattern(config.get("alpha_pattern"), path, config.get("lora_alpha"))
    if down.ndim != 2 or up.ndim != 2 or not rank == down.shape[0] == up.shape[1]:
        _damaged(folder / WEIGHTS_FILE, f"{path}: r = {rank}, {tuple(down.shape)}")
    return down, up, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _pattern(patterns: dict[str, Any] | None, path: str, default: Any) -> Any:
    """peft's rule: the first pattern that matches the end of the path, after a dot."""
    for pattern, value in (patterns or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", path):
            return value
    return default


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise UserError(
            f"The adapter folder {folder} does not exist. Train it again or restore it.",
            f"アダプターのフォルダー {folder} がありません。学習し直すか、元に戻してください。",
        )
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} has no {name}: the adapter is incomplete. Only safetensors are read. "
                "Train it again or restore the file.",
                f"{folder} に {name} がなく、アダプターが不完全です（safetensors のみ対応）。"
                "学習し直すか、ファイルを元に戻してください。",
            )
    config = read_json(folder / CONFIG_FILE)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        refuse_field(folder, "peft_type")
    for name in _NOT_PLAIN:
        if config.get(name):
            refuse_field(folder, name)
    if config.get("bias", "none") != "none":
        refuse_field(folder, "bias")
    if str(config.get("init_lora_weights")).startswith(_CHANGES_BASE):
        refuse_field(folder, "init_lora_weights")
    numbers = (config.get("r"), config.get("lora_alpha"))
    if not all(isinstance(n, int | float) and n > 0 for n in numbers):
        _damaged(folder / CONFIG_FILE, "r, lora_alpha")
    return config


def _read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        _damaged(path, str(error))


def refuse_field(folder: Path, name: str) -> NoReturn:
    raise UserError(
        f"The adapter {folder} cannot be mixed: it uses {name}. Only plain LoRA on linear layers "
        "can (no DoRA, no bias, no trained embeddings, no modules_to_save). Merge it into its "
        "base and use the result as a full model.",
        f"アダプター {folder} は {name} を使っているため混合できません。線形層だけの通常の LoRA に"
        "対応しています（DoRA、bias、学習済み埋め込み、modules_to_save は不可）。"
        "ベースに統合し、モデル全体として使ってください。",
    )


def _damaged(path: Path, what: str) -> NoReturn:
    raise UserError(
        f"{path} is damaged ({what}). Train the adapter again or restore the file.",
        f"{path} が壊れています（{what}）。学習し直すか、ファイルを元に戻してください。",
    )
