"""Seconds a candidate takes: 102 questions with the study's prompt, 64 new tokens, a judge.

Run: ``python benchmarks/evolve.py --tokenizer FOLDER [--json]`` on CUDA with a random Llama-2-7B in
bf16 (FOLDER holds a Llama 2 tokenizer), or ``--embedded`` on a CPU with the embedded model and the
shipped parents. Compared, in one process, on the same prompts and as many new tokens for all:

- adapter: two LoRA parents, a generation of candidates in one batch, and one after another, with
  all questions and with those that a race asks of everybody first;
- dense (CUDA): two full parents in memory, blended in place for each candidate;
- under ``--cap-gb`` only this: dense, the parents in pinned RAM, in so much of the card;
- to disk (CUDA): what evolving by files does at least for each candidate: the blended weights are
  saved, loaded again with ``from_pretrained``, and asked with ``generate`` in batches of 102. The
  blend itself is not counted, so mergekit's path takes longer than this.

The judge answers at once; then one that takes ``--latency`` seconds a call, 32 calls in flight: the
wall time should come near the larger of generating and judging, not their sum.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

NEW_TOKENS = 64
IN_FLIGHT = 32


class Waiting:
    """A judge for timing: every verdict is the middle of the scale, after ``latency`` seconds."""

    id, rubric, version, scale = "waiting", "none", "1", (1, 7)

    def __init__(self, latency: float) -> None:
        self.latency = latency

    def judge(self, items: Sequence[Any], stop: Callable[[], bool]) -> Iterator[Any]:
        from charllm.core.judging.records import Record

        def one(item: Any) -> Record:
            time.sleep(self.latency)
            return Record(item.id, self.id, self.rubric, self.version, 4.0)

        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            yield from pool.map(one, items)

    def quote(self, items: Sequence[Any]) -> Any:
        from charllm.core.judging.records import Quote

        return Quote(len(items), len(items), 0, 0)

    def close(self) -> None:
        pass


def random_lora(model: Any, folder: Path, seed: int) -> None:
    """A LoRA of rank 16 on all linear layers, as peft writes it."""
    import torch
    from peft import LoraConfig
    from safetensors.torch import save_file

    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, module in model.model.named_modules():
        if isinstance(module, torch.nn.Linear):
            key = f"base_model.model.model.{name}.lora_"
            tensors[f"{key}A.weight"] = torch.randn(16, module.in_features, generator=draw) * 0.01
            tensors[f"{key}B.weight"] = torch.randn(module.out_features, 16, generator=draw) * 0.01
    folder.mkdir(parents=True)
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    LoraConfig(r=16, lora_alpha=32, target_modules=names, task_type="CAUSAL_LM").save_pretrained(
        str(folder)
    )
    save_file(
        {key: tensor.bfloat16() for key, tensor in tensors.items()},
        folder / "adapter_model.safetensors",
    )


def random_parents(model: Any) -> dict[str, Any]:
    """Two full models of the model's shapes, made where they are read."""
    sys.path.insert(0, str(Path(__file__).parent))
    from merge import RandomTensors

    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    return {name: RandomTensors(shapes, seed, "cuda") for seed, name in enumerate(("a", "b"), 1)}


