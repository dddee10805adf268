"""Character cards (V1, V2, V3) and plain text, to a profile and back, losing nothing.

What a card carries that a profile has no field for is kept under ``Profile.card`` and exported
again unchanged; a lorebook's entries become facts with their keys, and facts become entries. A
card field whose counterpart was not edited since the import goes out as it came in. Sources: the
character card specifications V1, V2 and V3.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from charllm.data.card_files import (
    blank_portrait,
    read_card,
    write_charx,
    write_json_card,
    write_png,
)
from charllm.data.config import Paths
from charllm.data.errors import Language, Text, UserError
from charllm.data.files import decode, read_bytes, sha256, write_bytes
from charllm.data.profile import (
    Example,
    Profile,
    SystemPrompt,
    clean_facts,
    default_system_prompt,
    folder,
    save_profile,
)
from charllm.data.text import script_shares

Spec = Literal["v1", "v2", "v3"]
OURS = "charllm"
PORTRAIT = "portrait.png"
V1_FIELDS = ("name", "description", "personality", "scenario", "first_mes", "mes_example")
V2_FIELDS: dict[str, Any] = {
    "creator_notes": "",
    "system_prompt": "",
    "post_history_instructions": "",
    "alternate_greetings": [],
    "tags": [],
    "creator": "",
    "character_version": "",
    "extensions": {},
}
_MACRO = re.compile(r"\{\{\s*(char|user)\s*\}\}|<(BOT|USER)>", re.IGNORECASE)
_DECORATOR = re.compile(r"^@@.*$", re.MULTILINE)
_SPEAKER = re.compile(r"^(\{\{char\}\}|\{\{user\}\}|<BOT>|<USER>)\s*[:：]\s*", re.IGNORECASE)
_OWN_PROMPT = ("speech", "reply_length", "prompt_language", "system_prompts", "language")


@dataclass(frozen=True)
class Imported:
    """A profile that is not saved yet, what was doubtful about it, and its picture as PNG."""

    profile: Profile
    warnings: list[Text] = field(default_factory=list)
    portrait: bytes | None = None


def import_card(path: Path) -> Imported:
    """Read a card (PNG, JSON, CHARX) or plain text; ``UserError`` says what is broken."""
    return import_bytes(read_bytes(path), path.name)


def import_bytes(data: bytes, name: str) -> Imported:
    """The same for bytes; ``name`` is the file's name, for messages and for plain text."""
    if not data.strip():
        raise UserError(f"{name} is empty.", f"{name} は空です。")
    if name.lower().endswith(".txt"):
        return _from_text(decode(data, name), name)
    carried = read_card(data, name)
    warnings: list[Text] = []
    if carried.other_assets:
        warnings.append(
            Text(
                f"{carried.other_assets} further asset(s) of the card were not taken over.",
                f"カードに含まれる他の素材 {carried.other_assets} 件は取り込んでいません。",
            )
        )
    return Imported(_from_card(carried.data, name, warnings), warnings, carried.portrait)


def save_imported(paths: Paths, imported: Imported, slug: str) -> str:
    """Save as a new profile called ``slug`` (refused if one exists); returns its revision."""
    profile = imported.profile.model_copy(update={"slug": slug})
    if folder(paths, slug).exists():
        raise UserError(
            f"A profile {slug!r} exists already: import under another name.",
            f"プロファイル「{slug}」はすでにあります。別の名前で取り込んでください。",
        )
    revision = save_profile(paths, profile, expected="")
    if imported.portrait:
        write_bytes(folder(paths, slug) / PORTRAIT, imported.portrait)
    return revision


def portrait_of(paths: Paths, profile: Profile) -> bytes:
    """The profile's picture, or a plain one."""
    path = folder(paths, profile.slug) / PORTRAIT
    return path.read_bytes() if path.is_file() else blank_portrait(profile.slug)


