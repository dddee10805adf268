"""What each verb of the command line does: takes the options, returns what is printed.

A verb imports what it needs when it is called. How values are printed and how mistakes are told is
``cli.py``'s.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from charllm.data.config import Paths
from charllm.data.errors import UserError, current_language
from charllm.services import jobs
from charllm.services.following import Ended, follow, run_kind
from charllm.services.runs import find_run, list_runs

# Profiles


def doctor(paths: Paths, options: Namespace) -> Any:
    from charllm.services.doctor import report

    return report(paths)


def profile_import(paths: Paths, options: Namespace) -> Any:
    from charllm.data.cards import import_card
    from charllm.data.profile import list_profiles, save_profile

    found = import_card(Path(options.file))
    profile = found.profile
    if options.slug:
        profile = type(profile).from_data({**profile.model_dump(), "slug": options.slug}, "--as")
    if profile.slug in list_profiles(paths) and not options.replace:
        raise UserError(
            f"A profile {profile.slug!r} exists already: give another name with --as, or overwrite "
            "it with --replace.",
            f"プロファイル「{profile.slug}」はすでにあります。--as で別の名前にするか、"
            "--replace で上書きしてください。",
        )
    save_profile(paths, profile)
    return _profile_summary(profile, found.warnings)


def profile_export(paths: Paths, options: Namespace) -> Any:
    from charllm.data.cards import export_card
    from charllm.data.profile import load_profile

    profile = load_profile(paths, options.slug)
    warnings = export_card(profile, Path(options.to))
    return {**_profile_summary(profile, warnings), "file": options.to}


def profile_show(paths: Paths, options: Namespace) -> Any:
    from charllm.data.profile import load_profile

    profile = load_profile(paths, options.slug)
    return {**_profile_summary(profile, []), "profile": profile.model_dump(mode="json")}


def profile_list(paths: Paths, options: Namespace) -> Any:
    from charllm.data.profile import list_profiles, load_profile

    profiles = [load_profile(paths, slug) for slug in list_profiles(paths)]
    return [
        {"slug": p.slug, "name": p.name, "language": p.language, "facts": len(p.facts)}
        for p in profiles
    ]


def _profile_summary(profile: Any, warnings: Any) -> dict[str, Any]:
    language = current_language()
    return {
        "slug": profile.slug,
        "name": profile.name,
        "facts": len(profile.facts),
        "warnings": [warning.in_(language) for warning in warnings],
    }


# Retrieval


def index(paths: Paths, options: Namespace) -> Any:
    return run_kind(paths, "index", {"profile": options.slug, "embedder": _embedder(options)})


def calibrate(paths: Paths, options: Namespace) -> Any:
    return run_kind(paths, "calibrate", {"profile": options.slug, "embedder": _embedder(options)})


def retrieve(paths: Paths, options: Namespace) -> Any:
    """Best first. An index that is missing or stale is built before, and stderr says so."""
    from charllm.core.embedding import EmbedderConfig, get_embedder
    from charllm.core.retrieval import open_index
    from charllm.data.profile import load_profile

    if options.k < 1:
        raise UserError("--k must be at least 1.", "--k は 1 以上にしてください。")
    profile = load_profile(paths, options.slug)
    embedder = get_embedder(EmbedderConfig.from_data(_embedder(options), "--embedder"))
    found = open_index(paths, profile, embedder)
    if found.state().kind in ("missing", "stale"):
        run_kind(paths, "index", {"profile": options.slug, "embedder": _embedder(options)})
        found = open_index(paths, profile, embedder)
    hits = found.retrieve(options.question, k=options.k)
    return [{"fact": h.fact, "similarity": h.similarity, "used": h.used} for h in hits]


def _embedder(options: Namespace) -> dict[str, str]:
    given = {
        "kind": options.embedder,
        "model": options.embedding_model,
        "base_url": options.base_url,
    }
    return {key: value for key, value in given.items() if value}


# Models


def labels(paths: Paths, options: Namespace) -> Any:
    from charllm.core.models import load_tokenizer
    from charllm.data.prompts import get_template, labels_of

    template = get_template(options.template)
    tokenizer = load_tokenizer(Path(options.tokenizer))
    return labels_of(template, tokenizer, options.system, options.user, options.reply)


def train(paths: Paths, options: Namespace) -> Any:
    """A file's settings over a preset's, and ``--set`` over both."""
    from charllm.core.training_config import PRESETS, TrainConfig
    from charllm.data.config import load_yaml
    from charllm.data.settings import apply_texts

    if not options.config and not options.preset:
        raise UserError(
            "Name a YAML file, or start from a preset with --preset.",
            "YAML ファイルを指定するか、--preset でプリセットを選んでください。",
        )
    values: Any = dict(PRESETS[options.preset]) if options.preset else {}
    where, name = f"--preset {options.preset}", ""
    if options.config:
        path = recipe_path(paths, options.config)
        where, name = str(path), path.stem
        read = load_yaml(path)
        if not isinstance(read, dict):
            raise UserError(f"{path} holds no settings.", f"{path} に設定が書かれていません。")
        values |= read
    values = apply_texts(TrainConfig, values, options.set)
    if options.check:
        return _check_training(paths, TrainConfig.from_data(values, where))
    return run_kind(paths, "train", values, name=name, where=where)


def _check_training(paths: Paths, config: Any) -> dict[str, Any]:
    from charllm.services.train_look import look

    found = look(config, paths)
    if found.blocks and found.problem is not None:
        raise found.problem
    train, held_out = found.rows
    return {
        "rows": train,
        "held_out_rows": held_out,
        **found.totals,
        "memory": found.memory,
        "seconds": found.seconds,
    }


def evaluate(paths: Paths, options: Namespace) -> Any:
    from charllm.core.evaluation.evaluate_config import EvaluateConfig
    from charllm.core.evaluation.evaluating import quote_evaluate

    path = recipe_path(paths, options.config)
    config = EvaluateConfig.load(path)
    if options.quote:
        return quote_evaluate(config, paths)
    return run_kind(paths, "evaluate", config.model_dump(mode="json"), name=path.stem)


def chat(paths: Paths, options: Namespace) -> Any:
    from charllm.data.profile import list_profiles
    from charllm.services.asking import ask

    slug = options.profile or next(iter(list_profiles(paths)), "")
    if not slug:
        raise UserError(
            "There is no profile yet. Import one with `profile import`.",
            "プロファイルがまだありません。`profile import` で読み込んでください。",
        )
    return ask(paths, options.variant, options.text, slug)


def models_list(paths: Paths, options: Namespace) -> Any:
    from charllm.core.catalog import CATALOG
    from charllm.core.models import is_ready

    return [
        {
            "id": model.id,
            "label": model.label,
            "ready": is_ready(paths, model.id),
            "parameters": model.parameters,
            "license": model.license,
        }
        for model in CATALOG
    ]


def models_convert(paths: Paths, options: Namespace) -> Any:
    from charllm.core.catalog import EMBEDDED

    model = str(Path(options.model).resolve()) if options.model else EMBEDDED
    return run_kind(paths, "model", {"model": model})


# Runs


def runs_list(paths: Paths, options: Namespace) -> Any:
    return [run.as_json() for run in list_runs(paths)]


def runs_show(paths: Paths, options: Namespace) -> Any:
    run = find_run(paths, options.run)
    return {**run.as_json(), "result": run.result()}


def runs_stop(paths: Paths, options: Namespace) -> Any:
    run = find_run(paths, options.run)
    jobs.stop(paths, run, "cancel" if options.cancel else "save")
    if options.cancel:  # a stage that does not listen is killed by whoever ticks, so stay
        jobs.follow(paths, run)
    return run.as_json()


def runs_resume(paths: Paths, options: Namespace) -> Any:
    run = find_run(paths, options.run)
    budget = {
        "calls": options.budget_calls,
        "tokens": options.budget_tokens,
        "money": options.budget_usd,
    }
    if options.set:
        from charllm.services.verbs_merge import raise_search_budget

        raise_search_budget(run, options.set)
    if any(value is not None for value in budget.values()):
        from charllm.core.filtering import Budget
        from charllm.services.filtering import raise_budget

        raise_budget(run, Budget.from_data(budget, "--budget"))
    run = jobs.resume(paths, run)
    if options.detach:
        jobs.tick(paths)
        return run.as_json()
    return follow(paths, run)


def run_stage(paths: Paths, options: Namespace) -> Any:
    from charllm.services.reporter import run_stage as run_stage_

    return Ended(None, run_stage_(Path(options.folder), paths))


def recipe_path(paths: Paths, name: str) -> Path:
    """A file, or the name of one in ``recipes/``."""
    path = Path(name)
    shipped = paths.root / "recipes" / f"{name}.yaml"
    if not path.exists() and path.name == name and shipped.exists():
        return shipped.resolve()
    if not path.is_file():
        raise UserError(f"{path} does not exist.", f"{path} がありません。")
    return path.resolve()
