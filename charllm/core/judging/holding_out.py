"""The embedded judge on lines it has not learnt: it must not be checked on its own training data.

The pairs are dealt into folds by their better reply. For each fold the judge is fitted in a copy of
the character's files from which the rows of that fold are missing, as in any cross-validation.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from charllm.core.judging.contrasts import Contrast
from charllm.core.judging.quality_report import OPTIONAL
from charllm.data.config import Paths
from charllm.data.dialogue import dataset_path, load_dialogues, save_dialogues
from charllm.data.profile import list_profiles

FOLDS = 5


def folds(contrasts: Sequence[Contrast]) -> list[list[Contrast]]:
    """The pairs in at most ``FOLDS`` groups; those with the same better reply lie together."""
    fold_of = {
        better: number % FOLDS
        for number, better in enumerate(dict.fromkeys(c.better for c in contrasts))
    }
    dealt = [[c for c in contrasts if fold_of[c.better] == fold] for fold in range(FOLDS)]
    return [fold for fold in dealt if fold]


@contextmanager
def without_rows(paths: Paths, slug: str, contrasts: Sequence[Contrast]) -> Iterator[Paths]:
    """A temporary copy of what a judge of ``slug`` learns from, without the rows of the pairs."""
    shown = [c.better for c in contrasts]
    # The other kinds are stopped by the gate, which learns nothing.
    shown += [c.worse for c in contrasts if c.kind in OPTIONAL]
    with tempfile.TemporaryDirectory(prefix="charllm-check-") as folder:
        copy = Paths(Path(folder) / "root", Path(folder) / "workspace")
        shutil.copytree(paths.profiles, copy.profiles)
        for name in list_profiles(paths):
            if dataset_path(paths, name).is_file() and name != slug:
                copy.datasets.mkdir(exist_ok=True)
                shutil.copy(dataset_path(paths, name), dataset_path(copy, name))
        rows = load_dialogues(dataset_path(paths, slug))
        rest = [row for row in rows if not any(row.reply.strip() in text for text in shown)]
        save_dialogues(dataset_path(copy, slug), rest)
        # What hand scores have taught it is no line of these rows.
        for kept in (paths.workspace / "judging").glob("*.json"):
            (copy.workspace / "judging").mkdir(parents=True, exist_ok=True)
            shutil.copy(kept, copy.workspace / "judging" / kept.name)
        yield copy
