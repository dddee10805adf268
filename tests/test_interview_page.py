"""Interviews judged afterwards and shown: the verb, the form, the figures, the transcript."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from typing import Any

import gradio as gr
import pytest
from evaluation_home import EVIL, VARIANTS, config_with, ended
from judge_server import Reply, serving

from charllm.core.evaluation.five import CRITERIA
from charllm.core.evaluation.five_questions import FOLLOW_UP, load_stock, make_questions
from charllm.core.evaluation.interview_config import InterviewConfig
from charllm.core.evaluation.interview_exchanges import open_interviews
from charllm.core.evaluation.interview_quote import quote_judging
from charllm.core.evaluation.interview_turns import TURNS, Turn
from charllm.core.evaluation.interviewing import judge_interviews
from charllm.core.evaluation.kept_lines import append_lines
from charllm.core.evaluation.scoring_replies import JUDGES, RECORDS
from charllm.core.filtering import Budget
from charllm.core.judging.judges import JudgeConfig
from charllm.data.config import ROOT, Paths
from charllm.data.errors import UserError
from charllm.data.files import write_json_lines
from charllm.data.profile import load_profile
from charllm.data.progress import Paused, Silent
from charllm.services import interview_forms as forms
from charllm.services.cli import main
from charllm.services.interview_again import (
    InterviewJudgeConfig,
    judgings,
    run_judging,
    start_judging,
)
from charllm.services.interview_view import InterviewView, is_current
from charllm.services.judge_choice import save_choice
from charllm.services.runs import Run, create_run
from charllm.ui import evaluate_interviews_form
from charllm.ui.evaluate_interviews_fill import Fields
from charllm.ui.evaluate_interviews_html import detail_html, look_html, status_html, table_html
from charllm.ui.evaluate_interviews_result import drift_plots, result_html
from charllm.ui.evaluate_interviews_talk import talk_html
from charllm.ui.page import Page

TALKS, TURNS_EACH = 4, 3
NOBODY: Any = None
"""No browser: pages are written in English."""


@pytest.fixture
def home(paths: Paths) -> Paths:
    """Few questions, and few lines to learn the style from."""
    lines = paths.datasets / "ayane.jsonl"
    first = lines.read_text(encoding="utf-8").splitlines(keepends=True)[:45]
    lines.write_text("".join(first), encoding="utf-8")
    made = make_questions(load_profile(paths, "ayane"), load_stock(paths))
    few = [
        *[query for query in made if "values" in query.tags][:4],
        *[query for query in made if "trap" in query.tags][:2],
        *[query for query in made if FOLLOW_UP in query.tags][:2],
    ]
    rows = [one.model_dump(mode="json") for one in few]
    write_json_lines(paths.queries / "ayane-five.jsonl", rows)
    return paths


def config(**changes: Any) -> InterviewConfig:
    variants = [{"name": name, "label_en": name, "label_ja": name} for name in VARIANTS]
    fields = {"name": "talks", "profile": "ayane", "variants": variants, "single": False}
    sizes = {"talks": TALKS, "turns": TURNS_EACH}
    return InterviewConfig.from_data({**fields, **sizes, **changes}, "the test")


def held(paths: Paths) -> Run:
    """A run whose turns are kept as a process that was killed leaves them: without a report."""
    run = create_run(paths, "interview", "talks", config())
    plan = open_interviews(config(), paths, run.folder, Silent())
    rows = [
        Turn(
            variant=variant,
            talk=talk.number,
            turn=turn,
            question=query.text,
            asked_by="list",
            query=query.id,
            text=f"わたくしは{talk.number}番目の{turn}つ目のお話をいたしますわ。"
            if variant == "plain"
            else f"ええ、{EVIL}と申しますの。{turn}",
            stop_reason="end",
            prompt=f"質問: {EVIL}",
            facts=({"fact": EVIL, "similarity": 0.8, "used": True},),
            weights="made",
            tokens=9,
        ).as_json()
        for talk in plan.talks
        for turn, query in enumerate(talk.questions, 1)
        for variant in VARIANTS
    ]
    append_lines(run.folder / TURNS, rows)
    return ended(run, "crashed")


def falling(asked: Any) -> Reply:
    """A judge that likes an answer less, the more was said before it."""
    score = 7 - asked.text.count("つ目のお話")
    said = {"flaws": [], "reasons": f"{EVIL} 設定どおり。", "score": max(1, score)}
    return Reply(content=json.dumps(said, ensure_ascii=False), wait=0.03)


def judge_at(url: str, **more: Any) -> JudgeConfig:
    return JudgeConfig(kind="endpoint", model="judge-1", base_url=url, **more)


def records(run: Run) -> list[tuple[str, str]]:
    """``(rubric, turn)`` of every verdict that is kept."""
    files = sorted((run.folder / JUDGES).glob(f"*/{RECORDS}"))
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [(one["rubric"], one["item"]) for one in lines]


# --- judged from the command line ---------------------------------------------------------------


def test_a_judge_that_is_killed_and_runs_out_of_budget_is_paid_once(
    home: Paths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CHARLLM_ROOT", str(home.root))
    monkeypatch.setenv("CHARLLM_HOME", str(home.workspace))
    run, keys = held(home), ("values", "stability")
    with serving(falling) as judge:
        chosen = judge_at(judge.url, in_flight=2)
        wanted = sum(one["calls"] for one in quote_judging(run.folder, chosen, keys, home))
        assert judge.requests == 0 < wanted
        asked = InterviewJudgeConfig(
            name="x", interview=run.id, judge=chosen, criteria=keys, insist=True
        )
        child = os.fork()
        if child == 0:
            run_judging(asked, Silent(), run.folder, home)
            os._exit(0)
        deadline = time.monotonic() + 60
        while judge.requests < 4 and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), "it was in the middle of its work"
        before = records(run)
        little = asked.model_copy(update={"budget": Budget(calls=6)})
        with pytest.raises(Paused, match="budget"):
            run_judging(little, Silent(), run.folder, home)
        assert set(before) < set(records(run)) and judge.requests < wanted
        words = ["--model", "judge-1", "--base-url", judge.url, "--criteria", ",".join(keys)]
        assert main(["judge-interviews", run.id, *words, "--insist"]) == 0
        told = capsys.readouterr()
        assert judge.requests <= wanted + 2, "only what was in flight at the kill is paid again"
        assert len(records(run)) == len(set(records(run)))
        assert main(["judge-interviews", run.id, *words, "--quote", "--json"]) == 0
        assert all(one["calls"] == 0 for one in json.loads(capsys.readouterr().out))
    assert "## By turn" in told.out and "was never checked" in told.out
    assert "| Stability | judge-1" in told.out and "| plain | 3 | 4.00" in told.out
    assert "Stability: " in told.err, "progress names the criterion"
    (again,) = judgings(home, run)
    assert again.status().state == "done" and is_current(run.folder)


def test_what_the_verb_refuses_says_what_to_do(
    home: Paths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CHARLLM_ROOT", str(home.root))
    monkeypatch.setenv("CHARLLM_HOME", str(home.workspace))
    run, other = held(home), create_run(home, "evaluate", "made", config_with())
    remote = ["--model", "m", "--base-url", "http://127.0.0.1:9/v1"]
    for arguments, words in (
        ([other.id, *remote], "holds no interviews"),
        ([run.id], "embedded judge reads no rubric"),
        ([run.id, *remote, "--rubric", "study"], "--criteria"),
        ([run.id, *remote, "--criteria", "values,beauty"], "no criterion 'beauty'"),
        ([run.id, *remote, "--money", "-1"], "money"),
        ([run.id, *remote], "never checked"),
        (["nothing", *remote], "no run"),
    ):
        assert main(["judge-interviews", *arguments]) == 2
        assert words in capsys.readouterr().err, arguments
    assert judgings(home, run) == [], "nothing was queued"

    judge = judge_at("http://127.0.0.1:9/v1")
    start_judging(home, run, judge, ["values"], insist=True)
    with pytest.raises(UserError, match="at work"):
        start_judging(home, run, judge, ["tempo"], insist=True)
    ended(run, "queued")
    with pytest.raises(UserError, match="still being interviewed"):
        start_judging(home, run, judge, insist=True)
    fresh = ended(create_run(home, "interview", "fresh", config()))
    with pytest.raises(UserError, match="not begun"):
        start_judging(home, fresh, judge, insist=True)


# --- what the page shows ------------------------------------------------------------------------


def test_figures_drift_and_a_talk_are_shown(home: Paths) -> None:
    run, view = held(home), InterviewView(home)
    assert view.figures(run) is None, "a killed run has no report"
    part = view.figures(run, now=True)
    assert part is not None and not part.stored and not is_current(run.folder)
    with serving(falling) as judge:
        chosen = judge_at(judge.url)
        judge_interviews(run.folder, chosen, ["stability"], Silent(), home, insist=True)
    told = view.figures(run)
    assert told is not None and told.stored and is_current(run.folder)
    talks = view.talks(run)
    assert talks is not None and talks.numbers == [1, 2, 3, 4]

    variants = talks.plan.planned.variants
    html = result_html(run.id, told.report, variants, True, NOBODY)
    assert f'data-interviewed="{run.id}"' in html and "judge-1" in html and "data-slopes" in html
    plots = drift_plots("x", run.id, told.report, variants, NOBODY)
    assert {one["kind"] for one in plots["figures"]} == {"turns"}
    steady = next(one for one in plots["figures"] if one["title"].startswith("Stability"))
    plain = next(one for one in steady["series"] if one["label"] == "plain")
    assert [(at["turn"], at["value"], at["n"]) for at in plain["points"]] == [
        (2, 5.0, TALKS),
        (3, 4.0, TALKS),
    ]
    assert all(at["low"] is not None for at in plain["points"]) and steady["scale"] == [1.0, 7.0]
    assert ["plain", 2, 5.0] in [row[:3] for row in steady["table"]["rows"]]
    assert "n = 4" in steady["title"]

    shown = talk_html(talks, 2, VARIANTS, NOBODY)
    assert shown.count('class="paircard"') == TURNS_EACH and EVIL not in shown
    assert "わたくしは2番目の3つ目のお話" in shown and "わたくしは1番目" not in shown
    assert 'Stability <b>5.0</b><span class="of">/ 7' in shown and "&lt;img" in shown
    first, second = (talks.turns["plain", 2][n].question for n in (0, 1))
    assert shown.index(first) < shown.index(second)
    assert talk_html(talks, 2, ["plain"], NOBODY).count("<section>") == TURNS_EACH
    assert "talks" in table_html(home, run.id, NOBODY)
    assert 'data-state="crashed"' in detail_html(home, run, NOBODY)


def test_the_page_before_the_first_interview(paths: Paths) -> None:
    assert "Nobody has been interviewed yet" in table_html(paths, None, NOBODY)
    values = forms.start_values(paths, "ayane")
    begun = InterviewConfig.from_data(values, "the form")
    look = forms.look(begun, paths)
    assert look.lacks and look.quote is None and look.problem is not None
    assert "question set" in status_html(look, None, NOBODY)
    assert forms.make_set(paths, "ayane") > 80
    look = forms.look(begun, paths)
    assert not look.lacks and look.problem is None and look.money == 0.0
    assert "Ready" in status_html(look, None, NOBODY)
    assert "data-look" in look_html(begun, look, NOBODY)
    with pytest.raises(UserError, match="--replace"):
        forms.make_set(paths, "ayane")


def test_what_keeps_interviews_from_starting(home: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    url = "http://127.0.0.1:9/v1"
    asks = {"kind": "endpoint", "model": "m", "base_url": url}
    for changes, words in (
        ({"interviewer": {"kind": "endpoint", "model": "m"}}, "API key"),
        ({"interviewer": {"kind": "local", "model": "Qwen3-4B"}}, "not on this machine"),
        ({"judge": asks, "criteria": ["values", "tempo"]}, "Values, Tempo"),
        ({"queries": "nothing"}, "no query set"),
    ):
        problem = forms.look(config(**changes), home).problem
        assert problem is not None and words in problem.text.en, changes
        assert problem.text.en != problem.text.ja
    priced = {**asks, "price_in": 1.0, "price_out": 2.0}
    look = forms.look(config(judge=priced, interviewer=priced, insist=True), home)
    assert look.problem is None and look.quote is not None
    assert look.quote["interviewer"]["calls"] == len(VARIANTS) * TALKS * (TURNS_EACH - 1)
    calls = {one["criterion"]: one["calls"] for one in look.quote["judges"]}
    assert calls["tempo"] == len(VARIANTS) * TALKS * TURNS_EACH
    assert look.money is not None and look.money > look.quote["interviewer"]["money"] > 0


# --- the form -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def form(tmp_path_factory: pytest.TempPathFactory) -> Fields:
    folder = tmp_path_factory.mktemp("form")
    for name in ("profiles", "datasets", "checkpoints"):
        shutil.copytree(ROOT / name, folder / "root" / name)
    paths = Paths(folder / "root", folder / "workspace")
    with gr.Blocks() as demo:
        profile, tab = gr.Dropdown([]), gr.Tab("x")
        page = Page(paths, NOBODY, demo, profile, tab)
        return evaluate_interviews_form.build(page).fields


def changed(form: Fields, values: list[Any], **changes: Any) -> list[Any]:
    """The form's values with some of its own or the configuration's fields changed."""
    names = [
        *("variants", "kind", "model", "base_url", "preset", "tokens"),
        *("judge", "criteria", "money", "start", *form.main.fields),
    ]
    return [changes.get(name, value) for name, value in zip(names, values, strict=True)]


def test_the_form_makes_a_configuration_and_says_what_is_wrong(form: Fields) -> None:
    values = form.first("ayane")
    assert not form.filled([*values[:9], "", *values[10:]]) and form.filled(values)
    made = form.read(values, NOBODY)
    assert made.config is not None and made.config.profile == "ayane"
    assert made.config.talks == 10 and made.config.judge is None
    assert form.recalled(json.dumps(values)) == values
    assert form.recalled("[1]") is None and form.recalled("") is None

    judge = forms.written_judge(JudgeConfig(kind="endpoint", model="judge-1"))
    asks = changed(form, values, kind="endpoint", model=" ask-1 ", base_url="", judge=judge)
    asked = form.read(changed(form, asks, money=2.5, criteria=["tempo", "values"]), NOBODY).config
    assert asked is not None and asked.interviewer.model == "ask-1"
    assert asked.judge is not None and asked.budget.money == 2.5
    assert asked.criteria == ("values", "tempo"), "in their own order"
    assert InterviewConfig.from_data(asked.model_dump(mode="json"), "again") == asked
    listed = form.listed(asks, NOBODY)
    assert len(listed) == len(form.inputs) and listed[2].visible and listed[3].visible
    for changes, words in (
        ({"kind": "local", "model": ""}, "Name the model"),
        ({"kind": "endpoint", "model": "m", "base_url": "http://a:b@c/v1"}, "password"),
        ({"variants": []}, "at least one variant"),
        ({"criteria": []}, "at least one criterion"),
        ({"single": False, "talks": 0}, "Nothing would be asked"),
        ({"turns": 1}, "Mend the form"),
    ):
        read = form.read(changed(form, values, **changes), NOBODY)
        assert read.config is None and read.error is not None and words in read.error.en
        assert read.error.en != read.error.ja


def test_the_chosen_judge_and_a_kind_of_interviewer_are_offered(paths: Paths) -> None:
    assert [one.written for one in forms.judge_choices(paths)] == [""]
    save_choice(paths, judge_at("http://127.0.0.1:9/v1"))
    nobody, picked = forms.judge_choices(paths)
    assert nobody.written == "" and "judge-1 @ 127.0.0.1:9" in picked.label.en
    assert forms.model_choices(paths, "endpoint") == ["judge-1"]
    assert forms.model_choices(paths, "local") == [], "the base knows no chat"
    assert set(config().criteria) == set(CRITERIA)
