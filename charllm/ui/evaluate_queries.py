"""Question by question: two variants' replies side by side, the largest difference first.

Replies are read from their place in the run's file when their page is opened.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import gradio as gr

from charllm.data.errors import Text, UserError
from charllm.services.evaluate_hand import give, given
from charllm.services.evaluate_rows import Order, Pair, Rows, RowsView
from charllm.services.runs import Run
from charllm.ui.desk_panel import RECALL, REMEMBER
from charllm.ui.evaluate_live import plots_component
from charllm.ui.evaluate_plots import NOTHING, length_plot
from charllm.ui.evaluate_queries_html import Look, pairs_html
from charllm.ui.judge_html import SHARED, Panel, empty, one_of, run_among
from charllm.ui.page import Page, banner
from charllm.ui.train_live_html import run_label
from charllm.ui.words import language_of, say, t, warn

EACH = 10
"""Questions on a page."""
ORDERS = {
    "both": t("largest difference first", "差の大きい順"),
    "a": t("best for A first", "A が良い順"),
    "b": t("best for B first", "B が良い順"),
}
NONE = Text(
    "No evaluation has kept a reply yet. Start one under Set up.",
    "返答のある評価がまだありません。「設定」から評価を始めてください。",
)
ONE = Text("Choose two different variants.", "異なる構成を2つ選んでください。")


class Asked(NamedTuple):
    """What a visitor has chosen: run, variants, judge, order, who scores, and the page from 1."""

    run: str
    a: str | None
    b: str | None
    judge: str | None
    order: Order
    person: str | None
    number: float | None


def _controls() -> tuple[gr.Dropdown, gr.Dropdown, gr.Dropdown, gr.Dropdown, gr.Textbox]:
    """Who is compared, by whom, in which order, and who scores by hand."""
    with gr.Row(equal_height=True):
        a = gr.Dropdown([], label="A", scale=3, min_width=170, elem_id="queries-a")
        b = gr.Dropdown([], label="B", scale=3, min_width=170, elem_id="queries-b")
        judge = gr.Dropdown(
            [], label=t("Judge", "ジャッジ"), scale=3, min_width=170, elem_id="queries-judge"
        )
        order = gr.Dropdown(
            [(ORDERS[name], name) for name in get_args(Order)],
            value="both",
            label=t("Order", "並び順"),
            scale=2,
            min_width=150,
            elem_id="queries-order",
        )
        person = gr.Textbox(
            "",
            label=t("Who scores by hand", "手採点する人"),
            placeholder=t("your name", "例: 山田"),
            max_length=40,
            scale=2,
            min_width=130,
            elem_id="queries-person",
        )
    return a, b, judge, order, person


def build(page: Page, current: gr.Textbox) -> Panel:
    """``current`` says which run the page follows."""
    view = RowsView()
    a, b, judge, order, person = _controls()
    with gr.Row(equal_height=True, elem_id="queries-bar"):
        head = gr.HTML("", elem_id="queries-head")
        back = gr.Button("‹", size="sm", scale=0, min_width=50, elem_id="queries-back")
        number = gr.Number(
            1,
            show_label=False,
            container=False,
            precision=0,
            minimum=1,
            min_width=70,
            scale=0,
            elem_id="queries-number",
        )
        ahead = gr.Button("›", size="sm", scale=0, min_width=50, elem_id="queries-ahead")
    shown = gr.HTML(
        "",
        js_on_load="window.charllmForm(element, props, trigger, watch)",
        apply_default_css=False,
        elem_id="queries-shown",
    )
    plot = plots_component("queries-plot")
    marked = gr.Textbox("", visible=False)
    chosen = [current, a, b, judge, order, person, number]

    def rows_of(run_id: str) -> tuple[Run, Rows] | None:
        run = run_among(page.paths, "evaluate", run_id)
        if run is None:
            return None
        rows = view.of(run.folder)
        return (run, rows) if rows.kept else None

    def look(ask: Asked, request: gr.Request) -> list[Any]:
        """All there is, lists of choices included."""
        nothing = [gr.Dropdown([], value=None)] * 3
        try:
            found = rows_of(ask.run)
            if found is None:
                return [*nothing, "", 1, empty(NONE, request), NOTHING]
            variants = [(say(v.label, request), v.name) for v in found[1].planned.variants]
            judges = [(_judge_name(found[1], key), key) for key in found[1].judges]
        except UserError as error:  # files that were changed by hand
            told = banner(error.in_(language_of(request)), "bad")
            return [*nothing, "", 1, told, NOTHING]
        one = one_of(ask.a, variants)
        others = [pair for pair in variants if pair[1] != one] or variants
        ask = ask._replace(a=one, b=one_of(ask.b, others), judge=one_of(ask.judge, judges))
        lists = [
            gr.Dropdown(variants, value=ask.a),
            gr.Dropdown(variants, value=ask.b),
            gr.Dropdown(judges, value=ask.judge),
        ]
        return [*lists, *turn(ask, request)]

    def turn(ask: Asked, request: gr.Request) -> list[Any]:
        """The page of questions, and the plot of all."""
        found = rows_of(ask.run)
        if found is None:
            return ["", 1, empty(NONE, request), NOTHING]
        if not ask.a or not ask.b or ask.a == ask.b:
            return ["", 1, empty(ONE, request), NOTHING]
        run, rows = found
        pairs = rows.pairs(ask.judge or "", ask.a, ask.b, ask.order)
        pages = max(1, -(-len(pairs) // EACH))
        at = min(max(1, int(ask.number or 1)), pages)
        first = (at - 1) * EACH
        person_ = (ask.person or "").strip()
        seen = Look(rows, ask.judge or "", ask.a, ask.b, page.chat.store, person_)
        html = pairs_html(seen, pairs[first : first + EACH], first + 1, request)
        # A number that stands as it is is not sent: by now the visitor may have gone on.
        stays = gr.skip() if ask.number == at else at
        plot_ = _plot(run, rows, pairs, seen, request)
        return [_head(run, pairs, pages, request), stays, html, plot_]

    def first(ask: Asked, request: gr.Request) -> list[Any]:
        """Another pair, judge or order: from the first page."""
        head_, _, *rest = turn(ask._replace(number=1), request)
        return [head_, 1, *rest]

    def on_hand(
        run_id: str, judge_: str, person_: str, request: gr.Request, event: gr.EventData
    ) -> str:
        """A level was pressed: kept, or taken back where it stood already."""
        found = rows_of(run_id)
        if found is None or not judge_:
            return ""
        rows, key = found[1], str(event._data.get("key", ""))
        try:
            score = int(event._data.get("score", 0))
            before = _standing(page, rows, judge_, key, person_)
            now = None if before == score else score
            standing = give(page.chat.store, rows, judge_, key, person_ or "", now)
        except UserError as error:
            warn(error, request)
            return ""
        return json.dumps({"key": key, "score": standing})

    lists = [a, b, judge]
    turned = [head, number, shown, plot]
    page.demo.load(None, None, person, js=RECALL, api_visibility="private")
    person.change(None, person, None, js=REMEMBER, api_visibility="private")
    last = {"trigger_mode": "always_last", **SHARED}
    for moment in (a.input, b.input, judge.input, order.input):
        moment(asked(first), chosen, turned, **last)
    for event in (number.submit, person.submit, person.blur):
        event(asked(turn), chosen, turned, **last)
    for button, by in ((back, -1), (ahead, 1)):  # counted in the page, where no press waits
        stepped = button.click(None, number, number, js=f"(at) => Math.max(1, (at || 1) + {by})")
        stepped.then(asked(turn), chosen, turned, **last)
    # Levels of different replies: each counts.
    hand = shown.select(
        on_hand, [current, judge, person], marked, trigger_mode="multiple", **SHARED
    )
    hand.then(None, marked, None, js="(text) => window.charllmHand(text)")
    return Panel(asked(look), chosen, [*lists, *turned])


def asked(handler: Callable[[Asked, gr.Request], list[Any]]) -> Any:
    """The handler as Gradio calls it: values in the order of ``Asked``, then the request."""

    def called(
        run: str,
        a: str | None,
        b: str | None,
        judge: str | None,
        order: Order,
        person: str | None,
        number: float | None,
        request: gr.Request,
    ) -> list[Any]:
        return handler(Asked(run, a, b, judge, order, person, number), request)

    return called


def _judge_name(rows: Rows, key: str) -> str:
    card = rows.card(key)
    return f"{card['judge']} · {card['rubric']}"


def _standing(page: Page, rows: Rows, judge: str, key: str, person: str) -> int | None:
    if key not in rows.kept:
        return None
    return given(page.chat.store, rows, judge, rows.reply(rows.kept[key]), person or "")


def _head(run: Run, pairs: list[Pair], pages: int, request: gr.Request) -> str:
    without = sum(one.difference is None for one in pairs)
    on = "1 page" if pages == 1 else f"{pages:,} pages"
    text = Text(
        f"{run_label(run)}: {len(pairs):,} questions on {on}"
        + (f", {without:,} without a difference (at the end)" if without else ""),
        f"{run_label(run)}：質問 {len(pairs):,} 件、{pages:,} ページ"
        + (f"（差を計算できない {without:,} 件は最後）" if without else ""),
    )
    return empty(text, request)


def _plot(
    run: Run, rows: Rows, pairs: list[Pair], look: Look, request: gr.Request
) -> dict[str, Any]:
    labels = {one.name: say(one.label, request) for one in rows.planned.variants}
    owner = f"{run.id} {look.a} {look.b} {look.judge} {len(pairs)} {language_of(request)}"
    named = (labels.get(look.a, look.a), labels.get(look.b, look.b))
    return length_plot(owner, run.id, pairs, named, request)
