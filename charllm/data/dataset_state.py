"""One dataset's files: what they come to, whether they fit together, and how they are written.

``datasets/<name>.jsonl`` holds the rows, ``cards/<name>.yaml`` the card, ``originals/<name>.jsonl``
the rows as they came, ``originals/<name>.edits.jsonl`` the hand edits. It does not know what a
change means, nor who may make one; ``collection`` does.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from charllm.data.config import Paths
from charllm.data.dataset_card import DatasetCard, Step, card_path
from charllm.data.dialogue import (
    Dialogue,
    data_hash,
    dataset_path,
    list_datasets,
    load_dialogues,
    save_dialogues,
)
from charllm.data.errors import UserError
from charllm.data.files import sha256, write_bytes
from charllm.data.preparing import prepare
from charllm.data.profile import list_profiles, load_profile
from charllm.data.row_edits import Edits, apply_edits, parse_edits, whole_lines
from charllm.data.text import script_shares

KEPT_IN_MEMORY = 4
"""So many datasets stay parsed, until one of their files changes."""


@dataclass(frozen=True)
class Dataset:
    """One dataset as it stands. ``dialogues`` are the rows that training and judging use.

    ``outside`` is true where another program changed the rows, or the originals are gone: then
    nothing is changed until the user has decided. ``stale`` is true where a crash left rows or
    hashes that have to be written again. The lists are shared: read them only.
    """

    name: str
    card: DatasetCard
    originals: list[Dialogue]
    dialogues: list[Dialogue]
    edits: Edits = field(default_factory=Edits)
    has_card: bool = True
    outside: bool = False
    stale: bool = False
    prepared: list[Dialogue] | None = field(default=None, repr=False)
    """The rows after the steps and before the hand edits; None until somebody needs them."""

    @property
    def edited(self) -> tuple[str, ...]:
        """The ids of the rows that were changed or deleted by hand."""
        return tuple(self.edits.current)

    @property
    def waiting(self) -> tuple[str, ...]:
        """Edited rows that the present steps have taken away; their edits come back with them."""
        present = {row.id for row in self.dialogues}
        kept = (id for id, item in self.edits.current.items() if item.messages is not None)
        return tuple(id for id in kept if id not in present)

    @property
    def can_undo(self) -> bool:
        return bool(self.edits.done)

    @property
    def can_redo(self) -> bool:
        return bool(self.edits.undone)


def originals_path(paths: Paths, name: str) -> Path:
    return paths.datasets / "originals" / dataset_path(paths, name).name


def edits_path(paths: Paths, name: str) -> Path:
    return originals_path(paths, name).with_suffix(".edits.jsonl")


def dropped_path(paths: Paths, name: str) -> Path:
    """Where the rows lie that a filter took out of the dataset."""
    return paths.datasets / "dropped" / dataset_path(paths, name).name


def files_of(paths: Paths, name: str) -> list[Path]:
    """Every file a dataset may have, the rows first."""
    return [
        dataset_path(paths, name),
        card_path(paths, name),
        originals_path(paths, name),
        edits_path(paths, name),
        dropped_path(paths, name),
    ]


# Reading

_memory: OrderedDict[Path, tuple[tuple[object, ...], Dataset]] = OrderedDict()
_memory_lock = threading.Lock()


def read(paths: Paths, name: str) -> Dataset:
    """The dataset as its files stand; nothing is written. ``UserError`` where it cannot be read.

    Parsed rows are kept in memory until a file changes.
    """
    key, signature = dataset_path(paths, name), _signature(paths, name)
    with _memory_lock:
        known = _memory.get(key)
        if known and known[0] == signature:
            _memory.move_to_end(key)
            return known[1]
    dataset = _read(paths, name)
    remember(paths, dataset, signature)
    return dataset


def remember(
    paths: Paths, dataset: Dataset, signature: tuple[object, ...] | None = None
) -> Dataset:
    """Keep what the files hold, as of ``signature``, or as of now."""
    with _memory_lock:
        key = dataset_path(paths, dataset.name)
        _memory[key] = (signature or _signature(paths, dataset.name), dataset)
        _memory.move_to_end(key)
        while len(_memory) > KEPT_IN_MEMORY:
            _memory.popitem(last=False)
    return dataset


def _signature(paths: Paths, name: str) -> tuple[object, ...]:
    found: list[object] = []
    for path in files_of(paths, name)[:4]:
        try:
            stat = path.stat()
        except FileNotFoundError:
            found.append(None)
        else:
            # The number tells one atomic write from the next where both fall into one clock tick.
            found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return tuple(found)


def _read(paths: Paths, name: str) -> Dataset:
    path = dataset_path(paths, name)
    if not path.is_file():
        known = ", ".join(list_datasets(paths)) or "-"
        raise UserError(
            f"There is no dataset {name!r}. Known: {known}.",
            f"データセット「{name}」がありません。あるもの: {known}。",
        )
    rows = load_dialogues(path)
    if not card_path(paths, name).is_file():
        return Dataset(name, first_card(paths, name, rows), rows, rows, has_card=False)
    card = DatasetCard.load(card_path(paths, name))
    if not originals_path(paths, name).is_file():
        return Dataset(name, card, rows, rows, outside=True)
    return _settle(paths, name, card, rows)


def _settle(paths: Paths, name: str, card: DatasetCard, rows: list[Dialogue]) -> Dataset:
    """Compare the rows with what they should be, making them again only where that is needed."""
    found = hash_of(rows, str(dataset_path(paths, name)))
    if found == card.data_hash and made_from(paths, name, card.steps) == card.made_from:
        originals = load_dialogues(originals_path(paths, name))
        return Dataset(name, card, originals, rows, read_edits(paths, name))
    dataset = derive(paths, name, card)
    # Ours are the rows that should be there now, and those last written in full.
    if found not in (data_hash(dataset.dialogues), card.data_hash):
        return Dataset(name, card, dataset.originals, rows, dataset.edits, outside=True)
    return dataset


def derive(paths: Paths, name: str, card: DatasetCard) -> Dataset:
    """The rows made again from the originals, the card's steps and the hand edits: stale."""
    originals = load_dialogues(originals_path(paths, name))
    edits = read_edits(paths, name)
    made = prepare(originals, card.steps)
    return Dataset(
        name,
        card.model_copy(update={"steps": made.steps}),
        originals,
        apply_edits(made.dialogues, edits.current),
        edits,
        stale=True,
        prepared=made.dialogues,
    )


