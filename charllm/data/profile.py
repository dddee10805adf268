"""A character: profile.yaml and its facts.txt, read, checked and saved without losing anything.

``profiles/<slug>/profile.yaml`` holds every field but the facts; ``facts.txt`` holds one fact a
line (UTF-8). A save names the revision it started from, so that the second of two editors is told.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from charllm.data.config import Config, Paths, dump_yaml, invalid, load_yaml
from charllm.data.errors import EditConflict, Language, UserError
from charllm.data.files import SLUG, check_slug, new_folder, read_text, sha256, write_text

MAX_FACTS = 2000
MAX_FACT = 500


class Speech(Config):
    """How the character talks. ``endings`` are literal marks looked for in replies."""

    first_person: str = ""
    endings: tuple[str, ...] = ()
    tone: str = ""
    avoid: tuple[str, ...] = ()


class SystemPrompt(Config):
    """One language's system prompts; ``{facts}`` in ``rag`` is where retrieved facts go."""

    plain: str = ""
    rag: str = ""


class Example(Config):
    user: str
    reply: str


class Profile(Config):
    """Everything about one character. ``reply_length`` is in characters, 5–2000."""

    slug: str
    name: str = Field(min_length=1, max_length=200)
    language: Language = "ja"
    persona: str = ""
    speech: Speech = Speech()
    reply_length: int = Field(default=30, ge=5, le=2000)
    prompt_language: Language = "ja"
    system_prompts: dict[Language, SystemPrompt] = {}
    greeting: str = ""
    examples: tuple[Example, ...] = ()
    facts: tuple[str, ...] = ()
    fact_keys: dict[str, tuple[str, ...]] = {}
    card: dict[str, Any] = {}
    """What an imported card carried that has no field here; exported again unchanged."""

    @field_validator("slug")
    @classmethod
    def _slug(cls, value: str) -> str:
        try:
            return check_slug(value, "profile name")
        except UserError as error:
            raise ValueError(str(error)) from error

    @field_validator("name", "persona", "greeting")
    @classmethod
    def _stripped(cls, value: str) -> str:
        return value.strip()

    @field_validator("facts")
    @classmethod
    def _facts(cls, facts: tuple[str, ...]) -> tuple[str, ...]:
        clean = clean_facts(facts)
        if len(clean) > MAX_FACTS:
            raise invalid(
                f"{len(clean)} facts; at most {MAX_FACTS}",
                f"事実が {len(clean)} 件あります。{MAX_FACTS} 件までにしてください",
            )
        for number, fact in enumerate(clean, 1):
            if len(fact) > MAX_FACT:
                raise invalid(
                    f"fact {number} has {len(fact)} characters; at most {MAX_FACT}",
                    f"{number} 番目の事実が {len(fact)} 文字あります。{MAX_FACT} 文字までにするか、"
                    "分けてください",
                )
        return clean

    def system_prompt(self, *, rag: bool, language: Language | None = None) -> str:
        """The system prompt asked for; the default language's, or one made of the persona."""
        prompts = self.system_prompts.get(language or self.prompt_language)
        if prompts is None or not (prompts.rag if rag else prompts.plain):
            return default_system_prompt(self, rag=rag, language=language or self.prompt_language)
        return prompts.rag if rag else prompts.plain


def default_system_prompt(profile: Profile, *, rag: bool, language: Language) -> str:
    """What is used where a profile has no system prompt of its own."""
    persona = profile.persona.strip()
    if language == "ja":
        parts = [f"あなたは{profile.name}です。{persona}"]
        if profile.language == "en":
            parts.append("必ず英語で答えてください。")
        if rag:
            parts.append("次の情報を参考にしてください。\n{facts}")
    else:
        parts = [f"You are {profile.name}. {persona}".strip()]
        if profile.language == "ja":
            parts.append("Always answer in Japanese.")
        if rag:
            parts.append("Use the following facts.\n{facts}")
    return "\n".join(parts)


def clean_facts(facts: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """Facts stripped to one line each, empty ones and exact repeats dropped, order kept."""
    return tuple(dict.fromkeys(line for fact in facts if (line := " ".join(fact.split()))))


def folder(paths: Paths, slug: str) -> Path:
    return paths.profiles / check_slug(slug, "profile name")


def list_profiles(paths: Paths) -> list[str]:
    """The slugs of all profiles, sorted."""
    if not paths.profiles.is_dir():
        return []
    return sorted(
        item.name
        for item in paths.profiles.iterdir()
        if SLUG.fullmatch(item.name) and (item / "profile.yaml").is_file()
    )


def load_profile(paths: Paths, slug: str) -> Profile:
    """The profile; ``UserError`` where it is missing, broken or empty."""
    path = folder(paths, slug) / "profile.yaml"
    if not path.is_file():
        known = ", ".join(list_profiles(paths)) or "-"
        raise UserError(
            f"There is no profile {slug!r}. Known: {known}.",
            f"プロファイル「{slug}」がありません。あるもの: {known}。",
        )
    data = load_yaml(path)
    if not isinstance(data, dict):
        raise UserError(
            f"{path} is empty or not a table of fields.", f"{path} が空か、項目の表ではありません。"
        )
    facts_file = path.with_name("facts.txt")
    facts = read_text(facts_file).splitlines() if facts_file.is_file() else []
    return Profile.from_data({**data, "slug": slug, "facts": facts}, str(path))


def revision(paths: Paths, slug: str) -> str:
    """A hash of what is stored now; "" where nothing is."""
    where = folder(paths, slug)
    files = [where / "profile.yaml", where / "facts.txt"]
    if not files[0].is_file():
        return ""
    return sha256(b"\0".join(f.read_bytes() if f.is_file() else b"" for f in files))


def save_profile(paths: Paths, profile: Profile, expected: str | None = None) -> str:
    """Save and return the new revision.

    ``expected`` is the revision that the editor started from ("" for a new profile); if another
    one is stored by now, ``EditConflict`` is raised and nothing is written. None overwrites.
    """
    if expected is not None and revision(paths, profile.slug) != expected:
        raise EditConflict(
            f"{profile.name} was changed elsewhere since you opened it. Nothing was overwritten: "
            "load it again, or save your version under another name.",
            f"{profile.name} は、開いたあとに別の画面で変更されました。上書きはしていません。"
            "読み直すか、別の名前で保存してください。",
        )
    where = folder(paths, profile.slug)
    data = profile.model_dump(mode="json", exclude={"facts"})
    write_text(where / "facts.txt", "".join(fact + "\n" for fact in profile.facts))
    write_text(where / "profile.yaml", dump_yaml(data))
    return revision(paths, profile.slug)


def copy_profile(paths: Paths, slug: str, new_slug: str) -> None:
    """Copy a profile's folder under another name; refuses one that exists."""
    target = folder(paths, new_slug)
    if target.exists():
        raise UserError(
            f"A profile {new_slug!r} exists already.",
            f"プロファイル「{new_slug}」はすでにあります。",
        )
    with new_folder(target) as work:
        shutil.copytree(folder(paths, slug), work, dirs_exist_ok=True)
