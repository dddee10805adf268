"""Turns made again from the store, as a restart or another process finds them.

What was said stays readable, whatever became of the profile and of the checkpoints.
"""

from __future__ import annotations

from charllm.core.judging.score import Judgement
from charllm.core.variants import Variant, checkpoint_kind, list_variants
from charllm.data.config import Paths
from charllm.data.errors import Language, Text, UserError
from charllm.data.profile import load_profile
from charllm.data.text import script_shares
from charllm.services import store
from charllm.services.ending import RUBRIC
from charllm.services.turns import Column, Turn, letters

INTERRUPTED = Text(
    "This answer was cut off when the program ended. Regenerate it.",
    "プログラムの終了により、この答えは途中で切れました。再生成してください。",
)


def language_of(paths: Paths, talk: store.Conversation) -> Language:
    """The character's language; of a deleted character the one that its conversation notes."""
    try:
        return load_profile(paths, talk.profile).language
    except UserError:
        noted: Language | None = talk.settings.get("language")
        return noted or ("ja" if script_shares(talk.title)["ja"] else "en")


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
        language=language_of(paths, talk),
        question=row.question,
        columns=[],
        blind=row.blind,
        done=True,
    )
    known = {variant.name: variant for variant in list_variants(paths, talk.profile)}
    for position, (letter, name) in enumerate(zip(letters(len(names)), names, strict=True)):
        reply = replies.get(position)
        variant = known.get(name) or _lost(name, reply)
        kind = checkpoint_kind(paths, variant) if name in known else "adapter"
        turn.columns.append(_column(kept, turn, Column(letter, variant, kind), reply))
    votes = [vote for vote in kept.votes(row.conversation) if vote.turn == row.id]
    if votes:
        chosen = next((c.id for c in turn.columns if c.variant.name == votes[-1].choice), None)
        turn.vote = chosen or votes[-1].choice
    return turn


def _lost(name: str, reply: store.Reply | None) -> Variant:
    """Stands for a variant that is gone; it can be shown, never asked."""
    return Variant(
        name=name,
        label_en=f"{name} (deleted)",
        label_ja=f"{name}（削除済み）",
        rag=bool(reply and reply.facts),
    )


def _column(kept: store.Store, turn: Turn, column: Column, reply: store.Reply | None) -> Column:
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
    if error := reply.preset.get("error"):
        column.state, column.error = "failed", Text(error["en"], error["ja"])
        return column
    subject = store.subject_hash(turn.profile, turn.question, reply.text)
    judged = kept.judgements(subject, rubric=RUBRIC)
    if judged and reply.stop_reason != "cancelled":
        column.score = Judgement.display_from(judged[-1].rationale)
    return column
