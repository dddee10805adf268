"""What a fine-tuning job leaves here: its curve, some replies, and a checkpoint that names it.

The weights stay at the service. ``checkpoints/<name>`` holds the configuration, the card and a
description; the chat's column asks the service's model. No key is part of any of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from charllm.core.training_config import TrainConfig
from charllm.data.config import Paths
from charllm.data.files import new_folder, write_json, write_text

if TYPE_CHECKING:
    from charllm.core.finetune_endpoint import Job
    from charllm.core.judging.score import Scorer
    from charllm.core.training_remote_data import State

_NAMES = {
    "loss": ("train_loss",),
    "eval_loss": ("full_valid_loss", "valid_loss"),
    "token_accuracy": ("train_mean_token_accuracy",),
    "eval_token_accuracy": ("full_valid_mean_token_accuracy", "valid_mean_token_accuracy"),
}
"""Our names, and the service's: the loss over all held-out rows before that of one batch."""


@dataclass(frozen=True)
class Tuned:
    """A finished job. ``model`` is what to ask: the last weights, or the best epoch's.

    ``losses`` are the card's rows, ``held_out_loss`` the chosen weights' where it is known.
    """

    job: Job
    model: str
    losses: list[dict[str, float | None]]
    held_out_loss: float | None


def metric(values: Mapping[str, float], total: int, epochs: float) -> dict[str, float]:
    """A step's numbers in a local run's words; {} for a line that is none.

    ``total`` steps stand in where the service does not tell them.
    """
    named = {
        ours: float(values[theirs])
        for ours, names in _NAMES.items()
        if (theirs := next((name for name in names if name in values), None))
    }
    if "step" not in values or not named:
        return {}
    step = int(values["step"])
    total = max(int(values.get("total_steps", total)), step, 1)
    return {"step": step, "total": total, "epoch": round(step / total * epochs, 3), **named}


def curve(
    steps: Sequence[Mapping[str, float]], total: int, epochs: float
) -> list[dict[str, float]]:
    """All steps' numbers; where some tell the loss over all held-out rows, no batch's is taken."""
    if any("full_valid_loss" in values for values in steps):
        steps = [{k: v for k, v in values.items() if k != "valid_loss"} for values in steps]
    return [row for values in steps if (row := metric(values, total, epochs))]


def losses_of(metrics: Iterable[Mapping[str, float]]) -> list[dict[str, float | None]]:
    """``{epoch, loss, eval_loss}`` of each epoch: the mean of its steps, its last held-out loss.

    Epoch 0, the base's, is not measured by a service.
    """
    by_epoch: dict[int, list[Mapping[str, float]]] = {}
    for row in metrics:
        by_epoch.setdefault(math.ceil(row["epoch"] - 1e-6), []).append(row)
    found: list[dict[str, float | None]] = [{"epoch": 0.0, "loss": None, "eval_loss": None}]
    for epoch, rows in sorted(by_epoch.items()):
        seen = [row["loss"] for row in rows if "loss" in row]
        held_out = [row["eval_loss"] for row in rows if "eval_loss" in row]
        found.append(
            {
                "epoch": float(epoch),
                "loss": round(sum(seen) / len(seen), 4) if seen else None,
                "eval_loss": round(held_out[-1], 4) if held_out else None,
            }
        )
    return found


def sample_row(asked: Mapping[str, Any], reply: str, reason: str, scorer: Scorer) -> dict[str, Any]:
    """One answered question, as a local run tells it."""
    judged = scorer.score(asked["question"], reply.strip(), reason)
    style = next((part.value for part in judged.parts if part.key == "style"), None)
    return {
        "question": asked["question"],
        "facts": asked["facts"],
        "reply": reply.strip(),
        "stopped": reason == "end",
        "reason": reason,
        "gate": [finding.code for finding in judged.gate],
        "style": None if style is None else round(style, 3),
    }


