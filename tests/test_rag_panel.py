"""The RAG page of the Evaluate tab: its pieces from a small evaluation with real retrieval.

Plan, facts and report are the project's own; only the words of the replies are made up, and they
try to break out of the page.
"""

from __future__ import annotations

import csv
import io
import shutil
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import pytest
from evaluation_home import EVIL, config_with

from charllm.core.calibration import Point, calibration_path
from charllm.core.embedding import EmbedderConfig, get_embedder
from charllm.core.evaluation.kept_lines import append_lines
from charllm.core.evaluation.planned import Planned, open_plan
from charllm.core.evaluation.rag_plot import now_text, sweep_figure, sweep_page
from charllm.core.evaluation.rag_sweep import Curve, Setting, curve_table, setting_now
from charllm.core.evaluation.reply_records import REPLIES, Reply
from charllm.core.evaluation.tables import as_csv
from charllm.data.config import ROOT, Paths
from charllm.data.errors import Text, UserError
from charllm.data.files import write_json, write_json_lines
from charllm.data.progress import Silent, Stopped
from charllm.data.queries import load_queries
from charllm.services.evaluate_rag import RagView, Step, Sweeps, Swept, pairs_wanting, planned_of
from charllm.services.runs import Run, create_run
from charllm.ui.evaluate_rag import details, drawn_of
from charllm.ui.evaluate_rag_html import (
    answers_html,
    fact_choices,
    facts_html,
    no_pair_html,
    report_html,
    swept_html,
)

JAPANESE: Any = SimpleNamespace(cookies={"charllm_lang": "ja"}, headers={})
ENGLISH: Any = SimpleNamespace(cookies={"charllm_lang": "en"}, headers={})


def some_queries(paths: Paths) -> None:
    """Six questions of each split that chooses and reports, two of each without a fact."""
    queries = load_queries(paths.queries / "ayane.jsonl")
    few = []
    for split in ("search", "report"):
        here = [query for query in queries if query.split == split]
        few += [query for query in here if query.gold][:4]
        few += [query for query in here if not query.gold][:2]
    write_json_lines(paths.queries / "few.jsonl", [one.model_dump(mode="json") for one in few])


def asked(paths: Paths, *, rag: bool = True) -> tuple[Run, Planned]:
    """An evaluation of the base, with RAG or without its twin; with RAG a reply says its facts."""
    some_queries(paths)
    base = {"name": "base", "label_en": "Base", "label_ja": "ベース"}
    with_rag = {"name": "rag", "label_en": "Base + RAG", "label_ja": "ベース + RAG", "rag": True}
    variants = [base, with_rag] if rag else [base]
    config = config_with(name="small", variants=variants, judges=[])
    run = create_run(paths, "evaluate", "small", config)
    planned = open_plan(config, paths, run.folder, Silent())
    append_lines(
        run.folder / REPLIES,
        [
            _reply(planned, variant.name, query.id, rag=variant.rag).as_json()
            for query in planned.queries
            for variant in planned.variants
        ],
    )
    return run, planned


def _reply(planned: Planned, variant: str, query: str, *, rag: bool) -> Reply:
    hits = planned.facts.get(query, ()) if rag else ()
    text = EVIL + "".join(hit.fact for hit in hits if hit.used)
    shown = tuple(asdict(hit) for hit in hits)
    return Reply(variant, query, 0, text, "end", "prompt", shown, "made")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Paths, Run, Planned]:
    home = tmp_path_factory.mktemp("rag")
    for name in ("profiles", "datasets", "checkpoints"):
        shutil.copytree(ROOT / name, home / "root" / name)
    paths = Paths(home / "root", home / "workspace")
    return paths, *asked(paths)


