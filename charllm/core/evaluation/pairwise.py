"""Which of two variants' replies is better, asked of a judge in both orders.

A disagreement of the two orders is a tie; without a verdict in one of them the match is unscored,
with the reason. What the gate decides is never asked: a reply that it stops loses against one that
it lets pass, two that it stops tie, and so do two equal texts. Answers come from the judges' cache
where they were paid for before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from charllm.core import completing, endpoint
from charllm.core.evaluation.matches import TIE, Match
from charllm.core.evaluation.pair_prompts import REVISION, SCALE, PairPrompts, named, schema
from charllm.core.judging.asking import Asker, Outcome, Question, Server
from charllm.core.judging.cache import JudgeCache, answer_key
from charllm.core.judging.calling import call_all
from charllm.core.judging.gate import Gate
from charllm.core.judging.judges import JudgeConfig, price_for
from charllm.core.judging.llm_judge import NOTE, SECONDS_A_CALL, UNMEASURED
from charllm.core.judging.prices import Price, tokens_about
from charllm.core.judging.records import Item, Quote
from charllm.core.judging.rubric import Rubric, load_rubric
from charllm.core.judging.score import CANCELLED
from charllm.core.judging.unasked import LACKING
from charllm.data.config import Paths
from charllm.data.dialogue import Message
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


@dataclass(frozen=True)
class _Task:
    """One order of one duel (by its number)."""

    duel: int
    order: int
    key: str
    question: Question


class PairJudge:
    """A model behind an endpoint. To be used from one thread; its calls run in their own."""

    def __init__(
        self, profile: Profile, rubric: Rubric, config: JudgeConfig, cache: JudgeCache, price: Price
    ) -> None:
        self.config = config
        self.rules = rubric
        self.price = price
        self.gate = Gate(profile)
        self.prompts = PairPrompts(rubric, profile)
        self.cache = cache
        self.id = f"{config.model}@{endpoint.server_name(config.base_url)}"
        self.rubric = rubric.name
        self.version = f"{rubric.version}-{REVISION}"
        self._as_json = rubric.format == "json"
        self._kept_as = f"{self.rubric} {self.version}"
        settings = completing.Settings(
            temperature=config.temperature,
            max_tokens=config.max_tokens,
            seed=config.seed,
            schema=schema() if self._as_json else None,
            cache_key=self.prompts.beginning(as_json=self._as_json),
        )
        server = Server(config.model, config.base_url, settings, self.id, self._kept_as)
        self.asker = Asker(server, SCALE, profile.language, cache)

    def close(self) -> None:
        self.cache.close()

    def quote(self, what: Sequence[Duel]) -> Quote:
        """What judging will take; ``items`` and ``gated`` count duels, ``calls`` orders."""
        gated = cached = calls = tokens_in = 0
        for number, duel in enumerate(what):
            if self.settled(duel):
                gated += 1
                continue
            for task in self._tasks(number, duel):
                known = self.asker.known(task.key) is not None
                cached, calls = cached + known, calls + (not known)
                length = sum(tokens_about(m.content) for m in task.question.messages)
                tokens_in += 0 if known else length
        measured = self.cache.typical(self.id, self._kept_as)
        seconds, each = measured or (SECONDS_A_CALL, self.config.max_tokens / 2)
        tokens_out = round(calls * each)
        return Quote(
            items=len(what),
            calls=calls,
            cached=cached,
            gated=gated,
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            money=self.price.cost(tokens_in, 0, tokens_out),
            seconds=seconds * calls / self.config.in_flight,
            note=NOTE if measured else UNMEASURED,
        )

    def judge(self, what: Sequence[Duel], stop: Callable[[], bool]) -> Iterator[Match]:
        """A match a duel, in any order, as soon as both orders are answered.

        After ``stop`` nothing new is begun. A duel of which one order is missing is not yielded,
        and its answer waits in the cache. ``UserError`` where going on is useless.
        """
        waiting: list[_Task] = []
        open_: dict[int, dict[int, Outcome]] = {}
        for number, duel in enumerate(what):
            if match := self.settled(duel):
                yield match
                continue
            tasks = self._tasks(number, duel)
            known = {task.order: self.asker.known(task.key) for task in tasks}
            open_[number] = {order: outcome for order, outcome in known.items() if outcome}
            if len(open_[number]) == len(tasks):
                yield replace(self._match(duel, open_.pop(number)), cached=True)
            else:
                waiting += [task for task in tasks if task.order not in open_[number]]
        if not waiting or stop():
            return
        self.asker.connect()
        name = endpoint.server_name(self.config.base_url)
        for task, outcome in call_all(waiting, self._ask, self.config.in_flight, stop, name):
            open_[task.duel][task.order] = outcome
            if len(open_[task.duel]) == 2:
                yield self._match(what[task.duel], open_.pop(task.duel))

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

    def _ask(self, task: _Task, ended: threading.Event) -> Outcome | None:
        return self.asker.ask(task.question, ended)

    def _tasks(self, number: int, duel: Duel) -> list[_Task]:
        return [self._task(number, duel, order) for order in (0, 1)]

    def _task(self, number: int, duel: Duel, order: int) -> _Task:
        (_, first), (_, second) = duel.shown(order)
        messages = self.prompts.messages(first, second, as_json=self._as_json)
        key = answer_key(
            server=endpoint.server_name(self.config.base_url),
            model=self.config.model,
            messages=[m.model_dump() for m in messages],
            schema=schema() if self._as_json else None,
            temperature=self.config.temperature,
            max_tokens=self.config.max_tokens,
            seed=self.config.seed,
            rubric=[self.rubric, self.version],
        )
        in_words: tuple[Message, ...] = self.prompts.messages(first, second, as_json=False)
        return _Task(number, order, key, Question(key, messages, in_words))

    def _match(self, duel: Duel, outcomes: Mapping[int, Outcome]) -> Match:
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


def open_pair_judge(paths: Paths, profile: Profile, config: JudgeConfig) -> PairJudge:
    """The judge, ready; close it after use.

    ``UserError`` for a judge that compares no texts: the embedded one scores single replies
    (``matches.from_scores``), and a local model has to be served first.
    """
    if config.kind != "endpoint":
        raise UserError(
            "Pairs are compared by a model behind an endpoint. For the embedded judge compare its "
            "single scores instead; for a local model start an OpenAI-compatible server and enter "
            "its address.",
            "ペア比較にはエンドポイントのモデルが必要です。内蔵ジャッジの場合は個別の点数を比べ、"
            "ローカルモデルの場合は OpenAI 互換サーバーを起動してそのアドレスを入力してください。",
        )
    if config.samples != 1:
        raise UserError(
            "Each pair is asked once in each order: set samples to 1.",
            "ペアは順序を入れ替えて1回ずつ尋ねます。samples を 1 にしてください。",
        )
    rubric = load_rubric(paths, config.rubric)
    return PairJudge(profile, rubric, config, JudgeCache(paths), price_for(config))
