"""Mixtures from outside a search: they wait in a file that the search asks at each generation.

Whoever has mixed something by hand appends a line to ``injected.jsonl`` in the search's folder.
The search takes what waits into the next generation that it begins, writes down which one that is
before anything of it is scored, and treats it like a candidate of its own from then on.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from charllm.core.merging.coefficients import Coefficients
from charllm.core.merging.genome import Extra, Space, Vector
from charllm.core.merging.journal import State
from charllm.data.errors import UserError

WAITING = "injected.jsonl"
SHARE = 0.5
"""At most this part of a generation comes from outside; the rest waits for the next one."""


@dataclass(frozen=True)
class Given:
    """A mixture from outside. ``origin`` says where it was made; ``generation`` 0 is none yet."""

    id: str
    origin: str
    vector: Vector
    generation: int = 0

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "vector": list(self.vector)}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        return cls(row["id"], row["origin"], tuple(row["vector"]), row["generation"])


def inject(folder: Path, weights: Mapping[str, tuple[float, ...]], origin: str) -> str:
    """Let a mixture wait for the search in ``folder``; its id.

    ``weights`` by group, one for each parent, in the search's own groups and order of parents.
    ``UserError`` where there is no search yet, it takes none, or the weights are not one of its
    mixtures.
    """
    space = space_of(folder)
    found = Coefficients(space.method, dict(weights))
    found.check(space.groups, space.parents, (space.method,))
    if min(weight for row in found.weights.values() for weight in row) < 0:
        raise UserError("A weight may not be negative.", "重みに負の値は使えません。")
    for group in space.groups:
        found.shares(group)
    row = {"id": uuid.uuid4().hex[:12], "origin": origin, "weights": found.weights}
    with (folder / WAITING).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return str(row["id"])


def space_of(folder: Path) -> Space:
    """The space of the search in ``folder``; ``UserError`` where it takes no mixtures."""
    state = State.load(folder)
    if state is None:
        raise UserError(
            "This run has not begun to search yet. Try again when its first candidates come.",
            "この実行はまだ探索を始めていません。最初の候補が出てからもう一度お試しください。",
        )
    if state.stop:
        raise UserError(
            "This search begins no further generation, so nothing can be put into it. Fork it.",
            "この探索は次の世代を始めないため、候補を追加できません。分岐（fork）してください。",
        )
    if state.settings["config"].get("strategy") == "grid":
        raise UserError(
            "This search tries the points of a grid and takes no others.",
            "この探索は格子点だけを試すため、ほかの候補は追加できません。",
        )
    data = state.settings["space"]
    extras = tuple(Extra(*row) for row in data["extras"])
    parents, groups = data["parents"], tuple(data["groups"])
    return Space(groups, parents, data["parametrisation"], data["method"], extras)


def waiting(folder: Path, space: Space, taken: Collection[str]) -> Iterator[Given]:
    """What waits and was not ``taken`` yet, in order. A line that is no mixture of ``space`` is
    left out: what somebody wrote by hand must not end the search."""
    path = folder / WAITING
    if not path.is_file():
        return
    data = path.read_text(encoding="utf-8", errors="replace")
    for line in data.split("\n")[:-1]:  # what has no end yet is still being written
        given = _given(line, space)
        if given is not None and given.id not in taken:
            yield given


def _given(line: str, space: Space) -> Given | None:
    try:
        row = json.loads(line)
        weights = {group: tuple(map(float, values)) for group, values in row["weights"].items()}
        mixed = Coefficients(space.method, weights)
        mixed.check(space.groups, space.parents, (space.method,))
        if min(weight for values in weights.values() for weight in values) < 0:
            return None
        shares = {group: mixed.shares(group) for group in space.groups}
        linear = space.parametrisation != "free"
        whole = Coefficients(space.method, shares if linear else weights)
        edges = zip(space.vector(whole), *space.bounds, strict=True)
        vector = tuple(min(high, max(low, gene)) for gene, low, high in edges)
        return Given(str(row["id"]), str(row["origin"]), vector)
    except (ValueError, KeyError, TypeError, AttributeError, UserError):
        return None
