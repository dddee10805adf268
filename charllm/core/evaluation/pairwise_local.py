"""Pairs judged by a chat model in this machine's memory: both orders, in batches.

It answers in words, the verdict alone on the last line. A small base model has no opinion worth
having: it prefers a place, not a reply, which both orders turn into ties and ``matches.habits``
shows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from charllm.core.evaluation.matches import Match
from charllm.core.evaluation.pair_prompts import SCALE
from charllm.core.evaluation.pairwise_rules import Duel, Referee
from charllm.core.judging.asking import Outcome
from charllm.core.judging.cache import Answer, JudgeCache, answer_key
from charllm.core.judging.judges import JudgeConfig
from charllm.core.judging.local_model import BATCH, Asked, LocalModel
from charllm.core.judging.prices import Price, tokens_about
from charllm.core.judging.records import Quote
from charllm.core.judging.rubric import Rubric
from charllm.core.judging.verdict import parse_text
from charllm.data.config import Paths
from charllm.data.dialogue import Message
from charllm.data.profile import Profile

FREE = Price(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class _Task:
    """One order of one duel (by its number)."""

    duel: int
    order: int
    messages: tuple[Message, ...]
    key: str


class LocalPairJudge(Referee):
    """``Pairs`` by a model that is loaded when the first pair has to be judged."""

    def __init__(
        self, paths: Paths, profile: Profile, rubric: Rubric, config: JudgeConfig, cache: JudgeCache
    ) -> None:
        self.model = LocalModel(paths, config.model, profile.language)
        super().__init__(profile, rubric, self.model.id, FREE)
        self.config = config
        self.cache = cache
        self._kept_as = f"{self.rubric} {self.version}"

    def close(self) -> None:
        self.model.close()
        self.cache.close()

    def quote(self, what: Sequence[Duel]) -> Quote:
        """``seconds`` None where no answer of this model has been measured yet."""
        open_ = [(number, duel) for number, duel in enumerate(what) if not self.settled(duel)]
        tasks = [task for number, duel in open_ for task in self._tasks(number, duel)]
        new = [task for task in tasks if self.cache.get(task.key) is None]
        seconds, each = self.cache.typical(self.id, self._kept_as) or (None, None)
        return Quote(
            items=len(what),
            calls=len(new),
            cached=len(tasks) - len(new),
            gated=len(what) - len(open_),
            tokens_in=sum(tokens_about(m.content) for task in new for m in task.messages),
            tokens_out=round(len(new) * (self.config.max_tokens / 2 if each is None else each)),
            seconds=None if seconds is None else seconds * len(new),
        )

    def judge(self, what: Sequence[Duel], stop: Callable[[], bool]) -> Iterator[Match]:
        waiting: list[_Task] = []
        open_: dict[int, dict[int, Outcome]] = defaultdict(dict)
        for number, duel in enumerate(what):
            if match := self.settled(duel):
                yield match
                continue
            new = [task for task in self._tasks(number, duel) if not self._known(task, open_)]
            waiting += new
            if not new:
                yield replace(self.decided(duel, open_.pop(number)), cached=True)
        for start in range(0, len(waiting), BATCH):
            if stop():
                return
            part = waiting[start : start + BATCH]
            for task, answer in zip(part, self._answers(part), strict=True):
                open_[task.duel][task.order] = _read(answer, (answer,))
                if len(open_[task.duel]) == 2:
                    yield self.decided(what[task.duel], open_.pop(task.duel))

    def _known(self, task: _Task, open_: dict[int, dict[int, Outcome]]) -> bool:
        """Whether the cache has the answer, which then is among the outcomes."""
        answer = self.cache.get(task.key)
        if answer is None:
            return False
        open_[task.duel][task.order] = _read(answer, ())
        return True

    def _answers(self, tasks: Sequence[_Task]) -> list[Answer]:
        """Asked and kept; an answer that was cut may come out whole another time, so it is not."""
        answers = self.model.answers(
            [Asked(task.messages, self.config.seed) for task in tasks],
            temperature=self.config.temperature,
            max_tokens=self.config.max_tokens,
        )
        for task, answer in zip(tasks, answers, strict=True):
            if answer.finish == "stop":
                self.cache.put(task.key, self.id, self._kept_as, answer)
        return answers

    def _tasks(self, number: int, duel: Duel) -> list[_Task]:
        return [self._task(number, duel, order) for order in (0, 1)]

    def _task(self, number: int, duel: Duel, order: int) -> _Task:
        (_, first), (_, second) = duel.shown(order)
        messages = self.prompts.messages(first, second, as_json=False)
        key = answer_key(
            weights=self.model.weights,
            messages=[message.model_dump() for message in messages],
            temperature=self.config.temperature,
            max_tokens=self.config.max_tokens,
            seed=self.config.seed,
            rubric=[self.rubric, self.version],
        )
        return _Task(number, order, messages, key)


def _read(answer: Answer, paid: tuple[Answer, ...]) -> Outcome:
    return Outcome(parse_text(answer.text, SCALE, answer.finish), answer, paid)
