"""Rubrics are files: those shipped are whole, a new one needs no Python, a broken one is named."""

from __future__ import annotations

import re

import pytest

from charllm.core.judging.prompting import judge_messages, schema_of
from charllm.core.judging.records import Item
from charllm.core.judging.rubric import list_rubrics, load_rubric, rubric_path
from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.data.profile import load_profile

SHIPPED = {
    "study",
    "personality",
    "naturalness",
    "tempo",
    "factual",
    "values",
    "hallucination",
    "stability",
}
ITEM = Item("a", "ご趣味は？", "読書ですわ。", gold=("趣味は読書。",))


def test_the_shipped_rubrics_are_there_the_studys_first(paths: Paths) -> None:
    names = list_rubrics(paths)
    assert names[0] == "study" and set(names) == SHIPPED


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_a_rubric_says_everything_in_both_languages(paths: Paths, name: str) -> None:
    rubric = load_rubric(paths, name)
    assert rubric.scale == (1, 7) and set(rubric.levels) == set(range(1, 8))
    texts = [rubric.label, rubric.about, rubric.criterion, *rubric.levels.values(), *rubric.steps]
    for text in texts:
        assert re.search(r"[ぁ-んァ-ヶ一-龠]", text.ja), text.ja
        assert not re.search(r"[ぁ-んァ-ヶ一-龠]", text.en), text.en


def test_the_studys_rubric_has_its_shape(paths: Paths) -> None:
    """Profile, example, exchange, one criterion 1–7, four steps, reasons first, score last."""
    rubric = load_rubric(paths, "study")
    profile = load_profile(paths, "ayane")
    assert len(rubric.steps) == 4 and rubric.format == "text" and "example" in rubric.needs
    system, user = judge_messages(rubric, profile, ITEM, as_json=False)
    assert profile.persona in system.content and profile.examples[0].reply in system.content
    said = [system.content.index(word) for word in ("# 評価基準", "# 段階", "# 手順", "1 行に")]
    assert said == sorted(said) and "日本語で" in system.content
    assert user.content.index("ご趣味は？") < user.content.index("読書ですわ。")


def test_reasons_follow_the_characters_language(paths: Paths) -> None:
    magnus = load_profile(paths, "magnus")
    rubric = load_rubric(paths, "study")
    system, _ = judge_messages(rubric, magnus, ITEM, as_json=False)
    assert "# Criterion" in system.content and "評価基準" not in system.content


def test_only_the_rubric_against_facts_shows_them(paths: Paths) -> None:
    ayane = load_profile(paths, "ayane")
    shown = {
        name
        for name in SHIPPED
        if "趣味は読書。"
        in judge_messages(load_rubric(paths, name), ayane, ITEM, as_json=True)[1].content
    }
    assert shown == {"factual"}


def test_a_rubric_of_ones_own_takes_no_python(paths: Paths) -> None:
    rubric_path(paths, "warmth").write_text(
        "revision: 1\nlabel: {en: Warmth, ja: 温かさ}\nabout: {en: w, ja: 温}\n"
        "criterion: {en: 'Is it warm?', ja: 温かいですか。}\nlow: 0\nhigh: 2\nask_flaws: false\n"
        "levels: {0: {en: cold, ja: 冷}, 1: {en: mild, ja: 並}, 2: {en: warm, ja: 温}}\n"
        "steps: [{en: Read., ja: 読む。}]\n",
        encoding="utf-8",
    )
    rubric = load_rubric(paths, "warmth")
    assert "warmth" in list_rubrics(paths) and rubric.scale == (0, 2)
    assert list(schema_of(rubric)["properties"]) == ["reasons", "score"]
    assert schema_of(rubric)["properties"]["score"]["enum"] == [0, 1, 2]


def test_an_edited_rubric_is_another_version(paths: Paths) -> None:
    path = rubric_path(paths, "tempo")
    before = load_rubric(paths, "tempo").version
    path.write_text(path.read_text("utf-8") + "\n# a remark alone\n", encoding="utf-8")
    assert load_rubric(paths, "tempo").version == before
    text = path.read_text("utf-8").replace("revision: '1'", "revision: '2'")
    path.write_text(text, encoding="utf-8")
    after = load_rubric(paths, "tempo").version
    assert before.startswith("1-") and after.startswith("2-") and before[2:] != after[2:]


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("criterion:", "criterium:", "criterion"),
        ("  7:", "  8:", "levels"),
        ("revision: '1'", "revision: '1'\nlow: 7", "low"),
        ("needs:\n- profile", "needs:\n- weather", "needs.0"),
        ("steps:", "steps: [", "line"),
    ],
)
def test_a_broken_rubric_is_named_with_its_field(
    paths: Paths, old: str, new: str, named: str
) -> None:
    path = rubric_path(paths, "factual")
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError) as problem:
        load_rubric(paths, "factual")
    assert "factual.yaml" in str(problem.value) and named in str(problem.value)
    assert "factual.yaml" in problem.value.text.ja


def test_an_unknown_rubric_and_a_name_that_leaves_the_folder(paths: Paths) -> None:
    with pytest.raises(UserError, match="study"):
        load_rubric(paths, "warmth")
    with pytest.raises(UserError):
        load_rubric(paths, "../study")
