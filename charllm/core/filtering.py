"""Judge filtering: which dialogues of a training set are kept, by one judge and one rubric.

The study's second step: every dialogue is scored from 1 to 7, those of 5 and more are kept. Here:
the run's configuration, the judging loop with its budget, what a threshold keeps and loses, and
the two lists that come of it. It does not know where records are stored, nor how a judge works.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from charllm.core.judging.judges import JudgeConfig
from charllm.core.judging.records import Item, Judge, Record, mean_scores
from charllm.data.config import Config
from charllm.data.dialogue import Dialogue
from charllm.data.errors import Text
from charllm.data.progress import Reporter

THRESHOLD = 5.0
"""The study's: dialogues of 5 and more of 7 are kept."""
EVENT_SECONDS = 1.0

Unscored = Literal["drop", "keep"]


class Budget(Config):
    """What a run may spend, None without limit. ``money`` is in US dollars.

    Reached, it pauses the run: nothing is lost, and a higher one lets it go on.
    """

    calls: int | None = Field(default=None, ge=0)
    tokens: int | None = Field(default=None, ge=0)
    money: float | None = Field(default=None, ge=0.0)


class FilterConfig(Config):
    """A run that judges every dialogue of ``dataset`` and, if ``out`` is given, publishes the rest.

    ``threshold`` lies on the rubric's scale; ``unscored``: what happens to rows no verdict could be
    had for. ``insist``: use a judge that has not passed the quality check; the result says so.
    ``limit``: only the first so many rows, None all.
    """

    dataset: str
    profile: str
    judge: JudgeConfig = JudgeConfig()
    threshold: float = THRESHOLD
    unscored: Unscored = "drop"
    out: str = ""
    budget: Budget = Budget()
    insist: bool = False
    limit: int | None = Field(default=None, ge=1)

    @property
    def accelerator(self) -> bool:
        """Only a judge in this machine's memory needs one."""
        return self.judge.kind == "local"


@dataclass
class Spend:
    """What has been paid so far; cached and gated replies are counted and cost nothing."""

    calls: int = 0
    cached: int = 0
    gated: int = 0
    unscored: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    money: float = 0.0
    priced: bool = True

    def add(self, record: Record) -> None:
        self.unscored += record.score is None
        self.gated += bool(record.gate)
        self.cached += record.cached
        if record.cached or not record.calls:
            return
        self.calls += record.calls
        self.tokens_in += record.tokens_in
        self.tokens_out += record.tokens_out
        self.priced = self.priced and record.cost is not None
        self.money += record.cost or 0.0

    def reached(self, budget: Budget) -> bool:
        return (
            (budget.calls is not None and self.calls >= budget.calls)
            or (budget.tokens is not None and self.tokens_in + self.tokens_out >= budget.tokens)
            or (budget.money is not None and self.money >= budget.money)
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "calls": self.calls,
            "cached": self.cached,
            "gated": self.gated,
            "unscored": self.unscored,
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
            "money": round(self.money, 6) if self.priced else None,
        }


def judge_all(
    judge: Judge,
    items: Sequence[Item],
    known: Iterable[Record],
    samples: int,
    budget: Budget,
    reporter: Reporter,
    keep: Callable[[Record], None],
) -> bool:
    """Judge what ``known`` does not answer yet; each record goes to ``keep`` as it comes.

    True when every item has been judged, False when the budget or a stop request came first. The
    budget counts what earlier attempts have spent too. What is under way when it is reached is
    still taken, so it may be passed by as many calls as the judge has in flight.
    """
    tally = Tally(samples)
    for record in known:
        tally.add(record)
    todo = [item for item in items if not tally.complete(item.id)]
    told = 0.0

    def tell() -> None:
        done = sum(tally.complete(item.id) for item in items)
        reporter.progress(done, len(items), _doing(tally.spend))
        reporter.event("judged", done=done, total=len(items), **tally.as_json())

    def stop() -> bool:
        return tally.spend.reached(budget) or bool(reporter.stop_requested())

    tell()
    if todo and not stop():
        for record in judge.judge(todo, stop):
            keep(record)
            tally.add(record)
            if time.monotonic() - told >= EVENT_SECONDS:
                told = time.monotonic()
                tell()
    tell()
    return all(tally.complete(item.id) for item in items)


class Tally:
    """What has come in: spend, levels, and which items have all their samples."""

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.spend = Spend()
        self.levels: Counter[str] = Counter()
        self._seen: dict[str, set[int]] = defaultdict(set)

    def add(self, record: Record) -> None:
        # An item that a kill left with some of its samples is judged again, from the cache.
        if record.sample in self._seen[record.item]:
            return
        self._seen[record.item].add(record.sample)
        if record.gate:
            self._seen[record.item].update(range(self.samples))
        self.spend.add(record)
        self.levels[level_of(record)] += 1

    def complete(self, item: str) -> bool:
        return len(self._seen.get(item, ())) >= self.samples

    def as_json(self) -> dict[str, Any]:
        return {"levels": dict(self.levels), "spend": self.spend.as_json()}


