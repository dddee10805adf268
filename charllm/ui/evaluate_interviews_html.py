"""What the page of interviews shows before and while they go, all escaped: quote, list, state."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import gradio as gr

from charllm.core.evaluation.five import CRITERIA
from charllm.core.evaluation.interview_config import InterviewConfig, InterviewerConfig
from charllm.data.config import Paths
from charllm.data.errors import Text
from charllm.services.interview_again import judgings
from charllm.services.interview_forms import (
    NO_JUDGE,
    Look,
    config_of,
    file_command,
    interview_runs,
    judge_words,
    yaml_of,
)
from charllm.services.runs import Run
from charllm.ui.evaluate_html import check_state
from charllm.ui.judge_html import UNKNOWN, empty, figures, money_text, table
from charllm.ui.live_html import runs_table, state_parts, step_text
from charllm.ui.merge_html import code_box
from charllm.ui.page import banner, progress_bar
from charllm.ui.runs_tab import seconds_text, state_chip
from charllm.ui.train_html import words
from charllm.ui.train_live_html import run_label
from charllm.ui.words import language_of, say

SHOWN = 20
"""Runs in the list."""
NO_RUNS = Text(
    "Nobody has been interviewed yet. Open the form above, look at what it takes, and start.",
    "まだインタビューをしていません。上のフォームで内容と見積もりを確かめて、開始してください。",
)
PART = Text(
    "Stopped half-way. Resume goes on where it stopped; no kept answer is asked for again.",
    "途中で止まっています。「再開」で続きから進み、保存済みの返答は作り直しません。",
)


# --- before the start ---------------------------------------------------------------------------


def status_html(look: Look | None, error: Text | None, request: gr.Request) -> str:
    """Over the form: why they cannot start, or that they can."""
    if error is not None:
        return banner(say(error, request), "bad")
    if look is None or look.quote is None or look.problem is not None:
        problem = look.problem if look else None
        return banner(problem.in_(language_of(request)) if problem else "", "bad")
    single, turns = look.quote["single"], look.quote["turns"]
    ready = Text(
        f"Ready: {single:,} single questions and {turns:,} turns of interviews.",
        f"開始できます。単発の質問 {single:,} 件、インタビュー {turns:,} ターンです。",
    )
    return banner(say(ready, request), "good")


def look_html(config: InterviewConfig, look: Look, request: gr.Request) -> str:
    """How many replies, how long, what the interviewer and each criterion's judge take."""
    quote = look.quote
    if quote is None:  # the line over the form says why
        return ""
    cells = [
        (str(len(quote["variants"])), Text("variants", "構成")),
        (f"{quote['single'] + quote['turns']:,}", Text("replies", "返答")),
        (f"{quote['longest']:,}", Text("tokens at most", "最大トークン数")),
        (
            f"~{seconds_text(look.seconds)}" if look.seconds else UNKNOWN,
            Text("expected time", "予想時間"),
        ),
        (money_text(look.money), Text("money, about", "費用（約）")),
    ]
    boxes = figures([(value, say(text, request), "") for value, text in cells])
    heads = (
        Text("Who is asked", "呼び出し先"),
        Text("Check", "検査"),
        Text("Calls", "呼び出し"),
        Text("About", "費用（約）"),
    )
    rows = [_asks_row(quote["interviewer"], request)]
    rows += [quote_row(one, request) for one in quote["judges"]]
    shown = table([say(text, request) for text in heads], rows)
    who = say(judge_words(config.judge) if config.judge else NO_JUDGE, request)
    judge = f'<p class="note">{words(Text("Judge: ", "ジャッジ："), request)}{escape(who)}</p>'
    return f'<div class="stacked" data-look>{boxes}{shown}{judge}</div>'


def _asks_row(told: Mapping[str, Any], request: gr.Request) -> list[str]:
    name = interviewer_text(told["kind"], told["model"])
    who = Text(f"Interviewer: {name.en}", f"質問：{name.ja}")
    return [
        f"<td>{words(who, request)}</td>",
        "<td></td>",
        f'<td class="num">{told["calls"]:,}</td>',
        f'<td class="num">{money_text(told["money"])}</td>',
    ]


def quote_row(told: Mapping[str, Any], request: gr.Request) -> list[str]:
    """What one criterion takes, as ``quote_interview`` tells it."""
    state, kind = check_state(told["quality"])
    label = words(CRITERIA[told["criterion"]].label, request)
    return [
        f'<td>{label} <span class="note">{escape(told["rubric"])}</span></td>',
        f'<td><span class="verdictword {kind}">{words(state, request)}</span></td>',
        f'<td class="num">{told["calls"]:,}</td>',
        f'<td class="num">{money_text(told["money"])}</td>',
    ]


def interviewer_text(kind: str, model: str) -> Text:
    return Text("the fixed questions", "決まった質問") if kind == "list" else Text(model, model)


def recipe_html(config: InterviewConfig | None, request: gr.Request) -> str:
    """The YAML and the command that start the same interviews, to be copied or saved."""
    if config is None:
        note = Text("The YAML appears when the form is valid.", "入力が正しくなると表示されます。")
        return f'<p class="note">{words(note, request)}</p>'
    command = Text("Command, with the file saved", "コマンド（ファイルを保存した場合）")
    file = code_box(Text("YAML", "YAML"), "interviews-yaml", yaml_of(config), request, config.name)
    shown = code_box(command, "interviews-command", file_command(config), request)
    return f'<div class="stacked">{file}{shown}</div>'


# --- the runs -----------------------------------------------------------------------------------


def run_choices(paths: Paths) -> list[tuple[str, str]]:
    return [(run_label(run), run.id) for run in interview_runs(paths)[:SHOWN]]


def table_html(paths: Paths, chosen: str | None, request: gr.Request) -> str:
    """Every run with its variants, its interviewer, its progress and its state."""
    runs = interview_runs(paths)[:SHOWN]
    if not runs:
        return empty(NO_RUNS, request)
    what = (Text("Variants", "構成"), Text("Interviewer", "質問する人"))
    return runs_table(runs, chosen, what, lambda run: _what(config_of(run), request), request)


def _what(config: InterviewConfig, request: gr.Request) -> tuple[str, str]:
    names = [one if isinstance(one, str) else one.name for one in config.variants]
    asks: InterviewerConfig = config.interviewer
    return ", ".join(names), say(interviewer_text(asks.kind, asks.model), request)


def detail_html(paths: Paths, run: Run, request: gr.Request) -> str:
    """What it does now, how far it is, why it waits or failed; the last judge after it, and those
    that are at work."""
    status = run.status()
    parts = state_parts(paths, run, status, request)
    if status.resumable:
        parts.append(f'<span class="note">{words(PART, request)}</span>')
    bad = "bad" if status.state in ("failed", "crashed") else ""
    told = f'<div class="banner {bad}" data-state="{status.state}">{"".join(parts)}</div>'
    asked = judgings(paths, run)
    told_of = [one for n, one in enumerate(asked) if not n or not one.status().ended_]
    judged = "".join(_judging(one, request) for one in told_of)
    return f'<div class="stacked">{told}{judged}</div>'


def _judging(run: Run, request: gr.Request) -> str:
    """A judge that was asked about the kept turns."""
    status = run.status()
    why = f" {words(status.error.text, request)}" if status.error else ""
    bar = progress_bar(status.progress.share) if status.live else ""
    title = words(Text("Judging", "採点"), request)
    return (
        f'<div class="banner" data-rejudge="{status.state}"><span>{title} '
        f"{state_chip(status, request)} {escape(step_text(status, request))}{why}</span>{bar}</div>"
    )
