"""The one place that opens Chroma: its database in a folder, safely from threads and processes.

Chroma allows one client for a folder in a process, keeps what it has read of a collection even
when another process changes it, and leaves files behind; this module copes with that. It does
not know what the collections hold or what their names mean.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charllm.data.errors import UserError
from charllm.data.progress import Reporter

if TYPE_CHECKING:
    import numpy as np
    from chromadb.api import ClientAPI
    from chromadb.api.models.Collection import Collection

HNSW: dict[str, Any] = {"space": "cosine", "ef_search": 4000, "sync_threshold": 10_000}
"""A search this wide visits every fact of a profile (2,000 at most), so it is exact; with the
defaults 1 to 2 in 100 of the nearest were missed. Below ``sync_threshold`` vectors, the graph is
made from SQLite when it is first asked: there is one file to be whole, not six."""

OPENING_ATTEMPTS = 4
"""With pauses of .1, .2 and .4 seconds between them."""

_LOCK = threading.RLock()
"""Around every use of Chroma: a client must not be closed while another thread asks it. Queries
take about a millisecond; texts are embedded outside of it."""
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_clients: dict[Path, tuple[tuple[int, int], ClientAPI]] = {}


class Gone(Exception):
    """A collection was dropped, by another process or thread, before it could be used."""


class Corrupt(UserError):
    """The database is damaged; its facts are safe in the profile."""

    def __init__(self, why: str) -> None:
        super().__init__(
            "The fact index on disk is damaged. No fact is lost: rebuild the index on the "
            f"Character tab or with `python -m charllm index`. ({why})",
            "事実の索引ファイルが壊れています。事実そのものは失われていません。キャラクター画面"
            f"か `python -m charllm index` で索引を作り直してください。（{why}）",
        )


class Database:
    """What is done with an open database; without a client it is an empty one."""

    def __init__(self, client: ClientAPI | None) -> None:
        self._client = client

    def names(self, base: str) -> list[str]:
        """Names of the collections ``base.<time>``, oldest first."""
        if self._client is None:
            return []
        found = (collection.name for collection in self._client.list_collections())
        return sorted(name for name in found if name.rpartition(".")[0] == base)

    def ids(self, name: str) -> set[str]:
        return set(self._get(name).get(include=[])["ids"])

    def vectors(self, name: str) -> dict[str, np.ndarray]:
        """Every id with its vector, float32 [d]."""
        import numpy as np

        stored = self._get(name).get(include=["embeddings"])
        vectors = np.asarray(stored["embeddings"], dtype=np.float32)
        return dict(zip(stored["ids"], vectors, strict=True))

    def dimension(self, name: str) -> int:
        return int((self._get(name).metadata or {}).get("dimension", 0))

    def nearest(self, name: str, vectors: np.ndarray, n: int) -> list[list[tuple[str, float]]]:
        """For each row of ``vectors`` exactly ``n`` ids with cosine similarity, best first."""
        answer = self._get(name).query(query_embeddings=vectors, n_results=n, include=["distances"])
        if any(len(found) != n for found in answer["ids"]):
            raise Corrupt("the index returns fewer facts than it holds")
        return [
            [(i, max(-1.0, min(1.0, 1.0 - distance))) for i, distance in zip(*row, strict=True)]
            for row in zip(answer["ids"], answer["distances"] or [], strict=True)
        ]

    def create(self, name: str, metadata: dict[str, Any]) -> None:
        """An empty collection; ``metadata`` names the ``dimension`` of its vectors."""
        assert self._client
        self._client.create_collection(
            name,
            configuration={"hnsw": HNSW},  # type: ignore[arg-type]
            embedding_function=None,
            metadata=metadata,
        )

    def add(
        self,
        name: str,
        vectors: Mapping[str, np.ndarray],
        documents: list[str],
        metadatas: list[dict[str, Any]],
    ) -> None:
        self._get(name).add(
            ids=list(vectors),
            embeddings=list(vectors.values()),
            documents=documents,
            metadatas=metadatas,  # type: ignore[arg-type]
        )

    def rename(self, name: str, new: str) -> None:
        self._get(name).modify(name=new)

    def drop(self, name: str) -> None:
        """Drop a collection; nothing happens where it is gone already."""
        from chromadb.errors import NotFoundError

        if self._client:
            with contextlib.suppress(NotFoundError):
                self._client.delete_collection(name)

    def _get(self, name: str) -> Collection:
        assert self._client
        return self._client.get_collection(name, embedding_function=None)


@contextlib.contextmanager
def database(folder: Path, *, create: bool = False) -> Iterator[Database]:
    """The database in ``folder`` by this process's one client; not to be kept beyond the block.

    Without ``create``, a missing one reads as empty and is not made. ``Corrupt`` where it is
    damaged, ``Gone`` where a collection is, ``UserError`` where it is busy, the disk full or
    permission missing.
    """
    from chromadb.errors import InternalError, NotFoundError

    with _LOCK:
        try:
            yield Database(_client(folder, create=create))
        except NotFoundError as error:
            raise Gone from error
        except InternalError as error:
            _forget_clients()
            raise _explained(str(error), folder) from error


def _client(folder: Path, *, create: bool) -> ClientAPI | None:
    """The cached client, or a new one when the database file is another than at its opening."""
    file = folder / "chroma.sqlite3"
    if (folder.exists() and not folder.is_dir()) or (file.exists() and not file.is_file()):
        raise Corrupt(f"{folder.name}: not a database")
    stamp = _stamp(file)
    if folder in _clients:
        if _clients[folder][0] == stamp:
            return _clients[folder][1]
        _forget_clients()
    if stamp is None and not create:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except PermissionError as error:
        raise _no_permission(folder) from error
    client = _open(folder)
    stamp = _stamp(file)
    assert stamp
    _clients[folder] = (stamp, client)
    return client


def _open(folder: Path) -> ClientAPI:
    import chromadb
    from chromadb.config import Settings
    from chromadb.errors import InternalError

    for attempt in range(OPENING_ATTEMPTS):
        try:
            return chromadb.PersistentClient(folder, settings=Settings(anonymized_telemetry=False))
        except (InternalError, ValueError) as error:
            # ValueError is Chroma's word for a database without its own first rows. Two processes
            # that make a new database at the same time fail like that as well, but not for long.
            _forget_clients()
            if attempt + 1 == OPENING_ATTEMPTS:
                raise _explained(str(error), folder) from error
            time.sleep(0.1 * 2**attempt)
    raise AssertionError("unreachable")


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _forget_clients() -> None:
    """Close all clients; also what Chroma itself keeps of a database it could not open."""
    from chromadb.api.shared_system_client import SharedSystemClient

    for _, client in _clients.values():
        client.close()  # type: ignore[attr-defined]
    _clients.clear()
    SharedSystemClient.clear_system_cache()


def _explained(why: str, folder: Path) -> UserError:
    """What an internal error of Chroma means; the numbers are SQLite's result codes."""
    if "code: 5)" in why or "locked" in why:
        return UserError(
            "The fact index is being written by another program. Try again in a moment.",
            "事実の索引がほかのプログラムから書き込まれています。少し待って再試行してください。",
        )
    if "code: 13)" in why or "os error 28" in why:
        return UserError(
            f"The disk with {folder} is full. Make room and build the index again.",
            f"{folder} のあるディスクがいっぱいです。空きを作り、索引を作り直してください。",
        )
    if "code: 8)" in why or not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return _no_permission(folder)
    return Corrupt(why.removeprefix("Error executing plan: ")[:200])


