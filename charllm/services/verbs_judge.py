"""What the judging verbs do: judge, rubrics, quality, filter, publish, judgements, agreement."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charllm.data.config import Paths, load_yaml
from charllm.data.errors import UserError, current_language
from charllm.services.following import run_kind
from charllm.services.runs import find_run
from charllm.services.verbs import recipe_path

if TYPE_CHECKING:
    from charllm.core.judging.judges import JudgeConfig


def judge(paths: Paths, options: Namespace) -> Iterator[dict[str, Any]]:
    """The rows as they are judged; one that is wrong is named before a model is asked."""
    from charllm.core.judging.score import judge_rows
    from charllm.data.files import json_lines

    rows = [row for _, row in json_lines(Path(options.file))]
    config = judge_config(options)
    if config.kind == "embedded":
        return judge_rows(paths, options.profile, rows)
    return _judge_by_model(paths, options.profile, config, rows)


def _judge_by_model(
    paths: Paths, slug: str, config: JudgeConfig, rows: list[Any]
) -> Iterator[dict[str, Any]]:
    from charllm.core.judging.judges import open_judge
    from charllm.core.judging.records import Item
    from charllm.core.judging.score import check_row
    from charllm.data.profile import load_profile

    items = []
    for number, row in enumerate(rows, 1):
        query, reply, stop_reason = check_row(row, number)
        gold = tuple(map(str, row.get("gold") or ()))
        items.append(Item(str(number), query, reply, stop_reason, gold=gold))
    opened = open_judge(paths, load_profile(paths, slug), config)
    try:
        for record in opened.judge(items, lambda: False):
            yield {
                "id": rows[int(record.item) - 1].get("id", int(record.item)),
                "sample": record.sample,
                "score": record.score,
                "gate": list(record.gate),
                "parts": dict(record.parts),
                "unscored_reason": record.unscored.en if record.unscored else None,
                "judge": record.judge,
                "rubric": record.rubric,
                "version": record.version,
                "rationale": record.rationale,
                "flaws": list(record.flaws),
            }
    finally:
        opened.close()


def judge_config(options: Namespace) -> JudgeConfig:
    """The judge that the options describe: a file's settings, overruled one by one."""
    from charllm.core.judging.judges import JudgeConfig

    data = load_yaml(Path(options.judge)) if options.judge else {}
    if not isinstance(data, dict):
        raise UserError(
            f"{options.judge} is not a table of settings.",
            f"{options.judge} が設定の表になっていません。",
        )
    given = {
        "rubric": options.rubric,
        "model": options.model,
        "base_url": options.base_url,
        "samples": options.samples,
    }
    data = {**data, **{key: value for key, value in given.items() if value}}
    if options.local:
        data["kind"] = "local"
    elif (options.model or options.base_url) and "kind" not in data:
        data["kind"] = "endpoint"
    return JudgeConfig.from_data(data, options.judge or "the judge's options")


def rubrics(paths: Paths, options: Namespace) -> Any:
    from charllm.core.judging.rubric import list_rubrics, load_rubric

    language = current_language()
    found = [load_rubric(paths, name) for name in list_rubrics(paths)]
    return [
        {"rubric": r.name, "version": r.version, "label": r.label.text.in_(language)} for r in found
    ]


def quality(paths: Paths, options: Namespace) -> Any:
    config = {"profile": options.profile, "judge": judge_config(options).model_dump(mode="json")}
    return run_kind(paths, "quality", config)


def filter_(paths: Paths, options: Namespace) -> Any:
    path = recipe_path(paths, options.config)
    data = load_yaml(path)
    if not options.quote:
        return run_kind(paths, "filter", data, name=path.stem, where=str(path))
    from dataclasses import asdict

    from charllm.core.filtering import FilterConfig
    from charllm.services.filtering import quote_filter

    quote, mark = quote_filter(paths, FilterConfig.from_data(data, str(path)))
    note = quote.note.in_(current_language()) if quote.note else None
    shown = {**asdict(quote), "note": note}
    return {**shown, "quality": mark.text.in_(current_language()) if mark else None}


def publish(paths: Paths, options: Namespace) -> Any:
    from charllm.services import filtering

    run = find_run(paths, options.run)
    return filtering.publish(
        paths, run, options.out, threshold=options.threshold, unscored=options.unscored
    )


def judgements_import(paths: Paths, options: Namespace) -> Any:
    from charllm.data.profile import load_profile
    from charllm.services.judged_files import read_verdicts, store_verdicts
    from charllm.services.store import Store

    load_profile(paths, options.profile)
    found = read_verdicts(paths, options.profile, Path(options.file), options.name)
    store = Store(paths)
    try:
        new = store_verdicts(store, found)
    finally:
        store.close()
    language = current_language()
    return {
        "judges": found.judges,
        "rows": len(found.judgements),
        "new": new,
        "rejected": [{"line": r.line, "reason": r.reason.in_(language)} for r in found.rejected],
    }


def judgements_export(paths: Paths, options: Namespace) -> Any:
    from charllm.data.files import write_text
    from charllm.services.judged import summary, summary_csv
    from charllm.services.judged_files import export_jsonl
    from charllm.services.store import Store

    target = Path(options.to)
    store = Store(paths)
    try:
        if target.suffix.lower() == ".csv":
            text = summary_csv(summary(store, options.profile))
        else:
            text = export_jsonl(store, options.profile)
    finally:
        store.close()
    write_text(target, text)
    return {"file": str(target), "lines": text.count("\n")}


def agreement(paths: Paths, options: Namespace) -> Any:
    """One row for each judge and rubric version that has scored what people have."""
    from charllm.services.desk import agreements
    from charllm.services.store import Store

    store = Store(paths)
    try:
        return [row.as_json() for row in agreements(store, options.profile, options.source or None)]
    finally:
        store.close()
