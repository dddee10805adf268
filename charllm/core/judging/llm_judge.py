"""A language model behind an endpoint as judge: gate, cache, then calls, many at once.

A reply that the gate stops has the lowest level and costs nothing; what was answered before comes
from the cache; an answer is in the cache before it is yielded. A 429 pauses all workers for as long
as the server asks. No key, spent quota or an unknown model ends the judging, after everything that
was under way has been yielded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from charllm.core import completing, endpoint
from charllm.core.judging.asking import Asker, Outcome, Question, Server
from charllm.core.judging.cache import JudgeCache, answer_key
from charllm.core.judging.calling import call_all
from charllm.core.judging.gate import Gate
from charllm.core.judging.levels import expected
from charllm.core.judging.prices import Price, tokens_about
from charllm.core.judging.prompting import Prompts, schema_of
from charllm.core.judging.records import Item, Quote, Record
from charllm.core.judging.rubric import Rubric
from charllm.core.judging.unasked import unasked
from charllm.data.dialogue import Message
from charllm.data.errors import Text
from charllm.data.profile import Profile

if TYPE_CHECKING:
    from charllm.core.judging.judges import JudgeConfig

TOP = 20
"""Likeliest tokens asked for at each step; the protocol's most."""

SECONDS_A_CALL = 2.0
"""Assumed in a quote until a call of this judge has been measured."""

NOTE = Text(
    "Tokens are estimated from the number of characters, without the server's discount for "
    "prompts it has seen.",
    "トークン数は文字数からの概算です。サーバーのプロンプトキャッシュによる割引は含みません。",
)
UNMEASURED = Text(
    f"{NOTE.en} The time assumes {SECONDS_A_CALL:.0f} seconds a call: none has been measured yet.",
    f"{NOTE.ja}まだ実測がないため、時間は1回{SECONDS_A_CALL:.0f}秒として計算しています。",
)


@dataclass(frozen=True)
class _Task:
    """One sample of one item."""

    item: Item
    sample: int
    key: str


class LLMJudge:
    """Implements ``Judge``. To be used from one thread; its calls run in threads of its own."""

    def __init__(
        self, profile: Profile, rubric: Rubric, config: JudgeConfig, cache: JudgeCache, price: Price
    ) -> None:
        self.config = config
        self.rules = rubric
        self.price = price
        self.gate = Gate(profile)
        self.prompts = Prompts(rubric, profile)
        self.cache = cache
        self._as_json = rubric.format == "json"
        self._name = f"{config.model}@{endpoint.server_name(config.base_url)}"
        self._kept_as = f"{rubric.name} {rubric.version}"
        settings = completing.Settings(
            temperature=config.temperature,
            max_tokens=config.max_tokens,
            seed=config.seed,
            schema=schema_of(rubric) if self._as_json else None,
            top_logprobs=TOP if self._as_json and config.samples == 1 else 0,
            cache_key=self.prompts.beginning(as_json=self._as_json),
        )
        server = Server(config.model, config.base_url, settings, self._name, self._kept_as)
        self.asker = Asker(server, rubric.scale, profile.language, cache)

    @property
    def id(self) -> str:
        return self._name

    @property
    def rubric(self) -> str:
        return self.rules.name

    @property
    def version(self) -> str:
        return self.rules.version

    @property
    def scale(self) -> tuple[int, int]:
        return self.rules.scale

    @property
    def measures(self) -> tuple[str, ...]:
        return self.rules.measures

    @property
    def waiting(self) -> float:
        """Seconds until the server may be asked again, 0 where it may be now."""
        return self.asker.pause.seconds

    def close(self) -> None:
        self.cache.close()

    def quote(self, items: Sequence[Item]) -> Quote:
        """Time and length of an answer are those of this judge's last answers; before the first
        one, two seconds and half of the limit."""
        gated = cached = calls = tokens_in = 0
        for item in items:
            if unasked(self, self.gate, self.rules, item):
                gated += 1
                continue
            length = sum(tokens_about(m.content) for m in self._messages(item))
            for task in self._tasks(item):
                known = self.asker.known(task.key) is not None
                cached, calls = cached + known, calls + (not known)
                tokens_in += 0 if known else length
        measured = self.cache.typical(self.id, self._kept_as)
        seconds, each = measured or (SECONDS_A_CALL, self.config.max_tokens / 2)
        tokens_out = round(calls * each)
        return Quote(
            items=len(items),
            calls=calls,
            cached=cached,
            gated=gated,
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            money=self.price.cost(tokens_in, 0, tokens_out),
            seconds=seconds * calls / self.config.in_flight,
            note=NOTE if measured else UNMEASURED,
        )

    def judge(self, items: Sequence[Item], stop: Callable[[], bool]) -> Iterator[Record]:
        waiting: list[_Task] = []
        for item in items:
            if record := unasked(self, self.gate, self.rules, item):
                yield record
                continue
            for task in self._tasks(item):
                if outcome := self.asker.known(task.key):
                    yield replace(self._record(task, outcome), cached=True)
                else:
                    waiting.append(task)
        if waiting and not stop():
            self.asker.connect()
            server = endpoint.server_name(self.config.base_url)
            in_flight = self.config.in_flight
            for task, outcome in call_all(waiting, self._ask, in_flight, stop, server):
                yield self._record(task, outcome)

    def _ask(self, task: _Task, ended: threading.Event) -> Outcome | None:
        in_words = self.prompts.messages(task.item, as_json=False)
        return self.asker.ask(Question(task.key, self._messages(task.item), in_words), ended)

    def _messages(self, item: Item) -> tuple[Message, ...]:
        return self.prompts.messages(item, as_json=self._as_json)

    def _tasks(self, item: Item) -> list[_Task]:
        """A task for each sample. The key holds all that the answer depends on."""
        messages = [m.model_dump() for m in self._messages(item)]
        return [
            _Task(item, sample, self._key(messages, sample))
            for sample in range(self.config.samples)
        ]

    def _key(self, messages: list[dict[str, str]], sample: int) -> str:
        return answer_key(
            server=endpoint.server_name(self.config.base_url),
            model=self.config.model,
            messages=messages,
            schema=schema_of(self.rules) if self._as_json else None,
            temperature=self.config.temperature,
            max_tokens=self.config.max_tokens,
            seed=self.config.seed,
            rubric=[self.rubric, self.version],
            sample=sample,
        )

    def _record(self, task: _Task, outcome: Outcome) -> Record:
        parsed, levels = outcome.parsed, outcome.answer.levels
        scored = parsed.score is not None
        tokens_in = sum(answer.tokens_in for answer in outcome.paid)
        tokens_cached = sum(answer.tokens_cached for answer in outcome.paid)
        tokens_out = sum(answer.tokens_out for answer in outcome.paid)
        return Record(
            item=task.item.id,
            judge=self.id,
            rubric=self.rubric,
            version=self.version,
            score=expected(levels) if scored and levels else parsed.score,
            unscored=parsed.reason,
            sample=task.sample,
            levels=levels if scored else {},
            rationale=parsed.rationale,
            flaws=parsed.flaws,
            prompt_hash=answer_key(messages=[m.model_dump() for m in self._messages(task.item)]),
            calls=len(outcome.paid),
            tokens_in=tokens_in,
            tokens_cached=tokens_cached,
            tokens_out=tokens_out,
            cost=self.price.cost(tokens_in, tokens_cached, tokens_out) if outcome.paid else 0.0,
            seconds=outcome.answer.seconds,
        )
