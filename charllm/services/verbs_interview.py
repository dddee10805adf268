"""Verbs of the five criteria: ``questions`` makes the question set, ``interview`` asks it."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from charllm.data.config import Paths
from charllm.services.following import run_kind
from charllm.services.verbs import recipe_path


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
