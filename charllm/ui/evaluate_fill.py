"""The Evaluate tab's form and its configuration: what it says, starts from, and lists.

What the configuration's own form cannot show (variants, judges, splits, generation) is added here.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import gradio as gr

from charllm.core.evaluation.evaluate_config import EvaluateConfig
from charllm.core.generation import DEFAULT_PRESET, PRESET_LABELS, PRESETS, GenerationPreset
from charllm.core.judging.judges import JudgeConfig
from charllm.core.variants import Variant
from charllm.data.config import Paths
from charllm.data.errors import Text, UserError
from charllm.data.queries import Split
from charllm.services.evaluate_forms import (
    PLAIN,
    START_NAMES,
    Choice,
    Look,
    judge_choices,
    look,
    read_judges,
    read_variants,
    starts,
    variant_choices,
    written_judge,
    written_variant,
)
from charllm.ui.form import TYPED, Form
from charllm.ui.form_values import packed, unpacked
from charllm.ui.page import profile_choices
from charllm.ui.words import say

SPLITS: tuple[str, ...] = get_args(Split)
LISTS = ("profile", "queries")
"""Text settings that are chosen from a list."""
KEPT = 32
"""Looks that are remembered."""

NOBODY = Text("Choose at least one variant.", "構成を1つ以上選んでください。")
INVALID = Text("Mend the form before it can start.", "フォームの誤りを直すと開始できます。")
BEAM = Text(
    "A preset with beams takes temperature 0.",
    "ビームサーチの生成設定では温度を 0 にしてください。",
)


class Looks:
    """Looks by the settings they were made with."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Look] = OrderedDict()

    def at(self, config: EvaluateConfig, fresh: bool = False) -> Look:
        """What is known for these settings; ``fresh`` looks anew, for marks and files change."""
        key = config.model_dump_json()
        with self._lock:
            known = self._known.get(key)
        if known is not None and not fresh:
            return known
        made = look(config, self._paths)
        with self._lock:
            self._known[key] = made
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
        return made

    def forget(self) -> None:
        with self._lock:
            self._known.clear()


def start_choices(paths: Paths, start: str, request: gr.Request) -> list[tuple[str, str]]:
    """What there is to start from, and the file or start that the form shows now."""
    names = starts(paths)
    if start and start not in names:
        names.append(start)
    return [(say(START_NAMES[name], request), name) for name in names]


def labelled(choices: Sequence[Choice], request: gr.Request) -> list[tuple[str, str]]:
    """Choices as a list shows them: label and, where it differs, the name."""
    shown = []
    for one in choices:
        label = say(one.label, request)
        plain = one.written == label or one.written.startswith(("{", "["))
        shown.append((label if plain else f"{label} ({one.written})", one.written))
    return shown


def list_choices(paths: Paths) -> dict[str, list[tuple[str, str]]]:
    """What may be chosen now, by setting of the main form."""
    queries = sorted(file.stem for file in paths.queries.glob("*.jsonl"))
    return {
        "profile": profile_choices(paths),
        "queries": [("–", ""), *((name, name) for name in queries)],
    }


def preset_choices(chosen: str, request: gr.Request) -> list[tuple[str, str]]:
    known = [(say(PRESET_LABELS[name], request), name) for name in PRESETS]
    return known if chosen in PRESETS else [*known, (chosen, chosen)]


# --- the form as a configuration ----------------------------------------------------------------


@dataclass(frozen=True)
class Filled:
    """What the whole form says: the configuration, or why there is none, and HTML of its state."""

    config: EvaluateConfig | None
    error: Text | None
    told: str


