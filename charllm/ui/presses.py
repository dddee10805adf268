"""The newest press in HTML with buttons of its own, for handlers that show what was pressed last.

A press carries data of its own, and a second one may come while the first is on its way. Gradio
(6.31) then drops it (``once``), or does the first one's data again (``always_last``), or hands on
both in any order (``multiple``). The last is right where each press counts by itself. Where only
the newest does, the page notes it here, and ``always_last`` is given the note.
"""

from __future__ import annotations

import json
from typing import Any


def noting(function: str, name: str) -> str:
    """What a ``gr.HTML`` does on load: the page's ``function``, its presses noted as ``name``.

    A value with an ``owner`` lends it to the note: by the time that is read, the page may show
    somebody else's.
    """
    return (
        f"window.{function}(element, props, (event, data) => {{ "
        f"(window.charllmNewest ??= {{}}).{name} = {{ ...data, owner: props.value?.owner }}; "
        "trigger(event, data); }, watch)"
    )


def newest(name: str) -> str:
    """JavaScript that puts the newest press into the last input, a hidden text: ``js=`` of the
    event, whose ``trigger_mode`` is to be ``always_last``."""
    note = f"JSON.stringify(window.charllmNewest?.{name} ?? null)"
    return f"(...values) => [...values.slice(0, -1), {note}]"


def noted(text: str) -> dict[str, Any]:
    """What ``newest`` has put there; {} for anything else, which no page of ours sends."""
    try:
        data = json.loads(text)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}
