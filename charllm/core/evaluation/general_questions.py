"""General questions with checkable answers: what a model knew before it learnt a character.

``datasets/general/<name>.jsonl`` holds the beginning of a sentence and some ways to go on, one of
them right. A model is not asked to write anything: the right option should be the one that it finds
most likely, per token. So a model of any size, in any voice and without any template can be asked,
and its answer is the same every time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from charllm.core.evaluation.likelihood import ROWS, Opened, continuation, mean_log_likelihoods
from charllm.data.config import Config, Paths, invalid
from charllm.data.errors import Language, UserError
from charllm.data.files import json_lines
from charllm.data.queries import Split
from charllm.data.text import normal_form


class GeneralQuestion(Config):
    """One question; ``answer`` is the place of the right option, counted from 0."""

    id: str = Field(min_length=1)
    language: Language
    text: str = Field(min_length=1)
    options: tuple[str, ...] = Field(min_length=2)
    answer: int = Field(ge=0)
    split: Split
    tags: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _answerable(self) -> Self:
        if self.answer >= len(self.options):
            raise invalid(
                f"answer {self.answer}: there are {len(self.options)} options, counted from 0",
                f"answer: {self.answer} 番の選択肢はありません。0～{len(self.options) - 1} に"
                "してください（0 から数えます）",
            )
        if len({option.strip() for option in self.options}) < len(self.options):
            raise invalid(
                "options: two of them are the same",
                "options: 同じ選択肢があります。すべて違うものにしてください",
            )
        if not all(option.strip() for option in self.options):
            raise invalid(
                "options: one of them is empty",
                "options: 空の選択肢があります。文を書くか、削除してください",
            )
        return self

    @property
    def chance(self) -> float:
        """How often guessing is right."""
        return 1 / len(self.options)


@dataclass(frozen=True)
class Answered:
    """One model's answer. ``share`` in (0, 1): the right option's part of the options' mean
    likelihoods (softmax of their mean log-likelihoods); with equal options it is the chance."""

    question: str
    right: bool
    share: float


def general_folder(paths: Paths) -> Path:
    return paths.datasets / "general"


def general_sets(paths: Paths) -> list[str]:
    """Names of the sets there are, sorted."""
    return sorted(path.stem for path in general_folder(paths).glob("*.jsonl"))


def load_general(paths: Paths, names: Iterable[str] = ()) -> list[GeneralQuestion]:
    """The questions of these sets, or of all; ``UserError`` names file and line of a wrong one.

    Ids are unique over all sets, and the same question stands in one split only.
    """
    there = general_sets(paths)
    wanted = list(dict.fromkeys(names)) or there
    unknown = [name for name in wanted if name not in there]
    if unknown or not wanted:
        known, missing = ", ".join(there) or "-", ", ".join(unknown) or "*"
        raise UserError(
            f"There are no general questions {missing} in {general_folder(paths)}. Known: {known}.",
            f"一般問題「{missing}」が {general_folder(paths)} にありません。あるもの: {known}。",
        )
    seen: dict[str, str] = {}
    found = []
    for name in wanted:
        path = general_folder(paths) / f"{name}.jsonl"
        for number, row in json_lines(path):
            where = f"{path}, line {number}"
            question = GeneralQuestion.from_data(row, where)
            for key in (question.id, normal_form(question.text)):
                if key in seen:
                    raise _twice(where, question.id, seen[key])
                seen[key] = where
            found.append(question)
    return found


def answer_general(
    opened: Opened, tokenizer: Any, questions: Sequence[GeneralQuestion], rows: int = ROWS
) -> list[Answered]:
    """What the model that ``opened`` gives finds most likely; in the questions' order."""
    endings = [
        continuation(tokenizer, question.text, _joined(question.language, option))
        for question in questions
        for option in question.options
    ]
    values = iter(mean_log_likelihoods(opened, endings, rows))
    return [answered(question, [next(values) for _ in question.options]) for question in questions]


def answered(question: GeneralQuestion, values: Sequence[float]) -> Answered:
    """The answer from the options' mean log-likelihoods; a tie is not right."""
    own, most = values[question.answer], max(values)
    others = [value for i, value in enumerate(values) if i != question.answer]
    total = math.fsum(math.exp(value - most) for value in values)
    return Answered(question.id, own > max(others), math.exp(own - most) / total)


def _joined(language: Language, option: str) -> str:
    return f" {option}" if language == "en" else option


def _twice(where: str, identity: str, first: str) -> UserError:
    return UserError(
        f"{where}: the question {identity!r} stands there already ({first}). Ids and questions may "
        "occur once in all sets together.",
        f"{where}: 問題「{identity}」はすでにあります（{first}）。id と問題文は、すべてのセットを"
        "通して一度しか使えません。",
    )
