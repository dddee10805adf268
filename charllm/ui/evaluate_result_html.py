"""The figures of an evaluation, all escaped: scores, differences, judges, stopping, retrieval.

Made from the report alone (``core.evaluation.report.as_json``); no figure mixes two judges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr

from charllm.core.variants import Variant
from charllm.data.errors import Text
from charllm.ui.evaluate_html import interval_cell, name_text
from charllm.ui.evaluate_scores_html import Report, count_cell, judge_html, judge_name
from charllm.ui.judge_html import figures, table
from charllm.ui.page import banner
from charllm.ui.train_html import words
from charllm.ui.words import say

TOLD = 6
"""Remarks that are shown at once; the others fold."""


def result_html(
    run_id: str, report: Report, variants: Sequence[Variant], stored: bool, request: gr.Request
) -> str:
    """Everything, with what has to be said first. ``variants`` as the run has planned them."""
    parts = [_state_html(report, stored, request), _figures_html(report, request)]
    for judge in report["judges"]:
        parts.append(judge_html(report, judge, variants, request))
    if not report["judges"]:
        nobody = Text(
            "No judge has scored these replies yet.", "まだどのジャッジも採点していません。"
        )
        parts.append(banner(say(nobody, request)))
    parts += [_between_html(report, request), _stopping_html(report, request)]
    parts.append(_retrieval_html(report, request))
    inside = "".join(filter(None, parts))
    return f'<div class="stacked evaluated" data-evaluated="{escape(run_id)}">{inside}</div>'


def _state_html(report: Report, stored: bool, request: gr.Request) -> str:
    told = [Text(**one) for one in report["told"]]
    if not stored:
        told.insert(
            0,
            Text(
                "The run has not reported these figures itself: they are worked out from what it "
                "has kept so far.",
                "この数値は実行がまだ報告していないため、保存済みの分から計算しています。",
            ),
        )
    if not told:
        return ""
    shown = "".join(f"<li>{words(text, request)}</li>" for text in told[:TOLD])
    rest = "".join(f"<li>{words(text, request)}</li>" for text in told[TOLD:])
    if rest:
        more = Text(f"{len(told) - TOLD} more", f"ほか {len(told) - TOLD} 件")
        rest = (
            f'<details class="fold"><summary>{words(more, request)}</summary><ul>{rest}</ul>'
            "</details>"
        )
    bad = "" if report["complete"] else " bad"
    return f'<div class="banner told{bad}"><ul>{shown}</ul>{rest}</div>'


def _figures_html(report: Report, request: gr.Request) -> str:
    preset = report["preset"]
    cells = [
        (str(len(report["variants"])), Text("variants", "構成")),
        (str(report["queries"]), Text("questions", "質問")),
        (f"{report['replies']:,} / {report['wanted']:,}", Text("replies", "返答")),
        (str(report["failed"]), Text("failed", "生成できず")),
        (str(len(report["judges"])), Text("judges", "ジャッジ")),
        (
            f"{preset['name']} · {preset['temperature']:g} · {preset['max_new_tokens']}",
            Text("preset · temperature · tokens", "生成設定・温度・トークン"),
        ),
    ]
    return figures([(value, say(text, request), "") for value, text in cells])


# --- judges, stopping, retrieval ----------------------------------------------------------------


def _between_html(report: Report, request: gr.Request) -> str:
    """Every two judges on the replies that both scored; no average of theirs exists."""
    if not report["between"]:
        return ""
    heads = (
        Text("Judge", "ジャッジ"),
        Text("Other judge", "もう一方"),
        Text("n", "n"),
        Text("Severity (other − judge)", "甘さの差（もう一方 − ジャッジ）"),
        Text("Kappa", "κ"),
        Text("Rank correlation", "順位相関"),
        Text("Same order of variants", "構成の順位が一致"),
    )
    rows = [
        [
            *(f"<td>{escape(judge_name(one[side]))}</td>" for side in ("one", "other")),
            count_cell(one["n"]),
            interval_cell(one["severity"], request, "sign"),
            interval_cell(one["kappa"], request),
            interval_cell(one["spearman"], request),
            f'<td class="num">{one["same_order"]} / {one["pairs"]}</td>',
        ]
        for one in report["between"]
    ]
    return _section(Text("Judges side by side", "ジャッジの比較"), heads, rows, request)


def _stopping_html(report: Report, request: gr.Request) -> str:
    if not report["stopping"]:
        return ""
    heads = (
        Text("Variant", "構成"),
        Text("n", "n"),
        Text("Ended by itself", "自分で終了"),
        Text("Median length", "長さの中央値"),
        Text("Asked", "目安"),
        Text("Within range", "目安の範囲内"),
        Text("Repeated n-grams", "n-gram の反復"),
        Text("Loops", "ループ"),
        Text("Markup leaks", "記号の混入"),
    )
    rows = [_stopping_row(report, one, request) for one in report["stopping"]]
    said = "".join(
        f"<li><b>{name_text(report, one['variant'], request)}</b> "
        f"{words(Text(**text), request)}</li>"
        for one in report["stopping"]
        for text in one["said"]
    )
    said = f'<div class="banner"><ul>{said}</ul></div>' if said else ""
    title = Text("Stopping and repetition", "終了と繰り返し")
    return _section(title, heads, rows, request) + said


def _stopping_row(report: Report, one: Mapping[str, Any], request: gr.Request) -> list[str]:
    shares = ("in_range", "repeated", "looping", "leaking")
    return [
        f"<td>{name_text(report, one['variant'], request)}</td>",
        count_cell(one["n"]),
        interval_cell(one["ended"], request, "share", "strong"),
        f'<td class="num">{one["length"]["middle"]:.0f}</td>',
        count_cell(one["asked"]),
        *(interval_cell(one[key], request, "share") for key in shares),
    ]


def _retrieval_html(report: Report, request: gr.Request) -> str:
    found = report["retrieval"]
    if not found:
        return ""
    heads = (
        Text("Questions", "質問"),
        Text("With a known fact", "正解の事実がある質問"),
        Text("Right fact shown", "正しい事実を提示"),
        Text("Right fact among the nearest", "正しい事実が上位に入る"),
        Text("Fact shown where none answers", "不要な事実を提示"),
        Text("Facts in a prompt", "プロンプトの事実数"),
    )
    row = [
        count_cell(found["queries"]),
        count_cell(found["with_gold"]),
        *(interval_cell(found[key], request, "share") for key in ("found", "ranked", "unasked")),
        interval_cell(found["shown"], request),
    ]
    return _section(Text("Retrieval (RAG)", "検索（RAG）"), heads, [row], request)


def _section(
    title: Text, heads: Sequence[Text], rows: Sequence[Sequence[str]], request: gr.Request
) -> str:
    shown = table([say(text, request) for text in heads], rows)
    return f'<h4 class="subhead">{words(title, request)}</h4><div class="wide">{shown}</div>'
