"""Checks of a dataset before training: repeats, leaks, language, lengths, leftovers.

One call looks at all rows and gives a report; nothing is changed. ``preparing`` has the steps that
mend what is found here.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from charllm.data.checking_rows import CODES, RowRules
from charllm.data.dialogue import Dialogue
from charllm.data.errors import Text, UserError, current_language
from charllm.data.files import read_text
from charllm.data.overlaps import overlapping
from charllm.data.profile import Profile
from charllm.data.text import NEAR_DUPLICATE, normal_form, script_shares

PARTNERS = 20
"""A row is paired with at most so many rows or queries; that is enough to see what it repeats."""
BINS = 24
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

Pair = tuple[str, str, float]


class Finding(NamedTuple):
    """Something about one row. ``code`` is one of ``CODES``; ``other`` the row or query meant."""

    id: str
    code: str
    text: Text
    other: str = ""

    def as_json(self) -> dict[str, Any]:
        return {**self._asdict(), "text": self.text.as_json()}


@dataclass(frozen=True)
class Lengths:
    """Reply lengths in characters. ``counts[i]`` replies have from ``edges[i]`` to under the next.

    The last bin holds the next edge too. ``quantiles`` by their share in (0, 1).
    """

    edges: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    shortest: int = 0
    longest: int = 0
    mean: float = 0.0
    quantiles: tuple[tuple[float, int], ...] = ()

    def as_json(self) -> dict[str, Any]:
        quantiles = {f"{share:g}": value for share, value in self.quantiles}
        return {**self.__dict__, "mean": round(self.mean, 1), "quantiles": quantiles}


@dataclass(frozen=True)
class Report:
    """All findings. Pairs are ``(id, other id, overlap in [0, 1])``; a leak's other is a query.

    ``by_topic`` counts rows by ``meta.topic``, "" for rows without one.
    """

    rows: int
    findings: tuple[Finding, ...]
    duplicates: tuple[Pair, ...]
    leaks: tuple[Pair, ...]
    lengths: Lengths
    by_topic: dict[str, int]
    rejected: tuple[tuple[int, Text], ...] = ()
    """``(line, reason)`` of each line of the file that is no dialogue."""

    @property
    def counts(self) -> dict[str, int]:
        """How many rows have each kind of finding, in the order of ``CODES``."""
        rows: dict[str, set[str]] = defaultdict(set)
        for finding in self.findings:
            rows[finding.code].add(finding.id)
        return {code: len(rows[code]) for code in CODES if code in rows}

    @property
    def by_row(self) -> dict[str, list[Finding]]:
        found: dict[str, list[Finding]] = defaultdict(list)
        for finding in self.findings:
            found[finding.id].append(finding)
        return dict(found)

    @property
    def troubled(self) -> int:
        """How many rows have a serious finding."""
        return len({finding.id for finding in self.findings if CODES[finding.code].serious})

    def as_json(self) -> dict[str, Any]:
        """What ``data check`` prints; the reasons of rejected lines in the current language."""
        language = current_language()
        return {
            "format": "charllm",
            "rows": self.rows,
            "rejected": [
                {"line": line, "reason": reason.in_(language)} for line, reason in self.rejected
            ],
            "duplicates": len(self.duplicates),
            "leaks": len(self.leaks),
            "duplicate_pairs": [
                {"ids": [a, b], "overlap": round(share, 3)} for a, b, share in self.duplicates
            ],
            "leak_pairs": [
                {"id": id, "query": query, "overlap": round(share, 3)}
                for id, query, share in self.leaks
            ],
            "counts": self.counts,
            "findings": [finding.as_json() for finding in self.findings],
            "lengths": self.lengths.as_json(),
            "topics": self.by_topic,
        }


def check(
    dialogues: Sequence[Dialogue],
    queries: Sequence[tuple[str, str]] = (),
    profile: Profile | None = None,
) -> Report:
    """Check all rows against each other, against ``queries`` (id, text) and the profile.

    Without a profile nothing is said about length and first person, and the language that is
    expected is the one most replies are in. 20,000 short rows take some seconds.
    """
    rules = RowRules(profile, _main_language(dialogues))
    duplicates = _duplicates(dialogues)
    leaks = _leaks(dialogues, queries)
    findings = [
        *_repeats(dialogues, duplicates),
        *_same_replies(dialogues),
        *_leak_findings(leaks, dict(queries)),
        *(Finding(row.id, *found) for row in dialogues for found in rules.check(row)),
    ]
    place = {row.id: number for number, row in enumerate(dialogues)}
    order = {code: number for number, code in enumerate(CODES)}
    findings.sort(key=lambda finding: (place[finding.id], order[finding.code]))
    return Report(
        rows=len(dialogues),
        findings=tuple(findings),
        duplicates=tuple(duplicates),
        leaks=tuple(leaks),
        lengths=_lengths([len(row.reply.strip()) for row in dialogues]),
        by_topic=_topics(dialogues),
    )


def check_file(
    path: Path, queries: Sequence[tuple[str, str]] = (), profile: Profile | None = None
) -> Report:
    """``check`` of a JSONL file, where lines that are no dialogue are told and left out.

    ``UserError`` where there is no such file, or where it is not UTF-8.
    """
    good: dict[str, Dialogue] = {}
    rejected = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            try:
                dialogue = _dialogue(line, good)
            except UserError as error:
                rejected.append((number, error.text))
            else:
                good[dialogue.id] = dialogue
    return replace(check(list(good.values()), queries, profile), rejected=tuple(rejected))


def _dialogue(line: str, earlier: Container[str]) -> Dialogue:
    try:
        data = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(
            f"not JSON: {error.msg}", f"JSON として読めません（{error.msg}）"
        ) from error
    except RecursionError:
        raise UserError("nested too deeply", "入れ子が深すぎます") from None
    dialogue = Dialogue.from_data(data, "the row")
    if dialogue.id in earlier:
        raise UserError(f"id {dialogue.id!r} stands twice", f"id「{dialogue.id}」が重複しています")
    return dialogue


def _main_language(dialogues: Sequence[Dialogue]) -> str:
    shares = script_shares("".join(row.reply for row in dialogues))
    return "ja" if shares["ja"] >= shares["en"] else "en"


def _duplicates(dialogues: Sequence[Dialogue]) -> list[Pair]:
    spoken = [f"{row.question}\n{row.reply}" for row in dialogues]
    ids = [row.id for row in dialogues]
    return [(ids[i], ids[j], share) for i, j, share in overlapping(spoken, most=PARTNERS)]


def _leaks(dialogues: Sequence[Dialogue], queries: Sequence[tuple[str, str]]) -> list[Pair]:
    """The nearest first; every question of a talk counts, each row and query once."""
    asked = [(row.id, m.content) for row in dialogues for m in row.messages if m.role == "user"]
    texts = [text for _, text in queries]
    pairs = overlapping([text for _, text in asked], texts, NEAR_DUPLICATE, PARTNERS)
    best: dict[tuple[str, str], float] = {}
    for i, j, share in pairs:
        key = (asked[i][0], queries[j][0])
        best[key] = max(share, best.get(key, 0.0))
    return [(id, query, share) for (id, query), share in best.items()]


def _repeats(dialogues: Sequence[Dialogue], pairs: list[Pair]) -> Iterator[Finding]:
    """One finding for each row that repeats an earlier one, naming the nearest of those."""
    form = {row.id: (normal_form(row.question), normal_form(row.reply)) for row in dialogues}
    nearest: dict[str, tuple[str, float]] = {}
    for first, second, share in pairs:
        if share > nearest.get(second, ("", 0.0))[1]:
            nearest[second] = first, share
    for id, (other, share) in nearest.items():
        if form[id] == form[other]:
            yield Finding(
                id, "duplicate", Text(f"the same as {other}", f"{other} と同じです"), other
            )
        else:
            near = Text(
                f"{share:.0%} the same as {other}", f"{other} と {share:.0%} 重なっています"
            )
            yield Finding(id, "near-duplicate", near, other)


def _same_replies(dialogues: Sequence[Dialogue]) -> Iterator[Finding]:
    first: dict[str, Dialogue] = {}
    for row in dialogues:
        reply = normal_form(row.reply)
        other = first.setdefault(reply, row)
        if reply and normal_form(other.question) != normal_form(row.question):
            said = Text(f"{other.id} replies the same", f"{other.id} の返答と同じです")
            yield Finding(row.id, "same-reply", said, other.id)


def _leak_findings(leaks: list[Pair], texts: dict[str, str]) -> Iterator[Finding]:
    nearest: dict[str, tuple[str, float]] = {}
    for id, query, share in leaks:
        if share > nearest.get(id, ("", 0.0))[1]:
            nearest[id] = query, share
    for id, (query, share) in nearest.items():
        asks = Text(
            f"asks {share:.0%} the same as query {query}: {texts[query]}",
            f"評価用の質問 {query} と {share:.0%} 重なっています: {texts[query]}",
        )
        yield Finding(id, "leak", asks, query)


def _lengths(sizes: list[int]) -> Lengths:
    """At most ``BINS`` bins of equal width; the last takes all that is over the 99th percentile."""
    if not sizes:
        return Lengths()
    ordered = sorted(sizes)
    width = _width(_quantile(ordered, 0.99))
    counts = Counter(min(size // width, BINS - 1) for size in sizes)
    last = max(counts)
    edges = [*(width * number for number in range(last + 1)), max(width * (last + 1), ordered[-1])]
    return Lengths(
        edges=tuple(edges),
        counts=tuple(counts[number] for number in range(last + 1)),
        shortest=ordered[0],
        longest=ordered[-1],
        mean=sum(sizes) / len(sizes),
        quantiles=tuple((share, _quantile(ordered, share)) for share in QUANTILES),
    )


def _quantile(ordered: list[int], share: float) -> int:
    """The smallest length that at least ``share`` of the replies do not exceed."""
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def _width(most: int) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50 … of which ``BINS`` cover ``most``."""
    width = 1
    while width * BINS <= most:
        width = width * 5 // 2 if str(width).startswith("2") else width * 2
    return width


def _topics(dialogues: Sequence[Dialogue]) -> dict[str, int]:
    topics = (row.meta.get("topic") for row in dialogues)
    return dict(Counter(t if isinstance(t, str) else "" for t in topics).most_common())
