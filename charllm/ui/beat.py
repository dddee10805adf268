"""A panel's pulse: an event every second, while the panel is in sight.

``gr.Timer`` ticks on in every tab that has been opened once, so that a page on which some tabs were
visited asks the server ten times a second for what nobody sees.
"""

from __future__ import annotations

import gradio as gr


def pulse() -> gr.HTML:
    """Nothing to see; its ``tick`` comes once a second, never while the panel is hidden."""
    return gr.HTML(
        "",
        js_on_load="window.charllmPulse(element, trigger)",
        apply_default_css=False,
        elem_classes="pulse",
    )
