"""The carriers of a character card: PNG text chunks, JSON, CHARX archives.

They turn bytes into the card's JSON object and back, and refuse what is broken with the place
where it breaks. What the fields mean is decided in ``cards``. Formats: the character card V2
specification (tEXt ``chara``), V3 (tEXt ``ccv3``; CHARX: a zip with ``card.json`` at its root).
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import struct
import zipfile
import zlib
from typing import Any, NamedTuple

from charllm.data.errors import UserError
from charllm.data.files import decode

MAX_FILE = 20_000_000
MAX_JSON = 8_000_000
PNG = b"\x89PNG\r\n\x1a\n"
CHUNKS = ("ccv3", "chara")
"""Where a PNG keeps its card, the preferred one first."""


class Carried(NamedTuple):
    """The card's JSON object and, where the carrier has one, its picture as PNG bytes."""

    data: dict[str, Any]
    portrait: bytes | None
    other_assets: int = 0


def read_card(data: bytes, where: str) -> Carried:
    """The card in a PNG, a CHARX or a JSON file, told by its first bytes, not by its name."""
    if len(data) > MAX_FILE:
        raise UserError(
            f"{where} has {len(data) / 1e6:.0f} MB; a card has at most {MAX_FILE / 1e6:.0f} MB.",
            f"{where} は {len(data) / 1e6:.0f} MB あります。カードは "
            f"{MAX_FILE / 1e6:.0f} MB までです。",
        )
    if data.startswith(PNG[:4]):
        return _read_png(data, where)
    if data.startswith(b"PK"):
        return _read_charx(data, where)
    return Carried(_object(data, where), None)


def _read_png(data: bytes, where: str) -> Carried:
    texts: dict[str, bytes] = {}
    kept = [PNG]
    for kind, body in _chunks(data, where):
        keyword, _, text = body.partition(b"\0")
        name = keyword.decode("latin-1").lower()
        if kind == b"tEXt" and name in CHUNKS:
            texts[name] = text
        else:
            kept.append(_chunk(kind, body))
    for name in CHUNKS:
        if name in texts:
            return Carried(_object(_base64(texts[name], where), where), b"".join(kept))
    raise UserError(
        f"{where} is a picture without a character card in it: it has neither a ccv3 nor a chara "
        "chunk. Some sites and chat programs strip them; export the card again as PNG or JSON.",
        f"{where} はカードの入っていない画像です（ccv3 も chara もありません）。"
        "転送の途中で消えることがあります。PNG か JSON でもう一度書き出してください。",
    )


def _chunks(data: bytes, where: str) -> list[tuple[bytes, bytes]]:
    """``(type, body)`` of every chunk up to IEND; a cut file is named as such."""
    found = []
    at = len(PNG)
    while data.startswith(PNG) and at + 8 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        check = data[at + 8 + length : at + 12 + length]
        if len(body) < length or len(check) < 4:
            break
        if struct.unpack(">I", check)[0] != zlib.crc32(kind + body):
            raise UserError(
                f"{where}: the PNG is damaged at byte {at} (wrong checksum).",
                f"{where}: PNG が {at} バイト目で壊れています（チェックサムが一致しません）。",
            )
        found.append((kind, body))
        if kind == b"IEND":
            return found
        at += 12 + length
    raise UserError(
        f"{where}: the PNG ends too early, at byte {len(data)}. Download or copy it again.",
        f"{where}: PNG が途中（{len(data)} バイト目）で切れています。もう一度取得してください。",
    )


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _base64(text: bytes, where: str) -> bytes:
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error as error:
        raise UserError(
            f"{where}: the card in the picture is not valid base64 ({error}).",
            f"{where}: 画像の中のカードが base64 として読めません（{error}）。",
        ) from error


