"""The stage ``evolve``: from parents and questions to a recipe that is published with its report.

It brings parts together that know nothing of each other: the plan and its engine, the questions
(``evolve_questions.py``), the judge, the search. It resumes from its folder after a kill. What it
will take is told before it starts (``quote_evolve``).
"""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charllm.core.claims import claimed
from charllm.core.merging import planning
from charllm.core.merging.blend import MADE
from charllm.core.merging.budget import raised
from charllm.core.merging.coefficients import (
    BASE_METHODS,
    EMBEDDINGS,
    HEAD,
    METHODS,
    layer_groups,
)
from charllm.core.merging.evolve_config import DENSITIES, EvolveConfig
from charllm.core.merging.evolve_questions import check_lines, query_file, splits_of, stage_of
from charllm.core.merging.genome import LINEAR, Extra, Space
from charllm.core.merging.layer_space import layer_space, with_average
from charllm.core.merging.mergekit_engine import check_weighted
from charllm.core.merging.objective import Objective
from charllm.core.merging.ray_pool import Pool, check_room
from charllm.core.merging.ray_trial import PoolTrial
from charllm.core.merging.search import run_search
from charllm.core.merging.search_config import plan as search_plan
from charllm.core.merging.search_report import explain
from charllm.core.merging.splits import split_queries
from charllm.core.merging.trial import Stage, Trial
from charllm.data.config import Paths
from charllm.data.errors import Text, UserError
from charllm.data.files import plain, read_json, write_json
from charllm.data.profile import load_profile
from charllm.data.progress import Reporter
from charllm.data.queries import load_queries

if TYPE_CHECKING:
    from charllm.core.merging.planning import Plan

THINNING = ("ties", "dare_ties", "dare_linear")
"""Methods whose density is a gene."""
PUBLISHING = "publishing.json"
"""Where the result is being written; a run that was cut off then may write there again."""


def run_evolve(
    config: EvolveConfig, reporter: Reporter, folder: Path, paths: Paths
) -> dict[str, Any]:
    """Search, choose, report, publish the choice; returns the report's verdicts and numbers.

    Merges of adapters become ``checkpoints/<name>``, others a 16-bit model in the workspace.
    ``Paused`` where a budget or the judge's quota is used up; ``Stopped`` when cancelled.
    """
    with claimed(paths, config.name, folder):
        return _run(config, reporter, folder, paths)


def _run(config: EvolveConfig, reporter: Reporter, folder: Path, paths: Paths) -> dict[str, Any]:
    from charllm.core.judging.judges import open_judge
    from charllm.core.judging.quality_marks import require
    from charllm.core.judging.score import style_scorer

    config = config.model_copy(update={"search": raised(config.search, folder)})
    check_start(config, paths, folder)
    found = plan_for(config, paths)
    found.require()
    profile = load_profile(paths, config.profile)
    reporter.progress(0, 1, Text("preparing the judge", "ジャッジを準備しています"))
    with closing(open_judge(paths, profile, config.judge)) as judge:
        mark = require(paths, config.profile, judge, insist=config.insist)
        goal = Objective.parse(config.search.objective, {"score": judge.scale})
        if config.guard is not None:
            goal = replace(goal, floors={"general": config.guard})
        home = found.parents[0].base
        home = found.vocabulary.saved(folder / "tokenizer") if found.vocabulary else home
        stage = stage_of(config, paths, profile, found, reporter, home)
        goal.check(stage.parts)
        reporter.progress(0, 1, Text("loading the parents", "親モデルを読み込んでいます"))
        with closing(_engine(config, found, stage, paths, reporter)) as engine:
            space = space_of(config, found)
            reporter.event("plan", parents=engine.parents, **plan_json(found))
            kind = PoolTrial if config.spread else Trial
            trial = kind(engine, stage, judge, style_scorer(paths, profile), reporter)
            result = run_search(
                config.search,
                space,
                splits_of(config, paths),
                None,
                folder / "search",
                reporter,
                evaluate_many=trial.many,
                objective=goal,
            )
            engine.recipe(result.chosen.coefficients).save(folder / "recipe.yaml")
    report = {
        **result.as_json(),
        "parents": list(config.parents),
        "quality": mark.as_json(),
        "told": [text.as_json() for text in explain(result)],
    }
    write_json(folder / "report.json", report)
    out = _publish(config, found, folder, paths, reporter)
    return {
        "out": str(out),
        "chosen": result.chosen.id,
        "over_uniform": result.over_uniform,
        "over_parent": result.over_parent,
        "gain_uniform": plain(result.gain_uniform),
        "gain_parent": plain(result.gain_parent),
        "candidates": len(result.generations) * result.plan.population,
        "spent": plain(result.spent),
        "quality": mark.as_json(),
    }


def _engine(
    config: EvolveConfig, found: Plan, stage: Stage, paths: Paths, reporter: Reporter
) -> Any:
    """The parents, resident: in this process, or in the workers of a pool."""
    from charllm.core.merging.engines import open_engine

    if not config.spread:
        return open_engine(found, config.group_size)
    cluster = (config.workers, config.ray_address, paths.workspace)
    return Pool(found, config.group_size, stage, *cluster, reporter)


