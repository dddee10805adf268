"""Choices that are gone by the time they arrive.

The choices of a list change while events are on their way: a run is deleted, another character is
chosen. Gradio then ends the older event with an error that nobody can do anything about; here a
choice that is not offered any more counts as none, which every handler knows.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

import gradio as gr


def forgive_stale_choices() -> None:
    """For all lists of the page. A subclass would be a component with files of its own."""
    if not hasattr(gr.Dropdown.preprocess, "__wrapped__"):
        gr.Dropdown.preprocess = _forgiving(gr.Dropdown.preprocess)  # type: ignore[method-assign]


def _forgiving(preprocess: Any) -> Any:
    @wraps(preprocess)
    def forgiving(self: gr.Dropdown, payload: Any) -> Any:
        if not self.allow_custom_value:
            known = [value for _, value in self.choices]
            if isinstance(payload, list):
                payload = [value for value in payload if value in known]
            elif payload not in known:
                payload = None
        return preprocess(self, payload)

    return forgiving
