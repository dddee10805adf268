"""One question to a judge behind an endpoint: from the cache, or asked and kept, then read.

An answer is in the cache before anybody sees it. One that cannot be read is asked for once more.
It does not know what is judged, by whom, or how many questions are under way.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from charllm.core import completing, endpoint
from charllm.core.judging.cache import Answer, JudgeCache, answer_key
from charllm.core.judging.levels import level_probabilities
from charllm.core.judging.pausing import Pause
from charllm.core.judging.prompting import WORDS
from charllm.core.judging.verdict import Parsed, parse_structured, parse_text
from charllm.data.dialogue import Message
from charllm.data.errors import Language

TIMEOUT = 60.0
NO_ANSWER = Answer("", "")


@dataclass(frozen=True)
class Question:
    """``messages`` in the rubric's form; ``in_words`` for a server that takes no schema."""

    key: str
    messages: tuple[Message, ...]
    in_words: tuple[Message, ...]

    def again(self, reminder: Message) -> Question:
        """The same once more, after an answer that could not be read."""
        more = (reminder,)
        return Question(_again(self.key), self.messages + more, self.in_words + more)


@dataclass(frozen=True)
class Outcome:
    """``paid``: the answers that came over the wire for it, () where it was in the cache.

    ``reached`` is False where the server could not be had; the reason is in ``parsed``.
    """

    parsed: Parsed
    answer: Answer
    paid: tuple[Answer, ...] = ()
    reached: bool = True


@dataclass(frozen=True)
class Server:
    """Whom to ask and how; ``label`` and ``rubric`` go into the cache for people to read."""

    model: str
    base_url: str
    settings: completing.Settings
    label: str
    rubric: str


class Asker:
    """May be used from any thread."""

    def __init__(
        self, server: Server, scale: tuple[int, int], language: Language, cache: JudgeCache
    ) -> None:
        self.server = server
        self.scale = scale
        self.cache = cache
        self.pause = Pause()
        self._reminder = Message(role="user", content=WORDS["again"].in_(language))
        self._api: Any = None

    def connect(self) -> None:
        """``UserError`` where there is no key or the address is not usable."""
        self._api = self._api or completing.waiting_client(self.server.base_url, TIMEOUT)

    def known(self, key: str) -> Outcome | None:
        """What the cache says, None where a call is needed."""
        first = self.cache.get(key)
        if first is None:
            return None
        parsed = self._parse(first)
        if parsed.score is not None:
            return Outcome(parsed, first)
        second = self.cache.get(_again(key))
        return Outcome(self._parse(second), second) if second else None

    def ask(self, question: Question, ended: threading.Event) -> Outcome | None:
        """Up to two calls; None where ``ended`` came before the answer was complete.

        ``UserError`` where asking on is useless: no key, quota used up, unknown model.
        """
        paid: list[Answer] = []
        try:
            return self._rounds(question, paid, ended)
        except (endpoint.Unreachable, endpoint.NotThisOne) as error:
            return Outcome(Parsed(None, error.text), NO_ANSWER, tuple(paid), reached=False)

    def _rounds(
        self, question: Question, paid: list[Answer], ended: threading.Event
    ) -> Outcome | None:
        for asked in (question, question.again(self._reminder)):
            answer = self.cache.get(asked.key)
            if answer is None:
                answer = self._call(asked, ended)
                if answer is None:
                    return None
                paid.append(answer)
            outcome = Outcome(self._parse(answer), answer, tuple(paid))
            if outcome.parsed.score is not None or answer.finish != "stop":
                break
        return outcome

    def _call(self, asked: Question, ended: threading.Event) -> Answer | None:
        while self.pause.wait(ended):
            try:
                found = completing.complete(
                    self._api,
                    asked.messages,
                    self.server.model,
                    self.server.settings,
                    in_words=asked.in_words,
                    base_url=self.server.base_url,
                )
            except completing.RateLimited as limited:
                self.pause.add(limited.seconds)
                continue
            self.pause.went_through()
            return self._keep(asked.key, found)
        return None

    def _keep(self, key: str, found: completing.Completion) -> Answer:
        answer = Answer(
            text=found.text,
            finish=found.finish_reason,
            levels=level_probabilities(found.steps, self.scale),
            tokens_in=found.tokens_in,
            tokens_cached=found.tokens_cached,
            tokens_out=found.tokens_out,
            seconds=round(found.seconds, 3),
            model=found.model,
            fingerprint=found.fingerprint,
        )
        # Only a whole answer is kept: a cut or refused one may come out better another time.
        if answer.finish == "stop":
            self.cache.put(key, self.server.label, self.server.rubric, answer)
        return answer

    def _parse(self, answer: Answer) -> Parsed:
        """As JSON where that was asked for, unless the answer came in words."""
        if self.server.settings.schema is None:
            return parse_text(answer.text, self.scale, answer.finish)
        parsed = parse_structured(answer.text, self.scale, answer.finish)
        if parsed.score is not None or answer.text.lstrip().startswith(("{", "```")):
            return parsed
        return parse_text(answer.text, self.scale, answer.finish)


def _again(key: str) -> str:
    """The key of the second asking."""
    return answer_key(again=1, of=key)
