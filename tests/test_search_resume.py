"""A search that is killed, paused, stopped or forked goes on as if nothing had been."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from search_world import World, lines, search

from charllm.core.merging.evaluating import request_pause
from charllm.core.merging.journal import JOURNAL, State
from charllm.core.merging.resuming import fork
from charllm.data.config import ROOT
from charllm.data.errors import Text, UserError
from charllm.data.progress import Paused, Silent, Stopped, StopRequest

KILLS = int(os.environ.get("CHARLLM_KILLS", "6"))
"""Random moments at which a real process is killed; more by hand."""


class Asking(Silent):
    """Answers the search's question whether to stop after so many questions."""

    def __init__(self, answer: StopRequest, after: int) -> None:
        self.answer, self.left = answer, after
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.done: list[tuple[float, float]] = []

    def stop_requested(self) -> StopRequest:
        self.left -= 1
        return self.answer if self.left < 0 else ""

    def event(self, kind: str, **data: Any) -> None:
        self.events.append((kind, data))

    def progress(self, done: float, total: float, message: Text) -> None:
        self.done.append((done, total))


def test_killed_at_random_moments_it_comes_out_the_same(tmp_path: Path) -> None:
    command = [sys.executable, "tests/search_world.py", str(tmp_path), str(KILLS), "7"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == KILLS
    assert [row for row in rows if not row["same"]] == []
    at_work = [row for row in rows if row["killed"] and 0 < row["stood"] < row["of"]]
    assert len(at_work) >= KILLS / 2, "the kills must hit searches at work"


@pytest.mark.parametrize("part", [0.1, 0.35, 0.6, 0.8, 0.97])
def test_a_journal_cut_anywhere_comes_out_the_same(tmp_path: Path, part: float) -> None:
    """A torn last line, too; without the state file where a kill came before it."""
    world = World(noise=0.1)
    whole = search(world, tmp_path / "whole")
    data = (tmp_path / "whole" / JOURNAL).read_bytes()
    here = tmp_path / "cut"
    here.mkdir()
    (here / JOURNAL).write_bytes(data[: int(part * len(data))])
    again = search(world, here)
    assert lines(here) == lines(tmp_path / "whole")
    assert again.as_json() == whole.as_json()


def test_a_finished_search_is_only_read_again(tmp_path: Path) -> None:
    world = World()
    first = search(world, tmp_path)

    def never(*_: object) -> Any:
        raise AssertionError("everything is known")

    again = search(world, tmp_path, evaluate=never)
    assert again.as_json() == first.as_json()
    assert again.opened == 1


def test_a_line_that_is_none_is_named(tmp_path: Path) -> None:
    search(World(), tmp_path)
    with (tmp_path / JOURNAL).open("a") as file:
        file.write('{"id": "x"}\n')
    with pytest.raises(UserError, match=r"candidates\.jsonl, line \d+"):
        search(World(), tmp_path)


def test_cancelled_and_run_again(tmp_path: Path) -> None:
    whole = search(World(), tmp_path / "whole")
    here = tmp_path / "here"
    with pytest.raises(Stopped):
        search(World(), here, reporter=Asking("cancel", 20))
    stood = len(lines(here))
    assert 0 < stood < len(lines(tmp_path / "whole"))
    assert search(World(), here).as_json() == whole.as_json()


def test_paused_by_request_and_run_again(tmp_path: Path) -> None:
    whole = search(World(), tmp_path / "whole")
    here, world = tmp_path / "here", World()
    calls = 0

    def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 17:
            request_pause(here)
        return world(*arguments)

    with pytest.raises(Paused) as paused:
        search(world, here, evaluate=counted)
    assert calls == 17 and "再開" in paused.value.text.ja
    assert search(world, here).as_json() == whole.as_json()


def test_stopped_early_it_still_chooses_and_reports(tmp_path: Path) -> None:
    """And going on after that changes nothing: the decision to stop is kept."""
    asked = Asking("save", 40)
    result = search(World(), tmp_path, reporter=asked)
    assert result.stop.code == "asked"
    assert 0 < len(result.generations) < 4
    assert result.gain_uniform is not None and result.gain_uniform.low is not None
    assert search(World(), tmp_path).as_json() == result.as_json()


def test_progress_counts_replies_and_never_goes_back(tmp_path: Path) -> None:
    told = Asking("", 10**9)
    result = search(World(), tmp_path, reporter=told)
    done = [done for done, _ in told.done]
    assert done == sorted(done)
    last, whole = told.done[-1]
    assert last == whole == result.spent.queries <= result.plan.replies
    kinds = [kind for kind, _ in told.events]
    assert kinds.count("generation") == 4 and kinds[-1] == "reported"
    json.dumps(told.events)


def test_another_search_in_the_folder_is_refused(tmp_path: Path) -> None:
    search(World(), tmp_path)
    with pytest.raises(UserError, match=r"config\.sigma"):
        search(World(), tmp_path, sigma=0.5)
    with pytest.raises(UserError, match="seed"):
        search(World(), tmp_path, seed=1)
    with pytest.raises(UserError, match="splits"):
        search(World(sizes=(41, 30, 40)), tmp_path)
    with pytest.raises(UserError, match=r"space\.groups"):
        search(World(groups=5), tmp_path, population=8)


def test_fork_shares_the_beginning_and_goes_its_own_way(tmp_path: Path) -> None:
    world = World(noise=0.1)
    whole = search(world, tmp_path / "whole")
    fork(tmp_path / "whole", tmp_path / "fork", generation=2, seed=9)
    forked = search(world, tmp_path / "fork", seed=9, max_candidates=48)
    assert [g.mean for g in forked.generations[:2]] == [g.mean for g in whole.generations[:2]]
    assert forked.generations[2].mean != whole.generations[2].mean
    assert len(forked.generations) == 6
    assert (whole.opened, forked.opened) == (1, 2)
    assert State.load(tmp_path / "fork").opened == [whole.chosen.id, forked.chosen.id]  # type: ignore[union-attr]


def test_a_fork_with_the_same_seed_is_another_stretch_of_it(tmp_path: Path) -> None:
    """A fork is a function of its source, generation and seed: made twice, it is the same."""
    world = World(noise=0.1)
    search(world, tmp_path / "whole")
    results = []
    for name in ("a", "b"):
        fork(tmp_path / "whole", tmp_path / name, generation=1, seed=3)
        results.append(search(world, tmp_path / name, seed=3).as_json())
    assert results[0] == results[1]


def test_forks_that_cannot_be_are_refused(tmp_path: Path) -> None:
    search(World(), tmp_path / "whole")
    with pytest.raises(UserError, match="0 to 4"):
        fork(tmp_path / "whole", tmp_path / "x", generation=9, seed=1)
    with pytest.raises(UserError, match="already"):
        fork(tmp_path / "whole", tmp_path / "whole", generation=1, seed=1)
    with pytest.raises(UserError, match="no search"):
        fork(tmp_path / "none", tmp_path / "y", generation=1, seed=1)
