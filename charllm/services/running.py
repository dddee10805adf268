"""A turn's life: facts, prompts, one batched decode a base model, endpoints.

Threads of its own run here; what they find out goes into the turn, which pages look at. How a
column ends is ``ending``'s; which turns there are and what a page may do is ``chat``'s.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from charllm.core.replying import ReplySettings, Resident, prepare, prepare_messages
from charllm.core.variants import Quantization
from charllm.data.config import Paths
from charllm.data.dialogue import Message
from charllm.data.errors import Text
from charllm.data.profile import Profile
from charllm.services import store
from charllm.services.ending import Endings
from charllm.services.engine import LOADING, Engine
from charllm.services.facts import find_facts
from charllm.services.turns import Column, Turn

if TYPE_CHECKING:
    from charllm.core.generation import Request
    from charllm.core.retrieval import Hit

LOOKING = Text("Looking up facts…", "事実を検索しています…")


@dataclass
class Task:
    """Columns of a turn to be answered, and with what. ``hits`` and ``history`` come on the way.

    ``history`` gives for each variant the earlier questions that it answered, with its answers.
    """

    turn: Turn
    columns: list[Column]
    profile: Profile
    settings: ReplySettings
    score: bool
    hits: list[Hit] = field(default_factory=list)
    history: dict[str, list[Message]] = field(default_factory=dict)

    @property
    def open(self) -> list[Column]:
        return [column for column in self.columns if not column.finished]


class TurnRunner:
    """Runs the turns of one installation; safe to call from any thread."""

    def __init__(self, paths: Paths, kept: store.Store) -> None:
        self.paths = paths
        self.store = kept
        self.endings = Endings(paths, kept)
        self._engines: dict[tuple[str, Quantization], Engine] = {}
        self._lock = threading.Lock()

    def start(self, task: Task) -> None:
        """Answer the task's columns; returns at once."""
        for column in task.columns:
            column.preset, column.seed = task.settings.preset.name, task.settings.preset.seed
        task.turn.tell(LOADING)
        if task.score:
            self.endings.scorer.warm(task.turn.profile)
        threading.Thread(target=self._run, args=(task,), daemon=True).start()

    def stop(self, turn: Turn, column_id: str | None) -> None:
        """Stop one column or all; what has not begun ends now, whatever it waits for."""
        for column in turn.cancel(column_id):
            self.endings.done(turn, column, "cancelled", score=False)

    def close(self) -> None:
        """Give all models back."""
        with self._lock:
            for engine in self._engines.values():
                engine.close()
            self._engines.clear()

    def _run(self, task: Task) -> None:
        """Facts first, then each base model's columns in one batch, endpoints on their own."""
        try:
            task.history = self._history(task.turn)
            self._find_facts(task)
            groups: dict[tuple[str, Quantization], list[Column]] = {}
            for column in task.open:
                if column.variant.base_url:
                    threading.Thread(target=self._remote, args=(task, column), daemon=True).start()
                else:
                    key = (column.variant.model, column.variant.quantization)
                    groups.setdefault(key, []).append(column)
            for (model, quantization), group in groups.items():
                self.engine(model, quantization).submit(self._job(task, group))
        except Exception as error:  # this thread's end: what it has not handed on would wait on
            self._fail(task, task.open, error)

    def _find_facts(self, task: Task) -> None:
        wanting = [column for column in task.open if column.variant.rag]
        if not wanting:
            return
        task.turn.tell(LOOKING)
        try:
            found = find_facts(self.paths, task.profile, task.turn.question, task.settings)
        except Exception as error:  # the columns without RAG can still answer
            self._fail(task, wanting, error)
            return
        task.hits = found.hits
        for column in wanting:
            column.hits = [asdict(hit) for hit in found.hits]
            column.threshold = found.threshold

    def _job(self, task: Task, columns: list[Column]) -> Callable[[Engine], None]:
        def decode(engine: Engine) -> None:
            """One batch on one base model, in that model's worker thread."""
            try:
                if all(column.finished for column in columns):
                    return
                resident = engine.resident(waiting)
                if resident is not None:
                    self._answer(resident, task, columns)
            except Exception as error:  # recorded at the columns; the engine serves the next turn
                self._fail(task, columns, error)

        def waiting(stage: Text) -> bool:
            task.turn.tell(stage)
            return not all(column.finished for column in columns)

        return decode

    def _answer(self, resident: Resident, task: Task, columns: Sequence[Column]) -> None:
        batch: list[tuple[Column, Request]] = []
        for column in columns:
            try:
                if task.turn.begin(column):
                    batch.append((column, self._request(resident, task, column)))
            except Exception as error:  # one column's checkpoint must not end the others
                self._fail(task, [column], error)
        task.turn.tell(None)
        if not batch:
            return
        try:
            self._stream(resident, task, batch)
        except Exception:
            # A prompt that is too long, for one, ends the whole batch before its first token.
            rest = [(column, request) for column, request in batch if not column.finished]
            if len(rest) < 2 or any(column.text for column, _ in rest):
                raise
            for item in rest:
                try:
                    self._stream(resident, task, [item])
                except Exception as error:  # this column's own
                    self._fail(task, [item[0]], error)

    def _stream(
        self, resident: Resident, task: Task, batch: Sequence[tuple[Column, Request]]
    ) -> None:
        from charllm.core.generation import Delta, stream

        by_id = {column.id: column for column, _ in batch}
        events = stream(
            resident.adapters,
            resident.tokenizer,
            [request for _, request in batch],
            lambda name: by_id[name].cancelled,
        )
        with closing(events):  # type: ignore[type-var]
            for event in events:
                column = by_id[event.column]
                if isinstance(event, Delta):
                    task.turn.write(column, event.text)
                elif not column.finished:
                    column.text = event.text
                    column.prompt_tokens, column.tokens = event.prompt_tokens, len(event.token_ids)
                    column.first, column.seconds = event.first_token_seconds, event.seconds
                    self.endings.done(task.turn, column, event.reason, task.score)

    def _request(self, resident: Resident, task: Task, column: Column) -> Request:
        prepared = prepare(
            resident,
            task.profile,
            column.variant,
            task.turn.question,
            task.hits,
            task.settings,
            column=column.id,
            threshold=column.threshold,
            history=task.history.get(column.variant.name, ()),
        )
        column.prompt = prepared.prompt
        column.prompt_tokens = len(prepared.request.prompt_ids)
        column.weights = resident.fingerprint(column.variant, prepared.request.scales)
        return prepared.request

    def _remote(self, task: Task, column: Column) -> None:
        """A column answered by an OpenAI-compatible endpoint, in a thread of its own."""
        from charllm.core.endpoint import Finish, chat_stream, server_name

        turn, variant = task.turn, column.variant
        start = time.perf_counter()
        reason = ""
        try:
            history = task.history.get(variant.name, ())
            messages = prepare_messages(
                task.profile, variant, turn.question, task.hits, task.settings, history
            )
            column.prompt = "\n\n".join(f"[{m.role}]\n{m.content}" for m in messages)
            column.weights = f"{variant.model} @ {server_name(variant.base_url)}"
            for piece in chat_stream(
                messages,
                variant.model,
                task.settings.preset,
                base_url=variant.base_url,
                cancelled=lambda: column.cancelled,
            ):
                if isinstance(piece, Finish):
                    reason = piece.reason
                    column.tokens = piece.reply_tokens or 0
                    column.prompt_tokens = piece.prompt_tokens or 0
                    continue
                if column.first is None:
                    column.first = time.perf_counter() - start
                    if not turn.begin(column):
                        return
                turn.write(column, _encodable(piece))
            column.seconds = time.perf_counter() - start
            self.endings.done(turn, column, reason, task.score)
        except Exception as error:  # one column's server must not end the others
            self._fail(task, [column], error)

    def _fail(self, task: Task, columns: Sequence[Column], error: Exception) -> None:
        for column in columns:
            self.endings.failed(task.turn, column, error)

    def engine(self, model: str, quantization: Quantization) -> Engine:
        """The worker of a base model: one for each model and quantization, made when first asked.

        It lives until ``close``; everyone who decodes on that base submits their jobs to it, so
        that the weights are in memory once.
        """
        with self._lock:
            key = (model, quantization)
            if key not in self._engines:
                self._engines[key] = Engine(self.paths, model, quantization)
            return self._engines[key]

    def _history(self, turn: Turn) -> dict[str, list[Message]]:
        history: dict[str, list[Message]] = {}
        for row in self.store.turns(turn.conversation):
            if row.id == turn.id:
                break
            for reply in self.store.replies(row.id):
                if reply.text.strip() and reply.stop_reason != "error":
                    said = history.setdefault(reply.variant, [])
                    said.append(Message(role="user", content=row.question))
                    said.append(Message(role="assistant", content=reply.text))
        return history


def _encodable(text: Any) -> str:
    """Without halves of characters, which JSON can carry but neither a page nor a store."""
    return str(text).encode("utf-8", "replace").decode()
