"""Four columns decoded together against four ``generate`` calls, one after another.

Run: ``python benchmarks/chat.py [--tokens 48] [--runs 3] [--json]`` for the embedded model with
the adapters in ``checkpoints/`` (random ones where there are none), or
``python benchmarks/chat.py --random-llama-7b`` for random Llama-2-7B weights in bf16 on CUDA.

The columns are the base, the base with facts in its prompt, an adapter, and a merge of two
adapters with facts. Both sides run the same weights in one process and make the same number of
tokens; ``generate`` gets them merged into the base beforehand, which is its fastest form. Every
run asks another question. The first token of the slowest column is compared with a single call's
first token, for the first question of a chat (cold) and for a later one, whose system prompt is
still encoded from the question before (warm); the total with the four calls together, cold.
It does not measure retrieval or scoring.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SYSTEM = (
    "あなたは育ちの良いお嬢様です。一人称は「わたくし」、語尾は「ですわ」「ますわ」などを使い、"
    "上品な口調で、30文字ほどで答えてください。"
)
BEFORE_FACTS = "次の情報を参考にしてください。"
ASKED = (
    (
        "好きな食べ物は何ですか？",
        "・紅茶と焼き菓子が好きで、毎週日曜に自分で焼く。",
        "・辛いものが苦手で、カレーは甘口しか食べられない。",
        "・祖父の畑で採れた野菜を食べて育った。",
    ),
    (
        "休みの日は、どこへお出かけしますか？",
        "・休日は劇場へミュージカルを観に行く。",
        "・幼いころから続けているヴァイオリンを弾く。",
        "・祖父と長野で暮らしたことがある。",
    ),
    (
        "ご家族について教えてください。",
        "・両親は不動産の会社を営んでいる。",
        "・兄はアメリカの大学に留学している。",
        "・祖父は長野で暮らしている。",
    ),
    (
        "将来の夢はありますか？",
        "・ミュージカルの舞台に立つことを夢見ている。",
        "・夢のことはまだ両親に打ち明けていない。",
        "・高校三年生で、進路に迷っている。",
    ),
)
COLUMNS = ("base", "rag", "adapter", "merged")


class Stamps:
    """A streamer that only notes when tokens come: the prompt first, then one at a time."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, _: Any) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def random_adapter(model: Any, folder: Path, seed: int, rank: int = 16) -> None:
    """A peft folder with random weights on all linear layers, about 1 % of the base's weights."""
    import torch
    from safetensors.torch import save_file

    random = torch.Generator().manual_seed(seed)
    tensors, names = {}, set()
    for path, module in model.model.named_modules():
        if isinstance(module, torch.nn.Linear):
            names.add(path.rpartition(".")[2])
            prefix = f"base_model.model.model.{path}"
            down = torch.randn(rank, module.in_features, generator=random)
            up = torch.randn(module.out_features, rank, generator=random)
            scale = float(module.weight.detach().float().std()) * 0.01
            tensors[f"{prefix}.lora_A.weight"] = (down / rank**0.5).to(torch.bfloat16)
            tensors[f"{prefix}.lora_B.weight"] = (up * scale).to(torch.bfloat16)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": sorted(names)}
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))


@contextmanager
def merged_into_base(engine: Any, weights: dict[str, float]) -> Iterator[None]:
    """The base's own weights with the adapters added, for as long as the block runs."""
    from charllm.core.merging.lora_files import read_lora

    kept: dict[str, Any] = {}
    for name, weight in weights.items():
        for path, (down, up, scale) in read_lora(engine.folder(name)).pairs.items():
            parameter = engine.model.get_submodule(path).weight.data
            kept.setdefault(path, parameter.clone())
            device = parameter.device
            delta = up.to(device).float() @ down.to(device).float()
            parameter.copy_(parameter.float() + weight * scale * delta)
    try:
        yield
    finally:
        for path, value in kept.items():
            engine.model.get_submodule(path).weight.data.copy_(value)


def one_after_another(
    engine: Any, prompts: Sequence[list[int]], rows: Sequence[dict[str, float]], tokens: int
) -> dict[str, Any]:
    """Seconds to the first token and in total of each ``generate`` call, and what it wrote."""
    import torch

    first, total, written = [], [], []
    for prompt, weights in zip(prompts, rows, strict=True):
        with merged_into_base(engine, weights):
            ids = torch.tensor([prompt], device=engine.model.device)
            stamps = Stamps()
            _wait()
            start = time.perf_counter()
            out = engine.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                num_beams=1,
                pad_token_id=0,
                streamer=stamps,
            )
            _wait()
            total.append(time.perf_counter() - start)
            first.append(stamps.times[1] - start)
            written.append(out[0, len(prompt) :].tolist())
    return {"first": first, "total": total, "written": written}


def together(
    engine: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    rows: Sequence[dict[str, float]],
    tokens: int,
) -> dict[str, Any]:
    """The same for the four columns in one batch."""
    from charllm.core.generation import GenerationPreset, Request, generate_all

    preset = GenerationPreset(max_new_tokens=tokens, repetition_guard=False)
    requests = [
        Request(name, prompt, engine.row(weights) if weights else None, preset)
        for name, prompt, weights in zip(COLUMNS, prompts, rows, strict=True)
    ]
    _wait()
    start = time.perf_counter()
    replies = generate_all(engine, tokenizer, requests)
    _wait()
    total = time.perf_counter() - start
    return {
        "first": [reply.first_token_seconds for reply in replies],
        "total": total,
        "written": [reply.token_ids for reply in replies],
    }