def read_edits(paths: Paths, name: str) -> Edits:
    path = edits_path(paths, name)
    return parse_edits(path.read_bytes(), path) if path.is_file() else Edits()


def made_from(paths: Paths, name: str, steps: Iterable[Step]) -> str:
    """What identifies originals, steps and hand edits together."""
    plan = [[step.kind, step.options, step.inputs] for step in steps]
    edits = edits_path(paths, name)
    parts = (
        originals_path(paths, name).read_bytes(),
        json.dumps(plan, ensure_ascii=False, sort_keys=True).encode(),
        whole_lines(edits.read_bytes()) if edits.is_file() else b"",
    )
    return sha256("".join(sha256(part) for part in parts).encode())


def first_card(paths: Paths, name: str, rows: list[Dialogue]) -> DatasetCard:
    """The card of rows that have none: a shipped dataset, or a file that a user put there."""
    profile = name if name in list_profiles(paths) else ""
    return DatasetCard(
        name=name,
        profile=profile,
        language=language_of(paths, profile, rows),
        rows=len(rows),
        data_hash=hash_of(rows, str(dataset_path(paths, name))),
    )


def hash_of(rows: list[Dialogue], where: str) -> str:
    """The rows' ``data_hash``; ``UserError`` for halves of characters, which no file can hold."""
    from pydantic_core import PydanticSerializationError

    try:
        return data_hash(rows)
    except PydanticSerializationError:
        raise UserError(
            f"{where} holds half of a character (an escape such as \\ud83d without its second "
            "half). Remove it and try again.",
            f"{where} に壊れた文字（\\ud83d のような片方だけのサロゲート）があります。"
            "取り除いてから、もう一度お試しください。",
        ) from None


def language_of(paths: Paths, profile: str, rows: list[Dialogue]) -> str:
    """The profile's language, else the script that most letters of the replies are in."""
    if profile in list_profiles(paths):
        return load_profile(paths, profile).language
    shares = script_shares("".join(row.reply for row in rows[:1000]))
    return max(shares, key=lambda script: shares[script]) if any(shares.values()) else ""


# Writing


def write_rows(paths: Paths, dataset: Dataset) -> Dataset:
    """Write the rows, then the card with their hashes: the last two writes of every change."""
    name, rows = dataset.name, dataset.dialogues
    if dataset.card.steps or dataset.edited:
        save_dialogues(dataset_path(paths, name), rows)
    else:
        write_bytes(dataset_path(paths, name), originals_path(paths, name).read_bytes())
    card = dataset.card.model_copy(
        update={
            "rows": len(rows),
            "data_hash": data_hash(rows),
            "made_from": made_from(paths, name, dataset.card.steps),
        }
    )
    card.save(card_path(paths, name))
    done = Dataset(name, card, dataset.originals, rows, dataset.edits, prepared=dataset.prepared)
    return remember(paths, done)
