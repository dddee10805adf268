"""A model as one GGUF file, written tensor by tensor with llama.cpp's ``gguf`` library.

Names, types and special tokens are the library's; what each family needs beside them is here. A
family is offered only where reading its file back gives the same logits (``tests``); any other,
and every setting of a model that GGUF or llama.cpp's version of the family cannot express, is
refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from charllm.core.export_card import source_licence, template_text
from charllm.core.export_source import Source
from charllm.core.gguf_tokenizer import Vocabulary, read_vocabulary
from charllm.core.merging.headers import text_config
from charllm.core.training_readme import licence_fields
from charllm.data.errors import UserError

if TYPE_CHECKING:
    import gguf
    import numpy as np
    import torch

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


def write_gguf(
    source: Source, file: Path, quantization: str, name: str, tick: Callable[[int], None]
) -> None:
    """Write ``file``; ``tick`` is told the bytes of each tensor.

    ``quantization`` "bf16", "f16" or "q8_0" for matrices; norms stay float32. ``UserError`` where
    the model cannot be expressed, before anything is written.
    """
    import gguf

    config = text_config(source.base)
    family = check_family(source, config)
    vocabulary = read_vocabulary(source.base, config["vocab_size"])
    kind = gguf.GGMLQuantizationType[quantization.upper()]
    arch = {label: key for key, label in gguf.MODEL_ARCH_NAMES.items()}[family.arch]
    entries = dict(_entries(source, config, gguf.get_tensor_name_map(arch, _layers(config)), kind))
    writer = gguf.GGUFWriter(file, family.arch)
    _describe(writer, source, name, quantization)
    _add_config(writer, family, config)
    _add_tokenizer(writer, source, vocabulary)
    for stored in entries.values():
        writer.add_tensor_info(
            stored.name, stored.byte_shape, stored.numpy_type, stored.size, stored.kind
        )
    factors = rope_factors(config)
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for original, stored in entries.items():
        writer.write_tensor_data(_numbers(source, original, stored, family, config))
        tick(stored.size)
    if factors is not None:
        writer.write_tensor_data(factors)
    writer.close()


# What is refused


def check_family(source: Source, config: Mapping[str, Any]) -> Family:
    """The family, if the model is one that was checked and has nothing that would be lost."""
    kind = str(config.get("model_type"))
    family = FAMILIES.get(kind)
    if family is None:
        known = ", ".join(FAMILIES)
        _refuse(source, f"model_type {kind}", f"it can be done for: {known}")
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
        kinds = config.get("layer_types") or _alternating(_layers(config), 2)
        wanted["layer_types"] = (kinds, _alternating(_layers(config), 2))
    for field, (found, needed) in wanted.items():
        if found != needed:
            _refuse(source, f"{field}: {found}", f"it has to be {needed}")
    if _rope(config).get("rope_type", "default") not in ("default", "llama3", "linear"):
        _refuse(source, f"rope_type: {_rope(config)['rope_type']}", "default, llama3, linear")
    return family


def _gemma3_settings(config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What llama.cpp takes for granted of Gemma 3: every sixth layer sees everything."""
    usual = _alternating(_layers(config), 6)
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


def _refuse(source: Source, what: str, why: str) -> NoReturn:
    raise UserError(
        f"{source.base.name} cannot be written as GGUF here ({what}; {why}). Export it as merged, "
        "and convert that with llama.cpp's own converter.",
        f"{source.base.name} はここでは GGUF に書き出せません（{what}; {why}）。merged で書き出し、"
        "llama.cpp の変換ツールを使ってください。",
    )


# Settings


def _layers(config: Mapping[str, Any]) -> int:
    return int(config["num_hidden_layers"])


def _head_size(config: Mapping[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
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

    rope = _rope(config)
    if rope["rope_type"] != "llama3":
        return None
    size = _head_size(config)
    frequencies = rope["rope_theta"] ** -(np.arange(0, size, 2, dtype=np.float64) / size)
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1 / ((1 - smooth) / rope["factor"] + smooth)).astype(np.float32)


def _describe(writer: gguf.GGUFWriter, source: Source, name: str, quantization: str) -> None:
    import gguf

    files = gguf.LlamaFileType
    kinds = {"bf16": files.MOSTLY_BF16, "f16": files.MOSTLY_F16, "q8_0": files.MOSTLY_Q8_0}
    writer.add_type("model")
    writer.add_name(name)
    fields = licence_fields(source_licence(source))
    writer.add_license(fields["license"])
    if "license_name" in fields:
        writer.add_license_name(fields["license_name"])
    if source_licence(source)["notice"]:
        writer.add_description(source_licence(source)["notice"])
    writer.add_file_type(kinds[quantization])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _add_config(writer: gguf.GGUFWriter, family: Family, config: Mapping[str, Any]) -> None:
    import gguf

    heads = int(config["num_attention_heads"])
    writer.add_block_count(_layers(config))
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(config.get("num_key_value_heads") or heads))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    rope = _rope(config)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    if family.permuted:
        writer.add_vocab_size(int(config["vocab_size"]))
        writer.add_rope_dimension_count(_head_size(config))
    if family.head_sizes or _head_size(config) * heads != config["hidden_size"]:
        writer.add_key_length(_head_size(config))
        writer.add_value_length(_head_size(config))
    if family.shifted:
        writer.add_sliding_window(int(config["sliding_window"]))
    if config.get("final_logit_softcapping"):
        writer.add_final_logit_softcapping(float(config["final_logit_softcapping"]))
    if config.get("attn_logit_softcapping"):
        writer.add_attn_logit_softcapping(float(config["attn_logit_softcapping"]))


