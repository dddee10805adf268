"""Which of two replies is better: what needs no model, and what follows from both orders.

A disagreement of the two orders is a tie; without a verdict in one of them the match is unscored,
with the reason. What the gate decides is never asked: a reply that it stops loses against one that
it lets pass, two that it stops tie, and so do two equal texts. Who is asked is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from charllm.core.evaluation.matches import TIE, Match
from charllm.core.evaluation.pair_prompts import REVISION, PairPrompts, named
from charllm.core.judging.asking import Outcome
from charllm.core.judging.gate import Gate
from charllm.core.judging.prices import Price
from charllm.core.judging.records import Item
from charllm.core.judging.rubric import Rubric
from charllm.core.judging.score import CANCELLED
from charllm.core.judging.unasked import LACKING
from charllm.data.errors import Text, UserError
from charllm.data.profile import Profile


@dataclass(frozen=True)
class Duel:
    """Two variants' replies to one query, with the same talk before it."""

    a: str
    b: str
    item_a: Item
    item_b: Item
    cluster: str = ""

    @property
    def query(self) -> str:
        return self.item_a.id

    def shown(self, order: int) -> tuple[tuple[str, Item], tuple[str, Item]]:
        """First and second: ``a`` first in order 0, ``b`` first in order 1."""
        both = (self.a, self.item_a), (self.b, self.item_b)
        return both if order == 0 else (both[1], both[0])


def duels(
    items: Mapping[str, Sequence[Item]],
    against: str = "",
    clusters: Mapping[str, str] | None = None,
) -> list[Duel]:
    """All pairs of variants on the items (by id) that both answered.

    With ``against`` each variant meets this one only: calls then grow with the variants, not with
    their square; ``UserError`` where it is not among them. ``clusters`` gives the query of an item
    whose id is not the query's own, as with repeats. ``ValueError`` where an id stands twice.
    """
    if against and against not in items:
        known = ", ".join(items)
        raise UserError(
            f"There is no variant {against!r} to compare against. Known: {known}.",
            f"比較相手のバリアント「{against}」がありません。あるもの: {known}。",
        )
    by_id = {name: {item.id: item for item in of_it} for name, of_it in items.items()}
    if twice := [name for name, of_it in items.items() if len(by_id[name]) < len(of_it)]:
        raise ValueError(f"an item's id stands twice in {twice}")
    return [
        Duel(a, b, item, by_id[b][number], (clusters or {}).get(number, ""))
        for a, b in combinations(items, 2)
        if not against or against in (a, b)
        for number, item in by_id[a].items()
        if number in by_id[b]
    ]


class Referee:
    """What every judge of pairs shares: the gate before it, and a match out of two outcomes."""

    def __init__(self, profile: Profile, rubric: Rubric, judge: str, price: Price) -> None:
        self.id = judge
        self.rules = rubric
        self.price = price
        self.gate = Gate(profile)
        self.prompts = PairPrompts(rubric, profile)
        self.rubric = rubric.name
        self.version = f"{rubric.version}-{REVISION}"

    def settled(self, duel: Duel) -> Match | None:
        """The match that needs no call, None where the judge has to be asked."""
        if "cancelled" in (duel.item_a.stop_reason, duel.item_b.stop_reason):
            return self._said(duel, "", unscored=CANCELLED)
        gate_a, gate_b = self._gate(duel.item_a), self._gate(duel.item_b)
        if gate_a or gate_b:
            winner = TIE if gate_a and gate_b else duel.b if gate_a else duel.a
            return self._said(duel, winner, gate_a=gate_a, gate_b=gate_b)
        if duel.item_a.reply.strip() == duel.item_b.reply.strip():
            return self._said(duel, TIE)
        for need, there in (("gold", duel.item_a.gold), ("history", duel.item_a.history)):
            if need in self.rules.needs and not there:
                return self._said(duel, "", unscored=LACKING[need])
        return None

    def _gate(self, item: Item) -> tuple[str, ...]:
        found = self.gate.check(item.reply, query=item.query, stop_reason=item.stop_reason)
        return tuple(finding.code for finding in found)

    def decided(self, duel: Duel, outcomes: Mapping[int, Outcome]) -> Match:
        """The match that the outcomes of both orders make (0: ``a`` was shown first)."""
        looks = tuple(
            named(outcomes[order].parsed.score, *(name for name, _ in duel.shown(order)))
            for order in (0, 1)
        )
        paid = [answer for order in (0, 1) for answer in outcomes[order].paid]
        tokens_in = sum(answer.tokens_in for answer in paid)
        tokens_out = sum(answer.tokens_out for answer in paid)
        tokens_cached = sum(answer.tokens_cached for answer in paid)
        missing = next((outcomes[o].parsed.reason for o in (0, 1) if not looks[o]), None)
        said = self._said(duel, agreed(looks), unscored=missing)
        return replace(
            said,
            looks=looks,
            rationale="\n\n".join(outcomes[order].parsed.rationale for order in (0, 1)).strip(),
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            cost=self.price.cost(tokens_in, tokens_cached, tokens_out) if paid else 0.0,
        )

    def _said(
        self,
        duel: Duel,
        winner: str,
        *,
        unscored: Text | None = None,
        gate_a: tuple[str, ...] = (),
        gate_b: tuple[str, ...] = (),
    ) -> Match:
        return Match(
            query=duel.query,
            a=duel.a,
            b=duel.b,
            winner=winner,
            unscored=unscored,
            cluster=duel.cluster,
            reply_a=duel.item_a.reply,
            reply_b=duel.item_b.reply,
            source=self.id,
            rubric=self.rubric,
            version=self.version,
            gate_a=gate_a,
            gate_b=gate_b,
        )


def agreed(looks: Sequence[str]) -> str:
    """The verdict of both orders: what both say, else ``TIE``; "" where one says nothing."""
    return "" if "" in looks else looks[0] if looks[0] == looks[1] else TIE
