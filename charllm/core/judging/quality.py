"""The quality check of a judge: contrast pairs must come out right before it may decide anything.

The run kind "quality": pairs from the character's own data and from the user's file are judged
like any reply, and the report is kept for ``require`` (``quality_marks``). Pairs that were learnt
from are no check: the embedded judge is fitted without their rows (``holding_out``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import Field

from charllm.core.judging.contrasts import (
    Contrast,
    contrast_pairs,
    contrast_path,
    load_contrasts,
)
from charllm.core.judging.holding_out import folds, without_rows
from charllm.core.judging.judges import JudgeConfig, open_judge
from charllm.core.judging.quality_marks import (
    LEAST,
    LEAST_OWN,
    Mark,
    data_state,
    latest,
    listing,
    mark_of,
    passed,
    quality_path,
    require,
)
from charllm.core.judging.quality_report import (
    Assessed,
    Count,
    Quality,
    assess,
    items_of,
    kind_results,
)
from charllm.core.judging.records import Judge, Record
from charllm.data.config import Config, Paths
from charllm.data.dialogue import dataset_path, load_dialogues
from charllm.data.errors import Text, UserError
from charllm.data.files import write_json
from charllm.data.profile import Profile, load_profile
from charllm.data.progress import Reporter, Stopped
from charllm.data.queries import load_queries

__all__ = [
    "LEAST",
    "LEAST_OWN",
    "Mark",
    "Quality",
    "QualityConfig",
    "latest",
    "listing",
    "mark_of",
    "passed",
    "require",
    "run_quality",
]


class QualityConfig(Config):
    """A run that checks a judge on one character. ``per_kind``: pairs of each kind, 2–50."""

    profile: str
    judge: JudgeConfig = JudgeConfig()
    seed: int = 0
    per_kind: int = Field(default=12, ge=2, le=50)

    @property
    def accelerator(self) -> bool:
        """Only a judge in this machine's memory needs one."""
        return self.judge.kind == "local"


def run_quality(
    config: QualityConfig, reporter: Reporter, folder: Path, paths: Paths
) -> dict[str, Any]:
    """Judge the pairs and keep the report; its figures are the result.

    ``UserError`` where there is nothing to make pairs of; ``Stopped`` when asked to stop.
    """
    profile = load_profile(paths, config.profile)
    contrasts = pairs_for(paths, profile, config.seed, config.per_kind)
    judge = open_judge(paths, profile, config.judge)
    try:
        records = list(_all_judged(paths, judge, config, contrasts, reporter))
        quality = report(paths, judge, config, assess(contrasts, records), records)
    finally:
        judge.close()
    path = quality_path(paths, profile.slug, quality.judge, quality.rubric, quality.version)
    data = quality.model_dump(mode="json")
    write_json(folder / "quality.json", data)
    write_json(path, data)
    return _summary(quality, path)


def pairs_for(paths: Paths, profile: Profile, seed: int, per_kind: int) -> list[Contrast]:
    """The pairs made from the character's data and those of the user's file."""
    dataset, queries = dataset_path(paths, profile.slug), paths.queries / f"{profile.slug}.jsonl"
    made = contrast_pairs(
        profile,
        load_dialogues(dataset) if dataset.is_file() else [],
        load_queries(queries) if queries.is_file() else [],
        seed,
        per_kind,
    )
    pairs = [*made, *load_contrasts(contrast_path(paths, profile.slug))]
    if not pairs:
        raise UserError(
            f"There is nothing to check a judge with: put dialogues into {dataset}, or pairs into "
            f"{contrast_path(paths, profile.slug)}.",
            f"ジャッジを検査する材料がありません。{dataset} に対話を用意するか、"
            f"{contrast_path(paths, profile.slug)} に比較ペアを書いてください。",
        )
    return pairs


def report(
    paths: Paths,
    judge: Judge,
    config: QualityConfig,
    assessed: Sequence[Assessed],
    records: Sequence[Record],
) -> Quality:
    """The report on ``assessed`` pairs, as it is stored."""
    kinds = kind_results(judge, assessed)
    measured = {kind.kind for kind in kinds if kind.measured}
    counted = [pair for pair in assessed if pair.contrast.kind in measured]
    costs = [record.cost for record in records]
    return Quality(
        profile=config.profile,
        judge=judge.id,
        rubric=judge.rubric,
        version=judge.version,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=config.seed,
        per_kind=config.per_kind,
        state=data_state(paths, config.profile),
        all=Count.of(pair.verdict for pair in counted),
        own=Count.of(pair.verdict for pair in counted if not pair.by_gate),
        unscored=sum(pair.verdict == "unscored" for pair in counted),
        gated=sum(pair.by_gate for pair in counted),
        kinds=kinds,
        failures=tuple(pair.failure() for pair in assessed if pair.verdict != "right"),
        cost=None if None in costs else sum(cost or 0.0 for cost in costs),
    )


def _all_judged(
    paths: Paths,
    judge: Judge,
    config: QualityConfig,
    contrasts: Sequence[Contrast],
    reporter: Reporter,
) -> Iterator[Record]:
    """The records of both sides of every pair; the embedded judge never sees what it has learnt."""
    learns = config.judge.kind == "embedded" and dataset_path(paths, config.profile).is_file()
    total = len(contrasts)
    if not learns:
        yield from _judged(judge, contrasts, reporter, 0, total)
        return
    done = 0
    for fold in folds(contrasts):
        with without_rows(paths, config.profile, fold) as held:
            apart = open_judge(held, load_profile(held, config.profile), config.judge)
            try:
                yield from _judged(apart, fold, reporter, done, total)
            finally:
                apart.close()
        done += len(fold)


def _judged(
    judge: Judge, contrasts: Sequence[Contrast], reporter: Reporter, before: int, total: int
) -> Iterator[Record]:
    """The records of some pairs, the progress being told in pairs; ``Stopped`` when asked to."""
    doing = Text("Judging the pairs", "比較ペアを採点しています")
    items = items_of(contrasts)
    seen: set[str] = set()
    reporter.progress(before, total, doing)
    for record in judge.judge(items, lambda: bool(reporter.stop_requested())):
        seen.add(record.item)
        reporter.progress(before + len(contrasts) * len(seen) / len(items), total, doing)
        yield record
    if reporter.stop_requested():
        raise Stopped


def _summary(quality: Quality, path: Path) -> dict[str, Any]:
    return {
        **quality.model_dump(mode="json", exclude={"failures", "kinds"}),
        "passed": passed(quality),
        "kinds": {
            kind.kind: {
                "n": kind.all.n,
                "right": kind.all.right,
                "gated": kind.gated,
                "unscored": kind.unscored,
                "measured": kind.measured,
            }
            for kind in quality.kinds
        },
        "failures": len(quality.failures),
        "report": str(path),
    }
