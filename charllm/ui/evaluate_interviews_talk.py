"""One interview turn by turn: the interviewer's question, each variant's answer, what judges said.

Two variants stand side by side, so that one sees where the talks part.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr

from charllm.core.evaluation.five import CRITERIA
from charllm.core.evaluation.interview_turns import Turn
from charllm.data.errors import Text, UserError
from charllm.services.interview_view import InterviewView, Talks, Verdict
from charllm.services.runs import Run
from charllm.ui.evaluate_queries_html import STOPS
from charllm.ui.judge_html import SHARED, UNKNOWN, empty, gate_text, run_among
from charllm.ui.page import Page, banner
from charllm.ui.train_html import words
from charllm.ui.words import language_of, say, t

SIDES = 2
"""Variants that stand side by side."""
NONE_YET = Text(
    "No turn has been answered yet.",
    "まだ返答がありません。",
)
NO_TALKS = Text(
    "This run holds no interviews, only single questions.",
    "この実行は単発の質問だけで、インタビューはありません。",
)
NOBODY = Text("Choose a variant to read.", "読む構成を選んでください。")


# --- HTML ---------------------------------------------------------------------------------------


def talk_html(talks: Talks, number: int, variants: Sequence[str], request: gr.Request) -> str:
    """All turns of one interview with these variants."""
    talk = talks.plan.talks[number - 1]
    about = ""
    if talks.plan.config.interviewer.kind != "list":
        label = CRITERIA[talk.focus].label
        aim = Text(f"It is to find out about: {label.en}.", f"確かめること：{label.ja}")
        about = f'<p class="note">{words(aim, request)}</p>'
    cards = [
        _turn(talks, number, place, variants, request)
        for place in range(1, talks.plan.config.turns + 1)
    ]
    none = empty(Text("Not held yet.", "まだ行われていません。"), request)
    inside = "".join(cards) or none
    return (
        f'<div class="stacked" data-talk="{number}">{about}<div class="pairs">{inside}</div></div>'
    )


def _turn(
    talks: Talks, number: int, place: int, variants: Sequence[str], request: gr.Request
) -> str:
    """One turn; the question stands over the answers where it was the same for all of them."""
    found = {name: _at(talks, name, number, place) for name in variants}
    there = [turn for turn in found.values() if turn is not None]
    if not there:
        return ""
    same = len({turn.question for turn in there}) == 1
    head = _question(there[0], request) if same else ""
    sides = "".join(_side(talks, name, turn, not same, request) for name, turn in found.items())
    one = ' style="grid-template-columns:minmax(0,1fr)"' if len(found) == 1 else ""
    return (
        f'<article class="paircard" data-turn="{place}"><header>'
        f'<span class="count">{place}</span>{head}</header>'
        f'<div class="sides"{one}>{sides}</div></article>'
    )


def _at(talks: Talks, variant: str, number: int, place: int) -> Turn | None:
    said = talks.turns.get((variant, number), ())
    return next((turn for turn in said if turn.turn == place), None)


def _question(turn: Turn, request: gr.Request) -> str:
    who = (
        Text("question of the set", "質問セット")
        if turn.asked_by == "list"
        else Text("the interviewer's own", "モデルの質問")
    )
    return (
        f'<b class="asked">{escape(turn.question)}</b>'
        f'<span class="note">{words(who, request)}</span>'
    )


def _side(talks: Talks, name: str, turn: Turn | None, asked: bool, request: gr.Request) -> str:
    labels = {one.name: one.label for one in talks.plan.planned.variants}
    head = words(labels[name], request) if name in labels else escape(name)
    inside = f'<p class="note">{words(NONE_YET, request)}</p>'
    if turn is not None:
        question = f"<div>{_question(turn, request)}</div>" if asked else ""
        inside = question + _answer(talks, turn, request)
    return f"<section><h5>{head}</h5>{inside}</section>"


def _answer(talks: Talks, turn: Turn, request: gr.Request) -> str:
    if turn.failed is not None:
        return f'<div class="banner bad">{words(turn.failed, request)}</div>'
    verdicts = talks.verdicts.get(turn.place.key, ())
    stop = STOPS.get(turn.stop_reason, Text(turn.stop_reason or UNKNOWN, turn.stop_reason))
    chips = [say(stop, request)]
    if turn.tokens is not None:
        chips.append(say(Text(f"{turn.tokens} tokens", f"{turn.tokens} トークン"), request))
    told = "".join(f'<span class="chip">{escape(text)}</span>' for text in chips)
    gate = talks.gates.get(turn.place.key, ())
    stopped = f'<span class="score poor">{escape(gate_text(gate, request))}</span>' if gate else ""
    scores = "".join(_score(one, request) for one in verdicts)
    return (
        f'<div class="kept" data-key="{escape(turn.place.key)}"><p class="said">'
        f"{escape(turn.text.strip()) or '–'}</p>"
        f'<div class="chips">{stopped}{scores}{told}</div>'
        f'<div class="folds">{_reasons(verdicts, request)}{_facts(turn, request)}'
        f"{_prompt(turn, request)}</div></div>"
    )


def _score(verdict: Verdict, request: gr.Request) -> str:
    label = words(CRITERIA[verdict.criterion].label, request)
    if verdict.score is None:
        none = words(Text("unscored", "採点不能"), request)
        return f'<span class="score none">{label} {none}</span>'
    low, high = verdict.scale
    share = (verdict.score - low) / (high - low)
    kind = "good" if share >= 2 / 3 else "fair" if share >= 1 / 3 else "poor"
    return (
        f'<span class="score {kind}" title="{escape(verdict.judge)}">{label} '
        f'<b>{verdict.score:.1f}</b><span class="of">/ {high}</span></span>'
    )


def _reasons(verdicts: Sequence[Verdict], request: gr.Request) -> str:
    said = []
    for one in verdicts:
        head = f"{say(CRITERIA[one.criterion].label, request)} ({one.judge})"
        for record in one.records:
            lines = [head, gate_text(record.gate, request), record.rationale, *record.flaws]
            lines += [say(record.unscored, request)] if record.unscored else []
            said.append("\n".join(filter(None, lines)))
    return _fold(Text("The judge's reasons", "ジャッジの理由"), "\n\n".join(said), request)


def _facts(turn: Turn, request: gr.Request) -> str:
    used = say(Text("shown", "提示"), request)
    lines = [
        f"{float(one['similarity']):.3f} {used if one['used'] else '–'} {one['fact']}"
        for one in turn.facts
    ]
    return _fold(Text("Facts looked up", "検索した事実"), "\n".join(lines), request)


def _prompt(turn: Turn, request: gr.Request) -> str:
    whole = f"{turn.prompt}\n\n{turn.weights}"
    return _fold(Text("Prompt and weights", "プロンプトと重み"), whole, request)


def _fold(title: Text, text: str, request: gr.Request) -> str:
    if not text:
        return ""
    return (
        f"<details><summary>{words(title, request)}</summary>"
        f'<pre class="promptview">{escape(text)}</pre></details>'
    )


# --- layout and wiring --------------------------------------------------------------------------


class Reading:
    """The transcript's fields, and what they show; the page of interviews fills them."""

    def __init__(self, page: Page, view: InterviewView, current: gr.Textbox) -> None:
        self.page, self.view, self.current = page, view, current
        with gr.Row(equal_height=True):
            self.number = gr.Dropdown(
                [],
                label=t("Interview", "インタビュー"),
                scale=1,
                min_width=140,
                elem_id="interviews-talk",
            )
            self.variants = gr.Dropdown(
                [],
                multiselect=True,
                max_choices=SIDES,
                label=t("Variants to read (two at most)", "読む構成（2つまで）"),
                scale=4,
                elem_id="interviews-sides",
            )
        self.shown = gr.HTML("", apply_default_css=False, elem_id="interviews-transcript")
        chosen = [current, self.number, self.variants]
        for field in (self.number, self.variants):
            field.input(self.turn, chosen, self.shown, trigger_mode="always_last", **SHARED)

    @property
    def fields(self) -> list[Any]:
        """What ``look`` is given."""
        return [self.number, self.variants]

    @property
    def outputs(self) -> list[Any]:
        return [*self.fields, self.shown]

    def look(
        self, run: Run | None, number: int | None, variants: Sequence[str], request: gr.Request
    ) -> list[Any]:
        """The lists of choices and the interview: what was read, where it is still there."""
        nothing: list[Any] = [
            gr.Dropdown([], value=None),
            gr.Dropdown([], value=[], multiselect=True),
        ]
        try:
            talks = self.view.talks(run) if run is not None else None
        except UserError as error:  # files that were changed by hand
            return [*nothing, banner(error.in_(language_of(request)), "bad")]
        if talks is None:
            return [*nothing, empty(NONE_YET, request) if run is not None else ""]
        planned = talks.plan.planned.variants
        known = [(say(one.label, request), one.name) for one in planned]
        names = [name for _, name in known]
        chosen = [name for name in variants or [] if name in names] or names[-SIDES:]
        at = number if number in talks.numbers else next(iter(talks.numbers), None)
        return [
            gr.Dropdown([(str(one), one) for one in talks.numbers], value=at),
            gr.Dropdown(known, value=chosen, multiselect=True),
            self._html(talks, at, chosen, request),
        ]

    def turn(
        self, run_id: str, number: int | None, variants: list[str] | None, request: gr.Request
    ) -> str:
        run = run_among(self.page.paths, "interview", run_id)
        try:
            talks = self.view.talks(run) if run is not None else None
        except UserError as error:
            return banner(error.in_(language_of(request)), "bad")
        return (
            empty(NONE_YET, request)
            if talks is None
            else self._html(talks, number, variants or [], request)
        )

    def _html(
        self, talks: Talks, number: int | None, variants: Sequence[str], request: gr.Request
    ) -> str:
        if not talks.plan.talks:
            return empty(NO_TALKS, request)
        if number is None or number not in talks.numbers:
            return empty(NONE_YET, request)
        if not variants:
            return empty(NOBODY, request)
        return talk_html(talks, number, list(variants)[:SIDES], request)
