"""Calibration: figures that can be checked by hand, then the shipped questions on the real e5."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from charllm.core.calibration import (
    CalibrateConfig,
    Point,
    calibrate,
    choose,
    load_calibration,
    plot_data,
    run_calibrate,
)
from charllm.core.embedding import EmbedderConfig, get_embedder
from charllm.core.retrieval import open_index, threshold_for
from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.data.files import write_json_lines, write_text
from charllm.data.profile import Profile
from charllm.data.progress import Silent, Stopped, StopRequest
from charllm.data.queries import Query, Split

FACTS = ("a", "b", "c", "d", "e")


class Table:
    """Facts are the axes; a question is written as its similarities, such as ``.9 .1 0 0 0``.

    The last axis belongs to no fact and makes the length 1, so that similarities are exact.
    """

    id = "test:table"
    default_threshold = 0.5

    def embed_facts(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.zeros((len(texts), len(FACTS) + 1), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            row[FACTS.index(text)] = 1.0
        return rows

    def fact_text(self, fact: str) -> str:
        return fact

    def embed_queries(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.array([[float(x) for x in text.split()] for text in texts], dtype=np.float32)
        rest = np.sqrt(1.0 - (rows**2).sum(axis=1, keepdims=True))
        return np.concatenate([rows, rest], axis=1).astype(np.float32)


def query(text: str, gold: str = "", split: Split = "search") -> Query:
    return Query(id=f"{split} {text}", text=text, split=split, gold=tuple(gold))


PROFILE = Profile(slug="someone", name="Someone", facts=FACTS)
QUESTIONS = [
    query(".61 .2 .1 0 0", "a"),  # rank 1
    query(".3 .52 .1 0 0", "a", "selection"),  # rank 2, similarity .3
    query(".41 .4 .3 .2 0", "d"),  # rank 4: not among the first three
    query(".2 .1 .7 0 0", "cb"),  # rank 1, two gold facts
    query(".35 .1 0 0 0"),  # no gold fact
    query("0 .21 .1 0 0", "", "selection"),  # no gold fact
    query(".1 .9 0 0 0", "b", "report"),
    query(".1 .9 .2 0 0", "a", "report"),  # rank 3, similarity .1
    query(".8 0 0 0 0", "", "report"),
]


@pytest.fixture
def place(tmp_path: Path) -> Paths:
    return Paths(tmp_path / "root", tmp_path / "workspace")


def test_figures_are_those_counted_by_hand(place: Paths) -> None:
    outcome = calibrate(place, PROFILE, QUESTIONS, Table(), Silent(), false_weight=1.0)
    assert (outcome.questions, outcome.without_gold) == (4, 2)
    assert outcome.hit_at_1 == 0.5
    assert outcome.hit_at_3 == 0.75
    assert outcome.mrr == pytest.approx((1 + 1 / 2 + 1 / 4 + 1) / 4, abs=1e-4)
    assert outcome.missed == (".41 .4 .3 .2 0",)
    # Right similarities .61 .30 none .70, wrong ones .35 .21: from .21 to .30 the difference is
    # 3/4 - 1/2, from .35 to .61 it is 2/4 - 0 and largest; the middle of that range is taken.
    assert (outcome.hit_rate, outcome.false_rate) == (0.5, 0.0)
    assert outcome.threshold == pytest.approx((0.355 + 0.61) / 2, abs=0.005)
    assert outcome.false_source == "questions without facts"


def test_the_curve_counts_right_and_false_by_threshold(place: Paths) -> None:
    curve = {p.threshold: p for p in calibrate(place, PROFILE, QUESTIONS, Table(), Silent()).curve}
    assert (curve[0.205].hit_rate, curve[0.205].false_rate) == (0.75, 1.0)
    assert (curve[0.295].hit_rate, curve[0.295].false_rate) == (0.75, 0.5)
    assert (curve[0.345].hit_rate, curve[0.345].false_rate) == (0.5, 0.5)
    assert (curve[0.695].hit_rate, curve[0.695].false_rate) == (0.25, 0.0)
    assert max(curve) >= 0.7 and curve[max(curve)].hit_rate == 0.0


def test_the_report_split_is_measured_but_never_chosen_on(place: Paths) -> None:
    outcome = calibrate(place, PROFILE, QUESTIONS, Table(), Silent())
    report = outcome.by_split["report"]
    assert (report.questions, report.without_gold) == (2, 1)
    assert (report.hit_at_1, report.hit_at_3) == (0.5, 1.0)
    assert (report.hit_rate, report.false_rate) == (0.5, 1.0)
    without = [item for item in QUESTIONS if item.split != "report"]
    assert calibrate(place, PROFILE, without, Table(), Silent()).threshold == outcome.threshold
    only = calibrate(place, PROFILE, QUESTIONS, Table(), Silent(), splits=("report",))
    assert only.threshold != outcome.threshold


def test_without_unanswerable_questions_the_gold_facts_are_taken_away(place: Paths) -> None:
    with_gold = [item for item in QUESTIONS if item.gold and item.split != "report"]
    outcome = calibrate(place, PROFILE, with_gold, Table(), Silent())
    assert outcome.false_source == "gold facts removed"
    # The best other facts lie at .2, .52, .41 and .2.
    curve = {p.threshold: p.false_rate for p in outcome.curve}
    assert (curve[0.195], curve[0.405], curve[0.5], curve[0.525]) == (1.0, 0.5, 0.25, 0.0)
    assert outcome.by_split["search"].false_rate is None


@pytest.mark.parametrize(("weight", "chosen"), [(0.1, 0.1), (0.5, 0.2), (1.0, 0.5), (5.0, 0.5)])
def test_the_best_threshold_is_the_middle_of_the_longest_stretch(
    weight: float, chosen: float
) -> None:
    rates = [(0.1, 1.0, 0.8), (0.2, 0.9, 0.1), (0.3, 0.7, 0.1),
             (0.4, 0.8, 0.0), (0.5, 0.8, 0.0), (0.6, 0.8, 0.0), (0.7, 0.2, 0.0)]  # fmt: skip
    curve = [Point(threshold=t, hit_rate=h, false_rate=f) for t, h, f in rates]
    assert choose(curve, weight).threshold == chosen


def test_the_result_is_stored_and_used_by_retrieval(place: Paths) -> None:
    embedder = Table()
    assert load_calibration(place, "someone", embedder) is None
    outcome = calibrate(place, PROFILE, QUESTIONS, embedder, Silent())
    assert load_calibration(place, "someone", embedder) == outcome
    assert threshold_for(place, "someone", embedder) == outcome.threshold != 0.5
    hits = open_index(place, PROFILE, embedder).retrieve(".6 .3 0 0 0", k=2)
    assert [(hit.fact, hit.used) for hit in hits] == [("a", True), ("b", False)]
    plot = plot_data(outcome)
    assert plot["chosen"] == outcome.threshold and plot["default"] == 0.5
    assert len(plot["threshold"]) == len(plot["hit_rate"]) == len(plot["false_rate"]) > 10


def test_unknown_gold_facts_and_questions_that_tell_nothing_are_refused(place: Paths) -> None:
    wrong = Query(id="q1", text=".1 0 0 0 0", split="search", gold=("nothing of hers",))
    with pytest.raises(UserError, match="'q1': “nothing of hers”") as caught:
        calibrate(place, PROFILE, [*QUESTIONS, wrong], Table(), Silent())
    assert "nothing of hers" in caught.value.in_("ja")
    with pytest.raises(UserError, match="names a gold fact"):
        calibrate(place, PROFILE, [query(".1 0 0 0 0")], Table(), Silent())


def test_no_query_set_and_a_broken_one_are_told(paths: Paths) -> None:
    with pytest.raises(UserError, match=r"nobody\.jsonl does not exist"):
        run_calibrate(
            CalibrateConfig(profile="ayane", queries="nobody"), Silent(), paths.runs, paths
        )
    write_text(paths.queries / "broken.jsonl", '{"id": "1", "text": "", "split": "search"}\n')
    with pytest.raises(UserError, match=r"broken\.jsonl, line 1 is not valid: text"):
        run_calibrate(
            CalibrateConfig(profile="ayane", queries="broken"), Silent(), paths.runs, paths
        )


def test_a_stop_stores_nothing(place: Paths) -> None:
    class Stopping(Silent):
        def stop_requested(self) -> StopRequest:
            return "cancel" if open_index(place, PROFILE, Table()).state().kind == "ready" else ""

    with pytest.raises(Stopped):
        calibrate(place, PROFILE, QUESTIONS, Table(), Stopping())
    assert not (place.workspace / "calibration").exists()


def test_a_run_on_real_questions_and_the_real_embedder(paths: Paths) -> None:
    rows = [
        ("好きな季節はいつですか？", ["好きな季節は秋。"]),
        ("お誕生日を教えて", ["誕生日は10月12日。"]),
        ("嫌いな食べ物はありますか", ["苦手な食べ物はセロリ。"]),
        ("円周率を百桁まで言ってください", []),
        ("パソコンが起動しないのですが", []),
    ]
    write_json_lines(
        paths.queries / "small.jsonl",
        [
            {"id": str(n), "text": text, "split": "search", "gold": gold}
            for n, (text, gold) in enumerate(rows)
        ],
    )
    config = CalibrateConfig(profile="ayane", queries="small")
    result = run_calibrate(config, Silent(), paths.runs, paths)
    assert (result["hit_at_3"], result["questions"], result["without_gold"]) == (1.0, 3, 2)
    assert 0.75 < result["threshold"] < 0.92
    assert Path(result["path"]).is_file()


@pytest.mark.parametrize("slug", ["ayane", "magnus"])
def test_the_shipped_questions_find_their_facts(paths: Paths, slug: str) -> None:
    if not (paths.queries / f"{slug}.jsonl").is_file():
        pytest.skip(f"datasets/queries/{slug}.jsonl is not here")
    result = run_calibrate(CalibrateConfig(profile=slug), Silent(), paths.runs, paths)
    for split, figures in result["by_split"].items():
        assert figures["hit_at_3"] >= 0.90, (split, figures, result["missed"])
    built_in = get_embedder(EmbedderConfig()).default_threshold
    assert abs(result["threshold"] - built_in) <= 0.02, "the built-in threshold no longer fits"
