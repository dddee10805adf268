"""What the Evaluate tab knows before, while and after an evaluation: forms, rows, files, pairs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from evaluation_home import (
    VARIANTS,
    asked_run,
    config_with,
    ended,
    few_queries,
    judged_by,
    longer_is_better,
    reported,
)
from judge_server import Reply, serving

from charllm.core.evaluation.comparison import by_query
from charllm.core.evaluation.evaluate_config import EvaluateConfig
from charllm.core.evaluation.matches import Match
from charllm.core.evaluation.reply_records import REPLIES, read_replies
from charllm.core.evaluation.report import REPORT, TABLES
from charllm.core.evaluation.scoring_replies import read_judged, scored_rows
from charllm.core.evaluation.verdict_files import write_matches
from charllm.core.judging.judges import JudgeConfig
from charllm.data.config import ROOT, Paths
from charllm.data.errors import UserError
from charllm.data.files import read_json
from charllm.services import evaluate_forms as forms
from charllm.services.evaluate_again import (
    going_on,
    quote_rejudge,
    rejudges,
    run_rejudge,
    start_rejudge,
)
from charllm.services.evaluate_files import hand_out
from charllm.services.evaluate_hand import give, given
from charllm.services.evaluate_matrix import matrix_of
from charllm.services.evaluate_pairs import matches_of, sources_of, standing, vote_matches
from charllm.services.evaluate_rows import Rows, RowsView
from charllm.services.evaluate_view import EvaluateView, is_current
from charllm.services.judge_choice import save_choice
from charllm.services.reporter import RunReporter
from charllm.services.runs import Run, create_run
from charllm.services.store import Conversation, Store, Vote
from charllm.services.store import Reply as Answer

QUERIES = 8


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> tuple[Paths, Run]:
    """An evaluation that no test changes: the taught variant says more, and is judged better."""
    folder = tmp_path_factory.mktemp("still")
    for name in ("profiles", "datasets", "rubrics", "checkpoints"):
        shutil.copytree(ROOT / name, folder / "root" / name)
    paths = Paths(folder / "root", folder / "workspace")
    return paths, made(paths)


def made(paths: Paths) -> Run:
    """Eight questions, two variants, two rubrics; the last reply of ``plain`` is empty."""
    few_queries(paths, QUERIES)

    def said(variant: str, place: int) -> str:
        if variant == "plain":
            return "" if place == QUERIES - 1 else "はい。" * (1 + place % 3)
        return "はい、さようでございますわ。" * (1 + place % 2)

    run = asked_run(paths, config_with(judges=[]), said)
    judged_by(paths, run, "length", longer_is_better)
    judged_by(paths, run, "calm", lambda item: 4.0 if "わ" in item.reply else 3.0)
    return ended(reported(run))


# --- starts, YAML, a look -----------------------------------------------------------------------


def test_one_click_gives_the_matrix_of_a_character(paths: Paths) -> None:
    values = forms.start_values(paths, forms.MATRIX, "ayane")
    assert values["variants"][:2] == ["base", "rag"] and len(values["variants"]) == 4
    assert values["variants"][3] == f"{values['variants'][2]}-rag"
    assert forms.starts(paths) == [forms.MATRIX]
    with pytest.raises(UserError, match="No evaluation yet"):
        forms.start_values(paths, forms.LAST, "ayane")


def test_the_last_evaluation_starts_again_under_a_free_name(paths: Paths) -> None:
    create_run(paths, "evaluate", "mine", config_with(name="mine"))
    assert forms.starts(paths) == [forms.MATRIX, forms.LAST]
    values = forms.start_values(paths, forms.LAST, "ayane")
    assert values["name"] == "mine-2" and values["queries"] == "few"


def test_yaml_goes_there_and_back_with_whole_variants_and_judges() -> None:
    judges = [{"kind": "endpoint", "model": "judge-1", "base_url": "http://127.0.0.1:9/v1"}]
    config = config_with(judges=judges, splits=["search", "report"])
    values = forms.values_of_yaml(forms.yaml_of(config), "here")
    assert EvaluateConfig.from_data(values, "again") == config
    assert forms.file_command(config) == "python -m charllm evaluate recipes/made.yaml"
    written = [forms.written_variant(one) for one in config.variants]
    assert forms.read_variants([*written, "rag"])[2] == "rag"
    assert (
        EvaluateConfig.from_data({**values, "variants": forms.read_variants(written)}, "") == config
    )
    assert forms.read_judges([forms.written_judge(one) for one in config.judges]) == [
        *config.judges
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [", "here, line 1: not valid YAML"),
        ("- a\n- b\n", "holds no settings"),
        ("name: x\nprofile: ayane\n", "variants"),
    ],
)
def test_yaml_that_is_no_evaluation_says_why(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        forms.values_of_yaml(text, "here")


def test_the_chosen_judge_is_offered_by_every_rubric(paths: Paths) -> None:
    assert [one.written for one in forms.judge_choices(paths)] == ["{}"]
    save_choice(paths, JudgeConfig(kind="endpoint", model="m", base_url="http://127.0.0.1:9/v1"))
    found = forms.read_judges([one.written for one in forms.judge_choices(paths)])
    assert found[0] == JudgeConfig() and found[1].rubric == "study"
    assert {one.rubric for one in found[1:]} >= {"study", "personality", "naturalness"}
    with pytest.raises(UserError, match="no judge"):
        forms.read_judges(["nonsense"])


def test_a_look_tells_replies_and_pace_and_what_is_wrong(still: tuple[Paths, Run]) -> None:
    paths, _ = still
    found = forms.look(config_with(judges=[]), paths)
    assert found.problem is None and found.quote is not None and found.quote["replies"] == 16
    gone = forms.look(config_with(queries="gone"), paths)
    assert gone.problem is not None and "gone.jsonl" in gone.problem.text.ja


def test_a_judge_without_its_check_or_key_keeps_it_from_starting(paths: Paths) -> None:
    few_queries(paths, 4)
    judge = {"kind": "endpoint", "model": "judge-1", "base_url": "http://127.0.0.1:9/v1"}
    found = forms.look(config_with(judges=[judge], insist=False), paths)
    assert found.problem is not None and "has not passed its check" in found.problem.text.en
    assert forms.look(config_with(judges=[judge]), paths).problem is None
    found = forms.look(config_with(judges=[{"kind": "endpoint", "model": "gpt-4o-mini"}]), paths)
    assert found.problem is not None and "key" in found.problem.text.en.lower()


# --- rows ---------------------------------------------------------------------------------------


def test_questions_come_by_their_difference_and_agree_with_the_tables(
    still: tuple[Paths, Run],
) -> None:
    run = still[1]
    rows = RowsView().of(run.folder)
    length, calm = (one.key for one in read_judged(run.folder))
    pairs = rows.pairs(length, "taught", "plain")
    judged = read_judged(run.folder)[0]
    expected = by_query(scored_rows(read_replies(run.folder), judged), "taught", "plain")
    assert [round(p.difference, 6) for p in pairs if p.difference is not None] == [
        round(one.difference, 6) for one in expected
    ]
    assert pairs[-1].b is None and pairs[-1].difference is None, "unscored stands last"
    best = rows.pairs(length, "taught", "plain", "a")[0]
    worst = rows.pairs(length, "taught", "plain", "b")[0]
    assert (best.difference or 0) > (worst.difference or 0)
    assert {one.difference for one in rows.pairs(calm, "taught", "plain")} == {1.0}


def test_a_reply_is_read_from_its_own_bytes_and_new_lines_are_found(paths: Paths) -> None:
    run = made(paths)
    rows = Rows(run.folder)
    rows.refresh()
    kept = rows.repeats("taught", rows.planned.queries[3].id)[0]
    assert rows.reply(kept).as_json() in [r.as_json() for r in read_replies(run.folder)]
    (record,) = rows.records(rows.judges[0], kept.task.key)
    assert record.rationale == f"because of {kept.task.key}"
    path = run.folder / REPLIES
    line = path.read_bytes().splitlines(keepends=True)[0].replace(b'"repeat": 0', b'"repeat": 1')
    with path.open("ab") as file:
        file.write(line + b'{"variant": "torn')
    before = len(rows.kept)
    rows.refresh()
    assert len(rows.kept) == before + 1, "a line that is still being written waits"
    path.write_bytes(line)
    rows.refresh()
    assert len(rows.kept) == 1, "a file that was made anew is read anew"


# --- the report, whole and partial --------------------------------------------------------------


def test_a_stored_report_is_read_and_a_part_is_worked_out(paths: Paths) -> None:
    run, view = made(paths), EvaluateView()
    told = view.of(run)
    assert told is not None and told.stored and told.report == read_json(run.folder / REPORT)
    assert [one.name for one in told.variants] == list(VARIANTS)
    (run.folder / REPORT).unlink()
    ended(run, "crashed")
    told = view.of(run)
    assert told is not None and not told.stored and not is_current(run.folder)
    assert told.report["judges"][0]["summaries"][0]["unscored"] == 1
    assert EvaluateView().of(run, growing=True) is None, "while it grows nobody waits for figures"
    assert EvaluateView().of(run, growing=True, now=True) is not None
    assert not going_on(paths, run)
    run.write_status(run.stored_status().model_copy(update={"state": "running", "started": 9e9}))
    assert going_on(paths, run)


def test_the_matrix_is_read_from_the_report(paths: Paths) -> None:
    few_queries(paths, 4)
    variants = [
        {"name": name, "label_en": name, "label_ja": name, "rag": name == "facts"}
        for name in ("bare", "facts")
    ]
    bare = config_with(judges=[], variants=[variants[0], {**variants[1], "rag": False}])
    run = asked_run(paths, bare, lambda variant, place: "はい。" * (1 + len(variant) + place))
    judged_by(paths, run, "length", longer_is_better)
    judge = read_json(reported(run).folder / REPORT)["judges"][0]
    rag = [EvaluateConfig.from_data({**bare.model_dump(), "variants": variants}, "").variants]
    (pair,) = matrix_of(judge, rag[0])  # type: ignore[arg-type]
    assert pair.gain is not None and pair.gain.a == "facts"
    assert pair.gain.difference.value == pytest.approx(
        -judge["differences"][0]["difference"]["value"]
    )
    assert matrix_of(judge, rag[0][:1]) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["md", "csv", "tex", "jsonl"])
def test_every_file_can_be_had_whole_and_of_a_part(paths: Paths, tmp_path: Path, form: str) -> None:
    run = made(paths)
    whole = hand_out(run, form, "ja", tmp_path / "whole").read_text(encoding="utf-8")  # type: ignore[arg-type]
    (run.folder / REPORT).unlink()
    shutil.rmtree(run.folder / TABLES)
    part = hand_out(run, form, "ja", tmp_path / "part").read_text(encoding="utf-8")  # type: ignore[arg-type]
    assert sorted(whole.splitlines()) == sorted(part.splitlines()), "the same, in any order"
    marks = {"md": "| plain |", "csv": "plain,", "tex": r"\toprule", "jsonl": '"scores"'}
    assert marks[form] in whole
    if form == "jsonl":
        rows = [json.loads(line) for line in whole.splitlines()]
        assert len(rows) == 2 * QUERIES and len(rows[0]["scores"]) == 2


# --- plots --------------------------------------------------------------------------------------


def test_plots_have_their_tables_and_a_radar_its_warning(paths: Paths) -> None:
    pytest.importorskip("gradio")
    from charllm.ui.evaluate_plots import length_plot, report_plots

    run = made(paths)
    judged_by(paths, run, "third", lambda item: 1.0 + len(item.reply) % 5)
    report = read_json(reported(run).folder / REPORT)
    request: Any = None
    figures = {one["id"]: one for one in report_plots("o", "f", report, request)["figures"]}
    means = figures["means-1"]["rows"]
    assert [one["label"] for one in means] == list(VARIANTS)
    assert means[0]["value"] == report["judges"][0]["summaries"][0]["mean"]["value"]
    assert figures["differences-2"]["table"]["rows"][0][1] == -1.0
    radar = figures["radar-opinion"]
    assert radar["axes"] == ["length", "calm", "third"] and "correlate with" in radar["warning"]
    rows = RowsView().of(run.folder)
    pairs = rows.pairs(rows.judges[0], "taught", "plain")
    points = length_plot("o", "f", pairs, ("A", "B"), request)["figures"][0]["rows"]
    known = [one for one in pairs if one.difference is not None]
    assert len(points) == len(known) < QUERIES
    assert points[0]["x"] == (known[0].length_a or 0) - (known[0].length_b or 0)


# --- hand scores --------------------------------------------------------------------------------


def test_a_hand_score_is_kept_beside_the_judge_and_can_be_taken_back(paths: Paths) -> None:
    rows, store = RowsView().of(made(paths).folder), Store(paths)
    judge = rows.judges[0]
    kept = rows.repeats("taught", rows.planned.queries[0].id)[0]
    reply, key = rows.reply(kept), kept.task.key
    assert given(store, rows, judge, reply, "Rin") is None
    assert give(store, rows, judge, key, "Rin", 6) == 6
    assert given(store, rows, judge, reply, "Rin") == 6
    assert given(store, rows, judge, reply, "Go") is None
    (row,) = store.current_hand_scores("ayane")
    assert row.rationale, "it says that the judge's score was in view"
    assert [one.judge for one in store.judges("ayane")] == ["opinion", "person:Rin"]
    give(store, rows, judge, key, "Rin", None)
    assert given(store, rows, judge, reply, "Rin") is None
    assert store.current_hand_scores("ayane") == []
    with pytest.raises(UserError, match="from 1 to 7"):
        give(store, rows, judge, key, "Rin", 8)
    with pytest.raises(UserError, match="Say who"):
        give(store, rows, judge, key, " ", 3)


# --- another judge ------------------------------------------------------------------------------


def test_another_judge_scores_what_is_kept_without_generating(paths: Paths) -> None:
    run = made(paths)
    replies = (run.folder / REPLIES).read_bytes()
    with serving(lambda _: Reply()) as server:
        judge = JudgeConfig(kind="endpoint", model="judge-2", base_url=server.url)
        assert quote_rejudge(paths, run, judge).items == 2 * QUERIES
        started = start_rejudge(paths, run, judge, insist=True)
        assert rejudges(paths, run) == [started] and rejudges(paths, started) == []
        config = started.manifest().load_config(started.folder)
        with RunReporter(started) as reporter:
            result = run_rejudge(config, reporter, started.folder, paths)  # type: ignore[arg-type]
    assert len(result["judges"]) == 3 and result["judges"][2]["rubric"] == "study"
    assert (run.folder / REPLIES).read_bytes() == replies and is_current(run.folder)


def test_no_judge_is_added_while_the_evaluation_goes_on(paths: Paths) -> None:
    run = made(paths)
    run.write_status(run.stored_status().model_copy(update={"state": "running", "started": 9e9}))
    with pytest.raises(UserError, match="still being evaluated"):
        start_rejudge(paths, run, JudgeConfig(), insist=True)


def test_a_judge_compares_the_kept_replies_in_pairs(paths: Paths) -> None:
    run = made(paths)
    with pytest.raises(UserError, match="model"):
        start_rejudge(paths, run, JudgeConfig(), "pairs", insist=True)
    told = {"reasons": "最初の方が丁寧です。", "score": 1}  # whichever stands first: a tie
    with serving(lambda _: Reply(content=json.dumps(told))) as server:
        judge = JudgeConfig(
            kind="endpoint", model="judge-2", base_url=server.url, rubric="naturalness"
        )
        assert quote_rejudge(paths, run, judge, "pairs").calls > 0
        started = start_rejudge(paths, run, judge, "pairs", insist=False)
        config = started.manifest().load_config(started.folder)
        with RunReporter(started) as reporter:
            result = run_rejudge(config, reporter, started.folder, paths)  # type: ignore[arg-type]
    assert (result["matches"], result["unscored"]) == (QUERIES, 0)
    assert result["ratings"][0]["ties"] > 0 and sources_of(run)[0].key.startswith("pairs:judge-2")


# --- pairs --------------------------------------------------------------------------------------


def test_single_scores_and_pair_verdicts_become_ratings(paths: Paths) -> None:
    run = made(paths)
    scores, calm = (one.key for one in sources_of(run))
    found = standing(matches_of(run, calm), control_length=False)
    assert found is not None and found.ratings.ratings[0].model == "taught"
    assert found.ratings.ratings[0].losses == 0 and found.ratings.ratings[0].points.reason
    by_length = standing(matches_of(run, scores), control_length=True)
    assert by_length is not None and by_length.habits.longer.value == 1.0
    verdicts = [Match(f"q{n}", "plain", "taught", "taught" if n % 3 else "plain") for n in range(9)]
    write_matches(run.folder / "pairs" / "judge.jsonl", verdicts)
    source = sources_of(run)[0]
    assert source.key == "pairs:judge.jsonl" and len(matches_of(run, source.key)) == 9
    write_matches(run.folder / "pairs" / "judge.jsonl", [Match("q", "plain", "stranger", "plain")])
    with pytest.raises(UserError, match="unknown model stranger"):
        matches_of(run, source.key)
    with pytest.raises(UserError, match="no verdicts"):
        matches_of(run, "pairs:gone.jsonl")


def test_blind_votes_of_the_chat_are_matches_and_open_ones_are_not(paths: Paths) -> None:
    store = Store(paths)
    talk: Conversation = store.add_conversation("ayane", ["base", "rag"])
    turn = store.add_turn(talk.id, "お名前は？")
    for place, name in enumerate(("base", "rag")):
        store.add_reply(Answer(turn.id, place, name, f"{name}です。"))
    store.add_vote(Vote(talk.id, turn.id, "rag", ("base", "rag"), blind=False))
    assert vote_matches(store, "ayane") == []
    assert standing(vote_matches(store, "ayane"), control_length=False) is None
    store.add_vote(Vote(talk.id, turn.id, "rag", ("base", "rag"), voter="Rin"))
    (match,) = vote_matches(store, "ayane")
    assert match.winner == "rag" and match.reply_a == "baseです。"
    assert vote_matches(store, "magnus") == []
