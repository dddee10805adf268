"""The memory that a training run is quoted, and the peak it really has, on CUDA.

Run: ``python benchmarks/train_memory.py --tokenizer FOLDER [--cap 24] [--json]``. Models are random
ones of the named shapes; FOLDER holds a Llama 2 tokenizer. Every line is one whole run of the
product (``run_train``: base loaded, held-out loss, training, sampled replies, published) in a
process of its own, on the shipped dialogues with their facts, PyTorch limited to ``--cap`` GB of
the card. The first run of a shape takes what the quote proposes for that cap. The peak is
PyTorch's plus what CUDA itself holds; "quoted / peak" should lie within 0.9 and 1.1.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SHAPES: dict[str, dict[str, Any]] = {
    "llama-2-7b": {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "vocab_size": 32000,
    },
    "llama-3-8b": {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "qwen-2-1.5b": {
        "model_type": "qwen2",
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "gemma-2-2b": {
        "model_type": "gemma2",
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 256000,
    },
}
RUNS: list[tuple[str, dict[str, Any]]] = [
    ("llama-2-7b", {"batch_size": 64}),
    ("llama-2-7b", {"batch_size": 8, "share_prefix": False}),
    ("llama-2-7b", {"batch_size": 8, "share_prefix": False, "gradient_checkpointing": True}),
    ("llama-2-7b", {"batch_size": 8, "quantization": "none", "gradient_checkpointing": True}),
    ("llama-3-8b", {"batch_size": 16}),
    ("qwen-2-1.5b", {"batch_size": 16, "quantization": "none"}),
    ("gemma-2-2b", {"batch_size": 16}),
]


def make_model(shape: dict[str, Any], tokenizer: Path, folder: Path) -> None:
    """Random 16-bit weights with the tokenizer's files beside them."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(**shape, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    with torch.device("cuda"):
        torch.set_default_dtype(torch.bfloat16)
        model: Any = AutoModelForCausalLM.from_config(config)
        torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    for file in tokenizer.iterdir():
        shutil.copy(file, folder)
    del model
    torch.cuda.empty_cache()


def one_run(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One run of the product; its quote, its peak and its seconds."""
    import torch

    from charllm.core.training import run_train
    from charllm.core.training_config import TrainConfig
    from charllm.core.training_data import prepare
    from charllm.core.training_memory import quote
    from charllm.data.config import Paths
    from charllm.data.errors import Text
    from charllm.data.progress import Silent

    class Watcher(Silent):
        """Notes the peak at each stage of the run."""

        def __init__(self) -> None:
            self.peaks: dict[str, float] = {}

        def progress(self, done: float, total: float, message: Text) -> None:
            stage = message.en if "step" not in message.en else "training"
            self.peaks[stage] = round(torch.cuda.max_memory_allocated() / 1e9, 2)

    paths = Paths(folder / "root", folder / "workspace")
    for name in ("profiles", "datasets"):
        shutil.copytree(ROOT / name, paths.root / name, dirs_exist_ok=True)
    config = TrainConfig.from_data(values, "the benchmark")
    material = prepare(config, paths)
    asked = quote(config, paths, material)
    if not asked.fits and asked.measures:
        config = config.model_copy(update=asked.measures[0].changes)
        asked = quote(config, paths, material)
    start = time.perf_counter()
    watcher = Watcher()
    result = run_train(config, watcher, folder / "run", paths)
    free, whole = torch.cuda.mem_get_info()
    context = whole - free - torch.cuda.memory_reserved()
    peak = (torch.cuda.max_memory_allocated() + context) / 1e9
    return {
        "batch_size": config.batch_size,
        "accumulate": config.accumulate,
        "tokens": asked.tokens,
        "quoted_gb": asked.total_gb,
        "peak_gb": round(peak, 2),
        "reserved_gb": round(torch.cuda.max_memory_reserved() / 1e9, 2),
        "context_gb": round(context / 1e9, 2),
        "quoted / peak": round(asked.total_gb / peak, 3),
        "parts": asked.parts,
        "peaks_before": watcher.peaks,
        "held_out_loss": result["held_out_loss"],
        "train_seconds": result["seconds"],
        "seconds": round(time.perf_counter() - start, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--cap", type=float, default=24.0)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        values = json.loads(options.one)
        print(json.dumps(one_run(values, Path(tempfile.mkdtemp()))))
        return

    found = []
    folder = Path(tempfile.mkdtemp())
    for shape in dict.fromkeys(name for name, _ in RUNS):
        base = folder / shape
        make_model(SHAPES[shape], options.tokenizer, base)
        for changes in [changes for name, changes in RUNS if name == shape]:
            values = {
                "name": "peak",
                "profile": "ayane",
                "dataset": "ayane",
                "base": str(base),
                "template": "llama-2",
                "r": 16,
                "alpha": 32.0,
                "learning_rate": 5e-4,
                "quantization": "nf4",
                "epochs": options.epochs,
                "max_length": 1024,
                "sample_each_epoch": False,
                "memory_gb": options.cap,
                **changes,
            }
            command = [sys.executable, __file__, "--tokenizer", str(options.tokenizer)]
            done = subprocess.run(
                [*command, "--one", json.dumps(values)], capture_output=True, text=True
            )
            lines = done.stdout.strip().splitlines()
            row = json.loads(lines[-1]) if not done.returncode else {"error": done.stderr[-1500:]}
            found.append({"shape": shape, **changes, **row})
            print(json.dumps(found[-1]), flush=True)
        shutil.rmtree(base)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
