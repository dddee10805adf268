"""What is refused before a training run loads anything: settings, names and the base's files.

Only small files are read (``config.json``), so a mistake shows within a second or two. What the
dialogues themselves forbid is found in ``training_data``, also before any weights are read.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from charllm.core.catalog import CATALOG
from charllm.core.model_code import check_code
from charllm.core.model_files import model_folder
from charllm.core.training_config import TrainConfig
from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.data.files import read_json

PACKED = ("awq", "gptq")
"""Ways of storing weights that are made for inference: no gradient is computed through them."""


def check_start(config: TrainConfig, paths: Paths) -> None:
    """``UserError`` where the run could never end well, whatever its dialogues are.

    With the backend "openai" the base is the service's, and nothing of it is looked at here.
    """
    if config.backend == "local":
        _check_device(config)
        _check_reports(config)
        check_base(config.base, paths)
    target = paths.checkpoints / config.name
    if target.exists() and not config.replace:
        raise UserError(
            f"There is a checkpoint {config.name!r} already. Choose another name, or set replace.",
            f"チェックポイント「{config.name}」はすでにあります。別の名前にするか、"
            "replace を指定してください。",
        )


def _check_device(config: TrainConfig) -> None:
    from charllm.core.models import pick_device

    if config.quantization == "nf4" and pick_device() != "cuda":
        raise UserError(
            "Training on 4-bit weights needs a CUDA device: on a CPU its gradients are wrong. "
            "Set quantization to none.",
            "4ビットでの学習には CUDA のデバイスが必要です（CPU では勾配が正しくなりません）。"
            "quantization を none にしてください。",
        )


def _check_reports(config: TrainConfig) -> None:
    name = config.report_to
    if name != "none" and importlib.util.find_spec(name) is None:
        raise UserError(
            f"report_to: the package {name} is not installed. Install it (pip install {name}), or "
            "set report_to to none.",
            f"report_to: パッケージ {name} がありません。インストールする（pip install {name}）か、"
            "report_to を none にしてください。",
        )


def check_base(base: str, paths: Paths) -> Path:
    """The base's folder, if it can be trained; else a ``UserError`` that says why not.

    Refused: a folder that is gone, weights stored for inference only, code of the model's own. A
    model of the catalog that cannot be trained is refused before it would be fetched.
    """
    _check_there(base)
    listed = next((model for model in CATALOG if base in (model.id, model.hub_id)), None)
    if listed is not None and not listed.trainable:
        raise _stored_packed(listed.label, "awq" if "AWQ" in listed.id else "")
    folder = model_folder(paths, base)
    config = read_json(folder / "config.json")
    method = _stored_method(config)
    if method:
        raise _stored_packed(folder.name, method)
    check_code(folder)
    return folder


def _check_there(base: str) -> None:
    """A base that is named by a path has to be there; it may have gone since a run was stopped."""
    folder = Path(base).expanduser()
    if folder.is_absolute() and not folder.exists():
        raise UserError(
            f"The base model {folder} is gone. Put it back where it was and resume; nothing of the "
            "run is lost. To train on another base, start a new run.",
            f"ベースモデル {folder} が見つかりません。元の場所に戻してから再開してください"
            "（途中までの学習は失われていません）。別のベースで学習するには、新しく開始して"
            "ください。",
        )


def _stored_method(config: dict[str, Any]) -> str:
    """How the weights are quantised in the files; "" where they are not."""
    stored = config.get("quantization_config")
    return str(stored.get("quant_method", "quantised")) if isinstance(stored, dict) else ""


def _stored_packed(name: str, method: str) -> UserError:
    how = method.upper() if method in PACKED else method or "quantised"
    return UserError(
        f"{name} is stored quantised ({how}), a form for inference: training on it is not exact, "
        "and an adapter merged into it would be rounded again. Train on the 16-bit form; "
        "quantization nf4 makes that small while it is trained.",
        f"{name} は量子化された形式（{how}）で、推論用です。正確に学習できず、"
        "アダプターをマージすると丸め直されてしまいます。16ビット版をベースにしてください。"
        "学習中のメモリーは quantization を nf4 にすると減らせます。",
    )
