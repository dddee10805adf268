"""A form made from a configuration class: groups, a simple and a full view, what was changed.

One more setting of the class is one more field here, without a line of its own. Which values the
form starts from is kept in a hidden field; how values become a configuration is form_values'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Generic, TypeVar

import gradio as gr

from charllm.data.config import Config
from charllm.data.errors import Text
from charllm.data.settings import Setting, settings_of
from charllm.services.train_forms import value_text
from charllm.ui.form_values import Read, packed, read, shown_values, unpacked
from charllm.ui.words import say, t

C = TypeVar("C", bound=Config)
Choices = Sequence[str | tuple[str, str]]
TYPED = (gr.Textbox, gr.Number)

SAME = Text("All values are those it started from.", "すべて開始時の値のままです。")
BACK = Text("Take all back", "すべて元に戻す")
FIX = Text("To be mended first:", "直してください：")


@dataclass(frozen=True)
class Form(Generic[C]):
    """``fields`` by setting, in reading order; ``start`` is hidden and says what they began with.

    ``state`` shows what was changed and what is wrong; its ``select`` event asks to take changes
    back (``{"do": "back", "name": setting or ""}``).
    """

    config: type[C]
    name: str
    settings: list[Setting]
    fields: dict[str, Any]
    start: gr.Textbox
    state: gr.HTML

    @property
    def inputs(self) -> list[Any]:
        """What handlers are given: the start, then the fields' values in order."""
        return [self.start, *self.fields.values()]

    def read(self, start: str, values: Sequence[Any]) -> Read[C]:
        """The configuration, or what is wrong, from the values of ``inputs``."""
        given = dict(zip(self.fields, values, strict=True))
        return read(self.config, given, unpacked(start)[1])

    def show(self, start: str, values: Mapping[str, Any]) -> list[Any]:
        """Values of ``inputs`` so that the form starts from ``values``."""
        return [packed(start, values), *shown_values(self.settings, values).values()]

    def back(self, start: str, values: Sequence[Any], name: str) -> list[Any]:
        """Values of the fields so that one setting, or all (""), is as it was in the beginning.

        The others are not sent: another one may be on its way back.
        """
        begun = shown_values(self.settings, unpacked(start)[1])
        asked = [one.name == name or (not name and not one.required) for one in self.settings]
        return [
            begun[field] if back and value != begun[field] else gr.skip()
            for field, back, value in zip(self.fields, asked, values, strict=True)
        ]

    def apply(self, changes: Mapping[str, Any]) -> list[Any]:
        """Values of the fields so that some of them change."""
        return [changes.get(name, gr.skip()) for name in self.fields]

    def told(self, start: str, values: Sequence[Any], request: gr.Request) -> str:
        """HTML for ``state``."""
        given = dict(zip(self.fields, values, strict=True))
        return state_html(self, given, self.read(start, values), unpacked(start)[1], request)

    def on_change(self, handler: Callable[..., Any], outputs: list[Any], **options: Any) -> Any:
        """Call ``handler`` with ``inputs`` whenever a value is picked or typed; the event.

        Gradio tells of keys only: what was pasted is told when the field is left.
        """
        triggers = [one.input for one in self.fields.values()]
        triggers += [one.blur for one in self.fields.values() if isinstance(one, TYPED)]
        options = {"trigger_mode": "always_last", **options}
        return gr.on(triggers, handler, self.inputs, outputs, **options)


def build(
    config: type[C],
    groups: Mapping[str, Text],
    name: str,
    choices: Mapping[str, Choices] | None = None,
    free: Sequence[str] = (),
) -> Form[C]:
    """Lay the form out; ``name`` begins the ids of its elements.

    ``choices`` makes lists of text settings, to be filled later where empty; in those of ``free``
    anything else may be written as well.
    """
    settings = settings_of(config)
    view = gr.Radio(
        [(t("Simple", "シンプル"), "simple"), (t("All settings", "すべての設定"), "full")],
        value="simple",
        show_label=False,
        container=False,
        elem_id=f"{name}-view",
    )
    state = gr.HTML(
        "",
        js_on_load="window.charllmForm(element, props, trigger, watch)",
        apply_default_css=False,
        elem_id=f"{name}-state",
    )
    fields: dict[str, Any] = {}
    with gr.Column(elem_id=f"{name}-form", elem_classes=["settingsform", "simple"]):
        for group, words in groups.items():
            inside = [one for one in settings if one.group == group]
            away = [] if any(one.simple for one in inside) else ["fullonly"]
            with gr.Column(elem_classes=["settingsgroup", *away]):
                gr.Markdown(t(f"#### {words.en}", f"#### {words.ja}"))
                with gr.Group(elem_classes=["settingsgrid"]):
                    for one in inside:
                        fields[one.name] = _field(one, name, choices or {}, free)
    view.change(
        None,
        view,
        None,
        js=f"(view) => window.charllmView('#{name}-form', view)",
    )
    ordered = {one.name: fields[one.name] for one in settings}
    start = gr.Textbox(packed("", {}), visible=False)
    return Form(config, name, settings, ordered, start, state)


