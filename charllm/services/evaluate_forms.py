"""What the Evaluate tab starts from: variants and judges there are, the matrix, YAML, a quote.

Only configs and headers of files are read; no model is loaded.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from charllm.core.evaluation.evaluate_config import EvaluateConfig
from charllm.core.evaluation.evaluating import quote_evaluate
from charllm.core.evaluation.planned import plan_evaluation
from charllm.core.evaluation.study_table import study_variants
from charllm.core.judging.judges import JudgeConfig
from charllm.core.judging.rubric import list_rubrics
from charllm.core.variants import Variant, list_variants
from charllm.data.config import Paths, dump_yaml
from charllm.data.errors import Text, UserError
from charllm.services.judge_choice import check_key, load_choice, title
from charllm.services.runs import Run, list_runs

MATRIX, LAST, FILE = "matrix", "last", "file"
START_NAMES: dict[str, Text] = {
    MATRIX: Text("2 × 2: RAG × fine-tuning", "2×2：RAG × ファインチューニング"),
    LAST: Text("Your last evaluation", "前回の評価"),
    FILE: Text("The YAML that was read", "読み込んだ YAML"),
}
PLAIN = JudgeConfig()
"""The embedded judge."""
MEASURED = 20
"""Finished evaluations whose pace tells how long the next one takes."""


class Choice(NamedTuple):
    """Something to choose: how a form writes it, and what it is called."""

    written: str
    label: Text


# --- what there is to choose from ---------------------------------------------------------------


def evaluate_runs(paths: Paths) -> list[Run]:
    """All evaluations, the newest first."""
    return [run for run in list_runs(paths) if run.kind == "evaluate"]


def config_of(run: Run) -> EvaluateConfig:
    """The configuration of an evaluation; ``UserError`` where its folder is damaged."""
    return cast(EvaluateConfig, run.manifest().load_config(run.folder))


def variant_choices(
    paths: Paths, slug: str | None, chosen: Sequence[str | Variant] = ()
) -> list[Choice]:
    """The character's variants; what is chosen already is always among them."""
    known = [Choice(one.name, one.label) for one in list_variants(paths, slug)] if slug else []
    names = {one.written for one in known}
    return known + [_own(one) for one in chosen if written_variant(one) not in names]


def _own(one: str | Variant) -> Choice:
    label = Text(one, one) if isinstance(one, str) else one.label
    return Choice(written_variant(one), label)


def written_variant(one: str | Variant) -> str:
    """A variant as a form keeps it: its name, or all of it as JSON where a file described it."""
    return one if isinstance(one, str) else one.model_dump_json()


def read_variants(written: Sequence[str]) -> list[Any]:
    """What ``written_variant`` made, as a configuration takes it."""
    return [json.loads(one) if one.startswith("{") else one for one in written]


def judge_choices(paths: Paths, chosen: Sequence[JudgeConfig] = ()) -> list[Choice]:
    """The embedded judge, the one chosen on the Judge page by each rubric, and the chosen ones."""
    found = [PLAIN]
    with suppress(UserError):  # the Judge page says what is wrong with its file
        picked = load_choice(paths)
        if picked.kind != "embedded":
            rubrics = dict.fromkeys((picked.rubric, *list_rubrics(paths)))
            found += [picked.model_copy(update={"rubric": rubric}) for rubric in rubrics]
    found += [one for one in chosen if one not in found]
    return [Choice(written_judge(one), title(one)) for one in found]


def written_judge(config: JudgeConfig) -> str:
    """A judge as a form keeps it."""
    return json.dumps(config.model_dump(mode="json", exclude_defaults=True), sort_keys=True)


def read_judges(written: Sequence[str]) -> list[JudgeConfig]:
    """What ``written_judge`` made; ``UserError`` for anything else."""
    found = []
    for one in written:
        try:
            found.append(JudgeConfig.from_data(json.loads(one), "judges"))
        except ValueError as error:
            raise UserError(
                f"{one!r} is no judge of this form.",
                f"「{one}」はこのフォームのジャッジではありません。",
            ) from error
    return found


# --- starts -------------------------------------------------------------------------------------


def starts(paths: Paths) -> list[str]:
    """The starts that there are now; ``FILE`` never is one."""
    return [MATRIX, LAST] if evaluate_runs(paths) else [MATRIX]


def start_values(paths: Paths, start: str, slug: str | None) -> dict[str, Any]:
    """A configuration's values to start from; ``UserError`` where there is no such start."""
    if start == MATRIX:
        return matrix_values(paths, slug)
    if start == LAST:
        return _last(paths)
    raise UserError(f"There is no start {start!r}.", f"「{start}」からは始められません。")


