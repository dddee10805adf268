"""A turn's life: facts, prompts, one batched decode a base model, endpoints, scores.

Threads of its own run here; what they find out goes into the turn, which pages look at, and into
the store. Which turns there are and what a page may do is ``chat``'s.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from charllm.core.judging.score import Judgement
from charllm.core.replying import Prepared, ReplySettings, prepare, prepare_messages
from charllm.data.config import Paths
from charllm.data.dialogue import Message
from charllm.data.errors import Text, UserError
from charllm.data.profile import Profile
from charllm.services import store
from charllm.services.engine import Engine
from charllm.services.facts import find_facts
from charllm.services.scoring import LiveScorer
from charllm.services.turns import Column, Turn

log = logging.getLogger(__name__)

RUBRIC = "live"
OURS = Text(
    "Something went wrong on our side; the terminal has the details. Try again.",
    "内部でエラーが起きました。詳細は端末に出ています。もう一度お試しください。",
)


class TurnRunner:
    """Runs the turns of one installation; safe to call from any thread."""

    def __init__(self, paths: Paths, kept: store.Store) -> None:
        self.paths = paths
        self.store = kept
        self.scorer = LiveScorer(paths)
        self._engines: dict[str, Engine] = {}
        self._lock = threading.Lock()

    def start(
        self,
        turn: Turn,
        columns: list[Column],
        profile: Profile,
        settings: ReplySettings,
        score: bool,
    ) -> None:
        """Answer ``columns`` of the turn; returns at once."""
        for column in columns:
            column.preset, column.seed = settings.preset.name, settings.preset.seed
        turn.stage = Text("Loading the model…", "モデルを読み込んでいます…")
        if score:
            self.scorer.warm(turn.profile)
        turn.changed()
        threading.Thread(
            target=self._run, args=(turn, columns, profile, settings, score), daemon=True
        ).start()

    def _run(
        self,
        turn: Turn,
        columns: list[Column],
        profile: Profile,
        settings: ReplySettings,
        score: bool,
    ) -> None:
        """Facts first, then each base model's columns in one batch, endpoints on their own."""
        history = self._history(turn)
        try:
            if any(column.variant.rag for column in columns):
                self._stage(turn, Text("Looking up facts…", "事実を検索しています…"))
                found = find_facts(self.paths, profile, turn.question, settings)
                for column in columns:
                    if column.variant.rag:
                        column.hits = [asdict(hit) for hit in found.hits]
                        column.threshold = found.threshold
                hits = found.hits
            else:
                hits = []
        except Exception as error:  # the columns without RAG can still answer
            for column in columns:
                if column.variant.rag:
                    self._fail(turn, column, error, score)
            columns = [column for column in columns if not column.finished]
            hits = []
        groups: dict[str, list[Column]] = {}
        for column in columns:
            if column.variant.base_url:
                threading.Thread(
                    target=self._remote,
                    args=(turn, column, profile, settings, hits, history, score),
                    daemon=True,
                ).start()
            else:
                groups.setdefault(column.variant.model, []).append(column)
        for model, group in groups.items():
            self._engine(model).submit(
                lambda engine, group=group: self._decode(  # type: ignore[misc]
                    engine, turn, group, profile, settings, hits, history, score
                )
            )
        self._close_if_done(turn)

    def _decode(
        self,
        engine: Engine,
        turn: Turn,
        columns: list[Column],
        profile: Profile,
        settings: ReplySettings,
        hits: Sequence[Any],
        history: dict[str, list[Message]],
        score: bool,
    ) -> None:
        """One batch on one base model, in that model's worker thread."""
        from charllm.core.generation import Delta, stream

        def waiting(stage: Text) -> bool:
            self._stage(turn, stage)
            return not all(column.cancelled for column in columns)

        try:
            resident = engine.resident(waiting)
            if resident is None:
                for column in columns:
                    self._end(turn, column, score, reason="cancelled")
                return
            prepared: dict[str, Prepared] = {}
            for column in columns:
                try:
                    prepared[column.id] = self._prepare(
                        resident, turn, column, profile, settings, hits, history
                    )
                except UserError as error:
                    self._fail(turn, column, error, score)
            requests = [item.request for item in prepared.values()]
            by_id = {column.id: column for column in columns}
            if not requests:
                return
            for event in stream(
                resident.adapters, resident.tokenizer, requests, lambda c: by_id[c].cancelled
            ):
                column = by_id[event.column]
                if isinstance(event, Delta):
                    self._stage(turn, None)
                    column.text += event.text
                    turn.changed()
                else:
                    column.text = event.text
                    column.prompt_tokens, column.tokens = event.prompt_tokens, len(event.token_ids)
                    column.first, column.seconds = event.first_token_seconds, event.seconds
                    self._end(turn, column, score, reason=event.reason)
        except Exception as error:  # recorded at the columns; the engine serves the next turn
            for column in columns:
                if not column.finished:
                    self._fail(turn, column, error, score)

    def _prepare(
        self,
        resident: Any,
        turn: Turn,
        column: Column,
        profile: Profile,
        settings: ReplySettings,
        hits: Sequence[Any],
        history: dict[str, list[Message]],
    ) -> Prepared:
        prepared = prepare(
            resident,
            profile,
            column.variant,
            turn.question,
            hits,
            settings,
            column=column.id,
            threshold=column.threshold,
            history=history.get(column.variant.name, ()),
        )
        column.prompt = prepared.prompt
        column.prompt_tokens = len(prepared.request.prompt_ids)
        column.weights = resident.fingerprint(column.variant, prepared.request.scales)
        column.state = "writing"
        turn.changed()
        return prepared

    def _remote(
        self,
        turn: Turn,
        column: Column,
        profile: Profile,
        settings: ReplySettings,
        hits: Sequence[Any],
        history: dict[str, list[Message]],
        score: bool,
    ) -> None:
        """A column answered by an OpenAI-compatible endpoint."""
        from charllm.core.endpoint import Finish, chat_stream

        variant = column.variant
        start = time.perf_counter()
        reason = "length"
        try:
            messages = prepare_messages(
                profile, variant, turn.question, hits, settings, history.get(variant.name, ())
            )
            column.prompt = "\n\n".join(f"[{m.role}]\n{m.content}" for m in messages)
            column.weights = f"{variant.model} @ {variant.base_url}"
            self._stage(turn, None)
            for piece in chat_stream(
                messages,
                variant.model,
                settings.preset,
                base_url=variant.base_url,
                cancelled=lambda: column.cancelled,
            ):
                if isinstance(piece, Finish):
                    reason = piece.reason
                    column.tokens = piece.reply_tokens or 0
                    column.prompt_tokens = piece.prompt_tokens or 0
                    break
                if column.first is None:
                    column.first = time.perf_counter() - start
                column.state = "writing"
                column.text += piece
                turn.changed()
            column.seconds = time.perf_counter() - start
            self._end(turn, column, score, reason=reason)
        except Exception as error:  # one column's server must not end the others
            self._fail(turn, column, error, score)

    def _end(self, turn: Turn, column: Column, score: bool, *, reason: str) -> None:
        """A column's text is complete: keep it, then let it be scored."""
        column.state, column.reason = "done", reason
        reply = store.Reply(
            turn=turn.id,
            position=turn.columns.index(column),
            variant=column.variant.name,
            text=column.text,
            prompt=column.prompt,
            prompt_tokens=column.prompt_tokens,
            facts=tuple(column.hits),
            tokens=column.tokens,
            first_seconds=column.first,
            seconds=column.seconds,
            stop_reason=reason,
            weights=column.weights,
            preset={"name": column.preset, "seed": column.seed, "threshold": column.threshold},
        )
        column.reply_id = self.store.add_reply(reply).id
        if score and reason != "cancelled":
            column.score = {"state": "waiting"}
            with turn.lock:
                turn.scoring += 1
            self.scorer.submit(
                turn.profile,
                turn.question,
                column.text,
                reason,
                lambda result: self._scored(turn, column, result),
            )
        turn.changed()
        self._close_if_done(turn)

    def _scored(self, turn: Turn, column: Column, result: Judgement | Exception) -> None:
        if isinstance(result, Judgement):
            column.score = result.as_json()
            self.store.add_judgement(_for_store(turn, column.text, result))
        else:
            if not isinstance(result, UserError):
                log.error("scoring failed", exc_info=result)
            words = result.text if isinstance(result, UserError) else OURS
            column.score = {"state": "done", "value": None, "unscored": words.as_json()}
        with turn.lock:
            turn.scoring -= 1
        turn.changed()

    def _fail(self, turn: Turn, column: Column, error: Exception, score: bool) -> None:
        if not isinstance(error, UserError):
            log.error("column %s failed", column.variant.name, exc_info=error)
        column.error = error.text if isinstance(error, UserError) else OURS
        column.state, column.reason = "failed", "error"
        turn.changed()
        self._close_if_done(turn)

    def _close_if_done(self, turn: Turn) -> None:
        with turn.lock:
            finished = all(column.finished for column in turn.columns) and not turn.done
            if finished:
                turn.done, turn.stage = True, None
        if finished:
            turn.changed()

    def _stage(self, turn: Turn, stage: Text | None) -> None:
        if turn.stage != stage:
            turn.stage = stage
            turn.changed()

    def _engine(self, model: str) -> Engine:
        with self._lock:
            if model not in self._engines:
                self._engines[model] = Engine(self.paths, model)
            return self._engines[model]

    def _history(self, turn: Turn) -> dict[str, list[Message]]:
        """For each variant's name the earlier questions that it answered, with its answers."""
        history: dict[str, list[Message]] = {}
        for row in self.store.turns(turn.conversation):
            if row.id == turn.id:
                break
            for reply in self.store.replies(row.id):
                if reply.text.strip():
                    history.setdefault(reply.variant, []).extend(
                        [
                            Message(role="user", content=row.question),
                            Message(role="assistant", content=reply.text),
                        ]
                    )
        return history


def _for_store(turn: Turn, text: str, judgement: Judgement) -> store.Judgement:
    return store.Judgement(
        subject=store.subject_hash(turn.profile, turn.question, text),
        rubric=RUBRIC,
        rubric_version=judgement.version,
        judge=judgement.judge,
        score=judgement.score,
        unscored_reason=judgement.unscored.en if judgement.unscored else "",
        rationale=judgement.as_text(),
        flaws=tuple(finding.code for finding in judgement.gate),
    )
