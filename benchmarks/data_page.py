"""The Data tab with thousands of rows: how long the page stands still while one works with it.

Run: ``python benchmarks/data_page.py [--rows 5000] [--runs 3] [--json]`` (needs Chromium and
``playwright``). The dashboard runs as its user runs it, on a copy of the project's data with one
generated dataset more. Two figures for each action, in milliseconds: the longest time without a
frame (what a user sees as a pause; a headless browser draws one each 16.7 ms) and the longest task
of the page's thread; for an edit also how long it took until the row was stored and shown. It does
not measure the network, nor how long the checks take on the server.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
# The longest gap between two frames and the longest task since the last call of ``begin``.
WATCH = """() => {
  const seen = (window.seen = { gap: 0, task: 0 });
  let last = performance.now();
  const frame = (now) => {
    seen.gap = Math.max(seen.gap, now - last);
    last = now;
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) seen.task = Math.max(seen.task, entry.duration);
  }).observe({ type: "longtask" });
  window.begin = () => { seen.gap = seen.task = 0; last = performance.now(); };
}"""


def generate(count: int, path: Path) -> None:
    """``count`` dialogues of random words in ``path``, with topics; the same ones every time."""
    draw = random.Random(7)
    words = [chr(draw.randrange(0x4E00, 0x9FA0)) * 2 for _ in range(400)]
    with path.open("w", encoding="utf-8") as file:
        for n in range(count):
            question = f"{n}番の{''.join(draw.choices(words, k=6))}は？"
            reply = f"{''.join(draw.choices(words, k=draw.randrange(4, 30)))}ですわ。"
            roles = (("user", question), ("assistant", reply))
            row = {
                "id": f"many-{n:05}",
                "messages": [{"role": role, "content": text} for role, text in roles],
                "meta": {"topic": f"topic-{n % 30}"},
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


@contextmanager
def dashboard(folder: Path, rows: int) -> Iterator[str]:
    """The address of a dashboard of its own whose datasets are the project's and ``many``."""
    for name in ("profiles", "datasets", "recipes", "rubrics"):
        shutil.copytree(ROOT / name, folder / "root" / name)
    generate(rows, folder / "root" / "datasets" / "many.jsonl")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {**os.environ, "CHARLLM_ROOT": str(folder / "root"), "CHARLLM_HOME": str(folder / "home")}
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
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).read()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the dashboard did not start") from None
            time.sleep(0.2)


class Watched:
    """A page whose pauses are measured, action by action."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.figures: dict[str, dict[str, float]] = {}
        page.evaluate(WATCH)

    def act(self, name: str, action: Callable[[], None], rest: float = 0.4) -> None:
        """Measure ``action`` and what it sets off within ``rest`` seconds."""
        self.page.evaluate("begin()")
        begun = time.perf_counter()
        action()
        took = 1000 * (time.perf_counter() - begun)
        time.sleep(rest)
        seen = self.page.evaluate("({ ...window.seen })")
        self.figures[name] = {"pause": seen["gap"], "task": seen["task"], "took": took}


def visit(page: Any, url: str, number: int) -> dict[str, dict[str, float]]:
    """Everything a user does with the rows, once."""
    page.goto(url)
    page.wait_for_selector("#send")
    page.click("#tab-data-button")
    page.wait_for_selector(".gridline")
    watched = Watched(page)
    watched.act("open", lambda: open_rows(page))
    watched.act("findings come", lambda: checked(page))
    page.hover(".gridbody")
    watched.act("scroll", lambda: scroll(page))
    watched.act("jump to the end", lambda: jump(page))
    watched.act("type a filter", lambda: page.type(".gridbar input", "番の", delay=60))
    watched.act("empty the filter", lambda: page.fill(".gridbar input", ""))
    watched.act("filter by topic", lambda: page.click(".facet[data-topic=topic-3]"))
    watched.act("all rows", lambda: page.click(".facets .facet >> nth=0"))
    watched.act("filter by finding", lambda: page.click(".facet[data-code='-']"))
    watched.act("all rows again", lambda: page.click(".facets .facet >> nth=0"))
    watched.act("sort by length", lambda: page.click("[data-sort=length]"))
    watched.act("open a row", lambda: page.click(".gridline >> nth=5"))
    reply = ".drawerturn.assistant textarea"
    watched.act("type in it", lambda: page.type(reply, f"追記{number}ですわ。", delay=30))
    watched.act("save it", lambda: save(page))
    watched.act("undo", lambda: undo(page))
    watched.act("findings again", lambda: checked(page))
    return watched.figures


def open_rows(page: Any) -> None:
    page.click("#dataset input")
    page.click("[role=option]:has-text('many ·')")
    page.wait_for_selector(".gridline[data-id=many-00000]")


def checked(page: Any) -> None:
    page.wait_for_selector(".gridbar .busy", state="hidden")
    page.wait_for_selector(".facet[data-code='-']")


def scroll(page: Any) -> None:
    for _ in range(60):
        page.mouse.wheel(0, 900)
        time.sleep(0.016)


def jump(page: Any) -> None:
    page.eval_on_selector(".gridbody", "body => body.scrollTop = body.scrollHeight")


def save(page: Any) -> None:
    page.click("[data-save]")
    page.wait_for_selector(".drawer .said.good")


def undo(page: Any) -> None:
    page.click("[data-undo]")
    page.wait_for_selector("[data-undo]:disabled")


def measure(rows: int, runs: int) -> dict[str, dict[str, float]]:
    """For each action the median of its runs, and the longest pause of all of them."""
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if not found:
        raise SystemExit("no Chromium on this machine")
    with (
        tempfile.TemporaryDirectory() as folder,
        dashboard(Path(folder), rows) as url,
        sync_playwright() as player,
    ):
        browser = player.chromium.launch(executable_path=found, args=FLAGS)
        seen = []
        for number in range(runs):
            context = browser.new_context(viewport={"width": 1440, "height": 900})
            context.set_default_timeout(120_000)
            seen.append(visit(context.new_page(), url, number))
            context.close()
        browser.close()
    return {name: summary([visit[name] for visit in seen]) for name in seen[0]}


def summary(figures: list[dict[str, float]]) -> dict[str, float]:
    made = {key: statistics.median(one[key] for one in figures) for key in figures[0]}
    made["worst_pause"] = max(one["pause"] for one in figures)
    return {key: round(value, 1) for key, value in made.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="How long the Data tab's page stands still.")
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = measure(options.rows, options.runs)
    if options.json:
        print(json.dumps({"rows": options.rows, "runs": options.runs, "actions": figures}))
        return
    print(f"{options.rows} rows, {options.runs} runs, milliseconds")
    print(f"{'action':20} {'pause':>8} {'worst':>8} {'task':>8} {'took':>8}")
    for name, one in figures.items():
        print(
            f"{name:20} {one['pause']:8.1f} {one['worst_pause']:8.1f} "
            f"{one['task']:8.1f} {one['took']:8.1f}"
        )


if __name__ == "__main__":
    main()
