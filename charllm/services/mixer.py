"""A mixture made by hand: the sliders there are, what they stand for, and where it can go.

Only configs and headers of files are read here; the model that answers is ``mixer_live``'s. It is
always a linear mixture, whose shares are the study's α / (α + β) in each group of layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from charllm.core.merging import planning
from charllm.core.merging.coefficients import (
    ADAPTER_METHODS,
    EMBEDDINGS,
    HEAD,
    Coefficients,
    even,
    layer_groups,
)
from charllm.core.merging.genome import LINEAR
from charllm.core.merging.injecting import inject, space_of
from charllm.core.merging.journal import Journal
from charllm.data.config import Paths
from charllm.data.errors import Text, UserError
from charllm.data.files import check_slug, write_text
from charllm.data.progress import Silent
from charllm.services.merge_forms import merge_runs
from charllm.services.merge_view import SEARCH, config_of
from charllm.services.runs import Run

if TYPE_CHECKING:
    from charllm.core.merging.planning import Plan
    from charllm.core.merging.recipe import MergeRecipe

ORIGIN = "mixer"
"""What the journal of a search says of a mixture that was made here."""
GROUP_SIZE = 4

Weights = dict[str, tuple[float, ...]]
"""By group one number a parent, each 0 or more; what counts are their shares."""


@dataclass(frozen=True)
class Board:
    """The sliders: one for each of ``groups`` and each of the plan's parents.

    ``layers`` are the decoder layers of each group, () for embeddings and head, which only whole
    models have.
    """

    plan: Plan
    size: int
    layers: Mapping[str, tuple[int, ...]]

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(self.layers)

    @property
    def parents(self) -> tuple[str, ...]:
        return tuple(parent.written for parent in self.plan.parents)

    @property
    def count(self) -> int:
        """How many decoder layers a parent has."""
        return sum(map(len, self.layers.values()))

    @property
    def live(self) -> bool:
        """Whether a mixture costs nothing: a row of coefficients on the chat's own base."""
        return self.plan.engine == "adapter"

    def uniform(self) -> Weights:
        """The plain average."""
        return even(LINEAR, self.groups, len(self.parents)).weights

    def only(self, parent: int) -> Weights:
        """One parent, counted from 0, as it is."""
        return {g: tuple(float(k == parent) for k in range(len(self.parents))) for g in self.groups}

    def coefficients(self, weights: Mapping[str, Sequence[float]]) -> Coefficients:
        """What the sliders stand for; ``UserError`` where they stand for nothing."""
        found = Coefficients(LINEAR, {group: tuple(row) for group, row in weights.items()})
        found.check(self.groups, len(self.parents))
        if min(weight for row in found.weights.values() for weight in row) < 0:
            raise UserError("A weight may not be negative.", "重みに負の値は使えません。")
        return Coefficients(LINEAR, {group: found.shares(group) for group in self.groups})


def open_board(paths: Paths, parents: Sequence[str], size: int = GROUP_SIZE) -> Board:
    """The sliders for these parents, ``size`` layers a group; ``UserError`` where the parents do
    not fit together."""
    if not 1 <= size <= 1000:
        raise UserError(
            "A group has 1 to 1,000 layers.", "グループの層数は 1～1,000 にしてください。"
        )
    found = planning.plan(paths, parents, LINEAR)
    config = found.parents[0].config.get("text_config", found.parents[0].config)
    named = layer_groups(config["num_hidden_layers"], size)
    apart = (EMBEDDINGS, HEAD) if found.engine == "adapter" else ()
    return Board(found, size, {name: layers for name, layers in named if name not in apart})


def regrouped(
    weights: Mapping[str, Sequence[float]], old: Board, layers: Mapping[str, Sequence[int]]
) -> Weights:
    """The same mixture in other groups (name → layers): the mean share of a group's layers.

    Exact where every new group lies within an old one. ``old``'s parents, in their order.
    """
    mixed = old.coefficients(weights)
    by_layer = {
        layer: mixed.weights[group] for group, inside in old.layers.items() for layer in inside
    }
    made: Weights = {}
    for name, inside in layers.items():
        rows = [by_layer[layer] for layer in inside] or [
            mixed.weights.get(name) or by_layer[0 if name == EMBEDDINGS else max(by_layer)]
        ]
        made[name] = tuple(math.fsum(column) / len(rows) for column in zip(*rows, strict=True))
    return made


# --- as a recipe --------------------------------------------------------------------------------


def recipe_of(board: Board, weights: Mapping[str, Sequence[float]]) -> MergeRecipe:
    """The mixture as plain ``mergekit-yaml`` reads it."""
    from charllm.core.merging.written import recipe_for

    layout = layer_groups(board.count, board.size)
    return recipe_for(board.coefficients(weights), list(board.parents), layout, "", "bfloat16")