def _no_permission(folder: Path) -> UserError:
    return UserError(
        f"{folder} cannot be written: permission denied. Allow writing there, or set CHARLLM_HOME "
        "to a folder of yours.",
        f"{folder} に書き込む権限がありません。権限を変えるか、CHARLLM_HOME で自分のフォルダーを"
        "指定してください。",
    )


def move_aside(folder: Path, reporter: Reporter, why: str) -> str:
    """Rename the damaged database; the new path. Other profiles' indexes in it are built anew."""
    target = folder.with_name(f"{folder.name}-damaged-{time.strftime('%Y%m%d-%H%M%S')}")
    with _LOCK:
        _forget_clients()
        number = 0
        while target.exists():
            number += 1
            target = target.with_name(f"{target.name}-{number}")
        try:
            os.replace(folder, target)
        except PermissionError as error:  # Windows: another process has it open
            raise UserError(
                f"The damaged index {folder} is in use. Close other charllm programs and rebuild.",
                f"壊れた索引 {folder} が使用中です。ほかの charllm を終了してから作り直して"
                "ください。",
            ) from error
    reporter.log(f"damaged index moved to {target}: {why}")
    return str(target)


def sweep(folder: Path) -> None:
    """Delete what Chroma leaves of dropped collections: a folder each, 200 kB and more."""
    file = folder / "chroma.sqlite3"
    if not file.is_file():
        return
    with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as connection:
        try:
            used = {row[0] for row in connection.execute("SELECT id FROM segments")}
        except sqlite3.Error:  # another layout or busy: then the folders just stay
            return
    for item in folder.iterdir():
        left = time.time() - item.stat().st_mtime > 3600  # younger ones may be in the making
        if left and item.is_dir() and item.name not in used and _UUID.fullmatch(item.name):
            shutil.rmtree(item, ignore_errors=True)
