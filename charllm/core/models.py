"""Models in memory: loading a tokenizer and a causal LM, and the device they go to.

Where models lie is in ``model_files``, how GGUF becomes safetensors in ``conversion``; their names
are offered here too, so that one import serves. It does not know prompts or adapters.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from charllm.core.conversion import ModelConfig, convert_embedded, convert_gguf, run_model
from charllm.core.described import parameters
from charllm.core.model_code import check_code, code_allowed, needs_code
from charllm.core.model_files import (
    check_folder,
    converted_folder,
    embedded_available,
    is_ready,
    missing_files,
    model_folder,
    weights_hash,
)
from charllm.data.errors import UserError
from charllm.data.files import read_json

__all__ = [
    "ModelConfig",
    "Quantization",
    "convert_embedded",
    "convert_gguf",
    "converted_folder",
    "embedded_available",
    "is_ready",
    "load_model",
    "load_tokenizer",
    "missing_files",
    "model_folder",
    "pick_device",
    "run_model",
    "shared_tokenizer",
    "weights_hash",
]

Quantization = Literal["none", "nf4"]
Device = Literal["auto", "cuda", "cpu"]


def pick_device() -> Literal["cuda", "cpu"]:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model's folder; ``UserError`` where it has none that can be read.

    One that needs code of its own is refused unless the user allowed it for this model.
    """
    from transformers import AutoTokenizer

    if not (folder / "tokenizer.json").is_file() and not (folder / "tokenizer.model").is_file():
        raise UserError(
            f"{folder} has no tokenizer.json or tokenizer.model.",
            f"{folder} に tokenizer.json も tokenizer.model もありません。",
        )
    allowed = code_allowed(folder)
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=allowed)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise needs_code(folder) from error


def shared_tokenizer(folder: Path) -> Any:
    """The tokenizer for reading only, loaded once a process: a large vocabulary takes seconds.

    Errors as ``load_tokenizer``'s. Who sets a padding token or the like loads one of its own.
    """
    files = [folder / name for name in ("tokenizer.json", "tokenizer.model")]
    stamps = tuple(file.stat().st_mtime_ns for file in files if file.is_file())
    return _tokenizer(folder.resolve(), stamps)


@lru_cache(maxsize=4)
def _tokenizer(folder: Path, stamps: tuple[int, ...]) -> Any:
    return load_tokenizer(folder)


def load_model(
    folder: Path, *, quantization: Quantization = "none", device: Device = "auto"
) -> Any:
    """The causal LM in evaluation mode, 16-bit or NF4.

    ``UserError`` where the folder is incomplete, memory does not suffice, the device is not there,
    the weights are quantised in a way that this installation cannot read, or the model needs code
    of its own. NF4 on a CPU is for asking only: trained after a forward pass, its gradients are
    wrong.
    """
    import torch
    from transformers import AutoModelForCausalLM

    check_folder(folder)
    check_code(folder)
    place = _place(device)
    _check_stored(folder, quantization)
    _check_memory(folder, quantization, place)
    options: dict[str, Any] = {"dtype": torch.bfloat16, "trust_remote_code": code_allowed(folder)}
    if quantization == "nf4":
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    if quantization == "nf4" or place == "cuda":
        options["device_map"] = {"": place}
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, **options)
    except torch.cuda.OutOfMemoryError as error:
        raise _too_big(folder) from error
    except ImportError as error:  # AWQ and the like need packages of their own
        raise UserError(
            f"{folder.name} needs a package that is not installed: {error}",
            f"{folder.name} に必要なパッケージがありません: {error}",
        ) from error
    model.eval()
    if place == "cpu":
        _make_head_quick(model)
    return model


def _make_head_quick(model: Any) -> None:
    """Hand the head a contiguous copy of its input.

    With frozen bf16 weights on a CPU, the last position's slice otherwise goes through a batched
    product that copies the whole head for every row: 1.7 s instead of 0.1 s for the first token.
    """
    import torch

    model.get_output_embeddings().register_forward_pre_hook(
        lambda module, args: (args[0].clone(memory_format=torch.contiguous_format), *args[1:])
    )


def _place(device: Device) -> Literal["cuda", "cpu"]:
    found = pick_device()
    if device == "cuda" and found != "cuda":
        raise UserError(
            "There is no CUDA device here. Choose the device auto or cpu.",
            "CUDA デバイスがありません。device に auto か cpu を選んでください。",
        )
    return found if device == "auto" else device


def _check_stored(folder: Path, quantization: Quantization) -> None:
    stored = read_json(folder / "config.json").get("quantization_config")
    if stored and quantization != "none":
        method = stored.get("quant_method", "quantised")
        raise UserError(
            f"{folder.name} is already quantised ({method}): load it as it is.",
            f"{folder.name} はすでに量子化されています（{method}）。そのまま読み込んでください。",
        )


def _check_memory(folder: Path, quantization: Quantization, place: str) -> None:
    """Refuse what the machine's memory cannot hold, before it swaps to a standstill."""
    if place != "cpu":
        return
    import psutil

    # The least it can be: in NF4 the embeddings stay in 16 bits.
    needed = parameters(folder) * (2.0 if quantization == "none" else 0.516)
    if needed > psutil.virtual_memory().available:
        raise _too_big(folder)


def _too_big(folder: Path) -> UserError:
    return UserError(
        f"{folder.name} does not fit into the free memory. Load it in 4 bits, choose a smaller "
        "model, or end what else uses the memory.",
        f"{folder.name} は空きメモリーに入りません。4ビットで読み込むか、小さいモデルを選ぶか、"
        "ほかの処理を終えてください。",
    )
