"""An evolution as the page shows it: its events folded, its journal as a table of candidates.

For whoever looks again and again: events are read once, the journal only where it has grown. It
changes nothing but the request to pause.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from charllm.core.merging.budget import raised
from charllm.core.merging.evaluating import request_pause
from charllm.core.merging.evolve_config import EvolveConfig
from charllm.core.merging.evolve_questions import query_file
from charllm.core.merging.genome import Candidate
from charllm.core.merging.journal import JOURNAL, Journal, Outcome, Spent
from charllm.core.merging.objective import Objective
from charllm.core.merging.scoring import Scores
from charllm.core.variants import list_variants
from charllm.data.config import Paths
from charllm.data.errors import Text, UserError
from charllm.data.files import read_json
from charllm.data.queries import load_queries
from charllm.services.judge_choice import scale_of
from charllm.services.runs import Cursor, Event, Run

COLUMNS = 4
"""So many stand side by side in the chat."""
KEPT = 32
"""Runs that are remembered; a further one puts the one out that was looked at least lately."""
SEARCH = "search"
"""The folder of the search within the run's."""


@dataclass
class Seen:
    """What a run's events have said. ``generations`` as ``search_result.Generation`` tells them,
    in order; a resumed run tells them anew, and the same."""

    plan: dict[str, Any] = field(default_factory=dict)
    baselines: dict[str, float | None] = field(default_factory=dict)
    generations: tuple[dict[str, Any], ...] = ()
    newest: str = ""
    chosen: str = ""
    reported: bool = False

    def take(self, event: Event) -> None:
        """Fold one event in; kinds that are not known are left alone."""
        if event.kind == "plan":
            self.plan = event.data
        elif event.kind == "baselines":
            self.baselines = dict(event.data.get("gains") or {})
        elif event.kind == "generation":
            number = event.data["number"]
            before = [one for one in self.generations if one["number"] < number]
            after = [one for one in self.generations if one["number"] > number]
            self.generations = (*before, event.data, *after)
        elif event.kind == "candidate":
            self.newest = str(event.data.get("id", ""))
        elif event.kind == "chosen":
            self.chosen = str(event.data.get("id", ""))
        elif event.kind == "reported":
            self.reported = True

    @property
    def parents(self) -> list[str]:
        return [str(name) for name in self.plan.get("parents") or ()]

    def points(self) -> list[dict[str, Any]]:
        """A row a generation for a plot; gains are over the plain average on the same queries."""
        parents = [gain for name, gain in self.baselines.items() if name.startswith("parent-")]
        known = [gain for gain in parents if gain is not None]
        return [_point(one, max(known) if known else None) for one in self.generations]


def _point(one: Mapping[str, Any], parent: float | None) -> dict[str, Any]:
    mean = one.get("mean_gain") or {}
    spread = one.get("spread") or []
    return {
        "generation": one["number"],
        "best": one.get("best_gain"),
        "mean": mean.get("value"),
        "low": mean.get("low"),
        "high": mean.get("high"),
        "parent": parent,
        "spread": sum(spread) / len(spread) if spread else None,
        "failed": one.get("failed", 0),
    }


@dataclass(frozen=True)
class Row:
    """One candidate on the search queries. ``gain``: over the plain average on the ``n`` queries
    that both were scored on, None where it failed; ``parts``: each part's mean on its own scale."""

    candidate: Candidate
    gain: float | None
    n: int
    parts: dict[str, float]
    failure: Text | None


@dataclass(frozen=True)
class Answer:
    """One query of a candidate: the question (or held-out line), the reply, parts, its gain."""

    query: str
    question: str
    reply: str
    parts: dict[str, float | None]
    gain: float | None


class Sheet:
    """A run's journal as a table; made anew when the journal has grown."""

    def __init__(self, run: Run, config: EvolveConfig, paths: Paths) -> None:
        self.journal = Journal(run.folder / SEARCH)
        self.scores = Scores(self.journal, _objective(config, paths))
        self.questions = _questions(config, paths)

    @property
    def spent(self) -> Spent:
        return self.journal.spent

    def rows(self) -> list[Row]:
        """Every candidate that was scored in the search, the best gain first, failures last."""
        found = [self._row(one) for one in self.journal.candidates()]
        known = [row for row in found if row.n or row.failure or row.candidate.id == "uniform"]
        return sorted(known, key=lambda row: (row.gain is None, -(row.gain or 0.0)))

    def candidate(self, name: str) -> Candidate | None:
        return next((one for one in self.journal.candidates() if one.id == name), None)

    def answers(self, name: str) -> list[Answer]:
        """All that a candidate has said on the search queries, the worst gain first."""
        gains = self.scores.gains(name)
        found = [self._answer(one, gains) for one in self.journal.outcomes(name, "search")]
        return sorted(found, key=lambda one: (one.gain is None, one.gain or 0.0))

    def _row(self, one: Candidate) -> Row:
        own = self.journal.outcomes(one.id, "search")
        gains = self.scores.gains(one.id)
        gain = sum(gains.values()) / len(gains) if gains else None
        parts = self.scores.objective.part_means(own) if own else {}
        return Row(one, gain, len(own), parts, self.journal.failure(one.id))

    def _answer(self, one: Outcome, gains: Mapping[str, float]) -> Answer:
        question = self.questions.get(one.query, "")
        return Answer(one.query, question, one.note, dict(one.parts), gains.get(one.query))


