"""What the Train tab and the command line share: values to start from, YAML, the exact command.

A start is a preset, the configuration of the last run, or a file that was read; the form shows it
and what was changed from it. It loads no model.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from charllm.core.claims import check_jobs
from charllm.core.training_config import PRESET_NAMES, PRESETS, TrainConfig
from charllm.data import collection
from charllm.data.config import Paths, dump_yaml
from charllm.data.errors import Text, UserError
from charllm.data.settings import Setting, settings_of
from charllm.services import jobs
from charllm.services.runs import Run, list_runs

DEMO, LAST, FILE = "demo", "last", "file"
"""The preset for newcomers, and the two starts that are not presets."""
START_NAMES: dict[str, Text] = {
    **PRESET_NAMES,
    LAST: Text("Your last run", "前回の実行"),
    FILE: Text("The YAML that was read", "読み込んだ YAML"),
}
OWN = ("name", "profile", "dataset")
"""What every run has of its own, which no preset knows."""


# --- starts -------------------------------------------------------------------------------------


def train_runs(paths: Paths) -> list[Run]:
    """All training runs, the newest first."""
    return [run for run in list_runs(paths) if run.kind == "train"]


@lru_cache(maxsize=256)
def config_of(run: Run) -> TrainConfig:
    """What the run trains, which never changes; ``UserError`` where its folder is damaged."""
    config = run.manifest().load_config(run.folder)
    assert isinstance(config, TrainConfig), run.id
    return config


def start_training(paths: Paths, config: TrainConfig) -> Run:
    """Queue the run, and start it if its turn has come; ``UserError`` where one of its name waits
    or runs already, or has a job at a service, as the second would find its checkpoint made."""
    check_jobs(paths, config.name)
    for run in train_runs(paths):
        if run.name == config.name and not run.status().ended_:
            raise UserError(
                f"A run called {config.name} waits or runs already. Give this one another name.",
                f"「{config.name}」という実行がすでに待機中か実行中です。別の名前にしてください。",
            )
    run = jobs.submit(paths, "train", config.name, config)
    jobs.tick(paths)
    return run


def start_values(paths: Paths, start: str, slug: str | None) -> dict[str, Any]:
    """The values of a preset or of the last run; ``UserError`` where there has been none.

    A preset is completed for the character ``slug``: its own dataset, and a name that is free.
    """
    if start == LAST:
        return last_values(paths)
    if start not in PRESETS:
        raise UserError(f"There is no preset {start!r}.", f"プリセット「{start}」はありません。")
    return own_values(paths, slug) | PRESETS[start]


def own_values(paths: Paths, slug: str | None) -> dict[str, Any]:
    """Name, character and dataset for the character in the header; what is not there is ""."""
    slug = slug or ""
    names = [one.name for one in collection.listing(paths) if one.problem is None]
    mine = [
        one.name for one in collection.listing(paths) if one.problem is None and one.profile == slug
    ]
    dataset = slug if slug in names else next(iter(mine or names), "")
    return {"name": free_name(paths, slug or "adapter"), "profile": slug, "dataset": dataset}


def free_name(paths: Paths, stem: str) -> str:
    """``<stem>-1`` or the first number that no checkpoint has."""
    number = 1
    while (paths.checkpoints / f"{stem}-{number}").exists():
        number += 1
    return f"{stem}-{number}"


def last_values(paths: Paths) -> dict[str, Any]:
    """The settings of the newest training run that can be read, under a name that is free."""
    for run in train_runs(paths):
        try:
            config = config_of(run)
        except UserError:  # a damaged folder, or settings of an older charllm
            continue
        values = config.model_dump(mode="json", exclude_defaults=True)
        stem = re.sub(r"-\d+$", "", str(values["name"]))
        taken = (paths.checkpoints / values["name"]).exists()
        return values | {"name": free_name(paths, stem) if taken else values["name"]}
    raise UserError("No training run yet.", "学習の実行がまだありません。")


def values_of_yaml(text: str, where: str) -> dict[str, Any]:
    """The settings in a YAML text, checked; ``UserError`` names ``where`` and what is wrong.

    Left out are those that have their default.
    """
    import yaml

    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        raise UserError(
            f"{where}, line {line}: not valid YAML.",
            f"{where} の {line} 行目が YAML として読めません。",
        ) from error
    except ValueError as error:  # a date that does not exist
        raise UserError(
            f"{where} is not valid YAML.", f"{where} は YAML として読めません。"
        ) from error
    if not isinstance(data, dict):
        raise UserError(f"{where} holds no settings.", f"{where} に設定が書かれていません。")
    config = TrainConfig.from_data(data, where)
    return config.model_dump(mode="json", exclude_defaults=True)


# --- the same run elsewhere ---------------------------------------------------------------------


def yaml_of(config: TrainConfig) -> str:
    """The settings as YAML, those that have their default left out."""
    return dump_yaml(config.model_dump(mode="json", exclude_defaults=True))


def file_command(config: TrainConfig) -> str:
    """The command for the YAML, saved as ``recipes/<name>.yaml``."""
    return f"python -m charllm train {shlex.quote(f'recipes/{config.name}.yaml')}"


def set_command(config: TrainConfig, start: str) -> str | None:
    """The command that needs no file: a preset and what differs from it.

    None where the configuration has something that is for files only. ``start`` other than a
    preset starts from the defaults, which are the demo preset's.
    """
    known = {one.name: one for one in settings_of(TrainConfig)}
    data = config.model_dump(mode="json", exclude_defaults=True)
    if any(name not in known for name in data):
        return None
    preset = start if start in PRESETS else DEMO
    base = {name: one.default for name, one in known.items()} | PRESETS[preset]
    whole = config.model_dump(mode="json")
    changes = [
        f"{name}={value_text(one, whole[name])}"
        for name, one in known.items()
        if one.required or whole[name] != base[name]
    ]
    words = " ".join(f"--set {shlex.quote(change)}" for change in changes)
    return f"python -m charllm train --preset {preset} {words}"


def value_text(setting: Setting, value: Any) -> str:
    """A value as ``--set`` takes it, and as a list of changes shows it."""
    if value is None:
        return ""
    if setting.kind == "switch":
        return "true" if value else "false"
    if setting.kind == "number":
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return str(value)


def only_in_files(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration has that no form shows; a form keeps it as it was read."""
    known = {one.name for one in settings_of(TrainConfig)}
    return {name: value for name, value in values.items() if name not in known}
