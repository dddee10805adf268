"""Set up an evolution: parents, two forms made from its configuration, what it takes, the YAML.

What is typed is kept by the browser, so that a reload loses nothing. The judge is the one that
all pages use; the Judge tab changes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from charllm.core.merging.evolve_config import EVOLVE_GROUPS, EvolveConfig
from charllm.core.merging.search_config import SEARCH_GROUPS, SearchConfig
from charllm.data.errors import Text, UserError
from charllm.data.files import read_text
from charllm.services.merge_forms import (
    FILE,
    PRESET_DEFAULT,
    START_NAMES,
    judge_in_use,
    start_values,
    starts,
    values_of_yaml,
)
from charllm.ui import form as forms
from charllm.ui.form_page import Reader, build_reader, clickable
from charllm.ui.judge_html import SHARED, Panel
from charllm.ui.merge_fill import LISTS, Fields, Looks, recalled, start_choices
from charllm.ui.merge_html import look_html, recipe_html, status_html
from charllm.ui.page import Page
from charllm.ui.words import say, t, warn

KEEP = "(...values) => window.charllmKeep('merge', values)"
RECALL = "(kept, ...rest) => [window.charllmKept('merge'), ...rest]"
FREE = ("method", "base")
OTHER_JUDGE = Text(
    "This file names another judge. The page uses the one chosen on the Judge tab.",
    "このファイルは別のジャッジを指定しています。画面では「ジャッジ」タブで選んだものを使います。",
)


# --- layout -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setup:
    """The form, the start with the line over it, and ``follow`` with its outputs ``follows``: what
    depends on the form's values, to be called after each change that no visitor typed."""

    fields: Fields
    looks: Looks
    start: gr.Button
    status: gr.HTML
    panel: Panel
    follow: Callable[..., Any]
    follows: list[Any]

    def after(self, event: Any) -> Any:
        """Show what depends on the form's values, which ``event`` has changed."""
        return event.then(
            self.follow,
            self.fields.inputs,
            self.follows,
            js=KEEP,
            trigger_mode="always_last",
            **SHARED,
        )


def build(page: Page) -> Setup:
    with gr.Row(equal_height=True, elem_id="merge-bar"):
        status = gr.HTML("", elem_id="merge-status")
        start = gr.Button(
            t("Start the evolution", "進化マージを始める"),
            variant="primary",
            interactive=False,
            elem_id="merge-start",
            scale=0,
            min_width=190,
        )
    with gr.Row(elem_id="merge-setup"):
        with gr.Column(scale=7, min_width=430):
            with gr.Row(equal_height=True):
                begin = gr.Dropdown(
                    [], label=t("Start from", "開始時の値"), scale=3, elem_id="merge-start-from"
                )
                tokens = gr.Number(
                    PRESET_DEFAULT.max_new_tokens,
                    label=t("Longest reply, tokens", "返答の最大トークン数"),
                    precision=0,
                    min_width=180,
                    elem_id="merge-tokens",
                )
            parents = gr.Dropdown(
                [],
                multiselect=True,
                label=t("Parents", "親"),
                info=t(
                    "Two or more: adapters on one base, whole models of one architecture, recipes.",
                    "2つ以上。同じベースのアダプター、同じ構造のモデル、レシピを選べます。",
                ),
                elem_id="merge-parents",
            )
            main = forms.build(
                EvolveConfig, EVOLVE_GROUPS, "merge", {name: () for name in LISTS}, free=FREE
            )
            gr.Markdown(t("### How it is searched", "### 探索の設定"))
            search = forms.build(SearchConfig, SEARCH_GROUPS, "evo")
        with gr.Column(scale=4, min_width=350, elem_id="merge-side"):
            found = clickable("merge-look")
            insist = gr.Checkbox(
                False,
                label=t(
                    "Use the judge even if it has not passed its check",
                    "検査に合格していないジャッジでも使う",
                ),
                container=False,
                elem_id="merge-insist",
            )
            recipe = clickable("merge-recipe")
            reader = build_reader("merge", "name: …\nprofile: …\nparents: […]")
    fields = Fields(page.paths, main, search, parents, tokens, insist)
    return _wire(page, fields, begin, start, (status, found, recipe), reader)


# --- wiring -------------------------------------------------------------------------------------