def save_recipe(
    paths: Paths, board: Board, weights: Mapping[str, Sequence[float]], name: str
) -> Path:
    """Write ``recipes/<name>.yaml``; ``UserError`` where there is one already."""
    check_slug(name, "recipe name")
    path = paths.root / "recipes" / f"{name}.yaml"
    if path.exists():
        raise UserError(
            f"There is a recipe {name!r} already. Choose another name.",
            f"レシピ「{name}」はすでにあります。別の名前にしてください。",
        )
    write_text(path, recipe_of(board, weights).to_yaml())
    return path


def publish(
    paths: Paths,
    board: Board,
    weights: Mapping[str, Sequence[float]],
    name: str,
    label: Text | None = None,
) -> Path:
    """Write ``checkpoints/<name>``, a few kilobytes that the chat blends as it answers.

    ``UserError`` where the name is taken, and where the parents are not adapters on one base.
    """
    from charllm.core.merging.blend import MergeConfig, run_merge

    check_slug(name, "checkpoint name")
    out = paths.checkpoints / name
    if out.exists():
        raise UserError(
            f"There is a checkpoint {name!r} already. Choose another name.",
            f"チェックポイント「{name}」はすでにあります。別の名前にしてください。",
        )
    if not board.live:
        raise UserError(
            "Only a mixture of adapters becomes a checkpoint. Save it as a recipe; "
            "`python -m charllm merge` makes a model of it.",
            "チェックポイントにできるのはアダプターどうしの混合だけです。レシピとして保存し、"
            "`python -m charllm merge` でモデルを作ってください。",
        )
    recipe = paths.workspace / "mixer" / f"{name}.yaml"
    write_text(recipe, recipe_of(board, weights).to_yaml())
    words = label or Text("", "")
    config = MergeConfig(
        recipe=str(recipe), out=str(out), form="recipe", label_en=words.en, label_ja=words.ja
    )
    try:
        run_merge(config, Silent(), recipe.parent, paths)
    finally:
        recipe.unlink()
    return out


# --- into a search ------------------------------------------------------------------------------


def takers(paths: Paths, parents: Sequence[str]) -> list[Run]:
    """Running and paused evolutions of these very parents that still begin generations, the
    newest first."""
    found = []
    for run in merge_runs(paths):
        status = run.status()
        if status.state == "done" or not (status.live or status.resumable):
            continue
        try:
            if set(config_of(run).parents) == set(parents):
                space_of(run.folder / SEARCH)
                found.append(run)
        except UserError:  # damaged, not begun, or past its last generation
            continue
    return found


def send(run: Run, board: Board, weights: Mapping[str, Sequence[float]]) -> bool:
    """Put the mixture into the next generation that ``run`` begins; whether it is exactly the
    same there (its groups may be larger). ``UserError`` where the run takes none."""
    config = config_of(run)
    if set(config.parents) != set(board.parents):
        raise UserError(
            "This evolution has other parents.", "この進化マージは別の親を使っています。"
        )
    if config.method not in ADAPTER_METHODS:  # shares of differences are shares of models
        raise UserError(
            f"This evolution mixes by {config.method}, the mixer by linear.",
            f"この進化マージは {config.method} で混ぜますが、手動の混合は linear です。",
        )
    space = space_of(run.folder / SEARCH)
    begun = max(Journal(run.folder / SEARCH).generations, default=0)
    if begun >= config.search.max_candidates // config.search.population_for(space):
        raise UserError(
            "This search is at its last generation. Fork it to go on.",
            "この探索は最後の世代に入っています。続けるには分岐（fork）してください。",
        )
    named = dict(layer_groups(board.count, config.group_size))
    layers = {group: named[group] for group in space.groups}
    there = regrouped(weights, board, layers)
    order = [board.parents.index(name) for name in config.parents]
    inject(
        run.folder / SEARCH,
        {group: tuple(row[k] for k in order) for group, row in there.items()},
        ORIGIN,
    )
    return _same(board, weights, there, layers)


def _same(
    board: Board,
    weights: Mapping[str, Sequence[float]],
    there: Weights,
    layers: Mapping[str, Sequence[int]],
) -> bool:
    """Whether every layer has kept its shares."""
    mixed = board.coefficients(weights).weights
    groups = {layer: name for name, inside in board.layers.items() for layer in inside}
    pairs = [(mixed[groups[n]], there[name]) for name, inside in layers.items() for n in inside]
    return all(abs(a - b) < 1e-9 for old, new in pairs for a, b in zip(old, new, strict=True))
