"""The study's second experiment as a table: models before and after the merge, a line each.

The study printed one mean a model, over all its questions. Beside it stand what a reader needs to
trust it: the interval, how many questions and replies it is of, how many replies have no score or
were stopped by the gate, and what a merge gains over the better of its parents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from charllm.core.evaluation.comparison import Comparison, Difference, Summary
from charllm.core.evaluation.study_table import turned
from charllm.core.evaluation.tables import VARIANT, Column, Table
from charllm.core.variants import Variant, load_checkpoint
from charllm.data.config import Paths
from charllm.data.errors import Language, Text, UserError

Role = Literal["base", "tuned", "merged", "endpoint"]
ROLES: dict[Role, Text] = {
    "base": Text("base", "ベース"),
    "tuned": Text("fine-tuned", "ファインチューニング"),
    "merged": Text("merged", "マージ"),
    "endpoint": Text("endpoint", "エンドポイント"),
}
MERGEKIT = "mergekit_config.yml"
"""The recipe that a merged model of full weights carries."""


@dataclass(frozen=True)
class Kin:
    """What a variant is made of. ``parents`` are checkpoints, () where they are not known."""

    role: Role
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """One model. ``gain`` is a merge's over ``parent``, the better of its parents in the table."""

    variant: Variant
    kin: Kin
    summary: Summary
    parent: str = ""
    gain: Difference | None = None

    def as_json(self) -> dict[str, Any]:
        mean, gain = self.summary.mean, self.gain.difference if self.gain else None
        return {
            "model": self.variant.name,
            "kind": self.kin.role,
            "rag": self.variant.rag,
            "mean": mean.value,
            "low": mean.low,
            "high": mean.high,
            "n": self.summary.queries,
            "replies": self.summary.replies,
            "unscored": self.summary.unscored,
            "gated": self.summary.gated,
            "parent": self.parent or None,
            "gain": gain.as_json() if gain else None,
            "p_holm": self.gain.p_holm if self.gain else None,
        }


def kin_of(paths: Paths, variant: Variant) -> Kin:
    """Read from the checkpoint's or the model's folder; what is gone by now counts by its name."""
    if variant.base_url:
        return Kin("endpoint")
    try:
        if variant.checkpoint:
            checkpoint = load_checkpoint(paths, variant.checkpoint)
            merged = checkpoint.kind == "recipe"
            return Kin("merged", tuple(checkpoint.weights)) if merged else Kin("tuned")
        from charllm.core.models import model_folder

        merged = (model_folder(paths, variant.model) / MERGEKIT).is_file()
        return Kin("merged" if merged else "base")
    except UserError:
        return Kin("tuned" if variant.checkpoint else "base")


def experiment(
    comparison: Comparison, variants: Sequence[Variant], kin: Mapping[str, Kin]
) -> list[Line]:
    """A line for each variant with a reply judged, in their order; ``kin`` by variant's name."""
    summaries = {one.variant: one for one in comparison.summaries}
    found = []
    for variant in variants:
        if variant.name not in summaries:
            continue
        parent = _better_parent(variant, variants, summaries, kin)
        gain = _difference(comparison, variant.name, parent)
        own = kin[variant.name]
        found.append(Line(variant, own, summaries[variant.name], parent, gain))
    return found


def experiment_table(lines: Sequence[Line], language: Language) -> Table:
    """The lines for a paper; ``p`` is corrected for every difference that the comparison holds."""
    return Table(
        Text("Before and after the merge", "マージの前後"),
        (
            VARIANT,
            Column(Text("Kind", "種類")),
            Column(Text("RAG", "RAG")),
            Column(Text("Mean score", "平均点")),
            Column(Text("n", "n")),
            Column(Text("Replies", "返答数")),
            Column(Text("Unscored", "採点不能")),
            Column(Text("Gated", "ゲート不合格")),
            Column(Text("Better parent", "良い方の親")),
            Column(Text("Gain over it", "親からの差")),
            Column(Text("p (Holm)", "p 値（Holm）"), "p"),
        ),
        tuple(
            (
                line.variant.name,
                ROLES[line.kin.role].in_(language),
                "✓" if line.variant.rag else "–",
                line.summary.mean,
                line.summary.queries,
                line.summary.replies,
                line.summary.unscored,
                line.summary.gated,
                line.parent or "–",
                line.gain.difference if line.gain else None,
                line.gain.p_holm if line.gain else None,
            )
            for line in lines
        ),
    )


def _better_parent(
    variant: Variant,
    variants: Sequence[Variant],
    summaries: Mapping[str, Summary],
    kin: Mapping[str, Kin],
) -> str:
    """Of a merge's parents with the same RAG the one with the higher mean; "" where none is there.

    Where a recipe does not name checkpoints, any model that was not merged may be a parent.
    """
    own = kin[variant.name]
    if own.role != "merged":
        return ""
    means = {
        one.name: summaries[one.name].mean.value
        for one in variants
        if one.name in summaries
        and one.rag == variant.rag
        and (one.checkpoint in own.parents if own.parents else kin[one.name].role != "merged")
    }
    known = {name: mean for name, mean in means.items() if mean is not None}
    return max(known, key=lambda name: known[name], default="")


def _difference(comparison: Comparison, name: str, parent: str) -> Difference | None:
    for one in comparison.differences:
        if (one.a, one.b) == (name, parent):
            return one
        if (one.b, one.a) == (name, parent):
            return turned(one)
    return None
