"""Set up an evaluation: variants, questions, generation and judges, what it takes, the YAML.

What is typed is kept by the browser, so that a reload loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from charllm.core.evaluation.evaluate_config import EVALUATE_GROUPS, EvaluateConfig
from charllm.core.generation import DEFAULT_PRESET, PRESETS
from charllm.data.errors import UserError
from charllm.data.files import read_text
from charllm.services.evaluate_forms import (
    FILE,
    MATRIX,
    START_NAMES,
    matrix_values,
    start_values,
    values_of_yaml,
)
from charllm.ui import form as forms
from charllm.ui.evaluate_fill import LISTS, SPLITS, Fields, Looks, recalled, start_choices
from charllm.ui.evaluate_html import look_html, recipe_html, status_html
from charllm.ui.form_page import Reader, build_reader, clickable
from charllm.ui.judge_html import SHARED, Panel
from charllm.ui.page import Page
from charllm.ui.words import t, warn

KEEP = "(...values) => window.charllmKeep('evaluate', values)"
RECALL = "(kept, ...rest) => [window.charllmKept('evaluate'), ...rest]"
SPLIT_NAMES = {
    "search": t("search (what merges are tuned on)", "search（マージの探索用）"),
    "selection": t("selection (finalists)", "selection（最終候補の選択用）"),
    "report": t("report (unseen)", "report（報告用・未使用）"),
}


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


def _asked() -> list[Any]:
    """Judges, splits and generation: what is asked, how, and who hears the answers."""
    judges = gr.Dropdown(
        [],
        multiselect=True,
        label=t("Judges", "ジャッジ"),
        info=t(
            "Scores of two judges are never mixed. The Judge page chooses a model.",
            "ジャッジごとに集計し、点数を混ぜません。モデルは「ジャッジ」タブで選びます。",
        ),
        elem_id="evaluate-judges",
    )
    splits = gr.CheckboxGroup(
        [(SPLIT_NAMES[name], name) for name in SPLITS],
        label=t("Questions of these splits (none: all)", "使う質問の区分（選ばなければすべて）"),
        elem_id="evaluate-splits",
    )
    with gr.Row(equal_height=True):
        preset = gr.Dropdown(
            [], label=t("Generation", "生成設定"), scale=3, elem_id="evaluate-preset"
        )
        tokens = gr.Number(
            PRESETS[DEFAULT_PRESET].max_new_tokens,
            label=t("Tokens at most", "最大トークン数"),
            precision=0,
            min_width=140,
            elem_id="evaluate-tokens",
        )
        temperature = gr.Number(
            0.0, label=t("Temperature", "温度"), step=0.1, min_width=110, elem_id="evaluate-heat"
        )
        money = gr.Number(
            None,
            label=t("Judge budget, US$", "採点予算（米ドル）"),
            placeholder=t("no limit", "上限なし"),
            min_width=150,
            elem_id="evaluate-money",
        )
    return [judges, splits, preset, tokens, temperature, money]


def build(page: Page) -> Setup:
    with gr.Row(equal_height=True, elem_id="evaluate-bar"):
        status = gr.HTML("", elem_id="evaluate-status")
        start = gr.Button(
            t("Start the evaluation", "評価を始める"),
            variant="primary",
            interactive=False,
            elem_id="evaluate-start",
            scale=0,
            min_width=170,
        )
    with gr.Row(elem_id="evaluate-setup"):
        with gr.Column(scale=7, min_width=430):
            begin = gr.Dropdown(
                [], label=t("Start from", "開始時の値"), elem_id="evaluate-start-from"
            )
            variants = gr.Dropdown(
                [],
                multiselect=True,
                label=t("Variants", "比べる構成"),
                info=t("As the chat has them.", "チャットの列と同じものです。"),
                elem_id="evaluate-variants",
            )
            matrix = gr.Button(
                t("2 × 2: RAG × fine-tuning", "2×2：RAG × ファインチューニング"),
                size="sm",
                elem_id="evaluate-matrix",
            )
            asked = _asked()
            main = forms.build(
                EvaluateConfig, EVALUATE_GROUPS, "evaluate", {name: () for name in LISTS}
            )
        with gr.Column(scale=4, min_width=350, elem_id="evaluate-side"):
            found, recipe = clickable("evaluate-look"), clickable("evaluate-recipe")
            reader = build_reader("evaluate", "name: …\nprofile: …\nvariants: […]")
    fields = Fields(page.paths, main, variants, *asked)
    return _wire(page, fields, (begin, matrix, start), (status, found, recipe), reader)


# --- wiring -------------------------------------------------------------------------------------


def _wire(
    page: Page,
    fields: Fields,
    pressed: tuple[gr.Dropdown, gr.Button, gr.Button],
    told: tuple[gr.HTML, gr.HTML, gr.HTML],
    reader: Reader,
) -> Setup:
    paths, profile, looks = page.paths, page.profile, Looks(page.paths)
    begin, matrix, start = pressed
    whole = [begin, *fields.inputs]
    follows = [fields.main.state, *told, start]
    kept = gr.Textbox("", visible=False)
    unchanged = [gr.skip()] * len(whole)

    def shown(name: str, values: list[Any], slug: str | None, request: gr.Request) -> list[Any]:
        """The whole form with these values, and what can be chosen now."""
        choices = start_choices(paths, name, request)
        return [gr.Dropdown(choices, value=name), *fields.listed(values, slug, request)]

    def begun(
        name: str, values: Mapping[str, Any], slug: str | None, request: gr.Request
    ) -> list[Any]:
        return shown(name, fields.show(name, values), slug, request)

    def first(slug: str | None, request: gr.Request) -> list[Any]:
        return begun(MATRIX, matrix_values(paths, slug), slug, request)

    def on_load(kept_: str, slug: str | None, request: gr.Request) -> list[Any]:
        values = recalled(len(fields.inputs), kept_)
        if values is None:
            return first(slug, request)
        return shown(fields.start_of(values), values, slug, request)

    def look_again(kept_: str, slug: str | None, request: gr.Request, *values: Any) -> list[Any]:
        """New checkpoints, judges and runs become choices; what the form says stays.

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
        return [gr.Dropdown(start_choices(paths, name, request)), *made[1:]]

    def on_matrix(slug: str | None, request: gr.Request, *values: Any) -> list[Any]:
        """The four variants of the form's character; everything else stays."""
        given = list(values)
        place = len(fields.own) + 1 + list(fields.main.fields).index("profile")
        given[0] = matrix_values(paths, given[place] or slug)["variants"]
        made = shown(fields.start_of(given), given, slug, request)
        made[1 + place] = gr.skip()  # by now another character may be chosen
        return made

    def on_text(text: str, slug: str | None, request: gr.Request, where: str = "YAML") -> list[Any]:
        try:
            return begun(FILE, values_of_yaml(text, where), slug, request)
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

    def on_preset(name: str) -> list[Any]:
        """Another preset brings its own length and temperature."""
        known = PRESETS.get(name)
        return [known.max_new_tokens, known.temperature] if known else [gr.skip(), gr.skip()]

    def follow(request: gr.Request, *values: Any) -> list[Any]:
        made = fields.read(values, request)
        found = looks.at(made.config) if made.config else None
        return [
            made.told,
            status_html(found, made.error, request),
            look_html(made.config, found, request) if made.config and found else "",
            recipe_html(made.config, request),
            gr.Button(interactive=found is not None and found.problem is None),
        ]

    def on_back(event: gr.EventData, begun_: str, *values: Any) -> list[Any]:
        return fields.main.back(begun_, values, str(event._data.get("name") or ""))

    panel = Panel(look_again, [kept, profile, *fields.inputs], whole)
    setup = Setup(fields, looks, start, told[0], panel, follow, follows)
    main = fields.main
    changed = [one for one in fields.triggers if one is not fields.preset.input]
    last = {"trigger_mode": "always_last", **SHARED}
    gr.on(changed, follow, fields.inputs, follows, js=KEEP, **last)
    generation = [fields.tokens, fields.temperature]
    for event in (
        begin.input(on_begin, [begin, profile], whole, **last),
        matrix.click(on_matrix, [profile, *fields.inputs], whole, **SHARED),
        profile.input(first, profile, whole, **last),
        main.fields["profile"].input(on_matrix, [profile, *fields.inputs], whole, **last),
        fields.preset.input(on_preset, fields.preset, generation, **last),
        reader.go.click(on_text, [reader.text, profile], whole, **SHARED),
        reader.file.upload(on_file, [reader.file, profile], whole, **SHARED),
        main.state.select(
            on_back, main.inputs, list(main.fields.values()), trigger_mode="multiple", **SHARED
        ),
    ):
        setup.after(event)
    return setup