def level_of(record: Record) -> str:
    """The histogram's bar: the score rounded to a level, "gated" or "unscored"."""
    if record.score is None:
        return "unscored"
    return "gated" if record.gate else str(int(record.score + 0.5))


def _doing(spend: Spend) -> Text:
    if not spend.calls:
        return Text("Judging", "採点しています")
    cost = f", ${spend.money:.4f}" if spend.priced and spend.money else ""
    return Text(
        f"Judging ({spend.calls} calls, {spend.tokens_in + spend.tokens_out:,} tokens{cost})",
        f"採点しています（{spend.calls}回、{spend.tokens_in + spend.tokens_out:,}トークン{cost}）",
    )


@dataclass(frozen=True)
class Row:
    """One dialogue with what the judge made of it. ``score`` is the mean of its samples."""

    item: Item
    records: tuple[Record, ...]
    score: float | None

    @property
    def gate(self) -> tuple[str, ...]:
        return next((record.gate for record in self.records if record.gate), ())

    @property
    def unscored(self) -> Text | None:
        return next((record.unscored for record in self.records if record.unscored), None)

    def kept(self, threshold: float, unscored: Unscored) -> bool:
        return unscored == "keep" if self.score is None else self.score >= threshold

    def why_dropped(self, threshold: float) -> Text:
        if self.gate:
            codes = ", ".join(self.gate)
            return Text(f"stopped by the gate: {codes}", f"ゲートで停止: {codes}")
        if self.score is None:
            why = self.unscored or Text("not judged", "未採点")
            return Text(f"unscored: {why.en}", f"採点なし: {why.ja}")
        return Text(
            f"score {self.score:.2f} is below {threshold:g}",
            f"スコア {self.score:.2f} がしきい値 {threshold:g} 未満",
        )


def rows_of(items: Sequence[Item], records: Iterable[Record]) -> list[Row]:
    """Every item with its records; those without any are unscored."""
    by_item: dict[str, dict[int, Record]] = defaultdict(dict)
    for record in records:
        by_item[record.item][record.sample] = record
    means = mean_scores(record for group in by_item.values() for record in group.values())
    return [Row(item, tuple(by_item[item.id].values()), means.get(item.id)) for item in items]


@dataclass(frozen=True)
class Cut:
    """What one threshold does: ids in order, and for each topic ``(kept, lost)``."""

    threshold: float
    kept: tuple[str, ...]
    dropped: tuple[str, ...]
    unscored: int
    gated: int
    topics: Mapping[str, tuple[int, int]]


def cut_at(
    rows: Sequence[Row], threshold: float, unscored: Unscored, topic_of: Mapping[str, str]
) -> Cut:
    kept = [row for row in rows if row.kept(threshold, unscored)]
    dropped = [row for row in rows if not row.kept(threshold, unscored)]
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for place, group in enumerate((kept, dropped)):
        for row in group:
            counts[topic_of.get(row.item.id, "")][place] += 1
    return Cut(
        threshold,
        tuple(row.item.id for row in kept),
        tuple(row.item.id for row in dropped),
        sum(row.score is None for row in rows),
        sum(bool(row.gate) for row in rows),
        {topic: (n[0], n[1]) for topic, n in sorted(counts.items(), key=lambda kv: -sum(kv[1]))},
    )


def split_dialogues(
    dialogues: Sequence[Dialogue], rows: Sequence[Row], threshold: float, unscored: Unscored
) -> tuple[list[Dialogue], list[Dialogue]]:
    """``(kept, dropped)``; a dropped one says in ``meta.dropped`` why, with its score."""
    row_of = {row.item.id: row for row in rows}
    kept: list[Dialogue] = []
    dropped: list[Dialogue] = []
    for dialogue in dialogues:
        row = row_of.get(dialogue.id) or Row(Item.of(dialogue), (), None)
        if row.kept(threshold, unscored):
            kept.append(_with_meta(dialogue, score=row.score))
        else:
            why = row.why_dropped(threshold)
            note = {"score": row.score, "reason": why.as_json(), "gate": list(row.gate)}
            dropped.append(_with_meta(dialogue, dropped=note))
    return kept, dropped


def _with_meta(dialogue: Dialogue, **more: Any) -> Dialogue:
    return dialogue.model_copy(update={"meta": {**dialogue.meta, **more}})
