"""Datasets: rows as they came, steps that prepare them, hand edits last.

Originals, steps and edits make ``datasets/<name>.jsonl``; whatever is taken back gives the same
bytes as before. Each change is written in this order: what decides (the card's steps, or a line of
the edit log), then the rows, then the card's hashes. So a crash in between is seen, and the rows
are made again; a file that somebody else changed is seen too, and never overwritten unasked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from charllm.data.config import Paths
from charllm.data.dataset_card import DatasetCard, Kind, Step, card_path
from charllm.data.dataset_changing import (
    ChangedOutside,
    changeable,
    changing,
    check_left,
    mended,
    now,
)
from charllm.data.dataset_keeping import (
    Deleted,
    bring_back,
    keep_copy,
    list_deleted,
    remove_files,
)
from charllm.data.dataset_rows import edit_row, redo_edit, restore_row, undo_edit
from charllm.data.dataset_state import (
    Dataset,
    derive,
    dropped_path,
    edits_path,
    hash_of,
    language_of,
    originals_path,
    read,
    write_rows,
)
from charllm.data.dialogue import (
    Dialogue,
    dataset_path,
    list_datasets,
    load_dialogues,
    save_dialogues,
)
from charllm.data.errors import Text, UserError
from charllm.data.files import write_bytes
from charllm.data.preparing import Prepared, Surroundings, chosen, prepare
from charllm.data.profile import list_profiles, load_profile
from charllm.data.queries import load_queries
from charllm.data.row_edits import apply_edits

__all__ = [
    "ChangedOutside",
    "Dataset",
    "Deleted",
    "Listed",
    "adopt",
    "all_queries",
    "check_new",
    "copy_dataset",
    "create",
    "delete_dataset",
    "describe",
    "discard",
    "dropped_path",
    "edit_row",
    "list_deleted",
    "listing",
    "load",
    "preview_steps",
    "redo_edit",
    "rename_dataset",
    "restore_deleted",
    "restore_row",
    "set_steps",
    "surroundings",
    "undo_edit",
]


# Reading


def load(paths: Paths, name: str) -> Dataset:
    """The dataset; what a crash left half written is mended first.

    ``UserError`` where there is none, or where a file of it cannot be read.
    """
    dataset = read(paths, name)
    if dataset.stale or dataset.outside:
        # A writer at work looks like a crash or a stranger: judge again when it is done.
        with changing(paths):
            dataset = mended(paths, name)
    return dataset


@dataclass(frozen=True)
class Listed:
    """One line of the list of datasets. ``problem`` says why it cannot be used, if so."""

    name: str
    rows: int
    kind: Kind
    profile: str
    created: str
    has_card: bool
    problem: Text | None = None


def listing(paths: Paths) -> list[Listed]:
    """Every dataset, broken ones included, by name. Rows are counted, not parsed."""
    return [_listed(paths, name) for name in list_datasets(paths)]


def _listed(paths: Paths, name: str) -> Listed:
    path = paths.datasets / f"{name}.jsonl"
    rows = sum(bool(line.strip()) for line in path.read_bytes().split(b"\n"))
    profile = name if name in list_profiles(paths) else ""
    has_card = (paths.datasets / "cards" / f"{name}.yaml").is_file()
    try:
        where = card_path(paths, name)
        card = DatasetCard.load(where) if has_card else DatasetCard(name=name)
    except UserError as error:
        return Listed(name, rows, "own", profile, "", has_card, error.text)
    return Listed(name, rows, card.kind, card.profile or profile, card.created, has_card)


# Making


def check_new(paths: Paths, name: str) -> None:
    """``UserError`` where ``name`` cannot be a new dataset's."""
    if dataset_path(paths, name).exists():
        raise UserError(
            f"A dataset {name!r} exists already: choose another name.",
            f"データセット「{name}」はすでにあります。別の名前にしてください。",
        )


def create(
    paths: Paths,
    name: str,
    dialogues: Sequence[Dialogue],
    card: DatasetCard,
    replace: bool = False,
) -> Dataset:
    """A new dataset of ``dialogues``, with ``card`` completed.

    An existing one is refused, or with ``replace`` moved aside (``restore_deleted`` brings it
    back). ``UserError`` where there are no rows, or two of one id.
    """
    rows = list(dialogues)
    _check_rows(name, rows)
    with changing(paths):
        if not replace:
            check_new(paths, name)
        keep_copy(paths, name)
        remove_files(paths, name)
        save_dialogues(originals_path(paths, name), rows)
        whole = card.model_copy(
            update={
                "name": name,
                "created": card.created or now(),
                "language": card.language or language_of(paths, card.profile, rows),
                "steps": (),
            }
        )
        # Before the rows, so that a crash leaves no dataset that has forgotten its origin.
        whole.save(card_path(paths, name))
        return write_rows(paths, Dataset(name, whole, rows, rows))


def _check_rows(name: str, rows: list[Dialogue]) -> None:
    if not rows:
        raise UserError(
            f"The dataset {name!r} would have no rows.",
            f"データセット「{name}」に入れる行がありません。",
        )
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise UserError(
                f"Two rows of {name!r} have the id {row.id!r}: give each its own.",
                f"「{name}」の2つの行の id がどちらも「{row.id}」です。"
                "行ごとに違う id にしてください。",
            )
        seen.add(row.id)
    hash_of(rows, name)


