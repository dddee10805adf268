"""The stage ``interview``: single questions, talks turn by turn, measures, a judge, the report.

Run it with ``python -m charllm interview CONFIG``. It resumes from its folder after a kill; stopped
with "save" it reports what is there. How a talk goes, who asks in it and what a criterion rests on
is in the modules that it calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from charllm.core.evaluation.five import Key
from charllm.core.evaluation.five_measures import measure
from charllm.core.evaluation.interview_answering import (
    Answering,
    LocalAnswering,
    Lookup,
    RemoteAnswering,
)
from charllm.core.evaluation.interview_config import InterviewConfig
from charllm.core.evaluation.interview_exchanges import (
    Plan,
    open_interviews,
    read_exchanges,
    read_interviews,
)
from charllm.core.evaluation.interview_judging import budget_of, judge_talks, marks_of
from charllm.core.evaluation.interview_report import MEASURES_FILE, as_json, read_report
from charllm.core.evaluation.interview_tables import write_report
from charllm.core.evaluation.interview_talking import Talking
from charllm.core.evaluation.interviewers import EndpointInterviewer, Interviewer, LocalInterviewer
from charllm.core.evaluation.replies import generate_replies
from charllm.core.filtering import Budget
from charllm.core.judging.judges import JudgeConfig
from charllm.core.replying import Resident
from charllm.core.variants import Variant
from charllm.data.config import Paths
from charllm.data.files import write_json_lines
from charllm.data.progress import Paused, Reporter


def run_interview(
    config: InterviewConfig, reporter: Reporter, folder: Path, paths: Paths
) -> dict[str, Any]:
    """Single replies, then the talks, then the judge, then the report, whose figures are returned.

    A judge that is missing or may not decide, and an endpoint without a key, are found out before
    anything is generated (``UserError``). ``Stopped`` when cancelled, ``Paused`` where a budget or
    quota is used up: everything stays, and the report of the part that there is is written.
    """
    plan = open_interviews(config, paths, folder, reporter)
    marks = marks_of(plan, paths, config.judge, config.criteria, insist=config.insist)
    asking = _endpoint_interviewer(plan, paths)
    with _reporting(folder, paths, plan):
        replied = not config.single or generate_replies(plan.asking, paths, folder, reporter)
        if replied and _talk(plan, paths, folder, reporter, asking):
            judge_talks(
                plan, paths, folder, reporter, config.judge, marks, budget_of(folder, config)
            )
    return _reported(folder, paths, plan)


def judge_interviews(
    folder: Path,
    judge: JudgeConfig,
    criteria: Sequence[Key],
    reporter: Reporter,
    paths: Paths,
    *,
    budget: Budget | None = None,
    insist: bool = False,
) -> dict[str, Any]:
    """Have another judge, or the same by more criteria, judge what a run has kept.

    Nothing is generated, and no other judge's records change. Errors as ``run_interview``.
    """
    plan = read_interviews(folder)
    marks = marks_of(plan, paths, judge, criteria, insist=insist)
    with _reporting(folder, paths, plan):
        judge_talks(plan, paths, folder, reporter, judge, marks, budget or Budget())
    return _reported(folder, paths, plan)


def partial(folder: Path, paths: Paths) -> dict[str, Any]:
    """The figures of what a run has so far, whatever state it is in; nothing is written."""
    plan = read_interviews(folder)
    measured = measure(paths, plan.planned.profile, read_exchanges(folder, plan))
    return as_json(read_report(folder, measured))


# --- the talks ----------------------------------------------------------------------------------


def _talk(
    plan: Plan,
    paths: Paths,
    folder: Path,
    reporter: Reporter,
    endpoint_interviewer: Interviewer | None,
) -> bool:
    """All interviews; False where a stop was asked for first."""
    config, profile = plan.config, plan.planned.profile
    talking = Talking(folder, reporter, plan.talks, config.turns, config.seed, plan.turns)
    lookup = Lookup(paths, profile, config.settings)
    asks: Resident | None = None
    for group in _by_base(plan.planned.variants):
        if talking.complete(group):
            continue
        answering, resident = _answering(plan, paths, lookup, group)
        interviewer = endpoint_interviewer
        if config.interviewer.kind == "local":
            if resident is not None and resident.name == config.interviewer.model:
                asks = resident
            asks = asks or Resident(paths, config.interviewer.model)
            interviewer = LocalInterviewer(profile, config.interviewer, asks)
        if not talking.hold(group, answering, interviewer):
            return False
    return True


def _answering(
    plan: Plan, paths: Paths, lookup: Lookup, group: Sequence[Variant]
) -> tuple[Answering, Resident | None]:
    """What answers for these variants, and the base model in memory where there is one."""
    config, profile = plan.config, plan.planned.profile
    if group[0].base_url:
        return RemoteAnswering(profile, config.settings, lookup), None
    resident = Resident(paths, group[0].model, group[0].quantization)
    return LocalAnswering(resident, profile, config.settings, lookup, config.rows), resident


def _endpoint_interviewer(plan: Plan, paths: Paths) -> Interviewer | None:
    """Ready to ask; None for another kind. ``UserError`` where there is no key, or the model of a
    local interviewer is not there."""
    from charllm.core.models import model_folder

    config = plan.config.interviewer
    if config.kind == "local":
        model_folder(paths, config.model)
    return EndpointInterviewer(plan.planned.profile, config) if config.kind == "endpoint" else None


def _by_base(variants: Sequence[Variant]) -> list[list[Variant]]:
    """Variants that can share a batch; every remote one stands alone."""
    groups: dict[tuple[str, ...], list[Variant]] = {}
    for one in variants:
        key = (one.base_url, one.name) if one.base_url else ("", one.model, one.quantization)
        groups.setdefault(key, []).append(one)
    return list(groups.values())


# --- the report ---------------------------------------------------------------------------------


@contextmanager
def _reporting(folder: Path, paths: Paths, plan: Plan) -> Iterator[None]:
    """Where the work pauses, its part is reported: a run that stays paused is of use as well."""
    try:
        yield
    except Paused:
        _reported(folder, paths, plan)
        raise


def _reported(folder: Path, paths: Paths, plan: Plan) -> dict[str, Any]:
    measured = measure(paths, plan.planned.profile, read_exchanges(folder, plan))
    rows = [{"id": one.id, "values": one.values, "gate": one.gate} for one in measured]
    write_json_lines(folder / MEASURES_FILE, rows)
    return write_report(folder, read_report(folder))
