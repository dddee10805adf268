"""A chat model in this machine's memory as judge: the same prompt, parser, gate and cache.

It answers in words, the score alone on the last line: nothing here forces a model into a schema.
Answers are greedy, or sampled with a seed for each sample, and made in batches. A small base model
gives no verdicts worth having (a 270M one said "1" to everything): they come out unscored or are
caught by the quality check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from charllm.core.judging.cache import Answer, JudgeCache, answer_key
from charllm.core.judging.gate import Gate
from charllm.core.judging.local_model import BATCH, Asked, LocalModel
from charllm.core.judging.prices import tokens_about
from charllm.core.judging.prompting import Prompts
from charllm.core.judging.records import Item, Quote, Record
from charllm.core.judging.rubric import Rubric
from charllm.core.judging.unasked import unasked
from charllm.core.judging.verdict import parse_text
from charllm.data.config import Paths
from charllm.data.dialogue import Message
from charllm.data.profile import Profile

if TYPE_CHECKING:
    from charllm.core.judging.judges import JudgeConfig


@dataclass(frozen=True)
class _Task:
    item: Item
    sample: int
    messages: tuple[Message, ...]
    key: str


class LocalJudge:
    """Implements ``Judge``. The model is loaded when the first reply has to be judged."""

    def __init__(
        self, paths: Paths, profile: Profile, rubric: Rubric, config: JudgeConfig, cache: JudgeCache
    ) -> None:
        self.config = config
        self.rules = rubric
        self.cache = cache
        self.gate = Gate(profile)
        self.prompts = Prompts(rubric, profile)
        self.local = LocalModel(paths, config.model, profile.language)
        self._kept_as = f"{rubric.name} {rubric.version}"

    @property
    def id(self) -> str:
        return self.local.id

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

    def close(self) -> None:
        self.local.close()
        self.cache.close()

    def quote(self, items: Sequence[Item]) -> Quote:
        gated = cached = 0
        new: list[_Task] = []
        for item in items:
            if unasked(self, self.gate, self.rules, item):
                gated += 1
                continue
            for task in self._tasks(item):
                if self.cache.get(task.key):
                    cached += 1
                else:
                    new.append(task)
        seconds, each = self.cache.typical(self.id, self._kept_as) or (None, None)
        return Quote(
            items=len(items),
            calls=len(new),
            cached=cached,
            gated=gated,
            tokens_in=sum(tokens_about(m.content) for task in new for m in task.messages),
            tokens_out=round(len(new) * (self.config.max_tokens / 2 if each is None else each)),
            seconds=None if seconds is None else seconds * len(new),
        )

    def judge(self, items: Sequence[Item], stop: Callable[[], bool]) -> Iterator[Record]:
        waiting: list[_Task] = []
        for item in items:
            if record := unasked(self, self.gate, self.rules, item):
                yield record
                continue
            for task in self._tasks(item):
                if answer := self.cache.get(task.key):
                    yield replace(self._record(task, answer), cached=True)
                else:
                    waiting.append(task)
        for start in range(0, len(waiting), BATCH):
            if stop():
                return
            part = waiting[start : start + BATCH]
            for task, answer in zip(part, self._answers(part), strict=True):
                if answer.finish == "stop":
                    self.cache.put(task.key, self.id, self._kept_as, answer)
                yield self._record(task, answer)

    def _answers(self, tasks: Sequence[_Task]) -> list[Answer]:
        return self.local.answers(
            [Asked(task.messages, self.config.seed + task.sample) for task in tasks],
            temperature=self.config.temperature,
            max_tokens=self.config.max_tokens,
        )

    def _tasks(self, item: Item) -> list[_Task]:
        messages = self.prompts.messages(item, as_json=False)
        said = [message.model_dump() for message in messages]
        return [
            _Task(item, sample, messages, self._key(said, sample))
            for sample in range(self.config.samples)
        ]

    def _key(self, messages: list[dict[str, str]], sample: int) -> str:
        return answer_key(
            weights=self.local.weights,
            messages=messages,
            temperature=self.config.temperature,
            max_tokens=self.config.max_tokens,
            seed=self.config.seed,
            rubric=[self.rubric, self.version],
            sample=sample,
        )

    def _record(self, task: _Task, answer: Answer) -> Record:
        parsed = parse_text(answer.text, self.scale, answer.finish)
        return Record(
            item=task.item.id,
            judge=self.id,
            rubric=self.rubric,
            version=self.version,
            score=parsed.score,
            unscored=parsed.reason,
            sample=task.sample,
            rationale=parsed.rationale,
            prompt_hash=answer_key(messages=[m.model_dump() for m in task.messages]),
            calls=1,
            tokens_in=answer.tokens_in,
            tokens_out=answer.tokens_out,
            seconds=answer.seconds,
        )
