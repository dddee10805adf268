"""What RAG does in an evaluation, for a page that asks again and again; and the sweep of settings.

Reports are made once for as many replies as there are; curves once for a profile's facts, questions
and embedder. Nothing is generated, and nothing is kept on disk.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path

from charllm.core.calibration import CHOSEN_ON
from charllm.core.evaluation.planned import PLAN, Planned, read_plan
from charllm.core.evaluation.rag_report import RagReport, pair_of, pairs_of, rag_report
from charllm.core.evaluation.rag_sweep import KS, Curve, Setting, setting_now, sweep
from charllm.core.evaluation.reply_records import REPLIES, read_replies
from charllm.core.variants import Variant, list_variants
from charllm.data.config import Paths
from charllm.data.errors import Text
from charllm.data.files import sha256
from charllm.data.profile import load_profile
from charllm.data.progress import Reporter, Silent, StopRequest
from charllm.data.queries import Query, load_queries

KEPT = 16
"""Reports, and sweeps, that are remembered."""
EVERY = 0.2
"""Seconds between two looks at a sweep that goes on."""


@dataclass(frozen=True)
class Swept:
    """A curve for each number of facts, the setting in use among them.

    ``questions`` of the splits that the curves are drawn on, ``free`` of them without a gold fact;
    0 means that false retrievals are counted with the gold facts taken away.
    """

    curves: tuple[Curve, ...]
    now: Setting
    questions: int
    free: int


@dataclass(frozen=True)
class Step:
    """How far a sweep has come: ``share`` in [0, 1], and what is being done."""

    share: float
    message: Text


class RagView:
    """The reports of any number of evaluations; safe in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[Hashable, RagReport] = OrderedDict()

    def of(self, folder: Path, planned: Planned, name: str) -> RagReport:
        """The pair's report; ``name`` is one of the two. ``UserError`` as ``rag_report``'s."""
        path = folder / REPLIES
        size = path.stat().st_size if path.exists() else 0
        key = (folder, name, size)
        with self._lock:
            if key not in self._known:
                self._known[key] = self._made(folder, planned, name)
            self._known.move_to_end(key)
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
            return self._known[key]

    def _made(self, folder: Path, planned: Planned, name: str) -> RagReport:
        return rag_report(
            planned.profile,
            pair_of(planned.variants, name),
            planned.queries,
            planned.facts,
            read_replies(folder),
            planned.config.seed,
        )


def planned_of(folder: Path) -> Planned | None:
    """The plan, None where the run has not begun to ask; ``UserError`` for a damaged one."""
    return read_plan(folder) if (folder / PLAN).is_file() else None


def pairs_wanting(paths: Paths, planned: Planned) -> list[tuple[Variant, Variant]]:
    """Pairs of the character's variants of which this evaluation asked one only, plain one first.

    Where it asked none of them, all pairs there are.
    """
    pairs = [(plain, rag) for rag, plain in pairs_of(list_variants(paths, planned.profile.slug))]
    asked = {variant.name for variant in planned.variants}
    return [pair for pair in pairs if asked & {one.name for one in pair}] or pairs


def swept(paths: Paths, planned: Planned, reporter: Reporter) -> Swept:
    """All splits of the evaluation's query set as it is now, against the facts as they are now.

    A threshold is chosen on other splits than the evaluation reports on. ``UserError`` and
    ``Stopped`` as ``rag_sweep.sweep``'s.
    """
    config = planned.config
    profile = load_profile(paths, config.profile)
    queries = _queries_now(paths, planned)
    now = setting_now(paths, config)
    ks = sorted({*KS, now.k})
    curves = sweep(paths, profile, queries, config.embedder, reporter, ks)
    near = [query for query in queries if query.split in CHOSEN_ON]
    return Swept(tuple(curves), now, len(near), sum(not query.gold for query in near))


def _queries_now(paths: Paths, planned: Planned) -> list[Query]:
    return load_queries(_queries_file(paths, planned))


def _queries_file(paths: Paths, planned: Planned) -> Path:
    return paths.queries / f"{planned.config.queries or planned.config.profile}.jsonl"


@dataclass
class _Heard(Silent):
    """What a sweep says of itself, to be read from another thread; ``left`` gives it up."""

    step: Step = Step(0.0, Text("Starting", "始めています"))
    left: bool = False

    def progress(self, done: float, total: float, message: Text) -> None:
        self.step = Step(done / total if total else 0.0, message)

    def stop_requested(self) -> StopRequest:
        return "cancel" if self.left else ""


@dataclass
class Sweeps:
    """Sweeps that were made since the start; safe in any thread."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _known: OrderedDict[Hashable, Swept] = field(default_factory=OrderedDict)

    def known(self, paths: Paths, planned: Planned) -> Swept | None:
        """The sweep of these facts and questions, if it was made already; with today's setting."""
        with self._lock:
            found = self._known.get(_key(paths, planned))
        return replace(found, now=setting_now(paths, planned.config)) if found else None

    def follow(self, paths: Paths, planned: Planned) -> Iterator[Step | Swept]:
        """Its steps several times a second, and in the end the outcome.

        Whoever stops listening gives it up. ``UserError`` as ``swept``'s.
        """
        heard, key = _Heard(), _key(paths, planned)
        with ThreadPoolExecutor(1) as pool:
            working = pool.submit(swept, paths, planned, heard)
            try:
                while not wait([working], EVERY).done:
                    yield heard.step
            finally:
                heard.left = True
        with self._lock:
            self._known[key] = working.result()
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
        yield working.result()


def _key(paths: Paths, planned: Planned) -> Hashable:
    """What the curves depend on; the threshold in use is a mark on them only."""
    config, path = planned.config, _queries_file(paths, planned)
    questions = sha256(path.read_bytes()) if path.is_file() else ""
    facts = load_profile(paths, config.profile).facts
    return config.profile, facts, questions, config.embedder.model_dump_json(), config.top_k