def _wait() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure(
    engine: Any, tokenizer: Any, asked: Sequence[list[list[int]]], names: list[str], args: Any
) -> dict[str, Any]:
    """Medians over ``args.runs`` runs, the two sides taking turns, after one warm-up of each."""
    rows: list[dict[str, float]] = [{}, {}, {names[0]: 1.0}, {names[0]: 0.5, names[1]: 0.5}]
    singles, colds, warms = [], [], []
    for run in range(args.runs + 1):
        prompts = asked[run % len(asked)]
        single = one_after_another(engine, prompts, rows, args.tokens)
        engine.memory.clear()
        cold = together(engine, tokenizer, prompts, rows, args.tokens)
        engine.memory.clear()
        together(engine, tokenizer, asked[(run + 1) % len(asked)], rows, 1)
        warm = together(engine, tokenizer, prompts, rows, args.tokens)
        if run:
            singles.append(single)
            colds.append(cold)
            warms.append(warm)
    median = statistics.median
    call = median(statistics.mean(s["first"]) for s in singles)
    longest = median(max(s["first"]) for s in singles)
    first = {n: median(max(b["first"]) for b in r) for n, r in (("cold", colds), ("warm", warms))}
    four, total = median(sum(s["total"]) for s in singles), median(b["total"] for b in colds)
    pairs = [
        zip(s["written"], b["written"], strict=True) for s, b in zip(singles, colds, strict=True)
    ]
    result = {
        "columns": len(rows),
        "prompt_tokens": [len(prompt) for prompt in asked[0]],
        "tokens": args.tokens,
        "runs": args.runs,
        "four_calls_s": four,
        "together_s": total,
        "total_ratio": total / four,
        "single_first_token_s": call,
    }
    for name, seconds in first.items():
        result[f"first_token_{name}_s"] = seconds
        result[f"first_token_{name}_ratio"] = seconds / call
        result[f"first_token_{name}_ratio_to_longest_prompt"] = seconds / longest
        result[f"first_token_{name}_ratio_to_whole_call"] = seconds / (four / len(rows))
    result["same_tokens"] = sum(a == b for pair in pairs for a, b in pair)
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in result.items()}


def japanese_prompts(tokenizer: Any) -> list[list[list[int]]]:
    """For each question the prompts of the four columns."""
    asked = []
    for question, *facts in ASKED:
        end = f"\n質問：{question}\n回答："
        plain = tokenizer(SYSTEM + end)["input_ids"]
        rag = tokenizer("\n".join([SYSTEM + BEFORE_FACTS, *facts]) + end)["input_ids"]
        asked.append([plain, rag, plain, rag])
    return asked


def random_prompts() -> list[list[list[int]]]:
    """Ids in the lengths of the study's prompts in Llama 2's vocabulary."""
    import torch

    random = torch.Generator().manual_seed(0)

    def ids(count: int) -> list[int]:
        return torch.randint(3, 32000, (count,), generator=random).tolist()

    system = ids(100)
    asked = []
    for _ in range(4):
        question, facts = ids(24), ids(110)
        asked.append([system + question, system + facts + question] * 2)
    return asked


def embedded() -> tuple[Any, Any]:
    from charllm.core.catalog import EMBEDDED
    from charllm.core.models import load_model, load_tokenizer, model_folder
    from charllm.data.config import Paths

    folder = model_folder(Paths.default(), EMBEDDED)
    return load_model(folder), load_tokenizer(folder)


def random_llama() -> tuple[Any, Any]:
    """Llama-2-7B's shape with random weights made on the GPU, and a tokenizer that only counts."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=32000)  # the other defaults are those of the 7B model
    with torch.device("meta"):
        model: Any = LlamaForCausalLM(config)
    model = model.to(torch.bfloat16).to_empty(device="cuda")
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.ones_(parameter)
        else:
            torch.nn.init.normal_(parameter, std=0.02)
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config).to("cuda")
    model.generation_config.eos_token_id = None
    return model.eval(), None


class Ids:
    """Stands in for a tokenizer where the model's words mean nothing: ids as numbers."""

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return "".join(f"{i} " for i in ids)


def shipped_adapters(engine: Any) -> list[str]:
    """Two adapters from ``checkpoints/``, loaded; [] where it has fewer."""
    folders = sorted(f.parent for f in (ROOT / "checkpoints").glob("*/adapter_model.safetensors"))
    for folder in folders[:2]:
        engine.load(folder.name, folder)
    return [folder.name for folder in folders[:2]] if len(folders) > 1 else []


def run(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    from charllm.core.merging.adapters import AdapterModel

    model, tokenizer = random_llama() if args.random_llama_7b else embedded()
    model.generation_config.eos_token_id = None  # both sides make the same number of tokens
    engine = AdapterModel(model, remember_tokens=2048)
    names = [] if args.random_llama_7b else shipped_adapters(engine)
    with tempfile.TemporaryDirectory() as scratch:
        if not names:
            names = ["random-a", "random-b"]
            for seed, name in enumerate(names):
                random_adapter(model, Path(scratch) / name, seed)
                engine.load(name, Path(scratch) / name)
        asked = japanese_prompts(tokenizer) if tokenizer else random_prompts()
        result = measure(engine, tokenizer or Ids(), asked, names, args)
    name = "random-llama-7b" if args.random_llama_7b else "gemma-3-270m"
    device = torch.cuda.get_device_name() if model.device.type == "cuda" else "cpu"
    return {"model": name, "device": device, "threads": torch.get_num_threads(), **result}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--random-llama-7b", action="store_true", help="needs CUDA, 20 GB")
    result = run(args := parser.parse_args())
    if args.json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        print(f"{key:40} {value}")
    print("aims: total_ratio <= 0.5, first_token_warm_ratio <= 1.5")


if __name__ == "__main__":
    main()
