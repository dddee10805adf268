"""What all tabs share: the installation, the chat server, and the profile chosen in the header."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import gradio as gr

from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.data.profile import list_profiles, load_profile
from charllm.services.chat import ChatService


@dataclass(frozen=True)
class Page:
    """Handed to every tab's ``build``."""

    paths: Paths
    chat: ChatService
    demo: gr.Blocks
    profile: gr.Dropdown
    tab: gr.Tab
    """The tab that is being built."""


EMBEDDERS = [
    ("multilingual-e5-small", "e5"),
    ("OpenAI", "openai"),
    ("sentence-transformers", "sentence-transformers"),
]


def profile_choices(paths: Paths) -> list[tuple[str, str]]:
    """``(name (slug), slug)`` of every profile; one that cannot be read is named by its slug."""
    choices = []
    for slug in list_profiles(paths):
        try:
            name = load_profile(paths, slug).name
        except UserError:  # it stays in the list, so that its tab can say what is wrong with it
            name = slug
        choices.append((name if name == slug else f"{name} ({slug})", slug))
    return choices


def progress_bar(share: float | None) -> str:
    """HTML of a bar for a share in [0, 1]; None moves without end."""
    if share is None:
        return '<div class="bar busy"><i></i></div>'
    return f'<div class="bar"><i style="width:{100 * max(0.0, min(1.0, share)):.1f}%"></i></div>'


def banner(text: str, kind: str = "", bar: str = "") -> str:
    """HTML of a note; ``kind`` is "", "good" or "bad"; ``text`` is escaped, ``bar`` is HTML."""
    return f'<div class="banner {escape(kind)}"><span>{escape(text)}</span>{bar}</div>'
