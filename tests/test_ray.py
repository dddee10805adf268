"""Ray's workers: the journal of one engine, deaths that cost a retry, nothing left over."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
from merge_home import evolve_config, small_home

from charllm.core.merging.evolving import quote_evolve, run_evolve
from charllm.core.merging.genome import Candidate
from charllm.core.merging.journal import JOURNAL, Failure
from charllm.data.config import ROOT, Paths
from charllm.data.errors import UserError
from charllm.data.progress import Silent, Stopped

SEARCH = {"objective": "loss=1, score=0.5", "max_candidates": 4, "population": 4, "seed": 3}
Alone = tuple[bytes, dict[str, Any]]
SCRIPT = """\
import sys; sys.path[:0] = sys.argv[1:3]
import time; from pathlib import Path; import test_ray as t
from charllm.data.config import Paths
while True:
    try: t.evolve(Paths(Path(sys.argv[3]), Path(sys.argv[4])), 'spread', workers=2)
    except t.UserError as error:
        if 'no Ray cluster answers' not in str(error): raise
        time.sleep(1)
    else: break
"""
KEY = "a-key-that-must-not-travel"


@pytest.fixture
def home(paths: Paths) -> Paths:
    return small_home(paths)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """The journal and the result of a run without workers."""
    top = tmp_path_factory.mktemp("alone")
    for name in ("profiles", "datasets", "checkpoints", "recipes", "rubrics"):
        shutil.copytree(ROOT / name, top / "root" / name)
    home = small_home(Paths(top / "root", top / "workspace"))
    result = evolve(home, "alone")
    return journal(home, "alone"), {**result, "spent": 0, "out": ""}


@pytest.fixture
def with_ray() -> None:
    if find_spec("ray") is None:  # not imported here: Ray reads its environment when it is
        pytest.skip("Ray is not installed: pip install -r requirements-ray.txt")


class Watcher(Silent):
    """Keeps the log; does something once, after the first candidate; cancels after so many."""

    def __init__(self, once: Any = None, cancel_after: int = 0) -> None:
        self.lines: list[str] = []
        self.once, self.cancel_after, self.seen = once, cancel_after, 0

    def event(self, kind: str, **data: Any) -> None:
        json.dumps(data)
        self.seen += kind == "candidate"
        if kind == "candidate" and self.once:
            once, self.once = self.once, None
            once()

    def log(self, line: str) -> None:
        self.lines.append(line)

    def stop_requested(self) -> Any:
        return "cancel" if self.cancel_after and self.seen >= self.cancel_after else ""


def evolve(home: Paths, folder: str, watcher: Silent | None = None, **changes: Any) -> Any:
    # Three candidates share a batch: groups and their order are the same for any number of workers.
    config = evolve_config(**{"search": SEARCH, "rows": 30, "replace": True, **changes})
    return run_evolve(config, watcher or Silent(), home.workspace / folder, home)


def journal(home: Paths, folder: str) -> bytes:
    """The journal's lines without the seconds."""
    rows = [json.loads(line) for line in (home.workspace / folder / "search" / JOURNAL).open()]
    for row in rows:
        for outcome in row["outcomes"]:
            outcome.pop("seconds")
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def offspring(name: str = "") -> list[psutil.Process]:
    """Living processes below this one, those whose command contains ``name``."""
    found = []
    for one in psutil.Process().children(recursive=True):
        try:
            if one.status() != psutil.STATUS_ZOMBIE and name in " ".join(one.cmdline()):
                found.append(one)
        except psutil.NoSuchProcess:
            continue
    return found


def _arguments(home: Paths) -> list[str]:
    return [str(ROOT), str(ROOT / "tests"), str(home.root), str(home.workspace)]


def nothing_left(home: Paths) -> bool:
    until = time.monotonic() + 20
    while time.monotonic() < until and (offspring("ray::") or offspring("raylet")):
        time.sleep(0.1)
    folders = list((home.workspace / "ray").glob("*")) + list(Path("/tmp").glob(_ours()))
    return not (offspring("ray::") or offspring("raylet") or folders)


def _ours() -> str:
    return f"charllm-ray-{os.getpid()}-*"


# ── without Ray ───────────────────────────────────────────────────────────────────────────────


