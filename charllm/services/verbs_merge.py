"""Verbs of merging: ``evolve`` searches, ``fork`` goes on from one of its generations, ``merge``
blends by a recipe."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.services import jobs
from charllm.services.following import Ended, follow, run_kind
from charllm.services.runs import Run, find_run
from charllm.services.verbs import recipe_path


def evolve(paths: Paths, options: Namespace) -> Any:
    from charllm.core.merging.evolve_config import EvolveConfig
    from charllm.core.merging.evolving import quote_evolve
    from charllm.data.config import load_yaml, with_texts

    path = recipe_path(paths, options.config)
    config = EvolveConfig.from_data(with_texts(load_yaml(path), options.set), str(path))
    if options.quote:
        return quote_evolve(config, paths)
    return run_kind(paths, "evolve", config.model_dump(mode="json"), name=path.stem)


def fork(paths: Paths, options: Namespace) -> Any:
    from charllm.services.merge_fork import evolution, fork_as

    source = evolution(find_run(paths, options.run))
    forked = fork_as(paths, source, options.generation, options.set)
    told = {"forked": source.id, "generation": options.generation, "opened": forked.opened}
    if options.detach:
        jobs.tick(paths)
        return {**forked.run.as_json(), **told}
    outcome = follow(paths, forked.run)
    if isinstance(outcome, Ended):
        return Ended({**outcome.value, **told}, outcome.status)
    return {**outcome, **told}


def raise_search_budget(run: Run, changes: Sequence[str]) -> None:
    """``runs resume --set``: what an evolution that has ended before its end may spend now."""
    from charllm.core.merging.budget import raise_budget
    from charllm.services.merge_view import config_of

    if run.kind != "evolve":
        raise UserError(
            f"{run.id} is no evolution: --set raises the budget of a search.",
            f"{run.id} は進化マージの実行ではありません。--set は探索の予算を増やすものです。",
        )
    if run.status().resumable:  # else resuming it says why not
        raise_budget(config_of(run).search, run.folder, changes)


def merge(paths: Paths, options: Namespace) -> Any:
    out = Path(options.out).resolve()
    recipe = recipe_path(paths, options.recipe)
    config = {
        "recipe": str(recipe),
        "out": str(out),
        "engine": options.engine,
        "form": options.form,
        "label_en": options.label_en,
        "label_ja": options.label_ja,
        "seed": options.seed,
    }
    outcome = run_kind(paths, "merge", config, name=out.name)
    if isinstance(outcome, Ended):
        return outcome
    result = outcome["result"] or {}
    return {
        "out": result.get("out"),
        "engine": result.get("engine"),
        **result,
        **_without_result(outcome),
    }


def _without_result(outcome: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in outcome.items() if key != "result"}
