"""The form of interviews and its configuration: what it says, starts from, and lists.

What the configuration's own form cannot show (variants, interviewer, generation, judge) is added
here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from charllm.core.evaluation.five import CRITERIA
from charllm.core.evaluation.interview_config import InterviewConfig, InterviewerConfig
from charllm.core.generation import DEFAULT_PRESET, PRESETS, GenerationPreset
from charllm.data.config import Paths
from charllm.data.errors import Text, UserError
from charllm.services.evaluate_forms import (
    read_judges,
    read_variants,
    variant_choices,
    written_variant,
)
from charllm.services.interview_forms import judge_choices, model_choices, start_values
from charllm.ui.evaluate_fill import INVALID, NOBODY, labelled, preset_choices
from charllm.ui.form import TYPED, Form
from charllm.ui.form_values import packed, unpacked
from charllm.ui.judge_html import one_of
from charllm.ui.page import profile_choices
from charllm.ui.words import say

LISTS = ("profile", "queries")
"""Text settings that are chosen from a list."""
START = "interviews"
"""What the form's hidden field says it began with."""
UNNAMED = Text("Name the model that asks.", "質問するモデルの名前を入力してください。")
PASSWORD = Text(
    "Leave the user name and the password out of the address; a key is entered on the Judge page.",
    "アドレスにユーザー名とパスワードを含めないでください。キーは「ジャッジ」タブで入力します。",
)
NOTHING_ASKED = Text(
    "Nothing would be asked: set interviews, or have the questions asked alone.",
    "質問が1つもありません。インタビュー数を増やすか、単独の質問を有効にしてください。",
)
NO_CRITERION = Text("Choose at least one criterion.", "基準を1つ以上選んでください。")


@dataclass(frozen=True)
class Filled:
    """What the whole form says: the configuration, or why there is none, and HTML of its state."""

    config: InterviewConfig | None
    error: Text | None
    told: str


