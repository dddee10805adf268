"""A fork of an evolution: its first generations again, then another seed, as a run of its own."""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from charllm.core.merging.evolve_config import EvolveConfig
from charllm.core.merging.journal import Journal, State
from charllm.core.merging.resuming import fork
from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.services import jobs
from charllm.services.merge_forms import merge_runs
from charllm.services.merge_view import SEARCH, config_of
from charllm.services.runs import Run


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


def fork_run(paths: Paths, run: Run, generation: int, seed: int, candidates: int) -> Run:
    """Queue a fork that keeps ``run``'s generations up to this one; it scores nothing of them
    again.

    ``candidates`` is its whole budget, the kept ones included. ``UserError`` where there is no
    such generation or the budget leaves none to be made.
    """
    known = forkable(run)
    if known is None:
        raise UserError(
            "There is nothing to fork yet: wait for the first generation.",
            "まだ分岐できません。最初の世代が終わるまでお待ちください。",
        )
    if candidates < (generation + 1) * known.population:
        raise UserError(
            f"A budget of {candidates} candidates ends before the fork begins: "
            f"{generation} generations of {known.population} are kept. Allow at least "
            f"{(generation + 1) * known.population}.",
            f"候補 {candidates} 個では分岐の前に終わってしまいます。残す世代が {generation}"
            f"（各 {known.population} 候補）あるので、{(generation + 1) * known.population} 以上に"
            "してください。",
        )
    config = _config(paths, run, seed, candidates)
    paths.runs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=paths.runs, prefix=".fork-") as made:
        fork(run.folder / SEARCH, Path(made) / SEARCH, generation, seed)
        with jobs._queue_lock(paths).hold():  # nobody starts it before its beginning is there
            forked = jobs.submit(paths, "evolve", config.name, config)
            shutil.move(Path(made) / SEARCH, forked.folder / SEARCH)
    return forked


def _config(paths: Paths, run: Run, seed: int, candidates: int) -> EvolveConfig:
    """``run``'s own settings under a name that neither a checkpoint nor a run has."""
    data = config_of(run).model_dump(mode="json", exclude_defaults=True)
    stem = re.sub(r"-fork-\d+$", "", str(data["name"]))
    taken = {one.name for one in merge_runs(paths)}
    number = 1
    while (name := f"{stem}-fork-{number}") in taken or (paths.checkpoints / name).exists():
        number += 1
    search = {**data.get("search", {}), "seed": seed, "max_candidates": candidates}
    changed = {**data, "name": name, "search": search, "replace": False}
    return EvolveConfig.from_data(changed, run.id)
