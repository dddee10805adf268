"""How long one blend takes: ours in place, mergekit to disk and loaded again, and a plain copy.

Run: ``python benchmarks/merge.py --device cpu [--mergekit]`` with the embedded model and two
perturbed copies of it, or ``python benchmarks/merge.py --random-llama-7b [--where pinned]
[--cap-gb 24]`` on CUDA with random weights that never touch a disk. ``--mergekit`` also times
mergekit's merge to disk plus ``from_pretrained``, where it is installed (7B: not offered). The
bound is a copy within one buffer's memory, times what the method has to read and write: (parents
+ 1) / 2 copies, one more parent with a base, half a one more for DARE's bytes. Ours is the median
of ``--repeats`` candidates after the first, which compiles; the tables that TIES, DARE and slerp
make once are timed apart. A few tensors are compared with the plain reference computation.

Weights are random or perturbed: nothing is said about what a merge is worth.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    import torch

METHODS = ("linear", "slerp", "task_arithmetic", "ties", "dare_ties")
PARENTS = ("one", "two")
LLAMA_7B: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "tie_word_embeddings": False,
}


class RandomTensors:
    """A parent's weights made when asked for: the base's noise, and a tenth as much of its own."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], seed: int, device: str) -> None:
        self.shapes = shapes
        self.seed = seed
        self.device = device

    def get(self, name: str) -> torch.Tensor:
        import torch

        found = self._noise(name, 0)
        if self.seed:
            found += 0.1 * self._noise(name, self.seed)
        return found.to(torch.bfloat16)

    def _noise(self, name: str, seed: int) -> torch.Tensor:
        import torch

        generator = torch.Generator(self.device).manual_seed(zlib.crc32(name.encode()) + seed)
        shape = self.shapes[name]
        return 0.02 * torch.randn(shape, generator=generator, device=self.device)


def embedded(folder: Path) -> tuple[Callable[[], Any], dict[str, Any]]:
    """A way to load the embedded model, and its perturbed copies' tensors, written to ``folder``
    for mergekit."""
    from charllm.core.catalog import EMBEDDED
    from charllm.core.merging.sources import ModelFiles
    from charllm.core.models import load_model, model_folder
    from charllm.data.config import Paths

    home = model_folder(Paths.default(), EMBEDDED)
    for seed, name in enumerate(("base", *PARENTS)):
        _perturbed(home, folder / name, seed)
    return (
        lambda: load_model(folder / "one", device="cpu"),
        {name: ModelFiles(folder / name) for name in ("base", *PARENTS)},
    )


def _perturbed(home: Path, out: Path, seed: int) -> None:
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(home, out)
    if not seed:
        return
    generator = torch.Generator().manual_seed(seed)
    file = out / "model.safetensors"
    tensors = load_file(file)
    for name, tensor in tensors.items():
        noise = torch.randn(tensor.shape, generator=generator)
        tensors[name] = (tensor.float() * (1 + 0.05 * noise)).to(tensor.dtype)
    save_file(tensors, file, metadata={"format": "pt"})


def random_7b() -> tuple[Callable[[], Any], dict[str, Any]]:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**LLAMA_7B)
    with torch.device("meta"):
        shapes = {n: tuple(p.shape) for n, p in LlamaForCausalLM(config).named_parameters()}

    def load() -> Any:
        with torch.device("meta"):
            model: Any = LlamaForCausalLM(config)
        # Nothing reads these weights before they are blended.
        return model.bfloat16().to_empty(device="cuda")

    everyone = enumerate(("base", *PARENTS))
    return load, {name: RandomTensors(shapes, seed, "cuda") for seed, name in everyone}


def coefficients(method: str, groups: list[str], number: int) -> Any:
    """Candidate ``number``: other weights in every group."""
    from charllm.core.merging.coefficients import Coefficients

    weights: dict[str, tuple[float, ...]] = {}
    for place, group in enumerate(groups):
        t = 0.2 + 0.6 * ((place * 7 + number * 3) % 11) / 11
        weights[group] = (1 - t, t)
    extra = {"density": 0.3 + 0.05 * number} if method in ("ties", "dare_ties") else {}
    return Coefficients(method, weights, extra)


