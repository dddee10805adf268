"""Which of two variants' replies is better, asked of a model behind an endpoint in both orders.

What needs no call and what both orders make together is ``pairwise_rules``'; a model of this
machine is asked by ``pairwise_local``. Answers come from the judges' cache where they were paid
for before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from charllm.core import completing, endpoint
from charllm.core.evaluation.matches import Match
from charllm.core.evaluation.pair_prompts import SCALE, schema
from charllm.core.evaluation.pairwise_rules import Duel, Referee, agreed, duels
from charllm.core.judging.asking import Asker, Outcome, Question, Server
from charllm.core.judging.cache import JudgeCache, answer_key
from charllm.core.judging.calling import call_all
from charllm.core.judging.judges import JudgeConfig, price_for
from charllm.core.judging.llm_judge import NOTE, SECONDS_A_CALL, UNMEASURED
from charllm.core.judging.prices import Price, tokens_about
from charllm.core.judging.records import Quote
from charllm.core.judging.rubric import Rubric, load_rubric
from charllm.data.config import Paths
from charllm.data.dialogue import Message
from charllm.data.errors import UserError
from charllm.data.profile import Profile

__all__ = ["Duel", "PairJudge", "Pairs", "agreed", "duels", "open_pair_judge"]


class Pairs(Protocol):
    """Any judge of pairs: a model behind an endpoint, or one in this machine."""

    id: str
    rubric: str
    version: str

    def quote(self, what: Sequence[Duel]) -> Quote:
        """What judging will take; ``items`` and ``gated`` count duels, ``calls`` orders."""

    def judge(self, what: Sequence[Duel], stop: Callable[[], bool]) -> Iterator[Match]:
        """A match a duel, in any order, as soon as both orders are answered.

        After ``stop`` nothing new is begun. A duel of which one order is missing is not yielded,
        and its answer waits in the cache. ``UserError`` where going on is useless.
        """

    def close(self) -> None: ...


@dataclass(frozen=True)
class _Task:
    """One order of one duel (by its number)."""

    duel: int
    order: int
    key: str
    question: Question


class PairJudge(Referee):
    """A model behind an endpoint: ``Pairs``. To be used from one thread; its calls run in their
    own."""

    def __init__(
        self, profile: Profile, rubric: Rubric, config: JudgeConfig, cache: JudgeCache, price: Price
    ) -> None:
        name = f"{config.model}@{endpoint.server_name(config.base_url)}"
        super().__init__(profile, rubric, name, price)
        self.config = config
        self.cache = cache
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
                yield replace(self.decided(duel, open_.pop(number)), cached=True)
            else:
                waiting += [task for task in tasks if task.order not in open_[number]]
        if not waiting or stop():
            return
        self.asker.connect()
        name = endpoint.server_name(self.config.base_url)
        for task, outcome in call_all(waiting, self._ask, self.config.in_flight, stop, name):
            open_[task.duel][task.order] = outcome
            if len(open_[task.duel]) == 2:
                yield self.decided(what[task.duel], open_.pop(task.duel))

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


def open_pair_judge(paths: Paths, profile: Profile, config: JudgeConfig) -> Pairs:
    """The judge, ready; close it after use.

    ``UserError`` for the embedded judge, which scores single replies (``matches.from_scores``
    compares those), and for a local model that is not there.
    """
    if config.kind == "embedded":
        raise UserError(
            "Pairs are compared by a chat model: one behind an endpoint or one of this machine. "
            "For the embedded judge compare its single scores instead.",
            "ペア比較にはチャットモデル（エンドポイント、またはこのマシンのモデル）が必要です。"
            "内蔵ジャッジの場合は個別の点数を比べてください。",
        )
    if config.samples != 1:
        raise UserError(
            "Each pair is asked once in each order: set samples to 1.",
            "ペアは順序を入れ替えて1回ずつ尋ねます。samples を 1 にしてください。",
        )
    rubric = load_rubric(paths, config.rubric)
    if config.kind == "local":
        from charllm.core.evaluation.pairwise_local import LocalPairJudge

        return LocalPairJudge(paths, profile, rubric, config, JudgeCache(paths))
    return PairJudge(profile, rubric, config, JudgeCache(paths), price_for(config))