def copy_dataset(paths: Paths, name: str, new: str) -> Dataset:
    """The same under another name, with its originals, steps and edits."""
    with changing(paths):
        check_new(paths, new)
        dataset = changeable(paths, name)
        return _copied(paths, dataset, new, parents=(name,), created=now())


def rename_dataset(paths: Paths, name: str, new: str) -> Dataset:
    """Give the dataset another name; runs that were made with it keep the old one."""
    with changing(paths):
        check_new(paths, new)
        dataset = changeable(paths, name)
        copy = _copied(
            paths, dataset, new, parents=dataset.card.parents, created=dataset.card.created
        )
        remove_files(paths, name)
        return copy


def _copied(
    paths: Paths, dataset: Dataset, new: str, parents: tuple[str, ...], created: str
) -> Dataset:
    remove_files(paths, new)
    for of in (originals_path, edits_path, dropped_path):
        if of(paths, dataset.name).is_file():
            write_bytes(of(paths, new), of(paths, dataset.name).read_bytes())
    card = dataset.card.model_copy(update={"name": new, "parents": parents, "created": created})
    card.save(card_path(paths, new))
    return write_rows(paths, replace(dataset, name=new, card=card))


def delete_dataset(paths: Paths, name: str) -> str:
    """Move it to ``datasets/.deleted-…``; the folder's name, for ``restore_deleted``."""
    with changing(paths):
        if not dataset_path(paths, name).is_file():
            read(paths, name)  # says which datasets there are
        kept = keep_copy(paths, name)
        remove_files(paths, name)
        return kept


def restore_deleted(paths: Paths, folder: str) -> str:
    """Bring a deleted dataset back; its name. ``UserError`` where that is in use by now."""
    with changing(paths):
        return bring_back(paths, folder)


# The card and the steps


def describe(
    paths: Paths,
    name: str,
    *,
    profile: str | None = None,
    language: str | None = None,
    licence: str | None = None,
    notes: str | None = None,
) -> Dataset:
    """Change what the card says about the dataset; None leaves a field as it is."""
    if profile:
        load_profile(paths, profile)
    given = {"profile": profile, "language": language, "licence": licence, "notes": notes}
    with changing(paths):
        dataset = changeable(paths, name)
        more = {key: value.strip() for key, value in given.items() if value is not None}
        return write_rows(paths, replace(dataset, card=dataset.card.model_copy(update=more)))


def preview_steps(paths: Paths, name: str, steps: Iterable[Step]) -> Prepared:
    """What ``set_steps`` would make: the rows before hand edits, and what each step changes."""
    dataset = load(paths, name)
    return prepare(dataset.originals, _chosen(paths, dataset, steps))


def set_steps(paths: Paths, name: str, steps: Iterable[Step]) -> Dataset:
    """Prepare the originals by ``steps``, in order, instead of the present ones.

    A step of the card keeps the inputs it was chosen with; a new one reads the profile and the
    query sets now. ``UserError`` for a wrong step, and where no row would be left.
    """
    with changing(paths):
        dataset = changeable(paths, name)
        made = prepare(dataset.originals, _chosen(paths, dataset, steps))
        rows = apply_edits(made.dialogues, dataset.edits.current)
        check_left(rows)
        card = dataset.card.model_copy(update={"steps": made.steps})
        card.save(card_path(paths, name))
        changed = replace(dataset, card=card, dialogues=rows, prepared=made.dialogues)
        return write_rows(paths, changed)


def _chosen(paths: Paths, dataset: Dataset, steps: Iterable[Step]) -> list[Step]:
    around = surroundings(paths, dataset.card.profile)
    return [chosen(step, around) for step in steps]


def surroundings(paths: Paths, profile: str) -> Surroundings:
    """The profile, if there is one of that name, and the questions of all query sets."""
    known = load_profile(paths, profile) if profile in list_profiles(paths) else None
    return Surroundings(known, tuple(text for _, text in all_queries(paths)))


def all_queries(paths: Paths) -> list[tuple[str, str]]:
    """``("set/id", text)`` of every query of every set."""
    return [
        (f"{file.stem}/{query.id}", query.text)
        for file in sorted(paths.queries.glob("*.jsonl"))
        for query in load_queries(file)
    ]


# What another program did


def adopt(paths: Paths, name: str) -> Dataset:
    """Take the rows as they are now for the originals; steps and edits begin anew.

    The former state is kept in ``datasets/.deleted-…``.
    """
    with changing(paths):
        rows = load_dialogues(dataset_path(paths, name))
        where = card_path(paths, name)
        card = DatasetCard.load(where) if where.is_file() else read(paths, name).card
        keep_copy(paths, name)
        edits_path(paths, name).unlink(missing_ok=True)
        write_bytes(originals_path(paths, name), dataset_path(paths, name).read_bytes())
        fresh = card.model_copy(update={"steps": (), "created": card.created or now()})
        return write_rows(paths, Dataset(name, fresh, rows, rows))


def discard(paths: Paths, name: str) -> Dataset:
    """Make the rows again, without what another program did to them; that is kept aside.

    ``UserError`` where the originals are gone.
    """
    with changing(paths):
        if not originals_path(paths, name).is_file() or not card_path(paths, name).is_file():
            raise UserError(
                f"{name} has no originals to make the rows from: take the rows as they are.",
                f"「{name}」には元の行が残っていません。今の行をそのまま採用してください。",
            )
        keep_copy(paths, name)
        return write_rows(paths, derive(paths, name, DatasetCard.load(card_path(paths, name))))
