"""Opening an evaluation of 20,000 judged replies in the page: how long until its figures stand.

Run: ``python benchmarks/evaluate_page.py [--replies 20000] [--runs 3] [--json]`` (needs Chromium
and ``playwright``). The dashboard runs as its user runs it, on a copy of the project's data with
one evaluation more, whose replies and scores are made up; plan, files and report are written by the
project's own functions. Three figures in seconds, the best and the median of the runs, each in a
fresh page: from the press on "Results" until the tables stand, from the press on "Question by
question" until the first replies stand (the first run reads the whole file), and the next page of
replies. It does not measure what making the report takes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from charllm.core.evaluation.evaluate_config import EvaluateConfig  # noqa: E402
from charllm.core.evaluation.kept_lines import append_lines  # noqa: E402
from charllm.core.evaluation.planned import open_plan  # noqa: E402
from charllm.core.evaluation.reply_records import REPLIES, Reply, read_replies  # noqa: E402
from charllm.core.evaluation.report import read_evaluation, write_report  # noqa: E402
from charllm.core.evaluation.scoring_replies import items_of, judge_replies  # noqa: E402
from charllm.core.filtering import Budget  # noqa: E402
from charllm.core.judging.judges import JudgeConfig  # noqa: E402
from charllm.core.judging.quality_marks import require  # noqa: E402
from charllm.core.judging.records import Item, Quote, Record  # noqa: E402
from charllm.data.config import Paths  # noqa: E402
from charllm.data.files import write_json_lines  # noqa: E402
from charllm.data.progress import Silent  # noqa: E402
from charllm.services.runs import create_run  # noqa: E402

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
VARIANTS = 4
STEPS = ("figures", "questions", "next page")


class Dice:
    """A judge whose scores are drawn; its verdicts are as long as a model's."""

    id, rubric, version, scale = "dice", "study", "1", (1, 7)

    def quote(self, items: Sequence[Item]) -> Quote:
        return Quote(len(items), 0, 0, 0)

    def judge(self, items: Sequence[Item], stop: Any) -> Iterator[Record]:
        draw = random.Random(3)
        for item in items:
            score = float(draw.randrange(1, 8))
            said = (item.id, self.id, self.rubric, self.version, score)
            yield Record(*said, rationale="口調は設定どおりですが、やや平板です。" * 4)

    def close(self) -> None:
        pass


def make(paths: Paths, replies: int) -> None:
    """The evaluation, as a finished run; the same one every time."""
    draw = random.Random(7)
    each = replies // VARIANTS
    rows = [{"id": f"q{n:05}", "text": _text(draw, 12, n), "split": "report"} for n in range(each)]
    write_json_lines(paths.queries / "many.jsonl", rows)
    names = [f"variant-{n}" for n in range(VARIANTS)]
    variants = [{"name": name, "label_en": name, "label_ja": name} for name in names]
    data = {"name": "many", "profile": "ayane", "queries": "many", "variants": variants}
    config = EvaluateConfig.from_data({**data, "judges": [], "insist": True}, "benchmark")
    run = create_run(paths, "evaluate", "many", config)
    planned = open_plan(config, paths, run.folder, Silent())
    kept = [
        Reply(
            variant=variant.name,
            query=query.id,
            repeat=0,
            text=_text(draw, draw.randrange(8, 40), n),
            stop_reason="end",
            prompt="あなたはお嬢様です。" * 60 + query.text,
            facts=(),
            weights="made",
            tokens=24,
        ).as_json()
        for variant in planned.variants
        for n, query in enumerate(planned.queries)
    ]
    append_lines(run.folder / REPLIES, kept)
    judge = Dice()
    mark = require(paths, "ayane", judge, insist=True)
    items = items_of(read_replies(run.folder), planned.queries)
    setting = JudgeConfig(kind="endpoint", model="dice")
    judge_replies(run.folder, judge, setting, mark, items, Silent(), Budget())
    write_report(run.folder, read_evaluation(run.folder))
    status = run.stored_status().model_copy(update={"state": "done", "started": 1.0, "ended": 2.0})
    run.write_status(status)


def _text(draw: random.Random, length: int, number: int) -> str:
    """Random signs, so that no two questions are alike."""
    signs = "".join(chr(draw.randrange(0x4E00, 0x9FA0)) for _ in range(length))
    return f"{number}番、{signs}ですわ。"


@contextmanager
def dashboard(folder: Path, replies: int) -> Iterator[str]:
    """The address of a dashboard of its own with the evaluation in it."""
    for name in ("profiles", "datasets", "recipes", "rubrics", "checkpoints"):
        shutil.copytree(ROOT / name, folder / "root" / name)
    paths = Paths(folder / "root", folder / "home")
    began = time.perf_counter()
    make(paths, replies)
    print(f"made {replies:,} replies in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {**os.environ, "CHARLLM_ROOT": str(paths.root), "CHARLLM_HOME": str(paths.workspace)}
    command = [sys.executable, str(ROOT / "app.py"), "--no-prepare", "--port", str(port)]
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 180
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).read()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.3)


def measure(browser: Any, url: str) -> dict[str, float]:
    """The seconds of each step in a fresh page."""
    context = browser.new_context(locale="en-US", viewport={"width": 1440, "height": 900})
    context.set_default_timeout(120_000)
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("#send")
    page.click("button[role=tab]:has-text('Evaluate')")
    page.wait_for_selector("#evaluate-status .banner")
    page.wait_for_timeout(3000)
    found = {
        "figures": timed(page, "#evaluate-tab-runs-button", "#evaluate-result .judged td"),
        "questions": timed(page, "#evaluate-tab-queries-button", "#queries-shown .paircard"),
    }
    first = page.get_attribute("#queries-shown .paircard", "data-query")
    found["next page"] = timed(
        page, "#queries-ahead", f"#queries-shown .paircard:first-child:not([data-query='{first}'])"
    )
    context.close()
    return found


def timed(page: Any, press: str, wanted: str) -> float:
    began = time.perf_counter()
    page.click(press)
    page.wait_for_selector(wanted)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replies", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    with (
        tempfile.TemporaryDirectory() as folder,
        dashboard(Path(folder), options.replies) as url,
        sync_playwright() as player,
    ):
        browser = player.chromium.launch(executable_path=found, args=FLAGS)
        runs = [measure(browser, url) for _ in range(options.runs)]
        browser.close()
    result = {
        step: {"best": min(times), "median": statistics.median(times), "first": times[0]}
        for step in STEPS
        if (times := [run[step] for run in runs])
    }
    if options.json:
        print(json.dumps({"replies": options.replies, "seconds": result}))
        return
    for step, told in result.items():
        shown = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in told.items())
        print(f"{step:10} {shown}")


if __name__ == "__main__":
    main()
