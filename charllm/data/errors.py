"""Messages in both languages, and the one error that is shown to the user as it is.

``UserError`` means: the input or the surroundings have to change, and the message says how.
Everything else that is raised is our own fault and propagates to the one place that records it.
"""

from __future__ import annotations

import locale
import os
from typing import Literal, NamedTuple

Language = Literal["ja", "en"]


class Text(NamedTuple):
    """A sentence in English and in Japanese; which one is shown is decided where it is shown."""

    en: str
    ja: str

    def in_(self, language: Language) -> str:
        return self.ja if language == "ja" else self.en

    def as_json(self) -> dict[str, str]:
        return {"en": self.en, "ja": self.ja}


def current_language() -> Language:
    """The language of the command line: ``CHARLLM_LANG``, else the locale's, else English."""
    chosen = os.environ.get("CHARLLM_LANG") or os.environ.get("LC_ALL") or os.environ.get("LANG")
    chosen = chosen or locale.getlocale()[0] or "en"
    return "ja" if chosen.lower().startswith("ja") else "en"


class UserError(Exception):
    """The user's mistake or surroundings, in words that say what to do."""

    def __init__(self, en: str, ja: str) -> None:
        self.text = Text(en, ja)
        super().__init__(en)

    def in_(self, language: Language) -> str:
        return self.text.in_(language)


class EditConflict(UserError):
    """Somebody else saved the same thing since it was read."""
