"""A judge for the kept turns of an interview run, by the criteria that are asked for, as a run.

Nothing is asked again; verdicts and the new report go into the interviews' folder. It resumes after
a kill with what has been judged, and verdicts that are there already are not paid twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import Field

from charllm.core.evaluation.five import CRITERIA, Key
from charllm.core.evaluation.interview_exchanges import read_interviews
from charllm.core.evaluation.interview_judging import marks_of
from charllm.core.evaluation.interviewing import judge_interviews
from charllm.core.filtering import Budget
from charllm.core.judging.judges import JudgeConfig
from charllm.data.config import Config, Paths
from charllm.data.errors import UserError
from charllm.data.progress import Reporter
from charllm.services.judge_choice import check_key
from charllm.services.runs import Run, create_run, find_run, list_runs

KIND = "rejudge"
FUNCTION = "charllm.services.interview_again:run_judging"


class InterviewJudgeConfig(Config):
    """``interview`` is the id of the run whose replies are judged. The judge's own rubric is of no
    account: each criterion has its rubric. ``budget`` is for all criteria together, and counts
    what this judge has spent on this run before. ``insist`` takes a judge that has not passed its
    check, and the result says so.
    """

    name: str
    interview: str
    judge: JudgeConfig
    criteria: tuple[Key, ...] = Field(default=tuple(CRITERIA), min_length=1)
    budget: Budget = Budget()
    insist: bool = False

    @property
    def accelerator(self) -> bool:
        """Whether the judge is a model on this machine."""
        return self.judge.kind == "local"


def run_judging(
    config: InterviewJudgeConfig, reporter: Reporter, folder: Path, paths: Paths
) -> dict[str, Any]:
    """The interviews' new report; errors as ``judge_interviews``."""
    run = find_run(paths, config.interview)
    _check_still(run)
    return judge_interviews(
        run.folder,
        config.judge,
        config.criteria,
        reporter,
        paths,
        budget=config.budget,
        insist=config.insist,
    )


def start_judging(
    paths: Paths,
    run: Run,
    judge: JudgeConfig,
    criteria: Sequence[Key] = (),
    *,
    insist: bool,
    budget: Budget | None = None,
) -> Run:
    """Queue it; no ``criteria`` are all. ``UserError`` for a run of another kind, while the
    interviews or another judging of them go on, or where the judge reads no rubric, has no key, or
    has not passed its check and nobody insists.
    """
    check_interviews(run)
    _check_still(run)
    if any(not one.status().ended_ for one in judgings(paths, run)):
        raise UserError(
            f"A judge is at work on {run.name} already. Wait until it has ended, or stop it on the "
            "Runs page.",
            f"{run.name} は採点中です。終わるまで待つか、「実行」タブで停止してください。",
        )
    wanted = tuple(criteria) or tuple(CRITERIA)
    check_key(judge)
    marks_of(read_interviews(run.folder), paths, judge, wanted, insist=insist)
    config = InterviewJudgeConfig(
        name=run.name,
        interview=run.id,
        judge=judge,
        criteria=wanted,
        budget=budget or Budget(),
        insist=insist,
    )
    return create_run(
        paths, KIND, run.name, config, function=FUNCTION, accelerator=config.accelerator
    )


def check_interviews(run: Run) -> None:
    """``UserError`` where the run is of another kind."""
    if run.kind != "interview":
        raise UserError(
            f"{run.id} holds no interviews: name a run of the kind interview.",
            f"{run.id} はインタビューの実行ではありません。インタビューの実行を指定してください。",
        )


def _check_still(run: Run) -> None:
    if not run.status().ended_:
        raise UserError(
            f"{run.name} is still being interviewed. Wait until it has ended, or stop it.",
            f"{run.name} はインタビュー中です。終わるまで待つか、停止してください。",
        )


def judgings(paths: Paths, interviews: Run) -> list[Run]:
    """The runs in which judges were asked about these interviews, the newest first."""
    runs = [run for run in list_runs(paths) if run.kind == KIND]
    return [run for run in runs if _about(run) == interviews.id]


def growing(paths: Paths, interviews: Run) -> bool:
    """Whether its turns or verdicts may still grow: it runs, or a judge is at it."""
    return interviews.status().live or any(one.status().live for one in judgings(paths, interviews))


@lru_cache(maxsize=256)
def _about(run: Run) -> str:
    """Which interviews it judges, "" where its folder is damaged or it judges something else; a
    manifest never changes."""
    try:
        return str(run.manifest().config.get("interview", ""))
    except UserError:
        return ""
