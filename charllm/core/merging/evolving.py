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
from charllm.core.merging.coefficients import EMBEDDINGS, HEAD, layer_groups
from charllm.core.merging.evolve_config import EvolveConfig
from charllm.core.merging.evolve_questions import query_file, splits_of, stage_of
from charllm.core.merging.genome import Space
from charllm.core.merging.layer_space import layer_space, with_average
from charllm.core.merging.objective import Objective
from charllm.core.merging.ray_pool import Pool, check_room
from charllm.core.merging.ray_trial import PoolTrial
from charllm.core.merging.search import run_search
from charllm.core.merging.search_config import plan as search_plan
from charllm.core.merging.search_report import explain, plain
from charllm.core.merging.splits import split_queries
from charllm.core.merging.trial import Stage, Trial
from charllm.data.config import Paths
from charllm.data.errors import Text, UserError
from charllm.data.files import write_json
from charllm.data.profile import load_profile
from charllm.data.progress import Reporter
from charllm.data.queries import load_queries

if TYPE_CHECKING:
    from charllm.core.merging.planning import Plan


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

    check_start(config, paths)
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
    if adapters and out.exists():  # ``replace``: only now is there something to replace it with
        shutil.rmtree(out)
    merge = MergeConfig(
        recipe=str(folder / "recipe.yaml"),
        out=str(out),
        form="recipe" if adapters else "model",
        label_en=config.label_en,
        label_ja=config.label_ja,
    )
    run_merge(merge, reporter, folder, paths)
    shutil.copy(folder / "report.json", out / "report.json")
    config.model_copy(update={"replace": False}).save(out / "evolve.yaml")
    return out


# ── before anything is loaded ─────────────────────────────────────────────────────────────────


def check_start(config: EvolveConfig, paths: Paths) -> None:
    """``UserError`` where the run could never end well."""
    target = paths.checkpoints / config.name
    if target.exists() and not config.replace:
        raise UserError(
            f"There is a checkpoint {config.name!r} already. Choose another name, or set replace.",
            f"チェックポイント「{config.name}」はすでにあります。別の名前にするか、"
            "replace を指定してください。",
        )
    split_queries(load_queries(query_file(config, paths)))


def plan_for(config: EvolveConfig, paths: Paths) -> Plan:
    """Engine and memory; ``UserError`` names what keeps the parents from being merged."""
    asked = (config.parents, config.method, config.base)
    found = planning.plan(paths, *asked, tokenizer_source=config.tokenizer_source)
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
    return Space(tuple(groups), len(found.parents), genes, config.method)
