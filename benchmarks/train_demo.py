"""On two CPU cores: how long until the embedded model has her voice, ours and trl's defaults.

Run: ``python benchmarks/train_demo.py [--limit 600] [--json]`` (the embedded model prepared). Both
train the same token rows of the shipped dialogues with the demo's learning rate and adapter (trl's
own 2e-5 learns next to nothing in minutes), and both stop as soon as the loss of the same
held-out rows is below 3.4 and all ten questions are answered to their end; that is looked at after
every eight steps of ours, and as often in dialogues with trl's, and its time is not counted.

Then the demo preset as a user has it: the run's own process from its start to the first answer of
the published adapter in the chat's engine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

AIM = 3.4
EVERY = 48
"""Dialogues between two looks."""
OURS = {"name": "demo", "profile": "ayane", "dataset": "ayane"}


def until_learnt(name: str, limit: float) -> dict[str, Any]:
    """Seconds of training until both aims are met, or what was reached after ``limit`` seconds."""
    from transformers import TrainerCallback

    from charllm.core import training
    from charllm.core.training_config import PRESETS, TrainConfig
    from charllm.core.training_data import prepare
    from charllm.core.training_samples import sample_replies
    from charllm.data.config import Paths
    from charllm.data.progress import Silent

    folder = Path(tempfile.mkdtemp())
    paths = Paths(folder, Paths.default().workspace)
    for part in ("profiles", "datasets"):
        shutil.copytree(ROOT / part, folder / part)
    config = TrainConfig.model_validate({**OURS, **PRESETS["demo"], "epochs": 4.0})
    if name == "trl's defaults":
        plain = {"batch_size": 8, "gradient_checkpointing": True, "share_prefix": False}
        config = config.model_copy(update=plain)
    training._set_threads(0)
    material = prepare(config, paths)
    trainer, _ = training.make_trainer(
        config, material, Silent(), folder / "run", paths, lambda model: []
    )
    found: dict[str, Any] = {"reached": False}
    counted = {"seconds": 0.0, "began": time.perf_counter()}

    class Look(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            seen = state.global_step * config.batch_size
            if seen % EVERY and state.global_step < state.max_steps:
                return
            counted["seconds"] += time.perf_counter() - counted["began"]
            loss = held_out(trainer)
            stopped = 0
            if loss < AIM:
                stopped = sum(s["stopped"] for s in sample_replies(trainer.model, material))
            found.update(
                seconds=round(counted["seconds"], 1),
                dialogues=seen,
                held_out_loss=round(loss, 3),
                stopped=stopped,
                reached=stopped == len(material.questions),
            )
            print(name, json.dumps(found), file=sys.stderr, flush=True)
            control.should_training_stop = found["reached"] or counted["seconds"] > limit
            counted["began"] = time.perf_counter()

    trainer.add_callback(Look())
    trainer.args.eval_strategy = "no"
    trainer.args.save_strategy = "no"
    ours = name == "ours"
    counted["began"] = time.perf_counter()
    if ours:
        with training._compact_head(trainer, Silent()):
            trainer.train()
    else:
        trainer.train()
    return found


def held_out(trainer: Any) -> float:
    """Mean loss per learnt token of the held-out rows, one at a time: the same code for both."""
    import torch

    model, total, count = trainer.model, 0.0, 0
    model.eval()
    with torch.no_grad():
        for row in trainer.eval_dataset:
            labels = torch.tensor([row["labels"]])
            learnt = int((labels != -100).sum())
            total += float(model(torch.tensor([row["input_ids"]]), labels=labels).loss) * learnt
            count += learnt
    model.train()
    return total / count


def demo() -> dict[str, Any]:
    """The demo preset from the start of its process to the first answer."""
    from charllm.core.training_config import PRESETS, TrainConfig
    from charllm.data.config import Paths
    from charllm.services import jobs
    from charllm.services.asking import ask

    folder = Path(tempfile.mkdtemp())
    paths = Paths(folder / "root", folder / "workspace")
    for part in ("profiles", "datasets", "recipes", "rubrics"):
        shutil.copytree(ROOT / part, paths.root / part)
    paths.workspace.mkdir(parents=True)
    (paths.workspace / "models").symlink_to(Paths.default().models)
    start = time.perf_counter()
    run = jobs.run_now(paths, "train", TrainConfig.model_validate({**OURS, **PRESETS["demo"]}))
    trained = time.perf_counter() - start
    status = run.status()
    assert status.state == "done", run.log_tail(2000)
    answer = ask(paths, "demo", "お名前を教えてください。", "ayane")
    return {
        "run_seconds": round(trained, 1),
        "click_to_answer_seconds": round(time.perf_counter() - start, 1),
        "result": {k: v for k, v in (run.result() or {}).items() if k != "folder"},
        "reply": answer["reply"],
        "stopped": answer["stopped"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for each")
    parser.add_argument("--only", choices=("ours", "trl", "demo"), default="")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    if options.only in ("", "demo"):
        found["demo"] = demo()
    if options.only in ("", "ours"):
        found["ours"] = until_learnt("ours", options.limit)
    if options.only in ("", "trl"):
        found["trl's defaults"] = until_learnt("trl's defaults", options.limit)
    print(json.dumps(found, ensure_ascii=False, indent=None if options.json else 1))


if __name__ == "__main__":
    main()
