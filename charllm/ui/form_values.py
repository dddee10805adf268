"""A form's values and a configuration: read, compared with their start, told apart where wrong.

Made from any configuration class through its settings; it knows no component and no Gradio.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from charllm.data.config import Config, problem
from charllm.data.errors import Text, UserError
from charllm.data.settings import Setting, settings_of

C = TypeVar("C", bound=Config)

MISSING = Text("Fill this in.", "入力してください。")
LIMITS: dict[str, tuple[str, Callable[[str], Text]]] = {
    "greater_than": ("gt", lambda n: Text(f"More than {n}.", f"{n} より大きい値にしてください。")),
    "greater_than_equal": ("ge", lambda n: Text(f"{n} or more.", f"{n} 以上にしてください。")),
    "less_than": ("lt", lambda n: Text(f"Less than {n}.", f"{n} 未満にしてください。")),
    "less_than_equal": ("le", lambda n: Text(f"{n} or less.", f"{n} 以下にしてください。")),
}
"""pydantic's names of a limit that was passed, the number's place in its error, and our words."""


@dataclass(frozen=True)
class Read(Generic[C]):
    """What a form says: the configuration, or what is wrong by setting ("" where it is none's).

    ``changed`` names the settings that differ from the start, in reading order.
    """

    config: C | None
    errors: dict[str, Text]
    changed: list[str]

    def require(self) -> C:
        """The configuration; ``UserError`` names all that is wrong."""
        if self.config is not None:
            return self.config
        en = "; ".join(
            f"{name}: {text.en}" if name else text.en for name, text in self.errors.items()
        )
        ja = " ".join(
            f"{name}: {text.ja}" if name else text.ja for name, text in self.errors.items()
        )
        raise UserError(f"The form is not valid yet. {en}", f"設定を直してください。{ja}")


def shown_values(settings: Sequence[Setting], values: Mapping[str, Any]) -> dict[str, Any]:
    """What each field shows of ``values``; where they are silent, the default or nothing."""
    return {
        one.name: _shown(one, values.get(one.name, "" if one.required else one.default))
        for one in settings
    }


def _shown(setting: Setting, value: Any) -> Any:
    if setting.kind in ("text", "choice"):
        return "" if value is None else str(value)
    return value


def read(config: type[C], fields: Mapping[str, Any], start: Mapping[str, Any]) -> Read[C]:
    """The form's ``fields`` as a configuration; what no form shows is taken from ``start``."""
    settings = settings_of(config)
    known = {one.name for one in settings}
    data = {name: value for name, value in start.items() if name not in known}
    given = {one.name: _value(one, fields[one.name]) for one in settings}
    errors = {
        one.name: MISSING
        for one in settings
        if given[one.name] in (None, "") and (one.required or _needs(one))
    }
    changed = [
        one.name
        for one in settings
        if not one.required and given[one.name] != start.get(one.name, one.default)
    ]
    data |= {name: value for name, value in given.items() if name not in errors}
    try:
        made = config.model_validate(data)
    except ValidationError as error:
        return Read(None, problems(error) | errors, changed)
    return Read(None if errors else made, errors, changed)


def _needs(setting: Setting) -> bool:
    return setting.kind in ("whole", "number") and not setting.optional


def _value(setting: Setting, value: Any) -> Any:
    """A field's value as the configuration takes it; an empty field is None."""
    if setting.kind in ("text", "choice"):
        text = str(value or "").strip()
        return None if setting.optional and not text else text
    if setting.kind == "switch":
        return bool(value)
    if isinstance(value, int | float) and setting.kind == "whole" and float(value).is_integer():
        return int(value)
    return value


def problems(error: ValidationError) -> dict[str, Text]:
    """What is wrong, by setting; "" holds what is wrong with several together."""
    found: dict[str, Text] = {}
    for item in error.errors():
        name = str(item["loc"][0]) if item["loc"] else ""
        if item["type"] != "missing" or name not in found:
            found[name] = _words(dict(item))
    return found


def _words(item: dict[str, Any]) -> Text:
    kind, details = item["type"], item.get("ctx", {})
    if kind in LIMITS:
        place, limit = LIMITS[kind]
        return limit(f"{details[place]:g}")
    if kind == "missing":
        return MISSING
    if kind.startswith("int_"):
        return Text("A whole number.", "整数で入力してください。")
    return problem(item)


def packed(start: str, values: Mapping[str, Any]) -> str:
    """A start and its values, as a hidden field of the page keeps them."""
    return json.dumps({"start": start, "values": dict(values)}, ensure_ascii=False)


def unpacked(text: str) -> tuple[str, dict[str, Any]]:
    """What ``packed`` made; an empty start for anything else, which no page of ours sends."""
    try:
        data = json.loads(text)
        return str(data["start"]), dict(data["values"])
    except (ValueError, KeyError, TypeError):
        return "", {}