def ours(
    method: str, load: Callable[[], Any], sources: dict[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    """Seconds of a blend, of getting ready, and how the result compares with the reference."""
    from charllm.core.merging.dense import DenseEngine

    base = "" if method in ("linear", "slerp") else "base"
    used = {name: sources[name] for name in ((base,) if base else ()) + PARENTS}
    started = time.perf_counter()
    engine = DenseEngine(load(), used, 4, base, options.where)
    loaded = time.perf_counter() - started
    started = time.perf_counter()
    engine.apply(coefficients(method, engine.groups, 0))
    first = time.perf_counter() - started
    seconds = []
    for number in range(1, options.repeats + 1):
        effect = engine.apply(coefficients(method, engine.groups, number))
        seconds.append(effect.seconds)
    found: dict[str, Any] = {
        "seconds": round(statistics.median(seconds), 5),
        "fastest": round(min(seconds), 5),
        "load": round(loaded, 1),
        "first, with tables and compiling": round(first, 1),
        "bound": round(bound(engine, method), 5),
        "off by more than one rounding": off(engine, method, used, options.repeats),
    }
    found["times the bound"] = round(found["seconds"] / found["bound"], 2)
    engine.close()
    return found


def bound(engine: Any, method: str) -> float:
    """Seconds of plain copies that move as much memory as the method has to."""
    import torch

    group = max(engine.groups, key=lambda name: engine.layout.blocks[name])
    live = engine._live[group]
    spare = torch.empty_like(live)
    best = float("inf")
    for _ in range(12):
        engine._wait()
        started = time.perf_counter()
        spare.copy_(live)
        engine._wait()
        best = min(best, time.perf_counter() - started)
    blocks = sum(engine.layout.blocks.values())
    parents = len(engine.parents) + bool(engine.base)
    moved = parents + 1 + (len(engine.parents) / 2 if method.startswith("dare") else 0)
    return best * blocks / live.shape[0] * moved / 2


def off(engine: Any, method: str, used: dict[str, Any], number: int) -> int | None:
    """Weights of three tensors that differ from the reference by more than a rounding of bfloat16.

    None for DARE, whose draws depend on all tensors before; the tests compare those.
    """
    import dataclasses

    import torch

    from charllm.core.merging.methods import blend_tensor
    from charllm.core.merging.written import rule_for

    if method.startswith("dare"):
        return None
    genome = coefficients(method, engine.groups, number)
    parameters = dict(engine.model.named_parameters())
    count = 0
    for name in list(engine.layout.places)[1:8:3]:
        place = engine.layout.places[name]
        rule = rule_for(genome, place.group, engine.parents, engine.base, name)
        if method == "ties":
            kept = engine.kept(genome, place.group)[name]
            entries = [rule.entries[0]]
            for entry, count_kept in zip(rule.tuned, kept, strict=True):
                density = (count_kept + 0.5) / place.size
                entries.append(dataclasses.replace(entry, density=density))
            rule = dataclasses.replace(rule, entries=tuple(entries))
        found = [used[entry.parent].get(name).cpu() for entry in rule.entries]
        wanted = blend_tensor(rule, found, torch.float32)
        mine = parameters[name].detach().float().cpu()
        unit = torch.exp2(wanted.abs().clamp(min=1e-30).log2().floor() - 7)
        count += int(((mine - wanted).abs() > unit + 1e-7).sum())
    return count


def with_mergekit(method: str, folder: Path, groups: list[Any]) -> float:
    """Seconds of mergekit's merge to disk plus loading the result."""
    import torch
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions
    from transformers import AutoModelForCausalLM

    from charllm.core.merging.written import recipe_for

    base = "" if method in ("linear", "slerp") else str(folder / "base")
    names = [name for name, _ in groups]
    parents = [str(folder / name) for name in PARENTS]
    recipe = recipe_for(coefficients(method, names, 1), parents, groups, base)
    data = recipe.model_copy(update={"dtype": "bfloat16", "out_dtype": None})
    config = MergeConfiguration.model_validate(data.model_dump(mode="json", exclude_none=True))
    options = MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True)
    out = folder / "merged"
    started = time.perf_counter()
    run_merge(config, str(out), options)
    AutoModelForCausalLM.from_pretrained(out, dtype=torch.bfloat16)
    return round(time.perf_counter() - started, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--random-llama-7b", action="store_true")
    parser.add_argument("--where", default="device", choices=("device", "pinned", "mapped"))
    parser.add_argument("--cap-gb", type=float, help="let PyTorch have only this much of the GPU")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--mergekit", action="store_true", help="also time mergekit")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    import torch

    if options.device == "cpu" and not options.random_llama_7b:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if options.cap_gb:
        whole = torch.cuda.mem_get_info()[1] / 1e9
        torch.cuda.set_per_process_memory_fraction(min(1.0, options.cap_gb / whole))
    found: dict[str, Any] = {"where": options.where, "cap_gb": options.cap_gb}
    with tempfile.TemporaryDirectory() as scratch:
        load, sources = random_7b() if options.random_llama_7b else embedded(Path(scratch))
        for method in options.methods:
            found[method] = ours(method, load, sources, options)
            print(method, found[method], file=sys.stderr, flush=True)
        if options.random_llama_7b:
            found["gpu"] = torch.cuda.get_device_name()
            found["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 1)
        elif options.mergekit and importlib.util.find_spec("mergekit") is None:
            found["mergekit"] = "not installed: compared with the copy bound only"
        elif options.mergekit:
            from charllm.core.merging.coefficients import layer_groups

            groups = layer_groups(load().config.get_text_config().num_hidden_layers, 4)
            for method in options.methods:
                found[method]["mergekit"] = with_mergekit(method, Path(scratch), groups)
    print(json.dumps(found, ensure_ascii=False, indent=None if options.json else 1))


if __name__ == "__main__":
    main()
