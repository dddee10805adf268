"""Query sets: ``datasets/queries/<slug>.jsonl`` with gold facts, in three splits.

A merge searches on ``search``, chooses among finalists on ``selection`` and is reported on
``report``, so that no number is both tuned and reported on the same questions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from charllm.data.config import Config
from charllm.data.errors import UserError
from charllm.data.files import json_lines
from charllm.data.profile import Profile

Split = Literal["search", "selection", "report"]


class Query(Config):
    id: str
    text: str = Field(min_length=1)
    split: Split
    tags: tuple[str, ...] = ()
    gold: tuple[str, ...] = ()


def load_queries(path: Path, split: Split | None = None) -> list[Query]:
    """All queries, or one split's; ``UserError`` names file and line of the first wrong one."""
    rows = [Query.from_data(row, f"{path}, line {n}") for n, row in json_lines(path)]
    seen: set[str] = set()
    for number, query in enumerate(rows, 1):
        if query.id in seen:
            raise UserError(
                f"{path}: id {query.id!r} stands twice (row {number}).",
                f"{path}: id「{query.id}」が重複しています（{number} 行目）。",
            )
        seen.add(query.id)
    return rows if split is None else [row for row in rows if row.split == split]


def unknown_gold(queries: list[Query], profile: Profile) -> list[tuple[str, str]]:
    """``(query id, fact)`` of every gold fact that the profile does not have."""
    facts = set(profile.facts)
    return [(query.id, fact) for query in queries for fact in query.gold if fact not in facts]
