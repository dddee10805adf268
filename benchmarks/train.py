"""Fine-tuning on a character's dialogues: trl's defaults, trl's best plain setting, and ours.

Run: ``python benchmarks/train.py --tokenizer FOLDER [--dialogues FILE] [--epochs 3] [--json]`` on
CUDA. The model is a random Llama-2-7B in NF4 with double quantisation; FOLDER holds a Llama 2
tokenizer; FILE holds dialogues as JSONL rows of ``prompt`` and ``completion`` (default: the shipped
ones). LoRA r 16 on all linear layers, 5e-4, cosine, the same token rows and labels for all; before
every question the profile's system prompt with ``--facts`` of its facts. Timed is ``train()``
alone, after a training to warm up; the held-out loss is measured by the same plain code for all.
Peak memory is PyTorch's.

Random weights learn nothing worth having: the losses show that all three learn the same.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SETTINGS = {
    "trl's defaults": {"batch_size": 8, "gradient_checkpointing": True, "share_prefix": False},
    "ours, their batch": {"batch_size": 8, "gradient_checkpointing": False, "share_prefix": True},
    "trl, best plain": {"batch_size": 32, "gradient_checkpointing": False, "share_prefix": False},
    "ours": {"batch_size": 32, "gradient_checkpointing": False, "share_prefix": True},
}
HELD_OUT = 0.1


def token_rows(
    tokenizer_folder: Path, file: Path | None, facts: int
) -> tuple[list[Any], list[Any]]:
    """``(training rows, held-out rows)`` in the Llama 2 template."""
    from charllm.core.models import load_tokenizer
    from charllm.core.training_data import split_dialogues
    from charllm.data.config import Paths
    from charllm.data.dialogue import Dialogue, Message, dataset_path, load_dialogues
    from charllm.data.files import json_lines
    from charllm.data.profile import load_profile
    from charllm.data.prompts import build_messages, check_rows, get_template, labelled_row

    paths = Paths.default()
    profile = load_profile(paths, "ayane")
    if file is None:
        dialogues = load_dialogues(dataset_path(paths, "ayane"))
    else:
        dialogues = [
            Dialogue(
                id=str(number),
                messages=(
                    Message(role="user", content=row["prompt"].removesuffix("->").strip()),
                    Message(role="assistant", content=row["completion"].strip()),
                ),
            )
            for number, row in json_lines(file)
        ]
    tokenizer = load_tokenizer(tokenizer_folder)
    template = get_template("llama-2")
    shown = profile.facts[:facts] or None
    made = []
    for part in split_dialogues(dialogues, "all", HELD_OUT, 0):
        rows = [
            labelled_row(
                template, tokenizer, build_messages(profile, d.question, facts=shown), d.reply
            )
            for d in part
        ]
        check_rows(rows, template, tokenizer)
        made.append(rows)
    return made[0], made[1]


def random_llama_7b() -> Any:
    """Random weights of Llama-2-7B's shape, the linear layers in NF4 with double quantisation."""
    import torch
    from bitsandbytes.nn import Linear4bit, Params4bit
    from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM
    from transformers.quantizers import AutoHfQuantizer

    torch.manual_seed(0)
    with torch.device("cuda"):
        torch.set_default_dtype(torch.bfloat16)
        model: Any = LlamaForCausalLM(LlamaConfig(use_cache=False, pad_token_id=0))
        torch.set_default_dtype(torch.float32)
    for path, module in list(model.model.named_modules()):
        if isinstance(module, torch.nn.Linear):
            parent = model.model.get_submodule(path.rpartition(".")[0])
            packed = Linear4bit(
                module.in_features,
                module.out_features,
                bias=False,
                compute_dtype=torch.bfloat16,
                quant_type="nf4",
                device="meta",
            )
            weights: Any = Params4bit(
                module.weight.data,
                requires_grad=False,
                quant_type="nf4",
                compress_statistics=True,
            )
            packed.weight = weights.to("cuda")
            setattr(parent, path.rpartition(".")[2], packed)
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model.config.quantization_config = config
    model.is_loaded_in_4bit = model.is_quantized = True
    model.quantization_method = config.quant_method
    model.hf_quantizer = AutoHfQuantizer.from_config(config)
    torch.cuda.empty_cache()
    return model


def train(
    model: Any, tokenizer: Any, rows: list[Any], setting: dict[str, Any], epochs: float
) -> tuple[Any, dict[str, Any]]:
    """One training; the tuned model and its figures."""
    import torch
    from datasets import Dataset  # type: ignore[attr-defined]
    from peft import LoraConfig
    from transformers import set_seed
    from trl import SFTConfig, SFTTrainer

    from charllm.core.training_shared import SharedCollator, shared_trainer

    set_seed(0)
    shares = setting["share_prefix"]
    arguments = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        num_train_epochs=epochs,
        per_device_train_batch_size=setting["batch_size"],
        gradient_checkpointing=setting["gradient_checkpointing"],
        learning_rate=5e-4,
        lr_scheduler_type="cosine",
        bf16=True,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        logging_steps=1000,
    )
    dataset = Dataset.from_list([{"input_ids": r.input_ids, "labels": r.labels} for r in rows])
    trainer = (shared_trainer() if shares else SFTTrainer)(
        model=model,
        args=arguments,
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        data_collator=SharedCollator(0) if shares else None,
    )
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    trainer.train()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    figures = {
        "seconds": round(seconds, 2),
        "dialogues_per_second": round(len(rows) * epochs / seconds, 1),
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 1),
        "steps": trainer.state.global_step,
    }
    return trainer.model, figures


def held_out_loss(model: Any, rows: list[Any]) -> float:
    """Mean loss per learnt token, a row at a time: the same code whatever was trained how."""
    import torch

    model.eval()
    total, count = 0.0, 0
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        for row in rows:
            ids = torch.tensor([row.input_ids], device="cuda")
            labels = torch.tensor([row.labels], device="cuda")
            learnt = int((labels != -100).sum())
            total += float(model(input_ids=ids, labels=labels).loss) * learnt
            count += learnt
    model.train()
    return total / count


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--dialogues", type=Path)
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--facts", type=int, default=8, help="facts that every prompt shows")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    from charllm.core.models import load_tokenizer

    rows, held_out = token_rows(options.tokenizer, options.dialogues, options.facts)
    tokenizer = load_tokenizer(options.tokenizer)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.unk_token
    lengths = [len(row.input_ids) for row in rows]
    found: dict[str, Any] = {
        "rows": len(rows),
        "tokens_a_row": round(sum(lengths) / len(rows), 1),
    }
    print(json.dumps(found), flush=True)
    for name, setting in SETTINGS.items():
        warm, _ = train(random_llama_7b(), tokenizer, rows[:64], setting, 1.0)
        del warm
        model, figures = train(random_llama_7b(), tokenizer, rows, setting, options.epochs)
        figures["held_out_loss"] = round(held_out_loss(model, held_out), 4)
        del model
        found[name] = figures
        print(name, json.dumps(figures), flush=True)
    best = found["ours"]["seconds"]
    found["times the defaults"] = round(found["trl's defaults"]["seconds"] / best, 2)
    found["times the best plain"] = round(found["trl, best plain"]["seconds"] / best, 2)
    print(json.dumps(found) if options.json else json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
