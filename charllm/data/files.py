"""Reading and writing that lose nothing: atomic writes, publishing a folder, strict UTF-8."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from charllm.data.errors import Text, UserError

SLUG = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def check_slug(name: str, what: str = "name") -> str:
    """``name`` if it can be a folder's name on every system; else a ``UserError``."""
    if not SLUG.fullmatch(name):
        raise UserError(
            f"{name!r} cannot be a {what}: use a-z, 0-9, - and _, at most 64 characters.",
            f"「{name}」は名前に使えません。半角の a-z、0-9、-、_ で64文字以内にしてください。",
        )
    return name


def decode(data: bytes, where: str) -> str:
    """UTF-8 text, with or without a byte-order mark; ``UserError`` names the encoding it seems."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        names = ("utf-16",) if wide else ("cp932", "euc_jp")
        guess = next((name for name in names if _decodes(data, name)), "")
        label = {"cp932": "Shift_JIS", "euc_jp": "EUC-JP", "utf-16": "UTF-16"}.get(guess, "")
        raise UserError(
            f"{where}, line {line}: not UTF-8"
            + (f"; it looks like {label}" if label else "")
            + ". Save the file as UTF-8 and try again.",
            f"{where} の {line} 行目が UTF-8 ではありません"
            + (f"（{label} のようです）" if label else "")
            + "。UTF-8 で保存し直してください。",
        ) from error


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeError:
        return False
    return True


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.", f"{path} がありません。") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder.", f"{path} はフォルダーです。") from None
    except PermissionError:
        raise UserError(
            f"{path} cannot be read: permission denied.", f"{path} を読む権限がありません。"
        ) from None


def read_text(path: Path) -> str:
    return decode(read_bytes(path), str(path))


def read_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno}: not valid JSON ({error.msg}).",
            f"{path} の {error.lineno} 行目が JSON として読めません（{error.msg}）。",
        ) from error


def json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """``(line number, value)`` of every non-empty line; ``UserError`` at the first broken one."""
    # Not splitlines: a JSON text may hold U+2028 and other ends of lines that are none here.
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{path}, line {number}: not valid JSON ({error.msg}).",
                    f"{path} の {number} 行目が JSON として読めません（{error.msg}）。",
                ) from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write beside ``path`` and rename over it: readers see the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def plain(value: Any) -> Any:
    """Dataclasses as JSON takes them, texts as ``{"en", "ja"}``, other named tuples by name."""
    if isinstance(value, Text):
        return value.as_json()
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


def write_json_lines(path: Path, rows: list[Any]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, renamed to ``target`` when the block ends; gone if it fails.

    An existing ``target`` is replaced only at the very end.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        yield work
        work.chmod(0o755)
        if target.exists():
            old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old."))
            os.replace(target, old / target.name)
            os.replace(work, target)
            shutil.rmtree(old)
        else:
            os.replace(work, target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
