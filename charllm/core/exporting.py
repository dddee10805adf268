"""Exporting what was trained or merged: a 16-bit model, a peft adapter, or a GGUF file.

"merged" adds the adapter to the base's own 16-bit weights, in float32 with one rounding, never to
4-bit ones. Under ``workspace/models`` the result is a base, a merge's parent and a chat's column
like any other model. What is exported is ``export_source``'s, the GGUF itself ``gguf_export``'s.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from charllm.core.export_card import base_name, carried_template, write_card
from charllm.core.export_files import divide, write_index, write_tensors
from charllm.core.export_source import Source, find_source
from charllm.core.model_files import CARD
from charllm.core.training_disk import full_disk_in_words
from charllm.core.training_readme import hub_id
from charllm.data.config import Config, Paths
from charllm.data.errors import Text, UserError
from charllm.data.files import SLUG, new_folder, read_json, write_json
from charllm.data.progress import Reporter, Stopped
from charllm.data.settings import setting

To = Literal["merged", "adapter", "gguf"]
Quantization = Literal["bf16", "f16", "q8_0"]

BYTES = {"bf16": 2.0, "f16": 2.0, "q8_0": 34 / 32}
"""A weight's bytes in a GGUF file; a block of 32 in q8_0 has a scale of two bytes."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
MODEL_FILES = ("generation_config.json", *TOKENIZER_FILES)
_ENDINGS = {"merged": "-merged", "adapter": "-adapter", "gguf": "-gguf"}
"""Behind the source's name, where no other is given."""
_REST = 100_000_000
"""Bytes for tokenizer, configuration and card."""


class ExportConfig(Config):
    """What to export, as what, and where to."""

    source: str = setting(
        ...,
        "What to export",
        "書き出すもの",
        "A checkpoint, a recipe's file, or for GGUF also a model.",
        "チェックポイントかレシピのファイル。GGUF ではモデルも選べます。",
        group="what",
        simple=True,
    )
    to: To = setting(
        "merged",
        "As",
        "形式",
        "merged: a 16-bit model with the adapter in it. adapter: peft's two files. gguf: one file "
        "for llama.cpp and what builds on it.",
        "merged はアダプターを組み込んだ16ビットのモデル、adapter は peft の形式、"
        "gguf は llama.cpp 系のツールで使う1つのファイルです。",
        group="what",
        simple=True,
    )
    out: str = setting(
        "",
        "Name or folder",
        "名前かフォルダー",
        "A name lies in the workspace: models/ for a model, else exports/. Empty: the source's "
        "with an ending.",
        "名前だけなら作業フォルダーの models/（モデル）か exports/ に置きます。"
        "空欄なら元の名前から付けます。",
        group="what",
        simple=True,
    )
    quantization: Quantization = setting(
        "bf16",
        "Numbers in GGUF",
        "GGUF の数値形式",
        "bf16 is exact; f16 is read by older programs too; q8_0 takes half the space.",
        "bf16 は正確です。f16 は古いソフトでも読めます。q8_0 は約半分の大きさです。",
        group="what",
    )
    replace: bool = setting(
        False,
        "Replace an earlier export",
        "前の書き出しを置き換える",
        group="what",
    )


def run_export(
    config: ExportConfig, reporter: Reporter, folder: Path, paths: Paths
) -> dict[str, Any]:
    """Write the export; returns ``{"out", "to", "bytes", "seconds", …}``.

    The folder appears whole or not at all. Killed and resumed, it begins again. ``UserError``
    where the source, the base or the target does not do; ``Stopped`` on either request to stop.
    """
    started = time.monotonic()
    reporter.progress(0, 0, Text("checking the weights", "重みを確認しています"))
    source = find_source(config.source, paths)
    if config.to != "gguf" and source.adapter is None and source.plan is None:
        raise UserError(
            f"{config.source} is a model without an adapter: there is nothing to merge. It can be "
            "exported as gguf.",
            f"{config.source} はアダプターのないモデルなので、統合するものがありません。"
            "gguf としては書き出せます。",
        )
    target = target_folder(config, source, paths)
    check_target(target, config.replace, source)
    _check_room(target, _weight_bytes(config, source) + _REST)
    tick = _ticker(reporter, _weight_bytes(config, source))
    with full_disk_in_words(folder, target.parent), _work(folder, target) as work:
        found = _WRITERS[config.to](_Job(config, source, work, target.name, tick))
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    return {
        "out": str(target),
        "to": config.to,
        "bytes": size,
        "seconds": round(time.monotonic() - started, 2),
        **found,
    }


# Where it goes


def target_folder(config: ExportConfig, source: Source, paths: Paths) -> Path:
    """The folder that is written: a name's in the workspace, else the path from the root."""
    name = config.out or source.name + _ENDINGS[config.to]
    if SLUG.fullmatch(name):
        home = paths.models if config.to == "merged" else paths.workspace / "exports"
        return home / name
    if not config.out:
        raise UserError(
            f"{name!r} cannot be a folder's name here; give the export a name.",
            f"「{name}」は名前に使えません。書き出し先の名前を指定してください。",
        )
    return paths.root / Path(name).expanduser()


