"""What a form, a YAML file and the command line need to know about a configuration's fields.

A field says it once, where it stands in its class: ``setting`` adds words, a group and whether the
simple view shows it; ``settings_of`` reads that back. One more field is one more line there.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import Field
from pydantic.fields import FieldInfo

from charllm.data.config import Config
from charllm.data.errors import Text, UserError

Kind = Literal["text", "whole", "number", "switch", "choice"]


@dataclass(frozen=True)
class Setting:
    """One field: its words, limits (None: none) and where it is shown.

    ``kind`` "choice" has ``choices``. ``optional``: None is a value too, shown as empty.
    """

    name: str
    label: Text
    help: Text
    group: str
    simple: bool
    kind: Kind
    default: Any
    required: bool
    optional: bool = False
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None

    def parse(self, text: str) -> Any:
        """The value written as text (in a form, or after ``--set name=``); ``UserError`` if it is
        of another kind. Limits are the configuration's own to check."""
        text = text.strip()
        if self.optional and not text:
            return None
        try:
            if self.kind == "switch":
                return {
                    "true": True,
                    "yes": True,
                    "1": True,
                    "false": False,
                    "no": False,
                    "0": False,
                }[text.lower()]
            if self.kind in ("whole", "number"):
                value = float(text)
                return int(value) if self.kind == "whole" and value.is_integer() else value
        except (KeyError, ValueError) as error:
            raise UserError(
                f"{self.name}: {text!r} is not a value of this setting.",
                f"{self.name}: 「{text}」は設定できない値です。",
            ) from error
        return text


def setting(
    default: Any,
    en: str,
    ja: str,
    help_en: str = "",
    help_ja: str = "",
    *,
    group: str,
    simple: bool = False,
    **limits: Any,
) -> Any:
    """A pydantic field that also says how it is shown; ``...`` as default makes it required."""
    words: Any = {"label": [en, ja], "help": [help_en, help_ja], "group": group, "simple": simple}
    return Field(default, json_schema_extra={"setting": words}, **limits)


def settings_of(config: type[Config]) -> list[Setting]:
    """The settings of a class, in reading order; fields without words are not for forms."""
    found = []
    for name, info in config.model_fields.items():
        extra: Any = info.json_schema_extra
        if isinstance(extra, dict) and "setting" in extra:
            found.append(_setting(name, info, extra["setting"]))
    return found


def changed(config: Config, start: dict[str, Any]) -> list[str]:
    """The settings whose values differ from ``start``, or from the defaults where it is silent."""
    return [
        one.name
        for one in settings_of(type(config))
        if not one.required and getattr(config, one.name) != start.get(one.name, one.default)
    ]


def apply_texts(config: type[Config], values: dict[str, Any], texts: list[str]) -> dict[str, Any]:
    """``values`` with ``NAME=VALUE`` texts set, as ``--set`` gives them; ``UserError`` names a
    setting that does not exist, with those there are."""
    known = {one.name: one for one in settings_of(config)}
    out = dict(values)
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or name not in known:
            raise UserError(
                f"{text!r} does not name a setting: write NAME=VALUE with one of "
                f"{', '.join(known)}.",
                f"「{text}」は設定の名前ではありません。NAME=VALUE の形で次のどれかを指定して"
                f"ください: {', '.join(known)}。",
            )
        out[name] = known[name].parse(value)
    return out


def _setting(name: str, info: FieldInfo, words: dict[str, Any]) -> Setting:
    kind, choices, optional = _kind(info.annotation)
    limits: dict[str, float] = {}
    for item in info.metadata:
        for attribute in ("ge", "gt", "le", "lt"):
            value = getattr(item, attribute, None)
            if value is not None:
                limits["minimum" if attribute in ("ge", "gt") else "maximum"] = value
    return Setting(
        name,
        Text(*words["label"]),
        Text(*words["help"]),
        words["group"],
        words["simple"],
        kind,
        None if info.is_required() else info.default,
        info.is_required(),
        optional,
        choices,
        limits.get("minimum"),
        limits.get("maximum"),
    )


def _kind(annotation: Any) -> tuple[Kind, tuple[str, ...], bool]:
    optional = False
    if get_origin(annotation) in (Union, UnionType):
        rest = [one for one in get_args(annotation) if one is not NoneType]
        optional, annotation = len(rest) < len(get_args(annotation)), rest[0]
    if get_origin(annotation) is Literal:
        return "choice", tuple(str(one) for one in get_args(annotation)), optional
    kinds: dict[Any, Kind] = {bool: "switch", int: "whole", float: "number", str: "text"}
    if annotation not in kinds:
        raise TypeError(f"a setting of type {annotation} has no form")
    return kinds[annotation], (), optional
