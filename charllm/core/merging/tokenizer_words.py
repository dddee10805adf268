"""What a folder's tokenizer.json says of its tokens, and how two of them differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from charllm.core.merging.headers import text_config
from charllm.data.errors import UserError
from charllm.data.files import read_json

MODEL_FIELDS = ("type", "vocab", "merges", "unk_token", "byte_fallback")


@dataclass(frozen=True)
class Words:
    """A folder's tokenizer: each token's id, and the added ones as tokenizer.json spells them out.

    ``unused``: added tokens for which the model's embeddings have no row; they are left out.
    """

    folder: Path
    model: Mapping[str, Any]
    ids: Mapping[str, int]
    added: tuple[Mapping[str, Any], ...]
    unused: tuple[str, ...] = ()


def read_words(folder: Path) -> Words:
    """``UserError`` where there is no tokenizer.json, or its own tokens have no rows."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise UserError(
            f"{folder} has no tokenizer.json, which tokenizer_source reads. Load and save its "
            "tokenizer with transformers once.",
            f"{folder} に tokenizer.json がありません（tokenizer_source で使います）。"
            "transformers でトークナイザーを一度読み込んで保存してください。",
        )
    data = read_json(file)
    rows = float(text_config(folder)["vocab_size"]) if (folder / "config.json").is_file() else inf
    own = _vocabulary(data["model"])
    if own and max(own.values()) >= rows:
        raise UserError(
            f"{folder}: tokenizer.json names token {max(own.values())}, but the model has only "
            f"{rows:.0f} rows (vocab_size). Give it the tokenizer that it was made with.",
            f"{folder}: tokenizer.json に {max(own.values())} 番のトークンがありますが、モデルの"
            f"行は {rows:.0f} 行（vocab_size）です。元のトークナイザーを使ってください。",
        )
    every = sorted(data.get("added_tokens") or [], key=lambda one: int(one["id"]))
    added = tuple(one for one in every if int(one["id"]) < rows)
    ids = dict(own) | {one["content"]: int(one["id"]) for one in added}
    unused = tuple(one["content"] for one in every if int(one["id"]) >= rows)
    return Words(folder, data["model"], ids, added, unused)


def _vocabulary(model: Mapping[str, Any]) -> Mapping[str, int]:
    """Token → id; a unigram model lists its pieces in order instead."""
    found = model.get("vocab") or {}
    if isinstance(found, Mapping):
        return found
    return {piece: number for number, (piece, _) in enumerate(found)}


def only_added(first: Words, second: Words, one: str, two: str) -> None:
    """``UserError`` with the field where the tokenizers of ``one`` and ``two`` differ by more than
    added tokens."""
    for field in MODEL_FIELDS:
        a, b = first.model.get(field), second.model.get(field)
        if a != b:
            raise UserError(
                f"tokenizer_source: model.{field} of tokenizer.json differs ({one}, {two})"
                f"{_at(a, b)}. Only vocabularies that differ by added tokens can be brought "
                "together.",
                f"tokenizer_source: tokenizer.json の model.{field} が異なります（{one}、{two}）"
                f"{_at(a, b)}。追加トークンだけが異なる語彙でなければ揃えられません。",
            )


def _at(a: Any, b: Any) -> str:
    """The first token that one of two vocabularies has and the other has not, or elsewhere."""
    if not isinstance(a, dict) or not isinstance(b, dict):
        return ""
    odd = next((token for token in {**a, **b} if a.get(token) != b.get(token)), "")
    return f": {odd!r}"


def no_holes(words: Words) -> None:
    """``UserError`` where a number below the last one names no token."""
    missing = set(range(len(words.ids))) - set(words.ids.values())
    if missing:
        raise UserError(
            f"{words.folder}: tokenizer.json names no token {min(missing)}; tokenizer_source needs "
            "ids without gaps.",
            f"{words.folder}: tokenizer.json に {min(missing)} 番のトークンがありません。"
            "tokenizer_source には番号に抜けのないトークナイザーが必要です。",
        )
