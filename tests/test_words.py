"""Nobody who chose Japanese is told what is wrong in English."""

from __future__ import annotations

import ast
import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from merge_home import small_home

from charllm.core.evaluation.evaluate_config import EvaluateConfig
from charllm.core.evaluation.general_questions import GeneralQuestion
from charllm.core.evaluation.interview_config import InterviewConfig, InterviewerConfig
from charllm.core.evaluation.verdict_files import read_verdicts
from charllm.core.generation import GenerationPreset
from charllm.core.judging.judges import JudgeConfig
from charllm.core.judging.rubric import Rubric
from charllm.core.merging.blend import MergeConfig, run_merge
from charllm.core.merging.journal import JOURNAL, Outcome, read_entries
from charllm.core.merging.recipe import adapter_weights
from charllm.data.config import ROOT, Config, Paths
from charllm.data.dialogue import Dialogue
from charllm.data.errors import Text, UserError
from charllm.data.files import write_text
from charllm.data.profile import MAX_FACT, MAX_FACTS, Profile
from charllm.data.progress import Silent
from charllm.services import cli

ENGLISH = re.compile(r"[A-Za-z]+,? [a-z]+ [a-z]+")


def english_in(words: str) -> str:
    """The first English sentence outside of quoted values and commands, "" if there is none."""
    found = ENGLISH.search(re.sub(r"'[^']*'|`[^`]*`", "", words))
    return found[0] if found else ""


def refused(config: type[Config], data: object) -> Text:
    with pytest.raises(UserError) as caught:
        config.from_data(data, "here.yaml")
    return caught.value.text


ABOVE = {"name": "x", "profile": "ayane", "variants": ["base"]}
LINKED = {"name": "v", "label_en": "v", "label_ja": "v", "base_url": "https://me:secret@host/v1"}
BOTH = {"en": "x", "ja": "x"}
SCALE = {"name": "x", "revision": "1", "label": BOTH, "about": BOTH, "criterion": BOTH}
SCALE |= {"steps": [BOTH], "low": 1, "high": 2, "levels": {1: BOTH, 2: BOTH}}
CHOICE = {"id": "q", "language": "ja", "text": "空は", "options": ["青い", "赤い"], "answer": 0}
CHOICE |= {"split": "report"}
SAID = {"role": "user", "content": "こんにちは"}


@pytest.mark.parametrize(
    ("config", "data", "part"),
    [
        (JudgeConfig, {"kind": "endpoint"}, "採点に使うモデル"),
        (JudgeConfig, {"samples": 3}, "samples: 内蔵ジャッジ"),
        (JudgeConfig, {"base_url": "https://me:secret@host/v1"}, "ユーザー名とパスワード"),
        (JudgeConfig, {"kind": "local", "model": "m", "samples": 3}, "0 より大きく"),
        (Rubric, {**SCALE, "high": 1}, "low は high より小さく"),
        (Rubric, {**SCALE, "high": 3}, "範囲外: 3"),
        (GenerationPreset, {"num_beams": 2, "temperature": 0.5}, "temperature を 0 に"),
        (EvaluateConfig, {**ABOVE, "repeats": 2}, "repeats を 2 以上に"),
        (EvaluateConfig, {**ABOVE, "variants": ["rag", "rag"]}, "「rag」が重複"),
        (EvaluateConfig, {**ABOVE, "splits": ["report", "report"]}, "「report」が重複"),
        (EvaluateConfig, {**ABOVE, "judges": [{}, {}]}, "「embedded」が重複"),
        (EvaluateConfig, {**ABOVE, "variants": [LINKED]}, "base_url にユーザー名"),
        (EvaluateConfig, {**ABOVE, "name": "no good"}, "名前に使えません"),
        (InterviewerConfig, {"kind": "local"}, "質問するモデル"),
        (InterviewerConfig, {"base_url": "https://me:secret@host/v1"}, "ユーザー名とパスワード"),
        (InterviewConfig, {**ABOVE, "talks": 0, "single": False}, "talks を 1 以上に"),
        (InterviewConfig, {**ABOVE, "judge": {}}, "ルーブリックを読めません"),
        (InterviewConfig, {**ABOVE, "criteria": ["values", "values"]}, "「values」が重複"),
        (InterviewConfig, {**ABOVE, "variants": ["rag", "rag"]}, "「rag」が重複"),
        (InterviewConfig, {**ABOVE, "variants": [LINKED]}, "base_url にユーザー名"),
        (GeneralQuestion, {**CHOICE, "answer": 2}, "0～1 に"),
        (GeneralQuestion, {**CHOICE, "options": ["青い", "青い "]}, "同じ選択肢"),
        (GeneralQuestion, {**CHOICE, "options": ["青い", " "]}, "空の選択肢"),
        (Profile, {"slug": "a", "name": "a", "facts": map(str, range(MAX_FACTS + 1))}, "2000 件"),
        (Profile, {"slug": "a", "name": "a", "facts": ["x", "y" * (MAX_FACT + 1)]}, "2 番目の事実"),
        (Dialogue, {"id": "d", "messages": [SAID]}, "assistant の返答"),
        (GenerationPreset, {1: 2}, "項目の名前"),
    ],
)
def test_rules_are_told_in_japanese(config: type[Config], data: dict[str, Any], part: str) -> None:
    told = refused(config, {**data, "facts": list(data["facts"])} if "facts" in data else data)
    assert part in told.ja and not english_in(told.ja), told.ja
    assert english_in(told.en) and "secret" not in told.en + told.ja, told.en


