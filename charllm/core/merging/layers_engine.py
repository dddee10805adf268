"""The layers engine: a candidate is a path over the parents' layers, in any order, with repeats,
each hop's input multiplied by its scale (data flow space; Akiba et al., arXiv 2403.13187).

Hops are shallow copies that share the parents' parameters and have their own place in the cache.
Embeddings come from the first hop's parent, the last norm and the head from the last hop's, as in
mergekit's passthrough; a head tied to the embeddings stays with them. A plain average of the
parents (linear) can be applied too, since a search holds sequences against it: that takes a model
of its own, made when it is first asked for.
"""

from __future__ import annotations

import copy
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from charllm.core.merging.coefficients import Coefficients, hops, layer_groups, path_of
from charllm.core.merging.engines import Effect
from charllm.core.merging.parameters import is_before_layers, layer_of
from charllm.core.merging.recipe import MergeRecipe
from charllm.core.merging.written import recipe_for
from charllm.data.errors import UserError


class LayersEngine:
    """``models``: the parents by name, whole causal LMs of one architecture, all on one device.

    ``groups`` names the hops of the plain first parent; a candidate may have any number of hops.
    """

    batched = False
    steady = False

    def __init__(self, models: dict[str, Any]) -> None:
        self.parents = list(models)
        self._models = list(models.values())
        first = self._models[0]
        self._config = first.config.get_text_config()
        self._layers = [list(model.get_decoder().layers) for model in self._models]
        self._kinds = list(getattr(self._config, "layer_types", None) or [])
        self._parts = [_ends(model) for model in self._models]
        self._after_norms = hasattr(self._layers[0][0], "post_feedforward_layernorm")
        self._tied = bool(self._config.tie_word_embeddings)
        self._average: Any = None
        self.model = copy.copy(first)
        self.model._modules = OrderedDict(first._modules)
        self._decoder_name = first.base_model_prefix
        decoder = copy.copy(first.get_decoder())
        decoder._modules = OrderedDict(decoder._modules)
        self.model._modules[self._decoder_name] = decoder
        self._decoder = decoder
        self.layout_groups = layer_groups(len(self._layers[0]), 1)
        self.groups = [f"hop.{k}" for k in range(len(self._layers[0]))]
        self.apply(hops([(0, k, 1.0) for k in range(len(self.groups))]))

    def apply(self, genome: Coefficients) -> Effect:
        """Lay the model's layers along the path; under a millisecond."""
        started = time.perf_counter()
        if genome.method == "linear":
            model = self._averaged(genome)
            kept = list(model.get_decoder().layers)
            self._lay([(layer, 1.0) for layer in kept], *[_ends(model)] * 2)
            self._describe(range(len(kept)))
            return Effect(time.perf_counter() - started)
        path = path_of(genome)
        self._check(genome, path)
        first, last = self._parts[path[0][0]], self._parts[path[-1][0]]
        self._lay([(self._layers[p][layer], scale) for p, layer, scale in path], first, last)
        self._describe([layer for _, layer, _ in path])
        return Effect(time.perf_counter() - started)

    def _lay(
        self, chain: Sequence[tuple[Any, float]], first: dict[str, Any], last: dict[str, Any]
    ) -> None:
        """These layers with their scales, between the embeddings of ``first`` and ``last``'s
        norm and head."""
        from torch import nn

        made = [_hop(layer, place, scale) for place, (layer, scale) in enumerate(chain)]
        self._decoder._modules["layers"] = nn.ModuleList(made)
        self._decoder._modules["embed_tokens"] = first["embed_tokens"]
        self._decoder._modules["norm"] = last["norm"]
        self.model._modules["lm_head"] = (first if self._tied else last)["lm_head"]

    def _averaged(self, genome: Coefficients) -> Any:
        """The parents' weighted mean by layer group, summed in float32 and rounded once."""
        import torch

        groups = layer_groups(len(self._layers[0]), len(self._layers[0]))
        genome.check([name for name, _ in groups], len(self._models))
        if self._average is None:
            self._average = copy.deepcopy(self._models[0])
        parents = [dict(model.named_parameters()) for model in self._models]
        with torch.no_grad():
            for name, target in self._average.named_parameters():
                place = 1 if layer_of(name) is not None else 0 if is_before_layers(name) else 2
                total = torch.zeros(target.shape, dtype=torch.float32, device=target.device)
                for share, parent in zip(genome.shares(groups[place][0]), parents, strict=True):
                    total.add_(parent[name].float(), alpha=share)
                target.copy_(total)
        return self._average

    def recipe(self, genome: Coefficients, dtype: str = "bfloat16") -> MergeRecipe:
        """The candidate as mergekit's YAML, see ``written.recipe_for``."""
        scaled = genome.method != "linear" and any(scale != 1 for _, _, scale in path_of(genome))
        if self._after_norms and scaled:
            raise UserError(
                "This family adds a normed update to the stream, so that a scale cannot be "
                "written into its weights; use scales of 1.",
                "このモデルは正規化した値を加算する構造のため、倍率を重みに書き込めません。"
                "倍率は 1 にしてください。",
            )
        groups = self.layout_groups
        if genome.method == "linear":
            groups = layer_groups(len(self._layers[0]), len(self._layers[0]))
        return recipe_for(genome, self.parents, groups, dtype=dtype)

    def close(self) -> None:
        self._models, self._layers, self._parts, self.model = [], [], [], None
        self._average = None

    def _describe(self, origins: Sequence[int]) -> None:
        """The config's count and kinds of layers, set together: each alone would be refused."""
        values: dict[str, Any] = {"num_hidden_layers": len(origins)}
        if self._kinds:
            values["layer_types"] = [self._kinds[layer] for layer in origins]
        self._config.__dict__.update(values)

    def _check(self, genome: Coefficients, path: Sequence[tuple[int, int, float]]) -> None:
        if genome.method != "passthrough" or not path:
            raise UserError(
                "The layers engine takes a path of at least one hop (passthrough).",
                "層エンジンには、1つ以上のホップからなる経路（passthrough）が必要です。",
            )
        for parent, layer, _ in path:
            if not (0 <= parent < len(self._layers) and 0 <= layer < len(self._layers[parent])):
                raise UserError(
                    f"There is no layer {layer} of parent {parent}.",
                    f"親 {parent} に {layer} 番の層はありません。",
                )


def _ends(model: Any) -> dict[str, Any]:
    decoder = model.get_decoder()
    found = {"embed_tokens": decoder._modules.get("embed_tokens"), "norm": decoder.norm}
    if found["embed_tokens"] is None or "lm_head" not in model._modules:
        raise UserError(
            f"{type(model).__name__} is built differently; its layers cannot be rearranged.",
            f"{type(model).__name__} は構造が異なるため、層を並べ替えられません。",
        )
    return {**found, "lm_head": model._modules["lm_head"]}


def _hop(layer: Any, place: int, scale: float) -> Any:
    """The layer with its own cache place; its parameters are the parent's."""
    made = copy.copy(layer)
    made._modules = OrderedDict(layer._modules)
    attention = copy.copy(layer.self_attn)
    attention.layer_idx = place
    made._modules["self_attn"] = attention
    if hasattr(made, "layer_idx"):
        made.layer_idx = place
    made._forward_pre_hooks = OrderedDict()
    made._forward_pre_hooks_with_kwargs = OrderedDict()
    if scale != 1:
        made.register_forward_pre_hook(
            lambda module, args, kwargs: ((args[0] * scale, *args[1:]), kwargs), with_kwargs=True
        )
    return made