@dataclass(frozen=True)
class Fields:
    """The form's components: those made from the configuration, and those beside them.

    ``main`` keeps what the values began with in its hidden field.
    """

    paths: Paths
    main: Form[InterviewConfig]
    variants: gr.Dropdown
    kind: gr.Radio
    model: gr.Dropdown
    base_url: gr.Textbox
    preset: gr.Dropdown
    tokens: gr.Number
    judge: gr.Dropdown
    criteria: gr.CheckboxGroup
    money: gr.Number

    @property
    def own(self) -> list[Any]:
        """The components beside the main form, in the order of the values."""
        asks = [self.kind, self.model, self.base_url]
        return [self.variants, *asks, self.preset, self.tokens, *self.judging]

    @property
    def judging(self) -> list[Any]:
        return [self.judge, self.criteria, self.money]

    @property
    def inputs(self) -> list[Any]:
        """What handlers are given; ``read``, ``show`` and ``listed`` keep to this order."""
        return [*self.own, *self.main.inputs]

    @property
    def triggers(self) -> list[Any]:
        """The events of a visitor's own changes. What was pasted is told when a field is left."""
        fields = [*self.own, *self.main.fields.values()]
        return [*(f.input for f in fields), *(f.blur for f in fields if isinstance(f, TYPED))]

    def read(self, values: Sequence[Any], request: gr.Request) -> Filled:
        """The configuration from the values of ``inputs``."""
        variants, kind, model, address, preset, tokens, judge, criteria, money = values[:OWN_INPUTS]
        begun, *fields = values[OWN_INPUTS:]
        start, base = unpacked(str(begun))
        try:
            heard = read_judges([judge])[0] if judge else None
            beside = {
                "variants": read_variants(variants or ["?"]),  # none is told over the form
                "interviewer": _interviewer(base, kind, model or "", address or ""),
                "preset": _preset(base, preset, tokens),
                "judge": heard.model_dump(mode="json", exclude_defaults=True) if heard else None,
                "criteria": [key for key in CRITERIA if key in (criteria or [])],
                "budget": {**base.get("budget", {}), "money": money},
            }
        except UserError as error:
            return Filled(None, error.text, "")
        whole = packed(start, {**base, **beside})
        made = self.main.read(whole, fields)
        given = dict(zip(self.main.fields, fields, strict=True))
        why = None if made.config else INVALID
        if not given["single"] and not given["talks"]:
            why = NOTHING_ASKED
        elif not variants or not criteria:
            why = NO_CRITERION if variants else NOBODY
        told = self.main.told(whole, fields, request)
        return Filled(made.config if why is None else None, why, told)

    def show(self, values: Mapping[str, Any]) -> list[Any]:
        """Values of ``inputs`` so that the form starts from ``values``."""
        preset = GenerationPreset.model_validate(values.get("preset", PRESETS[DEFAULT_PRESET]))
        asks = InterviewerConfig.model_validate(values.get("interviewer", {}))
        return [
            [written_variant(one) for one in values.get("variants", [])],
            asks.kind,
            asks.model,
            asks.base_url,
            preset.name,
            preset.max_new_tokens,
            "",
            list(values.get("criteria", CRITERIA)),
            values.get("budget", {}).get("money"),
            *self.main.show(START, values),
        ]

    def listed(self, values: Sequence[Any], request: gr.Request) -> list[Any]:
        """Values of ``inputs``, with what can be chosen now."""
        chosen, kind, model, address, preset, tokens, judge, criteria, money = values[:OWN_INPUTS]
        slug = self.profile_of(values)
        variants = labelled(variant_choices(self.paths, slug, list(chosen or [])), request)
        judges = [(say(one.label, request), one.written) for one in judge_choices(self.paths)]
        queries = sorted(file.stem for file in self.paths.queries.glob("*.jsonl"))
        lists: dict[str, list[tuple[str, str]]] = {
            "profile": profile_choices(self.paths),
            "queries": [("–", ""), *((name, name) for name in queries)],
        }
        fields = [
            gr.Dropdown(lists[name], value=value or "") if name in lists else value
            for name, value in zip(self.main.fields, values[OWN_INPUTS + 1 :], strict=True)
        ]
        return [
            gr.Dropdown(variants, value=list(chosen or []), multiselect=True),
            kind,
            *self.asking(kind, model, address),
            gr.Dropdown(preset_choices(preset, request), value=preset),
            tokens,
            gr.Dropdown(judges, value=one_of(judge, judges)),
            criteria,
            money,
            values[OWN_INPUTS],
            *fields,
        ]

    def asking(self, kind: str, model: str | None, address: str | None) -> list[Any]:
        """The fields that this kind of interviewer has."""
        choices = model_choices(self.paths, kind)
        name, asks = model or next(iter(choices), None), kind != "list"
        return [
            gr.Dropdown(choices, value=name, visible=asks, allow_custom_value=True),
            gr.Textbox(address or "", visible=kind == "endpoint"),
        ]

    def profile_of(self, values: Sequence[Any]) -> str:
        """Whose interviews the values of ``inputs`` describe."""
        return str(values[self.profile_place] or "")

    @property
    def profile_place(self) -> int:
        """Where the character stands among ``inputs``."""
        return OWN_INPUTS + 1 + list(self.main.fields).index("profile")

    def filled(self, values: Sequence[Any]) -> bool:
        """Whether the values of ``inputs`` are a form's that has been shown before."""
        return unpacked(str(values[OWN_INPUTS]))[0] == START

    def first(self, slug: str | None) -> list[Any]:
        """Values of ``inputs`` for a character."""
        return self.show(start_values(self.paths, slug))

    def recalled(self, kept: str) -> list[Any] | None:
        """What this browser kept of the form; None where it is not a form of this charllm."""
        try:
            values = json.loads(kept)
        except ValueError:
            return None
        if not isinstance(values, list) or len(values) != len(self.inputs):
            return None
        return values if self.filled(values) else None


OWN_INPUTS = 9
"""Inputs before the main form's: variants … money."""


def _interviewer(base: Mapping[str, Any], kind: str, model: str, address: str) -> dict[str, Any]:
    """The interviewer with what only a file can say of it; ``UserError`` in plain words."""
    if kind == "list":
        return {"kind": "list"}
    if not model.strip():
        raise UserError(UNNAMED.en, UNNAMED.ja)
    if "@" in address:
        raise UserError(PASSWORD.en, PASSWORD.ja)
    known = {**base.get("interviewer", {}), "kind": kind, "model": model.strip()}
    return {**known, "base_url": address.strip() if kind == "endpoint" else ""}


def _preset(base: Mapping[str, Any], name: str, tokens: Any) -> dict[str, Any]:
    begun = GenerationPreset.model_validate(base.get("preset", {}))
    known = begun if begun.name == name else PRESETS.get(name, begun)
    made = GenerationPreset.from_data(
        {**known.model_dump(), "max_new_tokens": tokens or 0}, "preset"
    )
    return made.model_dump(mode="json", exclude_defaults=True)
