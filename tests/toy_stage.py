"""A tiny real stage for the tests of runs: counts slowly, resumes from what it has written."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from charllm.data.config import Config, Paths
from charllm.data.errors import Text, UserError
from charllm.data.progress import Reporter, Stopped


class ToyConfig(Config):
    """``then`` says how the stage ends; ``deaf`` ignores every request to stop."""

    name: str = "toy"
    profile: str = ""
    steps: int = 3
    pause: float = 0.02
    seed: int = 7
    then: str = "done"
    deaf: bool = False
    note: str = ""


def run_toy(config: ToyConfig, reporter: Reporter, folder: Path, paths: Paths) -> dict[str, Any]:
    counted = folder / "counted.txt"
    first = len(counted.read_text()) if counted.exists() else 0
    for step in range(first, config.steps):
        asked = "" if config.deaf else reporter.stop_requested()
        if asked == "cancel":
            raise Stopped
        if asked == "save":
            return {"first": first, "steps": step}
        time.sleep(config.pause)
        with counted.open("a") as file:
            file.write("x")
        reporter.event("metric", step=step + 1, loss=float("nan") if step == 0 else 1 / step)
        reporter.progress(step + 1, config.steps, Text(f"step {step + 1}", f"ステップ{step + 1}"))
    if config.then == "leak":
        key = os.environ["OPENAI_API_KEY"]
        reporter.log(f"log {key}")
        print(f"print {key}", file=sys.stderr)
        reporter.event("sample", text=f"event {key}")
        reporter.progress(1, 1, Text(f"progress {key}", f"進捗 {key}"))
        raise RuntimeError(f"error {key}")
    if config.then == "user":
        raise UserError("Add a dataset first.", "先にデータを追加してください。")
    if config.then == "ours":
        raise ValueError("the sum does not come out")
    if config.then == "exit":
        sys.exit(3)
    if config.then == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return {"first": first, "steps": config.steps, "root": paths.root, "home": paths.workspace}
