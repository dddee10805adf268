"""What RAG does for one set of weights: figures, both replies fact by fact, other settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from charllm.core.evaluation.planned import Planned
from charllm.core.evaluation.rag_plot import now_text, sweep_figure
from charllm.core.evaluation.rag_report import RagReport, pairs_of
from charllm.core.evaluation.rag_sweep import curve_table
from charllm.core.evaluation.tables import as_csv
from charllm.data.errors import UserError
from charllm.services.evaluate_forms import evaluate_runs
from charllm.services.evaluate_rag import RagView, Step, Sweeps, Swept, pairs_wanting, planned_of
from charllm.services.runs import Run
from charllm.ui.evaluate_rag_html import (
    NO_RUN,
    NOT_BEGUN,
    about_html,
    answers_html,
    fact_choices,
    facts_html,
    no_pair_html,
    report_html,
    step_html,
    swept_html,
)
from charllm.ui.judge_html import LAST, SHARED, Panel, empty, one_of
from charllm.ui.page import Page, banner
from charllm.ui.train_live_html import run_label
from charllm.ui.words import language_of, say, t, warn

SAVE = (
    "(text) => { if (text) window.charllmSave('rag-sweep.csv', text, 'text/csv;charset=utf-8'); }"
)
MARK = (
    "(fact) => document.querySelectorAll('#rag-facts .factname')"
    ".forEach((button) => button.classList.toggle('on', button.textContent === fact))"
)
"""The list itself stays, and with it how far it is scrolled."""
WHY = t(
    "How often another similarity threshold, or another number of facts, would show the right "
    "fact, and how often a wrong one. Every question of the set is looked up once, nothing is "
    "generated: a few seconds with the built-in embedder. With an embedder behind an address, each "
    "question is sent to it.",
    "しきい値や事実の数を変えると、正しい事実と誤った事実がどれだけ提示されるかを調べます。"
    "質問セットの全質問を1回ずつ検索するだけで、返答は生成しません（内蔵の埋め込みモデルなら数秒）。"
    "URL で指定した埋め込みモデルの場合は、質問がそこへ送られます。",
)


def _html(elem_id: str) -> gr.HTML:
    return gr.HTML("", apply_default_css=False, elem_id=elem_id)


def _pressable(elem_id: str) -> gr.HTML:
    """HTML whose buttons the server hears, or that open another page."""
    return gr.HTML(
        "",
        js_on_load="window.charllmForm(element, props, trigger, watch)",
        apply_default_css=False,
        elem_id=elem_id,
    )


# --- data ---------------------------------------------------------------------------------------


def details(report: RagReport, key: str | None, request: gr.Request) -> list[Any]:
    """The list of facts, the choice among them, and the replies to the chosen one's questions."""
    choices = fact_choices(report, request)
    key = one_of(key, choices)
    return [
        facts_html(report, key, request),
        gr.Dropdown(choices, value=key),
        answers_html(report, key, request),
    ]


def undrawn() -> list[Any]:
    """No curves: the places of what ``drawn_of`` shows are empty or hidden."""
    return ["", gr.Plot(None, visible=False), gr.Button(visible=False), ""]


def drawn_of(found: Swept | None, request: gr.Request) -> list[Any]:
    if found is None:
        return undrawn()
    language = language_of(request)
    return [
        swept_html(found, now_text(found.curves, found.now), request),
        gr.Plot(sweep_figure(found.curves, found.now, language), visible=True),
        gr.Button(visible=True),
        as_csv(curve_table(found.curves), language),
    ]


# --- layout and wiring --------------------------------------------------------------------------


