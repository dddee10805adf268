"""Whether parents can be merged: compared by what they say of themselves, before weights are read.

The message names every field of config.json that differs, else the tensor or token.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from charllm.core.merging.headers import stored_shapes
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


def check_parents(parents: Sequence[Parent]) -> dict[Path, Lora]:
    """The adapters by folder, if all parents fit together; no weight of a base is read."""
    from charllm.core.merging.lora_files import read_lora

    different = {(p.base, id(p.recipe) if p.recipe else 0): p for p in parents}
    first, *others = different.values()
    for other in others:
        _same_architecture(first, other)
        _same_vocabulary(first.base, other.base)
        _same_tensors(first, other)
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


def _same_architecture(first: Parent, second: Parent) -> None:
    """Compare what both configs say; a field that one leaves out is left to the shapes."""
    one, two = first.config, second.config
    missing = object()
    odd = [
        field
        for field in SAME_FIELDS
        if missing not in (a := one.get(field, missing), b := two.get(field, missing))
        and None not in (a, b)
        and a != b
    ]
    if odd:
        values = [", ".join(f"{f} {config[f]}" for f in odd) for config in (one, two)]
        raise _differ(", ".join(odd), first.name, values[0], second.name, values[1])


def _same_vocabulary(first: Path, second: Path) -> None:
    files = [folder / "tokenizer.json" for folder in (first, second)]
    if not all(file.is_file() for file in files) or sha256_file(files[0]) == sha256_file(files[1]):
        return
    one, two = (read_json(file)["model"].get("vocab") for file in files)
    if one != two:
        changed = next((t for t in one if t not in two), "") if isinstance(one, dict) else ""
        raise _differ(f"the vocabulary {changed!r}", first.name, len(one), second.name, len(two))


def _same_tensors(first: Parent, second: Parent) -> None:
    one, two = first.shapes, second.shapes
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
