"""Character cards in and out: real PNG, JSON and CHARX bytes, and the broken ones users bring."""

from __future__ import annotations

import base64
import io
import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from charllm.data.cards import (
    as_card,
    export_card,
    import_bytes,
    import_card,
    portrait_of,
    save_imported,
)
from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.data.profile import load_profile


def v2(**fields: Any) -> dict[str, Any]:
    data = {
        "name": "Ada",
        "description": "{{char}} keeps bees and talks to {{user}}.",
        "personality": "dry",
        "scenario": "a meadow",
        "first_mes": "Mind the hives.",
        "mes_example": "<START>\n{{user}}: Hello\n{{char}}: Hush, they sleep.\n",
        "creator_notes": "",
        "system_prompt": "Play {{char}}. {{original}}",
        "post_history_instructions": "stay dry",
        "alternate_greetings": ["Oh. You."],
        "tags": ["bees"],
        "creator": "someone",
        "character_version": "7",
        "extensions": {"depth_prompt": {"prompt": "x", "depth": 4}, "unknown": [1, 2]},
        "character_book": {
            "name": "hive",
            "extensions": {"odd": True},
            "entries": [
                {
                    "keys": ["queen"],
                    "content": "{{char}}'s queen bee is called Maud.",
                    "extensions": {"w": 1},
                    "enabled": True,
                    "insertion_order": 3,
                    "case_sensitive": False,
                },
                {"keys": ["x"], "content": "off", "enabled": False, "extensions": {}},
            ],
        },
    }
    return {"spec": "chara_card_v2", "spec_version": "2.0", "data": {**data, **fields}}


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(texts: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (8, 8), "plum").save(target, "PNG")
    plain = target.getvalue()
    added = b"".join(chunk(b"tEXt", k.encode() + b"\0" + v) for k, v in texts.items())
    return plain[:-12] + added + plain[-12:]


def packed(card: dict[str, Any]) -> bytes:
    return base64.b64encode(json.dumps(card).encode())


def test_v2_fields_become_a_profile() -> None:
    profile = import_bytes(json.dumps(v2()).encode(), "ada.json").profile
    assert profile.name == "Ada" and profile.slug == "ada" and profile.language == "en"
    assert profile.persona == "Ada keeps bees and talks to the user.\n\ndry\n\na meadow"
    assert profile.facts == ("Ada's queen bee is called Maud.",)
    assert profile.fact_keys == {"Ada's queen bee is called Maud.": ("queen",)}
    assert [(e.user, e.reply) for e in profile.examples] == [("Hello", "Hush, they sleep.")]
    prompt = profile.system_prompt(rag=False)
    assert prompt.startswith("Play Ada.") and "{{" not in prompt
    assert "{facts}" in profile.system_prompt(rag=True)


def test_untouched_card_goes_out_as_it_came() -> None:
    card = v2()
    out = as_card(import_bytes(json.dumps(card).encode(), "ada.json").profile, "v2")
    ours = out["data"]["extensions"].pop("charllm")
    assert ours["reply_length"] == 120
    for entry in out["data"]["character_book"]["entries"]:
        entry.pop("constant", None)
        if entry["content"] == "off":
            entry.setdefault("insertion_order", None)
    assert {k: v for k, v in out["data"].items() if k != "character_book"} == {
        k: v for k, v in card["data"].items() if k != "character_book"
    }
    assert out["data"]["character_book"]["extensions"] == {"odd": True}
    first, off = out["data"]["character_book"]["entries"]
    assert first == card["data"]["character_book"]["entries"][0]
    assert off["enabled"] is False and off["content"] == "off"


def test_edits_replace_only_what_was_edited() -> None:
    profile = import_bytes(json.dumps(v2()).encode(), "ada.json").profile
    edited = profile.model_copy(update={"facts": ("She fears wasps.",), "greeting": "Shoo."})
    data = as_card(edited, "v3")["data"]
    assert data["first_mes"] == "Shoo." and data["description"] == v2()["data"]["description"]
    contents = [entry["content"] for entry in data["character_book"]["entries"]]
    assert contents == ["She fears wasps.", "off"]
    assert data["extensions"]["unknown"] == [1, 2]


@pytest.mark.parametrize("ending", ["png", "json", "charx"])
def test_our_own_profiles_survive_the_round_trip(paths: Paths, tmp_path: Path, ending: str) -> None:
    profile = load_profile(paths, "ayane")
    target = tmp_path / f"card.{ending}"
    export_card(profile, target)
    back = import_card(target)
    kept = back.profile.model_dump(exclude={"card", "slug"})
    assert kept == profile.model_dump(exclude={"card", "slug"})
    assert (back.portrait is not None) == (ending != "json")
    save_imported(paths, back, "ayane-again")
    assert load_profile(paths, "ayane-again").facts == profile.facts
    assert portrait_of(paths, load_profile(paths, "ayane-again")).startswith(b"\x89PNG")


