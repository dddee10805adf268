"""A file that is made when it is asked for: a button makes it, and the browser saves it at once."""

from __future__ import annotations

from typing import Any

import gradio as gr

# The value itself is handed over: it is there as soon as the event has ended, however busy the
# browser is, and a handler that made nothing gives None instead of the last file once more.
_SAVE = "(file) => { if (file) window.charllmFetch(file); }"


def made_file() -> gr.DownloadButton:
    """The unseen output of events that make files: a path, or None."""
    return gr.DownloadButton("file", visible="hidden")


def saved_after(event: Any, file: gr.DownloadButton) -> None:
    """Let the browser save what the event made."""
    event.then(None, file, js=_SAVE)
