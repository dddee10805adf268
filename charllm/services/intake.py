"""From a file to a dataset: the rows, the card that says where they come from, a free name."""

from __future__ import annotations

import re
from pathlib import Path

from charllm.data import collection
from charllm.data.collection import Dataset
from charllm.data.config import Paths
from charllm.data.dataset_card import DatasetCard, Source
from charllm.data.dialogue import list_datasets
from charllm.data.files import sha256_file
from charllm.data.importing import Imported


def take_in(
    paths: Paths,
    name: str,
    path: Path,
    found: Imported,
    *,
    profile: str = "",
    licence: str = "",
    replace: bool = False,
) -> Dataset:
    """Make the dataset ``name`` of what was read of ``path``; ``UserError`` as ``create``."""
    source = Source(
        file=path.name,
        sha256=sha256_file(path),
        format=found.format,
        rows=len(found.dialogues),
        rejected=len(found.rejected),
    )
    card = DatasetCard(
        name=name, profile=profile, kind="imported", licence=licence.strip(), source=source
    )
    return collection.create(paths, name, found.dialogues, card, replace=replace)


def free_name(paths: Paths, file: str) -> str:
    """A dataset's name made of a file's, numbered where it is taken; "dialogues" if none fits."""
    stem = re.sub(r"[^a-z0-9]+", "-", Path(file).stem.lower()).strip("-")[:48] or "dialogues"
    taken = set(list_datasets(paths))
    names = [stem, *(f"{stem}-{number}" for number in range(2, 1000))]
    return next(name for name in names if name not in taken)