def test_without_ray_more_workers_are_refused_in_words(
    home: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # what importing it finds where it is absent
    with pytest.raises(UserError, match=r"requirements-ray\.txt") as told:
        quote_evolve(evolve_config(workers=2), home)
    assert "workers を 1" in told.value.text.ja
    assert quote_evolve(evolve_config(), home)["candidates"] == 8
    wanted = (ROOT / "requirements-ray.txt").read_text(encoding="utf-8")
    assert "\nray>=" in wanted


# ── with Ray ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("with_ray")
@pytest.mark.parametrize("address", ["ray://head:10001", "somewhere", "host:99999999"])
def test_an_address_that_is_none_is_refused_before_anything_starts(
    home: Paths, address: str
) -> None:
    with pytest.raises(UserError, match="ray_address"):
        quote_evolve(evolve_config(ray_address=address), home)


@pytest.mark.usefixtures("with_ray")
def test_more_workers_than_fit_are_refused_with_the_memory(home: Paths) -> None:
    with pytest.raises(UserError, match=r"256 workers .* GB are free|need a GPU each"):
        quote_evolve(evolve_config(workers=256), home)


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("with_ray")
def test_two_workers_write_the_journal_of_one_though_cancelled_and_one_of_them_killed(
    home: Paths, alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", KEY)
    seen: list[Any] = []

    def look() -> None:
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, "a run has its own"
        for one in offspring():
            seen.append((one.environ(), one.cmdline(), one.net_connections("inet")))

    with pytest.raises(Stopped):
        evolve(home, "spread", Watcher(look, cancel_after=6), workers=2)
    assert nothing_left(home)
    killed: list[int] = []

    def kill() -> None:
        killed.append(offspring("ray::Worker")[0].pid)
        os.kill(killed[0], signal.SIGKILL)

    watcher = Watcher(kill)
    spread = evolve(home, "spread", watcher, workers=2)
    assert killed and any("A worker died" in line for line in watcher.lines)
    assert nothing_left(home) and os.environ["SOME_API_KEY"] == KEY
    assert journal(home, "spread") == alone[0]
    assert {**spread, "spent": 0, "out": ""} == alone[1]
    assert sum("ray::Worker" in " ".join(command) for _, command, _ in seen) == 2
    assert all(KEY not in environment.values() for environment, _, _ in seen)
    open_ports = [c.laddr.ip for _, _, found in seen for c in found if c.status == "LISTEN"]
    assert open_ports and all("127.0.0.1" in ip for ip in open_ports)
    peers = [c.raddr.ip for _, _, found in seen for c in found if c.raddr]
    assert all("127.0.0.1" in ip for ip in peers)


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("with_ray")
def test_a_cluster_that_runs_already_is_joined_and_left_running(home: Paths, alone: Alone) -> None:
    from charllm.core.merging.ray_cluster import _QUIET, _TOKEN

    with socket.socket() as free, tempfile.TemporaryDirectory(prefix="r") as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        (Path(folder) / "auth").write_text(_TOKEN, encoding="ascii")
        known = {**_QUIET, "RAY_AUTH_TOKEN_PATH": f"{folder}/auth"}
        free.close()
        start = ["-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2"]
        more = [f"--port={port}", f"--temp-dir={folder}", "--include-dashboard=false"]
        head = subprocess.Popen(
            [sys.executable, *start, *more],
            env={**os.environ, **known},
            stdout=subprocess.DEVNULL,
        )
        script = SCRIPT.replace("workers=2", f"workers=2, ray_address='127.0.0.1:{port}'")
        run = subprocess.run(
            [sys.executable, "-c", script, *_arguments(home)],
            env={**os.environ, **known},
            check=False,
        )
        running = head.poll() is None
        below = offspring()
        head.terminate()
        psutil.wait_procs(below, timeout=20)
    assert run.returncode == 0 and running
    assert journal(home, "spread") == alone[0]
    assert not (home.workspace / "ray").exists()


class Lethal(Candidate):
    """Ends every process that unpickles it."""

    def __reduce__(self) -> Any:
        return os._exit, (9,)


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("with_ray")
def test_a_candidate_that_kills_its_workers_fails_alone(home: Paths) -> None:
    from contextlib import closing

    from charllm.core.judging.judges import JudgeConfig, open_judge
    from charllm.core.judging.score import style_scorer
    from charllm.core.merging.coefficients import Coefficients
    from charllm.core.merging.evolve_questions import splits_of, stage_of
    from charllm.core.merging.evolving import plan_for
    from charllm.core.merging.ray_pool import Pool
    from charllm.core.merging.ray_trial import PoolTrial
    from charllm.data.profile import load_profile

    config = evolve_config(rows=30)
    profile, found = load_profile(home, "ayane"), plan_for(config, home)
    stage = stage_of(config, home, profile, found, Silent(), found.parents[0].base)
    queries = [one for one in splits_of(config, home).search if one in stage.questions]
    watcher = Watcher()
    with (
        closing(open_judge(home, profile, JudgeConfig())) as judge,
        closing(Pool(found, 1, stage, 1, "", home.workspace, watcher)) as pool,
    ):
        mixed = Coefficients("linear", {group: (0.5, 0.5) for group in pool.groups})
        candidates = [Candidate("a", mixed), Lethal("bad", mixed), Candidate("c", mixed)]
        trial = PoolTrial(pool, stage, judge, style_scorer(home, profile), watcher)
        first, bad, third = trial.many(candidates, queries, "search")
        assert isinstance(bad, Failure) and "2 workers died of it" in bad.reason.en
        assert not isinstance(first, Failure) and not isinstance(third, Failure)
        assert [one.parts for one in first] == [one.parts for one in third]
        assert len(watcher.lines) == 4, "two deaths of the batch, two of the candidate alone"
        assert len(set(pool.processes)) == 5
        assert pool.recipe(mixed).to_yaml()
    assert nothing_left(home)


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("with_ray")
def test_a_killed_run_takes_its_workers_along_and_resumes(home: Paths, alone: Alone) -> None:
    run = subprocess.Popen([sys.executable, "-c", SCRIPT, *_arguments(home)])
    lines = home.workspace / "spread" / "search" / JOURNAL
    until = time.monotonic() + 200
    while run.poll() is None and time.monotonic() < until:
        if lines.exists() and lines.stat().st_size:
            break
        time.sleep(0.02)
    below = [one for one in offspring() if one.pid != run.pid]
    large = [one for one in below if "Agent" not in " ".join(one.cmdline())]
    workers = sum("ray::Worker" in " ".join(one.cmdline()) for one in large)
    run.kill()
    run.wait()
    assert workers == 2 and lines.stat().st_size
    _, alive = psutil.wait_procs(large, timeout=20)
    assert not alive, "Ray's two small agents notice it within a minute; nothing else stays"
    evolve(home, "spread", workers=2)
    assert journal(home, "spread") == alone[0]
    assert nothing_left(home)
    for one in below:  # this test's own, so that the next one counts only its own
        if one.is_running():
            one.kill()
