"""The report of an evolution, all escaped: two plain answers, the table, claims and truth, recipe.

Everything is read from the report that the run has published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr

from charllm.data.config import Paths
from charllm.data.errors import Text
from charllm.services.merge_view import config_of, recipe_of
from charllm.services.runs import Run
from charllm.ui.judge_html import UNKNOWN, table
from charllm.ui.merge_html import (
    code_box,
    gain_text,
    heat_html,
    interval_text,
    name_of,
    part_name,
    part_text,
    short,
    state_of_gain,
)
from charllm.ui.page import banner
from charllm.ui.train_html import words
from charllm.ui.words import say

ANSWERS = {
    "yes": (Text("yes", "はい"), "good"),
    "no": (Text("no", "いいえ"), "bad"),
    "cannot tell": (Text("cannot tell", "判断できません"), "fair"),
}


def report_html(paths: Paths, run: Run, report: Mapping[str, Any], request: gr.Request) -> str:
    """The whole report of a run that has ended."""
    parents = [short(str(name)) for name in report.get("parents", [])]
    parts = [
        _answers_html(report, parents, request),
        _buttons_html(paths, run, request),
        _quality_html(report, request),
        _rows_html(report, parents, request),
        _claims_html(report, parents, request),
        _told_html(report, request),
        _recipe_html(run, report, parents, request),
    ]
    return f'<div class="stacked mergereport" data-report="{escape(run.id)}">{"".join(parts)}</div>'


def _answers_html(report: Mapping[str, Any], parents: Sequence[str], request: gr.Request) -> str:
    best = str(report.get("best_parent", ""))
    number = best.rpartition("-")[2]
    named = parents[int(number) - 1] if number.isdigit() and int(number) <= len(parents) else best
    chosen = name_of(report["chosen"], parents)
    head = Text(
        f"Chosen: {chosen.en}. On the report questions, which nothing was tuned on:",
        f"選ばれたのは「{chosen.ja}」です。調整に使っていない報告用の質問では：",
    )
    boxes = [
        _answer(
            Text(f"Better than the best parent, {named}?", f"最良の親（{named}）より良いか"),
            report["over_parent"],
            report["gain_parent"],
            request,
        ),
        _answer(
            Text("Better than the plain average?", "単純平均より良いか"),
            report["over_uniform"],
            report["gain_uniform"],
            request,
        ),
    ]
    return (
        f'<p class="reporthead">{words(head, request)}</p>'
        f'<div class="verdicts">{"".join(boxes)}</div>'
    )


def _answer(
    question: Text, verdict: str, gain: Mapping[str, Any] | None, request: gr.Request
) -> str:
    answer, kind = ANSWERS[verdict]
    count = (gain or {}).get("n") or 0
    size = Text(
        f"{interval_text(gain)}, 95 % interval over {count} queries",
        f"{interval_text(gain)}（95%区間、質問 {count} 件）",
    )
    return (
        f'<div class="verdict {kind}" data-verdict="{escape(verdict)}">'
        f"<span>{words(question, request)}</span><b>{words(answer, request)}</b>"
        f"<span>{words(size, request)}</span></div>"
    )


def _quality_html(report: Mapping[str, Any], request: gr.Request) -> str:
    mark = report.get("quality") or {}
    if not mark:
        return ""
    kind = "" if mark.get("passed") else "bad"
    return banner(say(Text(**mark["text"]), request), kind)


def _buttons_html(paths: Paths, run: Run, request: gr.Request) -> str:
    """To the chat, where the choice is a checkpoint that the chat can blend."""
    config = config_of(run)
    if not (paths.checkpoints / config.name / "card.json").is_file():
        where = Text(
            f"Published as the model {config.name} in the workspace.",
            f"ワークスペースのモデル {config.name} として書き出しました。",
        )
        return f'<p class="note">{words(where, request)}</p>'
    chat = Text("Compare with its parents in the chat", "チャットで親と比べる")
    return (
        '<div class="measures"><button type="button" class="small primary" data-do="compare">'
        f"{words(chat, request)}</button></div>"
    )


# --- tables -------------------------------------------------------------------------------------


def _rows_html(report: Mapping[str, Any], parents: Sequence[str], request: gr.Request) -> str:
    """All finalists: what search and selection said of them, and the report's last word."""
    rows = report["rows"]
    parts = sorted({part for row in rows for part in (row["report"] or {}).get("parts", {})})
    heads = [
        Text("Model", "モデル"),
        Text("Search: gain", "探索での差"),
        Text("Selection: gain", "選択での差"),
        Text("Report: gain [95 %]", "報告での差［95%］"),
        Text("Unscored", "採点不能"),
    ]
    names = [say(text, request) for text in heads] + [part_name(part, request) for part in parts]
    ordered = sorted(rows, key=lambda row: row["report"] is None)
    body = [_row(row, report, parents, parts, request) for row in ordered]
    title = words(Text("Parents, averages, evolved", "親・平均・進化"), request)
    note = Text(
        "Gains are over the plain average, paired by question. The report split was asked of the "
        "choice, the baselines and what else a search could have come up with.",
        "差は質問ごとに単純平均と比べた値です。報告用の質問は、選ばれた混合・比較対象・ほかに"
        "選ばれ得た混合だけに使っています。",
    )
    return (
        f'<h4 class="subhead">{title}</h4><p class="note">{words(note, request)}</p>'
        f'<div class="candidates">{table(names, body)}</div>'
    )


