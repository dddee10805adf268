"""Setting interviews up: who is interviewed by whom, how long, who judges, and what it takes.

What is typed is kept by the browser, so that a reload loses nothing. Nothing is looked up before
the page is first opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from charllm.core.evaluation.five import CRITERIA
from charllm.core.evaluation.interview_config import INTERVIEW_GROUPS, InterviewConfig
from charllm.core.generation import DEFAULT_PRESET, PRESETS
from charllm.data.errors import Text, UserError
from charllm.services.interview_forms import look, make_set
from charllm.ui import form as forms
from charllm.ui.evaluate_interviews_fill import LISTS, Fields
from charllm.ui.evaluate_interviews_html import look_html, recipe_html, status_html
from charllm.ui.form_page import clickable
from charllm.ui.judge_html import SHARED
from charllm.ui.page import Page
from charllm.ui.words import say, t, warn

KEEP = "(...values) => window.charllmKeep('interviews', values)"
KINDS = [
    (t("the fixed questions", "決まった質問"), "list"),
    (t("a model behind an endpoint", "エンドポイントのモデル"), "endpoint"),
    (t("a model on this machine", "このマシンのモデル"), "local"),
]
EXPLAINED = t(
    "Every variant is asked the same first questions; then the interviewer asks on, and each "
    "answer is heard again in the next turn. Shown are Character-LLM's five criteria with "
    "naturalness and tempo, and whether they fall as the talk goes on. Without a judge that reads, "
    "measures by rule stand alone: they see words, not meaning.",
    "どの構成にも同じ質問から始め、その後は質問する人が続けて尋ねます。返答は次のターンの文脈に"
    "入ります。Character-LLM の5つの基準と自然さ・テンポ、それらが会話の途中で下がるかどうかが"
    "分かります。文章を読むジャッジを使わない場合は、語句だけを見る機械的な指標になります。",
)


# --- layout -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setup:
    """The form with what it leads to; ``fold`` holds it all."""

    fold: gr.Accordion
    fields: Fields
    status: gr.HTML
    make: gr.Button
    start: gr.Button
    look: gr.HTML
    recipe: gr.HTML

    @property
    def follows(self) -> list[Any]:
        """What depends on the form's values."""
        state = self.fields.main.state
        return [state, self.status, self.make, self.look, self.recipe, self.start]

    def told(self, page: Page, values: Sequence[Any], request: gr.Request) -> list[Any]:
        """What ``follows`` shows of the values of the form's inputs."""
        made = self.fields.read(values, request)
        found = look(made.config, page.paths) if made.config else None
        return [
            made.told,
            status_html(found, made.error, request),
            gr.Button(visible=found is not None and found.lacks),
            look_html(made.config, found, request) if made.config and found else "",
            recipe_html(made.config, request),
            gr.Button(interactive=found is not None and found.problem is None),
        ]


def _html(elem_id: str) -> gr.HTML:
    return gr.HTML("", apply_default_css=False, elem_id=elem_id)


def _layout(page: Page) -> Setup:
    with gr.Accordion(t("New interviews", "新しいインタビュー"), elem_id="interviews-new") as fold:
        gr.Markdown(EXPLAINED)
        with gr.Row(equal_height=True, elem_id="interviews-bar"):
            status = _html("interviews-status")
            make = gr.Button(
                t("Make the question set", "質問セットを作る"),
                visible=False,
                scale=0,
                min_width=190,
                elem_id="interviews-make",
            )
            start = gr.Button(
                t("Start the interviews", "インタビューを始める"),
                variant="primary",
                interactive=False,
                scale=0,
                min_width=190,
                elem_id="interviews-start",
            )
        with gr.Row(elem_id="interviews-setup"):
            with gr.Column(scale=7, min_width=430):
                fields = _fields(page)
            with gr.Column(scale=4, min_width=350):
                found, recipe = _html("interviews-look"), clickable("interviews-recipe")
    return Setup(fold, fields, status, make, start, found, recipe)


def _fields(page: Page) -> Fields:
    variants = gr.Dropdown(
        [],
        multiselect=True,
        label=t("Variants", "インタビューする構成"),
        info=t("As the chat has them.", "チャットの列と同じものです。"),
        elem_id="interviews-variants",
    )
    kind, model, base_url = _asks()
    with gr.Row(equal_height=True):
        preset = gr.Dropdown(
            [], label=t("Generation", "生成設定"), scale=3, elem_id="interviews-preset"
        )
        tokens = gr.Number(
            PRESETS[DEFAULT_PRESET].max_new_tokens,
            label=t("Tokens of a reply at most", "返答の最大トークン数"),
            precision=0,
            min_width=170,
            elem_id="interviews-tokens",
        )
    main = forms.build(
        InterviewConfig, INTERVIEW_GROUPS, "interviews", {name: () for name in LISTS}
    )
    return Fields(page.paths, main, variants, kind, model, base_url, preset, tokens, *_judges())


