"""What a finished training run publishes: adapter, settings, card, curves, notice, description.

The adapter is stored in bfloat16 and names its base, never a path. Licence notices that a derived
adapter has to carry stand here.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charllm.core.training_readme import curves_svg, readme
from charllm.data.config import Paths
from charllm.data.files import new_folder, write_json, write_text
from charllm.data.prompts import IGNORED, end_id

if TYPE_CHECKING:
    from charllm.core.training_config import TrainConfig
    from charllm.core.training_data import Material
    from charllm.core.training_watch import Watch

PACKAGES = ("torch", "transformers", "trl", "peft")
LIMIT = 10_000_000
"""Bytes of an adapter that is meant to be shipped; a larger one is published, and noted."""

_META = "Copyright © Meta Platforms, Inc. All Rights Reserved."
NOTICES = {
    "Gemma Terms of Use": "Gemma is provided under and subject to the Gemma Terms of Use found at "
    "ai.google.dev/gemma/terms",
    "Llama 2 Community License": "Llama 2 is licensed under the LLAMA 2 Community License, "
    f"{_META}",
    "Llama 3 Community License": "Meta Llama 3 is licensed under the Meta Llama 3 Community "
    f"License, {_META}",
    "Llama 3.1 Community License": "Llama 3.1 is licensed under the Llama 3.1 Community License, "
    f"{_META}",
}
"""By a licence's name in the catalog: what it asks every derived work to carry."""


def publish(
    config: TrainConfig,
    material: Material,
    trainer: Any,
    watch: Watch,
    samples: list[dict[str, Any]],
    paths: Paths,
) -> dict[str, Any]:
    """Write ``checkpoints/<name>`` atomically; returns the numbers of its card."""
    losses = watch.losses(trainer)
    curve = watch.curve(trainer)
    card = make_card(config, material, losses, samples, watch.seconds)
    target = paths.checkpoints / config.name
    with new_folder(target) as work:
        save_adapter(trainer.model, work, Path(config.base).name)
        config.model_copy(update={"replace": False}).save(work / "train.yaml")
        write_json(work / "card.json", card)
        write_json(work / "curves.json", {"steps": curve, "epochs": losses})
        if curve:
            write_text(work / "curves.svg", curves_svg(curve, losses))
        write_text(work / "README.md", readme(config, card, curve, material.profile.language))
        if card["licence"]["notice"]:
            write_text(work / "NOTICE", card["licence"]["notice"] + "\n")
        size = (work / "adapter_model.safetensors").stat().st_size
    watch.reporter.log(f"published {target} ({size / 1e6:.1f} MB)")
    if size > LIMIT:
        watch.reporter.log("the adapter is over 10 MB; a smaller r gives a smaller one")
    kept = ("dialogues", "held_out_loss", "stopped", "seconds", "base_hash", "data_hash")
    return {
        "checkpoint": config.name,
        "folder": str(target),
        "bytes": size,
        **{name: card[name] for name in kept},
    }


def save_adapter(model: Any, folder: Path, base: str) -> None:
    """peft's two files, in bfloat16, with the base's name instead of a path, in a fixed order."""
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    tensors = {
        name: tensor.detach().to("cpu", torch.bfloat16).contiguous()
        for name, tensor in sorted(get_peft_model_state_dict(model).items())
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_model.safetensors").chmod(0o644)
    config = model.peft_config["default"].to_dict()
    plain = {key: _plain(value) for key, value in config.items()}
    plain |= {"base_model_name_or_path": base, "inference_mode": True}
    write_json(folder / "adapter_config.json", plain)


def _plain(value: Any) -> Any:
    """JSON for peft's sets (sorted: their order changes from run to run) and enumerations."""
    if isinstance(value, set):
        return sorted(value)
    if hasattr(value, "value"):
        return value.value
    return json.loads(json.dumps(value, default=str))


def make_card(
    config: TrainConfig,
    material: Material,
    losses: list[dict[str, float | None]],
    samples: list[dict[str, Any]],
    seconds: float,
) -> dict[str, Any]:
    """The card: where the adapter comes from, what was measured, and ten replies as they were."""
    return {
        "label": {"en": config.label_en or config.name, "ja": config.label_ja or config.name},
        "base": config.base,
        "base_hash": material.base_hash,
        "data_hash": material.hash,
        "profile": config.profile,
        "dataset": config.dataset,
        "half": config.half,
        "template": material.template.name,
        "dialogues": len(material.dialogues),
        "held_out": len(material.held_out),
        "learnt_tokens": material.learnt,
        "labels": labels_checked(material),
        "losses": losses,
        "held_out_loss": _held_out(config, losses),
        "stopped": sum(sample["stopped"] for sample in samples),
        "samples": samples,
        "seconds": seconds,
        "versions": {name: version(name) for name in PACKAGES},
        "licence": licence(config.base),
    }


def labels_checked(material: Material) -> dict[str, Any]:
    """What the check before the start found: rows, learnt tokens, one end token behind each row.

    ``one_end_token`` counts the rows that learn it exactly once and last; a run starts only where
    all do.
    """
    end = end_id(material.template, material.tokenizer)
    rows = [*material.rows, *material.held_out_rows]
    return {
        "rows": len(rows),
        "learnt_tokens": sum(label != IGNORED for row in rows for label in row.labels),
        "one_end_token": sum(r.labels.count(end) == 1 and r.labels[-1] == end for r in rows),
        "end_token": material.tokenizer.convert_ids_to_tokens(end),
    }


def _held_out(config: TrainConfig, losses: list[dict[str, float | None]]) -> float | None:
    """The held-out loss of the weights that are published."""
    found = [row["eval_loss"] for row in losses if row["epoch"] and row["eval_loss"] is not None]
    if not found:
        return None
    return min(found) if config.keep == "best" else found[-1]


def licence(base: str) -> dict[str, str]:
    """Name and notice of the base's licence, which an adapter made from it inherits."""
    from charllm.core.catalog import CATALOG

    name = next((model.license for model in CATALOG if base in (model.id, model.hub_id)), "")
    notices = [NOTICES[part] for part in name.split(", ") if part in NOTICES]
    return {"name": name or "that of the base / ベースに従う", "notice": "\n".join(notices)}
