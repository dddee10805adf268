"""An evaluation as logs of Inspect (UK AI Security Institute), which ``inspect view`` opens.

Inspect's log is one task by one model, so each variant has a log of its own. Written from its
documented form, version 2 (https://inspect.aisi.org.uk/eval-logs.html): ``.json`` is the log as one
JSON value, ``.eval`` a ZIP of the same parts. The package itself is not needed. An unscored reply
has the value NaN with its reason, as Inspect writes it; a reply that is not judged yet has none.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import charllm
from charllm.core.evaluation.comparison import Summary
from charllm.core.evaluation.planned import PLAN
from charllm.core.evaluation.reply_records import REPLIES, Reply
from charllm.core.evaluation.report import ByJudge, Evaluation, read_evaluation, told
from charllm.core.judging.records import Record
from charllm.core.variants import Variant
from charllm.data.errors import UserError
from charllm.data.files import sha256, write_bytes
from charllm.data.queries import Query

VERSION = 2
SUFFIXES = (".eval", ".json")
STOPS = {"end": "stop", "stop_string": "stop", "length": "max_tokens"}
"""Our reasons why a reply ended in Inspect's words; it has none for a loop."""

Json = dict[str, Any]


def write_inspect(folder: Path, target: Path, variants: Sequence[str] = ()) -> list[Path]:
    """The logs of an evaluation's folder; the files written.

    One variant goes to ``target``, each of several to a file named after both. ``UserError`` for
    another suffix, a variant that the run does not have, or a run that has not begun.
    """
    if target.suffix not in SUFFIXES:
        raise UserError(
            f"{target}: a log ends in .eval or .json.",
            f"{target}: ログの拡張子は .eval か .json にしてください。",
        )
    evaluation = read_evaluation(folder)
    chosen = _chosen(evaluation, variants)
    written = []
    for variant in chosen:
        name = re.sub(r"[^\w.-]+", "-", variant.name)
        path = target.with_stem(f"{target.stem}-{name}") if len(chosen) > 1 else target
        log = inspect_log(folder, evaluation, variant)
        data = _zipped(log) if path.suffix == ".eval" else _encoded(log)
        write_bytes(path, data)
        written.append(path)
    return written


def inspect_log(folder: Path, evaluation: Evaluation, variant: Variant) -> Json:
    """The log of one variant as one JSON value."""
    replies = [reply for reply in evaluation.replies if reply.variant == variant.name]
    began, ended = (_time(folder / name) for name in (PLAN, REPLIES))
    complete = evaluation.complete
    return {
        "version": VERSION,
        "status": "success" if complete else "cancelled",
        "eval": _spec(folder, evaluation, variant, began),
        "plan": _plan(evaluation),
        "results": _results(evaluation, variant, replies),
        "stats": {
            "started_at": began,
            "completed_at": ended,
            "model_usage": {_model(variant): _usage(replies)},
        },
        "samples": list(_samples(evaluation, variant, replies)),
    }


def _chosen(evaluation: Evaluation, names: Sequence[str]) -> list[Variant]:
    known = {variant.name: variant for variant in evaluation.planned.variants}
    if missing := [name for name in names if name not in known]:
        all_ = ", ".join(known)
        raise UserError(
            f"This evaluation has no variant {missing[0]!r}. It has: {all_}.",
            f"この評価にバリアント「{missing[0]}」はありません。あるもの: {all_}。",
        )
    return [known[name] for name in dict.fromkeys(names)] or list(known.values())


def _spec(folder: Path, evaluation: Evaluation, variant: Variant, began: str) -> Json:
    planned, config = evaluation.planned, evaluation.planned.config
    return {
        "eval_id": sha256(f"{folder.name} {variant.name}".encode())[:22],
        "run_id": folder.name,
        "task_id": sha256(folder.name.encode())[:22],
        "created": began,
        "task": config.name,
        "task_version": 0,
        "task_args": {"profile": config.profile, "splits": list(config.splits)},
        "dataset": {
            "name": config.queries or config.profile,
            "samples": len(planned.queries),
            "sample_ids": [query.id for query in planned.queries],
            "shuffled": False,
        },
        "model": _model(variant),
        "model_generate_config": _generating(evaluation),
        "config": {"epochs": config.repeats},
        "packages": {"charllm": charllm.__version__},
        "metadata": {
            "variant": variant.model_dump(mode="json"),
            "weights": next(
                (r.weights for r in evaluation.replies if r.variant == variant.name), ""
            ),
            "told": [text.en for text in told(evaluation)],
        },
    }


def _plan(evaluation: Evaluation) -> Json:
    preset = evaluation.planned.config.preset.model_dump(mode="json")
    return {
        "name": "charllm",
        "steps": [{"solver": "charllm/reply", "params": {"preset": preset}}],
        "config": _generating(evaluation),
    }


def _generating(evaluation: Evaluation) -> Json:
    config = evaluation.planned.config
    preset = config.preset
    return {
        "temperature": preset.temperature,
        "top_p": preset.top_p,
        "max_tokens": preset.max_new_tokens,
        "seed": config.seed,
    }


def _results(evaluation: Evaluation, variant: Variant, replies: Sequence[Reply]) -> Json:
    """Our figures: means and intervals over queries, not Inspect's own over samples."""
    scores = []
    for judge in evaluation.judges:
        summaries = judge.comparison.summaries if judge.comparison else ()
        scores += [_figures(judge, one) for one in summaries if one.variant == variant.name]
    planned = evaluation.planned
    return {
        "total_samples": len(planned.queries) * planned.config.repeats,
        "completed_samples": sum(reply.failed is None for reply in replies),
        "scores": scores,
    }


