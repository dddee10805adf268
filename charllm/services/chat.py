"""The chat's server side: owns every turn, from the question to the last column's score.

A turn runs in threads of its own; pages look at it (``view``, ``live``) and may come and go.
Everything that was said goes to the store, so a restart finds it again. It does not decode
(core.generation), nor know how a page looks.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from charllm.core.replying import ReplySettings, check_question
from charllm.core.variants import Variant, checkpoint_kind, find_variant
from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.data.files import write_text
from charllm.data.profile import Profile, load_profile
from charllm.services import export, store
from charllm.services.restoring import restore
from charllm.services.running import TurnRunner
from charllm.services.turns import Column, Turn, arrange, letters

MIN_COLUMNS, MAX_COLUMNS = 2, 6


class ChatService:
    """All conversations of one installation. Safe to call from any thread."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.store = store.Store(paths)
        self.runner = TurnRunner(paths, self.store)
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
        """Ask all columns and return the conversation; ``UserError`` before anything starts."""
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
            self._begin(turn, columns, profile, settings, score)
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
            self._begin(turn, chosen, profile, _another(settings, max(seeds) + 1), score)

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

    # What the store knows

    def _refuse_while_live(self, conversation: int | None) -> None:
        turn = self._live.get(conversation) if conversation is not None else None
        if turn is not None and not turn.done:
            raise UserError(
                "The last question is still being answered. Stop it (Esc) or wait.",
                "前の質問にまだ答えている途中です。停止（Esc）するか、お待ちください。",
            )

    def _begin(
        self,
        turn: Turn,
        columns: list[Column],
        profile: Profile,
        settings: ReplySettings,
        score: bool,
    ) -> None:
        self._turns[turn.id] = turn
        self._live[turn.conversation] = turn
        self.runner.start(turn, columns, profile, settings, score)

    def _remember_order(self, row: store.Turn, order: list[Variant]) -> None:
        talk = self.store.conversation(row.conversation)
        orders = {**talk.settings.get("orders", {}), str(row.id): [v.name for v in order]}
        self.store.change_conversation(
            row.conversation, settings={**talk.settings, "orders": orders}
        )

    def _turn(self, row: store.Turn) -> Turn:
        """The turn in memory, else made again from the store."""
        with self._lock:
            if row.id not in self._turns:
                self._turns[row.id] = restore(self.paths, self.store, row)
            return self._turns[row.id]


def _another(settings: ReplySettings, seed: int) -> ReplySettings:
    from charllm.core.generation import PRESETS

    preset = settings.preset if settings.preset.temperature > 0 else PRESETS["lively"]
    return settings.model_copy(update={"preset": preset.model_copy(update={"seed": seed})})