def publish(
    config: TrainConfig,
    state: State,
    tuned: Tuned,
    samples: Sequence[Mapping[str, Any]],
    paths: Paths,
) -> dict[str, Any]:
    """Write ``checkpoints/<name>`` atomically; returns the numbers of its card."""
    card = make_card(config, state, tuned, samples)
    target = paths.checkpoints / config.name
    with new_folder(target) as work:
        config.model_copy(update={"replace": False}).save(work / "train.yaml")
        write_json(work / "card.json", card)
        write_text(work / "README.md", readme(config, card))
        size = sum(file.stat().st_size for file in work.iterdir())
    kept = ("dialogues", "held_out_loss", "stopped", "seconds", "base_hash", "data_hash")
    more = ("model", "base_url", "job", "trained_tokens")
    return {
        "checkpoint": config.name,
        "folder": str(target),
        "bytes": size,
        **{name: card[name] for name in (*kept, *more)},
    }


def make_card(
    config: TrainConfig, state: State, tuned: Tuned, samples: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """A local run's card, with the service's model in place of weights.

    ``base_hash`` is "": what the service calls the base may change under its name.
    """
    job = tuned.job
    took = (job.finished - job.created) if job.finished and job.created else 0.0
    return {
        "kind": "endpoint",
        "label": {"en": config.label_en or config.name, "ja": config.label_ja or config.name},
        "model": tuned.model,
        "base_url": state.base_url,
        "job": job.id,
        "base": config.base,
        "base_hash": "",
        "data_hash": state.about["data_hash"],
        "profile": config.profile,
        "dataset": config.dataset,
        "half": config.half,
        "template": "endpoint",
        "dialogues": state.about["dialogues"],
        "held_out": state.about["held_out"],
        "hyperparameters": dict(job.hyperparameters),
        "trained_tokens": job.trained_tokens,
        "losses": tuned.losses,
        "held_out_loss": tuned.held_out_loss,
        "stopped": sum(bool(sample["stopped"]) for sample in samples),
        "samples": list(samples),
        "seconds": round(took, 1),
        "versions": {"openai": version("openai")},
        "licence": {"name": "the service's terms / サービスの規約に従う", "notice": ""},
    }


def readme(config: TrainConfig, card: Mapping[str, Any]) -> str:
    """The model card, in both languages."""
    label, last = card["label"], card["held_out_loss"]
    tokens = card["trained_tokens"]
    rows = "\n".join(
        f"| {_cell(s['question'])} | {_cell('・'.join(s['facts'])) or '-'} | {_cell(s['reply'])} | "
        f"{'yes' if s['stopped'] else 'no'} |"
        for s in card["samples"]
    )
    return f"""# {config.name}

{label["en"]} / {label["ja"]}

The model `{card["model"]}` at {card["base_url"]}, tuned there from `{card["base"]}` on
{card["dialogues"]} dialogues of the profile `{config.profile}`
(dataset `{config.dataset}`, half `{config.half}`). The weights and the uploaded rows stay at the
service until they are deleted there; asking the model needs the account's key, which is not kept
here. `train.yaml` makes it again, at the service's price.

{card["base_url"]} 上のモデル `{card["model"]}` です。`{card["base"]}` をもとに、プロファイル
`{config.profile}` の会話 {card["dialogues"]} 件（データセット `{config.dataset}`、
`{config.half}`）でファインチューニングしました。重みとアップロードしたデータは、サービス側で削除するまでそこに残ります。
利用にはアカウントのキーが必要です（キーはここには保存されません）。`train.yaml` で同じものを
作り直せますが、サービスの料金がかかります。

| | |
|---|---|
| held-out loss per token / 検証用の会話での損失 | {"-" if last is None else f"{last:.2f}"} |
| replies that end by themselves / 自分で終わる返答 | {card["stopped"]} / {len(card["samples"])} |
| billed tokens / 課金対象のトークン | {"-" if tokens is None else f"{tokens:,}"} |
| training / 学習時間 | {card["seconds"]:.0f} s |
| licence / ライセンス | {card["licence"]["name"]} |

| question / 質問 | facts / 事実 | reply / 返答 | ended / 終了 |
|---|---|---|---|
{rows}
"""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
