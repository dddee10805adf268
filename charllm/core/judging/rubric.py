"""Rubrics: what a judge looks at, in files. ``rubrics/<name>.yaml``; adding one takes no Python.

A rubric has one criterion, a described level for each score, and steps. Its version carries a hash
of its content, so that scores of an edited rubric never pass as those of the one before.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from charllm.data.config import Config, Paths, invalid, load_yaml
from charllm.data.errors import Language, Text, UserError
from charllm.data.files import check_slug, sha256

Need = Literal["profile", "example", "gold", "history"]
Measured = Literal["style", "fact", "echo", "off_topic", "dump", "filler"]


class Both(Config):
    """Words in both languages."""

    en: str = Field(min_length=1)
    ja: str = Field(min_length=1)

    @property
    def text(self) -> Text:
        return Text(self.en, self.ja)

    def in_(self, language: Language) -> str:
        return self.text.in_(language)


class Rubric(Config):
    """One criterion on a scale of whole levels.

    ``needs``: what the judge is shown beside the exchange; an item without what is needed is
    unscored. ``measures``: what of the quality check's optional kinds it claims to see. ``format``:
    "json" asks for a schema first, "text" for the study's form, the score alone on the last line.
    """

    name: str
    revision: str = Field(min_length=1, coerce_numbers_to_str=True)
    label: Both
    about: Both
    criterion: Both
    low: int = 1
    high: int = 7
    levels: dict[int, Both]
    steps: tuple[Both, ...] = Field(min_length=1)
    needs: tuple[Need, ...] = ("profile",)
    measures: tuple[Measured, ...] = ()
    ask_flaws: bool = True
    format: Literal["json", "text"] = "json"

    @model_validator(mode="after")
    def _levels_described(self) -> Self:
        if not self.low < self.high <= self.low + 9:
            raise invalid(
                "low must be below high, with at most ten levels",
                "low は high より小さくし、段階は 10 個までにしてください",
            )
        missing = sorted(set(range(self.low, self.high + 1)) ^ set(self.levels))
        if missing:
            wrong = ", ".join(map(str, missing))
            raise invalid(
                f"levels must describe {self.low}–{self.high}, each once; missing or beyond: "
                f"{wrong}",
                f"levels には {self.low}～{self.high} の各段階の説明を、過不足なく書いてください"
                f"（不足または範囲外: {wrong}）",
            )
        return self

    @property
    def scale(self) -> tuple[int, int]:
        return self.low, self.high

    @cached_property
    def version(self) -> str:
        """The declared revision and the first digits of the content's hash."""
        return f"{self.revision}-{sha256(self.model_dump_json().encode())[:8]}"


def rubric_path(paths: Paths, name: str) -> Path:
    return paths.rubrics / f"{check_slug(name, 'rubric name')}.yaml"


def list_rubrics(paths: Paths) -> list[str]:
    """The names of all rubrics, the study's first."""
    names = sorted(path.stem for path in paths.rubrics.glob("*.yaml"))
    return sorted(names, key=lambda name: name != "study")


def load_rubric(paths: Paths, name: str) -> Rubric:
    """``UserError`` names the file and the field that is wrong, or the rubrics there are."""
    path = rubric_path(paths, name)
    if not path.is_file():
        known = ", ".join(list_rubrics(paths)) or "-"
        raise UserError(
            f"There is no rubric {name!r}. Known: {known}. A rubric is a file {path}.",
            f"ルーブリック「{name}」がありません。あるもの: {known}。{path} に置くと使えます。",
        )
    data = load_yaml(path)
    if not isinstance(data, dict):
        raise UserError(f"{path} is not a table of fields.", f"{path} が項目の表になっていません。")
    return Rubric.from_data({**data, "name": name}, str(path))