def _object(data: bytes, where: str) -> dict[str, Any]:
    if len(data) > MAX_JSON:
        raise UserError(
            f"{where}: the card's text has {len(data) / 1e6:.0f} MB; at most "
            f"{MAX_JSON / 1e6:.0f} MB are read.",
            f"{where}: カードの文字データが {len(data) / 1e6:.0f} MB あります。"
            f"{MAX_JSON / 1e6:.0f} MB までです。",
        )
    text = decode(data, where)
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise UserError(
            f"{where}, line {line}: not valid JSON, so not a character card.",
            f"{where} の {line} 行目が JSON として読めません。キャラクターカードではないようです。",
        ) from error
    if not isinstance(value, dict):
        raise UserError(
            f"{where} is JSON, but not an object with a character's fields.",
            f"{where} は JSON ですが、キャラクターの項目が入ったオブジェクトではありません。",
        )
    return value


def _read_charx(data: bytes, where: str) -> Carried:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            if "card.json" not in names:
                raise UserError(
                    f"{where} is an archive without card.json at its root.",
                    f"{where} の直下に card.json がありません。",
                )
            if archive.getinfo("card.json").file_size > MAX_JSON:
                raise UserError(
                    f"{where}: its card.json is larger than {MAX_JSON / 1e6:.0f} MB.",
                    f"{where}: card.json が {MAX_JSON / 1e6:.0f} MB を超えています。",
                )
            card = _object(archive.read("card.json"), f"{where}: card.json")
            pictures = [
                name
                for name in names
                if name.lower().endswith(".png") and archive.getinfo(name).file_size <= MAX_FILE
            ]
            icons = [name for name in pictures if "icon" in name.lower() or "main" in name.lower()]
            chosen = (icons or pictures)[:1]
            portrait = archive.read(chosen[0]) if chosen else None
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
        raise UserError(
            f"{where}: the CHARX archive is damaged ({error}).",
            f"{where}: CHARX ファイルが壊れています（{error}）。",
        ) from error
    folders = [name for name in names if name.endswith("/")]
    return Carried(card, portrait, len(names) - len(folders) - 1 - len(chosen))


def write_png(card_v3: dict[str, Any], card_v2: dict[str, Any], portrait: bytes) -> bytes:
    """The picture with both chunks, so that old and new readers find a card."""
    chunks = _chunks(portrait, "portrait.png")
    texts = [
        _chunk(b"tEXt", name.encode() + b"\0" + base64.b64encode(_json(card)))
        for name, card in (("chara", card_v2), ("ccv3", card_v3))
    ]
    kept = [
        _chunk(kind, body)
        for kind, body in chunks
        if not (kind == b"tEXt" and body.partition(b"\0")[0].decode("latin-1").lower() in CHUNKS)
    ]
    return PNG + b"".join(kept[:-1]) + b"".join(texts) + kept[-1]


def write_charx(card_v3: dict[str, Any], portrait: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("card.json", _json(card_v3))
        archive.writestr("assets/icon/image/main.png", portrait)
    return target.getvalue()


def write_json_card(card: dict[str, Any]) -> bytes:
    return _json(card)


def _json(card: dict[str, Any]) -> bytes:
    return json.dumps(card, ensure_ascii=False, indent=1).encode()


def blank_portrait(seed: str) -> bytes:
    """A plain picture for a character that has none; its two colours follow from the name."""
    from PIL import Image

    hue = zlib.crc32(seed.encode()) % 256
    top = Image.new("HSV", (1, 1), (hue, 90, 200)).convert("RGB").getpixel((0, 0))
    low = Image.new("HSV", (1, 1), ((hue + 30) % 256, 130, 120)).convert("RGB").getpixel((0, 0))
    assert isinstance(top, tuple) and isinstance(low, tuple)
    image = Image.new("RGB", (400, 600))
    for y in range(600):
        mix = tuple(round(a + (b - a) * y / 599) for a, b in zip(top, low, strict=True))
        image.paste(mix, (0, y, 400, y + 1))
    target = io.BytesIO()
    image.save(target, "PNG")
    return target.getvalue()
