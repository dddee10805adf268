"""The three sets of queries of a search: tuned on one, chosen on the second, reported on the third.

Whatever is both tuned and reported on the same questions reports its own luck; so a query, or the
same words under another id, may stand in one split only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

from charllm.data.errors import Text, UserError
from charllm.data.files import sha256
from charllm.data.queries import Query, Split
from charllm.data.text import normal_form

SPLITS: tuple[Split, ...] = get_args(Split)
LEAST = 10
"""Fewer queries than this in a split give intervals that nothing can be read from."""
NAMES = {
    "search": Text("search", "探索用"),
    "selection": Text("selection", "選択用"),
    "report": Text("report", "報告用"),
}


@dataclass(frozen=True)
class Splits:
    """Query ids by split; ``UserError`` where one is too small or two have a query in common."""

    search: tuple[str, ...]
    selection: tuple[str, ...]
    report: tuple[str, ...]

    def __post_init__(self) -> None:
        for split in SPLITS:
            _check_size(split, self.of(split))
        for i, first in enumerate(SPLITS):
            for second in SPLITS[i + 1 :]:
                both = sorted({*self.of(first)} & {*self.of(second)})
                if both:
                    raise _overlap(first, second, both[0])

    def of(self, split: Split) -> tuple[str, ...]:
        found: tuple[str, ...] = getattr(self, split)
        return found

    @property
    def digest(self) -> str:
        """The same for the same ids in the same splits and order."""
        return sha256(repr([self.search, self.selection, self.report]).encode())[:16]


def split_queries(queries: Sequence[Query]) -> Splits:
    """The splits as the queries name them; also the same words under two ids are refused."""
    where: dict[str, Query] = {}
    for query in queries:
        known = where.setdefault(normal_form(query.text), query)
        if known.split != query.split:
            raise _overlap(known.split, query.split, query.text)
    return Splits(*(_ids(queries, split) for split in SPLITS))


def _ids(queries: Iterable[Query], split: Split) -> tuple[str, ...]:
    return tuple(query.id for query in queries if query.split == split)


def _check_size(split: Split, ids: Sequence[str]) -> None:
    name = NAMES[split]
    if len(set(ids)) != len(ids):
        raise UserError(
            f"A query stands twice in the {name.en} split.",
            f"{name.ja}（{split}）の質問に同じ id が2回あります。",
        )
    if len(ids) < LEAST:
        raise UserError(
            f"The {name.en} split has {len(ids)} queries; a search needs at least {LEAST} in each "
            'of its three splits. Write "split" into the rows of the query file.',
            f"{name.ja}（{split}）の質問が {len(ids)} 件です。探索には3つの分割それぞれに "
            f'{LEAST} 件以上必要です。質問ファイルの各行に "split" を書いてください。',
        )


def _overlap(first: Split, second: Split, what: str) -> UserError:
    return UserError(
        f"{what!r} stands in the {NAMES[first].en} and the {NAMES[second].en} split; "
        "keep it in one of them.",
        f"「{what}」が{NAMES[first].ja}（{first}）と{NAMES[second].ja}（{second}）の両方に"
        "あります。どちらか一方だけに残してください。",
    )