def _publish(
    config: EvolveConfig, found: Plan, folder: Path, paths: Paths, reporter: Reporter
) -> Path:
    """The chosen recipe as a checkpoint where chat can blend it, else as a model."""
    from charllm.core.merging.blend import MergeConfig, run_merge

    adapters = found.engine == "adapter"
    out = (paths.checkpoints if adapters else paths.models) / config.name
    reporter.progress(1, 1, Text("publishing the choice", "結果を書き出しています"))
    write_json(folder / PUBLISHING, {"out": str(out)})
    merge = MergeConfig(
        recipe=str(folder / "recipe.yaml"),
        out=str(out),
        engine="mergekit" if found.engine == "mergekit" else "resident",
        form="recipe" if adapters else "model",
        label_en=config.label_en,
        label_ja=config.label_ja,
    )
    run_merge(merge, reporter, folder, paths)
    shutil.copy(folder / "report.json", out / "report.json")
    config.model_copy(update={"replace": False}).save(out / "evolve.yaml")
    return out


# ── before anything is loaded ─────────────────────────────────────────────────────────────────


def check_start(config: EvolveConfig, paths: Paths, folder: Path | None = None) -> None:
    """``UserError`` where the run could never end well; ``folder`` is that of a run that may have
    been cut off while it wrote its result, which is its own to write again."""
    own = read_json(folder / PUBLISHING) if folder and (folder / PUBLISHING).is_file() else {}
    for target, form in ((paths.checkpoints, "recipe"), (paths.models, "model")):
        _check_target(target / config.name, form, config.replace, own.get("out", ""))
    _check_price(config)
    split_queries(load_queries(query_file(config, paths)))


def _check_target(target: Path, form: str, replace: bool, own: str) -> None:
    if not target.exists() or str(target) == own:
        return
    if not replace:
        raise UserError(
            f"There is a checkpoint or model of this name already: {target}. Choose another name, "
            "or set replace.",
            f"同じ名前のチェックポイントかモデルがすでにあります: {target}。別の名前にするか、"
            "replace を指定してください。",
        )
    if not (target / MADE[form]).is_file():
        raise UserError(
            f"{target} is no merge, and only an earlier merge can be replaced. Choose another "
            "name.",
            f"{target} はマージではありません。置き換えられるのは以前のマージだけなので、別の名前に"
            "してください。",
        )


def _check_price(config: EvolveConfig) -> None:
    """A budget of money binds only where replies have a price."""
    from charllm.core.judging.judges import price_for

    asked = config.search.max_money is not None and config.judge.kind == "endpoint"
    if asked and price_for(config.judge).cost(0, 0, 0) is None:
        raise UserError(
            f"search.max_money: the price of {config.judge.model!r} is not known, so the budget "
            "would never end. Write judge.price_in and judge.price_out, in US dollars per million "
            "tokens, or take search.max_calls instead.",
            f"search.max_money: 「{config.judge.model}」の料金が分からないため、費用の予算が"
            "効きません。judge.price_in と judge.price_out（100万トークンあたりの米ドル）を書くか、"
            "代わりに search.max_calls を指定してください。",
        )


def plan_for(config: EvolveConfig, paths: Paths) -> Plan:
    """Engine and memory; ``UserError`` names what keeps the parents from being merged."""
    asked = (config.parents, config.method, config.base)
    if config.method not in METHODS:
        check_weighted(config.method)
    found = planning.plan(paths, *asked, tokenizer_source=config.tokenizer_source)
    check_lines(config, paths, found)
    found = with_average(found) if found.engine == "layers" else found
    if config.spread:
        check_room(found, config.workers, config.ray_address)
    return found


def plan_json(found: Plan) -> dict[str, Any]:
    """What a page shows of a plan."""
    return {
        "engine": found.engine,
        "device": found.device,
        "where": found.where,
        "weights_gb": found.weights_gb,
        "buffers_gb": found.buffers_gb,
        "total_gb": found.total_gb,
        "host_gb": found.host_gb,
        "fits": found.fits,
        "reasons": [reason.as_json() for reason in found.reasons],
    }


def quote_evolve(config: EvolveConfig, paths: Paths) -> dict[str, Any]:
    """What an evolution will take, before it starts: memory, candidates, replies."""
    check_start(config, paths)
    found = plan_for(config, paths)
    space = space_of(config, found)
    made = search_plan(config.search, space, splits_of(config, paths))
    return {
        "plan": plan_json(found),
        "groups": list(space.groups),
        "genes": made.genes,
        "population": made.population,
        "generations": made.generations,
        "candidates": made.candidates,
        "replies": made.replies,
        "judge_calls": _calls(config, made.replies),
        "judge": config.judge.model_dump(mode="json"),
    }


def _calls(config: EvolveConfig, replies: int) -> int:
    """How often a judge is called at most: replies that the gate stops or that were judged before
    cost nothing, and neither do held-out lines."""
    return 0 if config.judge.kind == "embedded" else replies * config.judge.samples


def space_of(config: EvolveConfig, found: Plan) -> Space:
    """The space of a plan, as its engine will have it."""
    if found.engine == "layers":
        return layer_space(found, config.layers, config.search.strategy)
    text = found.parents[0].config.get("text_config", found.parents[0].config)
    groups = [name for name, _ in layer_groups(text["num_hidden_layers"], config.group_size)]
    if found.engine == "adapter":
        groups = [name for name in groups if name not in (EMBEDDINGS, HEAD)]
    genes = config.search.parametrisation
    with_base = found.engine == "dense" and config.method in BASE_METHODS
    return Space(
        tuple(groups),
        len(found.parents),
        genes,
        config.method,
        (Extra("density", *DENSITIES, config.density),) if config.method in THINNING else (),
        "task_arithmetic" if with_base else LINEAR,
    )
