"""The end of a column: kept in the store, then scored; the end of the last one ends the turn.

Threads of engines, endpoints and scores meet here. A column ends exactly once, whoever comes
first. It does not know how replies are made.
"""

from __future__ import annotations

import logging
import sqlite3

from charllm.core.judging.score import Judgement
from charllm.data.config import Paths
from charllm.data.errors import Text, UserError
from charllm.services import store
from charllm.services.scoring import LiveScorer
from charllm.services.turns import Column, Turn

log = logging.getLogger(__name__)

RUBRIC = "live"
OURS = Text(
    "Something went wrong on our side; the terminal has the details. Try again.",
    "内部でエラーが起きました。詳細は端末に出ています。もう一度お試しください。",
)


class Endings:
    """Ends columns; safe to call from any thread."""

    def __init__(self, paths: Paths, kept: store.Store) -> None:
        self.store = kept
        self.scorer = LiveScorer(paths)

    def done(self, turn: Turn, column: Column, reason: str, score: bool) -> None:
        """The column's text is complete: keep it, then let it be scored."""
        self._end(turn, column, reason, None, score and reason != "cancelled")

    def failed(self, turn: Turn, column: Column, error: Exception) -> None:
        """The column cannot be answered; what it has written so far is kept with the reason."""
        if not isinstance(error, UserError):
            log.error("column %s failed", column.variant.name, exc_info=error)
        self._end(turn, column, "error", _words(error), False)

    def forget(self, turn: Turn) -> None:
        """Stop a turn whose conversation is being deleted; nothing of it is stored from now on."""
        turn.cancel()
        with turn.ending:
            turn.deleted = True

    def _end(
        self, turn: Turn, column: Column, reason: str, error: Text | None, score: bool
    ) -> None:
        with turn.ending:
            if column.finished:
                return
            reply_id = None
            if not turn.deleted:
                try:
                    row = _reply(turn, column, reason, error)
                    reply_id = self.store.add_reply(row).id
                except (sqlite3.Error, UnicodeError) as problem:
                    # A full disk, or text that is none: the page still gets an end, and is told.
                    log.error("a reply could not be stored", exc_info=problem)
                    error, score = error or _not_kept(problem), False
            with turn.lock:
                column.reply_id, column.reason, column.error = reply_id, reason, error
                column.state = "failed" if error else "done"
                if score:
                    column.score = {"state": "waiting"}
                    turn.scoring += 1
                if all(c.finished for c in turn.columns):
                    turn.done, turn.stage = True, None
                turn.version += 1
        if score:
            self.scorer.submit(
                turn.profile,
                turn.question,
                column.text,
                reason,
                lambda result: self._scored(turn, column, result),
            )

    def _scored(self, turn: Turn, column: Column, result: Judgement | Exception) -> None:
        if isinstance(result, Judgement):
            try:
                self.store.add_judgement(_judgement(turn, column.text, result))
            except sqlite3.Error as error:  # shown all the same; only a restart will not find it
                log.error("a score could not be stored", exc_info=error)
            shown = result.as_json()
        else:
            if not isinstance(result, UserError):
                log.error("scoring failed", exc_info=result)
            shown = {"state": "done", "value": None, "unscored": _words(result).as_json()}
        with turn.lock:
            column.score = shown
            turn.scoring -= 1
            turn.version += 1


def _words(error: Exception) -> Text:
    return error.text if isinstance(error, UserError) else OURS


def _not_kept(problem: Exception) -> Text:
    return Text(
        f"This answer could not be stored ({problem}). It is gone when you reload the page.",
        f"この答えを保存できませんでした（{problem}）。ページを読み直すと消えます。",
    )


def _reply(turn: Turn, column: Column, reason: str, error: Text | None) -> store.Reply:
    preset = {"name": column.preset, "seed": column.seed, "threshold": column.threshold}
    if error:
        preset["error"] = error.as_json()
    return store.Reply(
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
        preset=preset,
    )


def _judgement(turn: Turn, text: str, judged: Judgement) -> store.Judgement:
    return store.Judgement(
        subject=store.subject_hash(turn.profile, turn.question, text),
        rubric=RUBRIC,
        rubric_version=judged.version,
        judge=judged.judge,
        score=judged.score,
        unscored_reason=judged.unscored.en if judged.unscored else "",
        rationale=judged.as_text(),
        flaws=tuple(finding.code for finding in judged.gate),
    )