def test_the_page_shows_figures_facts_and_both_replies_escaped(
    small: tuple[Paths, Run, Planned],
) -> None:
    _, run, planned = small
    view = RagView()
    report = view.of(run.folder, planned, "rag")
    assert view.of(run.folder, planned, "rag") is report, "made once"
    assert len(report.answers) == 6 and report.used.value == 1.0
    page = report_html(report, ENGLISH)
    assert "right fact shown (hit rate)" in page and "false retrievals" in page
    assert "正しい事実を提示" in report_html(report, JAPANESE)
    row = next(row for row in report.facts if row.shown)
    listed, _, replies = details(report, row.fact, ENGLISH)
    assert listed.count("data-do") == len(report.facts) == 4
    assert 'class="factname on"' in listed and row.fact in replies
    assert replies.count("<section>") == 2 * row.replies
    assert "reply has the fact" in replies and "reply lacks the fact" in replies
    assert "<li class=right>" in replies.replace('"', "") and "fact shown" in replies
    for html in (page, listed, replies):
        assert "<img" not in html
    assert "&lt;img" in replies


def test_questions_that_no_fact_answers_are_a_choice_of_their_own(
    small: tuple[Paths, Run, Planned],
) -> None:
    _, run, planned = small
    report = RagView().of(run.folder, planned, "base")
    choices = fact_choices(report, JAPANESE)
    assert choices[-1] == ("正解の事実がない質問", "")
    page = answers_html(report, "", JAPANESE)
    assert page.count("<article") == 2 and "返答に事実" not in page
    assert answers_html(report, None, JAPANESE) == "" == answers_html(report, "?", JAPANESE)
    assert facts_html(report, "", JAPANESE).count("factname on") == 0
    many = replace(report, answers=report.answers * 40)
    page = answers_html(many, "", JAPANESE)
    assert page.count("<article") == 50 and "ほか 30 件" in page


def test_an_evaluation_without_a_pair_says_which_columns_to_tick(paths: Paths) -> None:
    run, planned = asked(paths, rag=False)
    wanting = pairs_wanting(paths, planned)
    assert [(plain.name, rag.name) for plain, rag in wanting] == [("base", "rag")]
    evil = [(plain.model_copy(update={"label_en": EVIL}), rag) for plain, rag in wanting]
    page = no_pair_html(evil, ENGLISH)
    assert "Base + RAG" in page and "<img" not in page and "&lt;img" in page
    assert "「ベース」と「ベース + RAG」" in no_pair_html(wanting, JAPANESE)
    with pytest.raises(UserError, match="same weights without"):
        RagView().of(run.folder, planned, "base")
    other = [one.model_copy(update={"name": "elsewhere"}) for one in planned.variants]
    everything = pairs_wanting(paths, replace(planned, variants=tuple(other)))
    assert len(everything) > 1, "where none of the character's was asked, all pairs are offered"


def test_a_run_that_has_not_begun_has_no_plan(paths: Paths) -> None:
    run = create_run(paths, "evaluate", "later", config_with(judges=[]))
    assert planned_of(run.folder) is None


def test_the_sweep_is_followed_drawn_kept_and_saved(small: tuple[Paths, Run, Planned]) -> None:
    paths, _, planned = small
    sweeps = Sweeps()
    assert sweeps.known(paths, planned) is None
    *steps, found = sweeps.follow(paths, planned)
    assert isinstance(found, Swept) and all(isinstance(step, Step) for step in steps)
    assert (found.questions, found.free) == (6, 2)
    assert sweeps.known(paths, planned) == found
    assert [curve.k for curve in found.curves] == [1, 2, 3, 5]
    words, plot, button, text = drawn_of(found, ENGLISH)
    assert "In use: threshold" in words and button.visible and plot.visible
    lines = list(csv.reader(io.StringIO(text)))
    assert lines[0][:2] == ["Facts at most", "Threshold"]
    assert len(lines) == 1 + sum(len(curve.points) for curve in found.curves)
    assert text == as_csv(curve_table(found.curves), "en")
    # Another threshold moves the mark, not the curves; another question asks for new ones.
    embedder = get_embedder(EmbedderConfig())
    write_json(calibration_path(paths, "ayane", embedder), {"threshold": 0.5})
    moved = sweeps.known(paths, planned)
    assert moved is not None and moved.now.threshold == 0.5 and moved.curves == found.curves
    calibration_path(paths, "ayane", embedder).unlink()
    queries = paths.queries / "few.jsonl"
    before = queries.read_text(encoding="utf-8")
    queries.write_text(before.splitlines(keepends=True)[0], encoding="utf-8")
    assert sweeps.known(paths, planned) is None
    queries.write_text(before, encoding="utf-8")


