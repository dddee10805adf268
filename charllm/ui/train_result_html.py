"""What a training run has made, all escaped: its replies at each evaluation, and its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr

from charllm.data.errors import Text
from charllm.services.runs import Run
from charllm.services.train_view import Replies, Seen
from charllm.ui.judge_html import UNKNOWN, figures, gate_text, percent, table
from charllm.ui.runs_tab import seconds_text
from charllm.ui.train_html import words
from charllm.ui.words import say

COMPARED = 3
"""Evaluations whose replies stand side by side: the first and the newest ones."""
EXPORTS = {
    "merged": Text("Merge into 16-bit weights", "16 ビットの重みにマージ"),
    "gguf": Text("Export to GGUF", "GGUF に書き出す"),
}


# --- replies ------------------------------------------------------------------------------------


def replies_html(replies: Sequence[Replies], request: gr.Request) -> str:
    """Every evaluation in a line, and the replies of some side by side, question by question."""
    if not replies:
        return ""
    title = Text("The same questions at each evaluation", "評価のたびに同じ質問をした結果")
    heads = [
        Text("Epoch", "エポック"),
        Text("Ended by themselves", "自分で終わった返答"),
        Text("Nothing for the gate", "ゲートを通過"),
        Text("Style", "文体"),
    ]
    lines = [[f"<td>{escape(cell)}</td>" for cell in _evaluation(one)] for one in replies]
    summary = table([say(text, request) for text in heads], lines)
    return (
        f'<div class="stacked"><h4 class="subhead">{words(title, request)}</h4>{summary}'
        f"{_side_by_side(replies, request)}</div>"
    )


def _evaluation(one: Replies) -> tuple[str, str, str, str]:
    count = len(one.samples)
    clean = UNKNOWN if one.clean is None else f"{one.clean} / {count}"
    return f"{one.epoch:g}", f"{one.stopped} / {count}", clean, percent(one.style)


def _side_by_side(replies: Sequence[Replies], request: gr.Request) -> str:
    chosen = [replies[0], *replies[1:][-(COMPARED - 1) :]]
    epochs = [Text(f"Epoch {one.epoch:g}", f"エポック {one.epoch:g}") for one in chosen]
    question = Text("Question", "質問")
    rows = []
    for place, sample in enumerate(chosen[-1].samples):
        cells = [f'<td class="asked">{_question_html(sample, request)}</td>']
        for one in chosen:
            reply = one.samples[place] if place < len(one.samples) else None
            cells.append(f'<td class="wide">{_reply_html(reply, request) if reply else ""}</td>')
        rows.append(cells)
    heads = [say(text, request) for text in (question, *epochs)]
    return f'<div class="replies">{table(heads, rows)}</div>'


def _question_html(sample: Mapping[str, Any], request: gr.Request) -> str:
    facts = sample.get("facts") or []
    shown = Text("shown: ", "提示した事実：")
    listed = "・".join(map(str, facts))
    note = f'<span class="note">{words(shown, request)}{escape(listed)}</span>' if facts else ""
    return f"{escape(str(sample.get('question', '')))}{note}"


def _reply_html(sample: Mapping[str, Any], request: gr.Request) -> str:
    chips = []
    if not sample.get("stopped"):
        text = Text("did not end", "終わらなかった")
        chips.append(f'<span class="chip bad">{words(text, request)}</span>')
    if sample.get("gate"):
        chips.append(f'<span class="chip bad">{escape(gate_text(sample["gate"], request))}</span>')
    if sample.get("style") is not None:
        style = float(sample["style"])
        kind = "good" if style >= 0.7 else "fair" if style >= 0.4 else "bad"
        name = words(Text("style", "文体"), request)
        chips.append(f'<span class="chip {kind}">{name} {style:.0%}</span>')
    reply = escape(str(sample.get("reply", ""))) or UNKNOWN
    return f'<div class="said">{reply}</div><div class="chips">{"".join(chips)}</div>'


# --- after it -----------------------------------------------------------------------------------


def result_html(run: Run, seen: Seen, request: gr.Request) -> str:
    """What the run has published, and what can be done with it now; "" before that."""
    status, result = run.status(), run.result()
    if status.state != "done" or status.stopped or not result or "checkpoint" not in result:
        return ""
    name = str(result["checkpoint"])
    title = Text(f"{name} is ready", f"{name} ができました")
    return (
        f'<div class="banner good trained" data-checkpoint="{escape(name)}">'
        f"<b>{words(title, request)}</b>{figures(_result_cells(result, seen, request))}"
        f'<div class="measures">{_next_steps(request)}</div></div>'
    )


def _result_cells(
    result: Mapping[str, Any], seen: Seen, request: gr.Request
) -> list[tuple[str, str, str]]:
    loss = result.get("held_out_loss")
    before = seen.held_out[0]["loss"] if seen.held_out else None
    came = f"{before:.2f} → " if before is not None and loss is not None else ""
    asked = len(seen.replies[-1].samples) if seen.replies else 0
    stopped = result.get("stopped")
    ended = UNKNOWN if stopped is None else f"{stopped} / {asked}" if asked else str(stopped)
    cells = [
        (UNKNOWN if loss is None else f"{came}{loss:.2f}", Text("held-out loss", "評価用の損失")),
        (ended, Text("replies that end by themselves", "自分で終わる返答")),
        (seconds_text(result.get("seconds")) or UNKNOWN, Text("training", "学習時間")),
    ]
    if result.get("bytes"):
        cells.append((f"{result['bytes'] / 1e6:.1f} MB", Text("adapter", "アダプター")))
    whole = asked > 0 and stopped == asked
    kinds = ["", "good" if whole else "", "", ""]
    return [
        (value, say(text, request), kind) for (value, text), kind in zip(cells, kinds, strict=False)
    ]


def _next_steps(request: gr.Request) -> str:
    compare = Text("Compare with its base in the chat", "チャットでベースと比べる")
    buttons = [
        f'<button type="button" class="small primary" data-do="compare">'
        f"{words(compare, request)}</button>"
    ]
    for to, text in EXPORTS.items():
        buttons.append(
            f'<button type="button" class="small" data-do="export" data-to="{to}">'
            f"{words(text, request)}</button>"
        )
    runs = Text("Open in Runs", "「実行」タブで開く")
    buttons.append(
        f'<button type="button" class="small" data-tab="#tab-runs-button">'
        f"{words(runs, request)}</button>"
    )
    return "".join(buttons)
