"""What the page of interviews starts from: values, interviewers, judges, question set, a quote.

Only configs and headers of files are read; no model is loaded.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from charllm.core.catalog import CATALOG
from charllm.core.endpoint import server_name
from charllm.core.evaluation.five import CRITERIA
from charllm.core.evaluation.five_questions import (
    default_set,
    load_stock,
    make_questions,
    write_questions,
)
from charllm.core.evaluation.interview_config import InterviewConfig
from charllm.core.evaluation.interview_quote import quote_interview
from charllm.core.evaluation.study_table import study_variants
from charllm.core.judging.judges import JudgeConfig
from charllm.core.model_files import is_ready
from charllm.data.config import Paths, dump_yaml
from charllm.data.errors import Text, UserError
from charllm.data.profile import load_profile
from charllm.services import jobs
from charllm.services.evaluate_forms import Choice, written_judge
from charllm.services.judge_choice import check_key, load_choice, title
from charllm.services.runs import Run, list_runs

NO_JUDGE = Text("no judge: the measures alone", "ジャッジなし（機械的な指標のみ）")
MEASURED = 20
"""Finished runs whose pace tells how long the next one takes."""


def interview_runs(paths: Paths) -> list[Run]:
    """All interview runs, the newest first."""
    return [run for run in list_runs(paths) if run.kind == "interview"]


def config_of(run: Run) -> InterviewConfig:
    """The configuration of a run; ``UserError`` where its folder is damaged."""
    return cast(InterviewConfig, run.manifest().load_config(run.folder))


def begin(paths: Paths, config: InterviewConfig) -> Run:
    """Queue the interviews, and start them if their turn has come."""
    run = jobs.submit(paths, "interview", config.name, config)
    jobs.tick(paths)
    return run


# --- what there is to choose from ---------------------------------------------------------------


def start_values(paths: Paths, slug: str | None) -> dict[str, Any]:
    """A configuration's values to start from: the study's variants of the character."""
    stem = f"{slug}-interviews" if slug else "interviews"
    taken = {run.name for run in interview_runs(paths)}
    names = (stem, *(f"{stem}-{number}" for number in range(2, len(taken) + 3)))
    return {
        "name": next(name for name in names if name not in taken),
        "profile": slug or "",
        "variants": list(study_variants(paths, slug)) if slug else [],
    }


def judge_choices(paths: Paths) -> list[Choice]:
    """Nobody, and the judge chosen on the Judge page where it is a model that reads."""
    found = [Choice("", NO_JUDGE)]
    with suppress(UserError):  # the Judge page says what is wrong with its file
        picked = load_choice(paths)
        if picked.kind != "embedded":
            found.append(Choice(written_judge(picked), judge_words(picked)))
    return found


def judge_words(config: JudgeConfig) -> Text:
    """A judge without its rubric: each criterion brings its own."""
    if config.kind == "embedded":
        return title(config)
    where = f" @ {server_name(config.base_url)}" if config.kind == "endpoint" else ""
    return Text(f"{config.model}{where}", f"{config.model}{where}")


def model_choices(paths: Paths, kind: str) -> list[str]:
    """Models that an interviewer may be: those on this machine with a chat template, or the
    endpoint's that the Judge page has chosen. Others can be typed."""
    if kind == "local":
        chats = [one.id for one in CATALOG if not one.template.startswith("plain-")]
        return [name for name in chats if is_ready(paths, name)]
    with suppress(UserError):
        picked = load_choice(paths)
        if kind == picked.kind == "endpoint":
            return [picked.model]
    return []


# --- the question set ---------------------------------------------------------------------------


def lacks_set(paths: Paths, config: InterviewConfig) -> bool:
    """Whether the character's own question set is wanted and is not there yet."""
    own = default_set(config.profile)
    wanted = config.queries or own
    return wanted == own and not (paths.queries / f"{own}.jsonl").is_file()


def make_set(paths: Paths, slug: str) -> int:
    """Write the character's own question set; how many questions. ``UserError`` where the profile
    has no facts, or the set is there meanwhile."""
    profile = load_profile(paths, slug)
    made = make_questions(profile, load_stock(paths))
    write_questions(paths, profile, default_set(profile.slug), made, replace=False)
    return len(made)


