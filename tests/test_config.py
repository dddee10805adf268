"""What is wrong with a configuration is said in both languages, field by field."""

from __future__ import annotations

import re

import pytest
from pydantic import Field, field_validator

from charllm.core.merging.evolve_config import EvolveConfig
from charllm.core.merging.recipe import MergeRecipe
from charllm.data.config import Config, invalid
from charllm.data.errors import Text, UserError


class Sizes(Config):
    wide: int = Field(default=3, ge=1, lt=10)
    tall: float = 1.0
    kind: str = "a"
    names: tuple[str, ...] = Field(default=("x",), min_length=1)

    @field_validator("kind")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in "ab":
            raise invalid("take a or b", "a か b にしてください")
        return value


def words(config: type[Config], data: object) -> Text:
    with pytest.raises(UserError) as refused:
        config.from_data(data, "here.yaml")
    return refused.value.text


def test_every_field_is_told_in_both_languages() -> None:
    told = words(Sizes, {"wide": 0, "tall": "much", "kind": "c", "names": [], "width": 2})
    for field in ("wide: ", "tall: ", "kind: take a or b", "names: ", "width: there is no such"):
        assert field in told.en, field
    assert told.ja == (
        "here.yaml の内容が正しくありません: wide: 1 以上にしてください; "
        "tall: 数値を書いてください; kind: a か b にしてください; names: 1 件以上必要です; "
        "width: この名前の項目はありません"
    )


@pytest.mark.parametrize(
    "data", [{"wide": 10}, {"wide": "x"}, {"tall": None}, {"names": "x"}, 7, {"tall": float("inf")}]
)
def test_no_english_sentence_is_left_in_japanese(data: object) -> None:
    told = words(Sizes, data)
    assert told.en.startswith("here.yaml is not valid: ")
    assert not re.search(r"[a-z]+ [a-z]+ [a-z]+", told.ja), told.ja


def test_rules_between_fields_are_told_in_both_languages() -> None:
    start = {"name": "x", "profile": "ayane", "parents": ["a", "b"]}
    for search, part in (
        ({"race_first": 0.9, "race_more": 0.5}, "1 以下にしてください"),
        ({"objective": "score=-1"}, "目標の重みとして使えません"),
        ({"objective": "loss=1"}, "評価用のせりふが必要です"),
        ({"strategy": "luck"}, "'cma', 'random', 'grid' のいずれか"),
    ):
        told = words(EvolveConfig, {**start, "search": search})
        assert part in told.ja and "Value error" not in told.en


def test_a_recipe_s_rules_are_told_in_both_languages() -> None:
    source = {"model": "m", "layer_range": [0, 1]}
    plain = {"merge_method": "linear"}
    for data, part in (
        (plain, "ちょうど1つ"),
        ({**plain, "models": [source]}, "slices の中に"),
        ({**plain, "slices": [{"sources": [{"model": "m"}]}]}, "slices.0: m に layer_range"),
        (
            {**plain, "models": [{"model": "m"}], "tokenizer_source": "base", "tokenizer": {}},
            "どちらか一方だけ",
        ),
    ):
        assert part in words(MergeRecipe, data).ja