def stage_for(tokenizer: Any, template: str, rows: int, count: int) -> Any:
    """The shipped search queries with the character's prompt, each with three other facts."""
    from charllm.core.generation import GenerationPreset
    from charllm.core.merging.trial import Question, Stage
    from charllm.data.config import Paths
    from charllm.data.profile import load_profile
    from charllm.data.prompts import build_messages, get_template, prompt_ids
    from charllm.data.queries import load_queries

    paths = Paths.default()
    profile = load_profile(paths, "ayane")
    shape = get_template(template)
    queries = load_queries(paths.queries / "ayane.jsonl", "search")[:count]
    facts = profile.facts * (1 + 3 * count // len(profile.facts))
    questions = {
        one.id: Question(
            one.id,
            one.text,
            prompt_ids(
                shape,
                tokenizer,
                build_messages(profile, one.text, facts=facts[3 * at : 3 * at + 3]),
            ),
        )
        for at, one in enumerate(queries)
    }
    # No end: every reply is as long as may be, so that all are compared on the same work.
    preset = GenerationPreset(max_new_tokens=NEW_TOKENS, repetition_guard=False)
    return Stage(tokenizer, frozenset(), (), questions, {}, preset, rows)


def timed(engine: Any, stage: Any, candidates: int, latency: float, profile: Any) -> dict[str, Any]:
    """Seconds a candidate of a generation, after one that is not timed: a search has many."""
    import torch

    from charllm.core.judging.score import style_scorer
    from charllm.core.merging.coefficients import Coefficients
    from charllm.core.merging.genome import Candidate
    from charllm.core.merging.trial import Trial
    from charllm.data.config import Paths
    from charllm.data.progress import Silent

    made = [
        Candidate(
            f"c{n}",
            Coefficients("linear", {g: (0.2 + 0.1 * n, 0.8 - 0.1 * n) for g in engine.groups}),
        )
        for n in range(candidates)
    ]
    trial = Trial(engine, stage, Waiting(0.0), style_scorer(Paths.default(), profile), Silent())
    queries = list(stage.questions)
    if torch.cuda.is_available():
        list(trial.many(made if stage.rows > len(queries) else made[:1], queries, "search"))
        torch.cuda.synchronize()
    trial.judge = Waiting(latency)
    start = time.perf_counter()
    results = list(trial.many(made, queries, "search"))
    seconds = time.perf_counter() - start
    trial.close()
    assert all(isinstance(one, list) for one in results), results
    return {
        "seconds a candidate": round(seconds / candidates, 3),
        "candidates a minute": round(60 * candidates / seconds, 1),
        "seconds": round(seconds, 2),
    }


def by_files(model: Any, stage: Any, folder: Path) -> dict[str, Any]:
    """Save, load, generate: what a candidate costs where it goes through the disk."""
    import torch
    from transformers import AutoModelForCausalLM

    parts = {}
    start = time.perf_counter()
    model.save_pretrained(folder)
    parts["save"] = time.perf_counter() - start
    begun = time.perf_counter()
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, device_map={"": "cuda"}
    )
    torch.cuda.synchronize()
    parts["load"] = time.perf_counter() - begun
    begun = time.perf_counter()
    prompts = [one.prompt_ids for one in stage.questions.values()]
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device="cuda")
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device="cuda")
    loaded.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=False,
        min_new_tokens=NEW_TOKENS,
        max_new_tokens=NEW_TOKENS,
        pad_token_id=0,
    )
    torch.cuda.synchronize()
    parts["generate"] = time.perf_counter() - begun
    del loaded
    torch.cuda.empty_cache()
    return {
        "seconds a candidate": round(sum(parts.values()), 2),
        **{k: round(v, 2) for k, v in parts.items()},
    }


