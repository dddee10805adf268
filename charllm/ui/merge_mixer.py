"""The mixer: sliders by layer group and parent, a model that follows them, and where it can go.

The sliders live in the browser (``mixer.js``), which also keeps them over a reload; what is asked
lives on the server. One page asks one question at a time.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any

import gradio as gr

from charllm.data.errors import Text, UserError
from charllm.services.merge_forms import own_values
from charllm.services.merge_view import columns_beside
from charllm.services.mixer import GROUP_SIZE, publish, regrouped, save_recipe, send, takers
from charllm.services.mixer_live import MixerDesk
from charllm.services.train_forms import free_name
from charllm.ui.judge_html import SHARED, Panel, one_of, run_among
from charllm.ui.merge_fill import parent_list
from charllm.ui.merge_mixer_form import (
    Ask,
    Held,
    Keep,
    ask_row,
    board_value,
    fitting,
    html_pane,
    keep_row,
)
from charllm.ui.merge_mixer_html import board_html, replies_html, saved_html
from charllm.ui.page import Page, banner
from charllm.ui.presses import newest, noted, noting
from charllm.ui.train_live_html import run_label
from charllm.ui.words import language_of, say, t, warn

SECONDS = 0.4
"""Between two looks at what is being answered."""
RECALL = "(held, ...rest) => [held || window.charllmKept('mixer'), ...rest]"
KEEP = "(held) => window.charllmKeep('mixer', JSON.parse(held || 'null'))"
SENT = Text(
    "It waits for the next generation, in its own groups.",
    "次の世代に、そのままの割合で加わります。",
)
SENT_COARSE = Text(
    "It waits for the next generation. The groups of that search are others: layers got the mean "
    "share of their group.",
    "次の世代に加わります。探索のグループ分けが異なるため、グループ内の平均の割合になります。",
)


def build(page: Page) -> Panel:
    with gr.Row(elem_id="mixer-row"):
        with gr.Column(scale=7, min_width=540):
            with gr.Row(equal_height=True):
                parents = gr.Dropdown(
                    [],
                    multiselect=True,
                    label=t("Parents", "親"),
                    scale=4,
                    elem_id="mixer-parents",
                )
                size = gr.Number(
                    GROUP_SIZE,
                    label=t("Layers in a group", "グループの層数"),
                    precision=0,
                    minimum=1,
                    scale=0,
                    min_width=150,
                    elem_id="mixer-size",
                )
            told = html_pane("mixer-plan")
            board = gr.HTML(
                {},
                html_template='<div class="mixer"></div>',
                js_on_load=noting("charllmMixer", "mix"),
                apply_default_css=False,
                elem_id="mixer-board",
            )
            keep = keep_row()
        with gr.Column(scale=5, min_width=380, elem_id="mixer-side"):
            ask = ask_row()
    return _wire(page, (parents, size, told, board), ask, keep)


# --- wiring -------------------------------------------------------------------------------------


def _wire(
    page: Page,
    top: tuple[gr.Dropdown, gr.Number, gr.HTML, gr.HTML],
    ask: Ask,
    keep: Keep,
) -> Panel:
    paths, profile, desk = page.paths, page.profile, MixerDesk(page.paths, page.chat)
    parents, size, told, board = top
    held_, here = gr.Textbox("", visible=False), gr.Textbox("", visible=False)
    seen, compared = gr.Textbox("", visible=False), gr.Textbox("", visible=False)
    moved = gr.Textbox("", visible=False)
    ticker = gr.Timer(SECONDS, active=False)

    def runs_for(names: Sequence[str], value: str | None = None) -> gr.Dropdown:
        found = [(run_label(run), run.id) for run in takers(paths, names)]
        return gr.Dropdown(found, value=one_of(value, found))

    def put(held: Held, request: gr.Request) -> list[Any]:
        """Values of ``made`` for these parents: the text, the plan, the sliders, the runs."""
        try:
            opened = held.board(paths)
        except UserError as error:
            plain = Held(held.parents, held.size, {}).text()
            return [plain, banner(error.in_(language_of(request)), "bad"), {}, runs_for(())]
        weights = fitting(opened, held.weights)
        text = Held(opened.parents, opened.size, weights).text()
        value = board_value(opened, weights, request)
        return [text, board_html(opened, request), value, runs_for(opened.parents)]

    def look(text: str, page_: str, slug: str | None, request: gr.Request) -> list[Any]:
        """All there is, from what the page or its browser has kept, else this character's own."""
        held = Held.read(text) or Held(tuple(own_values(paths, slug)["parents"]))
        return [
            gr.Dropdown(parent_list(paths, held.parents, request), value=list(held.parents)),
            held.size,
            page_ or uuid.uuid4().hex,
            free_name(paths, f"{slug or 'mixer'}-mix"),
            *put(held, request),
        ]

    def on_profile(page_: str, slug: str | None, request: gr.Request) -> list[Any]:
        return look("", page_, slug, request)

    def on_parents(names: list[str] | None, size_: Any, request: gr.Request) -> list[Any]:
        return put(Held(tuple(names or ()), int(size_ or GROUP_SIZE)), request)

    def on_size(text: str, size_: Any, request: gr.Request) -> list[Any]:
        """The same mixture in other groups."""
        held = Held.read(text)
        if held is None or not size_ or int(size_) == held.size:
            return [gr.skip()] * 4
        try:
            old, new = held.board(paths), Held(held.parents, int(size_)).board(paths)
            weights = regrouped(fitting(old, held.weights), old, new.layers)
        except UserError as error:
            warn(error, request)
            return [gr.skip()] * 4
        return put(Held(held.parents, new.size, weights), request)

    def on_mix(
        text: str,
        page_: str,
        slug: str,
        question: str,
        preset: str,
        rag: bool,
        follow: bool,
        moved_: str,
        request: gr.Request,
    ) -> list[Any]:
        """Sliders have moved: the model follows, and answers again where that is wanted."""
        held = Held.read(text)
        if held is None:
            return [gr.skip()] * 4
        moved = Held.read(json.dumps({**vars(held), "weights": noted(moved_).get("weights")}))
        if moved is None:
            return [gr.skip()] * 4
        if not (follow and question.strip() and desk.look(page_)):
            return [moved.text(), *[gr.skip()] * 3]
        shown = on_ask(moved.text(), page_, slug, question, preset, rag, follow, request)
        return [moved.text(), *shown]

    def on_ask(
        text: str,
        page_: str,
        slug: str,
        question: str,
        preset: str,
        rag: bool,
        follow: bool,
        request: gr.Request,
    ) -> list[Any]:
        try:
            held = Held.read(text) or Held()
            opened = held.board(paths)
            weights = held.weights or {}
            asked = desk.ask(page_, slug, opened, weights, question, preset=preset, rag=rag)
        except UserError as error:
            warn(error, request)
            return [gr.skip()] * 3
        return [replies_html(asked, request), "", gr.Timer(SECONDS, active=True)]

    def on_tick(page_: str, seen_: str, request: gr.Request) -> list[Any]:
        asked = desk.look(page_)
        if asked is None:
            return [gr.skip(), "", gr.Timer(SECONDS, active=False)]
        settled, now = asked.settled, f"{id(asked)} {asked.version}"
        shown = gr.skip() if now == seen_ else replies_html(asked, request)
        return [shown, now, gr.Timer(SECONDS, active=False) if settled else gr.skip()]

    def on_stop(page_: str) -> None:
        desk.stop(page_)

    def on_save(text: str, name: str, where: str, request: gr.Request) -> Any:
        try:
            held = Held.read(text) or Held()
            opened, weights = held.board(paths), held.weights or {}
            if where == "checkpoint":
                publish(paths, opened, weights, name.strip())
                return saved_html(f"checkpoints/{name.strip()}", name.strip(), request)
            path = save_recipe(paths, opened, weights, name.strip())
            return saved_html(f"recipes/{path.name}", "", request)
        except UserError as error:
            warn(error, request)
            return gr.skip()

    def on_send(text: str, run_id: str | None, request: gr.Request) -> list[Any]:
        held = Held.read(text) or Held()
        try:
            run = run_among(paths, "evolve", run_id)
            if run is None:
                raise UserError(
                    "Choose an evolution that is running or paused; it must have these parents.",
                    "実行中か一時停止中で、同じ親を使っている進化マージを選んでください。",
                )
            exact = send(run, held.board(paths), held.weights or {})
        except UserError as error:
            warn(error, request)
            return [gr.skip(), runs_for(held.parents, run_id)]
        sent = banner(say(SENT if exact else SENT_COARSE, request), "good")
        return [sent, runs_for(held.parents, run_id)]

    def on_compare(text: str, slug: str, request: gr.Request, event: gr.EventData) -> str:
        held = Held.read(text) or Held()
        try:
            name = str(event._data.get("name", ""))
            columns = columns_beside(paths, slug, name, held.parents)
        except UserError as error:
            warn(error, request)
            return ""
        return json.dumps({"profile": slug, "columns": columns})

    made = [held_, told, board, keep.runs]
    whole = [parents, size, here, keep.name, *made]
    asking = [held_, here, profile, *ask.inputs]
    shown_ = [ask.replies, seen, ticker]
    last = {"trigger_mode": "always_last", **SHARED}
    page.tab.select(look, [held_, here, profile], whole, js=RECALL, **SHARED)
    profile.input(on_profile, [here, profile], whole, **last)
    parents.input(on_parents, [parents, size], made, **last)
    gr.on([size.submit, size.blur], on_size, [held_, size], made, **last)
    held_.change(None, held_, None, js=KEEP)
    board.select(on_mix, [*asking, moved], [held_, *shown_], js=newest("mix"), **last)
    gr.on([ask.go.click, ask.question.submit], on_ask, asking, shown_, **SHARED)
    ask.stop.click(on_stop, here, None, queue=False, **SHARED)
    ticker.tick(on_tick, [here, seen], shown_, **SHARED)
    keep.save.click(on_save, [held_, keep.name, keep.where], keep.saved, **SHARED)
    keep.send.click(on_send, [held_, keep.runs], [keep.sent, keep.runs], **SHARED)
    keep.saved.select(
        on_compare, [held_, profile], compared, trigger_mode="multiple", **SHARED
    ).then(None, compared, None, js="(text) => window.charllmCompare(text)")
    return Panel(look, [held_, here, profile], whole)