def test_png_prefers_ccv3_and_keeps_the_picture() -> None:
    v3 = {**v2(name="Ada Three"), "spec": "chara_card_v3", "spec_version": "3.0"}
    imported = import_bytes(png({"chara": packed(v2()), "ccv3": packed(v3)}), "ada.png")
    assert imported.profile.name == "Ada Three"
    assert imported.portrait is not None
    assert Image.open(io.BytesIO(imported.portrait)).size == (8, 8)
    assert b"ccv3" not in imported.portrait


def test_v1_card_and_v1_export() -> None:
    flat = {key: v2()["data"][key] for key in ("name", "description", "first_mes")}
    profile = import_bytes(json.dumps(flat).encode(), "old.json").profile
    assert profile.name == "Ada"
    assert set(as_card(profile, "v1")) == {
        "name",
        "description",
        "personality",
        "scenario",
        "first_mes",
        "mes_example",
    }


def test_cards_from_the_wild() -> None:
    odd = v2(character_book=None, alternate_greetings="Oh.", tags=None, first_mes=None)
    imported = import_bytes(json.dumps(odd).encode(), "odd.json")
    assert imported.profile.facts == ()
    assert any("alternate_greetings" in warning.en for warning in imported.warnings)
    data = as_card(imported.profile, "v2")["data"]
    assert data["alternate_greetings"] == ["Oh."] and data["tags"] == []
    assert "character_book" not in data
    newer = {**v2(), "spec": "chara_card_v9", "spec_version": "9.1"}
    assert import_bytes(json.dumps(newer).encode(), "new.json").warnings[0].en.startswith("Unknown")


def test_decorators_are_stripped_for_facts_and_for_v2() -> None:
    entry = {"keys": [], "content": "@@depth 4\nMaud is old.", "enabled": True, "extensions": {}}
    profile = import_bytes(
        json.dumps(v2(character_book={"entries": [entry]})).encode(), "a.json"
    ).profile
    assert profile.facts == ("Maud is old.",)
    v3_entry = as_card(profile, "v3")["data"]["character_book"]["entries"][0]
    v2_entry = as_card(profile, "v2")["data"]["character_book"]["entries"][0]
    assert v3_entry["content"].startswith("@@depth") and v2_entry["content"] == "Maud is old."


def test_plain_text_is_facts() -> None:
    imported = import_bytes("\ufeff名前は花。\r\n\r\n庭師をしている。\n".encode(), "hana.txt")
    assert imported.profile.facts == ("名前は花。", "庭師をしている。")
    assert imported.profile.language == "ja"


CUT = png({"chara": packed(v2())})


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.png", CUT[: len(CUT) // 2], "ends too early"),
        ("a.png", png({}), "without a character card"),
        ("a.png", png({"chara": b"%%%not base64%%%"}), "not valid base64"),
        ("a.png", png({"chara": base64.b64encode(b"{broken")}), "line 1: not valid JSON"),
        ("a.png", CUT[:60] + b"\xff" + CUT[61:], "damaged at byte"),
        ("a.json", b"", "is empty"),
        ("a.json", json.dumps(v2()).encode("utf-16"), "UTF-16"),
        ("a.json", '{"name": "絢音"}'.encode("cp932"), "Shift_JIS"),
        ("a.json", b"[1, 2]", "not an object"),
        ("a.json", b'{"model": 1}', "none of a character card's fields"),
        ("a.json", json.dumps(v2(name="  ")).encode(), "has no name"),
        ("a.json", b"{" + b" " * 50_000_000 + b"}", "50 MB"),
        ("a.json", b"[" * 200_000, "not valid JSON"),
        ("a.charx", b"PK\x03\x04 torn", "archive is damaged"),
        ("a.txt", "名前は花。".encode("cp932"), "Shift_JIS"),
        ("a.txt", b" \n \n", "is empty"),
    ],
)
def test_broken_files_are_refused_in_plain_words(name: str, data: bytes, says: str) -> None:
    with pytest.raises(UserError) as error:
        import_bytes(data, name)
    assert says in error.value.text.en
    assert error.value.text.ja and error.value.text.ja != error.value.text.en


def test_charx_without_card() -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("other.json", "{}")
    with pytest.raises(UserError, match="without card"):
        import_bytes(target.getvalue(), "a.charx")


def test_import_never_overwrites_a_profile(paths: Paths) -> None:
    before = load_profile(paths, "ayane")
    imported = import_bytes(json.dumps(v2()).encode(), "ada.json")
    with pytest.raises(UserError, match="exists already"):
        save_imported(paths, imported, "ayane")
    assert load_profile(paths, "ayane") == before
