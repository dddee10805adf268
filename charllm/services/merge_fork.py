"""A fork of an evolution: its first generations again, then another seed, as a run of its own."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from charllm.core.merging.evolve_config import EvolveConfig
from charllm.core.merging.journal import Journal, State
from charllm.core.merging.resuming import fork
from charllm.core.merging.search_config import BUDGETS
from charllm.data.config import Paths, with_texts
from charllm.data.errors import UserError
from charllm.services import jobs
from charllm.services.merge_forms import merge_runs
from charllm.services.merge_view import SEARCH, config_of
from charllm.services.runs import Run

CHANGEABLE = (
    "name",
    "label_en",
    "label_ja",
    "search.seed",
    *(f"search.{name}" for name in BUDGETS),
    "rows",
    "workers",
    "ray_address",
)
"""What a fork may have otherwise; all else decides what the kept candidates' scores mean."""


@dataclass(frozen=True)
class Forkable:
    """What a run can be forked from: after generation 0 … ``generations``.

    ``opened``: how often its report split has been opened, by it and those it was forked from;
    ``seed`` and ``candidates`` are what a fork may start with.
    """

    generations: int
    population: int
    opened: int
    seed: int
    candidates: int


def forkable(run: Run) -> Forkable | None:
    """None before the search has scored anything; ``UserError`` where its files are damaged."""
    folder = run.folder / SEARCH
    state = State.load(folder)
    if state is None:
        return None
    journal = Journal(folder)
    members = [one for one in journal.candidates() if one.role == "candidate"]
    if not members:
        return None
    first, last = (f(one.generation for one in members) for f in (min, max))
    search = config_of(run).search
    population = search.population or sum(one.generation == first for one in members)
    return Forkable(
        last,
        population,
        len(state.opened),
        max(seed for _, seed in state.seeds) + 1,
        max(search.max_candidates, (last + 1) * population),
    )


@dataclass(frozen=True)
class Forked:
    """The queued fork. ``opened``: how often the report questions it will use were opened."""

    run: Run
    opened: int


def evolution(run: Run) -> Run:
    """``run``, or a ``UserError`` where it is of another kind, which nothing can be forked from."""
    if run.kind != "evolve":
        raise UserError(
            f"{run.id} is no evolution: only runs of `evolve` can be forked.",
            f"{run.id} は進化マージの実行ではありません。分岐できるのは `evolve` の実行だけです。",
        )
    return run


def fork_run(paths: Paths, run: Run, generation: int, seed: int, candidates: int) -> Run:
    """``fork_as`` with another seed and a whole budget, as the page asks for it."""
    changes = (f"search.seed={seed}", f"search.max_candidates={candidates}")
    return fork_as(paths, run, generation, changes).run


def fork_as(paths: Paths, run: Run, generation: int, changes: Sequence[str] = ()) -> Forked:
    """Queue a fork that keeps ``run``'s generations up to this one; it scores nothing of them
    again.

    ``changes`` are ``NAME=VALUE`` texts over ``run``'s own settings, of ``CHANGEABLE`` ones only.
    Without them the next seed is taken, and a budget of one more generation where the run's leaves
    none; the kept candidates count into it. ``UserError`` where there is no such generation, or
    the budget leaves none to be made.
    """
    known = forkable(run)
    if known is None:
        raise UserError(
            "There is nothing to fork yet: wait for the first generation.",
            "まだ分岐できません。最初の世代が終わるまでお待ちください。",
        )
    config = _config(paths, run, known, changes)
    paths.runs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=paths.runs, prefix=".fork-") as made:
        fork(run.folder / SEARCH, Path(made) / SEARCH, generation, config.search.seed)
        _check_budget(config.search.max_candidates, generation, known.population)
        with jobs.queue_lock(paths).hold():  # nobody starts it before its beginning is there
            forked = jobs.submit(paths, "evolve", config.name, config)
            shutil.move(Path(made) / SEARCH, forked.folder / SEARCH)
    return Forked(forked, known.opened)


def _check_budget(candidates: int, generation: int, population: int) -> None:
    least = (generation + 1) * population
    if candidates < least:
        raise UserError(
            f"A budget of {candidates} candidates ends before the fork begins: "
            f"{generation} generations of {population} are kept. Allow at least {least}.",
            f"候補 {candidates} 個では分岐の前に終わってしまいます。残す世代が {generation}"
            f"（各 {population} 候補）あるので、{least} 以上にしてください。",
        )


def _config(paths: Paths, run: Run, known: Forkable, changes: Sequence[str]) -> EvolveConfig:
    """``run``'s own settings under a name that neither a checkpoint nor a run has."""
    data = config_of(run).model_dump(mode="json", exclude_defaults=True)
    search = {**data.get("search", {}), "seed": known.seed, "max_candidates": known.candidates}
    name = _free_name(paths, str(data["name"]))
    begun = {**data, "name": name, "search": search, "replace": False}
    for text in changes:
        setting = text.partition("=")[0].strip()
        if setting not in CHANGEABLE:
            raise UserError(
                f"--set {text!r}: a fork keeps what its candidates were scored with. It can have "
                f"another {', '.join(CHANGEABLE)}.",
                f"--set「{text}」: 分岐では採点の条件を変えられません。変えられるのは "
                f"{', '.join(CHANGEABLE)} です。",
            )
    return EvolveConfig.from_data(with_texts(begun, changes), "--set" if changes else run.id)


def _free_name(paths: Paths, name: str) -> str:
    stem = re.sub(r"-fork-\d+$", "", name)
    taken = {one.name for one in merge_runs(paths)}
    number = 1
    homes = (paths.checkpoints, paths.models)
    while (free := f"{stem}-fork-{number}") in taken or any((h / free).exists() for h in homes):
        number += 1
    return free