def _wire(
    page: Page,
    fields: Fields,
    begin: gr.Dropdown,
    start: gr.Button,
    told: tuple[gr.HTML, gr.HTML, gr.HTML],
    reader: Reader,
) -> Setup:
    paths, profile, looks = page.paths, page.profile, Looks(page.paths)
    whole = [begin, *fields.inputs]
    follows = [fields.main.state, fields.search.state, *told, start]
    kept = gr.Textbox("", visible=False)
    unchanged = [gr.skip()] * len(whole)

    def shown(name: str, values: list[Any], slug: str | None, request: gr.Request) -> list[Any]:
        """The whole form with these values, and what can be chosen now."""
        choices = start_choices(paths, name, slug, request)
        return [gr.Dropdown(choices, value=name), *fields.listed(values, request)]

    def begun(
        name: str, values: Mapping[str, Any], slug: str | None, request: gr.Request
    ) -> list[Any]:
        return shown(name, fields.show(name, values), slug, request)

    def first(slug: str | None, request: gr.Request) -> list[Any]:
        name = starts(paths, slug)[0]
        return begun(name, start_values(paths, name, slug), slug, request)

    def on_load(kept_: str, slug: str | None, request: gr.Request) -> list[Any]:
        values = recalled(len(fields.inputs), kept_)
        if values is None:
            return first(slug, request)
        return shown(fields.start_of(values), values, slug, request)

    def look_again(kept_: str, slug: str | None, request: gr.Request, *values: Any) -> list[Any]:
        """New checkpoints, models and runs become choices; what the form says stays.

        At the first visit it says what it said before the page was loaded.
        """
        looks.forget()
        name = fields.start_of(values)
        if name not in START_NAMES:
            return on_load(kept_, slug, request)
        return shown(name, list(values), slug, request)

    def on_begin(name: str | None, slug: str | None, request: gr.Request) -> list[Any]:
        if name is None or name == FILE:
            return unchanged
        try:
            made = begun(name, start_values(paths, name, slug), slug, request)
        except UserError as error:
            warn(error, request)
            return unchanged
        # Not its value: by now another one may be chosen.
        return [gr.Dropdown(start_choices(paths, name, slug, request)), *made[1:]]

    def on_text(text: str, slug: str | None, request: gr.Request, where: str = "YAML") -> list[Any]:
        try:
            values, judge = values_of_yaml(text, where)
            if judge != judge_in_use(paths):
                gr.Info(say(OTHER_JUDGE, request))
            return begun(FILE, values, slug, request)
        except UserError as error:
            warn(error, request)
            return unchanged

    def on_file(path: str, slug: str | None, request: gr.Request) -> list[Any]:
        try:
            text = read_text(Path(path))
        except UserError as error:
            warn(error, request)
            return unchanged
        return on_text(text, slug, request, Path(path).name)

    def follow(request: gr.Request, *values: Any) -> list[Any]:
        made = fields.read(values, request)
        found = looks.at(made.config) if made.config else None
        side = look_html(made.config, found, request) if made.config and found else ""
        return [
            made.main_told,
            made.search_told,
            status_html(found, made.error, request),
            side,
            recipe_html(made.config, request),
            gr.Button(interactive=found is not None and found.problem is None),
        ]

    def on_back(event: gr.EventData, begun_: str, *values: Any) -> list[Any]:
        return fields.main.back(begun_, values, str(event._data.get("name") or ""))

    def on_search_back(event: gr.EventData, begun_: str, *values: Any) -> list[Any]:
        return fields.search.back(begun_, values, str(event._data.get("name") or ""))

    panel = Panel(look_again, [kept, profile, *fields.inputs], whole)
    setup = Setup(fields, looks, start, told[0], panel, follow, follows)
    main, search = fields.main, fields.search
    last = {"trigger_mode": "always_last", **SHARED}
    each = {"trigger_mode": "multiple", **SHARED}
    gr.on(fields.triggers, follow, fields.inputs, follows, js=KEEP, **last)
    for event in (
        begin.input(on_begin, [begin, profile], whole, **last),
        profile.input(first, profile, whole, **last),
        reader.go.click(on_text, [reader.text, profile], whole, **SHARED),
        reader.file.upload(on_file, [reader.file, profile], whole, **SHARED),
        main.state.select(on_back, main.inputs, list(main.fields.values()), **each),
        search.state.select(on_search_back, search.inputs, list(search.fields.values()), **each),
    ):
        setup.after(event)
    return setup