def build(page: Page, current: gr.Textbox) -> Panel:
    """``current`` says which evaluation is read."""
    view, sweeps = RagView(), Sweeps()
    with gr.Row(equal_height=True, visible=False) as head:
        pair = gr.Dropdown(
            [], label=t("Weights", "重み"), scale=2, min_width=220, elem_id="rag-pair"
        )
        about = _html("rag-about")
    shown = _pressable("rag-shown")
    with gr.Column(visible=False) as body:
        with gr.Row(elem_id="rag-facts-row"):
            with gr.Column(scale=4, min_width=380):
                facts = _pressable("rag-facts")
            with gr.Column(scale=5, min_width=420):
                fact = gr.Dropdown(
                    [], label=t("Replies to the questions of", "返答を見る事実"), elem_id="rag-fact"
                )
                answers = _html("rag-answers")
        gr.Markdown(t("#### Threshold and number of facts", "#### しきい値と事実の数"))
        gr.Markdown(WHY, elem_classes="note")
        with gr.Row(elem_id="rag-sweep-row"):
            go = gr.Button(
                t("Sweep threshold and k", "しきい値と件数を変えて試す"), elem_id="rag-sweep"
            )
            save = gr.Button(
                t("Save the curves (CSV)", "曲線を保存（CSV）"), visible=False, elem_id="rag-csv"
            )
        swept = _html("rag-swept")
        plot = gr.Plot(show_label=False, visible=False, elem_id="rag-plot")
    table = gr.Textbox("", visible=False)
    curves = [swept, plot, save, table]
    detail = [facts, fact, answers]

    def followed(run_id: str) -> Run | None:
        """The chosen evaluation; the newest while the page of results has not chosen one yet."""
        runs = evaluate_runs(page.paths)
        return next((run for run in runs if run.id == run_id or not run_id), None)

    def opened(run_id: str, request: gr.Request) -> tuple[Run, Planned] | str:
        """The evaluation and its plan, or why there is nothing to read."""
        run = followed(run_id)
        if run is None:
            return empty(NO_RUN, request)
        planned = planned_of(run.folder)
        return (run, planned) if planned is not None else empty(NOT_BEGUN, request)

    def report_of(run_id: str, name: str | None) -> RagReport | None:
        run = followed(run_id)
        planned = planned_of(run.folder) if run else None
        if run is None or planned is None or not name:
            return None
        return view.of(run.folder, planned, name)

    def look(run_id: str, name: str | None, key: str | None, request: gr.Request) -> list[Any]:
        """All there is, or what is missing."""
        try:
            found = opened(run_id, request)
            if isinstance(found, str):
                return nothing(found)
            run, planned = found
            pairs = pairs_of(planned.variants)
            if not pairs:
                return nothing(no_pair_html(pairs_wanting(page.paths, planned), request))
            choices = [(say(plain.label, request), rag.name) for rag, plain in pairs]
            chosen = one_of(name, choices) or ""
            report = view.of(run.folder, planned, chosen)
            drawn = drawn_of(sweeps.known(page.paths, planned), request)
        except UserError as error:  # nothing answered by both yet, or files changed by hand
            return nothing(banner(error.in_(language_of(request)), "bad"))
        return [
            gr.Row(visible=True),
            gr.Dropdown(choices, value=chosen),
            about_html(run_label(run), report, request),
            report_html(report, request),
            gr.Column(visible=True),
            *details(report, key, request),
            *drawn,
        ]

    def on_pair(run_id: str, name: str | None, key: str | None, request: gr.Request) -> list[Any]:
        """Another pair; the list stays as it is, by now the visitor may have gone on."""
        bar, _, *rest = look(run_id, name, key, request)
        return [bar, gr.skip(), *rest]

    def nothing(told: str) -> list[Any]:
        """Only what is told; the rest hides."""
        gone = [gr.Row(visible=False), gr.Dropdown([], value=None), ""]
        no_detail = ["", gr.Dropdown([], value=None), ""]
        return [*gone, told, gr.Column(visible=False), *no_detail, *undrawn()]

    def on_fact(run_id: str, name: str | None, key: str | None, request: gr.Request) -> Any:
        report = report_of(run_id, name)
        return gr.skip() if report is None else answers_html(report, key, request)

    def on_press(
        run_id: str, name: str | None, request: gr.Request, event: gr.EventData
    ) -> list[Any]:
        """A fact's line was pressed."""
        report = report_of(run_id, name)
        place = int(event._data.get("place", -1))
        if report is None or not 0 <= place < len(report.facts):
            return [gr.skip()] * 2
        pressed = report.facts[place].fact
        return [pressed, answers_html(report, pressed, request)]

    def on_sweep(run_id: str, request: gr.Request) -> Iterator[list[Any]]:
        """The bar while it goes on, the curves in the end."""
        try:
            found = opened(run_id, request)
            if isinstance(found, str):  # the run has gone since
                yield undrawn()
                return
            for step in sweeps.follow(page.paths, found[1]):
                if isinstance(step, Step):
                    yield [step_html(step, request), gr.skip(), gr.skip(), gr.skip()]
                else:
                    yield drawn_of(step, request)
        except UserError as error:
            warn(error, request)
            yield undrawn()

    outputs = [head, pair, about, shown, body, *detail, *curves]
    pair.input(on_pair, [current, pair, fact], outputs, **LAST)
    chosen = fact.input(on_fact, [current, pair, fact], answers, **LAST)
    pressed = facts.select(
        on_press, [current, pair], [fact, answers], trigger_mode="multiple", **SHARED
    )
    for moment in (chosen, pressed):
        moment.then(None, fact, None, js=MARK)
    go.click(on_sweep, current, curves, **SHARED)
    save.click(None, table, None, js=SAVE)
    return Panel(look, [current, pair, fact], outputs)
