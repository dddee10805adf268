"""The filter run: judged rows in its folder and in the store, and the datasets made of them.

``records.jsonl`` of the run folder is the truth: a record is written there before anything else is
done with it, so a killed run goes on where it was, and whatever the judge was paid for is kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from charllm.core.filtering import (
    Budget,
    FilterConfig,
    Row,
    Unscored,
    judge_all,
    rows_of,
    split_dialogues,
)
from charllm.core.judging.judges import open_judge
from charllm.core.judging.quality import Mark, mark_of, require
from charllm.core.judging.records import Item, Judge, Quote, Record
from charllm.core.topics import topics
from charllm.data import collection
from charllm.data.config import Paths
from charllm.data.dataset_card import DatasetCard, Filtered
from charllm.data.dialogue import Dialogue
from charllm.data.errors import UserError
from charllm.data.files import json_lines, read_json, write_json, write_json_lines
from charllm.data.profile import load_profile
from charllm.data.progress import Paused, Reporter, Stopped
from charllm.services import judged
from charllm.services.runs import Run
from charllm.services.store import Store

RECORDS = "records.jsonl"
BUDGET = "budget.json"
DIALOGUES = "dialogues.jsonl"
QUALITY = "quality.json"
KEPT_AT_ONCE = 50
"""So many records go to the store in one transaction."""


def quote_filter(paths: Paths, config: FilterConfig) -> tuple[Quote, Mark | None]:
    """What the run will take, and how the judge has done in its quality check (None: never)."""
    profile = load_profile(paths, config.profile)
    judge = open_judge(paths, profile, config.judge)
    try:
        mark = mark_of(paths, config.profile, judge)
        return judge.quote([Item.of(d) for d in _dialogues(paths, config)]), mark
    finally:
        judge.close()


def run_filter(
    config: FilterConfig, reporter: Reporter, folder: Path, paths: Paths
) -> dict[str, Any]:
    """Judge every dialogue; publish what is kept where the configuration names a dataset for it.

    ``Paused`` when the budget is spent, ``Stopped`` when cancelled; ``UserError`` for a judge that
    has not passed its quality check, unless the configuration insists.
    """
    if config.out:
        collection.check_new(paths, config.out)
    profile = load_profile(paths, config.profile)
    dialogues = _kept_input(folder, paths, config)
    items = [Item.of(dialogue) for dialogue in dialogues]
    judge = open_judge(paths, profile, config.judge)
    store = Store(paths)
    try:
        mark = require(paths, config.profile, judge, insist=config.insist)
        write_json(folder / QUALITY, mark.as_json())
        known = list(read_records(folder))
        source = folder.name
        judged.record_rows(store, config.profile, source, items, known)
        with _Keeper(folder, store, config.profile, source, items) as keeper:
            budget = _budget(folder, config)
            samples = config.judge.samples
            complete = judge_all(judge, items, known, samples, budget, reporter, keeper.keep)
    finally:
        judge.close()
        store.close()
    asked = reporter.stop_requested()
    if asked == "cancel":
        raise Stopped
    if not complete and not asked:
        raise Paused(
            "The budget is spent. What was judged is kept: raise the budget and resume.",
            "予算に達したため一時停止しました。採点済みの結果は残っています。"
            "予算を増やして再開してください。",
        )
    result = _summary(config, judge, folder, items, mark)
    if complete and config.out:
        result |= publish(
            paths, Run(folder), config.out, threshold=config.threshold, unscored=config.unscored
        )
    return result


class _Keeper:
    """Writes a record to the run's file at once, and to the store in small batches."""

    def __init__(
        self, folder: Path, store: Store, profile: str, source: str, items: list[Item]
    ) -> None:
        self.store, self.profile, self.source = store, profile, source
        self.items = {item.id: item for item in items}
        self.path = folder / RECORDS
        self.waiting: list[Record] = []

    def __enter__(self) -> _Keeper:
        _cut_torn_line(self.path)
        self.file = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
        self.file.close()

    def keep(self, record: Record) -> None:
        self.file.write(json.dumps(record.as_json(), ensure_ascii=False) + "\n")
        self.file.flush()
        self.waiting.append(record)
        if len(self.waiting) >= KEPT_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        judged_items = [self.items[record.item] for record in self.waiting]
        judged.record_rows(self.store, self.profile, self.source, judged_items, self.waiting)
        self.waiting = []


def read_records(folder: Path) -> Iterator[Record]:
    """The records of a filter run; a line that a kill has torn is left out."""
    path = folder / RECORDS
    if not path.exists():
        return
    for line in path.read_bytes().split(b"\n")[:-1]:
        if line.strip():
            yield Record.from_json(json.loads(line))


