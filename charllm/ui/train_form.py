"""Set up a training run: a form made from its configuration, beside the YAML and the command.

What is typed is kept by the browser, so that a reload loses nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from charllm.core.catalog import CATALOG
from charllm.core.training_config import GROUPS, PRESETS, TrainConfig
from charllm.data import collection
from charllm.data.errors import UserError
from charllm.data.files import read_text
from charllm.data.templates import TEMPLATES
from charllm.services.train_forms import (
    DEMO,
    FILE,
    LAST,
    START_NAMES,
    own_values,
    start_values,
    train_runs,
    values_of_yaml,
)
from charllm.services.train_look import base_ready
from charllm.ui import form as forms
from charllm.ui.form import Form
from charllm.ui.form_page import Reader, build_reader, clickable
from charllm.ui.form_values import packed, shown_values, unpacked
from charllm.ui.judge_html import SHARED, Panel
from charllm.ui.page import Page, profile_choices
from charllm.ui.train_gate import Gate
from charllm.ui.train_html import base_html, recipe_html
from charllm.ui.words import say, t, warn

KEEP = "(...values) => window.charllmKeep('train', values)"
RECALL = "(kept, ...rest) => [window.charllmKept('train'), ...rest]"
LISTS = ("profile", "dataset", "base", "template")
"""Text settings that are chosen from a list."""
FREE = ("base",)


# --- data ---------------------------------------------------------------------------------------


def start_choices(page: Page, start: str, request: gr.Request) -> list[tuple[str, str]]:
    """The presets, the last run if there is one, and the file that the form shows now."""
    names = [*PRESETS]
    if train_runs(page.paths):
        names.append(LAST)
    if start == FILE:
        names.append(FILE)
    return [(say(START_NAMES[name], request), name) for name in names]


def list_choices(page: Page) -> dict[str, list[tuple[str, str]]]:
    """What may be chosen now, by setting; bases on this machine are ticked."""
    datasets = [one for one in collection.listing(page.paths) if one.problem is None]
    rows = [(f"{one.name} · {one.rows:,}", one.name) for one in datasets]
    bases = [
        (f"{model.label} ✓" if base_ready(model.id, page.paths) else model.label, model.id)
        for model in CATALOG
        if model.trainable
    ]
    templates = [(name, name) for name in ("auto", *TEMPLATES, "tokenizer")]
    found = {"profile": profile_choices(page.paths), "dataset": rows, "base": bases}
    return found | {"template": list(dict.fromkeys(templates))}


def recalled(form: Form[TrainConfig], kept: str) -> list[Any] | None:
    """What this browser kept of the form; None where it is not a form of this charllm."""
    try:
        values = json.loads(kept)
    except ValueError:
        return None
    if not isinstance(values, list) or len(values) != len(form.inputs):
        return None
    start, begun = unpacked(str(values[0]))
    return [packed(start, begun), *values[1:]] if start in START_NAMES else None


# --- layout -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setup:
    """The form, and ``follow`` with its outputs ``follows``: what depends on the form's values, to
    be called after each change that no visitor typed."""

    form: Form[TrainConfig]
    panel: Panel
    follow: Callable[..., Any]
    follows: list[Any]

    def after(self, event: Any) -> Any:
        """Show what depends on the form's values, which ``event`` has changed."""
        return event.then(
            self.follow,
            self.form.inputs,
            self.follows,
            js=KEEP,
            trigger_mode="always_last",
            **SHARED,
        )


def build(page: Page, gate: Gate) -> Setup:
    """``gate`` is told of every change of the form."""
    with gr.Row(elem_id="train-setup"):
        with gr.Column(scale=7, min_width=430):
            begin = gr.Dropdown(
                [],
                label=t("Start from", "開始時の値"),
                elem_id="train-start-from",
                interactive=True,
            )
            form = forms.build(
                TrainConfig, GROUPS, "train", {name: () for name in LISTS}, free=FREE
            )
        with gr.Column(scale=4, min_width=330, elem_id="train-side"):
            base = gr.HTML("", elem_id="train-base-note")
            recipe = clickable("train-recipe")
            reader = build_reader("train", "name: …\nprofile: …\ndataset: …")
    return _wire(page, gate, form, begin, base, recipe, reader)


# --- wiring -------------------------------------------------------------------------------------


