"""Who judges: the judge, its rubric and its key, and one reply judged by it to see what it does.

The choice is kept by the server, so every browser and every run from here on use the same one.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from charllm.core.endpoint import set_session_key
from charllm.core.judging.judges import JudgeConfig
from charllm.core.judging.rubric import list_rubrics, load_rubric
from charllm.data.config import Paths
from charllm.data.errors import Text, UserError
from charllm.services.judge_choice import load_choice, save_choice, try_out
from charllm.ui import judge_form, judge_trial
from charllm.ui.judge_form import OTHER, TYPED, config_from, server_of, sketch, values_of
from charllm.ui.judge_html import SHARED, Panel
from charllm.ui.judge_trial import item_from
from charllm.ui.page import Page, banner
from charllm.ui.rubric_html import embedded_html, key_html, notices_html, rubric_html, trial_html
from charllm.ui.words import language_of, say

# --- data ---------------------------------------------------------------------------------------


def rubric_choices(paths: Paths, request: gr.Request) -> list[tuple[str, str]]:
    """Every rubric file by its label; one that cannot be read is named by its file."""
    choices = []
    for name in list_rubrics(paths):
        try:
            label = say(load_rubric(paths, name).label.text, request)
        except UserError:  # what is wrong with it is told where it is chosen
            label = name
        choices.append((label if label == name else f"{label} ({name})", name))
    return choices


def described(paths: Paths, config: JudgeConfig, request: gr.Request) -> str:
    """How this judge comes to a score: its rubric, or what the embedded one measures."""
    if config.kind == "embedded":
        return embedded_html(request)
    try:
        return rubric_html(paths, load_rubric(paths, config.rubric), request)
    except UserError as error:
        return banner(error.in_(language_of(request)), "bad")


def needs_of(paths: Paths, config: JudgeConfig) -> tuple[bool, bool]:
    """Whether the rubric asks for gold facts, and for earlier turns."""
    if config.kind == "embedded":
        return False, False
    try:
        needs = load_rubric(paths, config.rubric).needs
    except UserError:  # told where the rubric is described
        return False, False
    return "gold" in needs, "history" in needs


# --- layout and wiring --------------------------------------------------------------------------


def build(page: Page) -> Panel:
    with gr.Row(visible=False) as body:
        with gr.Column(scale=5, min_width=420):
            form = judge_form.build()
        with gr.Column(scale=6, min_width=460):
            about = gr.HTML("", elem_id="judge-about")
    status = gr.HTML("", elem_id="judge-status")
    trial = judge_trial.build()
    fields = form.fields
    everything = [*fields.values()]
    groups = [form.endpoint, form.key_line, form.local, form.asking, fields["base_url"], form.calls]
    texts = [form.key_state, form.notices, about, trial.gold, trial.history]
    follows = [*groups, *texts, status]

    def shown(config: JudgeConfig, request: gr.Request) -> list[Any]:
        """What follows from the choice: the fields that matter, the key, notices, the rubric."""
        gold, history = needs_of(page.paths, config)
        remote = config.kind == "endpoint"
        return [
            gr.Group(visible=remote),
            gr.Row(visible=remote),
            gr.Group(visible=config.kind == "local"),
            gr.Group(visible=config.kind != "embedded"),
            gr.Textbox(visible=remote and server_of(config.base_url) == OTHER),
            gr.Group(visible=remote),
            key_html(config, request),
            notices_html(config, request),
            described(page.paths, config, request),
            gr.Textbox(visible=gold),
            gr.Textbox(visible=history),
        ]

    def read(values: tuple[Any, ...]) -> JudgeConfig:
        return config_from(dict(zip(fields, values, strict=True)))

    def fill(request: gr.Request) -> Any:
        """The form as the kept choice has it. Nobody can have picked anything before."""
        try:
            config, told = load_choice(page.paths), ""
        except UserError as error:
            config, told = JudgeConfig(), banner(error.in_(language_of(request)), "bad")
        rubrics = rubric_choices(page.paths, request)
        new = values_of(config)
        new["rubric"] = gr.Dropdown(rubrics, value=new["rubric"])
        return [*new.values(), *shown(config, request), told, gr.Row(visible=True)]

    def look(request: gr.Request) -> Any:
        """The rubrics that there are now; what is picked stays."""
        return gr.Dropdown(rubric_choices(page.paths, request))

    def store(request: gr.Request, *values: Any) -> Any:
        """Keep the choice if it is one; a half typed form is told and not kept."""
        try:
            config = read(values)
            save_choice(page.paths, config)
        except UserError as error:
            unfinished = sketch(dict(zip(fields, values, strict=True)))
            waiting = banner(error.in_(language_of(request)))
            return [*shown(unfinished, request), waiting]
        return [*shown(config, request), ""]

    def remember(entered: str, request: gr.Request, *values: Any) -> Any:
        """The box is empty again before anything else is done."""
        try:
            config = read(values)
            if entered.strip():
                set_session_key(entered.strip(), config.base_url)
            return ["", key_html(config, request)]
        except UserError as error:
            return ["", banner(error.in_(language_of(request)), "bad")]

    def drop_key(request: gr.Request, *values: Any) -> Any:
        config = read(values)
        set_session_key("", config.base_url)
        return key_html(config, request)

    def on_try(
        slug: str | None,
        asked: str,
        said: str,
        facts: str,
        before: str,
        request: gr.Request,
        *values: Any,
    ) -> Any:
        if not slug or not said.strip():
            words = Text("Write a reply to judge.", "採点する返答を入力してください。")
            return banner(say(words, request))
        try:
            config = read(values)
            save_choice(page.paths, config)
            made = try_out(page.paths, slug, config, item_from(asked, said, facts, before))
        except UserError as error:
            return banner(error.in_(language_of(request)), "bad")
        return trial_html(made, request)

    # Once a page, and shown only then: nothing that is picked can meet a late answer.
    page.demo.load(fill, None, [*everything, *follows, body], **SHARED)
    for name, component in fields.items():
        # Gradio tells of keys only: what was pasted is kept when the field is left.
        told = [component.input]
        if name in TYPED:
            told.append(component.blur)
        for event in told:
            event(store, everything, follows, trigger_mode="always_last", **SHARED)
    for event in (form.key.submit, form.key.blur):
        event(remember, [form.key, *everything], [form.key, form.key_state], **SHARED)
    form.forget.click(drop_key, everything, form.key_state, **SHARED)
    trial.go.click(
        on_try,
        [
            page.profile,
            trial.question,
            trial.reply,
            trial.gold,
            trial.history,
            *everything,
        ],
        trial.result,
        show_progress="minimal",
        api_visibility="private",
    )
    return Panel(look, [], [fields["rubric"]])
