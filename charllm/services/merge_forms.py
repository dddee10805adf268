"""What the Merge tab and the command line share: parents there are, values to start from, YAML,
the command, and a look at an evolution before it starts (fit, memory, replies, judge, money).

Only configs and headers of files are read; no model is loaded.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from charllm.core.evaluation.general_questions import load_general
from charllm.core.judging.judges import JudgeConfig, open_judge
from charllm.core.judging.quality_marks import Mark
from charllm.core.judging.records import Item
from charllm.core.merging.evolve_config import EvolveConfig
from charllm.core.merging.evolve_questions import query_file
from charllm.core.merging.evolving import quote_evolve
from charllm.core.merging.objective import GENERAL, Objective
from charllm.core.merging.trial import PARTS
from charllm.core.variants import Checkpoint, list_checkpoints, load_checkpoint
from charllm.data.config import Paths, dump_yaml
from charllm.data.errors import Text, UserError
from charllm.data.profile import load_profile
from charllm.data.queries import load_queries
from charllm.services.judge_choice import check_key, load_choice, mark_for, scale_of
from charllm.services.runs import Run, list_runs
from charllm.services.train_forms import free_name

OWN, DEMO, LAST, FILE = "own", "demo", "last", "file"
START_NAMES: dict[str, Text] = {
    DEMO: Text("Demo: within an hour, without a GPU", "デモ：1時間以内・GPU 不要"),
    OWN: Text("This character's adapters", "このキャラクターのアダプター"),
    LAST: Text("Your last evolution", "前回の進化マージ"),
    FILE: Text("The YAML that was read", "読み込んだ YAML"),
}
PRESET_DEFAULT = EvolveConfig.model_fields["preset"].default
SAMPLED = 12
"""Questions whose judging is priced to estimate the whole."""


# --- parents ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """Something that may be a parent. ``written`` is how a recipe names it; ``base`` is the model
    it is (an adapter on), ``profile`` whose it is ("" for plain models)."""

    written: str
    name: str
    label: Text
    kind: str
    base: str
    profile: str


def parent_choices(paths: Paths) -> list[Candidate]:
    """Adapters and recipes in ``checkpoints/``, and models in the workspace; by name.

    What cannot be read is left out: the Models page says what is wrong with it.
    """
    found = []
    for name in list_checkpoints(paths):
        try:
            one = load_checkpoint(paths, name)
        except UserError:
            continue
        if one.kind in ("adapter", "recipe"):
            found.append(_of_checkpoint(one))
    return [*found, *_models(paths)]


def _of_checkpoint(one: Checkpoint) -> Candidate:
    written = f"checkpoints/{one.name}"
    if one.kind == "adapter":
        written = f"workspace/models/{one.model}+{written}"
    return Candidate(written, one.name, one.label, one.kind, one.model, one.profile)


def _models(paths: Paths) -> list[Candidate]:
    if not paths.models.is_dir():
        return []
    names = sorted(
        item.name
        for item in paths.models.iterdir()
        if (item / "config.json").is_file() and not item.name.startswith(".")
    )
    return [
        Candidate(f"workspace/models/{name}", name, Text(name, name), "model", name, "")
        for name in names
    ]


# --- starts -------------------------------------------------------------------------------------


def merge_runs(paths: Paths) -> list[Run]:
    """All evolutions, the newest first."""
    return [run for run in list_runs(paths) if run.kind == "evolve"]


def starts(paths: Paths, slug: str | None) -> list[str]:
    """The starts that there are now for a character, the best one first; ``FILE`` never is one."""
    found = [DEMO] if _demo(paths).get("profile") == (slug or None) else []
    found.append(OWN)
    return [*found, LAST] if merge_runs(paths) else found


def start_values(paths: Paths, start: str, slug: str | None) -> dict[str, Any]:
    """A configuration's values to start from; ``UserError`` where there is no such start."""
    if start == DEMO:
        return _renamed(paths, _demo(paths))
    if start == LAST:
        return _last(paths)
    if start != OWN:
        raise UserError(f"There is no start {start!r}.", f"「{start}」からは始められません。")
    return own_values(paths, slug)


def own_values(paths: Paths, slug: str | None) -> dict[str, Any]:
    """Name, character and parents: the adapters of ``slug`` on the base that most of them have.

    Adapters are searched in the way that was measured to be worth it: free weights of each one's
    own change, layer by layer (docs/merging.md).
    """
    mine = [
        one
        for one in parent_choices(paths)
        if one.profile == (slug or "") and one.kind == "adapter"
    ]
    bases = [one.base for one in mine]
    usual = max(bases, key=bases.count) if bases else ""
    parents = [one.written for one in mine if one.base == usual]
    name = free_name(paths, f"{slug}-evolved" if slug else "evolved")
    values = {"name": name, "profile": slug or "", "parents": parents}
    if not parents:
        return values
    way = {"method": "task_arithmetic", "base": f"workspace/models/{usual}", "group_size": 1}
    return {**values, **way, "search": {"parametrisation": "free"}}


def _demo(paths: Paths) -> dict[str, Any]:
    """The shipped example, {} where it is not there or no longer valid."""
    path = paths.root / "recipes" / "demo.yaml"
    if not path.is_file():
        return {}
    try:
        return plain_values(EvolveConfig.load(path))
    except UserError:  # changed by hand; the command line says what is wrong with it
        return {}


def _last(paths: Paths) -> dict[str, Any]:
    for run in merge_runs(paths):
        try:
            config = run.manifest().load_config(run.folder)
        except UserError:  # a damaged folder, or settings of an older charllm
            continue
        assert isinstance(config, EvolveConfig), run.id
        return _renamed(paths, plain_values(config))
    raise UserError("No evolution yet.", "進化マージの実行がまだありません。")


