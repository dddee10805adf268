"""Whether parents can be merged: compared by what they say of themselves, before weights are read.

The message names every field of config.json that differs, else the tensor or token.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from charllm.core.merging.headers import stored_shapes
from charllm.core.merging.tokenizer_source import has_rows
from charllm.core.merging.tokenizer_words import MODEL_FIELDS, read_words
from charllm.data.errors import UserError
from charllm.data.files import read_json, sha256_file

if TYPE_CHECKING:
    from charllm.core.merging.lora_files import Lora
    from charllm.core.merging.parents import Parent

SAME_FIELDS = (
    "model_type",
    "architectures",
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "tie_word_embeddings",
)
"""Fields of config.json that two parents must share to be averaged tensor by tensor."""


def check_parents(parents: Sequence[Parent], *, aligned: bool = False) -> dict[Path, Lora]:
    """The adapters by folder, if all parents fit together; no weight of a base is read.

    ``aligned``: their vocabularies are brought together (``tokenizer_source``), so that these may
    differ, and with them how many rows embeddings and head have.
    """
    from charllm.core.merging.lora_files import read_lora

    different = {(p.base, id(p.recipe) if p.recipe else 0): p for p in parents}
    first, *others = different.values()
    for other in others:
        odd = _odd_fields(first, other, ("vocab_size",) if aligned else ())
        if not aligned and odd in ([], ["vocab_size"]):
            _same_added_tokens(first.base, other.base, sized=not odd)
        if odd:
            values = [", ".join(f"{f} {p.config[f]}" for f in odd) for p in (first, other)]
            raise _differ(", ".join(odd), first.name, values[0], other.name, values[1])
        if not aligned:
            _same_vocabulary(first.base, other.base)
        _same_tensors(first, other, aligned)
    _same_origin([p.adapter for p in parents if p.adapter is not None])
    adapters: dict[Path, Lora] = {}
    for parent in parents:
        if parent.adapter is not None:
            adapters[parent.adapter] = read_lora(parent.adapter)
            _fits(adapters[parent.adapter], parent)
    return adapters


def _differ(what: str, first: object, a: object, second: object, b: object) -> UserError:
    return UserError(
        f"The parents cannot be merged: {what} differs ({first}: {a}, {second}: {b}). "
        "Choose parents made from the same base.",
        f"親どうしの {what} が異なるためマージできません（{first}: {a}、{second}: {b}）。"
        "同じベースから作った親を選んでください。",
    )


def _odd_fields(first: Parent, second: Parent, without: Sequence[str]) -> list[str]:
    """What both configs say differently; a field that one leaves out is left to the shapes."""
    one, two = first.config, second.config
    missing = object()
    return [
        field
        for field in SAME_FIELDS
        if field not in without
        and missing not in (a := one.get(field, missing), b := two.get(field, missing))
        and None not in (a, b)
        and a != b
    ]


def _same_added_tokens(first: Path, second: Path, sized: bool) -> None:
    """``UserError`` with the way out, where only added tokens keep two models apart.

    ``sized``: their embeddings have the same number of rows; then a token that only one of them
    has added may stand on a row that the other one does not use.
    """
    files = [folder / "tokenizer.json" for folder in (first, second)]
    if not all(file.is_file() for file in files) or sha256_file(files[0]) == sha256_file(files[1]):
        return
    one, two = (read_words(folder) for folder in (first, second))
    if any(one.model.get(field) != two.model.get(field) for field in MODEL_FIELDS):
        return
    names = {number: token for token, number in one.ids.items()}
    for token, number in two.ids.items():
        moved = one.ids.get(token, number) != number or names.get(number, token) != token
        if moved or (not sized and token not in one.ids):
            raise _added(first, second, token)
    for token in one.ids if not sized else ():
        if token not in two.ids:
            raise _added(first, second, token)


def _added(first: Path, second: Path, token: str) -> UserError:
    return UserError(
        f"The vocabularies of {first.name} and {second.name} differ by added tokens ({token!r} "
        "for one). Write tokenizer_source: union (or base) and base_model into the recipe.",
        f"{first.name} と {second.name} の語彙は追加トークンが異なります（例: 「{token}」）。"
        "レシピに tokenizer_source: union（または base）と base_model を書いてください。",
    )


def _same_vocabulary(first: Path, second: Path) -> None:
    files = [folder / "tokenizer.json" for folder in (first, second)]
    if not all(file.is_file() for file in files) or sha256_file(files[0]) == sha256_file(files[1]):
        return
    one, two = (read_json(file)["model"].get("vocab") for file in files)
    if one != two:
        changed = next((t for t in one if t not in two), "") if isinstance(one, dict) else ""
        raise _differ(f"the vocabulary {changed!r}", first.name, len(one), second.name, len(two))


def _same_tensors(first: Parent, second: Parent, aligned: bool) -> None:
    one, two = first.shapes, second.shapes
    if aligned:
        one, two = (
            {n: s[1:] if has_rows(n) else s for n, s in shapes.items()} for shapes in (one, two)
        )
    for name in sorted(one.keys() | two.keys()):
        if one.get(name) != two.get(name):
            raise _differ(name, first.name, one.get(name, "-"), second.name, two.get(name, "-"))


def _same_origin(adapters: Sequence[Path]) -> None:
    """Adapters whose cards name different base weights do not share a base, whatever its name."""
    known = [(a, read_json(a / "card.json")) for a in adapters if (a / "card.json").is_file()]
    for adapter, card in known[1:]:
        first, first_card = known[0]
        if card.get("base_hash") != first_card.get("base_hash"):
            raise _differ(
                "the base's weights hash",
                first.name,
                str(first_card.get("base_hash"))[:12],
                adapter.name,
                str(card.get("base_hash"))[:12],
            )


def _fits(lora: Lora, parent: Parent) -> None:
    shapes = stored_shapes(parent.base)
    for module, (down, up, _) in lora.pairs.items():
        made_for, has = (up.shape[0], down.shape[1]), shapes.get(f"{module}.weight")
        if has != made_for:
            what = f"the shape of {module}"
            raise _differ(what, lora.folder.name, made_for, parent.base.name, has or "-")
