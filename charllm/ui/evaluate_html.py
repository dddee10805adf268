"""Pieces of HTML of the Evaluate tab, all escaped: what a start takes, the recipe, intervals."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import gradio as gr

from charllm.core.evaluation.evaluate_config import EvaluateConfig
from charllm.data.errors import Text
from charllm.services.evaluate_forms import Look, file_command, yaml_of
from charllm.services.judge_choice import title
from charllm.ui.judge_html import UNKNOWN, figures, money_text, table
from charllm.ui.merge_html import code_box
from charllm.ui.page import banner
from charllm.ui.runs_tab import seconds_text
from charllm.ui.train_html import words
from charllm.ui.words import language_of, say

REMARKS = 3
"""Remarks on the query set that are shown before a start; the report has all of them."""
CHANGE = Text("Choose or check the judge", "ジャッジを選ぶ・検査する")


# --- numbers ------------------------------------------------------------------------------------


def number_text(value: float | None, unit: str = "") -> str:
    """``unit`` "share" in percent, "p" as a p value, "points" whole, "sign" with its sign."""
    if value is None:
        return UNKNOWN
    if unit == "p":
        return "< 0.001" if value < 0.001 else f"{value:.3f}"
    if unit == "share":
        return f"{100 * value:.0f}%"
    if unit == "points":
        return f"{value:.0f}"
    return f"{value:+.2f}".replace("-", "−") if unit == "sign" else f"{value:.2f}"


def interval_text(interval: Mapping[str, Any] | None, unit: str = "") -> str:
    """``4.21 [3.98, 4.40]`` of an interval as JSON; the value alone where it has no bounds."""
    if not interval or interval.get("value") is None:
        return UNKNOWN
    value = number_text(interval["value"], unit)
    low, high = interval.get("low"), interval.get("high")
    if low is None or high is None:
        return value
    return f"{value} [{number_text(low, unit)}, {number_text(high, unit)}]"


def interval_cell(
    interval: Mapping[str, Any] | None, request: gr.Request, unit: str = "", kind: str = ""
) -> str:
    """A table cell; why there is no interval is told where the pointer rests."""
    why = (interval or {}).get("reason")
    tip = f' title="{words(Text(**why), request)}"' if why else ""
    return f'<td class="num {kind}"{tip}>{interval_text(interval, unit)}</td>'


# --- the look before the start ------------------------------------------------------------------


def look_html(config: EvaluateConfig, look: Look, request: gr.Request) -> str:
    """How many replies, how long, what each judge takes and how it has done in its check."""
    if look.quote is None:
        told = look.problem.in_(language_of(request)) if look.problem else ""
        return f'<div class="stacked" data-look>{banner(told, "bad")}</div>'
    quote = look.quote
    cells = [
        (str(len(quote["variants"])), Text("variants", "構成")),
        (str(quote["queries"]), Text("questions", "質問")),
        (f"{quote['replies']:,}", Text("replies", "返答")),
        (
            f"~{seconds_text(look.seconds)}" if look.seconds else UNKNOWN,
            Text("expected time", "予想時間"),
        ),
    ]
    boxes = figures([(value, say(text, request), "") for value, text in cells])
    remarks = "".join(f"<li>{words(text, request)}</li>" for text in look.remarks[:REMARKS])
    more = len(look.remarks) - REMARKS
    if more > 0:
        remarks += f"<li>{words(Text(f'and {more} more', f'ほか {more} 件'), request)}</li>"
    noted = f'<div class="banner"><ul>{remarks}</ul></div>' if remarks else ""
    return (
        f'<div class="stacked" data-look>{boxes}{noted}{_judges_html(config, quote, request)}</div>'
    )


def _judges_html(config: EvaluateConfig, quote: Mapping[str, Any], request: gr.Request) -> str:
    heads = (
        Text("Judge", "ジャッジ"),
        Text("Check", "検査"),
        Text("Calls", "呼び出し"),
        Text("About", "費用（約）"),
    )
    rows = []
    for judge, told in zip(config.judges, quote["judges"], strict=True):
        state, kind = check_state(told["quality"])
        rows.append(
            [
                f"<td>{words(title(judge), request)}</td>",
                f'<td><span class="verdictword {kind}">{words(state, request)}</span></td>',
                f'<td class="num">{told["calls"]:,}</td>',
                f'<td class="num">{money_text(told["money"])}</td>',
            ]
        )
    none = Text("No judge: replies alone are kept.", "ジャッジなし：返答だけを保存します。")
    shown = table([say(text, request) for text in heads], rows) if rows else words(none, request)
    button = words(CHANGE, request)
    return (
        f'{shown}<div class="measures"><button type="button" class="small" '
        f'data-tab="#tab-judge-button">{button}</button></div>'
    )


def check_state(mark: Mapping[str, Any] | None) -> tuple[Text, str]:
    """Where a judge stands with its check (a mark as JSON) in a word, and the colour of that."""
    if not mark or not mark.get("date"):
        return Text("never checked", "未検査"), "fair"
    return (
        (Text("passed", "合格"), "good")
        if mark["passed"]
        else (Text("not passed", "不合格"), "bad")
    )


def status_html(look: Look | None, error: Text | None, request: gr.Request) -> str:
    """Over the form: why it cannot start, or that it can."""
    if error is not None:
        return banner(say(error, request), "bad")
    if look is None or look.quote is None or look.problem is not None:
        problem = look.problem if look else None
        return banner(problem.in_(language_of(request)) if problem else "", "bad")
    replies, judges = look.quote["replies"], len(look.quote["judges"])
    ready = Text(
        f"Ready: {replies:,} replies, {judges} {'judge' if judges == 1 else 'judges'}.",
        f"開始できます。返答 {replies:,} 件、ジャッジ {judges} 種類です。",
    )
    return banner(say(ready, request), "good")


# --- the recipe ---------------------------------------------------------------------------------


def recipe_html(config: EvaluateConfig | None, request: gr.Request) -> str:
    """The YAML and the command that start the same evaluation, to be copied or saved."""
    if config is None:
        note = Text("The YAML appears when the form is valid.", "入力が正しくなると表示されます。")
        return f'<p class="note">{words(note, request)}</p>'
    command = Text("Command, with the file saved", "コマンド（ファイルを保存した場合）")
    return (
        '<div class="stacked">'
        + code_box(Text("YAML", "YAML"), "evaluate-yaml", yaml_of(config), request, config.name)
        + code_box(command, "evaluate-command", file_command(config), request)
        + "</div>"
    )


def name_text(report: Mapping[str, Any], variant: str, request: gr.Request) -> str:
    """A variant's label with its name, escaped."""
    labels = {one["name"]: one["label"] for one in report.get("variants", [])}
    label = say(Text(**labels[variant]), request) if variant in labels else variant
    beside = "" if label == variant else f' <span class="note">{escape(variant)}</span>'
    return f"{escape(label)}{beside}"
