"""A candidate merge tried out: blended, asked, judged, its parts told.

Candidates of an engine that mixes rows are decoded together, a row each; the judging of one group
of candidates goes on beside the generation of the next. The same candidate gives the same replies:
every question has a seed of its own, the same for all candidates.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from charllm.core.evaluation.general_questions import answer_general
from charllm.core.evaluation.likelihood import Opened, ending_of, mean_log_likelihoods
from charllm.core.generation import GenerationPreset, Request, generate_all
from charllm.core.judging.records import Item, Judge, Record
from charllm.core.merging.evaluating import reason_of
from charllm.core.merging.genome import Candidate
from charllm.core.merging.journal import Failure, Outcome, Outcomes
from charllm.core.merging.objective import GENERAL
from charllm.data.errors import UserError
from charllm.data.files import sha256
from charllm.data.progress import Paused, Reporter, Stopped
from charllm.data.queries import Split

if TYPE_CHECKING:
    from charllm.core.decoding_space import DecodingSpace
    from charllm.core.evaluation.general_questions import Answered, GeneralQuestion
    from charllm.core.generation import Done
    from charllm.core.judging.score import Scorer
    from charllm.core.merging.engines import Engine
    from charllm.data.prompts import Row

PARTS = ("score", "gate", "style", "length", "stopped")
"""What every query measures; ``loss`` is measured by lines, ``GENERAL`` by general questions."""
LINE, GUARD = "line:", "general:"
"""How the ids of held-out lines and of general questions begin among the queries'."""


@dataclass(frozen=True)
class Question:
    """A query as it is asked: rendered once, since every candidate gets the same prompt."""

    id: str
    text: str
    prompt_ids: list[int]
    gold: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage:
    """What all candidates share: the tokenizer's ends, what is asked by id, the preset."""

    tokenizer: Any
    end_ids: frozenset[int]
    stop_strings: tuple[str, ...]
    questions: Mapping[str, Question]
    lines: Mapping[str, Row]
    preset: GenerationPreset
    rows: int
    general: Mapping[str, GeneralQuestion] = field(default_factory=dict)

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of a score that are measured."""
        return (*PARTS, *(["loss"] if self.lines else []), *(GENERAL if self.general else []))


@dataclass(frozen=True)
class Made:
    """One candidate's replies, losses and general answers by id, and the seconds they took."""

    replies: dict[str, Done]
    losses: dict[str, float]
    general: dict[str, Answered]
    seconds: float


