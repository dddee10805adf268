"""A question to a mixture and to the plain average, with both replies; pages look at it.

It neither decodes nor scores: ``mixer_live`` does, in threads of its own.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from charllm.core.generation import GenerationPreset
from charllm.core.judging.score import Judgement
from charllm.core.merging.coefficients import Coefficients, even
from charllm.core.merging.genome import LINEAR
from charllm.data.errors import Text, UserError
from charllm.services.ending import OURS
from charllm.services.engine import LOADING
from charllm.services.mixer import Board

if TYPE_CHECKING:
    from charllm.core.retrieval import Hit

log = logging.getLogger(__name__)

Name = Literal["mix", "uniform"]
State = Literal["waiting", "writing", "done", "failed"]
SIDES: tuple[Name, ...] = ("mix", "uniform")


@dataclass(frozen=True)
class Side:
    """One of the two replies. ``reason`` is why it stopped, ``score`` a ``Judgement`` as JSON
    (None: not scored yet)."""

    state: State = "waiting"
    text: str = ""
    reason: str = ""
    tokens: int = 0
    seconds: float = 0.0
    score: Mapping[str, Any] | None = None
    error: Text | None = None

    @property
    def ended(self) -> bool:
        return self.state in ("done", "failed")


@dataclass
class Asked:
    """A question and its two replies. ``version`` grows with every change."""

    profile: str
    question: str
    preset: GenerationPreset
    rag: bool
    board: Board
    mixture: Coefficients
    sides: dict[Name, Side] = field(default_factory=lambda: {"mix": Side(), "uniform": Side()})
    hits: list[Hit] = field(default_factory=list)
    stage: Text | None = LOADING
    warning: Text | None = None
    cancelled: bool = False
    version: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def put(self, name: Name, **changes: Any) -> None:
        """Change one side; a side that has ended only gets its score."""
        with self.lock:
            if not self.sides[name].ended or set(changes) == {"score"}:
                self.sides[name] = replace(self.sides[name], **changes)
                self.version += 1

    def tell(self, stage: Text | None) -> None:
        with self.lock:
            if stage != self.stage:
                self.stage = stage
                self.version += 1

    @property
    def settled(self) -> bool:
        """Nothing more will change by itself."""
        with self.lock:
            sides = list(self.sides.values())
        return all(
            one.ended and (one.score is not None or one.state == "failed" or self.cancelled)
            for one in sides
        )

    def uniform(self) -> Coefficients:
        return even(LINEAR, self.board.groups, len(self.board.parents))

    def fail(self, error: Exception) -> None:
        """Neither side can be answered."""
        if not isinstance(error, UserError):
            log.error("a mixture could not be asked", exc_info=error)
        self.tell(None)
        for name in SIDES:
            self.put(name, state="failed", error=words_of(error))

    def end(self) -> None:
        """Whatever has not ended ends now, as stopped."""
        self.tell(None)
        for name in SIDES:
            self.put(name, state="done", reason="cancelled")


def scored(result: Judgement | Exception) -> Mapping[str, Any]:
    """A score as the page draws it; the reason where there is none."""
    if isinstance(result, Judgement):
        return result.as_json()
    if not isinstance(result, UserError):
        log.error("scoring failed", exc_info=result)
    return {"state": "done", "value": None, "unscored": words_of(result).as_json(), "parts": []}


def words_of(error: Exception) -> Text:
    return error.text if isinstance(error, UserError) else OURS


def side_of(column: str) -> Name:
    """The side that a column of the decoder is."""
    return "mix" if column == "mix" else "uniform"
