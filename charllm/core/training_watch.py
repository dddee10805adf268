"""What watches a training run: reports metrics, stops at a safe point, keeps the best weights.

Imported only when a run starts (it needs transformers).
"""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from charllm.core.training_disk import is_whole
from charllm.data.errors import Text
from charllm.data.files import read_json, write_json
from charllm.data.progress import Reporter, Stopped, StopRequest

if TYPE_CHECKING:
    from charllm.core.training_config import TrainConfig

SPEED_STEPS = 10
"""Speed is the mean over so many steps."""


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end, or None.

    ``trainer_state.json`` is written last; a folder without a readable one is torn.
    """
    found = [f for f in folder.glob("checkpoint-*") if f.name.removeprefix("checkpoint-").isdigit()]
    newest_first = sorted(found, key=lambda f: int(f.name.split("-")[1]), reverse=True)
    return next((checkpoint for checkpoint in newest_first if is_whole(checkpoint)), None)


class Watch(TrainerCallback):
    """Listens to the trainer. ``seconds`` counts training over all sessions of the run.

    ``row_tokens`` is the mean length of a row: speed is told in tokens of rows, so that a shared
    prefix shows as speed and not as fewer tokens.
    """

    def __init__(
        self,
        config: TrainConfig,
        reporter: Reporter,
        folder: Path,
        sample: Callable[[Any], list[dict[str, Any]]],
        row_tokens: float,
    ) -> None:
        self.config = config
        self.reporter = reporter
        self.folder = folder / "trainer"
        self.sample = sample
        self.row_tokens = row_tokens
        self.stop: StopRequest = ""
        self.last_loss = float("nan")
        self._started = time.monotonic()
        self._before = 0.0
        self._steps: deque[float] = deque(maxlen=SPEED_STEPS + 1)

    @property
    def seconds(self) -> float:
        return round(self._before + time.monotonic() - self._started, 1)

    def run(self, trainer: Any, checkpoint: Path | None) -> None:
        """Train from ``checkpoint`` or from the start; ``Stopped`` if a stop was asked for."""
        self._started = time.monotonic()
        if checkpoint is not None:
            seconds = checkpoint / "seconds.json"
            self._before = float(read_json(seconds)) if seconds.is_file() else 0.0
            self.reporter.log(f"going on from {checkpoint.name}")
        elif trainer.eval_dataset is not None:
            self.reporter.progress(0, 1, Text("measuring the base", "学習前の損失を測っています"))
            first = trainer.evaluate()
            write_json(self.folder / "before.json", first["eval_loss"])
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if self.stop == "cancel":
            shutil.rmtree(self.folder, ignore_errors=True)
        if self.stop:
            raise Stopped(kept=self.stop == "save")

    def losses(self, trainer: Any) -> list[dict[str, float | None]]:
        """``{epoch, loss, eval_loss}``; epoch 0 is the base. Losses are per learnt token."""
        before = self.folder / "before.json"
        first = read_json(before) if before.is_file() else None
        rows = [_epoch(0.0, [], first)]
        seen: list[float] = []
        for entry in trainer.state.log_history:
            if "loss" in entry:
                seen.append(entry["loss"])
            if "eval_loss" in entry and entry.get("epoch"):
                rows.append(_epoch(entry["epoch"], seen, entry["eval_loss"]))
                seen = []
        if seen:
            rows.append(_epoch(float(trainer.state.epoch or 0), seen, None))
        return rows

    @staticmethod
    def curve(trainer: Any) -> list[dict[str, float]]:
        """``{step, epoch, loss, lr, grad_norm}`` of every step, over all sessions of the run."""
        names = {"step": "step", "epoch": "epoch", "loss": "loss", "learning_rate": "lr"}
        names["grad_norm"] = "grad_norm"
        return [
            {new: float(entry[old]) for old, new in names.items() if old in entry}
            for entry in trainer.state.log_history
            if "loss" in entry
        ]

    def settle(self, model: Any) -> None:
        """Give ``model`` the weights that are published: the best epoch's if asked, in bfloat16.

        The samples are then what the published adapter says, not a slightly finer one.
        """
        import torch
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        best = self.folder / "best.json"
        if self.config.keep == "best" and best.is_file():
            set_peft_model_state_dict(model, load_file(self.folder / read_json(best)["file"]))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.copy_(parameter.bfloat16())

    # ── what the trainer calls ────────────────────────────────────────────────────────────────

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        names = {"loss": "loss", "eval_loss": "eval_loss", "learning_rate": "lr"}
        names["grad_norm"] = "grad_norm"
        values = {new: float(logs[old]) for old, new in names.items() if old in logs}
        if not values:
            return
        self.last_loss = values.get("loss", self.last_loss)
        step = {"step": state.global_step, "total": state.max_steps, "epoch": state.epoch}
        if "loss" in values:
            values |= self._speed() | {"memory_gb": peak_memory_gb(args.device.type)}
        self.reporter.event("metric", **step, **values)

    def _speed(self) -> dict[str, float]:
        """Tokens a second over the last steps; nothing before there are two of them."""
        if len(self._steps) < 2:
            return {}
        seconds = self._steps[-1] - self._steps[0]
        rows = self.config.batch_size * self.config.accumulate * (len(self._steps) - 1)
        return {"tokens_per_second": round(rows * self.row_tokens / max(seconds, 1e-6), 1)}

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._steps.clear()  # what lay between two epochs was no training

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._steps.append(time.monotonic())
        self.reporter.progress(
            state.global_step,
            state.max_steps,
            Text(
                f"step {state.global_step} of {state.max_steps}",
                f"{state.max_steps} ステップ中 {state.global_step}",
            ),
        )
        self.stop = self.reporter.stop_requested()
        if self.stop == "save" and float(state.epoch or 0).is_integer():
            self.stop = ""  # the epoch is evaluated first: a resumed run would not come back to it
        if self.stop:
            control.should_training_stop = True
            control.should_save = self.stop == "save"
            control.should_evaluate = False

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A stop ends the epoch too, and the trainer would evaluate before it stops."""
        if self.stop:
            control.should_evaluate = False

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        write_json(self.folder / f"checkpoint-{state.global_step}" / "seconds.json", self.seconds)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, model: Any = None, **_: Any
    ) -> None:
        if self.config.keep == "best" and state.global_step:
            self._keep_if_best(state.global_step, float(metrics["eval_loss"]), model)
        last = state.global_step >= state.max_steps  # what is published is asked anyway
        if self.config.sample_each_epoch and state.global_step and not last:
            self.reporter.progress(
                state.global_step,
                state.max_steps,
                Text("asking sample questions", "サンプルの質問をしています"),
            )
            tell_samples(self.reporter, float(state.epoch or 0), self.sample(model))

    def _keep_if_best(self, step: int, loss: float, model: Any) -> None:
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        best = self.folder / "best.json"
        if best.is_file() and read_json(best)["loss"] <= loss:
            return
        file = f"best-{step}.safetensors"
        save_file(
            {k: t.contiguous() for k, t in get_peft_model_state_dict(model).items()},
            self.folder / file,
        )
        write_json(best, {"file": file, "loss": loss, "step": step})


def tell_samples(reporter: Reporter, epoch: float, samples: list[dict[str, Any]]) -> None:
    """The replies as an event, with how many of them ended by themselves."""
    stopped = sum(sample["stopped"] for sample in samples)
    reporter.event("samples", epoch=epoch, samples=samples, stopped=stopped)


def peak_memory_gb(device: str) -> float:
    """The most that this process has held so far, in GB: on CUDA by PyTorch, else resident."""
    if device == "cuda":
        import torch

        return round(torch.cuda.max_memory_allocated() / 1e9, 3)
    import psutil

    return round(psutil.Process().memory_info().rss / 1e9, 3)


def _epoch(epoch: float, seen: list[float], held_out: float | None) -> dict[str, float | None]:
    mean = round(sum(seen) / len(seen), 4) if seen else None
    return {
        "epoch": round(epoch, 3),
        "loss": mean,
        "eval_loss": round(held_out, 4) if held_out is not None else None,
    }
