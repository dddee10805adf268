"""The chat's server side: owns every turn, from the question to the last column's score.

A turn runs in threads of its own; pages look at it (``view``, ``live``) and may come and go.
Everything that was said goes to the store, so a restart finds it again. It does not decode
(core.generation), nor know how a page looks.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from charllm.core.replying import ReplySettings, check_question
from charllm.core.variants import Variant, checkpoint_kind, find_variant
from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.data.files import write_text
from charllm.data.profile import Profile, load_profile
from charllm.services import export, reply_edits, store
from charllm.services.restoring import language_of, restore
from charllm.services.running import Task, TurnRunner
from charllm.services.turns import Column, Turn, arrange, letters

MIN_COLUMNS, MAX_COLUMNS = 2, 6
RECENT = 32
"""Conversations whose turns are kept in memory; the others are read again when looked at."""


@dataclass
class _Talk:
    """A conversation's turns in memory, and the latest one that was asked in this process."""

    turns: dict[int, Turn] = field(default_factory=dict)
    live: Turn | None = None


class ChatService:
    """All conversations of one installation. Safe to call from any thread."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.store = store.Store(paths)
        self.runner = TurnRunner(paths, self.store)
        self._talks: dict[int, _Talk] = {}
        self._lock = threading.RLock()

    # What a page asks for

    def conversations(self, slug: str) -> list[store.Conversation]:
        return self.store.conversations(slug)

    def live(self, conversation: int | None) -> Turn | None:
        """The conversation's latest turn of this process, None if it has none."""
        talk = self._talks.get(conversation) if conversation is not None else None
        return talk.live if talk else None

    def view(self, conversation: int) -> list[dict[str, Any]]:
        """All visible turns, the oldest first, as the board draws them."""
        rows = self.store.turns(conversation)
        return [self._turn(row).as_json(last=row is rows[-1]) for row in rows]

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
        """Ask all columns and return the conversation; ``UserError`` before anything is stored."""
        return self._ask(conversation, slug, text, names, settings, blind, score)

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
        slug = self.store.conversation(conversation).profile
        self._ask(conversation, slug, text, names, settings, blind, score, replace=True)

    def regenerate(
        self, conversation: int, settings: ReplySettings, column: str | None, *, score: bool = True
    ) -> None:
        """Answer the last question again, in one column or all.

        The likeliest answer would come out the same, so a preset without sampling is answered
        with the lively one; the card names the preset. A column whose variant is gone fails.
        """
        with self._lock:
            self._refuse_while_live(conversation)
            rows = self.store.turns(conversation)
            if not rows:
                return
            turn = self._turn(rows[-1])
            profile = load_profile(self.paths, turn.profile)
            seed = max((c.seed for c in turn.columns), default=0) + 1
            chosen = [c for c in turn.columns if column in (None, c.id)]
            if not chosen:
                return
            fresh = [Column(c.id, c.variant, c.kind) for c in chosen]
            turn.open_again(fresh)
            for item in fresh:
                try:
                    item.variant = find_variant(self.paths, turn.profile, item.variant.name)
                    item.kind = checkpoint_kind(self.paths, item.variant)
                except UserError as error:
                    self.runner.endings.failed(turn, item, error)
            self._begin(Task(turn, fresh, profile, _another(settings, seed), score))

    def stop(self, conversation: int, column: str | None = None) -> None:
        turn = self.live(conversation)
        if turn is not None:
            self.runner.stop(turn, column)

    def vote(self, conversation: int, turn_id: int, choice: str) -> None:
        """``choice`` is a column's letter, "tie" or "all-bad"; a second vote changes nothing."""
        with self._lock:
            turn = self._turn(self.store.turn(turn_id))
            if turn.conversation != conversation or turn.vote or not turn.done:
                return
            column = turn.column(choice)
            shown = tuple(c.variant.name for c in turn.columns)
            name = column.variant.name if column else choice
            self.store.add_vote(store.Vote(conversation, turn_id, name, shown, turn.blind))
            turn.vote = choice
            turn.changed()

    def edit_reply(
        self, conversation: int, turn_id: int, column: str, text: str, seen: int | None = None
    ) -> None:
        """Let ``text`` stand for a column's answer; what the model said stays in the store.

        ``seen`` is the id of the reply that the editor saw. ``UserError`` for an empty text, while
        the turn is being answered, and where the answer is another by now.
        """
        text = reply_edits.check_reply(text)
        with self._lock:
            turn = self._turn_of(conversation, turn_id)
            shown = reply_edits.editable(turn, column, seen)
            row = self.store.reply(shown.reply_id or 0)
            self._replace_reply(turn, column, reply_edits.edited(self.store, row, text))

    def restore_reply(self, conversation: int, turn_id: int, column: str) -> None:
        """Go back from an edited answer to what the model said; the edit stays in the store."""
        with self._lock:
            turn = self._turn_of(conversation, turn_id)
            shown = reply_edits.editable(turn, column, None)
            row = self.store.reply(shown.reply_id or 0)
            original = reply_edits.original_of(self.store, row)
            self._replace_reply(turn, column, None if row == original else original)

    def delete(self, conversation: int) -> None:
        with self._lock:
            talk = self._talks.pop(conversation, None)
            if talk and talk.live:
                self.runner.endings.forget(talk.live)
            self.store.delete_conversation(conversation)

    def export(self, conversation: int, kind: Literal["jsonl", "md"]) -> Path:
        """Write the conversation to a file under the workspace and return its path."""
        talk = self.store.conversation(conversation)
        text = (
            export.as_jsonl(self.store, conversation)
            if kind == "jsonl"
            else export.as_markdown(self.store, conversation, language_of(self.paths, talk))
        )
        path = self.paths.workspace / "exports" / f"{talk.profile}-{conversation}.{kind}"
        write_text(path, text)
        return path

    def close(self) -> None:
        """Stop what is being answered and give the models back."""
        with self._lock:
            turns = [talk.live for talk in self._talks.values() if talk.live]
        for turn in turns:
            self.runner.stop(turn, None)
        self.runner.close()

    # How a question is asked

    def _ask(
        self,
        conversation: int | None,
        slug: str,
        text: str,
        names: Sequence[str],
        settings: ReplySettings,
        blind: bool,
        score: bool,
        replace: bool = False,
    ) -> int:
        question = check_question(text)
        profile = load_profile(self.paths, slug)
        variants = self._variants(slug, names)
        with self._lock:
            self._refuse_while_live(conversation)
            if conversation is None:
                conversation = self.store.add_conversation(slug, names).id
            elif self.store.conversation(conversation).profile != slug:
                raise UserError(
                    "This conversation is another character's. Begin a new one.",
                    "この会話は別の人物のものです。新しい会話を始めてください。",
                )
            earlier = self.store.turns(conversation)
            if replace and earlier:
                self.store.hide_turns(conversation, earlier[-1].n)
            row = self.store.add_turn(conversation, question, blind)
            order = arrange(variants, blind, seed=row.id)
            self._note(row, order, profile)
            columns = [
                Column(letter, variant, checkpoint_kind(self.paths, variant))
                for letter, variant in zip(letters(len(order)), order, strict=True)
            ]
            turn = Turn(
                row.id, conversation, slug, profile.language, question, columns, blind=blind
            )
            self._begin(Task(turn, columns, profile, settings, score))
        return conversation

    def _variants(self, slug: str, names: Sequence[str]) -> list[Variant]:
        names = list(dict.fromkeys(names))
        if not MIN_COLUMNS <= len(names) <= MAX_COLUMNS:
            raise UserError(
                f"Choose {MIN_COLUMNS} to {MAX_COLUMNS} columns.",
                f"列は {MIN_COLUMNS}〜{MAX_COLUMNS} 個選んでください。",
            )
        return [find_variant(self.paths, slug, name) for name in names]

    def _refuse_while_live(self, conversation: int | None) -> None:
        turn = self.live(conversation)
        if turn is not None and not turn.done:
            raise UserError(
                "The last question is still being answered. Stop it (Esc) or wait.",
                "前の質問にまだ答えている途中です。停止（Esc）するか、お待ちください。",
            )

    def _begin(self, task: Task) -> None:
        with self._lock:
            talk = self._talk(task.turn.conversation)
            talk.turns[task.turn.id] = talk.live = task.turn
        self.runner.start(task)

    def _note(self, row: store.Turn, order: list[Variant], profile: Profile) -> None:
        """Keep the order of the columns, and the language, should the profile be deleted."""
        known = self.store.conversation(row.conversation).settings
        orders = {**known.get("orders", {}), str(row.id): [v.name for v in order]}
        settings = {**known, "language": profile.language, "orders": orders}
        self.store.change_conversation(row.conversation, settings=settings)

    def _replace_reply(self, turn: Turn, column_id: str, reply: store.Reply | None) -> None:
        """Store a reply as the column's current one, and show the column as the store has it."""
        if reply is None:
            return
        self.store.add_reply(replace(reply, created=0.0, id=0))
        column = self._restored(self.store.turn(turn.id)).column(column_id)
        if column is not None:
            turn.put(column)

    # What is in memory

    def _turn(self, row: store.Turn) -> Turn:
        """The turn in memory, else made again from the store."""
        with self._lock:
            turns = self._talk(row.conversation).turns
            if row.id not in turns:
                turns[row.id] = self._restored(row)
            return turns[row.id]

    def _turn_of(self, conversation: int, turn_id: int) -> Turn:
        """``UserError`` where the conversation does not show this turn (any more)."""
        row = next((row for row in self.store.turns(conversation) if row.id == turn_id), None)
        if row is None:
            raise UserError(
                "This question is not in the conversation any more. Reload the page.",
                "この質問はもう会話にありません。ページを読み直してください。",
            )
        return self._turn(row)

    def _restored(self, row: store.Turn) -> Turn:
        turn = restore(self.paths, self.store, row)
        reply_edits.note_edits(self.store, turn)
        return turn

    def _talk(self, conversation: int) -> _Talk:
        """The conversation's place in memory; the ones not used for longest make room."""
        talk = self._talks.pop(conversation, None) or _Talk()
        for other in list(self._talks):
            settled = all(turn.settled for turn in self._talks[other].turns.values())
            if len(self._talks) >= RECENT and settled:
                del self._talks[other]
        self._talks[conversation] = talk
        return talk


def _another(settings: ReplySettings, seed: int) -> ReplySettings:
    from charllm.core.generation import PRESETS

    preset = settings.preset
    if preset.temperature == 0:
        limit = preset.max_new_tokens
        preset = PRESETS["lively"].model_copy(update={"max_new_tokens": limit})
    return settings.model_copy(update={"preset": preset.model_copy(update={"seed": seed})})