def _renamed(paths: Paths, values: dict[str, Any]) -> dict[str, Any]:
    """Under a name that is free."""
    name = str(values.get("name", ""))
    if not name or not (paths.checkpoints / name).exists():
        return values
    return {**values, "name": free_name(paths, re.sub(r"-\d+$", "", name))}


def plain_values(config: EvolveConfig) -> dict[str, Any]:
    """What differs from the defaults. The judge is the page's own choice, so it is left out."""
    values = config.model_dump(mode="json", exclude_defaults=True)
    values.pop("judge", None)
    return values


# --- YAML and command ---------------------------------------------------------------------------


def values_of_yaml(text: str, where: str) -> tuple[dict[str, Any], JudgeConfig]:
    """The settings in a YAML text and the judge it names; ``UserError`` says what is wrong."""
    import yaml

    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        raise UserError(
            f"{where}, line {line}: not valid YAML.",
            f"{where} の {line} 行目が YAML として読めません。",
        ) from error
    if not isinstance(data, dict):
        raise UserError(f"{where} holds no settings.", f"{where} に設定が書かれていません。")
    config = EvolveConfig.from_data(data, where)
    return plain_values(config), config.judge


def yaml_of(config: EvolveConfig) -> str:
    """The settings as YAML, those that have their default left out."""
    return dump_yaml(config.model_dump(mode="json", exclude_defaults=True))


def file_command(config: EvolveConfig) -> str:
    """The command for the YAML, saved as ``recipes/<name>.yaml``."""
    return f"python -m charllm evolve {shlex.quote(f'recipes/{config.name}.yaml')}"


# --- a look before the start --------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """What an evolution will take. ``problem`` keeps it from starting; ``quote`` is
    ``quote_evolve``'s, None where not even that could be found out.

    ``judged``: replies that the judge sees, at most; ``calls`` of them go to a model, ``money`` in
    US dollars is None where no price is known.
    """

    quote: dict[str, Any] | None
    problem: UserError | None
    mark: Mark | None
    judged: int = 0
    calls: int = 0
    money: float | None = 0.0


def judge_in_use(paths: Paths) -> JudgeConfig:
    """The judge that all pages use; ``UserError`` where its file was changed by hand."""
    return load_choice(paths)


def look(config: EvolveConfig, paths: Paths) -> Look:
    """Everything that can be known before anything is loaded. Takes some milliseconds."""
    quote, mark = None, None
    try:
        mark = mark_for(paths, config.profile, config.judge)
        quote = quote_evolve(config, paths)
        judged = _judged(config, paths, quote["replies"])
        calls, money = judge_cost(config, paths, judged)
    except UserError as error:
        return Look(quote, error, mark)
    return Look(quote, _problem(config, paths, quote, mark), mark, judged, calls, money)


def _problem(
    config: EvolveConfig, paths: Paths, quote: Mapping[str, Any], mark: Mark | None
) -> UserError | None:
    """The first reason why it may not start, None where it may."""
    plan = quote["plan"]
    if not plan["fits"]:
        reasons = plan["reasons"]
        return UserError(
            " ".join(one["en"] for one in reasons), "".join(one["ja"] for one in reasons)
        )
    try:
        scale = scale_of(paths, config.judge)
        goal = Objective.parse(config.search.objective, {"score": scale})
        goal.check(_measured(config))
        check_key(config.judge)
    except UserError as error:
        return error
    if not config.insist and not (mark and mark.passed):
        return UserError(
            "The judge has not passed its check on this character. Check it on the Judge page "
            "(Quality), or tick the box that lets it decide all the same: the result says so.",
            "ジャッジがこのキャラクターの検査に合格していません。「ジャッジ」タブの「品質」で"
            "検査するか、未検査のまま使う設定にしてください（結果にその旨が残ります）。",
        )
    return None


def _measured(config: EvolveConfig) -> list[str]:
    """The parts of a score that this configuration measures."""
    general = GENERAL if config.general_sets is not None else ()
    return [*PARTS, *(["loss"] if config.lines else []), *general]


def _judged(config: EvolveConfig, paths: Paths, replies: int) -> int:
    """How many of the answers are replies: held-out lines and general questions are measured, not
    judged."""
    questions = len(load_queries(query_file(config, paths)))
    sets = config.general_sets
    general = 0 if sets is None else len(load_general(paths, sets))
    return round(replies * questions / (questions + general + _lines(config, paths)))


def _lines(config: EvolveConfig, paths: Paths) -> int:
    """How many held-out lines are measured."""
    if not config.lines:
        return 0
    from charllm.core.training_data import split_dialogues
    from charllm.data.dialogue import dataset_path, load_dialogues

    dialogues = load_dialogues(dataset_path(paths, config.lines))
    share = min(config.lines_held_out, 0.999)
    return len(split_dialogues(dialogues, "all", share, config.lines_seed)[1])


def judge_cost(config: EvolveConfig, paths: Paths, judged: int) -> tuple[int, float | None]:
    """Calls at most and US dollars, from what the judge says of a few replies; an estimate."""
    if config.judge.kind == "embedded":
        return 0, 0.0
    profile = load_profile(paths, config.profile)
    said = next((one.reply for one in profile.examples), profile.name)
    asked = load_queries(query_file(config, paths))[:SAMPLED]
    items = [Item(f"quote {one.id}", one.text, said, gold=one.gold) for one in asked]
    judge = open_judge(paths, profile, config.judge)
    try:
        quote = judge.quote(items)
    finally:
        judge.close()
    calls = judged * config.judge.samples
    if quote.money is None or not quote.calls:
        return calls, quote.money
    return calls, calls * quote.money / quote.calls
