"""The base of every configuration, and where things lie on disk.

A configuration is frozen, refuses unknown fields, and is the same in YAML, in a form and on the
command line: one more field in a class is one more field everywhere.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from charllm.data.errors import UserError
from charllm.data.files import read_text, write_text

ROOT = Path(__file__).resolve().parents[2]


class Config(BaseModel):
    """A frozen pydantic model that refuses unknown fields and round-trips through YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def from_data(cls, data: Any, where: str) -> Self:
        """Validate ``data``; a ``UserError`` names ``where`` and every field that is wrong."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(str(part) for part in item['loc']) or '(top level)'}: {item['msg']}"
                for item in error.errors()
            )
            raise UserError(
                f"{where} is not valid: {problems}", f"{where} の内容が正しくありません: {problems}"
            ) from error

    @classmethod
    def load(cls, path: Path) -> Self:
        return cls.from_data(load_yaml(path), str(path))

    def save(self, path: Path) -> None:
        write_text(path, self.to_yaml())

    def to_yaml(self) -> str:
        return dump_yaml(self.model_dump(mode="json"))


def load_yaml(path: Path) -> Any:
    """The data in a YAML file; ``UserError`` with file and line where it is not YAML."""
    import yaml

    try:
        return yaml.safe_load(read_text(path))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(
            f"{path}, line {line}: not valid YAML ({error.problem}).",
            f"{path} の {line} 行目が YAML として読めません（{error.problem}）。",
        ) from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        raise UserError(
            f"{path} is not valid YAML.", f"{path} は YAML として読めません。"
        ) from error


def with_texts(data: Any, texts: Sequence[str]) -> Any:
    """``data`` with ``NAME=VALUE`` texts set; a name may go deeper (``search.seed``), a value is
    YAML. Whether there is such a setting is for the configuration to say."""
    import yaml

    made = copy.deepcopy(data)
    for text in texts:
        name, equals, value = text.partition("=")
        *above, last = name.strip().split(".")
        try:
            found = yaml.safe_load(value)
        except yaml.YAMLError:
            equals = ""
        at = made
        for key in above:
            at = at.setdefault(key, {}) if isinstance(at, dict) else None
        if not equals or not last or not isinstance(at, dict):
            raise UserError(
                f"--set {text!r}: write NAME=VALUE, the value in YAML.",
                f"--set「{text}」: NAME=VALUE の形で、値は YAML で書いてください。",
            )
        at[last] = found
    return made


def dump_yaml(data: Any) -> str:
    """YAML in reading order, with Japanese as it is and long texts as blocks."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)


@dataclass(frozen=True)
class Paths:
    """The folders of one installation. ``workspace`` holds what is made while working."""

    root: Path
    workspace: Path

    @classmethod
    def default(cls) -> Paths:
        """The project's folder; ``CHARLLM_ROOT`` and ``CHARLLM_HOME`` move it and the workspace."""
        root = Path(os.environ.get("CHARLLM_ROOT") or ROOT).resolve()
        home = os.environ.get("CHARLLM_HOME")
        return cls(root, Path(home).expanduser().resolve() if home else root / "workspace")

    @property
    def profiles(self) -> Path:
        return self.root / "profiles"

    @property
    def datasets(self) -> Path:
        return self.root / "datasets"

    @property
    def queries(self) -> Path:
        return self.datasets / "queries"

    @property
    def rubrics(self) -> Path:
        return self.root / "rubrics"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def models(self) -> Path:
        return self.workspace / "models"

    @property
    def runs(self) -> Path:
        return self.workspace / "runs"

    @property
    def indexes(self) -> Path:
        return self.workspace / "chroma"

    @property
    def database(self) -> Path:
        return self.workspace / "charllm.sqlite"
