"""The columns of the chat that set what a run has trained beside the base it began from.

A base that no column has yet is kept as one, as the Models tab would.
"""

from __future__ import annotations

import re

from charllm.core.catalog import find_model
from charllm.core.training_config import TrainConfig
from charllm.core.variants import Variant, list_variants, load_endpoints, save_endpoints
from charllm.data.config import Paths
from charllm.data.errors import UserError


def compare_columns(paths: Paths, config: TrainConfig) -> list[str]:
    """Names of the columns ``[base, trained]``; ``UserError`` where the checkpoint is gone."""
    variants = list_variants(paths, config.profile)
    trained = next((v for v in variants if v.checkpoint == config.name and not v.rag), None)
    if trained is None:
        raise UserError(
            f"There is no checkpoint {config.name!r} any more.",
            f"チェックポイント「{config.name}」はもうありません。",
        )
    for one in variants:
        plain = not one.checkpoint and not one.rag
        if plain and (one.model, one.base_url) == (config.base, trained.base_url):
            return [one.name, trained.name]
    made = _base_column(config, trained)
    save_endpoints(paths, [*load_endpoints(paths), made])
    return [made.name, trained.name]


def _base_column(config: TrainConfig, trained: Variant) -> Variant:
    """The base as a column of its own, where it was trained: on this machine or by a service."""
    label = config.base if trained.base_url else find_model(config.base).label
    slug = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-") or "model"
    kind = "remote" if trained.base_url else "local"
    return Variant(
        name=f"{kind}-base-{slug}",
        label_en=f"{label} (base)",
        label_ja=f"{label}（ベース）",
        model=config.base,
        base_url=trained.base_url,
        quantization=trained.quantization,
    )