# --- YAML and command ---------------------------------------------------------------------------


def yaml_of(config: InterviewConfig) -> str:
    """The settings as YAML, those that have their default left out."""
    return dump_yaml(config.model_dump(mode="json", exclude_defaults=True))


def file_command(config: InterviewConfig) -> str:
    """The command for the YAML, saved as ``recipes/<name>.yaml``."""
    return f"python -m charllm interview {shlex.quote(f'recipes/{config.name}.yaml')}"


# --- a look before the start --------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """What the interviews will take. ``problem`` keeps them from starting; ``quote`` is
    ``quote_interview``'s, None where not even that could be found out; ``lacks``: there is no
    question set yet. ``seconds`` of asking, from the pace of earlier runs, else None.
    """

    quote: dict[str, Any] | None
    problem: UserError | None
    lacks: bool = False
    seconds: float | None = None

    @property
    def money(self) -> float | None:
        """What interviewer and judges cost together, in US$; None where a price is not known."""
        if self.quote is None:
            return None
        parts = [self.quote["interviewer"]["money"], *(j["money"] for j in self.quote["judges"])]
        return None if None in parts else sum(parts)


def look(config: InterviewConfig, paths: Paths) -> Look:
    """Everything that can be known before anything is loaded."""
    if lacks_set(paths, config):
        told = UserError(
            "This character has no question set yet. Make one from its profile with the button.",
            "このキャラクターの質問セットがまだありません。ボタンでプロファイルから作れます。",
        )
        return Look(None, told, lacks=True)
    try:
        quote = quote_interview(config, paths)
    except UserError as error:
        return Look(None, error)
    seconds = _seconds(paths, config.profile, quote["single"] + quote["turns"])
    return Look(quote, _problem(paths, config, quote), seconds=seconds)


def _problem(paths: Paths, config: InterviewConfig, quote: Mapping[str, Any]) -> UserError | None:
    """The first reason why they may not start, None where they may."""
    asks = config.interviewer
    try:
        if asks.kind == "endpoint":
            check_key(JudgeConfig(kind="endpoint", model=asks.model, base_url=asks.base_url))
        if config.judge is not None:
            check_key(config.judge)
    except UserError as error:
        return error
    if asks.kind == "local" and not is_ready(paths, asks.model):
        return UserError(
            f"The interviewer {asks.model} is not on this machine. The Models page says how to get "
            "it; or choose another one.",
            f"質問するモデル {asks.model} がこのマシンにありません。入手方法は「モデル」タブにあり"
            "ます。別のモデルも選べます。",
        )
    return _unchecked(config.judge, quote["judges"], insist=config.insist)


def _unchecked(
    judge: JudgeConfig | None, quotes: list[dict[str, Any]], *, insist: bool
) -> UserError | None:
    """Why the judge may not decide by some of the quoted criteria, None where it may."""
    failed = [one for one in quotes if not (one["quality"] or {}).get("passed")]
    if judge is None or insist or not failed:
        return None
    labels = [CRITERIA[one["criterion"]].label for one in failed]
    rubrics = ", ".join(one["rubric"] for one in failed)
    name = judge_words(judge)
    return UserError(
        f"{name.en} has not passed its check on: {', '.join(one.en for one in labels)}. Check it "
        f"on the Judge page (Quality) by these rubrics: {rubrics}; leave these criteria out; or "
        "tick the box that takes it all the same: the result says so.",
        f"{name.ja} は次の基準の検査に合格していません：{'、'.join(one.ja for one in labels)}。"
        f"「ジャッジ」タブの「品質」でルーブリック {rubrics} の検査を行うか、これらの基準を外すか、"
        "未検査のまま使う設定にしてください（結果にその旨が残ります）。",
    )


def _seconds(paths: Paths, slug: str, replies: int) -> float | None:
    """From the last run of this character that ended: its time a reply, times replies."""
    for run in interview_runs(paths)[:MEASURED]:
        status, result = run.status(), run.result()
        took = status.seconds()
        if status.state != "done" or not took or not result or result.get("profile") != slug:
            continue
        kept = result["replies"]["single"] + result["replies"]["turns"]
        if result.get("complete") and kept:
            return replies * took / float(kept)
    return None