def check_target(target: Path, replace: bool, source: Source) -> None:
    """Nothing is overwritten but an earlier export, and that only where it was asked for."""
    if not target.exists():
        return
    if any(target.resolve() == place.resolve() for place in (source.base, source.folder) if place):
        raise UserError(
            f"{target} is what is being exported; choose another name.",
            f"{target} は書き出し元です。別の名前にしてください。",
        )
    card = target / CARD
    ours = card.is_file() and bool(read_json(card).get("exported_from"))
    if not ours and (not target.is_dir() or any(target.iterdir())):
        raise UserError(
            f"{target} holds something else than an export; choose another name.",
            f"{target} には書き出し以外のものが入っています。別の名前にしてください。",
        )
    if ours and not replace:
        raise UserError(
            f"{target} exists already. Choose another name, or allow to replace it.",
            f"{target} はすでにあります。別の名前にするか、置き換えを許可してください。",
        )


def _weight_bytes(config: ExportConfig, source: Source) -> int:
    """What the weights will take on disk, about."""
    weights = sum(math.prod(shape) for shape in source.shapes.values())
    each = {"merged": 2.0, "adapter": 0.0, "gguf": BYTES[config.quantization]}[config.to]
    return int(weights * each)


def _check_room(target: Path, needed: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise UserError(
            f"Only {free / 1e9:.1f} GB are free in {target.parent}; the export needs "
            f"{needed / 1e9:.1f} GB. Free some space, or choose a folder on another disk.",
            f"{target.parent} の空きが {free / 1e9:.1f} GB しかありません。書き出しには "
            f"{needed / 1e9:.1f} GB 必要です。空きを増やすか、別のディスクのフォルダーを"
            "指定してください。",
        )


@contextmanager
def _work(folder: Path, target: Path) -> Iterator[Path]:
    """The folder to fill. Its name is noted in the run's, so that a killed run leaves nothing."""
    note = folder / "unfinished.json"
    if note.is_file():
        shutil.rmtree(read_json(note), ignore_errors=True)
    with new_folder(target) as work:
        write_json(note, str(work))
        yield work
    note.unlink()


def _ticker(reporter: Reporter, total: int) -> Callable[[int], None]:
    """Told the bytes written since the last time, it moves the bar and ends a stopped export."""
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        if reporter.stop_requested():
            raise Stopped
        done += count
        reporter.progress(min(done, total), total, Text("writing weights", "重みを書いています"))

    return tick


# What is written


@dataclass(frozen=True)
class _Job:
    """One export. ``tick`` is told the bytes that were written since the last time."""

    config: ExportConfig
    source: Source
    work: Path
    name: str
    tick: Callable[[int], None]


def _write_merged(job: _Job) -> dict[str, Any]:
    """A whole model in bfloat16, in the base's own files."""
    source, work = job.source, job.work
    files = source.files if _standard(source.files) else divide(source.shapes)
    hashes = []
    for file, names in files.items():
        shapes = {name: source.shapes[name] for name in names}
        hashes.append(write_tensors(work / file, shapes, source.tensor, job.tick))
    if len(files) > 1:
        write_index(work, files, sum((work / file).stat().st_size for file in files))
    _copy(source.base, work, MODEL_FILES)
    changed = {key: value for key, value in source.config.items() if key != "torch_dtype"}
    write_json(work / "config.json", {**changed, "dtype": "bfloat16"})
    carried_template(source, work)
    arrived = source.arrived.share
    one = {"weights_sha256": hashes[0]} if len(hashes) == 1 else {}
    write_card("merged", source, work, job.name, {**one, "arrived": arrived})
    return {"arrived": arrived, "files": len(files)}


def _standard(files: Mapping[str, list[str]]) -> bool:
    """Whether a loader finds the base's files by the names they have."""
    return list(files) == ["model.safetensors"] or len(files) > 1


def _copy(base: Path, work: Path, names: Sequence[str]) -> None:
    for name in names:
        if (base / name).is_file():
            shutil.copyfile(base / name, work / name)


def _write_adapter(job: _Job) -> dict[str, Any]:
    """peft's two files with the tokenizer and its chat template beside them."""
    source, work = job.source, job.work
    weights = work / "adapter_model.safetensors"
    if source.plan is not None:
        from safetensors.torch import save_file

        from charllm.core.merging.publish import concatenated

        tensors, adapter_config = concatenated(source.plan)
        save_file(tensors, weights, metadata={"format": "pt"})
        weights.chmod(0o644)
    else:
        assert source.folder is not None
        shutil.copyfile(source.folder / weights.name, weights)
        adapter_config = read_json(source.folder / "adapter_config.json")
    named = {"base_model_name_or_path": hub_id(base_name(source))}
    write_json(work / "adapter_config.json", {**adapter_config, **named})
    _copy(source.base, work, TOKENIZER_FILES)
    carried_template(source, work)
    write_card("adapter", source, work, job.name, {})
    return {}


def _write_gguf(job: _Job) -> dict[str, Any]:
    """One GGUF file, named after its source and its numbers."""
    from charllm.core.gguf_export import write_gguf

    numbers = job.config.quantization
    file = job.work / f"{job.source.name}-{numbers}.gguf"
    write_gguf(job.source, file, numbers, job.source.name, job.tick)
    found = {"quantization": numbers, "file": file.name}
    write_card("gguf", job.source, job.work, job.name, found)
    return {"file": file.name}


_WRITERS = {"merged": _write_merged, "adapter": _write_adapter, "gguf": _write_gguf}
