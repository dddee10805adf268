"""Small random models of each family, with real tokenizers, that say one reply whatever they hear.

They are whole models, saved and loaded as any other. Their layers add nothing at first, so that
the next token depends on the last one alone, and the head is written for one chain of tokens:
prompt's last token → reply → end token. Training changes them like any model.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
SCALED = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
"""Llama 3.1's way of stretching positions."""


class Family(NamedTuple):
    """``tokenizer``: a folder of ../shared/tokenizers, "gemma" (the embedded base's) or "qwen"."""

    model: str
    tokenizer: str
    template: str
    end: str
    also_end: str = ""
    options: dict[str, Any] = {}


FAMILIES = {
    "llama-2": Family("llama", "llama-2", "llama-2", "</s>"),
    "llama-3": Family("llama", "llama-3", "llama-3", "<|eot_id|>", "<|end_of_text|>"),
    "llama-3.1": Family(
        *("llama", "llama-3", "llama-3", "<|eot_id|>", "<|end_of_text|>"),
        {"rope_parameters": SCALED},
    ),
    "gemma-2": Family("gemma2", "gemma", "gemma", "<end_of_turn>", "<eos>"),
    "gemma-3": Family("gemma3_text", "gemma", "gemma", "<end_of_turn>", "<eos>"),
    "mistral-v0.1": Family("mistral", "mistral-v0.1", "mistral", "</s>"),
    "qwen-2": Family("qwen2", "qwen", "chatml", "<|im_end|>", "<|endoftext|>"),
    "qwen-3": Family("qwen3", "qwen", "qwen-3", "<|im_end|>", "<|endoftext|>"),
}


def byte_tokenizer(
    specials: Sequence[str] = ("<pad>", "<s>", "</s>"),
    size: int = 400,
    words: str = "質問：回答：ですわ。ますわ。",
    **named: Any,
) -> Any:
    """A small byte-level tokenizer; ``named``: bos_token, eos_token and pad_token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([words] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, **named)


def qwen_tokenizer() -> Any:
    """Byte-level with Qwen's control tokens: no beginning token, the turn's end ends the text."""
    return byte_tokenizer(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        words="はいですわ。質問",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )


def save_model(folder: Path, kind: str, vocabulary: int, chain: Sequence[int], **more: Any) -> None:
    """A random model of a kind (``model_type``) whose tokens follow ``chain``, as bfloat16."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SHAPE, "vocab_size": vocabulary, **more})
    model: Any = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embeddings = model.get_input_embeddings().weight.normal_()
        head = model.get_output_embeddings().weight.zero_()
        for now, following in pairwise(chain):
            head[following] += embeddings[now]
    model.to(torch.bfloat16).save_pretrained(folder)
