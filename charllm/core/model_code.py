"""Models that transformers does not know by itself: refused, or run by code of their own.

A model's folder may hold Python code, which could do anything on the machine. It is never run
unless the user has named that very model in an environment variable.
"""

from __future__ import annotations

import os
from pathlib import Path

from charllm.data.errors import UserError
from charllm.data.files import read_json

ALLOW_CODE = "CHARLLM_ALLOW_CODE"
"""Environment variable: the folders and hub ids of models whose own code may run, with ``:``
between them (``;`` on Windows). Set by hand, so that no file that is passed on can set it."""


def check_code(folder: Path) -> None:
    """``UserError`` where transformers knows no such model, or only code from the folder does.

    A model may carry code and not need it: many kinds have come into transformers since.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    config = read_json(folder / "config.json")
    kind = str(config.get("model_type", ""))
    if kind in CONFIG_MAPPING_NAMES or code_allowed(folder):
        return
    if config.get("auto_map"):
        raise needs_code(folder)
    raise UserError(
        f"{folder.name} is a model of the kind {kind!r}, which the installed transformers does not "
        "know. Update transformers, or choose another model.",
        f"{folder.name} は「{kind}」という種類のモデルで、インストール済みの transformers では"
        "扱えません。transformers を更新するか、別のモデルを選んでください。",
    )


def needs_code(folder: Path) -> UserError:
    """Says that the model brings code of its own, and how a user allows it."""
    named = _hub_name(folder) or str(folder)
    return UserError(
        f"{named} can only be read with program code from its own folder, which could do anything "
        "on this machine. Choose another model; or read that code and, if you trust it, start "
        f"charllm with {ALLOW_CODE}={named}",
        f"{named} を読み込むには、モデルのフォルダーにあるプログラムを実行する必要があります"
        "（このマシンで何でもできてしまいます）。別のモデルを選ぶか、内容を確かめて信頼できる"
        f"場合に限り {ALLOW_CODE}={named} を設定して charllm を起動してください。",
    )


def code_allowed(folder: Path) -> bool:
    """Whether the user has allowed this very model to run code of its own."""
    names = filter(None, os.environ.get(ALLOW_CODE, "").split(os.pathsep))
    hub = _hub_name(folder)
    return any(name == hub or Path(name).expanduser() == folder for name in names)


def _hub_name(folder: Path) -> str:
    """The hub id of a folder in the hub's cache; "" for any other folder."""
    found = next((part for part in folder.parts if part.startswith("models--")), "")
    return found.removeprefix("models--").replace("--", "/", 1)
