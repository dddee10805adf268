"""Judgements in the store, and what they are about: appended, never changed.

The same verdict of the same judge is kept once, however often it is brought. Of several rows of
one judge about the same thing the latest counts. It does not know how judges work.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from charllm.services.database import Database
from charllm.services.store_rows import PERSON, TABLES, Judgement, Subject, columns

_SAME = (
    "subject",
    "judge",
    "rubric",
    "rubric_version",
    "prompt_hash",
    "sample",
    "score",
    "unscored_reason",
)
"""Two judgements with these in common are the same one, brought twice."""

_OF = "FROM subjects WHERE profile = ? AND (? IS NULL OR source = ?)"


class JudgeCount(NamedTuple):
    """How many subjects one judge has seen by one version of a rubric.

    ``n`` counts them all, ``unscored`` those of them that have no score.
    """

    judge: str
    rubric: str
    rubric_version: str
    n: int
    unscored: int


class Judgements(Database):
    """What was judged, and every verdict on it."""

    def add_judgement(self, judgement: Judgement) -> Judgement:
        """Append; whatever was there of the same judge stays and counts as history."""
        _check(judgement)
        return self._insert(replace(judgement, time=judgement.time or time.time()))

    def add_judgements(self, rows: Sequence[Judgement]) -> int:
        """Append those that are not there yet, all or none; how many were new."""
        for row in rows:
            _check(row)
        return self._add_new([replace(row, time=row.time or time.time()) for row in rows], _SAME)

    def add_subjects(self, rows: Sequence[Subject]) -> int:
        """Append those that are not there yet, all or none; how many were new."""
        same = ("subject", "source", "item")
        return self._add_new(
            [replace(row, created=row.created or time.time()) for row in rows], same
        )

    def judgements(
        self, subject: str, *, judge: str | None = None, rubric: str | None = None
    ) -> list[Judgement]:
        """All of one subject, the oldest first."""
        return self._select(
            Judgement,
            "WHERE subject = ? AND (? IS NULL OR judge = ?) AND (? IS NULL OR rubric = ?) "
            "ORDER BY id",
            (subject, judge, judge, rubric, rubric),
        )

    def hand_scores(self, rubric: str | None = None) -> list[Judgement]:
        """Every judgement by a person that ever was, the oldest first."""
        return self._select(
            Judgement,
            "WHERE judge LIKE ? AND (? IS NULL OR rubric = ?) ORDER BY id",
            (f"{PERSON}%", rubric, rubric),
        )

    def current_hand_scores(self, profile: str, rubric: str | None = None) -> list[Judgement]:
        """Each person's latest score of each of the profile's subjects, by each rubric.

        A score that was withdrawn is not among them. The oldest first.
        """
        rows = self._select(
            Judgement,
            "WHERE judge LIKE ? AND (? IS NULL OR rubric = ?) "
            "AND subject IN (SELECT subject FROM subjects WHERE profile = ?) ORDER BY id",
            (f"{PERSON}%", rubric, rubric, profile),
        )
        latest = {(row.subject, row.judge, row.rubric): row for row in rows}
        return sorted(
            (row for row in latest.values() if row.score is not None), key=lambda row: row.id
        )

    def subjects(self, profile: str, source: str | None = None) -> list[Subject]:
        """In the order they came; of one source, or all."""
        where = _OF.removeprefix("FROM subjects ")
        return self._select(Subject, f"{where} ORDER BY id", (profile, source, source))

    def judged(
        self, profile: str, source: str | None = None
    ) -> list[tuple[Subject, list[Judgement]]]:
        """Every subject with all its judgements, also those of none; the oldest first."""
        rows = self._select(
            Judgement,
            f"WHERE subject IN (SELECT subject {_OF}) ORDER BY id",
            (profile, source, source),
        )
        of: dict[str, list[Judgement]] = defaultdict(list)
        for row in rows:
            of[row.subject].append(row)
        return [(s, list(of.get(s.subject, ()))) for s in self.subjects(profile, source)]

    def sources(self, profile: str) -> list[str]:
        """Where the profile's subjects come from, the latest first."""
        found = self._connection().execute(
            "SELECT source FROM subjects WHERE profile = ? GROUP BY source ORDER BY MAX(id) DESC",
            (profile,),
        )
        return [source for (source,) in found]

    def judges(self, profile: str, source: str | None = None) -> list[JudgeCount]:
        """Who has judged the profile's subjects by which rubric; people too, by name.

        Of a judge's several rows on one subject and sample the latest counts; a hand score that
        was withdrawn is as if it had never been given.
        """
        rows = self._connection().execute(
            "SELECT judge, rubric, rubric_version, COUNT(*), SUM(scores = 0) FROM ("
            "  SELECT judge, rubric, rubric_version, COUNT(score) AS scores FROM judgements"
            "  WHERE id IN (SELECT MAX(id) FROM judgements"
            f"    WHERE subject IN (SELECT subject {_OF})"
            "    GROUP BY subject, judge, rubric, rubric_version, sample)"
            "  GROUP BY subject, judge, rubric, rubric_version"
            "  HAVING scores > 0 OR judge NOT LIKE ?"
            ") GROUP BY judge, rubric, rubric_version ORDER BY judge, rubric, rubric_version",
            (profile, source, source, f"{PERSON}%"),
        )
        return [JudgeCount(*row) for row in rows]

    def _add_new(self, rows: Sequence[Any], same: Sequence[str]) -> int:
        """Insert the rows of which none with the same values in ``same`` is there yet."""
        if not rows:
            return 0
        table = TABLES[type(rows[0])]
        names, _ = columns(rows[0])
        marks = ", ".join("?" * len(names))
        alike = " AND ".join(f"{name} IS ?" for name in same)
        place = [names.index(name) for name in same]
        filled = (values for _, values in map(columns, rows))
        with self._write() as db:
            before = db.total_changes
            db.executemany(
                f"INSERT INTO {table} ({', '.join(names)}) SELECT {marks} "
                f"WHERE NOT EXISTS (SELECT 1 FROM {table} WHERE {alike})",
                ([*values, *(values[i] for i in place)] for values in filled),
            )
            return db.total_changes - before


def _check(judgement: Judgement) -> None:
    if (judgement.score is None) == (judgement.unscored_reason == ""):
        raise ValueError(f"either a score or a reason why there is none: {judgement}")