def _objective(config: EvolveConfig, paths: Paths) -> Objective:
    return Objective.parse(config.search.objective, {"score": scale_of(paths, config.judge)})


def _questions(config: EvolveConfig, paths: Paths) -> dict[str, str]:
    with suppress(UserError, OSError):  # a set that is gone: the replies are shown without it
        return {one.id: one.text for one in load_queries(query_file(config, paths))}
    return {}


def config_of(run: Run) -> EvolveConfig:
    """What the run was started with, and the budgets it was given since; ``UserError`` where its
    folder is damaged."""
    config = run.manifest().load_config(run.folder)
    assert isinstance(config, EvolveConfig), run.id
    return config.model_copy(update={"search": raised(config.search, run.folder)})


def report_of(run: Run) -> dict[str, Any] | None:
    """``SearchResult`` as JSON with ``told``, ``parents`` and ``quality``; None before the end."""
    path = run.folder / "report.json"
    if not path.is_file():
        return None
    found: dict[str, Any] = read_json(path)
    return found


def recipe_of(run: Run) -> str:
    """The chosen recipe as YAML, "" before there is one."""
    path = run.folder / "recipe.yaml"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def columns_beside(paths: Paths, profile: str, name: str, parents_: Sequence[str]) -> list[str]:
    """Names of the chat's columns that set the merge ``name`` beside its base and its first
    parents, as far as these are columns; ``UserError`` where the checkpoint is gone."""
    plain = [one for one in list_variants(paths, profile) if not one.rag]
    by_checkpoint = {one.checkpoint: one for one in plain if one.checkpoint}
    merged = by_checkpoint.get(name)
    if merged is None:
        raise UserError(
            f"There is no checkpoint {name!r} any more.",
            f"チェックポイント「{name}」はもうありません。",
        )
    base = [one.name for one in plain if not one.checkpoint and one.model == merged.model]
    names = [Path(written.rpartition("+")[2]).name for written in parents_]
    parents = [by_checkpoint[name].name for name in names if name in by_checkpoint]
    return [*base[:1], *parents[: COLUMNS - 2], merged.name]


def pause(run: Run) -> None:
    """Ask a running search to pause at its next safe point; resuming goes on."""
    if not run.status().live:
        raise UserError(
            "Only a running search can be paused.", "一時停止できるのは実行中の探索だけです。"
        )
    folder = run.folder / SEARCH
    folder.mkdir(exist_ok=True)
    request_pause(folder)


class MergeView:
    """Follows any number of runs; safe in any thread."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._lock = threading.Lock()
        self._events: dict[Path, tuple[Cursor, Seen]] = {}
        self._sheets: dict[Path, tuple[tuple[int, int], Sheet]] = {}

    def of(self, run: Run) -> Seen:
        """What the run has said up to now."""
        with self._lock:
            cursor, seen = self._events.pop(run.folder, (Cursor(), Seen()))
            events, now = run.poll(cursor)
            if events and events[0].n <= cursor.n:  # the file was made anew
                seen = Seen()
            for event in events:
                seen.take(event)
            _keep(self._events, run.folder, (now, seen))
            return copy.copy(seen)

    def sheet(self, run: Run) -> Sheet | None:
        """Its journal, None before the first candidate was scored."""
        path = run.folder / SEARCH / JOURNAL
        if not path.is_file():
            return None
        stat = path.stat()
        stamp = (stat.st_mtime_ns, stat.st_size)
        with self._lock:
            known = self._sheets.pop(run.folder, None)
            if known is None or known[0] != stamp:
                known = stamp, Sheet(run, config_of(run), self._paths)
            _keep(self._sheets, run.folder, known)
            return known[1]


def _keep(known: dict[Path, Any], key: Path, value: Any) -> None:
    known[key] = value
    while len(known) > KEPT:
        del known[next(iter(known))]
