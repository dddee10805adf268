"""An evaluation's verdicts in the store: the desk, the agreement page and exports see them.

The run's folder stays the truth; what is in the store already is not added twice, so this can be
called at any time and as often as one likes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from charllm.core.evaluation.evaluate_config import EvaluateConfig
from charllm.core.evaluation.evaluating import run_evaluate as run
from charllm.core.evaluation.planned import PLAN, read_plan
from charllm.core.evaluation.reply_records import read_replies
from charllm.core.evaluation.scoring_replies import items_of, read_judged
from charllm.data.config import Paths
from charllm.data.progress import Reporter
from charllm.services import judged
from charllm.services.store import Store


def run_evaluate(
    config: EvaluateConfig, reporter: Reporter, folder: Path, paths: Paths
) -> dict[str, Any]:
    """The stage ``evaluate``, whose verdicts are in the store however it ends."""
    try:
        return run(config, reporter, folder, paths)
    finally:
        if (folder / PLAN).exists():
            keep_verdicts(paths, folder)


def keep_verdicts(paths: Paths, folder: Path) -> int:
    """Every verdict on a reply of the evaluation in ``folder``; how many were new.

    The replies that no judge has seen are subjects too: a person can score them. ``UserError``
    where the run has not begun to ask.
    """
    planned, replies = read_plan(folder), read_replies(folder)
    items = items_of(replies, planned.queries)
    there = {item.id for item in items}
    slug, new = planned.profile.slug, 0
    store = Store(paths)
    try:
        judged.record_rows(store, slug, folder.name, items, ())
        for judge in read_judged(folder):
            records = [record for record in judge.records if record.item in there]
            new += judged.record_rows(store, slug, folder.name, items, records)
    finally:
        store.close()
    return new
