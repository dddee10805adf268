"""Facts for a question: a persistent Chroma collection for each profile and embedder.

A collection never changes once it can be seen: a build fills a new one under a working name,
renames it when it is complete and drops the old one. Readers in other threads and processes
therefore see the old facts or the new ones, and a cancelled or killed build changes nothing.
It does not know what the facts are used for, nor how a threshold was found.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from charllm.core import fact_store as store
from charllm.core.embedding import Embedder, EmbedderConfig, embedder_key, get_embedder
from charllm.data.config import Config, Paths
from charllm.data.errors import Text, UserError
from charllm.data.files import read_json, sha256
from charllm.data.profile import Profile, load_profile
from charllm.data.progress import Reporter, Stopped

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")

MAX_QUESTION = 2000
"""Characters of a question that are looked at; embedders take about 512 tokens."""
BATCH = 32
"""Facts embedded between two looks at the stop signal."""


@dataclass(frozen=True)
class Hit:
    """A fact with its cosine similarity to the question, as the embedder sees the two.

    ``used`` = at or over the threshold.
    """

    fact: str
    similarity: float
    used: bool


@dataclass(frozen=True)
class IndexState:
    """``facts`` the profile has; ``changed`` counts new ones and indexed ones that are gone."""

    kind: Literal["missing", "stale", "ready", "corrupt"]
    facts: int
    changed: int


class IndexConfig(Config):
    """A run that brings one profile's index up to date."""

    profile: str
    embedder: EmbedderConfig = EmbedderConfig()


def run_index(
    config: IndexConfig, reporter: Reporter, folder: Path, paths: Paths
) -> dict[str, Any]:
    """Build the index; the result is that of ``Index.build``."""
    profile = load_profile(paths, config.profile)
    return open_index(paths, profile, get_embedder(config.embedder)).build(reporter)


def open_index(paths: Paths, profile: Profile, embedder: Embedder) -> Index:
    """The index of these facts by this embedder; nothing is read or made yet."""
    return Index(paths, profile, embedder)


def calibration_path(paths: Paths, slug: str, embedder: Embedder) -> Path:
    return paths.workspace / "calibration" / f"{slug}-{embedder_key(embedder)}.json"


def threshold_for(paths: Paths, slug: str, embedder: Embedder) -> float:
    """The calibrated threshold of a profile and embedder, else the embedder's built-in one."""
    path = calibration_path(paths, slug, embedder)
    if not path.is_file():
        return embedder.default_threshold
    stored = read_json(path)
    value = stored.get("threshold") if isinstance(stored, dict) else None
    if not isinstance(value, int | float):
        raise UserError(
            f"{path} holds no threshold. Calibrate again, or delete the file.",
            f"{path} にしきい値がありません。較正をやり直すか、ファイルを削除してください。",
        )
    return float(value)