def _figures(judge: ByJudge, summary: Summary) -> Json:
    mean = summary.mean
    metrics = {"mean": mean.value, "ci95_low": mean.low, "ci95_high": mean.high}
    metrics |= {"queries": summary.queries, "gated": summary.gated}
    return {
        "name": _scorer(judge),
        "scorer": _scorer(judge),
        "scored_samples": summary.scored,
        "unscored_samples": summary.unscored,
        "params": {"scale": list(judge.judged.scale), "version": judge.judged.ruler.version},
        "metrics": {
            name: {"name": name, "value": value}
            for name, value in metrics.items()
            if value is not None
        },
        "metadata": {"quality": dict(judge.judged.mark), "waiting": judge.waiting},
    }


def _samples(evaluation: Evaluation, variant: Variant, replies: Sequence[Reply]) -> Iterator[Json]:
    queries = {query.id: query for query in evaluation.planned.queries}
    verdicts = {_scorer(judge): _by_item(judge) for judge in evaluation.judges}
    place = {query: n for n, query in enumerate(queries)}
    for reply in sorted(replies, key=lambda one: (place[one.query], one.repeat)):
        scores = {
            name: _score(reply, found)
            for name, of in verdicts.items()
            if (found := of.get(reply.task.key))
        }
        yield _sample(reply, queries[reply.query], _model(variant), scores)


def _sample(reply: Reply, query: Query, model: str, scores: Json) -> Json:
    usage = _usage([reply])
    answer = {"role": "assistant", "content": reply.text, "source": "generate", "model": model}
    sample = {
        "id": reply.query,
        "epoch": reply.repeat + 1,
        "input": query.text,
        "target": list(query.gold),
        "messages": [{"role": "user", "content": reply.prompt, "source": "input"}, answer],
        "output": {
            "model": model,
            "choices": [
                {"message": answer, "stop_reason": STOPS.get(reply.stop_reason, "unknown")}
            ],
            "completion": reply.text,
            "usage": usage,
            "time": reply.seconds,
        },
        "scores": scores,
        "metadata": {
            "split": query.split,
            "tags": list(query.tags),
            "facts": [dict(fact) for fact in reply.facts],
            "weights": reply.weights,
            "stop_reason": reply.stop_reason,
            "seed": str(reply.seed),  # beyond what a browser's numbers hold
        },
        "model_usage": {model: usage},
    }
    if reply.failed is not None:
        words = reply.failed.en
        sample["error"] = {"message": words, "traceback": words, "traceback_ansi": words}
    return sample


def _score(reply: Reply, records: Sequence[Record]) -> Json:
    """The mean of a judge's samples on one reply, as in our tables."""
    known = [record.score for record in records if record.score is not None]
    reasons = [record.unscored.en for record in records if record.unscored]
    said = [record.rationale for record in records if record.rationale]
    score: Json = {
        "value": sum(known) / len(known) if known else float("nan"),
        "answer": reply.text,
        "explanation": "\n\n".join([*said, *reasons]),
        "metadata": {
            "samples": [record.score for record in records],
            "gate": list(records[0].gate),
            "parts": dict(records[0].parts),
            "flaws": [flaw for record in records for flaw in record.flaws],
        },
    }
    return score if known else {**score, "reason": "grader_failed"}


def _by_item(judge: ByJudge) -> dict[str, list[Record]]:
    """The latest verdict of every sample, by the reply's key."""
    latest: dict[str, dict[int, Record]] = {}
    for record in judge.judged.records:
        latest.setdefault(record.item, {})[record.sample] = record
    return {item: list(of.values()) for item, of in latest.items()}


def _scorer(judge: ByJudge) -> str:
    return " ".join(judge.judged.ruler[:2])


def _model(variant: Variant) -> str:
    return f"charllm/{variant.name}"


def _usage(replies: Sequence[Reply]) -> Json:
    tokens_in = sum(reply.prompt_tokens or 0 for reply in replies)
    tokens_out = sum(reply.tokens or 0 for reply in replies)
    return {
        "input_tokens": tokens_in,
        "output_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
    }


def _time(path: Path) -> str:
    """When a file was last written, "" where there is none."""
    if not path.exists():
        return ""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")


def _encoded(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _zipped(log: Json) -> bytes:
    """The parts of an ``.eval`` file: header, summaries for the list, a file a sample."""
    header = {name: value for name, value in log.items() if name != "samples"}
    start = {"version": log["version"], "eval": log["eval"], "plan": log["plan"]}
    parts: dict[str, Any] = {"_journal/start.json": start}
    parts |= {f"samples/{s['id']}_epoch_{s['epoch']}.json": s for s in log["samples"]}
    parts |= {"summaries.json": [_summary(s) for s in log["samples"]], "header.json": header}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, value in parts.items():
            file.writestr(name, _encoded(value))
    return out.getvalue()


def _summary(sample: Mapping[str, Any]) -> Json:
    """What the list of samples shows."""
    kept = ("id", "epoch", "input", "target", "scores", "model_usage")
    summary = {name: sample[name] for name in kept}
    if "error" in sample:
        summary["error"] = sample["error"]["message"]
    return {**summary, "completed": True, "message_count": len(sample["messages"])}
