"""What a base model has room for: tokens in a row, and ids. Rows beyond that are refused by name.

Never cut: a row that is cut loses its end token, and a reply without one never ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charllm.core.model_files import context_length, vocabulary_size
from charllm.data.errors import UserError

if TYPE_CHECKING:
    from charllm.data.prompts import Row

SHOWN = 5
"""Dialogues that a message names."""


@dataclass(frozen=True)
class Limits:
    """``context``: tokens in a row; ``vocabulary``: ids are below it. None: the base says none."""

    context: int | None = None
    vocabulary: int | None = None


NO_LIMITS = Limits()


def limits_of(folder: Path) -> Limits:
    """By the base model's configuration."""
    return Limits(context_length(folder), vocabulary_size(folder))


def check_lengths(
    rows: Sequence[Row], names: Sequence[str], max_length: int, limits: Limits
) -> None:
    """``UserError`` names the dialogues that are longer than the setting or the base allows."""
    long = _longer(rows, names, max_length)
    if long:
        most = limits.context
        raise UserError(
            f"{len(long)} of {len(rows)} dialogues are longer than max_length = {max_length} "
            f"tokens: {_listed(long)}. Cut, they would lose their end token: raise max_length"
            + (f" (this base takes {most} at most)" if most else "")
            + " or shorten them.",
            f"{len(rows)} 件中 {len(long)} 件の会話が max_length = {max_length} トークンを"
            f"超えています: {_listed(long)}。途中で切ると終了トークンが失われるため、max_length を"
            "大きくするか"
            + (f"（このベースの上限は {most}）" if most else "")
            + "、会話を短くしてください。",
        )
    long = _longer(rows, names, limits.context) if limits.context else []
    if long:
        raise UserError(
            f"{len(long)} of {len(rows)} dialogues are longer than the {limits.context} tokens "
            f"that the base model takes: {_listed(long)}. Shorten them or the system prompt, or "
            "choose a base with a longer context; max_length cannot help.",
            f"{len(rows)} 件中 {len(long)} 件の会話が、ベースモデルの上限 {limits.context} "
            f"トークンを超えています: {_listed(long)}。会話かシステムプロンプトを短くするか、"
            "より長い文脈を扱えるベースを選んでください（max_length では解決しません）。",
        )


def check_ids(rows: Sequence[Row], limits: Limits, tokenizer: Any) -> None:
    """``UserError`` names a token that the base model has no weights for."""
    highest = max((max(row.input_ids) for row in rows), default=0)
    if limits.vocabulary is None or highest < limits.vocabulary:
        return
    token = tokenizer.decode([highest])
    raise UserError(
        f"The tokenizer gives {token!r} the id {highest}, but the base model knows only ids below "
        f"{limits.vocabulary}: tokenizer and model do not belong together. Put the model's own "
        "tokenizer into its folder.",
        f"トークナイザーは「{token}」に ID {highest} を割り当てますが、ベースモデルが扱えるのは"
        f" {limits.vocabulary} 未満です。トークナイザーとモデルの組み合わせが正しくありません。"
        "モデル本来のトークナイザーをフォルダーに入れてください。",
    )


def _longer(rows: Sequence[Row], names: Sequence[str], limit: int) -> list[tuple[str, int]]:
    """``(dialogue id, tokens)`` of the rows of more than ``limit`` tokens."""
    found = zip(names, (len(row.input_ids) for row in rows), strict=True)
    return [(name, tokens) for name, tokens in found if tokens > limit]


def _listed(long: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{name} ({tokens})" for name, tokens in long[:SHOWN])
