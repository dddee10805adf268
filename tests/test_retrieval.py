"""Retrieval on the real Chroma: exact, incremental, seen by others, and hard to break."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from charllm.core import fact_store
from charllm.core.embedding import EmbedderConfig, get_embedder, unit_rows
from charllm.core.retrieval import (
    IndexConfig,
    calibration_path,
    open_index,
    run_index,
    threshold_for,
)
from charllm.data.config import ROOT, Paths
from charllm.data.errors import UserError
from charllm.data.files import write_json
from charllm.data.profile import Profile, load_profile, save_profile
from charllm.data.progress import Silent, Stopped, StopRequest

FACTS = ("好きな季節は秋。", "年齢は18歳。", "兄はアメリカに留学している。", "紅茶が好き。")


class Vectors:
    """Embeds a text as fixed pseudo-random numbers and counts what it was asked to embed."""

    default_threshold = 0.5

    def __init__(self, dimension: int = 8, name: str = "numbers") -> None:
        self.id = f"test:{name}"
        self.dimension = dimension
        self.embedded: list[str] = []

    def embed_queries(self, texts: Sequence[str]) -> np.ndarray:
        return unit_rows([self._vector(text) for text in texts], self.id)

    def embed_facts(self, texts: Sequence[str]) -> np.ndarray:
        self.embedded += texts
        return self.embed_queries(texts)

    def fact_text(self, fact: str) -> str:
        return fact

    def _vector(self, text: str) -> np.ndarray:
        # Like real embeddings, all lie on one side: the hard case for an approximate search.
        return np.random.default_rng(list(text.encode())).normal(2.0, 1.0, self.dimension)


class Stopping(Silent):
    """Asks to stop at the ``n``-th look."""

    def __init__(self, n: int) -> None:
        self.looks = n

    def stop_requested(self) -> StopRequest:
        self.looks -= 1
        return "cancel" if self.looks <= 0 else ""


def character(*facts: str, slug: str = "someone") -> Profile:
    return Profile(slug=slug, name="Someone", facts=facts)


@pytest.fixture
def place(tmp_path: Path) -> Paths:
    return Paths(tmp_path / "root", tmp_path / "workspace")


def collections(place: Paths) -> list[str]:
    import chromadb

    with fact_store.database(place.indexes):
        pass  # the one client of this process exists now; Chroma shares it by path
    client = chromadb.PersistentClient(
        place.indexes, settings=chromadb.config.Settings(anonymized_telemetry=False)
    )
    return [collection.name for collection in client.list_collections()]


def test_the_embedded_embedder_finds_the_fact_and_marks_what_is_over_the_threshold(
    paths: Paths,
) -> None:
    profile = load_profile(paths, "ayane")
    embedder = get_embedder(EmbedderConfig())
    result = run_index(IndexConfig(profile="ayane"), Silent(), paths.runs, paths)
    assert (result["facts"], result["embedded"]) == (len(profile.facts), len(profile.facts))
    index = open_index(paths, profile, embedder)
    assert index.state().kind == "ready"
    hits = index.retrieve("好きな季節はいつですか？", k=3)
    assert hits[0].fact == "好きな季節は秋。" and hits[0].used
    assert [h.similarity for h in hits] == sorted((h.similarity for h in hits), reverse=True)
    question = embedder.embed_queries(["好きな季節はいつですか？"])[0]
    fact = embedder.embed_facts([embedder.fact_text(hits[0].fact)])[0]
    exact = float(fact @ question)
    assert hits[0].similarity == pytest.approx(exact, abs=1e-5)
    assert not any(hit.used for hit in index.retrieve("好きな季節は？", k=3, threshold=0.999))


@pytest.mark.parametrize("count", [3, 60, 2000])
def test_chroma_returns_the_true_nearest(place: Paths, count: int) -> None:
    embedder = Vectors(dimension=96)
    index = open_index(place, character(*(f"fact {n}" for n in range(count))), embedder)
    index.build(Silent())
    questions = [f"question {n}" for n in range(60)]
    facts = [f"fact {n}" for n in range(count)]
    exact = embedder.embed_queries(questions) @ embedder.embed_facts(facts).T
    for row, found in zip(exact, index.rank(questions, 5), strict=True):
        best = np.argsort(-row)[:5]
        assert [fact for fact, _ in found] == [facts[i] for i in best]
        assert [s for _, s in found] == pytest.approx(row[best].tolist(), abs=1e-5)


def test_only_changed_facts_are_embedded(place: Paths) -> None:
    embedder = Vectors()
    index = open_index(place, character(*FACTS), embedder)
    assert (index.state().kind, index.state().changed) == ("missing", 4)
    assert not place.indexes.exists(), "looking at the state must make nothing"
    index.build(Silent())
    assert embedder.embedded == list(FACTS)
    assert index.build(Silent())["embedded"] == 0

    embedder.embedded.clear()
    edited = open_index(place, character(*FACTS[1:], "新しい事実。"), embedder)
    assert (edited.state().kind, edited.state().changed) == ("stale", 2)
    result = edited.build(Silent())
    assert embedder.embedded == ["新しい事実。"]
    assert (result["embedded"], result["reused"], result["removed"]) == (1, 3, 1)
    assert edited.state().kind == "ready"
    assert len(edited.retrieve("何か", k=10, threshold=-1)) == 4
    assert len(collections(place)) == 1, "one collection a profile and embedder"

    reordered = open_index(place, character(*FACTS[:0:-1], "新しい事実。"), embedder)
    assert reordered.state().kind == "ready"


def test_deleted_facts_are_never_returned_even_before_a_rebuild(place: Paths) -> None:
    embedder = Vectors()
    open_index(place, character(*FACTS), embedder).build(Silent())
    fewer = open_index(place, character(FACTS[2]), embedder)
    assert [hit.fact for hit in fewer.retrieve("問い", k=1)] == [FACTS[2]]
    none = open_index(place, character(), embedder)
    assert none.retrieve("問い") == []
    none.build(Silent())
    assert none.state().kind == "ready" and collections(place) == []


def test_profiles_and_embedders_do_not_share_an_index(place: Paths) -> None:
    small, large = Vectors(8, "small"), Vectors(16, "large")
    open_index(place, character(*FACTS), small).build(Silent())
    open_index(place, character(*FACTS), large).build(Silent())
    open_index(place, character("x", slug="other"), small).build(Silent())
    assert len(collections(place)) == 3
    assert len(open_index(place, character(*FACTS), large).retrieve("q", k=9)) == 4
    assert len(open_index(place, character("x", slug="other"), small).retrieve("q", k=9)) == 1


def test_another_model_under_the_same_name_is_told_and_embedded_anew(place: Paths) -> None:
    open_index(place, character(*FACTS), Vectors(8)).build(Silent())
    changed = Vectors(16)
    with pytest.raises(UserError, match="another length"):
        open_index(place, character(*FACTS), changed).retrieve("q")
    open_index(place, character(*FACTS, "one more"), changed).build(Silent())
    assert set(changed.embedded) == {*FACTS, "one more"}


def test_no_index_says_how_to_make_one(place: Paths) -> None:
    embedder = Vectors()
    with pytest.raises(UserError, match="python -m charllm index someone") as caught:
        open_index(place, character(*FACTS), embedder).retrieve("q")
    assert "python -m charllm index someone" in caught.value.in_("ja")


def test_a_blank_and_a_very_long_question(place: Paths) -> None:
    index = open_index(place, character(*FACTS), get_embedder(EmbedderConfig()))
    index.build(Silent())
    assert index.retrieve("  \n") == []
    assert len(index.retrieve("あ" * 20_000)) == 3
    assert len(index.retrieve("<script>\0</script>")) == 3


def test_a_cancelled_build_changes_nothing(place: Paths) -> None:
    embedder = Vectors()
    index = open_index(place, character(*FACTS), embedder)
    index.build(Silent())
    before = collections(place)
    larger = open_index(place, character(*(f"f{n}" for n in range(100))), embedder)
    with pytest.raises(Stopped):
        larger.build(Stopping(3))
    assert collections(place) == before
    assert index.state().kind == "ready" and len(index.retrieve("q", k=9)) == 4


def test_a_killed_build_is_taken_up_again(place: Paths) -> None:
    child = f"""