def _wire(
    page: Page,
    gate: Gate,
    form: Form[TrainConfig],
    begin: gr.Dropdown,
    base: gr.HTML,
    recipe: gr.HTML,
    reader: Reader,
) -> Setup:
    fields = list(form.fields.values())
    whole = [begin, *form.inputs]
    follows = [form.state, base, recipe, *gate.outputs]
    kept = gr.Textbox("", visible=False)

    def begun(start: str, values: dict[str, Any], request: gr.Request) -> list[Any]:
        """The whole form, as it starts from these values."""
        choices = start_choices(page, start, request)
        return [gr.Dropdown(choices, value=start), *form.show(start, values)]

    def with_lists(values: Sequence[Any]) -> list[Any]:
        """Values of the fields, with what can be chosen now."""
        lists = list_choices(page)
        return [
            gr.Dropdown(lists[name], value=value or None) if name in lists else value
            for name, value in zip(form.fields, values, strict=True)
        ]

    def on_load(kept_: str, slug: str | None, request: gr.Request) -> list[Any]:
        values = recalled(form, kept_)
        if values is None:
            made = start_values(page.paths, DEMO, slug)
            values = form.show(DEMO, made)
        start = unpacked(values[0])[0]
        choices = start_choices(page, start, request)
        return [
            gr.Dropdown(choices, value=start),
            values[0],
            *with_lists(values[1:]),
        ]

    def look_again(
        kept_: str, slug: str | None, request: gr.Request, start: str, *values: Any
    ) -> list[Any]:
        """New datasets, models and runs become choices; what the form says stays.

        At the first visit it says what it said before the page was loaded.
        """
        name = unpacked(start)[0]
        if name not in START_NAMES:
            return on_load(kept_, slug, request)
        lists = list_choices(page)
        fresh = [gr.Dropdown(lists[one]) if one in lists else gr.skip() for one in form.fields]
        return [gr.Dropdown(start_choices(page, name, request), value=name), gr.skip(), *fresh]

    def on_begin(start: str | None, slug: str | None, request: gr.Request) -> list[Any]:
        if start is None or start == FILE:
            return [gr.skip()] * len(whole)
        try:
            made = begun(start, start_values(page.paths, start, slug), request)
        except UserError as error:
            warn(error, request)
            return [gr.skip()] * len(whole)
        # Not its value: by now another one may be chosen.
        return [gr.Dropdown(start_choices(page, start, request)), *made[1:]]

    def on_profile(slug: str | None, start: str, request: gr.Request) -> list[Any]:
        """Another character in the header: its name, its dataset, a free name for the result."""
        name, values = unpacked(start)
        own = own_values(page.paths, slug)
        shown = shown_values(form.settings, own)
        fresh = [shown[one] if one in own else gr.skip() for one in form.fields]
        return [packed(name, {**values, **own}), *fresh]

    def read_text_(text: str, request: gr.Request) -> list[Any]:
        try:
            return begun(FILE, values_of_yaml(text, "YAML"), request)
        except UserError as error:
            warn(error, request)
            return [gr.skip()] * len(whole)

    def read_file(path: str, request: gr.Request) -> list[Any]:
        try:
            text = read_text(Path(path))
            return begun(FILE, values_of_yaml(text, Path(path).name), request)
        except UserError as error:
            warn(error, request)
            return [gr.skip()] * len(whole)

    def follow(request: gr.Request, start: str, *values: Any) -> list[Any]:
        read = form.read(start, values)
        given = dict(zip(form.fields, values, strict=True))
        return [
            form.told(start, values, request),
            base_html(page.paths, str(given["base"] or ""), str(given["backend"]), request),
            recipe_html(read, unpacked(start), request),
            *gate.shown(read, request),
        ]

    def on_back(request: gr.Request, event: gr.EventData, start: str, *values: Any) -> list[Any]:
        return form.back(start, values, str(event._data.get("name") or ""))

    setup = Setup(
        form, Panel(look_again, [kept, page.profile, *form.inputs], whole), follow, follows
    )
    form.on_change(follow, follows, js=KEEP, **SHARED)
    last = {"trigger_mode": "always_last", **SHARED}
    for event in (
        begin.input(on_begin, [begin, page.profile], whole, **last),
        page.profile.input(on_profile, [page.profile, form.start], form.inputs, **last),
        reader.go.click(read_text_, reader.text, whole, **SHARED),
        reader.file.upload(read_file, reader.file, whole, **SHARED),
        form.state.select(on_back, form.inputs, fields, trigger_mode="multiple", **SHARED),
    ):
        setup.after(event)
    return setup