class Index:
    """One profile's facts as one embedder sees them. May be used from any thread."""

    def __init__(self, paths: Paths, profile: Profile, embedder: Embedder) -> None:
        self.paths = paths
        self.profile = profile
        self.embedder = embedder
        self._texts = {_id(text): text for text in map(embedder.fact_text, profile.facts)}
        self._facts = dict(zip(self._texts, profile.facts, strict=True))
        self._base = f"{profile.slug}.{embedder_key(embedder)}"
        self._working = f"building.{self._base}"

    def state(self) -> IndexState:
        """Where the index stands; makes nothing, and needs neither the model nor a key."""
        try:
            indexed = self._read(lambda open_, name: open_.ids(name) if name else None)
        except store.Corrupt:
            return IndexState("corrupt", len(self._facts), len(self._facts))
        changed = len((indexed or set()) ^ self._facts.keys())
        if indexed is None and self._facts:
            return IndexState("missing", len(self._facts), changed)
        return IndexState("stale" if changed else "ready", len(self._facts), changed)

    def retrieve(self, question: str, k: int = 3, threshold: float | None = None) -> list[Hit]:
        """The ``k`` facts nearest to the question, best first; [] for a blank question.

        ``threshold`` None is the calibrated or built-in one. Facts deleted since the last build
        are left out, new ones are not found before the next. ``UserError`` where there is no
        index or it is damaged.
        """
        limit = threshold
        if limit is None:
            limit = threshold_for(self.paths, self.profile.slug, self.embedder)
        ranked = self.rank([question], k)[0] if question.strip() else []
        return [Hit(fact, similarity, similarity >= limit) for fact, similarity in ranked]

    def rank(self, questions: Sequence[str], k: int) -> list[list[tuple[str, float]]]:
        """For each question, at most ``k`` pairs of fact and cosine similarity, best first.

        Of each question the first ``MAX_QUESTION`` characters are looked at.
        """
        if not self._facts or not questions:
            return [[] for _ in questions]
        if not self._read(lambda _, name: name):  # before paying for vectors
            raise self._missing()
        vectors = self.embedder.embed_queries([text[:MAX_QUESTION] for text in questions])
        return [
            [(self._facts[i], similarity) for i, similarity in row if i in self._facts][:k]
            for row in self._read(lambda open_, name: self._nearest(open_, name, vectors, k))
        ]

    def build(self, reporter: Reporter) -> dict[str, Any]:
        """Bring the index up to date; only facts that have no vector yet are embedded.

        Gives ``facts``, ``embedded``, ``reused``, ``removed``, ``seconds``, ``embedder`` and
        ``moved_aside`` (where a damaged database was put, else ""). ``Stopped`` when a stop was
        requested: the old index stays as it is.
        """
        started = time.monotonic()
        moved, before = "", None
        try:
            before, known = self._stored()
        except store.Corrupt as error:
            moved, known = store.move_aside(self.paths.indexes, reporter, str(error)), {}
        embedded = 0
        if (before or set()) != self._facts.keys():
            embedded = self._replace(known, reporter)
        store.sweep(self.paths.indexes)
        total = len(self._facts)
        reporter.progress(total, total, Text("The index is ready", "索引ができました"))
        return {
            "facts": total,
            "embedded": embedded,
            "reused": total - embedded,
            "removed": len((before or set()) - self._facts.keys()),
            "seconds": round(time.monotonic() - started, 3),
            "embedder": self.embedder.id,
            "moved_aside": moved,
        }

    def _read(self, work: Callable[[store.Database, str], T]) -> T:
        """``work`` with the name of the complete collection, "" where there is none.

        Another process may replace the collection between finding and reading it, or while it is
        read; then the new one is read.
        """
        for last in (False, False, True):
            name = ""
            try:
                with store.database(self.paths.indexes) as open_:
                    name = next(reversed(open_.names(self._base)), "")
                    return work(open_, name)
            except store.Gone:
                if last:
                    raise
            except store.Corrupt:  # which is how Chroma finds half of a collection, too
                if last or self._stands(name):
                    raise
        raise AssertionError("unreachable")

    def _stands(self, name: str) -> bool:
        with store.database(self.paths.indexes) as open_:
            return not name or name in open_.names(self._base)

    def _nearest(
        self, open_: store.Database, name: str, vectors: np.ndarray, k: int
    ) -> list[list[tuple[str, float]]]:
        """Ids and similarities; beyond ``k`` as many more as facts may have been deleted since."""
        if not name:
            raise self._missing()
        if open_.dimension(name) != vectors.shape[1]:
            raise UserError(
                f"{self.embedder.id} now gives vectors of another length than when the facts were "
                "indexed: another model answers under this name. Use the model of that time, or "
                "give the new one its own name.",
                f"{self.embedder.id} のベクトルの長さが、索引を作ったときと違います。同じ名前で"
                "別のモデルが動いています。元のモデルに戻すか、別の名前を付けてください。",
            )
        ids = open_.ids(name)
        return open_.nearest(name, vectors, min(len(ids), k + len(ids - self._facts.keys())))

    def _stored(self) -> tuple[set[str] | None, dict[str, np.ndarray]]:
        """The ids that are indexed now (None: no index), and every vector of a present fact.

        Vectors also come from builds that were killed, so that nothing is paid for twice.
        """
        indexed = self._read(lambda open_, name: open_.vectors(name) if name else None)
        known = dict(indexed or {})
        with store.database(self.paths.indexes) as open_:
            leftovers = open_.names(self._working)
        for name in leftovers:
            # One that cannot be read, or is just being filled or dropped by another process,
            # only costs the saving.
            with (
                contextlib.suppress(UserError, store.Gone),
                store.database(self.paths.indexes) as open_,
            ):
                known |= open_.vectors(name)
        before = None if indexed is None else set(indexed)
        return before, {i: vector for i, vector in known.items() if i in self._facts}

    def _replace(self, known: dict[str, np.ndarray], reporter: Reporter) -> int:
        """Fill a new collection and show it instead of the old one; how many were embedded."""
        stamp = f"{time.time_ns():020d}"
        working, embedded = f"{self._working}.{stamp}", 0
        try:
            if self._facts:
                embedded = self._fill(working, known, reporter)
            with store.database(self.paths.indexes, create=True) as open_:
                old = open_.names(self._base) + open_.names(self._working)
                if self._facts:
                    if open_.ids(working) != self._facts.keys():
                        raise store.Gone  # just being dropped
                    open_.rename(working, f"{self._base}.{stamp}")
        except store.Gone as error:
            # A build that ends first drops the working collections of all others of this index.
            raise UserError(
                "Another build of the same index was finished first; this one was given up.",
                "同じ索引の別の作成が先に終わったため、この作成は中止しました。",
            ) from error
        except BaseException:
            self._drop([working])
            raise
        self._drop([name for name in old if name != working])
        return embedded

    def _fill(self, name: str, known: dict[str, np.ndarray], reporter: Reporter) -> int:
        """Write all vectors into the collection ``name``; how many facts were embedded."""
        message = Text("Embedding facts", "事実を埋め込んでいます")
        new = [i for i in self._facts if i not in known]
        for start in range(0, len(new), BATCH):
            if reporter.stop_requested():
                raise Stopped
            reporter.progress(len(known) + start, len(self._facts), message)
            ids = new[start : start + BATCH]
            vectors = self.embedder.embed_facts([self._texts[i] for i in ids])
            if any(len(vector) != vectors.shape[1] for vector in known.values()):
                # Another model answers under the old name: its vectors do not compare.
                return self._fill(name, {}, reporter)
            self._add(name, dict(zip(ids, vectors, strict=True)), first=start == 0)
        if known:
            self._add(name, known, first=not new)
        return len(new)

    def _add(self, name: str, vectors: dict[str, np.ndarray], *, first: bool) -> None:
        order = {i: n for n, i in enumerate(self._facts)}
        with store.database(self.paths.indexes, create=True) as open_:
            if first:
                about = {"profile": self.profile.slug, "embedder": self.embedder.id}
                dimension = len(next(iter(vectors.values())))
                open_.create(name, {**about, "dimension": dimension})
            open_.add(
                name,
                vectors,
                [self._facts[i] for i in vectors],
                [{"hash": i, "embedder": self.embedder.id, "order": order[i]} for i in vectors],
            )

    def _drop(self, names: list[str]) -> None:
        with store.database(self.paths.indexes) as open_:
            for name in names:
                open_.drop(name)

    def _missing(self) -> UserError:
        slug = self.profile.slug
        return UserError(
            f"The facts of {self.profile.name} are not indexed for this embedder yet. Build the "
            f"index on the Character tab, or with: python -m charllm index {slug}",
            f"{self.profile.name} の事実の索引がまだありません。キャラクター画面で作成するか、"
            f"次のコマンドを実行してください: python -m charllm index {slug}",
        )


def _id(text: str) -> str:
    """Names a vector by what was embedded: the same text never needs to be embedded again."""
    return sha256(text.encode())[:32]
