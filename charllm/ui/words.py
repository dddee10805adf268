"""Every word of the page in both languages.

Static words (labels, buttons, tabs) are translated by the browser from tables made while the page
is built; words that arise at run time are translated here, in the language of the request.
"""

from __future__ import annotations

from hashlib import sha1
from typing import Any

import gradio as gr

from charllm.data.errors import Language, Text, UserError

COOKIE = "charllm_lang"

_tables: dict[Language, dict[str, str]] = {"en": {}, "ja": {}}


def t(en: str, ja: str) -> Any:
    """A label that the browser shows in its language."""
    key = "t" + sha1(f"{en}\0{ja}".encode()).hexdigest()[:12]
    _tables["en"][key] = en
    _tables["ja"][key] = ja
    return gr.I18n()(key)


def tables() -> gr.I18n:
    """What the page needs to translate all labels made so far."""
    return gr.I18n(**{language: dict(table) for language, table in _tables.items()})


def language_of(request: gr.Request | None) -> Language:
    """The switch's choice (a cookie), else the browser's first language, else English."""
    if request is None:
        return "en"
    chosen = request.cookies.get(COOKIE) or ""
    first = (request.headers.get("accept-language") or "").split(",")[0]
    return "ja" if (chosen or first).lower().startswith("ja") else "en"


def say(text: Text, request: gr.Request | None) -> str:
    return text.in_(language_of(request))


def warn(error: UserError, request: gr.Request | None) -> None:
    """Show the error as it is, without ending the handler."""
    gr.Warning(error.in_(language_of(request)), duration=8)
