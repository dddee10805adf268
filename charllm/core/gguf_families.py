"""Which models can be written as GGUF, and what their settings mean there.

A family is offered only where reading its file back gives the same logits (``tests``); any other,
and every setting of a model that GGUF or llama.cpp's version of the family cannot express, is
refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from charllm.core.export_source import Source
from charllm.data.errors import UserError

if TYPE_CHECKING:
    import numpy as np

LOCAL_THETA = 10_000.0
"""Gemma 3's base of positions in sliding layers, fixed in llama.cpp."""


@dataclass(frozen=True)
class Family:
    """``permuted``: queries and keys are stored in llama.cpp's order of rotary pairs, and the
    vocabulary's size and the rotary width are named. ``shifted``: norms are stored plus one."""

    arch: str
    activation: str = "silu"
    permuted: bool = False
    shifted: bool = False
    head_sizes: bool = False


FAMILIES = {
    "llama": Family("llama", permuted=True),
    "mistral": Family("llama", permuted=True),
    "gemma2": Family("gemma2", "gelu_pytorch_tanh", shifted=True, head_sizes=True),
    "gemma3_text": Family("gemma3", "gelu_pytorch_tanh", shifted=True, head_sizes=True),
    "qwen2": Family("qwen2"),
    "qwen3": Family("qwen3", head_sizes=True),
}
"""By config.json's ``model_type``."""


# What is refused


def check_family(source: Source, config: Mapping[str, Any]) -> Family:
    """The family, if the model is one that was checked and has nothing that would be lost."""
    kind = str(config.get("model_type"))
    family = FAMILIES.get(kind)
    if family is None:
        known = ", ".join(FAMILIES)
        refuse(source, f"model_type {kind}", f"it can be done for: {known}")
    act = config.get("hidden_activation") or config.get("hidden_act") or family.activation
    wanted = {
        "hidden_act": (act, family.activation),
        "attention_bias": (bool(config.get("attention_bias")), False),
        "mlp_bias": (bool(config.get("mlp_bias")), False),
        "use_sliding_window": (bool(config.get("use_sliding_window")), False),
        "use_bidirectional_attention": (bool(config.get("use_bidirectional_attention")), False),
    }
    if family.shifted:
        scalar = config.get("query_pre_attn_scalar", config["head_dim"])
        wanted["query_pre_attn_scalar"] = (scalar, config["head_dim"])
    if kind == "gemma3_text":
        wanted |= _gemma3_settings(config)
    if kind == "gemma2":
        kinds = config.get("layer_types") or _alternating(layers_of(config), 2)
        wanted["layer_types"] = (kinds, _alternating(layers_of(config), 2))
    for field, (found, needed) in wanted.items():
        if found != needed:
            refuse(source, f"{field}: {found}", f"it has to be {needed}")
    if rope_of(config).get("rope_type", "default") not in ("default", "llama3", "linear"):
        refuse(source, f"rope_type: {rope_of(config)['rope_type']}", "default, llama3, linear")
    return family


def _gemma3_settings(config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What llama.cpp takes for granted of Gemma 3: every sixth layer sees everything."""
    usual = _alternating(layers_of(config), 6)
    ropes = config.get("rope_parameters") or {}
    local = ropes.get("sliding_attention") or {"rope_theta": config.get("rope_local_base_freq")}
    return {
        "layer_types": (config.get("layer_types") or usual, usual),
        "sliding_attention.rope_theta": (local["rope_theta"] or LOCAL_THETA, LOCAL_THETA),
        "final_logit_softcapping": (config.get("final_logit_softcapping"), None),
        "attn_logit_softcapping": (config.get("attn_logit_softcapping"), None),
    }


def _alternating(layers: int, every: int) -> list[str]:
    kinds = ("full_attention", "sliding_attention")
    return [kinds[(layer + 1) % every != 0] for layer in range(layers)]


def refuse(source: Source, what: str, why: str) -> NoReturn:
    raise UserError(
        f"{source.base.name} cannot be written as GGUF here ({what}; {why}). Export it as merged, "
        "and convert that with llama.cpp's own converter.",
        f"{source.base.name} はここでは GGUF に書き出せません（{what}; {why}）。merged で書き出し、"
        "llama.cpp の変換ツールを使ってください。",
    )


# Settings


def layers_of(config: Mapping[str, Any]) -> int:
    return int(config["num_hidden_layers"])


def head_size_of(config: Mapping[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def rope_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Positions of the layers that see everything, as transformers 5 or 4 write them."""
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    found = found.get("full_attention", found)
    kind = found.get("rope_type") or found.get("type") or "default"
    theta = found.get("rope_theta") or config.get("rope_theta") or 10_000.0
    return {**found, "rope_type": kind, "rope_theta": float(theta)}


def rope_factors(config: Mapping[str, Any]) -> np.ndarray | None:
    """What each frequency is divided by (Llama 3.1's stretched positions), or None; [head / 2].

    Wavelengths below context / high_freq_factor stay, those above context / low_freq_factor are
    divided by ``factor``, between them 1/factor and 1 are blended (Llama 3.1's model card).
    """
    import numpy as np

    rope = rope_of(config)
    if rope["rope_type"] != "llama3":
        return None
    size = head_size_of(config)
    frequencies = rope["rope_theta"] ** -(np.arange(0, size, 2, dtype=np.float64) / size)
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1 / ((1 - smooth) / rope["factor"] + smooth)).astype(np.float32)
