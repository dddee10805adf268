"""What the Data tab's list of preparation steps is told, and the steps that it asks for.

A step that the page names by its place in the card keeps the inputs it was applied with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from charllm.data.collection import Dataset, preview_steps
from charllm.data.config import Paths
from charllm.data.dataset_card import DatasetCard, Step
from charllm.data.dialogue import Message
from charllm.data.errors import Language
from charllm.data.preparing import STEPS, StepKind
from charllm.data.row_edits import apply_edits

EXAMPLES = 6
_TYPES = {"integer": "integer", "number": "number", "string": "text"}


def kinds_view(language: Language) -> list[dict[str, Any]]:
    """Every kind of step with the fields of its options, in words."""
    return [
        {
            "kind": name,
            "label": kind.label.in_(language),
            "about": kind.about.in_(language),
            "fields": [_field(kind, key, language) for key in kind.options.model_fields],
        }
        for name, kind in STEPS.items()
    ]


def _field(kind: StepKind, key: str, language: Language) -> dict[str, Any]:
    schema = kind.options.model_json_schema()["properties"][key]
    type_ = _TYPES[schema["type"]]
    return {
        "key": key,
        "label": kind.fields[key].in_(language),
        "type": type_,
        "default": schema["default"],
        "min": schema.get("minimum"),
        "max": schema.get("maximum"),
        "step": {"integer": 1, "number": 0.05}.get(type_),
    }


def steps_view(dataset: Dataset, language: Language) -> dict[str, Any]:
    """The steps that are applied now, with how many rows each has changed."""
    return {
        "type": "steps",
        "name": dataset.name,
        "kinds": kinds_view(language),
        "applied": [
            {"kind": step.kind, "options": step.options, "changed": step.changed}
            for step in dataset.card.steps
        ],
    }


def steps_asked(card: DatasetCard, asked: Sequence[Mapping[str, Any]]) -> list[Step]:
    """``{"kind", "options", "was"}`` as steps; ``was`` is the step's place in the card, or −1."""
    made = []
    for item in asked:
        step = Step(kind=str(item["kind"]), options=dict(item.get("options") or {}))
        was = item.get("was", -1)
        before = card.steps[was] if isinstance(was, int) and 0 <= was < len(card.steps) else None
        same = before is not None and (before.kind, before.options) == (step.kind, step.options)
        made.append(before if same and before else step)
    return made


def preview_view(paths: Paths, dataset: Dataset, steps: Sequence[Step]) -> dict[str, Any]:
    """What ``steps`` would make of the originals, beside the rows as they are now."""
    made = preview_steps(paths, dataset.name, steps)
    now = {row.id: row for row in dataset.dialogues}
    then = {row.id: row for row in apply_edits(made.dialogues, dataset.edits.current)}
    differ = [
        id
        for id in {**now, **then}
        if id not in now or id not in then or now[id].messages != then[id].messages
    ]
    examples = [
        {
            "id": id,
            "before": _excerpt(now[id].messages) if id in now else "",
            "after": _excerpt(then[id].messages) if id in then else "",
        }
        for id in _spread(differ)
    ]
    return {
        "type": "preview",
        "changed": [step.changed for step in made.steps],
        "before": len(now),
        "rows": len(then),
        "differ": len(differ),
        "examples": examples,
    }


def _spread(ids: Sequence[str]) -> list[str]:
    """At most ``EXAMPLES`` of them, from all over the list."""
    apart = max(1, len(ids) // EXAMPLES)
    return list(ids[::apart][:EXAMPLES])


def _excerpt(messages: Sequence[Message], most: int = 160) -> str:
    """The last question and the reply in one line."""
    said = [message.content for message in messages if message.role != "system"][-2:]
    text = " → ".join(" ".join(part.split()) for part in said)
    return text if len(text) <= most else f"{text[: most - 1]}…"