@dataclass(frozen=True)
class Fields:
    """The form's components: those made from the configuration, and those beside them."""

    paths: Paths
    main: Form[EvaluateConfig]
    variants: gr.Dropdown
    judges: gr.Dropdown
    splits: gr.CheckboxGroup
    preset: gr.Dropdown
    tokens: gr.Number
    temperature: gr.Number
    money: gr.Number

    @property
    def own(self) -> list[Any]:
        """The components beside the main form, in the order of the values."""
        listed = [self.variants, self.judges, self.splits, self.preset]
        return [*listed, self.tokens, self.temperature, self.money]

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
        variants, judges, splits, preset, tokens, temperature, money = values[:OWN_INPUTS]
        begun, *fields = values[OWN_INPUTS:]
        start, base = unpacked(begun)
        try:
            heard = [_changes(one) for one in read_judges(judges or [])]
            generation = _preset(base, preset, tokens, temperature)
        except UserError as error:
            return Filled(None, error.text, "")
        beside = {
            "variants": read_variants(variants or ["?"]),  # none is told over the form
            "judges": heard,
            "splits": list(splits or []),
            "preset": generation.model_dump(mode="json", exclude_defaults=True),
            "budget": {**base.get("budget", {}), "money": money or None},
        }
        whole = packed(start, {**base, **beside})
        made = self.main.read(whole, fields)
        why = NOBODY if not variants else None if made.config else INVALID
        return Filled(
            made.config if why is None else None, why, self.main.told(whole, fields, request)
        )

    def show(self, start: str, values: Mapping[str, Any]) -> list[Any]:
        """Values of ``inputs`` so that the form starts from ``values``."""
        preset = GenerationPreset.model_validate(values.get("preset", PRESETS[DEFAULT_PRESET]))
        judges = values.get("judges")
        heard = [PLAIN] if judges is None else [JudgeConfig.model_validate(one) for one in judges]
        return [
            [_variant(one) for one in values.get("variants", [])],
            [written_judge(one) for one in heard],
            list(values.get("splits", ["report"])),
            preset.name,
            preset.max_new_tokens,
            preset.temperature,
            values.get("budget", {}).get("money"),
            *self.main.show(start, values),
        ]

    def listed(self, values: Sequence[Any], slug: str | None, request: gr.Request) -> list[Any]:
        """Values of ``inputs``, with what can be chosen now."""
        chosen, heard, splits, preset = values[:4]
        own = [Variant.model_validate_json(one) if one.startswith("{") else one for one in chosen]
        try:
            judges = judge_choices(self.paths, read_judges(heard or []))
        except UserError:  # kept by the browser in another charllm's form
            judges, heard = judge_choices(self.paths), [written_judge(PLAIN)]
        lists = list_choices(self.paths)
        fields = [
            gr.Dropdown(lists[name], value=value or "") if name in lists else value
            for name, value in zip(self.main.fields, values[OWN_INPUTS + 1 :], strict=True)
        ]
        profile = str(
            values[OWN_INPUTS + 1 + list(self.main.fields).index("profile")] or slug or ""
        )
        variants = labelled(variant_choices(self.paths, profile, own), request)
        return [
            gr.Dropdown(variants, value=list(chosen)),
            gr.Dropdown(labelled(judges, request), value=list(heard)),
            splits,
            gr.Dropdown(preset_choices(preset, request), value=preset),
            *values[4 : OWN_INPUTS + 1],
            *fields,
        ]

    def start_of(self, values: Sequence[Any]) -> str:
        """What the values of ``inputs`` have started from."""
        return unpacked(str(values[OWN_INPUTS]))[0]


OWN_INPUTS = 7
"""Inputs before the main form's: variants, judges, splits, preset, tokens, temperature, money."""


def _variant(one: Any) -> str:
    return written_variant(one if isinstance(one, str) else Variant.model_validate(one))


def _changes(config: JudgeConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude_defaults=True)


def _preset(base: Mapping[str, Any], name: str, tokens: Any, temperature: Any) -> GenerationPreset:
    """The preset by name with these two changed; one that a file described is taken from it."""
    begun = GenerationPreset.model_validate(base.get("preset", {}))
    known = begun if begun.name == name else PRESETS.get(name, begun)
    if known.num_beams > 1 and temperature:
        raise UserError(BEAM.en, BEAM.ja)
    changes = {"max_new_tokens": tokens or 0, "temperature": temperature or 0.0}
    return GenerationPreset.from_data({**known.model_dump(), **changes}, "preset")


def recalled(length: int, kept: str) -> list[Any] | None:
    """What this browser kept of the form; None where it is not a form of this charllm."""
    try:
        values = json.loads(kept)
    except ValueError:
        return None
    if not isinstance(values, list) or len(values) != length:
        return None
    return values if unpacked(str(values[OWN_INPUTS]))[0] in START_NAMES else None