def on_cuda(options: argparse.Namespace, found: dict[str, Any]) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from charllm.core.merging.adapter_engine import AdapterEngine
    from charllm.core.merging.dense import DenseEngine
    from charllm.core.merging.search_config import SearchConfig
    from charllm.core.models import load_tokenizer
    from charllm.data.config import Paths
    from charllm.data.profile import load_profile

    profile = load_profile(Paths.default(), "ayane")
    folder = Path(tempfile.mkdtemp())
    tokenizer = load_tokenizer(options.tokenizer)
    if options.cap_gb:
        whole = torch.cuda.get_device_properties(0).total_memory / 1e9
        torch.cuda.set_per_process_memory_fraction(min(1.0, options.cap_gb / whole))
    torch.manual_seed(0)
    with torch.device("cuda"):
        torch.set_default_dtype(torch.bfloat16)
        model: Any = LlamaForCausalLM(LlamaConfig(pad_token_id=0)).eval()
        torch.set_default_dtype(torch.float32)
    if options.cap_gb:
        pinned = stage_for(tokenizer, "llama-2", options.queries, options.queries)
        dense = DenseEngine(model, random_parents(model), 4, "", "pinned")
        figures = timed(dense, pinned, options.candidates, 0, profile)
        show(found, f"dense, {options.cap_gb:g} GB, parents in RAM", figures)
        found["peak_gb"] = round(torch.cuda.max_memory_reserved() / 1e9, 1)
        return
    for seed, name in enumerate(("one", "two")):
        random_lora(model, folder / name, seed)
    adapters: dict[str, Path | None] = {name: folder / name for name in ("one", "two")}
    engine = AdapterEngine(model, adapters, 4)
    alone = stage_for(tokenizer, "llama-2", options.queries, options.queries)
    found["queries"] = len(alone.questions)
    found["prompt tokens"] = sum(len(q.prompt_ids) for q in alone.questions.values())
    for count in (options.queries, round(SearchConfig().race_first * options.queries)):
        compare(found, engine, tokenizer, "llama-2", count, options.candidates, profile)
    if options.adapters_only:
        return
    slow = timed(engine, alone, options.candidates, options.latency, profile)
    show(found, f"adapter, judge {options.latency:g} s a call", slow)
    engine.close()
    dense = DenseEngine(model, random_parents(model), 4, "", "device")
    show(found, "dense", timed(dense, alone, options.candidates, 0, profile))
    show(found, "to disk and back", by_files(dense.model, alone, folder / "merged"))
    shutil.rmtree(folder)
    found["times faster than to disk"] = round(
        found["to disk and back"]["seconds a candidate"] / found["dense"]["seconds a candidate"], 1
    )
    found["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 1)


def on_cpu(options: argparse.Namespace, found: dict[str, Any]) -> None:
    from charllm.core.catalog import EMBEDDED
    from charllm.core.merging.adapter_engine import AdapterEngine
    from charllm.core.models import load_model, load_tokenizer, model_folder
    from charllm.data.config import Paths
    from charllm.data.profile import load_profile

    paths = Paths.default()
    home = model_folder(paths, EMBEDDED)
    profile = load_profile(paths, "ayane")
    adapters: dict[str, Path | None] = {
        name: paths.checkpoints / name for name in ("ayane-a", "ayane-b")
    }
    engine = AdapterEngine(load_model(home), adapters, 6)
    tokenizer = load_tokenizer(home)
    found["queries"] = options.queries
    compare(found, engine, tokenizer, "plain-ja", options.queries, options.candidates, profile)


def compare(
    found: dict[str, Any],
    engine: Any,
    tokenizer: Any,
    template: str,
    count: int,
    candidates: int,
    profile: Any,
) -> None:
    """A generation of adapter candidates asked ``count`` questions each, both ways."""
    name = f"adapter, {count} questions"
    speeds = []
    for way, rows in (("one after another", count), ("a generation at once", count * candidates)):
        stage = stage_for(tokenizer, template, rows, count)
        figures = timed(engine, stage, candidates, 0, profile)
        show(found, f"{name}, {way}", figures)
        speeds.append(figures["candidates a minute"])
    found[f"{name}, times as many at once"] = round(speeds[1] / speeds[0], 2)


def show(found: dict[str, Any], name: str, figures: dict[str, Any]) -> None:
    found[name] = figures
    print(name, json.dumps(figures), file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--embedded", action="store_true")
    parser.add_argument("--queries", type=int, default=102)
    parser.add_argument("--candidates", type=int, default=6)
    parser.add_argument("--adapters-only", action="store_true", help="no full parents, no files")
    parser.add_argument("--cap-gb", type=float, help="let PyTorch have only this much of the GPU")
    parser.add_argument("--latency", type=float, default=1.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not options.embedded and not options.tokenizer:
        parser.error("give --tokenizer FOLDER, or --embedded")
    found: dict[str, Any] = {}
    (on_cpu if options.embedded else on_cuda)(options, found)
    print(json.dumps(found) if options.json else json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
