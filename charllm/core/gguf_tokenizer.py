"""A tokenizer's file in GGUF's terms: two kinds of byte-pair encoding are told apart.

SentencePiece's with bytes to fall back on (Llama 2, Mistral, Gemma) becomes ``llama`` with a score
for each piece; the byte-level one (Llama 3, Qwen) becomes ``gpt2`` with its merges and the name of
the rule that splits text into words. Anything else is refused: it would be read as other tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from charllm.data.errors import UserError
from charllm.data.files import read_json

# gguf.TokenType
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    _WORDS + r"\p{N}{1,3}" + _REST: "llama-bpe",
    _WORDS + r"\p{N}" + _REST: "qwen2",
}
"""By the pattern in tokenizer.json: what llama.cpp (``llama-vocab.cpp``) calls the same rule."""
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id with their types, and ``scores`` (model ``llama``) or ``merges`` (``gpt2``)."""

    model: str
    pre: str
    tokens: Sequence[str]
    types: Sequence[int]
    scores: Sequence[float] = ()
    merges: Sequence[str] = ()
    space_prefix: bool = False
    """Whether text begins with a space of its own (``▁``)."""


def read_vocabulary(folder: Path, rows: int) -> Vocabulary:
    """The vocabulary of the tokenizer in ``folder``, padded to ``rows`` of the embedding.

    ``UserError`` where the tokenizer is of a kind that GGUF's readers would split differently.
    """
    data = _tokenizer(folder)
    model = data.get("model") or {}
    vocab = {token: number for token, number in (model.get("vocab") or {}).items()}
    added = {entry["id"]: entry for entry in data.get("added_tokens") or ()}
    if model.get("type") != "BPE" or not vocab:
        _refuse(folder, str(model.get("type")))
    last = max([*vocab.values(), *added])
    if last >= rows:
        raise UserError(
            f"{folder.name}: the tokenizer has a token {last}, but the model has only {rows} "
            "rows. They do not belong together.",
            f"{folder.name}: トークナイザーに番号 {last} のトークンがありますが、モデルは "
            f"{rows} 行しかありません。組み合わせが正しくありません。",
        )
    by_id = {number: token for token, number in vocab.items()}
    by_id |= {number: entry["content"] for number, entry in added.items()}
    tokens = [by_id.get(number, f"[PAD{number}]") for number in range(rows)]
    types = [_type(number, by_id, added, model) for number in range(rows)]
    pairs = [tuple(p.split(" ", 1)) if isinstance(p, str) else tuple(p) for p in model["merges"]]
    if model.get("byte_fallback"):
        scores = _scores(folder, pairs, vocab, rows)
        return Vocabulary("llama", "default", tokens, types, scores, (), _prefixes(folder, data))
    pre = _split_rule(folder, data)
    return Vocabulary("gpt2", pre, tokens, types, (), [" ".join(pair) for pair in pairs])


def _tokenizer(folder: Path) -> Mapping[str, Any]:
    """tokenizer.json, or what the tokenizer's own class makes of its other files."""
    if (folder / "tokenizer.json").is_file():
        found: dict[str, Any] = read_json(folder / "tokenizer.json")
        return found
    from charllm.core.models import load_tokenizer

    inner = getattr(load_tokenizer(folder), "backend_tokenizer", None)
    if inner is None:
        _refuse(folder, "slow")
    made: dict[str, Any] = json.loads(inner.to_str())
    return made


def _type(
    number: int,
    by_id: Mapping[int, str],
    added: Mapping[int, Mapping[str, Any]],
    model: Mapping[str, Any],
) -> int:
    token = by_id.get(number)
    if token is None:
        return UNUSED
    if token == model.get("unk_token"):
        return UNKNOWN
    if number in added:
        return CONTROL if added[number].get("special") else USER_DEFINED
    return BYTE if model.get("byte_fallback") and _BYTE.fullmatch(token) else NORMAL


def _scores(
    folder: Path, pairs: Sequence[tuple[str, ...]], vocab: Mapping[str, int], rows: int
) -> list[float]:
    """SentencePiece merges what makes the piece of the highest score; a merge's rank is its minus.

    In a file made from SentencePiece all ways to make one piece stand together, since they share
    its score. Pieces of nothing but spaces may be mixed: they have one score, the lowest. Where
    others are, the file was not made so, and no score for each piece means the same.
    """
    scores = [-float(len(pairs) + number) for number in range(rows)]
    spaces: set[str] = set()
    seen: set[str] = set()
    before = ""
    for rank, (left, right) in enumerate(pairs):
        piece = left + right
        if piece in seen and piece != before:
            if piece.strip("▁"):
                _refuse(folder, f"BPE, {piece!r}")
            spaces.add(piece)
        elif piece not in seen:
            seen.add(piece)
            scores[vocab[piece]] = -float(rank)
        before = piece
    for piece in spaces:
        scores[vocab[piece]] = -float(len(pairs))
    return scores


def _prefixes(folder: Path, data: Mapping[str, Any]) -> bool:
    """Whether a space is put before any text. Spaces become ``▁``, nothing else is changed."""
    steps = _flat(data.get("normalizer"), "normalizers")
    steps += _flat(data.get("pre_tokenizer"), "pretokenizers")
    prefixed = False
    for step in steps:
        kind = step.get("type")
        if kind == "Prepend" and step.get("prepend") == "▁":
            prefixed = True
        elif kind == "Metaspace" and step.get("replacement", "▁") == "▁":
            prefixed = step.get("prepend_scheme", "always") != "never"
        elif not (kind in ("Replace", "Split") and step.get("pattern") == {"String": " "}):
            _refuse(folder, f"{kind}")
    return prefixed


def _split_rule(folder: Path, data: Mapping[str, Any]) -> str:
    """llama.cpp's name for the rule that splits text before it is merged."""
    normal = _flat(data.get("normalizer"), "normalizers")
    if any(step.get("type") != "NFC" for step in normal):
        _refuse(folder, str(normal[0].get("type")))
    steps = _flat(data.get("pre_tokenizer"), "pretokenizers")
    if not steps or steps[-1].get("type") != "ByteLevel" or steps[-1].get("add_prefix_space"):
        _refuse(folder, "BPE")
    if len(steps) == 1 and steps[0].get("use_regex", True):
        return "gpt-2"
    patterns = [step.get("pattern", {}).get("Regex", "") for step in steps[:-1]]
    if len(patterns) == 1 and patterns[0] in SPLITS and not steps[-1].get("use_regex", True):
        return SPLITS[patterns[0]]
    _refuse(folder, " ".join(patterns)[:60] or "BPE")


def _flat(step: Any, inner: str) -> list[dict[str, Any]]:
    """The steps of a sequence, or the one step there is."""
    if not step:
        return []
    return list(step[inner]) if step.get("type") == "Sequence" else [step]


def _refuse(folder: Path, what: str) -> NoReturn:
    raise UserError(
        f"{folder.name} has a tokenizer ({what}) that cannot be written as GGUF here: programs "
        "that read the file would split text into other tokens. Export it as merged, and convert "
        "that with llama.cpp's own converter.",
        f"{folder.name} のトークナイザー（{what}）は、ここでは GGUF に書き出せません。読み込む側で"
        "別のトークンに分割されてしまいます。merged で書き出し、llama.cpp の変換ツールを"
        "使ってください。",
    )
