"""Verbs that take an evaluation further: other programs' forms, pairs, the study's tables."""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charllm.data.config import Paths
from charllm.data.errors import Text, UserError, current_language
from charllm.data.progress import Silent
from charllm.services.runs import Run, find_run
from charllm.services.verbs_judge import judge_config

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class OnStderr(Silent):
    """Tells each tenth of the work on stderr."""

    def __init__(self) -> None:
        self._told = -1

    def progress(self, done: float, total: float, message: Text) -> None:
        tenth = int(10 * done / total) if total else 0
        if tenth > self._told:
            self._told = tenth
            line = f"{message.in_(current_language())}: {done:,.0f} / {total:,.0f}"
            print(line, file=sys.stderr, flush=True)


def lm_eval_task(paths: Paths, options: Namespace) -> Any:
    """``{"task", "folder", "questions", "template"}``."""
    from charllm.core.evaluation.lm_eval_task import write_task

    return write_task(
        paths,
        options.slug,
        Path(options.out).resolve(),
        queries=options.queries,
        split=options.split,
        template=options.template,
        facts=_facts(paths, options.slug) if options.rag else None,
        max_tokens=options.max_tokens,
    )


def _facts(paths: Paths, slug: str) -> Callable[[str], Sequence[str]]:
    """What retrieval puts into a question's prompt, with the chat's own settings."""
    from charllm.core.replying import ReplySettings
    from charllm.data.profile import load_profile
    from charllm.services.facts import find_facts

    profile, settings = load_profile(paths, slug), ReplySettings()

    def used(question: str) -> list[str]:
        hits = find_facts(paths, profile, question, settings).hits
        return [hit.fact for hit in hits if hit.used]

    return used


def export_inspect(paths: Paths, options: Namespace) -> Any:
    """``{"run", "files"}``."""
    from charllm.core.evaluation.inspect_log import write_inspect

    run = evaluation_run(paths, options.run)
    files = write_inspect(run.folder, Path(options.to).resolve(), options.variant)
    return {"run": run.id, "files": [str(file) for file in files]}


def pairs(paths: Paths, options: Namespace) -> Any:
    """The ratings of one judge's verdicts, which stay in the run's folder; or only the quote."""
    from charllm.core.evaluation import pair_runs
    from charllm.core.evaluation.tables import markdown, rating_table, win_table

    run, config = evaluation_run(paths, options.run), judge_config(options)
    if options.quote:
        quote = pair_runs.quote_pairs(run.folder, config, paths, against=options.against)
        note = quote.note.in_(current_language()) if quote.note else None
        return {**asdict(quote), "note": note}
    matches = pair_runs.judge_pairs(run.folder, config, OnStderr(), paths, against=options.against)
    ratings = pair_runs.standing(matches)
    if options.markdown:
        language = current_language()
        return "\n".join(markdown(t(ratings), language) for t in (rating_table, win_table))
    return {"run": run.id, **pair_runs.as_json(matches, ratings)}


def study_table(paths: Paths, options: Namespace) -> Any:
    """Both tables of the study for each judge of an evaluation: the matrix, and the merge's."""
    from charllm.core.evaluation.experiment_table import experiment, kin_of
    from charllm.core.evaluation.report import read_evaluation
    from charllm.core.evaluation.study_table import matrix
    from charllm.data.files import plain

    run = evaluation_run(paths, options.run)
    evaluation = read_evaluation(run.folder)
    variants = evaluation.planned.variants
    kin = {variant.name: kin_of(paths, variant) for variant in variants}
    judged = [judge for judge in evaluation.judges if judge.comparison]
    if not judged:
        raise UserError(
            f"{run.id} has no verdicts yet: there is nothing to put into a table.",
            f"{run.id} にはまだ採点がないため、表にできません。",
        )
    if options.markdown:
        return _as_markdown(evaluation, kin)
    return {
        "run": run.id,
        "complete": evaluation.complete,
        "judges": [
            {
                **judge.judged.ruler._asdict(),
                "matrix": plain(matrix(judge.comparison, variants)),
                "experiment": [
                    line.as_json() for line in experiment(judge.comparison, variants, kin)
                ],
            }
            for judge in judged
            if judge.comparison
        ],
    }


def _as_markdown(evaluation: Any, kin: Any) -> str:
    from charllm.core.evaluation.experiment_table import experiment, experiment_table
    from charllm.core.evaluation.report import told
    from charllm.core.evaluation.study_table import matrix_table
    from charllm.core.evaluation.tables import markdown

    language, variants = current_language(), evaluation.planned.variants
    parts = [f"> {text.in_(language)}\n" for text in told(evaluation)]
    for judge in evaluation.judges:
        if judge.comparison is None:
            continue
        parts.append(f"## {' '.join(judge.judged.ruler[:2])}\n")
        lines = experiment(judge.comparison, variants, kin)
        for table in (
            matrix_table(judge.comparison, variants),
            experiment_table(lines, language),
        ):
            parts.append(f"### {table.title.in_(language)}\n\n{markdown(table, language)}")
    return "\n".join(parts)


def judgements_keep(paths: Paths, options: Namespace) -> Any:
    """``{"run", "new"}``: verdicts that the store had not yet."""
    from charllm.services.evaluated import keep_verdicts

    run = evaluation_run(paths, options.run)
    return {"run": run.id, "new": keep_verdicts(paths, run.folder)}


def evaluation_run(paths: Paths, name: str) -> Run:
    """``UserError`` where there is no such run, or it is of another kind."""
    run = find_run(paths, name)
    if run.kind != "evaluate":
        raise UserError(f"{run.id} is not an evaluation.", f"{run.id} は評価の実行ではありません。")
    return run
