"""Matches: which of two models' replies to one query is better, by whom, and what they favour.

They come from a judge (``pairwise``), from blind votes, from single scores, and from files
(``verdict_files``). A match without a verdict is unscored, with the reason. What follows from many
matches is ``bradley_terry``'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

from charllm.core.statistics import Interval, mean_interval, share_interval
from charllm.data.errors import Text

TIE = "tie"
ALL_BAD = "all-bad"
NOT_NAMES = frozenset({TIE, ALL_BAD, ""})
"""Words that a verdict uses for "neither": no model can be called so."""


@dataclass(frozen=True)
class Match:
    """One verdict. ``winner`` is ``a``, ``b`` or ``TIE``; "" with the reason in ``unscored``.

    ``cluster`` is what hangs together ("" = the query). ``looks`` is what was said with ``a`` shown
    first and, where both orders were asked, with ``b`` first: a name, ``TIE``, or "" for nothing.
    ``source`` says who: a judge's id, "vote", a reviewer. ``cost`` is in US dollars, None where no
    price is known. ``meta`` keeps what a file said beyond this.
    """

    query: str
    a: str
    b: str
    winner: str
    unscored: Text | None = None
    cluster: str = ""
    reply_a: str | None = None
    reply_b: str | None = None
    source: str = ""
    rubric: str = ""
    version: str = ""
    looks: tuple[str, ...] = ()
    rationale: str = ""
    gate_a: tuple[str, ...] = ()
    gate_b: tuple[str, ...] = ()
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float | None = 0.0
    cached: bool = False
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.a == self.b or {self.a, self.b} & NOT_NAMES:
            raise ValueError(f"{self.a!r} against {self.b!r} is no match")
        if self.winner not in (self.a, self.b, TIE, ""):
            raise ValueError(f"{self.winner!r} did not take part: {self.a!r}, {self.b!r}")
        if (self.winner == "") == (self.unscored is None):
            raise ValueError(f"either a winner or a reason why there is none: {self}")

    @property
    def score(self) -> float | None:
        """Of ``a``: 1 a win, 0 a defeat, 0.5 a tie; None where unscored."""
        return {self.a: 1.0, self.b: 0.0, TIE: 0.5}.get(self.winner)

    @property
    def group(self) -> str:
        """What is resampled as one."""
        return self.cluster or self.query

    @property
    def lengths(self) -> tuple[int, int] | None:
        """Characters of the two replies, None where one is not known."""
        if self.reply_a is None or self.reply_b is None:
            return None
        return len(self.reply_a.strip()), len(self.reply_b.strip())

    def as_json(self) -> dict[str, Any]:
        """Every field as JSON takes it; ``from_json`` gives the same match again."""
        return {**asdict(self), "unscored": self.unscored.as_json() if self.unscored else None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Match:
        why = data.get("unscored")
        fixed = {name: tuple(data.get(name, ())) for name in ("looks", "gate_a", "gate_b")}
        unscored = Text(why["en"], why["ja"]) if why else None
        return cls(**{**data, **fixed, "unscored": unscored})


@dataclass(frozen=True)
class VoteRow:
    """One vote of the chat in plain words.

    ``choice`` is a variant, "tie" or "all-bad"; ``replies`` the texts of those ``shown``.
    """

    conversation: str
    turn: str
    choice: str
    shown: tuple[str, ...]
    voter: str = ""
    blind: bool = True
    replies: Mapping[str, str] = field(default_factory=dict)


def from_votes(votes: Iterable[VoteRow]) -> list[Match]:
    """The chosen one beats each other shown; "tie" and "all-bad" tie all pairs.

    Of those not chosen nothing is known. That a choice among many counts as wins over each is
    sound where choices follow Luce (1959). Only blind votes count, and of a voter's votes on one
    turn the last; the turns of one conversation hang together.
    """
    last = {(vote.turn, vote.voter): vote for vote in votes if vote.blind}
    found = []
    for vote in last.values():
        shown = tuple(dict.fromkeys(vote.shown))
        for a, b in combinations(shown, 2):
            if vote.choice in (TIE, ALL_BAD):
                found.append(_of_vote(vote, a, b, TIE))
            elif vote.choice in (a, b):
                found.append(_of_vote(vote, a, b, vote.choice))
    return found


def _of_vote(vote: VoteRow, a: str, b: str, winner: str) -> Match:
    return Match(
        query=vote.turn,
        a=a,
        b=b,
        winner=winner,
        cluster=f"conversation {vote.conversation}",
        reply_a=vote.replies.get(a),
        reply_b=vote.replies.get(b),
        source="vote",
        meta={"voter": vote.voter} | ({ALL_BAD: True} if vote.choice == ALL_BAD else {}),
    )


def from_scores(
    scores: Mapping[str, Mapping[str, float | None]], source: str, margin: float = 0.0
) -> list[Match]:
    """Matches from one judge's single scores, ``{variant: {query: score}}``.

    A tie is a difference of ``margin`` or less; a query that one side has no score for is left out.
    """
    found = []
    for a, b in combinations(scores, 2):
        for query, one in scores[a].items():
            other = scores[b].get(query)
            if one is None or other is None:
                continue
            winner = TIE if abs(one - other) <= margin else a if one > other else b
            found.append(Match(query, a, b, winner, source=source))
    return found


@dataclass(frozen=True)
class Habits:
    """What a source of verdicts favours, each a share in [0, 1] with its interval over queries.

    ``consistent``: verdicts that both orders agree on. ``first_place``: looks won by the reply
    shown first, ties a half; .5 is no preference. ``longer``: wins of the longer reply among those
    decided; what a length preference explains is in the ratings' length coefficient.
    """

    n: int
    unscored: int
    ties: int
    consistent: Interval
    first_place: Interval
    longer: Interval


def habits(matches: Sequence[Match], seed: int = 0) -> Habits:
    both = [m for m in matches if len(m.looks) == 2 and all(m.looks)]
    agree = [m.looks[0] == m.looks[1] for m in both]
    looks = [
        (_first(look, (m.a, m.b)[place]), m.group)
        for m in matches
        for place, look in enumerate(m.looks[:2])
        if look
    ]
    decided = [m for m in matches if m.winner in (m.a, m.b) and m.lengths and len({*m.lengths}) > 1]
    longer = [(m.winner == m.a) == (m.lengths[0] > m.lengths[1]) for m in decided if m.lengths]
    return Habits(
        n=sum(m.score is not None for m in matches),
        unscored=sum(m.score is None for m in matches),
        ties=sum(m.winner == TIE for m in matches),
        consistent=share_interval(agree, [m.group for m in both], seed),
        first_place=mean_interval([s for s, _ in looks], [g for _, g in looks], seed),
        longer=share_interval(longer, [m.group for m in decided], seed),
    )


def _first(look: str, first: str) -> float:
    return 0.5 if look == TIE else float(look == first)
