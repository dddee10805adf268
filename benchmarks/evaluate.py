"""An evaluation's replies, ours in batches against a loop of ``generate`` calls one at a time.

Run: ``python benchmarks/evaluate.py [--queries 102] [--tokens 64] [--rows 0] [--json]`` for the
embedded model: four variants (base, RAG, an adapter, the adapter with RAG) × the queries, greedy,
in fp32. Both sides get the same prompts and stop at the same tokens; the loop has the adapter
merged into the weights beforehand, which is its fastest form. Tokens are compared one by one.
``--rescore 10000`` instead scores so many kept replies with gate and style, and
``--open 20000`` reads and reports an evaluation of so many replies.
It does not measure retrieval, and judging only in ``--rescore``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

ADAPTER = "ayane-a"


def planned(paths: Any, queries: int, tokens: int, rows: int, folder: Path) -> Any:
    """The plan of the shipped matrix on the first so many queries of all splits."""
    from charllm.core.evaluation.evaluate_config import EvaluateConfig
    from charllm.core.evaluation.planned import open_plan
    from charllm.core.generation import GenerationPreset
    from charllm.data.progress import Silent

    config = EvaluateConfig(
        name="benchmark",
        profile="ayane",
        variants=("base", "rag", ADAPTER, f"{ADAPTER}-rag"),
        splits=(),
        preset=GenerationPreset(max_new_tokens=tokens, repetition_guard=False),
        rows=rows,
        judges=(),
    )
    plan = open_plan(config, paths, folder, Silent())
    return replace(plan, queries=plan.queries[:queries])


def in_fp32(resident: Any) -> Any:
    """Rounding in 16 bits differs between the shapes of two batches; in 32 it decides no token."""
    resident.model.float()
    return resident


def together(paths: Any, plan: Any, folder: Path) -> tuple[float, dict[str, list[int]]]:
    """Seconds for all replies through the product's own code, and each reply's tokens."""
    from charllm.core.evaluation import replies
    from charllm.data.progress import Silent

    resident = in_fp32(replies.Resident(paths, plan.variants[0].model))
    written: dict[str, list[int]] = {}
    decode = replies.generate_all

    def noted(model: Any, tokenizer: Any, requests: Any, space: Any = None) -> Any:
        done = decode(model, tokenizer, requests, space)
        written.update({one.column: one.token_ids for one in done})
        return done

    loaded, replies.Resident = replies.Resident, lambda *_: resident  # type: ignore[misc,assignment]
    replies.generate_all = noted
    try:
        start = time.perf_counter()
        replies.generate_replies(plan.asking, paths, folder, Silent())
        seconds = time.perf_counter() - start
    finally:
        replies.Resident, replies.generate_all = loaded, decode  # type: ignore[misc]
    return seconds, written


def one_at_a_time(paths: Any, plan: Any) -> tuple[float, dict[str, list[int]]]:
    """The same replies by ``generate``, variant after variant."""
    import torch

    sys.path.insert(0, str(Path(__file__).parent))
    from chat import merged_into_base

    from charllm.core.replying import Resident, prepare

    resident = in_fp32(Resident(paths, plan.variants[0].model))
    asking, seconds = plan.asking, 0.0
    written: dict[str, list[int]] = {}
    for variant in plan.variants:
        resident.row(variant)  # loads its adapter
        weights = {variant.checkpoint: 1.0} if variant.checkpoint else {}
        with merged_into_base(resident.adapters, weights):
            for task in asking.tasks([variant]):
                query = next(one for one in plan.queries if one.id == task.query)
                hits = asking.facts.get(task.query, ())
                made = prepare(
                    *(resident, plan.profile, variant, query.text, hits),
                    asking.settings_for(task),
                    column=task.key,
                ).request
                ids = torch.tensor([made.prompt_ids], device=resident.model.device)
                start = time.perf_counter()
                out = resident.model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=made.preset.max_new_tokens,
                    do_sample=False,
                    eos_token_id=sorted(made.end_ids),
                    pad_token_id=0,
                )
                seconds += time.perf_counter() - start
                written[task.key] = cut(out[0, ids.shape[1] :].tolist(), made, resident.tokenizer)
    return seconds, written


def cut(tokens: list[int], request: Any, tokenizer: Any) -> list[int]:
    """Without the end token, and as far as the reply goes before a stop string."""
    from charllm.core.decoding_text import TextStream

    stream, kept = TextStream(tokenizer, request.stop_strings), []
    for token in tokens:
        if token in request.end_ids:
            break
        kept.append(token)
        stream.push(token)
        if stream.stopped:
            break
    return kept


def speed(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    from charllm.data.config import Paths

    paths = Paths.default()
    with tempfile.TemporaryDirectory() as scratch:
        plan = planned(paths, args.queries, args.tokens, args.rows, Path(scratch))
        ours, batched = together(paths, plan, Path(scratch))
    theirs, single = one_at_a_time(paths, plan)
    same = sum(batched[key] == tokens for key, tokens in single.items())
    return {
        "replies": len(batched),
        "tokens": sum(map(len, batched.values())),
        "threads": torch.get_num_threads(),
        "together_s": round(ours, 2),
        "one_at_a_time_s": round(theirs, 2),
        "times_faster": round(theirs / ours, 2),
        "same_tokens": f"{same} of {len(single)}",
        "aim": "times_faster >= 4, all tokens the same",
    }


def made_up(plan: Any, count: int) -> list[Any]:
    """So many replies for a plan: the character's own lines, each with its number behind it."""
    from charllm.core.evaluation.reply_records import Reply
    from charllm.data.dialogue import load_dialogues

    lines = [one.reply for one in load_dialogues(ROOT / "datasets" / "ayane.jsonl")]
    repeats = -(-count // (len(plan.variants) * len(plan.queries)))
    tasks = replace(plan.asking, repeats=repeats).tasks(plan.variants)[:count]
    return [
        Reply(
            *(task.variant, task.query, task.repeat),
            text=f"{lines[n % len(lines)]}{n}ですわ。",
            stop_reason="end",
            prompt="質問" * 100,
            facts=(),
            weights="weights",
        )
        for n, task in enumerate(tasks)
    ]


def rescore(count: int) -> dict[str, Any]:
    from charllm.core.evaluation.scoring_replies import score_again
    from charllm.core.judging.score import style_scorer
    from charllm.data.config import Paths

    paths = Paths.default()
    with tempfile.TemporaryDirectory() as scratch:
        plan = planned(paths, 252, 8, 0, Path(scratch))
    kept = made_up(plan, count)
    start = time.perf_counter()
    scorer = style_scorer(paths, plan.profile)
    fitted = time.perf_counter() - start
    rows = score_again(kept, plan.queries, scorer)
    seconds = time.perf_counter() - start
    return {
        "replies": len(rows),
        "gated": sum(row.gated for row in rows),
        "fitting_s": round(fitted, 2),
        "seconds": round(seconds, 2),
        "aim": "seconds < 10 for 10,000",
    }


def reading(count: int) -> dict[str, Any]:
    from charllm.core.evaluation.kept_lines import append_lines
    from charllm.core.evaluation.reply_records import REPLIES, read_replies
    from charllm.core.evaluation.report import as_json, read_evaluation
    from charllm.data.config import Paths

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        plan = planned(Paths.default(), 252, 8, 0, folder)
        append_lines(folder / REPLIES, [one.as_json() for one in made_up(plan, count)])
        start = time.perf_counter()
        read_replies(folder)
        read = time.perf_counter() - start
        start = time.perf_counter()
        as_json(read_evaluation(folder))
        return {
            "replies": count,
            "reading_s": round(read, 2),
            "all_figures_s": round(time.perf_counter() - start, 2),
        }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=102)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rows", type=int, default=0, help="replies at once, 0: the device's")
    parser.add_argument("--rescore", type=int, default=0, metavar="N")
    parser.add_argument("--open", type=int, default=0, metavar="N")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if args.rescore:
        result = rescore(args.rescore)
    else:
        result = reading(args.open) if args.open else speed(args)
    if args.json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        print(f"{key:20} {value}")


if __name__ == "__main__":
    main()