def _asks() -> tuple[gr.Radio, gr.Dropdown, gr.Textbox]:
    """Who asks after the first question of an interview."""
    kind = gr.Radio(
        KINDS,
        value="list",
        label=t("Interviewer", "質問する人"),
        info=t(
            "The first question is the set's. A model then reads each answer and asks on; the "
            "fixed questions are the same for everybody.",
            "最初の質問は質問セットから出します。モデルは返答を読んで次を尋ねます。決まった質問は"
            "全員に同じです。",
        ),
        elem_id="interviews-kind",
    )
    with gr.Row(equal_height=True):
        model = gr.Dropdown(
            [],
            label=t("The interviewer's model", "質問するモデル"),
            allow_custom_value=True,
            visible=False,
            elem_id="interviews-model",
        )
        base_url = gr.Textbox(
            "",
            label=t("Its address", "モデルのアドレス"),
            placeholder=t("empty: OpenAI", "空欄なら OpenAI"),
            max_lines=1,
            visible=False,
            elem_id="interviews-base-url",
        )
    return kind, model, base_url


def _judges() -> tuple[gr.Dropdown, gr.CheckboxGroup, gr.Number]:
    with gr.Row(equal_height=True):
        judge = gr.Dropdown(
            [],
            label=t("Judge", "ジャッジ"),
            info=t("The Judge page chooses a model.", "モデルは「ジャッジ」タブで選びます。"),
            scale=3,
            elem_id="interviews-judge",
        )
        money = gr.Number(
            None,
            label=t("Its budget, US$", "採点予算（米ドル）"),
            placeholder=t("no limit", "上限なし"),
            min_width=150,
            elem_id="interviews-money",
        )
    criteria = gr.CheckboxGroup(
        [(t(*one.label), key) for key, one in CRITERIA.items()],
        value=list(CRITERIA),
        label=t("Criteria", "基準"),
        elem_id="interviews-criteria",
    )
    return judge, criteria, money


# --- wiring -------------------------------------------------------------------------------------


def build(page: Page) -> Setup:
    setup = _layout(page)
    fields, paths = setup.fields, page.paths

    def follow(request: gr.Request, *values: Any) -> list[Any]:
        return setup.told(page, values, request)

    def on_profile(request: gr.Request, *values: Any) -> list[Any]:
        """The form's own choice of character: everything as for that one."""
        made = fields.listed(fields.first(fields.profile_of(values)), request)
        made[fields.profile_place] = gr.skip()  # by now another character may be chosen
        return made

    def on_kind(kind: str) -> list[Any]:
        return fields.asking(kind, "", "")

    def on_preset(name: str) -> Any:
        """Another preset brings its own length."""
        return PRESETS[name].max_new_tokens if name in PRESETS else gr.skip()

    def on_back(event: gr.EventData, begun: str, *values: Any) -> list[Any]:
        return fields.main.back(begun, values, str(event._data.get("name") or ""))

    def on_make(request: gr.Request, *values: Any) -> list[Any]:
        try:
            count = make_set(paths, fields.profile_of(values))
            told = Text(f"{count} questions were written.", f"質問を {count} 件作りました。")
            gr.Info(say(told, request))
        except UserError as error:
            warn(error, request)
        return fields.listed(values, request)

    main = fields.main
    after = (fields.kind.input, fields.preset.input, main.fields["profile"].input)
    changed = [one for one in fields.triggers if one not in after]
    last = {"trigger_mode": "always_last", **SHARED}
    gr.on(changed, follow, fields.inputs, setup.follows, js=KEEP, **last)
    asking, values = [fields.model, fields.base_url], list(main.fields.values())
    for event in (
        fields.kind.input(on_kind, fields.kind, asking, **last),
        fields.preset.input(on_preset, fields.preset, fields.tokens, **last),
        main.fields["profile"].input(on_profile, fields.inputs, fields.inputs, **last),
        main.state.select(on_back, main.inputs, values, trigger_mode="multiple", **SHARED),
        setup.make.click(on_make, fields.inputs, fields.inputs, **SHARED),
    ):
        event.then(follow, fields.inputs, setup.follows, js=KEEP, **last)
    return setup
