"""The tables of the database, and the way from each version to the next.

A script, once released, never changes: a new one is put behind it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from charllm.data.errors import UserError

MIGRATIONS = (
    """
    CREATE TABLE conversations (
        id INTEGER PRIMARY KEY AUTOINCREMENT, profile TEXT NOT NULL, title TEXT NOT NULL,
        variants TEXT NOT NULL, settings TEXT NOT NULL, created REAL NOT NULL, updated REAL NOT NULL
    );
    CREATE TABLE turns (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        conversation INTEGER NOT NULL REFERENCES conversations(id) ON DELETE CASCADE,
        n INTEGER NOT NULL, question TEXT NOT NULL, blind INTEGER NOT NULL,
        hidden INTEGER NOT NULL DEFAULT 0, created REAL NOT NULL
    );
    CREATE INDEX turns_of ON turns(conversation, n);
    CREATE TABLE replies (
        id INTEGER PRIMARY KEY, turn INTEGER NOT NULL REFERENCES turns(id) ON DELETE CASCADE,
        position INTEGER NOT NULL, variant TEXT NOT NULL, text TEXT NOT NULL, prompt TEXT NOT NULL,
        prompt_tokens INTEGER NOT NULL, facts TEXT NOT NULL, tokens INTEGER NOT NULL,
        first_seconds REAL, seconds REAL, stop_reason TEXT NOT NULL, weights TEXT NOT NULL,
        preset TEXT NOT NULL, created REAL NOT NULL
    );
    CREATE INDEX replies_of ON replies(turn, position);
    CREATE TABLE judgements (
        id INTEGER PRIMARY KEY, subject TEXT NOT NULL, rubric TEXT NOT NULL,
        rubric_version TEXT NOT NULL, judge TEXT NOT NULL, prompt_hash TEXT NOT NULL,
        sample INTEGER NOT NULL, score REAL, unscored_reason TEXT NOT NULL, levels TEXT NOT NULL,
        rationale TEXT NOT NULL, flaws TEXT NOT NULL, tokens INTEGER NOT NULL, cost REAL NOT NULL,
        time REAL NOT NULL,
        CHECK ((score IS NULL) = (unscored_reason <> ''))
    );
    CREATE INDEX judgements_of ON judgements(subject);
    CREATE TRIGGER judgements_stay BEFORE UPDATE ON judgements
        BEGIN SELECT RAISE(ABORT, 'a judgement is never overwritten'); END;
    CREATE TABLE votes (
        id INTEGER PRIMARY KEY,
        conversation INTEGER NOT NULL REFERENCES conversations(id) ON DELETE CASCADE,
        turn INTEGER NOT NULL REFERENCES turns(id) ON DELETE CASCADE,
        choice TEXT NOT NULL, shown TEXT NOT NULL, blind INTEGER NOT NULL, voter TEXT NOT NULL,
        created REAL NOT NULL
    );
    CREATE INDEX votes_of ON votes(turn);
    """,
    """
    CREATE TABLE subjects (
        id INTEGER PRIMARY KEY, subject TEXT NOT NULL, profile TEXT NOT NULL,
        question TEXT NOT NULL, reply TEXT NOT NULL, history TEXT NOT NULL, gold TEXT NOT NULL,
        topic TEXT NOT NULL, stop_reason TEXT NOT NULL, source TEXT NOT NULL, item TEXT NOT NULL,
        created REAL NOT NULL, UNIQUE (subject, source, item)
    );
    CREATE INDEX subjects_of ON subjects(profile, source);
    CREATE TABLE judgements_2 (
        id INTEGER PRIMARY KEY, subject TEXT NOT NULL, rubric TEXT NOT NULL,
        rubric_version TEXT NOT NULL, judge TEXT NOT NULL, prompt_hash TEXT NOT NULL,
        sample INTEGER NOT NULL, score REAL, unscored_reason TEXT NOT NULL,
        unscored_ja TEXT NOT NULL, levels TEXT NOT NULL, parts TEXT NOT NULL, gate TEXT NOT NULL,
        rationale TEXT NOT NULL, flaws TEXT NOT NULL, tokens INTEGER NOT NULL,
        tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL, cost REAL, time REAL NOT NULL,
        CHECK ((score IS NULL) = (unscored_reason <> ''))
    );
    INSERT INTO judgements_2
        SELECT id, subject, rubric, rubric_version, judge, prompt_hash, sample, score,
        unscored_reason, '', levels, '{}', '[]', rationale, flaws, tokens, 0, 0, cost, time
        FROM judgements;
    DROP TABLE judgements;
    ALTER TABLE judgements_2 RENAME TO judgements;
    CREATE INDEX judgements_of ON judgements(subject, judge, rubric);
    CREATE INDEX judgements_by ON judgements(judge, rubric);
    CREATE TRIGGER judgements_stay BEFORE UPDATE ON judgements
        BEGIN SELECT RAISE(ABORT, 'a judgement is never overwritten'); END;
    """,
)
"""Each script takes the database from the version of its place to the next."""


def migrate(db: sqlite3.Connection, path: Path) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise UserError(
            f"{path} was written by a newer charllm. Update charllm, or move the file away.",
            f"{path} は新しい版の charllm で作られています。charllm を更新するか、"
            "ファイルを別の場所へ移してください。",
        )
    for script in MIGRATIONS[version:]:
        for statement in _statements(script):
            db.execute(statement)
    db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _statements(script: str) -> Iterator[str]:
    """One statement after another (each ends its line): ``executescript`` would commit."""
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""