import os, sys
sys.path[:0] = {[str(ROOT), str(Path(__file__).parent)]!r}
from pathlib import Path
from test_retrieval import Vectors, character, Silent, open_index, Paths
class Kill(Silent):
    def progress(self, done, total, message):
        if done >= 64: os._exit(9)
place = Paths(Path({str(place.root)!r}), Path({str(place.workspace)!r}))
open_index(place, character(*(f"f{{n}}" for n in range(100))), Vectors()).build(Kill())
"""
    assert subprocess.run([sys.executable, "-c", child]).returncode == 9
    embedder = Vectors()
    index = open_index(place, character(*(f"f{n}" for n in range(100))), embedder)
    assert index.state().kind == "missing"
    result = index.build(Silent())
    assert (result["embedded"], result["reused"]) == (36, 64)
    assert len(collections(place)) == 1 and index.state().kind == "ready"


def rebuild_in_a_child(place: Paths, *facts: str) -> None:
    child = f"""
import sys
sys.path[:0] = {[str(ROOT), str(Path(__file__).parent)]!r}
from pathlib import Path
from test_retrieval import Vectors, character, Silent, open_index, Paths
place = Paths(Path({str(place.root)!r}), Path({str(place.workspace)!r}))
open_index(place, character(*{facts!r}), Vectors()).build(Silent())
"""
    subprocess.run([sys.executable, "-c", child], check=True)


def test_a_rebuild_in_another_process_is_seen(place: Paths) -> None:
    embedder = Vectors()
    open_index(place, character(*FACTS), embedder).build(Silent())
    assert open_index(place, character(*FACTS), embedder).retrieve("q", k=9)
    facts = (*FACTS[1:], "子プロセスで足した事実。")
    rebuild_in_a_child(place, *facts)
    index = open_index(place, character(*facts), embedder)
    assert index.state().kind == "ready"
    found = index.rank(["子プロセスで足した事実。"], 9)[0]
    assert found[0] == ("子プロセスで足した事実。", pytest.approx(1.0, abs=1e-5))
    assert {fact for fact, _ in found} == set(facts)


def test_threads_retrieve_while_the_index_is_rebuilt(place: Paths) -> None:
    embedder = Vectors()
    open_index(place, character(*FACTS), embedder).build(Silent())
    common, asked = FACTS[1], [0]
    failures: list[object] = []
    done = threading.Event()

    def ask() -> None:
        index = open_index(place, character(common), embedder)
        while not done.is_set():
            try:
                hits = index.retrieve("q", k=3)
            except Exception as error:
                failures.append(error)
                return
            if [hit.fact for hit in hits] != [common]:
                failures.append(hits)
            asked[0] += 1

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for n in range(8):
        open_index(place, character(common, f"fact {n}"), embedder).build(Silent())
    rebuild_in_a_child(place, common, "from a child")
    done.set()
    for thread in threads:
        thread.join()
    assert not failures and asked[0] > 20


def sqlite_file(place: Paths) -> Path:
    return place.indexes / "chroma.sqlite3"


def overwrite(place: Paths) -> None:
    sqlite_file(place).write_bytes(b"this is not a database" * 500)


def scramble_the_middle(place: Paths) -> None:
    data = bytearray(sqlite_file(place).read_bytes())
    data[8192:80_000] = os.urandom(80_000 - 8192)
    sqlite_file(place).write_bytes(bytes(data))


def cut_short(place: Paths) -> None:
    os.truncate(sqlite_file(place), 50_000)


def folder_instead(place: Paths) -> None:
    sqlite_file(place).unlink()
    sqlite_file(place).mkdir()


def file_instead(place: Paths) -> None:
    shutil.rmtree(place.indexes)
    place.indexes.write_bytes(b"x")


@pytest.mark.parametrize(
    "damage", [overwrite, scramble_the_middle, cut_short, folder_instead, file_instead]
)
@pytest.mark.parametrize("opened_before", [True, False])
def test_a_damaged_database_is_explained_moved_aside_and_rebuilt(
    place: Paths, damage: object, opened_before: bool
) -> None:
    embedder = Vectors()
    if opened_before:
        open_index(place, character(*FACTS), embedder).build(Silent())
    else:
        rebuild_in_a_child(place, *FACTS)
    damage(place)  # type: ignore[operator]
    index = open_index(place, character(*FACTS), embedder)
    assert index.state().kind == "corrupt"
    with pytest.raises(UserError, match="No fact is lost: rebuild") as caught:
        index.retrieve("q")
    assert "失われていません" in caught.value.in_("ja")
    result = index.build(Silent())
    assert Path(result["moved_aside"]).exists(), "moved aside, not deleted"
    assert result["embedded"] == 4 and index.state().kind == "ready"
    assert len(index.retrieve("q", k=9)) == 4


def test_missing_graph_files_do_no_harm(place: Paths) -> None:
    rebuild_in_a_child(place, *FACTS)
    for item in place.indexes.iterdir():
        if item.is_dir():
            shutil.rmtree(item)
    index = open_index(place, character(*FACTS), Vectors())
    assert len(index.retrieve("q", k=9)) == 4


def test_a_deleted_database_is_simply_missing(place: Paths) -> None:
    index = open_index(place, character(*FACTS), Vectors())
    index.build(Silent())
    shutil.rmtree(place.indexes)
    assert index.state().kind == "missing"
    index.build(Silent())
    assert index.state().kind == "ready"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission_is_told(place: Paths) -> None:
    place.workspace.mkdir(parents=True)
    place.workspace.chmod(0o500)
    with pytest.raises(UserError, match="permission denied"):
        open_index(place, character(*FACTS), Vectors()).build(Silent())
    place.workspace.chmod(0o700)


def test_folders_of_dropped_collections_are_swept_after_an_hour(place: Paths) -> None:
    index = open_index(place, character(*FACTS), Vectors())
    index.build(Silent())
    left = place.indexes / "97b6e5b0-6fd8-47eb-bdb9-b73b85713db5"
    mine = place.indexes / "my-own-folder"
    for folder in (left, mine):
        folder.mkdir()
        os.utime(folder, (time.time() - 7200,) * 2)
    index.build(Silent())
    assert not left.exists() and mine.exists()
    assert len(index.retrieve("q", k=9)) == 4


def test_the_threshold_is_the_calibrated_one_else_the_built_in(place: Paths) -> None:
    embedder = Vectors()
    path = calibration_path(place, "someone", embedder)
    assert threshold_for(place, "someone", embedder) == 0.5
    write_json(path, {"threshold": 0.123})
    assert threshold_for(place, "someone", embedder) == 0.123
    write_json(path, {"thresh": 1})
    with pytest.raises(UserError, match="Calibrate again"):
        threshold_for(place, "someone", embedder)


def test_the_index_follows_a_saved_profile(paths: Paths) -> None:
    profile = load_profile(paths, "ayane")
    run_index(IndexConfig(profile="ayane"), Silent(), paths.runs, paths)
    save_profile(paths, profile.model_copy(update={"facts": (*profile.facts, "趣味は囲碁。")}))
    result = run_index(IndexConfig(profile="ayane"), Silent(), paths.runs, paths)
    assert result["embedded"] == 1


def test_another_way_to_embed_the_same_facts_makes_the_index_stale(place: Paths) -> None:
    class Framed(Vectors):
        def fact_text(self, fact: str) -> str:
            return f"fact: {fact}"

    open_index(place, character(*FACTS), Vectors()).build(Silent())
    framed = Framed()
    index = open_index(place, character(*FACTS), framed)
    assert index.state().kind == "stale"
    index.build(Silent())
    assert framed.embedded == [f"fact: {fact}" for fact in FACTS]
    assert {hit.fact for hit in index.retrieve("q", k=9)} == set(FACTS), "shown as written"
