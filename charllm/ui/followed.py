"""Which run a page follows: what a visitor has chosen stands when an older answer arrives.

A page is asked to show its runs when it opens. By the time the answer comes, another run may have
been chosen: the answer only offers one, and the page takes it if nothing was chosen since.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gradio as gr

from charllm.ui.judge_html import Panel

KEEP = """(offer, current) => {
  const { asked, run } = JSON.parse(offer || "{}");
  const now = current || "";
  const followed = asked === now ? run : now;
  return [followed || null, followed];
}"""


def panel(
    look: Callable[..., list[Any]],
    choices: Callable[[], list[Any]],
    chosen: gr.Dropdown,
    current: gr.Textbox,
    has: gr.Textbox,
    followed: list[Any],
) -> Panel:
    """``look(run, has, request)`` gives a list of runs, the one to follow, and ``followed``."""
    offered = gr.Textbox("", visible=False)

    def refresh(run_id: str | None, has_: str, request: gr.Request) -> list[Any]:
        _, run, *rest = look(run_id, has_, request)
        offer = json.dumps({"asked": run_id or "", "run": run})
        return [gr.Dropdown(choices()), offer, *rest]

    def settle(event: Any) -> Any:
        return event.then(None, [offered, current], [chosen, current], js=KEEP)

    return Panel(refresh, [current, has], [chosen, offered, *followed], settle)
