"""How fast replies are judged: by a model behind an endpoint, from the cache, by gate and style.

Run: ``python benchmarks/judge.py [--replies 1000] [--latency 0.5] [--in-flight 32] [--json]``. The
endpoint is a server on loopback, a process of its own, that answers every question after the
latency; what is measured is our side of it. Then the same replies again, from the cache; then once
more on a fresh cache while the server refuses every third request (429). Gate and style run on one
core, on the shipped dialogues. It does not measure any model's judgement.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests"))
os.environ.setdefault("OMP_NUM_THREADS", "1")


def serve(latency: float, refuse: bool, out: Any) -> None:
    """The server's process: tells its address, then answers its parent's word with its counts."""
    from judge_server import Asked, JudgeServer, Reply, error

    def behave(asked: Asked) -> Reply:
        if refuse and asked.number % 3 == 0:
            return error(429, "rate_limit_exceeded", headers={"retry-after-ms": "200"})
        return Reply(wait=latency)

    server = JudgeServer(behave)
    out.send(server.url)
    out.recv()
    out.send((server.requests, len(server.billed), len(set(server.billed))))


class Server:
    def __init__(self, latency: float, refuse: bool = False) -> None:
        self.pipe, theirs = multiprocessing.get_context("spawn").Pipe()
        self.process = multiprocessing.get_context("spawn").Process(
            target=serve, args=(latency, refuse, theirs), daemon=True
        )
        self.process.start()
        self.url = self.pipe.recv()

    def counts(self) -> tuple[int, int, int]:
        """Requests, answers billed, different questions among these. The server ends."""
        self.pipe.send("end")
        counts: tuple[int, int, int] = self.pipe.recv()
        self.process.join()
        return counts


def judged(url: str, workspace: Path, replies: int, in_flight: int) -> tuple[float, int]:
    """Seconds for all replies, and how many have a score."""
    from charllm.core.judging.judges import JudgeConfig, open_judge
    from charllm.core.judging.records import Item
    from charllm.data.config import Paths
    from charllm.data.profile import load_profile

    paths = Paths(ROOT, workspace)
    config = JudgeConfig(kind="endpoint", model="m", base_url=url, in_flight=in_flight)
    config = config.model_copy(update={"rubric": "personality"})
    judge = open_judge(paths, load_profile(paths, "ayane"), config)
    items = [
        Item(str(n), f"{n}番目の質問ですか？", f"{n}番目のお返事ですわ。") for n in range(replies)
    ]
    start = time.perf_counter()
    scored = sum(record.score is not None for record in judge.judge(items, lambda: False))
    seconds = time.perf_counter() - start
    judge.close()
    return round(seconds, 2), scored


def gate_and_style() -> dict[str, float]:
    """Replies a second through gate and style, on one core, for each shipped character."""
    from charllm.core.judging.gate import Gate
    from charllm.core.judging.score import contrast_lines, own_lines
    from charllm.core.judging.style import StyleModel
    from charllm.data.config import Paths
    from charllm.data.dialogue import dataset_path, load_dialogues
    from charllm.data.profile import list_profiles, load_profile

    paths = Paths.default()
    found: dict[str, float] = {}
    for slug in list_profiles(paths):
        if not dataset_path(paths, slug).is_file():
            continue
        profile, rows = load_profile(paths, slug), load_dialogues(dataset_path(paths, slug))
        style = StyleModel.fit(
            own_lines(profile, rows), contrast_lines(paths, profile, rows), profile
        )
        gate, rounds, start = Gate(profile), 0, time.perf_counter()
        while time.perf_counter() - start < 2.0:
            for row in rows:
                if not gate.check(row.reply, query=row.question):
                    style.score(row.reply)
            rounds += 1
        found[slug] = round(rounds * len(rows) / (time.perf_counter() - start))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--replies", type=int, default=1000)
    parser.add_argument("--latency", type=float, default=0.5)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: dict[str, Any] = {"replies": options.replies, "latency": options.latency}
    with tempfile.TemporaryDirectory() as folder:
        server = Server(options.latency)
        first = judged(server.url, Path(folder), options.replies, options.in_flight)
        again = judged(server.url, Path(folder), options.replies, options.in_flight)
        requests, billed, different = server.counts()
        found["first"] = {"seconds": first[0], "scored": first[1], "requests": requests}
        found["from the cache"] = {
            "seconds": again[0],
            "scored": again[1],
            "requests": requests - options.replies,
        }
    with tempfile.TemporaryDirectory() as folder:
        server = Server(0.05, refuse=True)
        storm = judged(server.url, Path(folder), options.replies, options.in_flight)
        requests, billed, different = server.counts()
        found["storm of 429"] = {
            "seconds": storm[0],
            "scored": storm[1],
            "requests": requests,
            "billed": billed,
            "billed twice": billed - different,
        }
    found["gate and style, replies a second"] = gate_and_style()
    print(json.dumps(found, ensure_ascii=False, indent=None if options.json else 1))


if __name__ == "__main__":
    main()