def export_card(
    profile: Profile, path: Path, spec: Spec = "v3", portrait: bytes | None = None
) -> list[Text]:
    """Write ``path`` as its ending says: .png, .json, .charx or .txt (facts, one a line).

    PNG holds V2 and V3 side by side, CHARX is V3; ``spec`` chooses for JSON. Returns what the
    format could not carry.
    """
    ending = path.suffix.lower()
    if ending == ".txt":
        write_bytes(path, "".join(fact + "\n" for fact in profile.facts).encode())
        return [
            Text("Plain text carries the facts only.", "プレーンテキストに入るのは事実だけです。")
        ]
    picture = portrait or blank_portrait(profile.slug)
    if ending == ".png":
        write_bytes(path, write_png(as_card(profile, "v3"), as_card(profile, "v2"), picture))
    elif ending == ".charx":
        write_bytes(path, write_charx(as_card(profile, "v3"), picture))
    elif ending == ".json":
        write_bytes(path, write_json_card(as_card(profile, spec)))
        if spec == "v1":
            return [
                Text(
                    "V1 has no lorebook and no extensions: facts, speech and system prompts stay "
                    "behind.",
                    "V1 にはロアブックも拡張領域もないため、事実・口調・システムプロンプトは"
                    "含まれません。",
                )
            ]
    else:
        raise UserError(
            f"{path.name}: a card is written as .png, .json, .charx or .txt.",
            f"{path.name}: カードの形式は .png、.json、.charx、.txt のいずれかです。",
        )
    return []


# Import


def slug_for(name: str) -> str:
    """A folder name for a character's name; a name without Latin letters gets a short hash."""
    ascii_part = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:48]
    return ascii_part or f"card-{sha256(name.encode())[:6]}"


def _from_text(text: str, name: str) -> Imported:
    facts = clean_facts(text.splitlines())
    if not facts:
        raise UserError(f"{name} has no lines.", f"{name} に行がありません。")
    title = Path(name).stem
    language: Language = "ja" if script_shares(text)["ja"] > 0.3 else "en"
    data = {"slug": slug_for(title), "name": title, "language": language, "facts": facts}
    return Imported(Profile.from_data({**data, "prompt_language": language}, name))


def _from_card(root: dict[str, Any], name: str, warnings: list[Text]) -> Profile:
    data = _data_of(root, name, warnings)
    title = _string(data, "name", warnings).strip()
    if not title:
        raise UserError(f"{name}: the card has no name.", f"{name}: カードに名前がありません。")
    called = _string(data, "nickname", warnings).strip() or title
    language: Language = (
        "ja"
        if script_shares("".join(_string(data, f, []) for f in V1_FIELDS))["ja"] > 0.2
        else "en"
    )
    parts = [_string(data, f, warnings) for f in ("description", "personality", "scenario")]
    persona = _plain("\n\n".join(part.strip() for part in parts if part.strip()), called, language)
    facts, keys = _lore(data, called, language, warnings)
    prompt = _plain(_string(data, "system_prompt", warnings).strip(), called, language)
    prompts: dict[str, Any] = {}
    base = {"slug": slug_for(title), "name": title, "language": language, "persona": persona}
    if prompt:
        shell = Profile.from_data(base, name)
        original = default_system_prompt(shell, rag=False, language=language)
        prompt = prompt.replace("{{original}}", original)
        lead = "次の情報を参考にしてください。" if language == "ja" else "Use the following facts."
        prompts[language] = {"plain": prompt, "rag": f"{prompt}\n{lead}\n{{facts}}"}
    fields: dict[str, Any] = {
        **base,
        "greeting": _plain(_string(data, "first_mes", warnings), called, language),
        "examples": _examples(_string(data, "mes_example", warnings), called, language),
        "facts": facts,
        "fact_keys": keys,
        "prompt_language": language,
        "system_prompts": prompts,
        "reply_length": 30 if language == "ja" else 120,
    }
    _list_of_strings(data, "alternate_greetings", warnings)
    fields.update(_own_fields(data, warnings))
    profile = Profile.from_data(fields, name)
    kept = {
        "root": {k: v for k, v in root.items() if k != "data"} if "data" in root else {},
        "data": data,
        "imported": _imported_values(profile),
    }
    return profile.model_copy(update={"card": kept})


