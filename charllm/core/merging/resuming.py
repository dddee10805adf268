"""Going on: the state of a search that was begun, a fork of one, a warm start from one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from charllm.core.merging.genome import Space, Vector
from charllm.core.merging.journal import JOURNAL, Journal, State, read_entries
from charllm.core.merging.objective import Objective
from charllm.core.merging.scoring import Scores
from charllm.core.merging.search_config import SearchConfig
from charllm.core.merging.splits import Splits
from charllm.data.errors import UserError
from charllm.data.files import write_json_lines

BETTER = 4
"""A warm start is the mean of the best quarter."""


def open_state(
    config: SearchConfig, space: Space, splits: Splits, objective: Objective, folder: Path
) -> State:
    """The folder's state, or a new one; ``UserError`` where it is that of another search."""
    settings = {
        "config": {k: v for k, v in config.meaning().items() if k != "seed"},
        "space": space.as_json(),
        "splits": splits.digest,
        "objective": {p: [w, *objective.ranges.get(p, ())] for p, w in objective.weights.items()},
    }
    if objective.floors:
        settings["floors"] = dict(objective.floors)
    settings = json.loads(json.dumps(settings))
    state = State.load(folder)
    if state is None:
        state = State(settings, [(1, config.seed)])
        state.start = _warm(config, space, objective)
        state.save(folder)
        return state
    wrong = _differing(state.settings, settings)
    if config.seed != state.seeds[-1][1]:
        wrong.append("seed")
    if wrong:
        raise UserError(
            f"{folder} holds a search with another {', '.join(wrong)}: it cannot go on as this "
            "one. Start a new search, or fork it.",
            f"{folder} の探索は {', '.join(wrong)} が異なるため、続きから実行できません。"
            "新しく始めるか、分岐（fork）してください。",
        )
    return state


def fork(source: Path, target: Path, generation: int, seed: int) -> State:
    """Begin ``target`` with ``source``'s first generations; ``seed`` decides how it goes on.

    Budgets may then be others too. How often the report split was opened is carried over: a
    second look at the same questions is a second chance to be lucky.
    """
    state = State.load(source)
    if state is None:
        raise UserError(f"{source} holds no search.", f"{source} に探索の記録がありません。")
    entries = [e for e in read_entries(source / JOURNAL) if e.split == "search"]
    last = max((e.candidate.generation for e in entries), default=0)
    if not 0 <= generation <= last:
        raise UserError(
            f"The search has {last} generations: it can be forked after one of 0 to {last}.",
            f"この探索は {last} 世代までです。0 から {last} の世代を選んでください。",
        )
    if (target / JOURNAL).exists():
        raise UserError(f"{target} holds a search already.", f"{target} にはすでに探索があります。")
    kept = [e.as_json() for e in entries if e.candidate.generation <= generation]
    forked = State(
        state.settings,
        [*((g, s) for g, s in state.seeds if g <= generation), (generation + 1, seed)],
        opened=state.opened,
        start=state.start,
        given=[one for one in state.given if one["generation"] <= generation],
    )
    forked.save(target)
    write_json_lines(target / JOURNAL, kept)
    return forked


def _warm(config: SearchConfig, space: Space, objective: Objective) -> Vector | None:
    """Where a warm start begins: the mean of the earlier search's best quarter."""
    if not config.warm_start:
        return None
    folder = Path(config.warm_start)
    state = State.load(folder)
    if state is None or state.settings["space"] != json.loads(json.dumps(space.as_json())):
        raise UserError(
            f"{folder} holds no search over the same groups, parents and genes.",
            f"{folder} に、同じグループ・親・遺伝子の探索がありません。",
        )
    journal = Journal(folder)
    members = [one for one in journal.candidates() if one.role == "candidate"]
    order = Scores(journal, objective).order([one.id for one in members], "weighted")
    best = set(order[: math.ceil(len(order) / BETTER)])
    rows = [one.vector for one in members if one.id in best]
    if not rows:
        return None
    return tuple(math.fsum(column) / len(rows) for column in zip(*rows, strict=True))


def _differing(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """The names of what differs, one level deep."""
    flat = [
        {
            f"{k}.{n}" if isinstance(v, dict) else k: x
            for k, v in one.items()
            for n, x in (v.items() if isinstance(v, dict) else [("", v)])
        }
        for one in (a, b)
    ]
    return sorted(k for k in {*flat[0], *flat[1]} if flat[0].get(k) != flat[1].get(k))
