"""The base of every configuration, and where things lie on disk.

A configuration is frozen, refuses unknown fields, and is the same in YAML, in a form and on the
command line: one more field in a class is one more field everywhere.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from charllm.data.errors import Text, UserError
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
            found = [(item["loc"], problem(dict(item))) for item in error.errors()]
            en = "; ".join(f"{_place(loc) or '(top level)'}: {text.en}" for loc, text in found)
            ja = "; ".join(f"{_place(loc) or '全体'}: {text.ja}" for loc, text in found)
            raise UserError(
                f"{where} is not valid: {en}", f"{where} の内容が正しくありません: {ja}"
            ) from error

    @classmethod
    def load(cls, path: Path) -> Self:
        return cls.from_data(load_yaml(path), str(path))

    def save(self, path: Path) -> None:
        write_text(path, self.to_yaml())

    def to_yaml(self) -> str:
        return dump_yaml(self.model_dump(mode="json"))


def invalid(en: str, ja: str) -> ValueError:
    """For a validator to raise: a form and ``from_data`` show the words of either language."""
    error = ValueError(en)
    error.__cause__ = UserError(en, ja)
    return error


_JA = {
    "missing": "必須の項目です",
    "invalid_key": "項目の名前は文字列にしてください",
    "recursion_loop": "自分自身を含む値は使えません",
    "extra_forbidden": "この名前の項目はありません",
    "literal_error": "{expected} のいずれかにしてください",
    "greater_than": "{gt} より大きい値にしてください",
    "greater_than_equal": "{ge} 以上にしてください",
    "less_than": "{lt} より小さい値にしてください",
    "less_than_equal": "{le} 以下にしてください",
    "too_short": "{min_length} 件以上必要です",
    "too_long": "{max_length} 件以下にしてください",
    "string_too_short": "{min_length} 文字以上必要です",
    "string_too_long": "{max_length} 文字以下にしてください",
    "int": "整数を書いてください",
    "float": "数値を書いてください",
    "finite": "有限の数値を書いてください",
    "bool": "true か false を書いてください",
    "string": "文字列を書いてください",
    "list": "リストを書いてください",
    "tuple": "リストを書いてください",
    "dict": "「名前: 値」の並びを書いてください",
    "model": "「名前: 値」の並びを書いてください",
}
"""What pydantic objects to, by its error types or how they begin; its own words are English."""


def _place(loc: Sequence[int | str]) -> str:
    return ".".join(map(str, loc))


def problem(item: Mapping[str, Any]) -> Text:
    """One of pydantic's errors in both languages."""
    details = item.get("ctx") or {}
    raised = details.get("error")
    if isinstance(cause := getattr(raised, "__cause__", None), UserError):
        return cause.text
    if raised is not None:
        return Text(str(raised), str(raised))
    kind = item["type"]
    en = "there is no such field" if kind == "extra_forbidden" else item["msg"]
    ja = _JA.get(kind) or _JA.get(kind.partition("_")[0])
    if kind == "literal_error":
        details = {"expected": str(details["expected"]).replace(" or ", ", ")}
    return Text(en, ja.format(**details) if ja else item["msg"])


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