class Trial:
    """Tries candidates on one engine; ``many`` is what a search evaluates with."""

    def __init__(
        self, engine: Engine, stage: Stage, judge: Judge, scorer: Scorer, reporter: Reporter
    ) -> None:
        self.engine, self.stage = engine, stage
        self.judge, self.scorer, self.reporter = judge, scorer, reporter
        self._space: DecodingSpace | None = None

    def many(
        self, candidates: Sequence[Candidate], queries: Sequence[str], split: Split
    ) -> Iterator[Outcomes | Failure]:
        """Results in the candidates' order. A judge that cannot go on pauses the search."""
        with ThreadPoolExecutor(1) as beside:
            waiting: Future[list[Outcomes | Failure]] | None = None
            for group in self._groups(candidates, queries):
                made = self._make(group, queries)
                if waiting is not None:
                    yield from waiting.result()
                waiting = beside.submit(self._judged, group, made, queries)
            if waiting is not None:
                yield from waiting.result()

    def close(self) -> None:
        """Give back the memory that is kept for decoding; the engine stays as it is."""
        if self._space is not None:
            self._space.close()
            self._space = None

    # ── generation ────────────────────────────────────────────────────────────────────────────

    def _groups(
        self, candidates: Sequence[Candidate], queries: Sequence[str]
    ) -> Iterator[Sequence[Candidate]]:
        """Candidates that are decoded together: as many as fill the rows, at least one."""
        size = 1
        if self.engine.batched:
            asked = sum(query in self.stage.questions for query in queries)
            size = max(1, self.stage.rows // max(1, asked))
        for start in range(0, len(candidates), size):
            yield candidates[start : start + size]

    def _make(self, group: Sequence[Candidate], queries: Sequence[str]) -> list[Made | Failure]:
        """One blend after another where the model itself changes, else all in one batch."""
        if len(group) == 1 or not self.engine.batched:
            return [self._alone(one, queries) for one in group]
        try:
            return self._together(group, queries)
        except (Stopped, Paused):
            raise
        except Exception:  # one of them may be at fault, or memory lacked for all together
            pass  # and leave the handler: what it holds may be that memory
        if self._space is not None:
            self._space.close()
        return [self._alone(one, queries) for one in group]

    def _alone(self, one: Candidate, queries: Sequence[str]) -> Made | Failure:
        try:
            return self._together([one], queries)[0]
        except (Stopped, Paused):
            raise
        except Exception as error:  # costs this candidate alone
            return Failure(reason_of(error))

    def _together(self, group: Sequence[Candidate], queries: Sequence[str]) -> list[Made | Failure]:
        began = time.perf_counter()
        effects = [self.engine.apply(one.coefficients) for one in group]
        requests = [
            self._request(f"{place}/{query}", query, effect.scales)
            for place, effect in enumerate(effects)
            for query in queries
            if query in self.stage.questions
        ]
        done = {one.column: one for one in self._decoded(requests)}
        losses = [self._losses(effect.scales, queries) for effect in effects]
        general = [self._general(effect.scales, queries) for effect in effects]
        seconds = (time.perf_counter() - began) / len(group)
        return [
            Made(
                {
                    query: done[f"{place}/{query}"]
                    for query in queries
                    if query in self.stage.questions
                },
                losses[place],
                general[place],
                seconds,
            )
            for place in range(len(group))
        ]

    def _request(self, column: str, query: str, scales: object | None) -> Request:
        asked = self.stage.questions[query]
        seed = int(sha256(f"{self.stage.preset.seed}:{query}".encode())[:15], 16)
        return Request(
            column=column,
            prompt_ids=asked.prompt_ids,
            scales=scales,
            preset=self.stage.preset.model_copy(update={"seed": seed}),
            end_ids=self.stage.end_ids,
            stop_strings=self.stage.stop_strings,
            noise=query,
        )

    def _decoded(self, requests: Sequence[Request]) -> Iterator[Done]:
        """In batches of prompts of similar length, so that little is padded."""
        from charllm.core.decoding_space import rows_that_fit, space_for

        if self.engine.steady and self._space is None:
            self._space = space_for(self.engine.model, long=True)
        order = sorted(requests, key=lambda one: len(one.prompt_ids), reverse=True)
        rows = rows_that_fit(self.engine.model, order, self.stage.rows, self._space)
        for start in range(0, len(order), rows):
            if self.reporter.stop_requested() == "cancel":
                raise Stopped
            batch = order[start : start + rows]
            yield from generate_all(self.engine.model, self.stage.tokenizer, batch, self._space)

    def _losses(self, scales: object | None, queries: Sequence[str]) -> dict[str, float]:
        """Mean loss per learnt token of each held-out line, in nats."""
        wanted = [query for query in queries if query in self.stage.lines]
        endings = [ending_of(self.stage.lines[query]) for query in wanted]
        # One by one: a line's loss must not depend on which others are asked beside it.
        found = mean_log_likelihoods(self._opened(scales), endings, rows=1)
        return {query: -value for query, value in zip(wanted, found, strict=True)}

    def _general(self, scales: object | None, queries: Sequence[str]) -> dict[str, Answered]:
        """The answer to each general question."""
        wanted = [query for query in queries if query in self.stage.general]
        questions = [self.stage.general[query] for query in wanted]
        found = answer_general(self._opened(scales), self.stage.tokenizer, questions)
        return dict(zip(wanted, found, strict=True))

    def _opened(self, scales: object | None) -> Opened:
        """The candidate's model for a plain forward pass of so many rows."""

        def opened(rows: int) -> AbstractContextManager[Any]:
            if scales is None:
                return nullcontext(self.engine.model)
            chosen: AbstractContextManager[Any] = self.engine.model.selected([scales] * rows)
            return chosen

        return opened

    # ── judging ───────────────────────────────────────────────────────────────────────────────

    def _judged(
        self, group: Sequence[Candidate], made: Sequence[Made | Failure], queries: Sequence[str]
    ) -> list[Outcomes | Failure]:
        items = [
            Item(
                f"{place}/{query}",
                self.stage.questions[query].text,
                reply.text.strip(),
                reply.reason,
                gold=self.stage.questions[query].gold,
            )
            for place, one in enumerate(made)
            if isinstance(one, Made)
            for query, reply in one.replies.items()
        ]
        records: dict[str, list[Record]] = {item.id: [] for item in items}
        try:
            for record in self.judge.judge(items, self._cancelled):
                records[record.item].append(record)
        except UserError as error:  # no key, quota used up: the candidates are not at fault
            raise Paused(error.text.en, error.text.ja) from error
        if self._cancelled():
            raise Stopped
        by_id = {item.id: item for item in items}
        return [
            one
            if isinstance(one, Failure)
            else [
                self._outcome(one, query, by_id.get(f"{place}/{query}"), records)
                for query in queries
            ]
            for place, one in enumerate(made)
        ]

    def _cancelled(self) -> bool:
        return self.reporter.stop_requested() == "cancel"

    def _outcome(
        self, made: Made, query: str, item: Item | None, records: Mapping[str, list[Record]]
    ) -> Outcome:
        if answer := made.general.get(query):
            share, right = answer.share, float(answer.right)
            return Outcome(query, dict(zip(GENERAL, (share, right), strict=True)))
        if item is None:
            return Outcome(query, {"loss": made.losses[query]})
        found = records[item.id]
        scores = [one.score for one in found if one.score is not None]
        judged = self.scorer.score(item.query, item.reply, item.stop_reason)
        plain = {part.key: part.value for part in judged.parts}
        paid = [one for one in found if not one.cached]
        reply = made.replies[query]
        return Outcome(
            query,
            {
                "score": sum(scores) / len(scores) if scores else None,
                "gate": float(not judged.gate),
                "style": 0.0 if judged.gate else plain.get("style"),
                "length": 0.0 if judged.gate else plain.get("length"),
                "stopped": float(reply.reason in ("end", "stop_string")),
            },
            tokens=len(reply.token_ids),
            calls=sum(one.calls for one in paid),
            money=sum(one.cost or 0.0 for one in paid),
            seconds=made.seconds / max(1, len(made.replies)),
            note=item.reply,
        )
