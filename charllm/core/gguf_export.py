"""A model as one GGUF file, written tensor by tensor with llama.cpp's ``gguf`` library.

Names, types and special tokens are the library's; which models there can be, and how their
positions are scaled, is in ``gguf_families``, the vocabulary in ``gguf_tokenizer``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charllm.core.export_card import source_licence, template_text
from charllm.core.export_source import Source
from charllm.core.gguf_families import (
    Family,
    check_family,
    head_size_of,
    layers_of,
    refuse,
    rope_factors,
    rope_of,
)
from charllm.core.gguf_tokenizer import Vocabulary, read_vocabulary
from charllm.core.merging.headers import text_config
from charllm.core.training_readme import licence_fields
from charllm.data.errors import UserError

if TYPE_CHECKING:
    import gguf
    import numpy as np
    import torch

_PIECE = 2**24
"""Weights that are rounded at once."""


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
    entries = dict(
        _entries(source, config, gguf.get_tensor_name_map(arch, layers_of(config)), kind)
    )
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


# Settings


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
    writer.add_block_count(layers_of(config))
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(config.get("num_key_value_heads") or heads))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    rope = rope_of(config)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    if family.permuted:
        writer.add_vocab_size(int(config["vocab_size"]))
        writer.add_rope_dimension_count(head_size_of(config))
    if family.head_sizes or head_size_of(config) * heads != config["hidden_size"]:
        writer.add_key_length(head_size_of(config))
        writer.add_value_length(head_size_of(config))
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
            refuse(source, name, "this tensor has no name in GGUF")
        chosen = kinds.F32 if len(shape) == 1 else kind
        if chosen is kinds.Q8_0 and shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
            chosen = kinds.F16  # rows that are no whole blocks, as llama.cpp's converter does it
        yield name, Stored(found, shape, chosen)


def _numbers(
    source: Source, name: str, stored: Stored, family: Family, config: Mapping[str, Any]
) -> np.ndarray:
    """The tensor as it is stored."""
    import torch

    tensor = source.tensor(name)
    if family.shifted and name.endswith("norm.weight"):
        return (tensor.float() + 1).numpy()
    if family.permuted and name.endswith((".q_proj.weight", ".k_proj.weight")):
        field = "num_attention_heads" if ".q_proj." in name else "num_key_value_heads"
        tensor = _permuted(tensor, int(config.get(field) or config["num_attention_heads"]))
    if stored.kind.name == "BF16":
        return tensor.contiguous().view(torch.uint8).numpy()
    return _rounded(tensor, name, stored)


def _rounded(tensor: torch.Tensor, name: str, stored: Stored) -> np.ndarray:
    """Float32, f16 or q8_0, some rows at a time: in float32 a whole embedding takes gigabytes."""
    import numpy as np
    from gguf import quants

    made = np.empty(stored.byte_shape, stored.numpy_type)
    rows = max(1, _PIECE // math.prod(tensor.shape[1:]))
    for start in range(0, len(tensor), rows):
        piece = tensor[start : start + rows].float().numpy()
        made[start : start + rows] = quants.quantize(piece, stored.kind)
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
