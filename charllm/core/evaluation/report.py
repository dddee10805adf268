"""What an evaluation's folder says, at any time: figures, tables, and how far it has come.

Read from the folder alone, so that a run that was stopped, or judged once more, is reported like
any other. ``report.json`` has every figure; ``tables/`` the same for a paper, in both languages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charllm.core.evaluation.comparison import Comparison, Scored, compare
from charllm.core.evaluation.planned import Planned, read_plan
from charllm.core.evaluation.reply_records import Reply, read_replies
from charllm.core.evaluation.retrieved import Retrieved, retrieval_report, retrieval_table
from charllm.core.evaluation.scoring_replies import Judged, items_of, read_judged, scored_rows
from charllm.core.evaluation.stopping import Stopping, Stored, stopping_report
from charllm.core.evaluation.study_table import matrix_table
from charllm.core.evaluation.tables import (
    Table,
    as_csv,
    difference_table,
    judges_table,
    latex,
    markdown,
    stopping_table,
    summary_table,
)
from charllm.core.evaluation.two_judges import SideBySide, side_by_side
from charllm.data.errors import Language, Text
from charllm.data.files import plain, write_json, write_text

REPORT = "report.json"
TABLES = "tables"
LANGUAGES: tuple[Language, ...] = ("en", "ja")


@dataclass(frozen=True)
class ByJudge:
    """One judge's rows and their comparison, None where it has judged nothing yet.

    ``waiting`` replies have not all their verdicts.
    """

    judged: Judged
    rows: tuple[Scored, ...]
    comparison: Comparison | None
    waiting: int


@dataclass(frozen=True)
class Evaluation:
    """All that is known. ``retrieval`` is None where no variant looks facts up; ``between`` sets
    the judges of one scale side by side. No figure mixes two judges."""

    planned: Planned
    replies: tuple[Reply, ...]
    judges: tuple[ByJudge, ...]
    between: tuple[SideBySide, ...]
    stopping: tuple[Stopping, ...]
    retrieval: Retrieved | None

    @property
    def failed(self) -> int:
        return sum(reply.failed is not None for reply in self.replies)

    @property
    def complete(self) -> bool:
        """Whether every reply is there and every judge of the plan and later has judged it."""
        replied = len(self.replies) == self.planned.wanted
        enough = len(self.judges) >= len(self.planned.config.judges)
        return replied and enough and not any(judge.waiting for judge in self.judges)


def read_evaluation(folder: Path) -> Evaluation:
    """``UserError`` where the run has not begun to ask."""
    planned, replies = read_plan(folder), read_replies(folder)
    order = {variant.name: place for place, variant in enumerate(planned.variants)}
    replies.sort(key=lambda reply: order[reply.variant])
    seed = planned.config.seed
    judges = [_by_judge(one, planned, replies) for one in read_judged(folder)]
    preset = planned.config.preset.name
    stored = [
        Stored(reply.variant, preset, reply.query, reply.text, reply.stop_reason)
        for reply in replies
        if reply.failed is None
    ]
    return Evaluation(
        planned=planned,
        replies=tuple(replies),
        judges=tuple(judges),
        between=tuple(_between(judges, seed)),
        stopping=tuple(stopping_report(stored, planned.profile, seed)),
        retrieval=retrieval_report(planned.queries, planned.facts, seed),
    )


def write_report(folder: Path, evaluation: Evaluation) -> dict[str, Any]:
    """``report.json`` and the tables; gives what a list of runs and the command line show."""
    data = as_json(evaluation)
    write_json(folder / REPORT, data)
    for name, table in tables_of(evaluation).items():
        for language in LANGUAGES:
            place = folder / TABLES / f"{name}.{language}"
            write_text(place.with_name(place.name + ".md"), markdown(table, language))
            write_text(place.with_name(place.name + ".csv"), as_csv(table, language))
            write_text(place.with_name(place.name + ".tex"), latex(table, language))
    for language in LANGUAGES:
        write_text(folder / TABLES / f"all.{language}.md", _page(evaluation, language))
    return data


def tables_of(evaluation: Evaluation) -> dict[str, Table]:
    """By the name of their files; those of a judge are numbered in the judges' order."""
    found: dict[str, Table] = {}
    for number, judge in enumerate(evaluation.judges, 1):
        if judge.comparison is None:
            continue
        found[f"scores-{number}"] = summary_table(judge.comparison)
        found[f"differences-{number}"] = difference_table(judge.comparison)
        found[f"matrix-{number}"] = matrix_table(judge.comparison, evaluation.planned.variants)
    for number, between in enumerate(evaluation.between, 1):
        found[f"judges-{number}"] = judges_table(between)
    if evaluation.stopping:
        found["stopping"] = stopping_table(evaluation.stopping)
    if evaluation.retrieval:
        found["retrieval"] = retrieval_table(evaluation.retrieval)
    return found


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Every figure, without the replies and records themselves."""
    planned, config = evaluation.planned, evaluation.planned.config
    return {
        "name": config.name,
        "profile": config.profile,
        "complete": evaluation.complete,
        "variants": [
            {"name": one.name, "label": one.label.as_json(), "weights": _weights(evaluation, one)}
            for one in planned.variants
        ],
        "splits": list(config.splits),
        "queries": len(planned.queries),
        "repeats": config.repeats,
        "preset": config.preset.model_dump(mode="json"),
        "seed": config.seed,
        "wanted": planned.wanted,
        "replies": len(evaluation.replies),
        "failed": evaluation.failed,
        "judges": [_judge_json(one) for one in evaluation.judges],
        "between": [plain(pair) for one in evaluation.between for pair in one.pairs],
        "stopping": plain(evaluation.stopping),
        "retrieval": plain(evaluation.retrieval),
        "remarks": [plain(remark) for remark in planned.remarks],
        "told": [text.as_json() for text in told(evaluation)],
    }


def told(evaluation: Evaluation) -> list[Text]:
    """What has to be said beside the figures, the gravest first; [] where all is well."""
    said = []
    wanted, there = evaluation.planned.wanted, len(evaluation.replies)
    if there < wanted:
        said.append(
            Text(
                f"Incomplete: {there:,} of {wanted:,} replies are there. The figures are of these.",
                f"途中までの結果です。返答 {wanted:,} 件中 {there:,} 件から計算しています。",
            )
        )
    if evaluation.failed:
        said.append(_failures(evaluation))
    for judge in evaluation.judges:
        name = " ".join(judge.judged.ruler[:2])
        if judge.waiting:
            said.append(
                Text(
                    f"{name} has not judged {judge.waiting:,} of the replies yet.",
                    f"{name} はまだ {judge.waiting:,} 件の返答を採点していません。",
                )
            )
        if not judge.judged.mark.get("passed"):
            text = judge.judged.mark["text"]
            said.append(Text(text["en"], text["ja"]))
    said += [
        Text(f"Query set, line {line}: {text.en}.", f"質問セット {line} 行目: {text.ja}。")
        for line, text in evaluation.planned.remarks
    ]
    return said


def _by_judge(judged: Judged, planned: Planned, replies: Sequence[Reply]) -> ByJudge:
    rows = scored_rows(replies, judged)
    return ByJudge(
        judged=judged,
        rows=tuple(rows),
        comparison=compare(rows, planned.config.seed) if rows else None,
        waiting=judged.waiting(items_of(replies, planned.queries)),
    )


def _between(judges: Sequence[ByJudge], seed: int) -> list[SideBySide]:
    """Judges of one scale can be compared; those of different scales have nothing in common."""
    by_scale: dict[tuple[int, int], list[Scored]] = {}
    for judge in judges:
        by_scale.setdefault(judge.judged.scale, []).extend(judge.rows)
    found = [side_by_side(rows, scale, seed) for scale, rows in by_scale.items()]
    return [one for one in found if one.pairs]


def _judge_json(judge: ByJudge) -> dict[str, Any]:
    judged, comparison = judge.judged, judge.comparison
    return {
        "key": judged.key,
        "judge": judged.ruler.judge,
        "rubric": judged.ruler.rubric,
        "version": judged.ruler.version,
        "scale": list(judged.scale),
        "quality": dict(judged.mark),
        "waiting": judge.waiting,
        "summaries": plain(comparison.summaries) if comparison else [],
        "differences": plain(comparison.differences) if comparison else [],
    }


def _weights(evaluation: Evaluation, variant: Any) -> str:
    """What answered, with hashes; "" before its first reply."""
    said = (one.weights for one in evaluation.replies if one.variant == variant.name)
    return next(said, "")


def _failures(evaluation: Evaluation) -> Text:
    first = next(reply.failed for reply in evaluation.replies if reply.failed)
    n = evaluation.failed
    return Text(
        f"{n:,} replies could not be had and count as unscored, the first because: {first.en}",
        f"{n:,} 件の返答は生成できず、採点不能として数えています。最初の理由: {first.ja}",
    )


def _page(evaluation: Evaluation, language: Language) -> str:
    """All tables on one Markdown page, with what has to be said first."""
    parts = [f"# {evaluation.planned.config.name}\n"]
    parts += [f"> {text.in_(language)}\n" for text in told(evaluation)]
    for table in tables_of(evaluation).values():
        parts.append(f"## {table.title.in_(language)}\n\n{markdown(table, language)}")
    return "\n".join(parts)