def matrix_values(paths: Paths, slug: str | None) -> dict[str, Any]:
    """The study's matrix of a character: base, RAG, a checkpoint without and with RAG."""
    variants = list(study_variants(paths, slug)) if slug else []
    name = free_run_name(paths, f"{slug}-matrix" if slug else "matrix")
    return {"name": name, "profile": slug or "", "variants": variants}


def free_run_name(paths: Paths, stem: str) -> str:
    """``stem``, or the first ``stem-2`` … that no evaluation has: lists stay readable."""
    taken = {run.name for run in evaluate_runs(paths)}
    names = (stem, *(f"{stem}-{number}" for number in range(2, len(taken) + 3)))
    return next(name for name in names if name not in taken)


def _last(paths: Paths) -> dict[str, Any]:
    for run in evaluate_runs(paths):
        try:
            values = plain_values(config_of(run))
        except UserError:  # a damaged folder, or settings of an older charllm
            continue
        stem = re.sub(r"-\d+$", "", str(values["name"]))
        return {**values, "name": free_run_name(paths, stem)}
    raise UserError("No evaluation yet.", "評価の実行がまだありません。")


def plain_values(config: EvaluateConfig) -> dict[str, Any]:
    """What differs from the defaults."""
    return config.model_dump(mode="json", exclude_defaults=True)


# --- YAML and command ---------------------------------------------------------------------------


def values_of_yaml(text: str, where: str) -> dict[str, Any]:
    """The settings in a YAML text; ``UserError`` says what is wrong with it."""
    import yaml

    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        raise UserError(
            f"{where}, line {line}: not valid YAML.",
            f"{where} の {line} 行目が YAML として読めません。",
        ) from error
    if not isinstance(data, dict):
        raise UserError(f"{where} holds no settings.", f"{where} に設定が書かれていません。")
    return plain_values(EvaluateConfig.from_data(data, where))


def yaml_of(config: EvaluateConfig) -> str:
    """The settings as YAML, those that have their default left out."""
    return dump_yaml(plain_values(config))


def file_command(config: EvaluateConfig) -> str:
    """The command for the YAML, saved as ``recipes/<name>.yaml``."""
    return f"python -m charllm evaluate {shlex.quote(f'recipes/{config.name}.yaml')}"


# --- a look before the start --------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """What an evaluation will take. ``problem`` keeps it from starting; ``quote`` is
    ``quote_evaluate``'s, None where not even that could be found out.

    ``seconds`` of generating, from the pace of earlier evaluations; None where there is none.
    ``remarks``: what a reader should know of the query set.
    """

    quote: dict[str, Any] | None
    problem: UserError | None
    seconds: float | None = None
    remarks: tuple[Text, ...] = ()


def look(config: EvaluateConfig, paths: Paths) -> Look:
    """Everything that can be known before anything is loaded."""
    try:
        planned = plan_evaluation(config, paths)
        quote = quote_evaluate(config, paths)
    except UserError as error:
        return Look(None, error)
    remarks = tuple(
        Text(f"Query set, line {line}: {text.en}.", f"質問セット {line} 行目: {text.ja}。")
        for line, text in planned.remarks
    )
    seconds = _seconds(paths, config, quote["replies"])
    return Look(quote, _problem(config, quote), seconds, remarks)


def _problem(config: EvaluateConfig, quote: Mapping[str, Any]) -> UserError | None:
    """The first reason why it may not start, None where it may."""
    for judge, told in zip(config.judges, quote["judges"], strict=True):
        try:
            check_key(judge)
        except UserError as error:
            return error
        if not config.insist and not (told["quality"] or {}).get("passed"):
            name = title(judge)
            return UserError(
                f"{name.en[:1].upper()}{name.en[1:]} has not passed its check on this character. "
                "Check it on the Judge page (Quality), or tick the box that takes it all the same: "
                "the result says so.",
                f"{name.ja}は、このキャラクターの検査に合格していません。「ジャッジ」タブの「品質」"
                "で検査するか、未検査のまま使う設定にしてください（結果にその旨が残ります）。",
            )
    return None


def _seconds(paths: Paths, config: EvaluateConfig, replies: int) -> float | None:
    """From the last evaluation of this character that ended: its time a reply, times replies."""
    for run in evaluate_runs(paths)[:MEASURED]:
        status, result = run.status(), run.result()
        took = status.seconds()
        if status.state != "done" or not result or not took or not result.get("replies"):
            continue
        if result.get("profile") == config.profile and result.get("complete"):
            return replies * took / int(result["replies"])
    return None
