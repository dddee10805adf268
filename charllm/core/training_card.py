"""What a finished training run publishes: adapter, configuration, card, notice and description.

The adapter is stored in bfloat16 and names its base, never a path. Licence notices that a derived
adapter has to carry stand here.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charllm.data.config import Paths
from charllm.data.files import new_folder, write_json, write_text

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
    card = make_card(config, material, losses, samples, watch.seconds)
    target = paths.checkpoints / config.name
    with new_folder(target) as work:
        save_adapter(trainer.model, work, Path(config.base).name)
        config.model_copy(update={"replace": False}).save(work / "train.yaml")
        write_json(work / "card.json", card)
        write_text(work / "README.md", readme(config, card))
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
        "losses": losses,
        "held_out_loss": _held_out(config, losses),
        "stopped": sum(sample["stopped"] for sample in samples),
        "samples": samples,
        "seconds": seconds,
        "versions": {name: version(name) for name in PACKAGES},
        "licence": licence(config.base),
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


def readme(config: TrainConfig, card: dict[str, Any]) -> str:
    """The model card, in both languages."""
    label, terms = card["label"], card["licence"]
    first, last = card["losses"][0]["eval_loss"], card["held_out_loss"]
    rows = "\n".join(
        f"| {s['question']} | {'・'.join(s['facts']) or '-'} | {_cell(s['reply'])} | "
        f"{'yes' if s['stopped'] else 'no'} |"
        for s in card["samples"]
    )
    change = f"{first:.2f} → {last:.2f}" if first is not None and last is not None else "-"
    return f"""# {config.name}

{label["en"]} / {label["ja"]}

A LoRA adapter (r {config.r}) for `{card["base"]}`, trained by charllm on {card["dialogues"]}
dialogues of the profile `{config.profile}` (dataset `{config.dataset}`, half `{config.half}`). It
changes the base's behaviour; it is not the base. `train.yaml` makes it again:
`python -m charllm train checkpoints/{config.name}/train.yaml` (set `replace: true`).

`{card["base"]}` 用の LoRA アダプター（r {config.r}）です。プロファイル `{config.profile}` の会話
{card["dialogues"]} 件（データセット `{config.dataset}`、`{config.half}`）で学習しました。
`train.yaml` で同じものを作り直せます。

| | |
|---|---|
| held-out loss per token / 検証用の会話での損失 | {change} |
| replies that end by themselves / 自分で終わる返答 | {card["stopped"]} / {len(card["samples"])} |
| training / 学習時間 | {card["seconds"]:.0f} s |
| licence / ライセンス | {terms["name"]} |

{terms["notice"]}

| question / 質問 | facts / 事実 | reply / 返答 | ended / 終了 |
|---|---|---|---|
{rows}
"""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
