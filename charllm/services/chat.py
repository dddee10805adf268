"""The chat's server side: owns every turn, from the question to the last column's score.

A turn runs in threads of its own; pages look at it (``view``, ``live``) and may come and go.
Everything that was said goes to the store, so a restart finds it again. It does not decode
(core.generation), nor know how a page looks.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from charllm.core.judging.score import Judgement
from charllm.core.replying import Prepared, ReplySettings, check_question, prepare, prepare_messages
from charllm.core.variants import Variant, checkpoint_kind, find_variant
from charllm.data.config import Paths
from charllm.data.dialogue import Message
from charllm.data.errors import Text, UserError
from charllm.data.files import write_text
from charllm.data.profile import Profile, load_profile
from charllm.services import export, store
from charllm.services.engine import Engine
from charllm.services.facts import find_facts
from charllm.services.scoring import LiveScorer
from charllm.services.turns import Column, Turn, arrange, letters

log = logging.getLogger(__name__)

MIN_COLUMNS, MAX_COLUMNS = 2, 6
RUBRIC = "live"
INTERRUPTED = Text(
    "This answer was cut off when the program ended. Regenerate it.",
    "プログラムの終了により、この答えは途中で切れました。再生成してください。",
)
OURS = Text(
    "Something went wrong on our side; the terminal has the details. Try again.",
    "内部でエラーが起きました。詳細は端末に出ています。もう一度お試しください。",
)


class ChatService:
    """All conversations of one installation. Safe to call from any thread."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.store = store.Store(paths)
        self.scorer = LiveScorer(paths)
        self._engines: dict[str, Engine] = {}
        self._turns: dict[int, Turn] = {}
        self._live: dict[int, Turn] = {}
        self._lock = threading.RLock()

    # What a page asks for

    def conversations(self, slug: str) -> list[store.Conversation]:
        return self.store.conversations(slug)

    def live(self, conversation: int | None) -> Turn | None:
        """The conversation's latest turn of this process, None if it has none."""
        return self._live.get(conversation) if conversation is not None else None

    def view(self, conversation: int) -> list[dict[str, Any]]:
        """All visible turns, the oldest first, as the board draws them."""
        rows = self.store.turns(conversation)
        turns = [self._turn(row) for row in rows]
        return [turn.as_json(last=turn is turns[-1]) for turn in turns]

    # What a page does

    def send(
        self,
        conversation: int | None,
        slug: str,
        text: str,
        names: Sequence[str],
        settings: ReplySettings,
        *,
        blind: bool = False,
        score: bool = True,
    ) -> int:
        """Ask all columns; returns the conversation at once. ``UserError`` before anything starts."""
        question = check_question(text)
        profile = load_profile(self.paths, slug)
        if not MIN_COLUMNS <= len(names) <= MAX_COLUMNS:
            raise UserError(
                f"Choose {MIN_COLUMNS} to {MAX_COLUMNS} columns.",
                f"列は {MIN_COLUMNS}〜{MAX_COLUMNS} 個選んでください。",
            )
        variants = [find_variant(self.paths, slug, name) for name in names]
        with self._lock:
            self._refuse_while_live(conversation)
            if conversation is None:
                conversation = self.store.add_conversation(slug, names).id
            row = self.store.add_turn(conversation, question, blind)
            order = arrange(variants, blind, seed=row.id)
            self._remember_order(row, order)
            columns = [
                Column(letter, variant, checkpoint_kind(self.paths, variant))
                for letter, variant in zip(letters(len(order)), order, strict=True)
            ]
            turn = Turn(
                row.id, conversation, slug, profile.language, question, columns, blind=blind
            )
            self._start(turn, columns, profile, settings, score)
        return conversation

    def edit(
        self,
        conversation: int,
        text: str,
        names: Sequence[str],
        settings: ReplySettings,
        *,
        blind: bool = False,
        score: bool = True,
    ) -> None:
        """Replace the last question and ask again; the replaced turn stays in the store, hidden."""
        check_question(text)
        self._refuse_while_live(conversation)
        rows = self.store.turns(conversation)
        slug = self.store.conversation(conversation).profile
        for name in names:
            find_variant(self.paths, slug, name)
        if rows:
            self.store.hide_turns(conversation, rows[-1].n)
        self.send(conversation, slug, text, names, settings, blind=blind, score=score)

    def regenerate(
        self, conversation: int, settings: ReplySettings, column: str | None, *, score: bool = True
    ) -> None:
        """Answer the last question again, in one column or all.

        The likeliest answer would come out the same, so a preset without sampling is answered
        with the lively one; the card names the preset.
        """
        with self._lock:
            self._refuse_while_live(conversation)
            rows = self.store.turns(conversation)
            if not rows:
                return
            turn = self._turn(rows[-1])
            chosen = [c for c in turn.columns if column in (None, c.id)]
            seeds = [c.seed for c in turn.columns]
            for item in chosen:
                item.state, item.text, item.reason, item.error = "waiting", "", "", None
                item.score, item.cancelled = None, False
            turn.done = False
            profile = load_profile(self.paths, turn.profile)
            self._start(turn, chosen, profile, _another(settings, max(seeds) + 1), score)

    def stop(self, conversation: int, column: str | None = None) -> None:
        turn = self._live.get(conversation)
        if turn is not None:
            turn.cancel(column)

    def vote(self, conversation: int, turn_id: int, choice: str) -> None:
        """``choice`` is a column's letter, "tie" or "all-bad"; a second vote changes nothing."""
        turn = self._turn(self.store.turn(turn_id))
        if turn.vote or not turn.done:
            return
        column = turn.column(choice)
        shown = tuple(c.variant.name for c in turn.columns)
        name = column.variant.name if column else choice
        self.store.add_vote(store.Vote(conversation, turn_id, name, shown, turn.blind))
        turn.vote = choice
        turn.changed()

    def delete(self, conversation: int) -> None:
        self.stop(conversation)
        self._live.pop(conversation, None)
        self.store.delete_conversation(conversation)

    def export(self, conversation: int, kind: Literal["jsonl", "md"]) -> Path:
        """Write the conversation to a file under the workspace and return its path."""
        talk = self.store.conversation(conversation)
        language = load_profile(self.paths, talk.profile).language
        text = (
            export.as_jsonl(self.store, conversation)
            if kind == "jsonl"
            else export.as_markdown(self.store, conversation, language)
        )
        path = self.paths.workspace / "exports" / f"{talk.profile}-{conversation}.{kind}"
        write_text(path, text)
        return path

    # A turn's life

    def _refuse_while_live(self, conversation: int | None) -> None:
        turn = self._live.get(conversation) if conversation is not None else None
        if turn is not None and not turn.done:
            raise UserError(
                "The last question is still being answered. Stop it (Esc) or wait.",
                "前の質問にまだ答えている途中です。停止（Esc）するか、お待ちください。",
            )

    def _start(
        self,
        turn: Turn,
        columns: list[Column],
        profile: Profile,
        settings: ReplySettings,
        score: bool,
    ) -> None:
        self._turns[turn.id] = turn
        self._live[turn.conversation] = turn
        for column in columns:
            column.preset, column.seed = settings.preset.name, settings.preset.seed
        turn.stage = Text("Starting…", "準備しています…")
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
            self._stage(turn, None)
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
                    column.state = "writing"
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
        reason = "cancelled"
        try:
            messages = prepare_messages(
                profile, variant, turn.question, hits, settings, history.get(variant.name, ())
            )
            column.prompt = "\n\n".join(f"[{m.role}]\n{m.content}" for m in messages)
            column.weights = f"{variant.model} @ {variant.base_url}"
            self._stage(turn, None)
            for piece in chat_stream(messages, variant.model, settings.preset, variant.base_url):
                if column.cancelled:
                    break
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

    # What the store knows

    def _remember_order(self, row: store.Turn, order: list[Variant]) -> None:
        talk = self.store.conversation(row.conversation)
        orders = {**talk.settings.get("orders", {}), str(row.id): [v.name for v in order]}
        self.store.change_conversation(
            row.conversation, settings={**talk.settings, "orders": orders}
        )

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

    def _turn(self, row: store.Turn) -> Turn:
        """The turn in memory, else made again from the store."""
        with self._lock:
            if row.id not in self._turns:
                self._turns[row.id] = self._restore(row)
            return self._turns[row.id]

    def _restore(self, row: store.Turn) -> Turn:
        talk = self.store.conversation(row.conversation)
        replies = {reply.position: reply for reply in self.store.replies(row.id)}
        names = talk.settings.get("orders", {}).get(str(row.id)) or [
            reply.variant for _, reply in sorted(replies.items())
        ]
        turn = Turn(
            id=row.id,
            conversation=row.conversation,
            profile=talk.profile,
            language=load_profile(self.paths, talk.profile).language,
            question=row.question,
            columns=[],
            blind=row.blind,
            done=True,
        )
        for position, (letter, name) in enumerate(zip(letters(len(names)), names, strict=True)):
            turn.columns.append(self._restored(turn, letter, name, replies.get(position)))
        votes = [vote for vote in self.store.votes(row.conversation) if vote.turn == row.id]
        if votes:
            chosen = next((c.id for c in turn.columns if c.variant.name == votes[-1].choice), None)
            turn.vote = chosen or votes[-1].choice
        return turn

    def _restored(self, turn: Turn, letter: str, name: str, reply: store.Reply | None) -> Column:
        try:
            variant = find_variant(self.paths, turn.profile, name)
        except UserError:  # its checkpoint is gone; what it said stays readable
            variant = Variant(name=name, label_en=name, label_ja=name)
        column = Column(letter, variant, checkpoint_kind(self.paths, variant))
        if reply is None:
            column.state, column.reason, column.error = "failed", "error", INTERRUPTED
            return column
        column.state, column.reason, column.reply_id = "done", reply.stop_reason, reply.id
        column.text, column.hits = reply.text, list(reply.facts)
        column.prompt, column.prompt_tokens = reply.prompt, reply.prompt_tokens
        column.tokens, column.first, column.seconds = (
            reply.tokens,
            reply.first_seconds,
            reply.seconds,
        )
        column.weights, column.preset = reply.weights, reply.preset.get("name", "")
        column.seed, column.threshold = reply.preset.get("seed", 0), reply.preset.get("threshold")
        subject = store.subject_hash(turn.profile, turn.question, reply.text)
        judged = self.store.judgements(subject, rubric=RUBRIC)
        if judged:
            column.score = Judgement.display_from(judged[-1].rationale)
        return column


