"""What the Merge tab knows before and while an evolution runs: parents, starts, looks, the view."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from merge_home import evolve_config, small_home

from charllm.core.judging.judges import JudgeConfig
from charllm.core.merging.evolve_config import EvolveConfig
from charllm.core.merging.evolving import run_evolve
from charllm.data.config import ROOT, Paths
from charllm.data.errors import UserError
from charllm.data.files import write_text
from charllm.services import merge_forms as forms
from charllm.services.merge_view import MergeView, config_of, pause, recipe_of, report_of
from charllm.services.reporter import RunReporter
from charllm.services.runs import Run, create_run


@pytest.fixture
def home(paths: Paths) -> Paths:
    return small_home(paths)


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A home that no test changes, so that its judge is made once."""
    folder = tmp_path_factory.mktemp("still")
    for name in ("profiles", "datasets", "rubrics"):
        shutil.copytree(ROOT / name, folder / "root" / name)
    return small_home(Paths(folder / "root", folder / "workspace"))


@pytest.fixture(scope="module")
def done(still: Paths) -> tuple[Paths, Run]:
    """A real evolution of the small model, run to its end."""
    config = evolve_config()
    run = create_run(still, "evolve", config.name, config)
    with RunReporter(run) as reporter:
        run_evolve(config, reporter, run.folder, still)
    return still, run


# --- parents and starts -------------------------------------------------------------------------


def test_everything_that_may_be_a_parent_is_offered_as_a_recipe_writes_it(home: Paths) -> None:
    write_text(home.checkpoints / "torn" / "card.json", '{"label": "torn", "base": "tiny"}')
    found = {one.name: one for one in forms.parent_choices(home)}
    assert found["one"].written == "workspace/models/tiny+checkpoints/one"
    assert (found["one"].base, found["one"].profile, found["one"].kind) == (
        "tiny",
        "ayane",
        "adapter",
    )
    assert found["ayane-merged"].written == "checkpoints/ayane-merged"
    assert found["tiny"].kind == "model" and found["tiny"].profile == ""
    assert "torn" not in found


def test_a_character_starts_from_the_demo_or_from_its_adapters_on_one_base(home: Paths) -> None:
    assert forms.starts(home, "ayane") == [forms.DEMO, forms.OWN]
    demo = forms.start_values(home, forms.DEMO, "ayane")
    config = EvolveConfig.from_data(demo, "demo")
    assert (config.method, config.search.parametrisation) == ("task_arithmetic", "free")
    assert forms.starts(home, "magnus") == [forms.OWN]
    own = forms.own_values(home, "magnus")
    assert own["profile"] == "magnus" and own["name"] == "magnus-evolved-1"
    assert own["parents"] == ["workspace/models/gemma-3-270m+checkpoints/magnus"]
    config = EvolveConfig.from_data({**own, "parents": ["one", "two"]}, "own")
    assert (config.method, config.base) == ("task_arithmetic", "workspace/models/gemma-3-270m")
    assert (config.search.parametrisation, config.group_size) == ("free", 1)
    assert "method" not in forms.own_values(home, "nobody")
    with pytest.raises(UserError, match="No evolution yet"):
        forms.start_values(home, forms.LAST, "ayane")


def test_the_last_evolution_starts_again_under_a_free_name(home: Paths) -> None:
    create_run(home, "evolve", "bred", evolve_config())
    assert forms.starts(home, "magnus") == [forms.OWN, forms.LAST]
    assert forms.start_values(home, forms.LAST, "ayane")["name"] == "bred"
    (home.checkpoints / "bred").mkdir()
    assert forms.start_values(home, forms.LAST, "ayane")["name"] == "bred-1"


def test_yaml_goes_there_and_back_and_the_judge_is_told_apart() -> None:
    judge = JudgeConfig(kind="endpoint", model="judge-1", base_url="http://127.0.0.1:9/v1")
    config = evolve_config(judge=judge.model_dump())
    values, named = forms.values_of_yaml(forms.yaml_of(config), "here")
    assert named == judge and "judge" not in values
    assert EvolveConfig.from_data({**values, "judge": judge.model_dump()}, "again") == config
    assert forms.file_command(config) == "python -m charllm evolve recipes/bred.yaml"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [", "here, line 1: not valid YAML"),
        ("- a\n- b\n", "holds no settings"),
        ("name: x\nprofile: ayane\nparents: [a]\n", "parents"),
    ],
)
def test_yaml_that_is_no_evolution_says_why(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        forms.values_of_yaml(text, "here")


# --- a look before the start --------------------------------------------------------------------


def test_a_look_tells_fit_memory_replies_and_the_judge(still: Paths) -> None:
    found = forms.look(evolve_config(name="fresh"), still)
    assert found.problem is None and found.quote is not None
    assert found.quote["plan"]["engine"] == "adapter" and found.quote["candidates"] == 8
    assert 0 < found.judged < found.quote["replies"], "held-out lines are not judged"
    assert (found.calls, found.money) == (0, 0.0), "the embedded judge costs nothing"
    without = forms.look(evolve_config(lines="", search={"max_candidates": 8}), still)
    assert without.quote is not None and without.judged == without.quote["replies"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"insist": False}, "has not passed its check"),
        ({"parents": ["workspace/models/tiny+checkpoints/one", "checkpoints/gone"]}, "gone"),
        ({"queries": "nothing"}, "nothing.jsonl"),
        ({"search": {"objective": "beauty=1", "max_candidates": 8}}, "beauty"),
        ({"search": {"max_candidates": 2}}, "one generation"),
        ({"name": "one"}, "already"),
    ],
)
def test_what_cannot_start_is_told_before_anything_loads(
    still: Paths, changes: dict[str, Any], words: str
) -> None:
    found = forms.look(evolve_config(**changes), still)
    assert found.problem is not None and words in found.problem.text.en
    assert found.problem.text.ja


