"""Verbs of the five criteria: ``questions`` makes the question set, ``interview`` asks it,
``judge-interviews`` has what was answered judged."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from charllm.data.config import Paths
from charllm.data.errors import UserError, current_language
from charllm.services.following import Ended, follow, run_kind
from charllm.services.runs import Run, find_run
from charllm.services.verbs import recipe_path
from charllm.services.verbs_judge import judge_config

if TYPE_CHECKING:
    from charllm.core.evaluation.five import Key


def questions(paths: Paths, options: Namespace) -> Any:
    """``{"file", "questions", "tags", "loose", "told"}``; the set is meant to be edited."""
    from charllm.core.evaluation.five_questions import (
        default_set,
        load_stock,
        make_questions,
        questions_json,
        write_questions,
    )
    from charllm.data.profile import load_profile

    profile = load_profile(paths, options.slug)
    made = make_questions(profile, load_stock(paths), options.seed, options.traps)
    out = options.out or default_set(profile.slug)
    path = write_questions(paths, profile, out, made, replace=options.replace)
    return questions_json(path, made)


def interview(paths: Paths, options: Namespace) -> Any:
    """``{"run", "status", "result"}``, or with ``--quote`` what the run will take."""
    from charllm.core.evaluation.interview_config import InterviewConfig
    from charllm.core.evaluation.interview_quote import quote_interview

    path = recipe_path(paths, options.config)
    config = InterviewConfig.load(path)
    if options.quote:
        return quote_interview(config, paths)
    return run_kind(paths, "interview", config.model_dump(mode="json"), name=path.stem)


def judge_interviews(paths: Paths, options: Namespace) -> Any:
    """The tables by turn as Markdown, of the judged part where it was stopped; with ``--json``
    ``{"run", "status", "result"}``, with ``--quote`` what it will take."""
    from charllm.core.evaluation.interview_quote import quote_judging
    from charllm.core.filtering import Budget
    from charllm.services.interview_again import check_interviews, start_judging

    run, criteria = find_run(paths, options.run), _criteria(options.criteria)
    check_interviews(run)
    if options.rubric:
        raise UserError(
            "Each criterion has its own rubric: choose with --criteria, not --rubric.",
            "ルーブリックは基準ごとに決まっています。--rubric ではなく --criteria で選びます。",
        )
    judge = judge_config(options)
    if options.quote:
        return quote_judging(run.folder, judge, criteria, paths)
    budget = Budget.from_data({"calls": options.calls, "money": options.money}, "--calls, --money")
    judging = start_judging(paths, run, judge, criteria, insist=options.insist, budget=budget)
    outcome = follow(paths, judging)
    if options.json:
        return outcome
    if not isinstance(outcome, Ended):
        return _by_turn(run)
    kept = judging.status().state != "failed"  # a pause or a stop leaves a part worth reading
    return Ended(_by_turn(run) if kept else None, outcome.status)


def _criteria(names: str) -> Sequence[Key]:
    """Those that ``a,b`` names, all for ""; ``UserError`` for one that there is not."""
    from charllm.core.evaluation.five import CRITERIA

    wanted = [one.strip() for one in names.split(",") if one.strip()] or list(CRITERIA)
    wrong = [one for one in wanted if one not in CRITERIA]
    if wrong:
        known = ", ".join(CRITERIA)
        raise UserError(
            f"There is no criterion {wrong[0]!r}. Known: {known}.",
            f"「{wrong[0]}」という基準はありません。あるもの: {known}。",
        )
    return cast("list[Key]", list(dict.fromkeys(wanted)))


def _by_turn(run: Run) -> str:
    """What has to be said first, then every judge's means by turn and slopes, as Markdown."""
    from charllm.core.evaluation.interview_report import read_report
    from charllm.core.evaluation.interview_tables import by_turn

    return by_turn(read_report(run.folder), current_language())
