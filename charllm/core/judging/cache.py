"""What judges have answered, kept raw: the same question is never paid for twice.

SQLite at ``workspace/judge-cache.sqlite``. The key is a hash of everything that the answer depends
on, the sample's index included; the value is the answer as it came, so that a better parser needs
no new call. An answer is committed before anybody sees it. No key, header or address with a
password is ever in it.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.data.files import sha256
from charllm.data.wal import use_wal

_TABLE = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, judge TEXT NOT NULL, rubric TEXT NOT NULL, text TEXT NOT NULL,
    finish TEXT NOT NULL, levels TEXT NOT NULL, tokens_in INTEGER NOT NULL,
    tokens_cached INTEGER NOT NULL, tokens_out INTEGER NOT NULL, seconds REAL NOT NULL,
    model TEXT NOT NULL, fingerprint TEXT NOT NULL, created REAL NOT NULL
)
"""


@dataclass(frozen=True)
class Answer:
    """One raw answer. ``levels``: the probability of each level where the server tells it."""

    text: str
    finish: str
    levels: dict[str, float] = field(default_factory=dict)
    tokens_in: int = 0
    tokens_cached: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    model: str = ""
    fingerprint: str = ""


def answer_key(**depends_on: Any) -> str:
    """The hash of everything an answer depends on; equal data give equal keys."""
    text = json.dumps(depends_on, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return sha256(text.encode())


class JudgeCache:
    """May be used from any thread; several processes may share the file."""

    def __init__(self, paths: Paths) -> None:
        self.path: Path = paths.workspace / "judge-cache.sqlite"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(
                self.path, timeout=30.0, isolation_level=None, check_same_thread=False
            )
            use_wal(self._db)
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute(_TABLE)
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{self.path} cannot be used ({error}). Move it away; a new one is made then.",
                f"{self.path} を使えません（{error}）。別の場所へ移すと、新しく作られます。",
            ) from error

    def get(self, key: str) -> Answer | None:
        with self._lock:
            row = self._db.execute(
                "SELECT text, finish, levels, tokens_in, tokens_cached, tokens_out, seconds, "
                "model, fingerprint FROM answers WHERE key = ?",
                (key,),
            ).fetchone()
        return Answer(row[0], row[1], json.loads(row[2]), *row[3:]) if row else None

    def typical(self, judge: str, rubric: str) -> tuple[float, float] | None:
        """Seconds and answer tokens of the last answers, None where there were none yet."""
        with self._lock:
            seconds, tokens = self._db.execute(
                "SELECT avg(seconds), avg(tokens_out) FROM (SELECT seconds, tokens_out FROM answers"
                " WHERE judge = ? AND rubric = ? ORDER BY rowid DESC LIMIT 200)",
                (judge, rubric),
            ).fetchone()
        return None if seconds is None else (seconds, tokens)

    def put(self, key: str, judge: str, rubric: str, answer: Answer) -> None:
        """Keep ``answer``; of two answers to one question the first stays."""
        values = (
            key,
            judge,
            rubric,
            answer.text,
            answer.finish,
            json.dumps(answer.levels),
            answer.tokens_in,
            answer.tokens_cached,
            answer.tokens_out,
            answer.seconds,
            answer.model,
            answer.fingerprint,
            time.time(),
        )
        marks = ", ".join("?" * len(values))
        with self._lock:
            self._db.execute(f"INSERT OR IGNORE INTO answers VALUES ({marks})", values)

    def close(self) -> None:
        with self._lock:
            self._db.close()
