"""Variants: what a checkpoint's folder stands for, and what is said where it is not whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from chatting import add_recipe, label, remote, write_card

from charllm.core.variants import (
    Variant,
    checkpoint_kind,
    default_columns,
    endpoints_file,
    find_variant,
    list_checkpoints,
    list_variants,
    load_checkpoint,
    load_endpoints,
    save_endpoints,
)
from charllm.data.config import Paths
from charllm.data.errors import UserError


@pytest.fixture
def bare(paths: Paths) -> Paths:
    """Two adapters in name only and a merge of them: nothing here reads tensors."""
    shutil.rmtree(paths.checkpoints, ignore_errors=True)
    for name in ("one", "two"):
        folder = paths.checkpoints / name
        write_card(folder, {"base": "gemma-3-270m", "profile": "ayane", "label": label(name)})
        (folder / "adapter_model.safetensors").touch()
    add_recipe(paths, "mix", "gemma-3-270m", ("one", "two"))
    return paths


def names(paths: Paths, slug: str = "ayane") -> list[str]:
    return [variant.name for variant in list_variants(paths, slug)]


def test_every_checkpoint_is_there_with_and_without_retrieval(bare: Paths) -> None:
    assert names(bare) == ["base", "rag", "mix", "mix-rag", "one", "one-rag", "two", "two-rag"]
    assert names(bare, "magnus") == ["base", "rag"]
    mixed = find_variant(bare, "ayane", "mix-rag")
    assert (mixed.checkpoint, mixed.rag, mixed.label_ja) == (
        "mix",
        True,
        "チェックポイント mix + RAG",
    )
    assert [checkpoint_kind(bare, v) for v in list_variants(bare, "ayane")[:5]] == [
        "base",
        "rag",
        "recipe",
        "recipe",
        "adapter",
    ]
    assert default_columns(bare, "ayane") == ["base", "rag", "one", "mix-rag"]
    assert default_columns(bare, "magnus") == ["base", "rag"]


def test_what_a_checkpoint_stands_for(bare: Paths) -> None:
    one, mix = load_checkpoint(bare, "one"), load_checkpoint(bare, "mix")
    assert (one.kind, one.weights, one.model, one.profile) == (
        "adapter",
        {"one": 1.0},
        "gemma-3-270m",
        "ayane",
    )
    assert (mix.kind, mix.weights) == ("recipe", {"one": 0.5, "two": 0.5})


@pytest.mark.parametrize("name", ["", ".", "..", "nobody", "../one", "one/", "/etc"])
def test_names_of_no_checkpoint_are_refused(bare: Paths, name: str) -> None:
    with pytest.raises(UserError, match="Known: mix, one, two"):
        load_checkpoint(bare, name)


def test_an_incomplete_checkpoint_is_listed_but_not_offered_by_itself(bare: Paths) -> None:
    (bare.checkpoints / "one" / "adapter_model.safetensors").unlink()
    (bare.checkpoints / "mix" / "recipe.yaml").write_text("models: [", encoding="utf-8")
    assert "one" in names(bare) and "mix-rag" in names(bare)
    with pytest.raises(UserError, match="is incomplete"):
        load_checkpoint(bare, "one")
    with pytest.raises(UserError, match="not valid YAML"):
        load_checkpoint(bare, "mix")
    assert default_columns(bare, "ayane")[2] == "two"


@pytest.mark.parametrize("card", ["", "{", "[]", '"x"', '{"label": 3}', "\x00"])
def test_a_broken_card_hides_no_other_checkpoint(bare: Paths, card: str) -> None:
    (bare.checkpoints / "one" / "card.json").write_text(card, encoding="utf-8")
    assert {"one", "two", "mix"} <= set(names(bare)) and "one" in names(bare, "magnus")
    assert default_columns(bare, "ayane") == ["base", "rag", "two", "mix-rag"]
    with pytest.raises(UserError, match=r"card\.json"):
        load_checkpoint(bare, "one")


def test_a_card_may_say_little(bare: Paths) -> None:
    write_card(bare.checkpoints / "one", {})
    write_card(bare.checkpoints / "two", {"label": "Two", "profile": ""})
    assert find_variant(bare, "magnus", "one").label_en == "one"
    assert find_variant(bare, "magnus", "two").label_ja == "Two"


def test_a_folder_in_the_making_is_no_checkpoint(bare: Paths) -> None:
    shutil.copytree(bare.checkpoints / "one", bare.checkpoints / ".one.x1")
    (bare.checkpoints / "without-card").mkdir()
    assert list_checkpoints(bare) == ["mix", "one", "two"]
    shutil.rmtree(bare.checkpoints)
    assert list_checkpoints(bare) == [] and names(bare) == ["base", "rag"]


def test_no_two_variants_share_a_name(bare: Paths) -> None:
    for name in ("rag", "one-rag"):
        shutil.copytree(bare.checkpoints / "one", bare.checkpoints / name)
    save_endpoints(bare, [remote("http://127.0.0.1:9/v1", "one")])
    found = names(bare)
    assert len(set(found)) == len(found) == 13
    assert find_variant(bare, "ayane", "one-rag").checkpoint == "one"
    assert find_variant(bare, "ayane", "one-rag+").checkpoint == "one-rag"
    assert find_variant(bare, "ayane", "rag").checkpoint == ""
    assert find_variant(bare, "ayane", "rag+").checkpoint == "rag"
    assert find_variant(bare, "ayane", "one+").base_url


def test_endpoints_come_back_and_a_broken_file_is_told(bare: Paths) -> None:
    assert load_endpoints(bare) == []
    far = [remote("http://127.0.0.1:9/v1", "a"), Variant(name="b", label_en="b", label_ja="b")]
    save_endpoints(bare, far)
    assert load_endpoints(bare) == far and names(bare)[-2:] == ["a", "b"]
    for text, says in (("{}", "no list of endpoints"), ('[{"nme": 1}]', "nme"), ("[", "not valid")):
        endpoints_file(bare).write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=says):
            load_endpoints(bare)


def test_an_unknown_variant_lists_the_known(bare: Paths) -> None:
    with pytest.raises(UserError, match=r"'three' for ayane\. Known: base, rag, mix, mix-rag"):
        find_variant(bare, "ayane", "three")


def test_checkpoints_follow_links(bare: Paths, tmp_path: Path) -> None:
    (bare.checkpoints / "one").rename(tmp_path / "elsewhere")
    (bare.checkpoints / "one").symlink_to(tmp_path / "elsewhere")
    assert load_checkpoint(bare, "one").kind == "adapter"
