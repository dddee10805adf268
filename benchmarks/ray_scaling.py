"""Candidates a second with one engine and with 1, 2 and 4 of Ray's workers, in one call.

Run: ``python benchmarks/ray_scaling.py --tokenizer FOLDER [--dense] [--json]`` on CUDA, a GPU a
worker, with random weights of Llama-2-7B's shape in bf16 (FOLDER holds a Llama 2 tokenizer), or
``--embedded`` on a CPU, a core a worker, with the embedded model and the shipped parents. The base
with two LoRA parents, or with ``--dense`` two full models, lies in a temporary folder (14 or 27 GB)
while this runs; every worker loads it as a search's workers do.

Timed are ``--candidates`` candidates on ``--queries`` questions with the study's prompt and 64 new
tokens, after one candidate a worker that is not; loading is told apart. The judge answers at once.
The ratio is to the engine in this process, without Ray. Replies must be the same everywhere.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]


def random_parents(folder: Path, tokenizer: Path, dense: bool) -> list[str]:
    """Parents of Llama-2-7B's shape in ``folder``, as a recipe names them."""
    import torch
    from evolve import random_lora
    from transformers import LlamaConfig, LlamaForCausalLM

    from charllm.core.models import load_tokenizer

    names = ("one", "two")
    for seed, name in enumerate(names if dense else names[:1]):
        torch.manual_seed(seed)
        with torch.device("cuda"):
            torch.set_default_dtype(torch.bfloat16)
            model: Any = LlamaForCausalLM(LlamaConfig(pad_token_id=0))
            torch.set_default_dtype(torch.float32)
        model.save_pretrained(folder / name)
        load_tokenizer(tokenizer).save_pretrained(folder / name)
        if not dense:
            for number, adapter in enumerate(("a", "b")):
                random_lora(model, folder / adapter, number)
        del model
        torch.cuda.empty_cache()
    if dense:
        return [str(folder / name) for name in names]
    return [f"{folder / 'one'}+{folder / adapter}" for adapter in ("a", "b")]


def candidates_for(engine: Any, count: int) -> list[Any]:
    from charllm.core.merging.coefficients import Coefficients
    from charllm.core.merging.genome import Candidate

    shares = [(n + 1) / (count + 1) for n in range(count)]
    return [
        Candidate(f"c{n}", Coefficients("linear", {g: (t, 1 - t) for g in engine.groups}))
        for n, t in enumerate(shares)
    ]


def timed(kind: Any, engine: Any, stage: Any, options: argparse.Namespace, warm: int) -> Any:
    """Seconds for the candidates and what was replied."""
    from evolve import Waiting

    from charllm.core.judging.score import style_scorer
    from charllm.data.config import Paths
    from charllm.data.profile import load_profile
    from charllm.data.progress import Silent

    paths = Paths.default()
    scorer = style_scorer(paths, load_profile(paths, "ayane"))
    trial = kind(engine, stage, Waiting(0.0), scorer, Silent())
    queries, made = list(stage.questions), candidates_for(engine, options.candidates)
    list(trial.many(made[:warm], queries, "search"))
    start = time.perf_counter()
    results = list(trial.many(made, queries, "search"))
    seconds = time.perf_counter() - start
    return seconds, [[one.note for one in outcomes] for outcomes in results]


def figures(seconds: float, loading: float, count: int, base: float) -> dict[str, float]:
    return {
        "candidates a second": round(count / seconds, 3),
        "seconds": round(seconds, 2),
        "times the engine without Ray": round(base / seconds, 2),
        "seconds until loaded": round(loading, 1),
    }


def measure(options: argparse.Namespace, parents: Sequence[str], tokenizer: Any) -> dict[str, Any]:
    """One engine, then pools of each size, on the same candidates."""
    from evolve import show, stage_for

    from charllm.core.merging import planning
    from charllm.core.merging.engines import open_engine
    from charllm.core.merging.ray_pool import Pool
    from charllm.core.merging.ray_trial import PoolTrial
    from charllm.core.merging.trial import Trial
    from charllm.data.config import Paths
    from charllm.data.progress import Silent

    paths = Paths.default()
    template = "plain-ja" if options.embedded else "llama-2"
    # As many rows as questions: a candidate is a task, whatever the number of workers.
    stage = stage_for(tokenizer, template, options.queries, options.queries)
    found: dict[str, Any] = {"queries": len(stage.questions), "candidates": options.candidates}
    plan = planning.plan(paths, parents)
    start = time.perf_counter()
    with closing(open_engine(plan)) as engine:
        loading = time.perf_counter() - start
        base, replies = timed(Trial, engine, stage, options, 1)
    del engine
    forget()
    show(found, "without Ray", figures(base, loading, options.candidates, base))
    for workers in options.workers:
        start = time.perf_counter()
        with closing(Pool(plan, 4, stage, workers, "", paths.workspace, Silent())) as pool:
            loading = time.perf_counter() - start
            seconds, same = timed(PoolTrial, pool, stage, options, workers)
        told = figures(seconds, loading, options.candidates, base)
        equal = sum(a == b for a, b in zip(replies, same, strict=True))
        show(found, f"workers: {workers}", {**told, "candidates with the same replies": equal})
    return found


def forget() -> None:
    """Give back what the engine had on a GPU: a worker comes there."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--embedded", action="store_true")
    parser.add_argument("--dense", action="store_true")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--queries", type=int, default=102)
    parser.add_argument("--candidates", type=int, default=12)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not options.embedded and not options.tokenizer:
        parser.error("give --tokenizer FOLDER, or --embedded")
    print(json.dumps(run(options), indent=None if options.json else 1))


def run(options: argparse.Namespace) -> dict[str, Any]:
    from charllm.core.models import load_tokenizer, model_folder
    from charllm.data.config import Paths

    paths = Paths.default()
    if options.embedded:
        from charllm.core.catalog import EMBEDDED

        home = model_folder(paths, EMBEDDED)
        parents = [f"{home}+{paths.checkpoints / name}" for name in ("ayane-a", "ayane-b")]
        return measure(options, parents, load_tokenizer(home))
    folder = Path(tempfile.mkdtemp())
    try:
        parents = random_parents(folder, options.tokenizer, options.dense)
        return measure(options, parents, load_tokenizer(options.tokenizer))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
