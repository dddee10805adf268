"""Ways to have a merged model at once, behind one ``apply``.

*dense* blends full weights in place, *adapter* gives a row of coefficients to a base with
adapters, *layers* walks over the parents' layers; *mergekit* lets mergekit compute what has no
kernel here, slowly. Which one, and whether it fits, ``planning``
says before anything loads. After ``apply`` the engine's ``model`` answers as the candidate; a
search need not know more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from charllm.core.merging.coefficients import Coefficients
from charllm.core.merging.compatibility import check_parents
from charllm.core.merging.parents import Parent
from charllm.data.errors import Text

if TYPE_CHECKING:
    from charllm.core.merging.planning import Plan
    from charllm.core.merging.recipe import MergeRecipe


@dataclass(frozen=True)
class Effect:
    """What applying a candidate did.

    ``asked`` and ``effective`` are, by group, how far the weights were to move away from the
    heaviest parent (or the base) and how far they moved after rounding: for two parents the
    second one's share t, for more of them 1 − the largest share, with a base 1. ``warn`` where
    the two differ by more than a fifth in some group. ``seconds`` is the blend alone.

    ``scales`` is what ``generation.Request.scales`` takes: the adapter engine's row; None where
    the model itself was changed.
    """

    seconds: float
    asked: dict[str, float] = field(default_factory=dict)
    effective: dict[str, float] = field(default_factory=dict)
    warn: bool = False
    scales: object | None = None

    @property
    def warning(self) -> Text | None:
        """The worst group in words, or None."""
        if not self.warn:
            return None
        group = max(self.asked, key=lambda g: abs(self.asked[g] - self.effective[g]))
        asked, real = self.asked[group], self.effective[group]
        return Text(
            f"Rounding bends the mixture: in {group!r} {asked:.2f} acts like {real:.2f}. The "
            "parents are too close for 16-bit weights; mix them as adapters, or in float32.",
            f"丸めのため混ぜ方がずれています。「{group}」では {asked:.2f} を指定しても実際は "
            f"{real:.2f} 相当です。親どうしが16ビットの精度に対して近すぎます。"
            "アダプターのまま、または float32 で混ぜてください。",
        )


class Engine(Protocol):
    """A resident set of parents. Not thread-safe: one worker owns it."""

    groups: list[str]
    """Names of the layer groups that ``Coefficients.weights`` must give, in order."""
    parents: list[str]
    """Names of the parents with a weight, in the order of the weights."""
    model: Any
    """What ``generation.stream`` runs: a causal LM, or an ``AdapterModel`` with rows."""
    layout_groups: list[tuple[str, tuple[int, ...]]]
    """All groups with their layers, as ``written.recipe_for`` takes them."""
    batched: bool
    """Whether candidates can share a batch, each with its own ``Effect.scales``."""
    steady: bool
    """Whether the model's tensors stay where they are from candidate to candidate."""

    def apply(self, genome: Coefficients) -> Effect:
        """Make ``model`` the candidate. ``UserError`` where the candidate cannot be."""
        ...

    def recipe(self, genome: Coefficients, dtype: str = "bfloat16") -> MergeRecipe:
        """The candidate as a recipe that plain ``mergekit-yaml`` makes the same weights of.

        DARE's random numbers need ``mergekit-yaml --random-seed`` with ``genome``'s seed (0).
        """
        ...

    def close(self) -> None:
        """Let go of the parents and the model."""
        ...


def open_engine(
    plan: Plan,
    group_size: int = 4,
    compiled: bool | None = None,
    dtype: Literal["bfloat16", "float16"] = "bfloat16",
) -> Engine:
    """Load the parents as planned; ``UserError`` where the plan does not fit.

    ``group_size`` layers share their weights (the last group may be smaller). ``compiled``: fused
    kernels; None where the machine has a compiler for them. ``dtype`` is the blended model's in
    the dense engine: float16 rounds eight times finer, for families whose activations stay within
    its range (Llama and Mistral; not Gemma).
    """
    from charllm.core.merging.sources import open_parents, torch_dtype
    from charllm.core.models import load_model, weights_hash

    plan.require()
    home = plan.parents[0].base
    if plan.engine == "layers":
        from charllm.core.merging.layers_engine import LayersEngine

        return LayersEngine({p.written: _whole(p, plan) for p in plan.parents})
    model = load_model(home, device=plan.device)
    if plan.engine == "adapter":
        from charllm.core.merging.adapter_engine import AdapterEngine

        adapters = {parent.written: parent.adapter for parent in plan.parents}
        base = plan.base.written if plan.base else ""
        return AdapterEngine(model, adapters, group_size, base, weights_hash(home))
    model.to(torch_dtype(dtype))
    everyone = [*plan.parents, *([plan.base] if plan.base else [])]
    aligned = plan.vocabulary is not None
    sources = open_parents(everyone, check_parents(everyone, aligned=aligned))
    if plan.vocabulary:
        model.resize_token_embeddings(plan.vocabulary.size, mean_resizing=False)
        sources = plan.vocabulary.over(sources)
    base = plan.base.written if plan.base else ""
    if plan.engine == "mergekit":
        from charllm.core.merging.mergekit_engine import MergekitEngine

        slow = MergekitEngine(model, sources, group_size, plan.method, base)
        slow.vocabulary = plan.vocabulary
        return slow
    from charllm.core.merging.dense import DenseEngine

    dense = DenseEngine(model, sources, group_size, base, plan.where, compiled)
    dense.vocabulary = plan.vocabulary
    return dense


def _whole(parent: Parent, plan: Plan) -> Any:
    """A parent as a model of its own, its weights filled in where it is more than a folder."""
    from charllm.core.merging.sources import open_parents
    from charllm.core.models import load_model

    model = load_model(parent.base, device=plan.device)
    if parent.adapter is not None or parent.recipe is not None:
        tensors = open_parents([parent], check_parents([parent]))[parent.written]
        for name, parameter in model.named_parameters():
            parameter.data.copy_(tensors.get(name))
    return model
