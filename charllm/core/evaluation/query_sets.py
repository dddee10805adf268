"""Whether a query set can be evaluated with: every fault with its line, before anything runs.

Errors: broken lines, an id or a question that stands twice, a split that is needed and empty, a
gold fact that the profile does not have. Remarks: near-duplicates in two splits, which let a search
see what it will be reported on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from charllm.data.errors import Text, UserError
from charllm.data.files import json_lines
from charllm.data.profile import Profile
from charllm.data.queries import Query, Split
from charllm.data.text import near_duplicates, normal_form

NAMED = 5
"""Faults that a message names; the others are counted."""
LEAKS = 0.8
"""Overlap of character trigrams from which two questions of two splits are remarked on."""


class Remark(NamedTuple):
    line: int
    text: Text


@dataclass(frozen=True)
class QuerySet:
    """A set without faults. ``remarks`` do not stop an evaluation, but a reader should know."""

    queries: tuple[Query, ...]
    remarks: tuple[Remark, ...]

    def split(self, split: Split) -> tuple[Query, ...]:
        return tuple(query for query in self.queries if query.split == split)


def read_query_set(path: Path, profile: Profile, needed: Collection[Split] = ()) -> QuerySet:
    """The set; one ``UserError`` names the file and the lines of all faults.

    ``needed``: the splits that the run at hand will use.
    """
    rows = [(n, Query.from_data(row, f"{path}, line {n}")) for n, row in json_lines(path)]
    faults = [*_twice(rows), *_unknown_gold(rows, profile)]
    faults.sort(key=lambda fault: fault.line)
    faults += _missing([query for _, query in rows], needed)
    if faults:
        raise _refusal(path, faults)
    return QuerySet(tuple(query for _, query in rows), tuple(_leaks(rows)))


def _twice(rows: Sequence[tuple[int, Query]]) -> Iterator[Remark]:
    ids: dict[str, int] = {}
    texts: dict[str, int] = {}
    for line, query in rows:
        text = normal_form(query.text) or query.text
        if query.id in ids:
            yield Remark(
                line,
                Text(
                    f"id {query.id!r} is line {ids[query.id]}'s already",
                    f"id「{query.id}」は {ids[query.id]} 行目と重複しています",
                ),
            )
        elif text in texts:
            yield Remark(
                line,
                Text(
                    f"the same question as in line {texts[text]} ({query.text})",
                    f"{texts[text]} 行目と同じ質問です（{query.text}）",
                ),
            )
        ids.setdefault(query.id, line)
        texts.setdefault(text, line)


def _unknown_gold(rows: Sequence[tuple[int, Query]], profile: Profile) -> Iterator[Remark]:
    facts = set(profile.facts)
    for line, query in rows:
        for fact in query.gold:
            if fact in facts:
                continue
            near = get_close_matches(fact, profile.facts, 1)
            yield Remark(
                line,
                Text(
                    f"{profile.name} has no fact {fact!r}"
                    + (f" (did you mean {near[0]!r}?)" if near else ""),
                    f"「{fact}」は {profile.name} の事実にありません"
                    + (f"（「{near[0]}」のことですか）" if near else ""),
                ),
            )


def _missing(queries: Sequence[Query], needed: Collection[Split]) -> Iterator[Remark]:
    if not queries:
        yield Remark(0, Text("there is no query in it", "クエリが一つもありません"))
        return
    there = {query.split for query in queries}
    for split in needed:
        if split not in there:
            yield Remark(
                0,
                Text(
                    f'no query has the split "{split}"; give some lines "split": "{split}"',
                    f"split が「{split}」のクエリがありません。該当する行に指定してください",
                ),
            )


def _leaks(rows: Sequence[tuple[int, Query]]) -> Iterator[Remark]:
    for i, j, overlap in near_duplicates([query.text for _, query in rows], threshold=LEAKS):
        (line, one), (other_line, other) = rows[i], rows[j]
        if one.split != other.split:
            yield Remark(
                other_line,
                Text(
                    f"nearly the question of line {line} ({overlap:.0%} alike), in another split",
                    f"{line} 行目とほぼ同じ質問（{overlap:.0%}）が別の split にあります",
                ),
            )


def _refusal(path: Path, faults: Sequence[Remark]) -> UserError:
    shown, more = faults[:NAMED], len(faults) - NAMED
    en = "; ".join(f"line {f.line}: {f.text.en}" if f.line else f.text.en for f in shown)
    ja = "、".join(f"{f.line} 行目: {f.text.ja}" if f.line else f.text.ja for f in shown)
    return UserError(
        f"{path} cannot be used: {en}" + (f"; and {more} more." if more > 0 else "."),
        f"{path} は使えません。{ja}" + (f"、ほか {more} 件。" if more > 0 else "。"),
    )
