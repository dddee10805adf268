"""The Merge tab's form and its configuration: what it says, what it starts from, what it lists.

The judge is no part of the form: it is the one that all pages use.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from charllm.core.merging.coefficients import METHODS
from charllm.core.merging.evolve_config import EvolveConfig
from charllm.core.merging.search_config import SearchConfig
from charllm.data import collection
from charllm.data.config import Config, Paths
from charllm.data.errors import Text, UserError
from charllm.data.templates import TEMPLATES
from charllm.services.merge_forms import (
    PRESET_DEFAULT,
    START_NAMES,
    Look,
    judge_in_use,
    look,
    parent_choices,
    starts,
)
from charllm.ui.form import TYPED, Form
from charllm.ui.form_values import packed, unpacked
from charllm.ui.page import profile_choices
from charllm.ui.words import say

LISTS = ("profile", "method", "base", "queries", "template", "lines")
"""Text settings that are chosen from a list."""
KEPT = 32
"""Looks that are remembered."""

FEW = Text("Choose at least two parents.", "親を2つ以上選んでください。")
INVALID = Text("Mend the form before it can start.", "フォームの誤りを直すと開始できます。")


class Looks:
    """Looks by the settings they were made with."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Look] = OrderedDict()

    def at(self, config: EvolveConfig, fresh: bool = False) -> Look:
        """What is known for these settings; ``fresh`` looks anew, for memory and marks change."""
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


def start_choices(
    paths: Paths, start: str, slug: str | None, request: gr.Request
) -> list[tuple[str, str]]:
    """What there is to start from, and the file or start that the form shows now."""
    names = starts(paths, slug)
    if start and start not in names:
        names.append(start)
    return [(say(START_NAMES[name], request), name) for name in names]


def parent_list(paths: Paths, chosen: Sequence[str], request: gr.Request) -> list[tuple[str, str]]:
    """Every possible parent with its label and base; what is chosen is always among them."""
    found = [
        (_parent_label(say(one.label, request), one.name, one.base), one.written)
        for one in parent_choices(paths)
    ]
    known = {written for _, written in found}
    return [*found, *((written, written) for written in chosen if written not in known)]


def _parent_label(label: str, name: str, base: str) -> str:
    named = name if label == name else f"{label} ({name})"
    return named if base == name else f"{named} · {base}"


def list_choices(paths: Paths) -> dict[str, list[tuple[str, str]]]:
    """What may be chosen now, by setting."""
    none = ("–", "")
    queries = sorted(file.stem for file in paths.queries.glob("*.jsonl"))
    datasets = [one.name for one in collection.listing(paths) if one.problem is None]
    models = [one for one in parent_choices(paths) if one.kind == "model"]
    templates = dict.fromkeys(("auto", *TEMPLATES))
    return {
        "profile": profile_choices(paths),
        "method": [(name, name) for name in METHODS if name != "passthrough"],
        "base": [none, *((one.name, one.written) for one in models)],
        "queries": [none, *((name, name) for name in queries)],
        "template": [(name, name) for name in templates],
        "lines": [none, *((name, name) for name in datasets)],
    }


# --- the form as a configuration ----------------------------------------------------------------


@dataclass(frozen=True)
class Filled:
    """What the whole form says: the configuration, or why there is none; HTML of both states."""

    config: EvolveConfig | None
    error: Text | None
    main_told: str
    search_told: str


@dataclass(frozen=True)
class Fields:
    """The form's components: two forms made from the configurations, and what neither has."""

    paths: Paths
    main: Form[EvolveConfig]
    search: Form[SearchConfig]
    parents: gr.Dropdown
    tokens: gr.Number
    insist: gr.Checkbox

    @property
    def inputs(self) -> list[Any]:
        """What handlers are given; ``read``, ``show`` and ``listed`` keep to this order."""
        own = [self.parents, self.tokens, self.insist]
        return [*own, *self.main.inputs, *self.search.inputs]

    @property
    def triggers(self) -> list[Any]:
        """The events of a visitor's own changes. What was pasted is told when a field is left."""
        fields = [*self.main.fields.values(), *self.search.fields.values()]
        fields += [self.parents, self.tokens, self.insist]
        typed = [one.blur for one in fields if isinstance(one, TYPED)]
        return [*(one.input for one in fields), *typed]

    def read(self, values: Sequence[Any], request: gr.Request) -> Filled:
        """The configuration from the values of ``inputs``."""
        parents, tokens, insist, begun, *rest = values
        fields, rest = rest[: len(self.main.fields)], rest[len(self.main.fields) :]
        searching = self.search.read(rest[0], rest[1:])
        search_told = self.search.told(rest[0], rest[1:], request)
        start, base = unpacked(begun)
        enough = len(parents or []) >= 2
        try:
            judge = judge_in_use(self.paths)
        except UserError as error:
            return Filled(None, error.text, "", search_told)
        beside = {
            "parents": list(parents) if enough else ["?", "?"],  # told over the form
            "preset": {**base.get("preset", {}), "max_new_tokens": tokens or 0},
            "insist": bool(insist),
            "judge": _changes(judge),
            "search": _changes(searching.config or SearchConfig()),
        }
        whole = packed(start, {**base, **beside})
        made = self.main.read(whole, fields)
        valid = made.config is not None and searching.config is not None
        why = FEW if not enough else None if valid else INVALID
        told = self.main.told(whole, fields, request)
        return Filled(None if why else made.config, why, told, search_told)

    def show(self, start: str, values: Mapping[str, Any]) -> list[Any]:
        """Values of ``inputs`` so that the form starts from ``values``."""
        preset = values.get("preset", {})
        return [
            list(values.get("parents", [])),
            preset.get("max_new_tokens", PRESET_DEFAULT.max_new_tokens),
            bool(values.get("insist", False)),
            *self.main.show(start, values),
            *self.search.show(start, values.get("search", {})),
        ]

    def listed(self, values: Sequence[Any], request: gr.Request) -> list[Any]:
        """Values of ``inputs``, with what can be chosen now."""
        chosen = list(values[0] or [])
        parents = gr.Dropdown(parent_list(self.paths, chosen, request), value=chosen)
        lists = list_choices(self.paths)
        end = OWN_INPUTS + len(self.main.fields)
        fields = [
            gr.Dropdown(lists[name], value=value or "") if name in lists else value
            for name, value in zip(self.main.fields, values[OWN_INPUTS:end], strict=True)
        ]
        return [parents, *values[1:OWN_INPUTS], *fields, *values[end:]]

    def start_of(self, values: Sequence[Any]) -> str:
        """What the values of ``inputs`` have started from."""
        return unpacked(str(values[OWN_INPUTS - 1]))[0]


OWN_INPUTS = 4
"""Inputs before the main form's fields: parents, tokens, insist, and that form's own start."""


def _changes(config: Config) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude_defaults=True)


def recalled(length: int, kept: str) -> list[Any] | None:
    """What this browser kept of the form; None where it is not a form of this charllm."""
    try:
        values = json.loads(kept)
    except ValueError:
        return None
    if not isinstance(values, list) or len(values) != length:
        return None
    return values if unpacked(str(values[OWN_INPUTS - 1]))[0] in START_NAMES else None
