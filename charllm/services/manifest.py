"""What reproduces a run: its configuration, seeds, versions and hashes of its inputs.

``config.yaml`` of a run folder. It does not know how a run is started or how it goes.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import charllm
from charllm.data.config import Config, Paths
from charllm.data.errors import UserError
from charllm.data.files import SLUG, sha256_file
from charllm.services.redaction import has_secret

FILE = "config.yaml"
PACKAGES = (
    *("torch", "transformers", "trl", "peft", "bitsandbytes", "mergekit", "safetensors"),
    *("chromadb", "openai", "scikit-learn", "numpy", "pydantic"),
)
HASHED_BYTES = 64 << 20
"""Larger files are weights of a base model; what uses them records their own hash."""


class Manifest(Config):
    """``config_class`` and ``function`` are dotted paths ``package.module:name``."""

    kind: str
    name: str
    accelerator: bool
    config_class: str
    function: str
    config: dict[str, Any]
    seeds: dict[str, int]
    versions: dict[str, str]
    inputs: dict[str, str]

    def load_config(self, where: Path) -> Config:
        """The configuration as the stage's own class."""
        config_class: type[Config] = resolve(self.config_class)
        return config_class.from_data(self.config, str(where))


def make_manifest(
    paths: Paths, kind: str, name: str, config: Config, function: str, accelerator: bool
) -> Manifest:
    """Everything that is known of a run before it starts; refuses a configuration with a key."""
    data = config.model_dump(mode="json")
    leaves = dict(_leaves(data))
    for field, value in leaves.items():
        if isinstance(value, str) and has_secret(value):
            raise UserError(
                f"The field {field!r} holds a key or password, and configurations are kept on "
                "disk. Put it into an environment variable instead.",
                f"項目「{field}」にキーかパスワードが入っています。設定はディスクに残るので、"
                "環境変数に入れてください。",
            )
    return Manifest(
        kind=kind,
        name=name,
        accelerator=accelerator,
        config_class=f"{type(config).__module__}:{type(config).__qualname__}",
        function=function,
        config=data,
        seeds={
            field: value
            for field, value in leaves.items()
            if field.endswith("seed") and isinstance(value, int)
        },
        versions=versions(),
        inputs=input_hashes(paths, [v for v in leaves.values() if isinstance(v, str)]),
    )


def resolve(dotted: str) -> Any:
    """The object at ``package.module:name``; this is what loads a stage's heavy imports."""
    module, _, name = dotted.partition(":")
    return getattr(import_module(module), name)


def versions() -> dict[str, str]:
    """Versions of what a result depends on; packages that are not installed are left out."""
    found = {
        "charllm": charllm.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def input_hashes(paths: Paths, values: list[str]) -> dict[str, str]:
    """SHA-256 of every file that one of ``values`` names: a path, a profile, a dataset, …"""
    files = {file for value in values for file in _named(paths, value) if file.is_file()}
    small = sorted(file for file in files if file.stat().st_size <= HASHED_BYTES)
    return {_label(paths, file): sha256_file(file) for file in small}


def _named(paths: Paths, value: str) -> Iterator[Path]:
    if SLUG.fullmatch(value):
        yield paths.datasets / f"{value}.jsonl"
        yield paths.queries / f"{value}.jsonl"
        for folder in (paths.profiles / value, paths.checkpoints / value):
            if folder.is_dir():
                yield from folder.iterdir()
    elif ("/" in value or "." in value) and _can_be_path(value):
        yield paths.root / value


def _can_be_path(value: str) -> bool:
    """No text that a file system would refuse to look up."""
    parts = value.encode().split(b"/")
    return len(value) < 1000 and value.isprintable() and all(len(part) < 256 for part in parts)


def _label(paths: Paths, file: Path) -> str:
    return str(file.relative_to(paths.root)) if file.is_relative_to(paths.root) else str(file)


def _leaves(data: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _leaves(value, f"{where}.{key}" if where else str(key))
    elif isinstance(data, list):
        for number, value in enumerate(data):
            yield from _leaves(value, f"{where}[{number}]")
    else:
        yield where, data
