"""A chat model in this machine's memory as judge: the same prompt, parser, gate and cache.

It answers in words, the score alone on the last line: nothing here forces a model into a schema.
Answers are greedy, or sampled with a seed for each sample, and made in batches. A small base model
gives no verdicts worth having (a 270M one said "1" to everything): they come out unscored or are
caught by the quality check.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from charllm.core.judging.cache import Answer, JudgeCache, answer_key
from charllm.core.judging.gate import Gate
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

BATCH = 8
WHOLE = ("end", "stop_string")
"""Why generation ends a whole answer; after any other reason it is one that was cut."""


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
        from charllm.core.models import model_folder, weights_hash

        self.config = config
        self.rules = rubric
        self.cache = cache
        self.gate = Gate(profile)
        self.prompts = Prompts(rubric, profile)
        self.folder = model_folder(paths, config.model)
        self.weights = weights_hash(self.folder)
        self._language = profile.language
        self._kept_as = f"{rubric.name} {rubric.version}"
        self._loaded: tuple[Any, Any, Any] | None = None

    @property
    def id(self) -> str:
        """The model's name and its weights: another model in the same folder is another judge."""
        return f"local:{self.config.model.rstrip('/').rsplit('/', 1)[-1]}@{self.weights[:8]}"

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
        self._loaded = None
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
        from charllm.core.generation import GenerationPreset, Request, generate_all
        from charllm.data.prompts import end_ids, prompt_ids

        model, tokenizer, template = self._load()
        preset = GenerationPreset(
            temperature=self.config.temperature, max_new_tokens=self.config.max_tokens
        )
        requests = [
            Request(
                column=str(number),
                prompt_ids=prompt_ids(template, tokenizer, task.messages),
                preset=preset.model_copy(update={"seed": self.config.seed + task.sample}),
                end_ids=end_ids(template, tokenizer),
                stop_strings=template.stop_strings,
            )
            for number, task in enumerate(tasks)
        ]
        start = time.monotonic()
        done = generate_all(model, tokenizer, requests)
        seconds = round((time.monotonic() - start) / len(tasks), 3)
        return [
            Answer(
                text=one.text,
                finish="stop" if one.reason in WHOLE else one.reason,
                tokens_in=one.prompt_tokens,
                tokens_out=one.generated,
                seconds=seconds,
                model=self.id,
            )
            for one in done
        ]

    def _load(self) -> tuple[Any, Any, Any]:
        """Model, tokenizer and the template that its family talks in."""
        if self._loaded is None:
            from charllm.core.catalog import find_model, template_name
            from charllm.core.models import load_model, shared_tokenizer
            from charllm.data.prompts import get_template

            info = find_model(self.config.model)
            template = get_template(template_name(info, self._language))
            self._loaded = (load_model(self.folder), shared_tokenizer(self.folder), template)
        return self._loaded

    def _tasks(self, item: Item) -> list[_Task]:
        messages = self.prompts.messages(item, as_json=False)
        said = [message.model_dump() for message in messages]
        return [
            _Task(item, sample, messages, self._key(said, sample))
            for sample in range(self.config.samples)
        ]

    def _key(self, messages: list[dict[str, str]], sample: int) -> str:
        return answer_key(
            weights=self.weights,
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
            tokens_in=answer.tokens_in,
            tokens_out=answer.tokens_out,
            seconds=answer.seconds,
        )
