"""A small world with a known truth for the tests of the search, and searches that are killed.

The value of a mixture on a query is ``base - curve * mean over groups of (share - optimum)²``; each
query has an optimum of its own around the world's, so that tuning on few queries finds theirs. Run
as a program it serves one test of resuming: see ``main``.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from charllm.core.merging.coefficients import Coefficients
from charllm.core.merging.genome import Candidate, Space
from charllm.core.merging.journal import JOURNAL, Outcome, read_entries
from charllm.core.merging.search import run_search
from charllm.core.merging.search_config import SearchConfig
from charllm.core.merging.splits import Splits
from charllm.data.progress import Silent


class World:
    """``evaluate`` of a search over two parents; a pure function of its arguments."""

    def __init__(
        self,
        seed: int = 0,
        sizes: tuple[int, int, int] = (40, 30, 40),
        groups: int = 4,
        curve: float = 1.0,
        optimum: float = 0.3,
        query_sd: float = 0.3,
        noise: float = 0.0,
    ) -> None:
        rng = np.random.default_rng(seed)
        count = sum(sizes)
        self.seed, self.curve, self.noise = seed, curve, noise
        self.optimum = rng.choice([-optimum, optimum], groups)
        self.own = self.optimum + rng.normal(0, query_sd, (count, groups))
        self.base = rng.normal(0.5, 0.2, count)
        self.row = {f"q{i}": i for i in range(count)}
        ids = list(self.row)
        a, b = sizes[0], sizes[0] + sizes[1]
        self.splits = Splits(tuple(ids[:a]), tuple(ids[a:b]), tuple(ids[b:]))
        self.space = Space(tuple(f"layers {i}" for i in range(groups)), 2)

    def away(self, mixed: Coefficients) -> Any:
        """By group, how far from the plain average."""
        return np.array([mixed.weights[group][0] - 0.5 for group in self.space.groups])

    def true(self, mixed: Coefficients) -> float:
        """The gain over the plain average that an endless number of queries would show."""
        a = -self.curve * np.mean((self.away(mixed) - self.optimum) ** 2)
        return float(a + self.curve * np.mean(self.optimum**2))

    def __call__(self, candidate: Candidate, queries: Sequence[str], split: str) -> list[Outcome]:
        rows = [self.row[query] for query in queries]
        away = self.away(candidate.coefficients)
        loss = self.curve * ((away - self.own[rows]) ** 2).mean(axis=1)
        name = f"{self.seed} {away.tolist()} {queries[0]}"
        noise = np.random.default_rng(zlib.crc32(name.encode())).normal(0, self.noise, len(rows))
        values = self.base[rows] - loss + noise
        pairs = zip(queries, values, strict=True)
        return [Outcome(query, {"score": float(value)}, calls=1) for query, value in pairs]


def search(
    world: World,
    folder: Path,
    *,
    evaluate: Any = None,
    evaluate_many: Any = None,
    reporter: Any = None,
    **settings: Any,
) -> Any:
    """A search in this world, four generations of eight unless ``settings`` say otherwise."""
    config = SearchConfig(**{"max_candidates": 32, **settings})
    return run_search(
        config,
        world.space,
        world.splits,
        evaluate or world,
        folder,
        reporter or Silent(),
        evaluate_many=evaluate_many,
    )


def lines(folder: Path) -> dict[str, Any]:
    """A journal by what was evaluated; the order of its lines is not compared."""
    return {str(entry.key): entry.as_json() for entry in read_entries(folder / JOURNAL)}


class Slow(World):
    """Takes its time, so that a kill finds it at work."""

    def __call__(self, candidate: Candidate, queries: Sequence[str], split: str) -> list[Outcome]:
        time.sleep(0.004)
        return super().__call__(candidate, queries, split)


def run_slow(folder: Path) -> None:
    result = search(Slow(noise=0.1), folder, seed=5)
    (folder / "result.json").write_text(json.dumps(result.as_json()))


def start(folder: Path) -> int:
    """A process that runs the search; forked, because this program has loaded everything."""
    child = os.fork()
    if not child:
        try:
            run_slow(folder)
        finally:
            os._exit(0 if (folder / "result.json").exists() else 1)
    return child


def main(folder: Path, kills: int, seed: int) -> None:
    """Run undisturbed, then ``kills`` times: kill -9 at a random moment, resume to the end.

    Prints a JSON row each: the moment, the lines that stood then, and whether all came out equal.
    """
    search(World(), folder / "warm")  # whatever is imported on the way is not to be waited for
    begun = time.monotonic()
    assert os.waitpid(start(folder / "whole"), 0)[1] == 0
    seconds = time.monotonic() - begun
    whole = lines(folder / "whole"), (folder / "whole" / "result.json").read_text()
    rng = random.Random(seed)
    for number in range(kills):
        moment, here = rng.uniform(0, seconds), folder / str(number)
        child = start(here)
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
        killed = os.waitpid(child, 0)[1] == signal.SIGKILL
        stood = len((here / JOURNAL).read_bytes().splitlines()) if (here / JOURNAL).exists() else 0
        assert os.waitpid(start(here), 0)[1] == 0
        same = (lines(here), (here / "result.json").read_text()) == whole
        row = {"moment": moment, "killed": killed, "stood": stood, "same": same}
        print(json.dumps({**row, "of": len(whole[0])}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
