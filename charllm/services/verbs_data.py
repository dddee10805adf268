"""What the verbs of ``data`` do: import, list, check, prepare, card, harvest."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from charllm.data.config import Paths
from charllm.data.errors import UserError, current_language


def data_import(paths: Paths, options: Namespace) -> Any:
    """Read a file, and make a dataset of it where ``--out`` names one."""
    from charllm.data import collection
    from charllm.data.checking import check
    from charllm.data.dataset_card import DatasetCard, Source
    from charllm.data.files import sha256_file
    from charllm.data.importing import read_file, write_rejected_csv
    from charllm.data.profile import load_profile

    path = Path(options.file)
    found = read_file(path, format=options.format, mapping=_mapping(options.map))
    profile = load_profile(paths, options.profile) if options.profile else None
    report = check(found.dialogues, collection.all_queries(paths), profile)
    if options.rejected:
        write_rejected_csv(Path(options.rejected), found.rejected)
    if options.out:
        card = DatasetCard(
            name=options.out,
            profile=options.profile,
            kind="imported",
            source=Source(
                file=path.name,
                sha256=sha256_file(path),
                format=found.format,
                rows=len(found.dialogues),
                rejected=len(found.rejected),
            ),
        )
        collection.create(paths, options.out, found.dialogues, card, replace=options.replace)
    language = current_language()
    counts = report.as_json()
    return {
        "name": options.out or None,
        "format": found.format,
        "rows": len(found.dialogues),
        "rejected": [{"line": r.line, "reason": r.reason.in_(language)} for r in found.rejected],
        "duplicates": counts["duplicates"],
        "leaks": counts["leaks"],
        "notes": [note.in_(language) for note in found.notes],
    }


def _mapping(pairs: list[str]) -> dict[str, str] | None:
    """``["user=質問", …]`` as a table of field → column."""
    made = {}
    for pair in pairs:
        field, equals, column = pair.partition("=")
        if not equals or not field or not column:
            raise UserError(
                f"--map {pair!r}: write it as FIELD=COLUMN, such as user=question.",
                f"--map「{pair}」は「項目=列名」の形で書いてください（例: user=質問）。",
            )
        made[field.strip()] = column.strip()
    return made or None


def data_formats(paths: Paths, options: Namespace) -> Any:
    from charllm.data.importing import FORMATS

    language = current_language()
    return [{"format": name, "label": known.label.in_(language)} for name, known in FORMATS.items()]


def data_list(paths: Paths, options: Namespace) -> Any:
    from charllm.data import collection

    return [
        {"name": d.name, "rows": d.rows, "kind": d.kind, "profile": d.profile, "card": d.has_card}
        for d in collection.listing(paths)
    ]


def data_check(paths: Paths, options: Namespace) -> Any:
    """Counts, with the rows that make them up; a leak is a training question near a query."""
    from charllm.data import collection
    from charllm.data.checking import check_file
    from charllm.data.dialogue import dataset_path
    from charllm.data.profile import list_profiles, load_profile

    slug = options.profile or (options.name if options.name in list_profiles(paths) else "")
    profile = load_profile(paths, slug) if slug else None
    path = dataset_path(paths, options.name)
    return check_file(path, collection.all_queries(paths), profile).as_json()


def data_steps(paths: Paths, options: Namespace) -> Any:
    from charllm.data.preparing import STEPS

    language = current_language()
    return [{"step": name, "about": kind.about.in_(language)} for name, kind in STEPS.items()]


def data_prepare(paths: Paths, options: Namespace) -> Any:
    """Replace the dataset's steps by those given; none gives the rows back as they came."""
    from charllm.data import collection

    steps = [_step(text) for text in options.step]
    if options.preview:
        made = collection.preview_steps(paths, options.name, steps)
        rows, done = made.dialogues, made.steps
    else:
        dataset = collection.set_steps(paths, options.name, steps)
        rows, done = dataset.dialogues, dataset.card.steps
    return {
        "name": options.name,
        "rows": len(rows),
        "steps": [{"step": step.kind, "changed": step.changed} for step in done],
    }


def _step(text: str) -> Any:
    """``name:key=value,key=value`` as a step; values are read as YAML reads them."""
    import yaml

    from charllm.data.dataset_card import Step

    name, _, rest = text.partition(":")
    options = {}
    for pair in filter(None, rest.split(",")):
        key, equals, value = pair.partition("=")
        try:
            read = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError):  # ValueError: a date that does not exist
            equals = ""
        if not equals:
            raise UserError(
                f"--step {text!r}: write options as KEY=VALUE, the value in YAML.",
                f"--step「{text}」のオプションは「名前=値」の形で、値は YAML で書いてください。",
            )
        options[key.strip()] = read
    return Step(kind=name.strip(), options=options)


def data_card(paths: Paths, options: Namespace) -> Any:
    from charllm.data import collection
    from charllm.data.dataset_card import as_markdown

    return as_markdown(collection.load(paths, options.name).card, current_language())


def data_harvest(paths: Paths, options: Namespace) -> Any:
    from charllm.services import harvest
    from charllm.services.store import Store

    store = Store(paths)
    try:
        if options.kind == "supervised":
            supervised = harvest.supervised_rows(store, options.profile, paths)
            rows, reasons = len(supervised.rows), supervised.reasons()
            if options.out:
                harvest.save_supervised(
                    paths, supervised, options.out, options.profile, replace=options.replace
                )
        else:
            pairs = harvest.preference_rows(store, options.profile, paths)
            rows, reasons = len(pairs.rows), pairs.reasons()
            if options.out:
                harvest.save_preferences(paths, pairs, options.out, replace=options.replace)
    finally:
        store.close()
    language = current_language()
    return {
        "name": options.out or None,
        "kind": options.kind,
        "rows": rows,
        "left_out": [{"reason": why.in_(language), "rows": n} for why, n in reasons],
    }