def _add_tokenizer(writer: gguf.GGUFWriter, source: Source, vocabulary: Vocabulary) -> None:
    """Tokens, special tokens, the end of a turn, and the chat template."""
    import gguf

    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.types))
    if vocabulary.scores:
        writer.add_token_scores(list(vocabulary.scores))
        writer.add_add_space_prefix(vocabulary.space_prefix)
    special = gguf.SpecialVocab(
        source.base, load_merges=bool(vocabulary.merges), n_vocab=len(vocabulary.tokens)
    )
    special.chat_template = template_text(source) or special.chat_template
    end = _end_of_turn(source)
    if end is not None and end != special.special_token_ids.get("eos"):
        special.special_token_ids["eot"] = end
    special.add_to_gguf(writer, quiet=True)


def _end_of_turn(source: Source) -> int | None:
    """The token that ends a reply by the template the weights were taught with."""
    from charllm.core.models import shared_tokenizer
    from charllm.data.prompts import end_id, get_template

    if source.template in ("", "tokenizer"):
        return None
    return end_id(get_template(source.template), shared_tokenizer(source.base))


# Tensors


@dataclass(frozen=True)
class Stored:
    """A tensor of the file: its name, shape, kind of numbers and bytes."""

    name: str
    shape: tuple[int, ...]
    kind: gguf.GGMLQuantizationType

    @property
    def plain(self) -> bool:
        """Whether numpy has such numbers; others are given as bytes."""
        return self.kind.name in ("F32", "F16")

    @property
    def numpy_type(self) -> np.dtype[Any]:
        import numpy as np

        return np.dtype({"F32": np.float32, "F16": np.float16}.get(self.kind.name, np.uint8))

    @property
    def byte_shape(self) -> tuple[int, ...]:
        import gguf

        if self.plain:
            return self.shape
        return tuple(gguf.quant_shape_to_byte_shape(self.shape, self.kind))

    @property
    def size(self) -> int:
        return math.prod(self.byte_shape) * self.numpy_type.itemsize


def _entries(
    source: Source,
    config: Mapping[str, Any],
    names: gguf.TensorNameMap,
    kind: gguf.GGMLQuantizationType,
) -> Iterator[tuple[str, Stored]]:
    """Each tensor by its own name; ``UserError`` for one that the family does not have."""
    import gguf

    kinds = gguf.GGMLQuantizationType
    for name, shape in source.shapes.items():
        if name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue  # the embedding is the head
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            _refuse(source, name, "this tensor has no name in GGUF")
        chosen = kinds.F32 if len(shape) == 1 else kind
        if chosen is kinds.Q8_0 and shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
            chosen = kinds.F16  # rows that are no whole blocks, as llama.cpp's converter does it
        yield name, Stored(found, shape, chosen)


def _numbers(
    source: Source, name: str, stored: Stored, family: Family, config: Mapping[str, Any]
) -> np.ndarray:
    """The tensor as it is stored."""
    import numpy as np
    from gguf import quants

    tensor = source.tensor(name)
    if family.shifted and name.endswith("norm.weight"):
        found = tensor.float() + 1
    else:
        found = tensor.float()
    if family.permuted and name.endswith((".q_proj.weight", ".k_proj.weight")):
        field = "num_attention_heads" if ".q_proj." in name else "num_key_value_heads"
        found = _permuted(found, int(config.get(field) or config["num_attention_heads"]))
    made = quants.quantize(found.numpy(), stored.kind)
    if stored.kind.name == "F16" and not np.isfinite(made).all():
        raise UserError(
            f"{name} has weights that are too large for f16. Choose bf16.",
            f"{name} に f16 では表せない大きさの重みがあります。bf16 を選んでください。",
        )
    return made


def _permuted(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of each head from transformers' order (first halves, second halves) to pairs."""
    rows, columns = weight.shape
    return weight.view(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