def _field(setting: Setting, name: str, choices: Mapping[str, Choices], free: Sequence[str]) -> Any:
    label = t(*setting.label)
    common: dict[str, Any] = {
        "label": label,
        "info": t(*setting.help) if setting.help.en else None,
        "elem_id": f"{name}-{setting.name.replace('_', '-')}",
        "elem_classes": ["setting"] if setting.simple else ["setting", "fullonly"],
        "min_width": 150,
        "interactive": True,
    }
    value = shown_values([setting], {})[setting.name]
    if setting.kind == "switch":
        return gr.Checkbox(value, **common)
    if setting.kind == "choice" or setting.name in choices:
        listed = list(choices.get(setting.name) or setting.choices)
        return gr.Dropdown(
            listed,
            value=value if value in listed else None,
            allow_custom_value=setting.name in free,
            **common,
        )
    if setting.kind in ("whole", "number"):
        return gr.Number(value, step=_step(setting), **common)
    return gr.Textbox(value, max_lines=1, **common)


def _step(setting: Setting) -> float:
    """What an arrow of the field adds: 1, or a twentieth of a share."""
    if setting.kind == "whole":
        return 1
    return 0.05 if setting.maximum is not None and setting.maximum <= 1 else 1


# --- what was changed, what is wrong ------------------------------------------------------------


def state_html(
    form: Form[C],
    given: Mapping[str, Any],
    read_: Read[C],
    start: Mapping[str, Any],
    request: gr.Request,
) -> str:
    """Errors first, then what was changed with the way back; marks the fields by ``data-marks``."""
    labels = {one.name: say(one.label, request) for one in form.settings}
    parts = []
    if read_.errors:
        lines = "".join(
            f"<li><b>{escape(labels.get(name, name))}</b> {escape(say(text, request))}</li>"
            for name, text in read_.errors.items()
        )
        parts.append(
            f'<div class="banner bad" data-errors><span>{escape(say(FIX, request))}</span>'
            f"<ul>{lines}</ul></div>"
        )
    count = len(read_.changed)
    if count:
        words = Text(
            f"{count} {'value' if count == 1 else 'values'} changed",
            f"{count} 個の値を変更しています",
        )
        chips = "".join(
            _chip(one, start.get(one.name, one.default), given[one.name], request)
            for one in form.settings
            if one.name in read_.changed
        )
        back = escape(say(BACK, request))
        button = f'<button type="button" class="small" data-do="back" data-name="">{back}</button>'
        parts.append(
            f'<div class="changes"><b data-changed="{count}">{escape(say(words, request))}</b>'
            f"{chips}{button}</div>"
        )
    else:
        parts.append(
            f'<div class="changes"><span class="note" data-changed="0">'
            f"{escape(say(SAME, request))}</span></div>"
        )
    marks = " ".join(f"{name}:changed" for name in read_.changed)
    wrong = " ".join(f"{name}:wrong" for name in read_.errors if name)
    return (
        f'<div class="stacked" data-form="{escape(form.name)}" '
        f'data-marks="{escape(f"{marks} {wrong}".strip())}">{"".join(parts)}</div>'
    )


def _chip(setting: Setting, before: Any, now: Any, request: gr.Request) -> str:
    """``Epochs 2 → 5 ×``; a click takes it back."""
    old, new = _text(setting, before), _text(setting, now)
    title = escape(say(Text(f"Back to {old}", f"{old} に戻す"), request))
    label = escape(say(setting.label, request))
    return (
        f'<button type="button" class="chip change" data-do="back" data-name="{setting.name}" '
        f'title="{title}">{label} <s>{escape(old)}</s> {escape(new)} ×</button>'
    )


def _text(setting: Setting, value: Any) -> str:
    """A value in short, as it is written in YAML; an en dash where there is none."""
    if value is None or value == "":
        return "–"
    if isinstance(value, str) or setting.kind not in ("number", "switch"):
        return str(value)[:40]
    return value_text(setting, value)
