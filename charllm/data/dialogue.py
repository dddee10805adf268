"""Training dialogues: ``datasets/<name>.jsonl``, a dialogue a line.

``{"id", "messages": [{"role", "content"}…], "source", "meta"}``; ``meta.facts`` names the facts
a reply relies on, where its author knew them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from charllm.data.config import Config, Paths, invalid
from charllm.data.errors import UserError
from charllm.data.files import check_slug, json_lines, sha256, write_json_lines


class Message(Config):
    role: Literal["system", "user", "assistant"]
    content: str


class Dialogue(Config):
    id: str
    messages: tuple[Message, ...] = Field(min_length=1)
    source: str = ""
    meta: dict[str, Any] = {}

    @field_validator("messages")
    @classmethod
    def _ends_with_reply(cls, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        if messages[-1].role != "assistant" or not messages[-1].content.strip():
            raise invalid(
                "the last message must be a non-empty assistant reply",
                "最後の発言は、空でない assistant の返答にしてください",
            )
        return messages

    @property
    def reply(self) -> str:
        return self.messages[-1].content

    @property
    def question(self) -> str:
        """The last user message, "" if there is none."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), "")

    @property
    def facts(self) -> tuple[str, ...]:
        return tuple(self.meta.get("facts", ()))


def dataset_path(paths: Paths, name: str) -> Path:
    return paths.datasets / f"{check_slug(name, 'dataset name')}.jsonl"


def list_datasets(paths: Paths) -> list[str]:
    return sorted(path.stem for path in paths.datasets.glob("*.jsonl"))


def load_dialogues(path: Path) -> list[Dialogue]:
    """All dialogues; ``UserError`` names file and line of the first that is wrong."""
    dialogues = [Dialogue.from_data(row, f"{path}, line {n}") for n, row in json_lines(path)]
    seen: dict[str, int] = {}
    for number, dialogue in enumerate(dialogues, 1):
        if dialogue.id in seen:
            raise UserError(
                f"{path}: id {dialogue.id!r} stands twice (rows {seen[dialogue.id]} and {number}).",
                f"{path}: id「{dialogue.id}」が重複しています"
                f"（{seen[dialogue.id]} 行目と {number} 行目）。",
            )
        seen[dialogue.id] = number
    return dialogues


def save_dialogues(path: Path, dialogues: list[Dialogue]) -> None:
    write_json_lines(path, [d.model_dump(mode="json") for d in dialogues])


def data_hash(dialogues: list[Dialogue]) -> str:
    """What identifies a training set: the hash of its dialogues in order."""
    return sha256("\n".join(d.model_dump_json() for d in dialogues).encode())