def modules() -> Iterator[Path]:
    """All of charllm but the pages, which show the same words."""
    for path in sorted((ROOT / "charllm").rglob("*.py")):
        if "ui" not in path.parts:
            yield path


def configurations() -> list[type[Config]]:
    for path in modules():
        if "(Config)" in path.read_text(encoding="utf-8"):
            importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    found, new = set[type[Config]](), {Config}
    while new:
        new = {below for one in new for below in one.__subclasses__()} - found
        found |= {one for one in new if one.__module__.startswith("charllm.")}
    return sorted(found, key=str)


NONSENSE = (None, "x", "", -1e9, 2.5, float("inf"), [], {}, {1: 2}, [[]], ["x", "x"], [{}], b"x")


def test_no_field_of_any_configuration_is_refused_in_english() -> None:
    """Whatever kind of value stands in a file: what pydantic says by itself is English."""
    everything = configurations()
    assert len(everything) > 50
    for config in everything:
        for data in [*({n: v} for n in config.model_fields for v in NONSENSE), 7, None, {1: 2}]:
            try:
                config.from_data(data, "here.yaml")
            except UserError as error:
                assert not english_in(error.text.ja), (config, error.text.ja)


def test_validators_raise_what_has_both_languages() -> None:
    """``invalid(en, ja)``, or what passes a ``UserError`` on as its cause."""
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and any(map(is_validator, node.decorator_list)):
                for one in ast.walk(node):
                    if isinstance(one, ast.Raise) and "ValueError(" in ast.unparse(one):
                        assert one.cause is not None, f"{path}:{one.lineno}"


def is_validator(decorator: ast.expr) -> bool:
    return "_validator(" in ast.unparse(decorator)


ADAPTERS = [f"workspace/models/tiny+checkpoints/{name}" for name in ("one", "two")]
SLERP = {"merge_method": "slerp", "base_model": ADAPTERS[0], "dtype": "bfloat16"}
SLERP |= {"models": [{"model": parent} for parent in ADAPTERS]}


def test_a_recipe_that_lacks_a_number_is_named(paths: Paths) -> None:
    """Its file, the parent and the tensor; a recipe may be one of many that a merge is made of."""
    home = small_home(paths)
    lacking = home.root / "recipes" / "lacking.yaml"
    write_text(lacking, yaml.safe_dump({**SLERP, "merge_method": "linear", "base_model": None}))
    asked = {"recipe": "recipes/lacking.yaml", "out": "workspace/mine", "form": "model"}
    with pytest.raises(UserError, match="no weight for") as row:
        adapter_weights(lacking)
    with pytest.raises(UserError, match="no weight for") as weight:
        run_merge(MergeConfig(**asked), Silent(), home.root, home)
    write_text(lacking, yaml.safe_dump(SLERP))
    with pytest.raises(UserError, match="no t for") as t:
        run_merge(MergeConfig(**asked), Silent(), home.root, home)
    for error in (row, weight, t):
        told = error.value.text
        assert str(lacking) in told.en and str(lacking) in told.ja, told
        assert not english_in(told.ja), told.ja
    assert ADAPTERS[0] in weight.value.text.ja and "parameters に weight" in weight.value.text.ja


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["data", "prepare"], "NAME を指定してください"),
        (["runs", "list", "--far", "7"], "--far 7 という引数はありません"),
        (["nonsense"], "'nonsense' は指定できません"),
        (["runs", "resume", "x", "--budget-calls", "many"], "整数を指定してください（'many'）"),
        (["runs", "resume", "x", "--budget-calls"], "値を 1 つ付けて"),
        (["runs", "list", "--json=yes"], "値 'yes' は付けられません"),
        (["data", "prepare", "x", "--step", "clean:a={"], "値は YAML で書いて"),
        (["data", "prepare", "x", "--step", "clean:a=2024-02-31"], "値は YAML で書いて"),
    ],
)
def test_the_command_line_is_refused_in_japanese(
    arguments: list[str],
    part: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CHARLLM_LANG", "ja")
    assert cli.main(arguments) == 2
    told = capsys.readouterr().err
    assert part in told and not english_in(told), told


MATCH = {"query": "q1", "a": "x", "b": "y", "winner": "x"}


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ({"unscored": BOTH}, "どちらか一方だけ"),
        ({"winner": "", "unscored": {"en": "x"}}, "en と ja が必要"),
        ({"tokens_in": "many"}, "値の種類が違います"),
    ],
)
def test_a_verdict_that_contradicts_itself(tmp_path: Path, more: dict[str, Any], part: str) -> None:
    path = tmp_path / "verdicts.jsonl"
    path.write_text(json.dumps({**MATCH, **more}) + "\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_verdicts(path)
    told = caught.value.text
    assert part in told.ja and "1 行目" in told.ja and not english_in(told.ja), told.ja


def test_a_score_that_is_no_number_is_told_in_japanese(tmp_path: Path) -> None:
    """It becomes a candidate's failure, which the table shows, or is a line that was edited."""
    with pytest.raises(UserError) as caught:
        Outcome("q1", {"loss": float("nan"), "score": 0.5})
    assert caught.value.text.ja == "質問 q1 の loss が数値になりませんでした"
    (tmp_path / JOURNAL).write_text('{"id": "c1"}\n', encoding="utf-8")
    with pytest.raises(UserError) as caught:
        list(read_entries(tmp_path / JOURNAL))
    assert "1 行目" in caught.value.text.ja and not english_in(caught.value.text.ja)
