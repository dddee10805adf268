"""A further judge for the kept replies of an evaluation, one by one or in pairs, as a run.

Nothing is generated again; verdicts and the new report go into the evaluation's folder. It resumes
after a kill with what has been judged.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from charllm.core.evaluation.evaluating import judge_again
from charllm.core.evaluation.pair_runs import as_json, judge_pairs, quote_pairs, standing
from charllm.core.evaluation.planned import read_plan
from charllm.core.evaluation.reply_records import read_replies
from charllm.core.evaluation.scoring_replies import items_of
from charllm.core.filtering import Budget
from charllm.core.judging.judges import JudgeConfig, open_judge
from charllm.core.judging.records import Quote
from charllm.data.config import Config, Paths
from charllm.data.errors import UserError
from charllm.data.progress import Reporter
from charllm.services.evaluated import keep_verdicts
from charllm.services.judge_choice import check_key
from charllm.services.runs import Run, create_run, find_run, list_runs

KIND = "rejudge"
FUNCTION = "charllm.services.evaluate_again:run_rejudge"


How = Literal["scores", "pairs"]
"""Each reply by itself, or every two variants' replies to a question against each other."""


class RejudgeConfig(Config):
    """``evaluation`` is the id of the run whose replies are judged; ``insist`` takes a judge that
    has not passed its check, and the result says so. A judge of pairs has no check and no budget.
    """

    name: str
    evaluation: str
    judge: JudgeConfig
    how: How = "scores"
    budget: Budget = Budget()
    insist: bool = False

    @property
    def accelerator(self) -> bool:
        """Whether the judge is a model on this machine."""
        return self.judge.kind == "local"


def run_rejudge(
    config: RejudgeConfig, reporter: Reporter, folder: Path, paths: Paths
) -> dict[str, Any]:
    """The evaluation's new report, or the ratings; errors as ``judge_again``, ``judge_pairs``."""
    run = find_run(paths, config.evaluation)
    _check_still(run)
    if config.how == "pairs":
        matches = judge_pairs(run.folder, config.judge, reporter, paths)
        return as_json(matches, standing(matches))
    report = judge_again(
        run.folder,
        config.judge,
        reporter,
        paths,
        budget=config.budget,
        insist=config.insist,
    )
    keep_verdicts(paths, run.folder)
    return report


def start_rejudge(
    paths: Paths,
    run: Run,
    judge: JudgeConfig,
    how: How = "scores",
    *,
    insist: bool,
    money: float | None = None,
) -> Run:
    """Queue it. ``UserError`` while the evaluation goes on, without a key that is needed, or where
    the judge compares no texts."""
    _check_still(run)
    check_key(judge)
    quote_rejudge(paths, run, judge, how)
    config = RejudgeConfig(
        name=run.name,
        evaluation=run.id,
        judge=judge,
        how=how,
        budget=Budget.from_data({"money": money}, "budget"),
        insist=insist,
    )
    return create_run(
        paths, KIND, run.name, config, function=FUNCTION, accelerator=config.accelerator
    )


def quote_rejudge(paths: Paths, run: Run, judge: JudgeConfig, how: How = "scores") -> Quote:
    """What judging the kept replies will take; what this judge has said already is cached."""
    if how == "pairs":
        return quote_pairs(run.folder, judge, paths)
    planned = read_plan(run.folder)
    items = items_of(read_replies(run.folder), planned.queries)
    opened = open_judge(paths, planned.profile, judge)
    try:
        return opened.quote(items)
    finally:
        opened.close()


def _check_still(run: Run) -> None:
    if run.status().live:
        raise UserError(
            f"{run.name} is still being evaluated. Wait until it has ended, or stop it.",
            f"{run.name} はまだ評価中です。終わるまで待つか、停止してください。",
        )


def rejudges(paths: Paths, evaluation: Run) -> list[Run]:
    """The runs in which further judges were asked about an evaluation, the newest first."""
    runs = [run for run in list_runs(paths) if run.kind == KIND]
    return [run for run in runs if _about(run) == evaluation.id]


def going_on(paths: Paths, evaluation: Run) -> bool:
    """Whether its replies or verdicts may still grow: it runs, or a further judge is at it."""
    return evaluation.status().live or any(one.status().live for one in rejudges(paths, evaluation))


@lru_cache(maxsize=256)
def _about(run: Run) -> str:
    """Which evaluation it judges, "" where its folder is damaged; a manifest never changes."""
    try:
        return str(run.manifest().config.get("evaluation", ""))
    except UserError:
        return ""