def _data_of(root: dict[str, Any], name: str, warnings: list[Text]) -> dict[str, Any]:
    """The fields' object: ``data`` in V2 and V3, the object itself in V1."""
    spec, version = root.get("spec"), str(root.get("spec_version", ""))
    if spec in ("chara_card_v2", "chara_card_v3") or isinstance(root.get("data"), dict):
        data = root.get("data")
        if not isinstance(data, dict):
            raise UserError(
                f"{name}: the card's data is missing.", f"{name}: カードの data がありません。"
            )
        if spec not in ("chara_card_v2", "chara_card_v3") or version not in ("2.0", "3.0"):
            warnings.append(
                Text(
                    f"Unknown card version {spec} {version}: read as V3; unknown fields are kept.",
                    f"未知のカード形式（{spec} {version}）です。V3 として読み、"
                    "不明な項目はそのまま保持します。",
                )
            )
        return copy.deepcopy(data)
    if not any(key in root for key in V1_FIELDS):
        raise UserError(
            f"{name} is JSON, but has none of a character card's fields.",
            f"{name} は JSON ですが、キャラクターカードの項目がありません。",
        )
    return copy.deepcopy(root)


def _string(data: dict[str, Any], key: str, warnings: list[Text]) -> str:
    value = data.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        warnings.append(
            Text(f"{key} is not text and was ignored.", f"{key} が文字列ではないため無視しました。")
        )
        return ""
    return value


def _list_of_strings(data: dict[str, Any], key: str, warnings: list[Text]) -> None:
    """Cards in the wild hold a single string here; it is kept as a list of one."""
    value = data.get(key)
    if isinstance(value, str):
        data[key] = [value] if value else []
        warnings.append(
            Text(
                f"{key} was a single text and became a list of one.",
                f"{key} が文字列だったため、1件のリストとして扱いました。",
            )
        )
    elif value is not None and not isinstance(value, list):
        data[key] = []
        warnings.append(
            Text(
                f"{key} is not a list and was emptied.", f"{key} がリストではないため空にしました。"
            )
        )


def _plain(text: str, name: str, language: Language) -> str:
    """The macros for the two speakers, written out."""
    user = "ユーザー" if language == "ja" else "the user"

    def put(match: re.Match[str]) -> str:
        return name if (match[1] or match[2]).lower() in ("char", "bot") else user

    return _MACRO.sub(put, text)


def _examples(text: str, name: str, language: Language) -> list[dict[str, str]]:
    """Pairs of a user line and the reply that follows it, from all ``<START>`` blocks."""
    found = []
    for block in re.split(r"<START>", text, flags=re.IGNORECASE):
        question = ""
        for line in block.splitlines():
            match = _SPEAKER.match(line.strip())
            if not match:
                continue
            said = _plain(_SPEAKER.sub("", line.strip()), name, language)
            if match[1].lower() in ("{{user}}", "<user>"):
                question = said
            elif question and said:
                found.append({"user": question, "reply": said})
                question = ""
    return found


