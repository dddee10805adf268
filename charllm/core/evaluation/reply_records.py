"""A kept reply: what was said, by which weights, to which prompt with which facts.

``replies.jsonl`` of an evaluation's folder holds a line a reply, named by variant, query and
repeat. Any judge can be asked about them at any time. Plain data: nothing here runs a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from charllm.core.evaluation.kept_lines import read_lines
from charllm.data.errors import Text

REPLIES = "replies.jsonl"


class Task(NamedTuple):
    """One reply that is wanted; ``repeat`` counts from 0."""

    variant: str
    query: str
    repeat: int

    @property
    def key(self) -> str:
        return f"{self.variant}/{self.query}/{self.repeat}"


@dataclass(frozen=True)
class Reply:
    """One reply with what it was made of. ``failed`` says why there is none; it is never judged.

    ``facts`` are those looked up (``used``: shown in the prompt), ``weights`` names base and
    adapter with their hashes, ``tokens`` counts the reply's. Seconds are those of the whole batch.
    """

    variant: str
    query: str
    repeat: int
    text: str
    stop_reason: str
    prompt: str
    facts: tuple[Mapping[str, Any], ...]
    weights: str
    prompt_tokens: int | None = None
    tokens: int | None = None
    seconds: float = 0.0
    seed: int = 0
    failed: Text | None = None

    @property
    def task(self) -> Task:
        return Task(self.variant, self.query, self.repeat)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "failed": self.failed.as_json() if self.failed else None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Reply:
        failed = data["failed"]
        fixed = {
            "facts": tuple(data["facts"]),
            "failed": Text(failed["en"], failed["ja"]) if failed else None,
        }
        return cls(**{**data, **fixed})


def read_replies(folder: Path) -> list[Reply]:
    """All kept replies in the order in which they came; a line that a kill has torn is left out."""
    return [Reply.from_json(row) for row in read_lines(folder / REPLIES)]