def test_a_model_that_judges_is_quoted_in_calls_and_money(
    still: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-never-written-anywhere")
    judge = {"kind": "endpoint", "model": "gpt-4o-mini", "samples": 3, "temperature": 0.5}
    once = forms.look(evolve_config(judge={"kind": "endpoint", "model": "gpt-4o-mini"}), still)
    found = forms.look(evolve_config(judge=judge), still)
    assert found.problem is None and found.calls == 3 * found.judged
    assert once.money and found.money == pytest.approx(3 * once.money, rel=0.01)
    unknown = forms.look(evolve_config(judge={**judge, "model": "somebody-else"}), still)
    assert unknown.calls == found.calls and unknown.money is None
    monkeypatch.delenv("OPENAI_API_KEY")
    keyless = forms.look(evolve_config(judge=judge), still)
    assert keyless.problem is not None and "key" in keyless.problem.text.en.lower()


# --- the view -----------------------------------------------------------------------------------


def test_the_view_tells_each_generation_once_also_after_a_resume(done: tuple[Paths, Run]) -> None:
    paths, run = done
    view = MergeView(paths)
    seen = view.of(run)
    assert [one["number"] for one in seen.generations] == [1, 2]
    assert seen.parents == list(config_of(run).parents) and seen.reported
    assert set(seen.baselines) >= {"uniform", "parent-1", "parent-2"}
    points = seen.points()
    best = max(seen.baselines["parent-1"] or 0, seen.baselines["parent-2"] or 0)
    assert all(point["parent"] == pytest.approx(best) for point in points if best)
    assert all(point["low"] <= point["mean"] <= point["high"] for point in points)
    with RunReporter(run) as reporter:  # a resumed run tells them anew
        reporter.event("generation", **seen.generations[0])
    assert [one["number"] for one in view.of(run).generations] == [1, 2]


def test_the_sheet_shows_every_candidate_with_its_parts_and_replies(
    done: tuple[Paths, Run],
) -> None:
    paths, run = done
    sheet = MergeView(paths).sheet(run)
    assert sheet is not None
    rows = sheet.rows()
    assert [row.gain for row in rows] == sorted((row.gain for row in rows), reverse=True)
    ids = {row.candidate.id for row in rows}
    assert {"uniform", "parent-1", "parent-2"} <= ids
    assert sum(row.candidate.role == "candidate" for row in rows) == 8
    uniform = next(row for row in rows if row.candidate.id == "uniform")
    assert uniform.gain == 0 and {"loss", "score"} <= uniform.parts.keys()
    answers = sheet.answers("parent-1")
    assert len(answers) == sheet_size(sheet, "parent-1")
    assert any(one.question and one.reply for one in answers)
    assert all(a.gain <= b.gain for a, b in pairwise(answers))
    assert sheet.answers("nobody") == [] and sheet.candidate("nobody") is None


def sheet_size(sheet: Any, name: str) -> int:
    return next(row.n for row in sheet.rows() if row.candidate.id == name)


def test_a_sheet_is_kept_until_the_journal_grows(done: tuple[Paths, Run]) -> None:
    paths, run = done
    view = MergeView(paths)
    first = view.sheet(run)
    assert view.sheet(run) is first
    journal = run.folder / "search" / "candidates.jsonl"
    line = journal.read_text(encoding="utf-8").splitlines()[0]
    with journal.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    again = view.sheet(run)
    assert again is not first and again is not None and first is not None
    assert len(again.rows()) == len(first.rows()), "a line that stands twice counts once"


def test_report_and_recipe_are_there_in_the_end_and_not_before(
    done: tuple[Paths, Run], home: Paths
) -> None:
    _, run = done
    report = report_of(run)
    assert report is not None and report["over_uniform"] in ("yes", "no", "cannot tell")
    assert "merge_method: linear" in recipe_of(run)
    waiting = create_run(home, "evolve", "bred", evolve_config())
    assert report_of(waiting) is None and recipe_of(waiting) == ""
    assert MergeView(home).sheet(waiting) is None
    with pytest.raises(UserError, match="Only a running search"):
        pause(waiting)
    assert not (Path(waiting.folder) / "search").exists()
