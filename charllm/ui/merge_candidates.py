"""The candidates of an evolution as a table, and what one of them has said; all escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import gradio as gr

from charllm.data.errors import Text
from charllm.services.merge_view import Answer, Row, Sheet
from charllm.ui.judge_html import UNKNOWN, table
from charllm.ui.merge_html import gain_text, heat_html, name_of, part_name, part_text, short
from charllm.ui.train_html import words
from charllm.ui.words import say

LISTED = 40
"""Candidates in the table: the best ones, and every baseline."""


def candidates_html(sheet: Sheet | None, parents: Sequence[str], request: gr.Request) -> str:
    """The best candidates and every baseline; a row's button shows what it has said."""
    if sheet is None:
        return ""
    rows = sheet.rows()
    shown = [
        row for place, row in enumerate(rows) if place < LISTED or row.candidate.role != "candidate"
    ]
    parts = sorted({part for row in shown for part in row.parts})
    names_ = [short(name) for name in parents]
    heads = [
        Text("Candidate", "候補"),
        Text("Generation", "世代"),
        Text("Gain", "差"),
        Text("Queries", "質問"),
    ]
    names = [say(text, request) for text in heads] + [part_name(part, request) for part in parts]
    note = Text(
        f"{len(rows)} candidates on the search queries. Gains are over the plain average on the "
        "same queries; the largest are mostly luck, the report decides.",
        f"探索用の質問での候補 {len(rows)} 個です。差は同じ質問での単純平均との差です。大きい値は"
        "たいてい偶然なので、判断は報告で行います。",
    )
    body = [_candidate_row(row, names_, parts, request) for row in shown]
    title = words(Text("Candidates", "候補"), request)
    return (
        f'<h4 class="subhead">{title}</h4><p class="note">{words(note, request)}</p>'
        f'<div class="candidates">{table([*names, ""], body)}</div>'
    )


def _candidate_row(
    row: Row, parents: Sequence[str], parts: Sequence[str], request: gr.Request
) -> list[str]:
    one = row.candidate
    label = f"<b>{escape(one.id)}</b>"
    if one.role != "candidate":
        label = f"<b>{words(name_of(vars(one), parents), request)}</b>"
    if one.origin:
        label += f' <span class="chip">{words(Text("by hand", "手動"), request)}</span>'
    failed = row.failure is not None
    say_it = words(Text("Replies", "返答"), request)
    gain = words(Text("failed", "失敗"), request) if failed else gain_text(row.gain)
    kind = "bad" if failed else "up" if (row.gain or 0) > 0 else ""
    title = f' title="{words(row.failure, request)}"' if row.failure else ""
    return [
        f'<td data-candidate="{escape(one.id)}">{label}</td>',
        f'<td class="num">{one.generation or ""}</td>',
        f'<td class="num gain {kind}"{title}>{gain}</td>',
        f'<td class="num">{row.n}</td>',
        *(f'<td class="num">{part_text(part, row.parts.get(part))}</td>' for part in parts),
        f'<td><button type="button" class="small" data-do="candidate" data-id="{escape(one.id)}">'
        f"{say_it}</button></td>",
    ]


def candidate_html(
    sheet: Sheet | None, name: str, parents: Sequence[str], request: gr.Request
) -> str:
    """One candidate: its weights, and each question with its reply, the worst first."""
    one = sheet.candidate(name) if sheet and name else None
    if sheet is None or one is None:
        return ""
    heat = heat_html(
        Text(f"Weights of {name}", f"{name} の重み"),
        {"weights": one.coefficients.weights},
        [short(parent) for parent in parents],
        request,
    )
    failure = sheet.journal.failure(name)
    why = f'<div class="banner bad">{words(failure, request)}</div>' if failure else ""
    answers = sheet.answers(name)
    heads = [
        Text("Question", "質問"),
        Text("Reply", "返答"),
        Text("Parts", "内訳"),
        Text("Gain", "差"),
    ]
    body = [_answer_row(answer, request) for answer in answers]
    said = table([say(text, request) for text in heads], body) if body else ""
    return (
        f'<div class="stacked" data-shown="{escape(name)}"><div class="heats">{heat}</div>{why}'
        f'<div class="replies">{said}</div></div>'
    )


def _answer_row(answer: Answer, request: gr.Request) -> list[str]:
    line = Text("held-out line", "評価用のせりふ")
    asked = escape(answer.question) or f'<span class="note">{words(line, request)}</span>'
    chips = "".join(
        f'<span class="chip">{escape(part_name(part, request))} {part_text(part, value)}</span>'
        for part, value in answer.parts.items()
    )
    return [
        f'<td class="asked">{asked}<span class="note">{escape(answer.query)}</span></td>',
        f'<td class="wide"><div class="said">{escape(answer.reply) or UNKNOWN}</div></td>',
        f'<td><div class="chips">{chips}</div></td>',
        f'<td class="num">{gain_text(answer.gain)}</td>',
    ]
