"""Seconds from launch to the first page served, and which heavy modules were imported by then.

Run: ``python benchmarks/startup.py [--runs 5] [--json]``. The dashboard runs as its user runs it
(``app.py`` in a process of its own) on a free loopback port with an empty workspace; the first
run warms the file cache and is not counted. It does not measure the first answer.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "transformers", "chromadb", "trl", "peft", "mergekit", "sklearn", "bitsandbytes")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launch(workspace: str) -> tuple[float, set[str], int]:
    """Seconds until the page is served, the top-level modules imported by then, and its bytes."""
    port = free_port()
    env = {**os.environ, "CHARLLM_HOME": workspace}
    with tempfile.TemporaryFile("w+") as log:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-X", "importtime", "app.py", "--no-prepare", "--port", str(port)],
            cwd=ROOT,
            env=env,
            stderr=log,
            stdout=subprocess.DEVNULL,
        )
        try:
            size = wait_for_page(process, port)
            seconds = time.perf_counter() - start
        finally:
            process.terminate()
            process.wait(20)
        log.seek(0)
        names = re.findall(r"\|\s+([\w.]+)$", log.read(), flags=re.MULTILINE)
    return seconds, {name.split(".")[0] for name in names}, size


def wait_for_page(process: subprocess.Popen[bytes], port: int) -> int:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"app.py ended with {process.returncode} before it served a page")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as page:
                return len(page.read())
        except OSError:
            time.sleep(0.02)
    raise SystemExit("no page within 120 s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as workspace:
        launch(workspace)
        results = [launch(workspace) for _ in range(options.runs)]
    seconds = [result[0] for result in results]
    heavy = sorted({name for _, modules, _ in results for name in modules} & set(HEAVY))
    report = {
        "seconds_median": round(statistics.median(seconds), 2),
        "seconds_min": round(min(seconds), 2),
        "seconds_max": round(max(seconds), 2),
        "runs": options.runs,
        "modules": len(results[-1][1]),
        "heavy_modules": heavy,
        "page_bytes": results[-1][2],
    }
    if options.json:
        print(json.dumps(report))
    else:
        print(
            f"first page after {report['seconds_median']} s "
            f"(min {report['seconds_min']}, max {report['seconds_max']}, {options.runs} runs); "
            f"{report['modules']} top-level modules; heavy ones: {', '.join(heavy) or 'none'}"
        )
    return 0 if not heavy else 1


if __name__ == "__main__":
    sys.exit(main())