def test_a_sweep_that_nobody_listens_to_is_given_up(small: tuple[Paths, Run, Planned]) -> None:
    paths, _, planned = small
    whole = replace(planned, config=planned.config.model_copy(update={"queries": "ayane"}))
    sweeps = Sweeps()
    following: Any = sweeps.follow(paths, whole)
    assert isinstance(next(following), Step)
    working = following.gi_frame.f_locals["working"]
    following.close()
    assert isinstance(working.exception(), Stopped) and sweeps.known(paths, whole) is None


def test_what_keeps_a_sweep_from_being_made_is_told(paths: Paths) -> None:
    _, planned = asked(paths, rag=False)
    (paths.queries / "few.jsonl").unlink()
    with pytest.raises(UserError, match=r"few\.jsonl"):
        list(Sweeps().follow(paths, planned))


def curve(k: int) -> Curve:
    """At .80, .85, .90: all right facts, half, none."""
    points = tuple(
        Point(threshold=0.8 + 0.05 * n, hit_rate=1 - n / 2, false_rate=(1 - n / 2) / 2)
        for n in range(3)
    )
    return Curve(k, points, (float(k), k / 2, 0.0), points[1], None)


def test_the_setting_in_use_is_marked_on_its_own_curve() -> None:
    curves, now = [curve(1), curve(3)], Setting(0.851, 3)
    point, shown = curves[1].near(now.threshold)
    assert (point.hit_rate, point.false_rate, shown) == (0.5, 0.25, 1.5)
    assert curves[0].near(0.1)[0].hit_rate == 1.0 and curves[0].near(2.0)[0].hit_rate == 0.0
    figure = sweep_figure(curves, now, "en")
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    stars = [trace for trace in figure.data if trace.mode == "markers"]
    assert [trace.name for trace in lines if trace.showlegend is not False] == [
        "at most 1",
        "at most 3",
        "false retrievals: the same for any number",
    ]
    assert [(star.x[0], star.y[0]) for star in stars] == [(0.851, 0.5), (0.851, 0.25), (0.851, 1.5)]
    assert now_text(curves, now).en.startswith("In use: threshold 0.851, at most 3 facts.")
    assert "50% に正しい事実" in now_text(curves, now).ja


def test_the_plot_as_a_page_cannot_be_broken_by_a_name() -> None:
    page = sweep_page([curve(3)], Setting(0.85, 3), EVIL, "ja")
    assert "&lt;img" in page and "<img src=x" not in page and '<html lang="ja">' in page


def test_curves_say_what_their_false_retrievals_are_counted_on() -> None:
    found = Swept((curve(3),), Setting(0.85, 3), 20, 0)
    assert "taken away" in swept_html(found, Text("a", "b"), ENGLISH)
    assert "5 of them without a fact" in swept_html(replace(found, free=5), Text("a", "b"), ENGLISH)


def test_the_evaluations_own_threshold_goes_before_the_profiles(paths: Paths) -> None:
    config = config_with(judges=[])
    built_in = get_embedder(config.embedder).default_threshold
    assert setting_now(paths, config) == Setting(built_in, 3)
    own = config.model_copy(update={"threshold": 0.9, "top_k": 4})
    assert setting_now(paths, own) == Setting(0.9, 4)