def _cut_torn_line(path: Path) -> None:
    if path.exists():
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with path.open("r+b") as file:
                file.truncate(whole)


@dataclass(frozen=True)
class Filtering:
    """A filter run read back: what was judged, by whom, and each row's topic."""

    run: Run
    config: FilterConfig
    dialogues: list[Dialogue]
    rows: list[Row]
    topic_of: dict[str, str]


def load_filtering(run: Run) -> Filtering:
    """``UserError`` where the run is of another kind or has not begun."""
    config = _config(run)
    path = run.folder / DIALOGUES
    if not path.exists():
        raise UserError(
            f"{run.id} has not begun to judge yet.", f"{run.id} はまだ採点を始めていません。"
        )
    dialogues = _rows(path)
    items = [Item.of(dialogue) for dialogue in dialogues]
    rows = rows_of(items, read_records(run.folder))
    return Filtering(run, config, dialogues, rows, topics(items))


def publish(
    paths: Paths, run: Run, name: str, *, threshold: float, unscored: Unscored = "drop"
) -> dict[str, Any]:
    """Make dataset ``name`` of what the threshold keeps; the rest goes to ``datasets/dropped``.

    ``UserError`` where the name is taken or nothing would be kept.
    """
    found = load_filtering(run)
    kept, dropped = split_dialogues(found.dialogues, found.rows, threshold, unscored)
    if not kept:
        raise UserError(
            f"Nothing scores {threshold:g} or more: choose a lower threshold.",
            f"{threshold:g} 以上の行がありません。しきい値を下げてください。",
        )
    by_judge = next((row.records[0] for row in found.rows if row.records), None)
    card = DatasetCard(
        name=name,
        profile=found.config.profile,
        kind="filtered",
        parents=(found.config.dataset,),
        filtered=Filtered(
            run=run.id,
            judge=by_judge.judge if by_judge else "",
            rubric=by_judge.rubric if by_judge else "",
            version=by_judge.version if by_judge else "",
            threshold=threshold,
            kept=len(kept),
            dropped=len(dropped),
            unscored=sum(row.score is None for row in found.rows),
            quality=read_json(run.folder / QUALITY),
        ),
    )
    collection.create(paths, name, kept, card)
    write_json_lines(
        collection.dropped_path(paths, name), [d.model_dump(mode="json") for d in dropped]
    )
    return {
        "dataset": name,
        "kept": len(kept),
        "dropped": len(dropped),
        "dropped_file": str(collection.dropped_path(paths, name)),
    }


def raise_budget(run: Run, budget: Budget) -> None:
    """What a filter run or an evaluation may spend from its next start on, all in all."""
    if run.kind not in ("evaluate", "interview"):
        _config(run)
    write_json(run.folder / BUDGET, budget.model_dump(mode="json"))


def _budget(folder: Path, config: FilterConfig) -> Budget:
    path = folder / BUDGET
    return Budget.from_data(read_json(path), str(path)) if path.exists() else config.budget


def _dialogues(paths: Paths, config: FilterConfig) -> list[Dialogue]:
    return collection.load(paths, config.dataset).dialogues[: config.limit]


def _kept_input(folder: Path, paths: Paths, config: FilterConfig) -> list[Dialogue]:
    """The rows as they were when the run began: a resumed run judges the same ones."""
    path = folder / DIALOGUES
    if not path.exists():
        rows = _dialogues(paths, config)
        write_json_lines(path, [row.model_dump(mode="json") for row in rows])
    return _rows(path)


def _rows(path: Path) -> list[Dialogue]:
    return [Dialogue.from_data(row, f"{path}, line {n}") for n, row in json_lines(path)]


def _summary(
    config: FilterConfig, judge: Judge, folder: Path, items: list[Item], mark: Mark
) -> dict[str, Any]:
    rows = rows_of(items, read_records(folder))
    scores = [row.score for row in rows if row.score is not None]
    kept = sum(row.kept(config.threshold, config.unscored) for row in rows)
    return {
        "profile": config.profile,
        "judge": judge.id,
        "rubric": judge.rubric,
        "version": judge.version,
        "rows": len(rows),
        "kept": kept,
        "dropped": len(rows) - kept,
        "gated": sum(bool(row.gate) for row in rows),
        "unscored": sum(row.score is None for row in rows),
        "mean": round(sum(scores) / len(scores), 4) if scores else None,
        "threshold": config.threshold,
        "quality": mark.as_json(),
    }


def _config(run: Run) -> FilterConfig:
    if run.kind != "filter":
        raise UserError(
            f"{run.id} is not a filter run.", f"{run.id} はデータの選別の実行ではありません。"
        )
    return cast(FilterConfig, run.manifest().load_config(run.folder))
