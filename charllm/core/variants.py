"""A variant: which weights answer, with which prompt policy. A column of the chat is a variant.

What weights a checkpoint stands for is read from its folder: an adapter is itself, a recipe over
adapters is a row of coefficients. It does not know how replies are decoded or shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from charllm.core.catalog import EMBEDDED
from charllm.data.config import Config, Paths
from charllm.data.errors import Language, Text, UserError
from charllm.data.files import read_json, write_json

Quantization = Literal["none", "nf4"]
Kind = Literal["base", "adapter", "recipe", "endpoint"]


class Variant(Config):
    """One column. ``checkpoint`` "" is the base itself; ``base_url`` makes it a remote endpoint.

    ``model`` is an id of the catalog, a hub id or a folder, loaded in 16 bits or in 4 ("nf4").
    """

    name: str = Field(min_length=1)
    label_en: str
    label_ja: str
    model: str = EMBEDDED
    checkpoint: str = ""
    rag: bool = False
    prompt_language: Language | None = None
    base_url: str = ""
    quantization: Quantization = "none"

    @property
    def label(self) -> Text:
        return Text(self.label_en, self.label_ja)


@dataclass(frozen=True)
class Checkpoint:
    """What ``checkpoints/<name>`` holds. ``weights`` gives each adapter's coefficient(s).

    They are {} where an endpoint's service keeps them.
    """

    name: str
    folder: Path
    kind: Kind
    model: str
    profile: str
    label: Text
    weights: Mapping[str, float | tuple[float, ...]]
    card: Mapping[str, Any]


def load_checkpoint(paths: Paths, name: str) -> Checkpoint:
    """The checkpoint; ``UserError`` where its folder or a file of it is missing."""
    folder = paths.checkpoints / name
    if name not in list_checkpoints(paths):
        known = ", ".join(list_checkpoints(paths)) or "-"
        raise UserError(
            f"There is no checkpoint {name!r} in {paths.checkpoints}. Known: {known}.",
            f"チェックポイント「{name}」が {paths.checkpoints} にありません。あるもの: {known}。",
        )
    card, common = _read_card(folder)
    remote = common.pop("base_url")
    common |= {"name": name, "folder": folder, "card": card}
    if remote:
        return Checkpoint(kind="endpoint", weights={}, **common)
    if (folder / "recipe.yaml").is_file():
        from charllm.core.merging.recipe import adapter_weights

        return Checkpoint(kind="recipe", weights=adapter_weights(folder / "recipe.yaml"), **common)
    if not (folder / "adapter_model.safetensors").is_file():
        raise UserError(
            f"{folder} has no adapter_model.safetensors: the checkpoint is incomplete. Train it "
            "again or restore the file.",
            f"{folder} に adapter_model.safetensors がなく、チェックポイントが不完全です。"
            "学習し直すか、ファイルを元に戻してください。",
        )
    return Checkpoint(kind="adapter", weights={name: 1.0}, **common)


def checkpoint_kind(paths: Paths, variant: Variant) -> str:
    """ "base", "rag", "adapter", "recipe" or "endpoint": what the page colours a column by."""
    if variant.base_url:
        return "endpoint"
    if not variant.checkpoint:
        return "rag" if variant.rag else "base"
    recipe = paths.checkpoints / variant.checkpoint / "recipe.yaml"
    return "recipe" if recipe.is_file() else "adapter"


def list_checkpoints(paths: Paths) -> list[str]:
    """Names of the folders in ``checkpoints/`` that hold a card, sorted.

    A hidden folder is one that is just being published.
    """
    if not paths.checkpoints.is_dir():
        return []
    folders = (f for f in paths.checkpoints.iterdir() if not f.name.startswith("."))
    return sorted(f.name for f in folders if (f / "card.json").is_file())


def _read_card(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """``card.json`` as it is, and what it says of model, server, profile and label."""
    card = read_json(folder / "card.json")
    label = card.get("label") or folder.name if isinstance(card, dict) else None
    if isinstance(label, str):
        label = {"en": label, "ja": label}
    if not isinstance(card, dict) or not isinstance(label, dict):
        raise UserError(
            f"{folder / 'card.json'} is no checkpoint's card. Publish the checkpoint again.",
            f"{folder / 'card.json'} はチェックポイントのカードではありません。"
            "チェックポイントを作り直してください。",
        )
    text = Text(str(label.get("en", folder.name)), str(label.get("ja", folder.name)))
    common = {"profile": str(card.get("profile", "")), "label": text}
    if card.get("kind") == "endpoint":  # a service keeps the weights; it is asked by their name
        return card, common | {
            "model": str(card.get("model", "")),
            "base_url": str(card.get("base_url", "")),
        }
    return card, common | {"model": str(card.get("base", EMBEDDED)), "base_url": ""}


def endpoints_file(paths: Paths) -> Path:
    return paths.workspace / "endpoints.json"


def load_endpoints(paths: Paths) -> list[Variant]:
    """Remote endpoints the user has added; no key is ever stored with them."""
    path = endpoints_file(paths)
    if not path.is_file():
        return []
    rows = read_json(path)
    if not isinstance(rows, list):
        raise UserError(
            f"{path} is no list of endpoints. Delete it and add them again.",
            f"{path} がエンドポイントの一覧ではありません。削除して登録し直してください。",
        )
    return [Variant.from_data(row, str(path)) for row in rows]


def save_endpoints(paths: Paths, endpoints: list[Variant]) -> None:
    write_json(endpoints_file(paths), [variant.model_dump() for variant in endpoints])


def list_variants(paths: Paths, slug: str) -> list[Variant]:
    """All variants for one character: base, RAG, each of its checkpoints with and without RAG.

    Names differ. An incomplete checkpoint is listed as well: asking it says what it lacks.
    """
    variants = [
        Variant(name="base", label_en="Base", label_ja="ベース"),
        Variant(name="rag", label_en="Base + RAG", label_ja="ベース + RAG", rag=True),
    ]
    for name in list_checkpoints(paths):
        try:
            card = _read_card(paths.checkpoints / name)[1]
        except UserError:  # a broken card must not hide the others; load_checkpoint says so
            card = {"model": EMBEDDED, "profile": "", "label": Text(name, name), "base_url": ""}
        if card["profile"] in ("", slug):
            en, ja = card["label"]
            plain = Variant(
                name=name,
                label_en=en,
                label_ja=ja,
                model=card["model"],
                checkpoint=name,
                base_url=card["base_url"],
            )
            rag = {"name": f"{name}-rag", "label_en": f"{en} + RAG", "label_ja": f"{ja} + RAG"}
            variants += [plain, plain.model_copy(update={**rag, "rag": True})]
    return _distinct(variants + load_endpoints(paths))


def _distinct(variants: list[Variant]) -> list[Variant]:
    """A later variant whose name is taken (a checkpoint called "rag") gets a + behind its name."""
    taken: set[str] = set()
    named = []
    for variant in variants:
        name = variant.name
        while name in taken:
            name += "+"
        taken.add(name)
        named.append(variant if name == variant.name else variant.model_copy(update={"name": name}))
    return named


def find_variant(paths: Paths, slug: str, name: str) -> Variant:
    variants = list_variants(paths, slug)
    for variant in variants:
        if variant.name == name:
            return variant
    known = ", ".join(v.name for v in variants)
    raise UserError(
        f"There is no variant {name!r} for {slug}. Known: {known}.",
        f"{slug} に「{name}」という構成はありません。あるもの: {known}。",
    )


def default_columns(paths: Paths, slug: str) -> list[str]:
    """The four columns of the study: base, RAG, fine-tuned, and merged with RAG.

    A character without checkpoints gets the first two.
    """
    names = ["base", "rag"]
    mine: dict[str, Variant] = {}
    for variant in list_variants(paths, slug):
        folder = paths.checkpoints / variant.checkpoint
        own = variant.checkpoint and _profile_of(folder) == slug
        if own and (folder / "recipe.yaml").is_file():
            mine.setdefault("merged-rag" if variant.rag else "merged", variant)
        elif own and (folder / "adapter_model.safetensors").is_file():
            mine.setdefault("tuned-rag" if variant.rag else "tuned", variant)
    if "tuned" in mine:
        names.append(mine["tuned"].name)
    if last := mine.get("merged-rag") or mine.get("tuned-rag"):
        names.append(last.name)
    return names


def _profile_of(folder: Path) -> str:
    try:
        return str(_read_card(folder)[1]["profile"])
    except UserError:  # nobody's: it is not offered by itself
        return ""