def _another(settings: ReplySettings, seed: int) -> ReplySettings:
    from charllm.core.generation import PRESETS

    preset = settings.preset if settings.preset.temperature > 0 else PRESETS["lively"]
    return settings.model_copy(update={"preset": preset.model_copy(update={"seed": seed})})


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


def ask(paths: Paths, variant_name: str, text: str, slug: str) -> dict[str, Any]:
    """One answer of one variant, without the dashboard: what ``chat`` on the command line prints."""
    from charllm.core.generation import generate_all
    from charllm.core.replying import Resident

    question = check_question(text)
    profile = load_profile(paths, slug)
    variant = find_variant(paths, slug, variant_name)
    settings = ReplySettings()
    found = find_facts(paths, profile, question, settings) if variant.rag else None
    if variant.base_url:
        return _ask_endpoint(profile, variant, question, found.hits if found else [], settings)
    resident = Resident(paths, variant.model)
    prepared = prepare(
        resident,
        profile,
        variant,
        question,
        found.hits if found else [],
        settings,
        column="A",
        threshold=found.threshold if found else None,
    )
    done = generate_all(resident.adapters, resident.tokenizer, [prepared.request])[0]
    return {
        "reply": done.text,
        "stopped": done.reason,
        "facts": [asdict(hit) for hit in prepared.hits],
        "prompt": prepared.prompt,
        "tokens": {"prompt": done.prompt_tokens, "reply": len(done.token_ids)},
        "weights": resident.fingerprint(variant, prepared.request.scales),
    }


def _ask_endpoint(
    profile: Profile,
    variant: Variant,
    question: str,
    hits: Sequence[Any],
    settings: ReplySettings,
) -> dict[str, Any]:
    from charllm.core.endpoint import Finish, chat_stream

    messages = prepare_messages(profile, variant, question, hits, settings)
    text, finish = "", None
    for piece in chat_stream(messages, variant.model, settings.preset, variant.base_url):
        if isinstance(piece, Finish):
            finish = piece
        else:
            text += piece
    return {
        "reply": text,
        "stopped": finish.reason if finish else "",
        "facts": [asdict(hit) for hit in hits],
        "prompt": "\n\n".join(f"[{m.role}]\n{m.content}" for m in messages),
        "tokens": {
            "prompt": finish.prompt_tokens if finish else None,
            "reply": finish.reply_tokens if finish else None,
        },
        "weights": f"{variant.model} @ {variant.base_url}",
    }