def _row(
    row: Mapping[str, Any],
    report: Mapping[str, Any],
    parents: Sequence[str],
    parts: Sequence[str],
    request: gr.Request,
) -> list[str]:
    chosen = row["id"] == report["chosen"]["id"]
    mark = f' <span class="chip good">{words(Text("chosen", "採用"), request)}</span>'
    told, selected = row["report"] or {}, row["selection"] or {}
    gain, baseline = told.get("gain"), row["id"] == "uniform"
    kind = "" if baseline or not told else state_of_gain(gain)
    zero = words(Text("0, what all are compared with", "0（比較の基準）"), request)
    means = told.get("parts", {})
    return [
        f"<td><b>{words(name_of(row, parents), request)}</b>{mark if chosen else ''}</td>",
        f'<td class="num">{gain_text(row["search"])}</td>',
        f'<td class="num">{gain_text((selected.get("gain") or {}).get("value"))}</td>',
        f'<td class="num gain {kind}">{zero if baseline else interval_text(gain)}</td>',
        f'<td class="num">{told.get("unscored", UNKNOWN)}</td>',
        *(f'<td class="num">{part_text(part, means.get(part))}</td>' for part in parts),
    ]


def _claims_html(report: Mapping[str, Any], parents: Sequence[str], request: gr.Request) -> str:
    """What was claimed before the report split was opened, beside what it gave."""
    heads = [
        Text("Model", "モデル"),
        Text("Claimed", "報告前の見積もり"),
        Text("True [95 %]", "実際［95%］"),
        Text("Claimed too much", "見積もりすぎ"),
    ]
    body = []
    for claim in report["claims"]:
        claimed, true = claim["claimed"], claim["true"]
        value = (true or {}).get("value")
        over = None if claimed is None or value is None else claimed - value
        body.append(
            [
                f"<td>{words(name_of(claim['candidate'], parents), request)}</td>",
                f'<td class="num">{gain_text(claimed)}</td>',
                f'<td class="num">{interval_text(true)}</td>',
                f'<td class="num">{gain_text(over)}</td>',
            ]
        )
    title = words(Text("Claims and truth", "見積もりと実際"), request)
    named = [say(text, request) for text in heads]
    return f'<h4 class="subhead">{title}</h4><div class="candidates">{table(named, body)}</div>'


def _told_html(report: Mapping[str, Any], request: gr.Request) -> str:
    """A paragraph on each matter, with this run's numbers."""
    title = words(Text("What happened, with this run's numbers", "この実行で起きたこと"), request)
    told = "".join(f"<p>{words(Text(**one), request)}</p>" for one in report.get("told", []))
    return f'<details class="fold told"><summary>{title}</summary>{told}</details>' if told else ""


def _recipe_html(
    run: Run, report: Mapping[str, Any], parents: Sequence[str], request: gr.Request
) -> str:
    recipe = recipe_of(run)
    if not recipe:
        return ""
    heat = heat_html(
        Text("Weights of the choice", "選ばれた混合の重み"),
        report["chosen"].get("coefficients"),
        parents,
        request,
    )
    title = Text("Recipe, as mergekit reads it", "レシピ（mergekit で読める形式）")
    box = code_box(title, "merge-recipe-yaml", recipe, request, f"{config_of(run).name}-recipe")
    summary = words(Text("Recipe and weights", "レシピと重み"), request)
    return (
        f'<details class="fold"><summary>{summary}</summary><div class="heats">{heat}</div>{box}'
        "</details>"
    )
