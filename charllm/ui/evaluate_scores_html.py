"""One judge's tables of an evaluation, all escaped: means, the matrix, paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr

from charllm.core.evaluation.study_table import Pair
from charllm.core.variants import Variant
from charllm.data.errors import Text
from charllm.services.evaluate_matrix import matrix_of
from charllm.ui.evaluate_html import check_state, interval_cell, name_text, number_text
from charllm.ui.judge_html import table
from charllm.ui.train_html import words
from charllm.ui.words import say

Report = Mapping[str, Any]
SURE = 0.05
"""A difference whose corrected p value is below this is called one."""


def judge_name(judge: Mapping[str, Any]) -> str:
    """Who scored by which rubric, as text; of a judge or a ruler of the report."""
    return f"{judge['judge']} · {judge['rubric']}"


def judge_html(
    report: Report, judge: Mapping[str, Any], variants: Sequence[Variant], request: gr.Request
) -> str:
    state, kind = check_state(judge["quality"])
    low, high = judge["scale"]
    beside = Text(
        f"scale {low}–{high}, version {judge['version']}",
        f"尺度 {low}～{high}、バージョン {judge['version']}",
    )
    head = (
        f'<h4 class="subhead">{escape(judge_name(judge))} '
        f'<span class="verdictword {kind}">{words(state, request)}</span> '
        f'<span class="note">{words(beside, request)}</span></h4>'
    )
    return (
        f'<section class="judged" data-judge="{escape(judge["key"])}">{head}'
        f"{_scores_html(report, judge, request)}{_matrix_html(judge, variants, request)}"
        f"{_differences_html(report, judge, request)}</section>"
    )


def _scores_html(report: Report, judge: Mapping[str, Any], request: gr.Request) -> str:
    heads = (
        Text("Variant", "構成"),
        Text("Mean [95 %]", "平均 [95%区間]"),
        Text("Questions", "質問"),
        Text("Replies", "返答"),
        Text("Unscored", "採点不能"),
        Text("Gated", "ゲート不合格"),
    )
    rows = [
        [
            f"<td>{name_text(report, one['variant'], request)}</td>",
            interval_cell(one["mean"], request, kind="strong"),
            *(count_cell(one[key]) for key in ("queries", "replies")),
            *(count_cell(one[key], "bad" if one[key] else "") for key in ("unscored", "gated")),
        ]
        for one in judge["summaries"]
    ]
    return f'<div class="wide">{table([say(text, request) for text in heads], rows)}</div>'


def count_cell(value: int, kind: str = "") -> str:
    return f'<td class="num {kind}">{value:,}</td>'


def _matrix_html(judge: Mapping[str, Any], variants: Sequence[Variant], request: gr.Request) -> str:
    """The study's matrix; nothing where no weights were asked both without and with facts."""
    pairs = matrix_of(judge, variants)
    if not pairs:
        return ""
    heads = (
        Text("Weights", "重み"),
        Text("Without RAG", "RAG なし"),
        Text("With RAG", "RAG あり"),
        Text("RAG adds [95 %]", "RAG による差 [95%区間]"),
        Text("p (Holm)", "p 値（Holm）"),
    )
    rows = [_matrix_row(pair, request) for pair in pairs]
    title = words(Text("Fine-tuning × RAG", "ファインチューニング × RAG"), request)
    shown = table([say(text, request) for text in heads], rows)
    return f'<h5 class="subhead">{title}</h5><div class="wide matrix">{shown}</div>'


def _matrix_row(pair: Pair, request: gr.Request) -> list[str]:
    means = [one.mean.as_json() if one else None for one in (pair.without, pair.with_rag)]
    gain = pair.gain
    return [
        f"<td>{escape(pair.weights)}</td>",
        *(interval_cell(mean, request) for mean in means),
        interval_cell(gain.difference.as_json() if gain else None, request, "sign", "strong"),
        f'<td class="num">{number_text(gain.p_holm if gain else None, "p")}</td>',
    ]


def _differences_html(report: Report, judge: Mapping[str, Any], request: gr.Request) -> str:
    differences = judge["differences"]
    if not differences:
        return ""
    heads = (
        Text("A", "A"),
        Text("B", "B"),
        Text("A − B [95 %]", "A − B [95%区間]"),
        Text("Questions", "質問"),
        Text("p", "p 値"),
        Text("p (Holm)", "p 値（Holm）"),
        Text("Said plainly", "つまり"),
    )
    rows = [_difference_row(report, one, request) for one in differences]
    note = Text(
        "Paired by question and resampled over questions. Holm's p holds for all rows together: "
        "below 0.05 the difference is more than chance.",
        "質問ごとに対応させ、質問を単位に再標本化しています。Holm の p 値は表全体に対するもので、"
        "0.05 未満なら偶然とは言えない差です。",
    )
    title = words(Text("Paired differences", "対応のある差"), request)
    return (
        f'<h5 class="subhead">{title}</h5><p class="note">{words(note, request)}</p>'
        f'<div class="wide">{table([say(text, request) for text in heads], rows)}</div>'
    )


def _difference_row(report: Report, one: Mapping[str, Any], request: gr.Request) -> list[str]:
    text, kind = _plainly(report, one, request)
    return [
        f"<td>{name_text(report, one['a'], request)}</td>",
        f"<td>{name_text(report, one['b'], request)}</td>",
        interval_cell(one["difference"], request, "sign", "strong"),
        count_cell(one["queries"]),
        f'<td class="num">{number_text(one["p"], "p")}</td>',
        f'<td class="num">{number_text(one["p_holm"], "p")}</td>',
        f'<td><span class="verdictword {kind}">{escape(text)}</span></td>',
    ]


def _plainly(report: Report, one: Mapping[str, Any], request: gr.Request) -> tuple[str, str]:
    value, p = one["difference"]["value"], one["p_holm"]
    if value is None or p is None:
        return say(Text("too few to tell", "件数不足"), request), "fair"
    if p >= SURE:
        return say(Text("cannot tell", "判断できません"), request), "fair"
    better = one["a"] if value > 0 else one["b"]
    labels = {item["name"]: item["label"] for item in report["variants"]}
    name = say(Text(**labels[better]), request) if better in labels else better
    return say(Text(f"{name} is better", f"{name} が上"), request), "good"