def _entries(data: dict[str, Any]) -> list[dict[str, Any]]:
    book = data.get("character_book")
    entries = book.get("entries") if isinstance(book, dict) else None
    return (
        [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    )


def _fact_of(entry: dict[str, Any], name: str, language: Language) -> str:
    """The fact that a lorebook entry stands for; "" if it is switched off or has no text."""
    content = entry.get("content")
    if not isinstance(content, str) or entry.get("enabled") is False:
        return ""
    return " ".join(_plain(_DECORATOR.sub("", content), name, language).split())


def _lore(
    data: dict[str, Any], name: str, language: Language, warnings: list[Text]
) -> tuple[list[str], dict[str, list[str]]]:
    facts: list[str] = []
    keys: dict[str, list[str]] = {}
    left_out = 0
    for entry in _entries(data):
        fact = _fact_of(entry, name, language)
        if not fact or len(fact) > 500:
            left_out += 1
            continue
        facts.append(fact)
        names = [key for key in entry.get("keys") or [] if isinstance(key, str) and key]
        if names:
            keys[fact] = names
    if left_out:
        warnings.append(
            Text(
                f"{left_out} lorebook entries are off, empty or longer than 500 characters: they "
                "are kept for export, but are no facts.",
                f"ロアブックの {left_out} 件は無効・空・500文字超のため事実にしていません"
                "（書き出し用には保持しています）。",
            )
        )
    return facts, keys


def _own_fields(data: dict[str, Any], warnings: list[Text]) -> dict[str, Any]:
    """What our own export has left in the extensions."""
    extensions = data.get("extensions")
    own = extensions.get(OURS) if isinstance(extensions, dict) else None
    if not isinstance(own, dict):
        return {}
    fields = {key: own[key] for key in _OWN_PROMPT if key in own}
    try:
        Profile.from_data({"slug": "x", "name": "x", **fields}, "extensions.charllm")
    except UserError as error:
        warnings.append(
            Text(f"Ignored: {error.text.en}", f"無視した項目があります: {error.text.ja}")
        )
        return {}
    return fields


# Export


def _imported_values(profile: Profile) -> dict[str, Any]:
    return profile.model_dump(
        mode="json", include={"name", "persona", "greeting", "examples", "system_prompts"}
    )


def as_card(profile: Profile, spec: Spec) -> dict[str, Any]:
    """The card's JSON object in the given version."""
    data = copy.deepcopy(profile.card.get("data", {}))
    was = profile.card.get("imported", {})
    now = _imported_values(profile)
    data["name"] = profile.name
    if "description" not in data or was.get("persona") != now["persona"]:
        data.update(description=profile.persona, personality="", scenario="")
    if "first_mes" not in data or was.get("greeting") != now["greeting"]:
        data["first_mes"] = profile.greeting
    if "mes_example" not in data or was.get("examples") != now["examples"]:
        data["mes_example"] = _write_examples(profile.examples)
    for key in V1_FIELDS:
        data.setdefault(key, "")
    if spec == "v1":
        return {key: data[key] for key in V1_FIELDS}
    for key, default in V2_FIELDS.items():
        if data.get(key) is None:
            data[key] = copy.deepcopy(default)
    if not data["system_prompt"] or was.get("system_prompts") != now["system_prompts"]:
        prompt = profile.system_prompts.get(profile.prompt_language, SystemPrompt())
        data["system_prompt"] = prompt.plain
    if not isinstance(data["extensions"], dict):
        data["extensions"] = {}
    data["extensions"][OURS] = profile.model_dump(mode="json", include=set(_OWN_PROMPT))
    book = _book(profile, data, spec)
    if book is None:
        data.pop("character_book", None)
    else:
        data["character_book"] = book
    root = dict(profile.card.get("root", {}))
    if spec == "v3":
        data.setdefault("group_only_greetings", [])
        return {**root, "spec": "chara_card_v3", "spec_version": "3.0", "data": data}
    return {**root, "spec": "chara_card_v2", "spec_version": "2.0", "data": data}


def _write_examples(examples: tuple[Example, ...]) -> str:
    return "\n".join(
        f"<START>\n{{{{user}}}}: {example.user}\n{{{{char}}}}: {example.reply}"
        for example in examples
    )


def _book(profile: Profile, data: dict[str, Any], spec: Spec) -> dict[str, Any] | None:
    """The lorebook: entries that came in and still stand, new facts, and what never was a fact."""
    called = data.get("nickname") or profile.name
    old: dict[str, dict[str, Any]] = {}
    silent = []
    for entry in _entries(data):
        fact = _fact_of(entry, called, profile.language)
        if fact and len(fact) <= 500:
            old[fact] = entry
        else:
            silent.append(entry)
    entries = []
    for order, fact in enumerate(profile.facts):
        entry = copy.deepcopy(old.get(fact, {})) or {"content": fact, "insertion_order": order}
        keys = list(profile.fact_keys.get(fact, ()))
        entry["keys"] = keys or entry.get("keys") or []
        entry.setdefault("extensions", {})
        entry.setdefault("enabled", True)
        entry.setdefault("insertion_order", order)
        entry.setdefault("constant", not entry["keys"])
        entries.append(entry)
    entries += copy.deepcopy(silent)
    if not entries:
        return None
    for entry in entries:
        if spec == "v3":
            entry.setdefault("use_regex", False)
        elif isinstance(entry.get("content"), str):
            entry["content"] = _DECORATOR.sub("", entry["content"]).strip()
    book = data.get("character_book")
    book = copy.deepcopy(book) if isinstance(book, dict) else {}
    book.setdefault("extensions", {})
    return {**book, "entries": entries}


__all__ = [
    "Imported",
    "as_card",
    "export_card",
    "import_bytes",
    "import_card",
    "portrait_of",
    "save_imported",
    "slug_for",
]
