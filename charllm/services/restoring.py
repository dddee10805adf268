"""Turns made again from the store, as a restart or another process finds them."""

from __future__ import annotations

from charllm.core.judging.score import Judgement
from charllm.core.variants import Variant, checkpoint_kind, find_variant
from charllm.data.config import Paths
from charllm.data.errors import Text, UserError
from charllm.data.profile import load_profile
from charllm.services import store
from charllm.services.running import RUBRIC
from charllm.services.turns import Column, Turn, letters

INTERRUPTED = Text(
    "This answer was cut off when the program ended. Regenerate it.",
    "プログラムの終了により、この答えは途中で切れました。再生成してください。",
)


def restore(paths: Paths, kept: store.Store, row: store.Turn) -> Turn:
    """The turn with its current replies, scores and vote."""
    talk = kept.conversation(row.conversation)
    replies = {reply.position: reply for reply in kept.replies(row.id)}
    names = talk.settings.get("orders", {}).get(str(row.id)) or [
        reply.variant for _, reply in sorted(replies.items())
    ]
    turn = Turn(
        id=row.id,
        conversation=row.conversation,
        profile=talk.profile,
        language=load_profile(paths, talk.profile).language,
        question=row.question,
        columns=[],
        blind=row.blind,
        done=True,
    )
    for position, (letter, name) in enumerate(zip(letters(len(names)), names, strict=True)):
        turn.columns.append(_column(paths, kept, turn, letter, name, replies.get(position)))
    votes = [vote for vote in kept.votes(row.conversation) if vote.turn == row.id]
    if votes:
        chosen = next((c.id for c in turn.columns if c.variant.name == votes[-1].choice), None)
        turn.vote = chosen or votes[-1].choice
    return turn


def _column(
    paths: Paths, kept: store.Store, turn: Turn, letter: str, name: str, reply: store.Reply | None
) -> Column:
    try:
        variant = find_variant(paths, turn.profile, name)
    except UserError:  # its checkpoint is gone; what it said stays readable
        variant = Variant(name=name, label_en=name, label_ja=name)
    column = Column(letter, variant, checkpoint_kind(paths, variant))
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
    judged = kept.judgements(subject, rubric=RUBRIC)
    if judged:
        column.score = Judgement.display_from(judged[-1].rationale)
    return column
