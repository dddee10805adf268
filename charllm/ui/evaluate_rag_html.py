"""The RAG report as HTML, all escaped: figures, what was used, facts, both replies side by side."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import gradio as gr

from charllm.core.evaluation.rag_page import HOW, told
from charllm.core.evaluation.rag_report import BothReplies, FactRow, RagReport, answers_to
from charllm.core.statistics import Interval
from charllm.core.variants import Variant
from charllm.data.errors import Text
from charllm.data.text import first_lines
from charllm.services.evaluate_rag import Step, Swept
from charllm.ui.evaluate_html import interval_cell, interval_text
from charllm.ui.judge_html import UNKNOWN, empty, figures, table
from charllm.ui.page import banner, progress_bar
from charllm.ui.train_html import words
from charllm.ui.words import say

MOST = 50
"""Questions that are listed with their replies at once."""
FREE = Text("Questions that no fact answers", "正解の事実がない質問")
NO_RUN = Text(
    "Nothing has been evaluated here yet. Under Set up, choose a model's two columns (without RAG "
    "and with it) and start.",
    "まだ評価がありません。「設定」で、同じモデルの RAG なしと RAG ありの2列を選んで開始して"
    "ください。",
)
NOT_BEGUN = Text(
    "This evaluation has not begun to ask yet.", "この評価はまだ質問を始めていません。"
)
NO_PAIR = Text(
    "This evaluation did not ask the same weights both without RAG and with it, so what RAG does "
    "cannot be told. Under Set up, tick both columns of a pair and start again:",
    "この評価には、同じ重みで RAG なしとありの両方の返答がないため、RAG の効果が分かりません。"
    "「設定」で次のどれかの2列を選び、もう一度評価してください。",
)
EITHER = Text(
    "“2 × 2: RAG × fine-tuning” ticks them too.",
    "「2×2：RAG × ファインチューニング」でも選べます。",
)


# --- where there is nothing to show -------------------------------------------------------------


def no_pair_html(pairs: Sequence[tuple[Variant, Variant]], request: gr.Request) -> str:
    """What to do, with the columns that make a pair; the plain one comes first."""
    columns = [(plain.label, rag.label) for plain, rag in pairs]
    items = "".join(
        f"<li>{words(Text(f'“{a.en}” and “{b.en}”', f'「{a.ja}」と「{b.ja}」'), request)}</li>"
        for a, b in columns
    )
    button = words(Text("Open Set up", "「設定」を開く"), request)
    return (
        f'<div class="banner"><span>{words(NO_PAIR, request)}</span><ul>{items}</ul>'
        f'<span class="note">{words(EITHER, request)}</span>'
        '<div class="measures"><button type="button" class="small" '
        f'data-tab="#evaluate-tab-setup-button">{button}</button></div></div>'
    )


# --- the report ---------------------------------------------------------------------------------


def about_html(run: str, report: RagReport, request: gr.Request) -> str:
    """Which evaluation is read, and which two of its variants."""
    text = Text(
        f"{run}: {report.with_rag} (with RAG) and {report.without} (without). Another evaluation "
        "is chosen under Results.",
        f"{run}：{report.with_rag}（RAG あり）と {report.without}（なし）。ほかの評価は「結果」で"
        "選びます。",
    )
    return empty(text, request)


def report_html(report: RagReport, request: gr.Request) -> str:
    """What the figures say, then the figures, then what the replies do with shown facts."""
    said = "".join(f"<li>{words(text, request)}</li>" for text in told(report))
    return (
        f'<div class="stacked evaluated" data-rag="{escape(report.with_rag)}">'
        f'<div class="banner told"><ul>{said}</ul></div>{_boxes(report, request)}'
        f"{_use(report, request)}</div>"
    )


def _boxes(report: RagReport, request: gr.Request) -> str:
    found = report.retrieval
    cells = [
        (
            str(len({one.query.id for one in report.answers})),
            Text("questions that both answered", "両方が答えた質問"),
        ),
        (
            _share(found.found if found else None),
            Text("right fact shown (hit rate)", "正しい事実を提示"),
        ),
        (
            _share(found.unasked if found else None),
            Text("false retrievals: a fact where none answers", "誤検索：不要な事実を提示"),
        ),
        (
            interval_text(found.shown.as_json()) if found else UNKNOWN,
            Text("facts in a prompt", "プロンプトの事実数"),
        ),
    ]
    return figures([(value, say(text, request), "") for value, text in cells])


def _share(interval: Interval | None) -> str:
    return interval_text(interval.as_json() if interval else None, "share")


def _use(report: RagReport, request: gr.Request) -> str:
    heads = (
        Text("Fact in the reply, with RAG", "RAG ありで事実を含む"),
        Text("Without", "RAG なしで含む"),
        Text("Gain", "差"),
        Text("Used when shown", "提示されて使用"),
        Text("Held when not shown", "提示なしで含む"),
        Text("Misled by a wrong fact", "誤った事実を使用"),
    )
    row = (
        *(report.held, report.held_without, report.gain),
        *(report.used, report.unshown, report.misled),
    )
    cells = [interval_cell(one.as_json(), request, "share") for one in row]
    title = words(Text("Do the replies use the facts?", "返答は事実を使っているか"), request)
    shown = table([say(text, request) for text in heads], [cells])
    return f'<h4 class="subhead">{title}</h4><div class="wide">{shown}</div>'


# --- fact by fact -------------------------------------------------------------------------------


def fact_choices(report: RagReport, request: gr.Request) -> list[tuple[str, str]]:
    """Each gold fact, those that gain most first; "" are the questions without one."""
    found = [(first_lines(row.fact), row.fact) for row in report.facts]
    if any(not one.query.gold for one in report.answers):
        found.append((say(FREE, request), ""))
    return found


def facts_html(report: RagReport, chosen: str | None, request: gr.Request) -> str:
    """A line a fact; a press on one shows its replies."""
    heads = (
        Text("Fact", "事実"),
        Text("Replies", "返答"),
        Text("Shown", "提示"),
        Text("With RAG", "RAG あり"),
        Text("Without", "RAG なし"),
    )
    rows = [_fact_row(row, place, row.fact == chosen) for place, row in enumerate(report.facts)]
    title = words(Text("Fact by fact", "事実ごと"), request)
    note = Text(
        "Numbers of replies: to its questions, with the fact in the prompt, and that hold it. "
        "Press a fact to read them.",
        "返答の数です。左から、その事実を問うもの、提示されたもの、返答に事実を含むもの（RAG あり・"
        "なし）。事実を押すと返答を読めます。",
    )
    return (
        f'<div class="evaluated"><h4 class="subhead">{title}</h4>'
        f'<p class="note">{words(note, request)}</p>'
        f'<div class="wide ragfacts">{table([say(text, request) for text in heads], rows)}</div>'
        "</div>"
    )


def _fact_row(row: FactRow, place: int, chosen: bool) -> list[str]:
    on = " on" if chosen else ""
    button = (
        f'<button type="button" class="factname{on}" data-do="fact" data-place="{place}">'
        f"{escape(row.fact)}</button>"
    )
    gained = "strong" if row.held > row.held_without else ""
    return [
        f"<td>{button}</td>",
        f'<td class="num">{row.replies}</td>',
        f'<td class="num">{row.shown}</td>',
        f'<td class="num {gained}">{row.held}</td>',
        f'<td class="num">{row.held_without}</td>',
    ]


def answers_html(report: RagReport, fact: str | None, request: gr.Request) -> str:
    """The questions of one fact with both replies; ``fact`` "": those that no fact answers."""
    if fact is None:
        return ""
    answers = answers_to(report, fact)
    if not answers:
        return ""
    head = escape(fact) if fact else words(FREE, request)
    cards = "".join(_card(one, fact, request) for one in answers[:MOST])
    more = len(answers) - MOST
    if more > 0:
        rest = Text(
            f"and {more} more: “Question by question” has them all",
            f"ほか {more} 件（「質問ごと」ですべて見られます）",
        )
        cards += empty(rest, request)
    return (
        f'<div class="stacked"><h4 class="subhead">{head}</h4>'
        f'<p class="note">{words(HOW, request)}</p><div class="pairs rag">{cards}</div></div>'
    )


def _card(one: BothReplies, fact: str, request: gr.Request) -> str:
    query = one.query
    repeat = f'<span class="note">{one.repeat + 1}</span>' if one.repeat else ""
    return (
        f'<article class="paircard" data-query="{escape(query.id)}"><header>'
        f'<b class="asked">{escape(query.text)}</b><span class="note">{escape(query.id)}</span>'
        f"{repeat}</header>"
        f'<div class="sides">{_with(one, fact, request)}{_without(one, request)}</div></article>'
    )


def _with(one: BothReplies, fact: str, request: gr.Request) -> str:
    chips = _shown_chip(one, fact, request) + _held_chip(one.held, request)
    if one.misled is not None:
        text = (
            Text("uses a wrong fact", "誤った事実を使用")
            if one.misled
            else Text("passes over the wrong facts", "誤った事実は不使用")
        )
        chips += _chip(text, "bad" if one.misled else "", request)
    facts = "".join(
        f"<li{' class=right' if shown in one.query.gold else ''}>{escape(shown)}</li>"
        for shown in one.shown
    )
    none = words(Text("No fact was shown.", "事実は提示されていません。"), request)
    below = f'<ul class="shownfacts">{facts}</ul>' if facts else f'<p class="note">{none}</p>'
    return _side(Text("With RAG", "RAG あり"), one.reply, chips, below, request)


def _without(one: BothReplies, request: gr.Request) -> str:
    chips = _held_chip(one.held_without, request)
    return _side(Text("Without", "RAG なし"), one.reply_without, chips, "", request)


def _side(title: Text, reply: str, chips: str, below: str, request: gr.Request) -> str:
    said = escape(reply.strip()) or UNKNOWN
    return (
        f'<section><h5>{words(title, request)}</h5><p class="said">{said}</p>'
        f'<div class="chips">{chips}</div>{below}</section>'
    )


def _shown_chip(one: BothReplies, fact: str, request: gr.Request) -> str:
    if not fact:
        return ""
    if fact in one.shown:
        return _chip(Text("fact shown", "この事実を提示"), "", request)
    return _chip(Text("fact not shown", "この事実は提示なし"), "bad", request)


def _held_chip(held: bool | None, request: gr.Request) -> str:
    """Nothing where there is no gold fact, or the question says all of it."""
    if held is None:
        return ""
    if held:
        return _chip(Text("reply has the fact", "返答に事実あり"), "good", request)
    return _chip(Text("reply lacks the fact", "返答に事実なし"), "", request)


def _chip(text: Text, kind: str, request: gr.Request) -> str:
    return f'<span class="chip {kind}">{words(text, request)}</span>'


# --- the sweep ----------------------------------------------------------------------------------


def step_html(step: Step, request: gr.Request) -> str:
    return banner(say(step.message, request), "", progress_bar(step.share))


def swept_html(found: Swept, told_: Text, request: gr.Request) -> str:
    """Which questions the curves are drawn from, and what the setting in use gives on them."""
    source = Text(
        f"Drawn from {found.questions} questions of the splits search and selection, "
        f"{found.free} of them without a fact: a threshold is not chosen on the questions that are "
        "reported on.",
        f"探索用・選択用の質問 {found.questions} 件（うち正解の事実なし {found.free} 件）から"
        "描いています。しきい値は、報告に使う質問では選びません。",
    )
    if not found.free:
        source = Text(
            f"Drawn from {found.questions} questions of the splits search and selection. All have "
            "a fact, so false retrievals are counted with the right facts taken away.",
            f"探索用・選択用の質問 {found.questions} 件から描いています。すべてに正解の事実がある"
            "ため、誤検索は正解の事実を除いて数えています。",
        )
    return banner(say(told_, request), "good") + empty(source, request)
