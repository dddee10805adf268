"""Means, differences, judges side by side, the bridge, and tables that no name can break."""

from __future__ import annotations

import csv
import importlib.util
import io
import math
from typing import Any

import numpy as np
import pytest

from charllm.core.evaluation.bradley_terry import rate
from charllm.core.evaluation.bridging import Anchor, bridge
from charllm.core.evaluation.comparison import (
    NOTHING_SHARED,
    Ruler,
    Scored,
    by_query,
    compare,
    compare_each,
)
from charllm.core.evaluation.drawing import holm, intervals_with_p
from charllm.core.evaluation.matches import TIE, Match
from charllm.core.evaluation.tables import (
    Column,
    Table,
    as_csv,
    difference_table,
    judges_table,
    latex,
    markdown,
    rating_table,
    summary_table,
    win_table,
)
from charllm.core.evaluation.two_judges import side_by_side
from charllm.core.statistics import Interval, bootstrap, mean_interval
from charllm.core.weighted import mean_of
from charllm.data.config import ROOT
from charllm.data.errors import Text, UserError

JUDGE = Ruler("judge-1", "study", "1-abc")
OTHER = Ruler("judge-2", "study", "1-abc")


def rows(
    means: dict[str, float], queries: int = 40, repeats: int = 1, seed: int = 0, **more: Any
) -> list[Scored]:
    """Levels 1–7 with queries that differ."""
    rng = np.random.default_rng(seed)
    found = []
    for q in range(queries):
        of_query = rng.normal(0, 0.6)
        for variant, mean in means.items():
            for repeat in range(repeats):
                level = float(np.clip(round(rng.normal(mean + of_query, 0.7)), 1, 7))
                found.append(Scored(variant, f"q{q}", level, JUDGE, repeat=repeat, **more))
    return found


# Means and differences


def test_a_query_counts_once_however_often_it_was_repeated() -> None:
    found = compare(
        [
            *(Scored("a", "q1", 7.0, JUDGE, repeat=n) for n in range(9)),
            Scored("a", "q2", 1.0, JUDGE),
            Scored("a", "q3", 4.0, JUDGE, repeat=0),
            Scored("a", "q3", None, JUDGE, repeat=1),
        ]
    ).summaries[0]
    assert found.mean.value == pytest.approx(4.0)
    assert (found.queries, found.replies, found.scored, found.unscored) == (3, 12, 11, 1)


def test_repeating_the_judgement_adds_no_certainty() -> None:
    once = rows({"a": 4.0, "b": 4.5})
    often = [Scored(r.variant, r.query, r.score, JUDGE, repeat=n) for r in once for n in range(20)]
    narrow, wide = compare(once), compare(often)
    assert wide.summaries[0].mean == narrow.summaries[0].mean
    assert wide.differences[0].difference == narrow.differences[0].difference


def test_unscored_and_gated_are_counted_apart() -> None:
    found = compare(
        [
            Scored("a", "q1", 6.0, JUDGE),
            Scored("a", "q2", 1.0, JUDGE, gated=True),
            Scored("a", "q3", None, JUDGE),
            Scored("b", "q3", None, JUDGE),
        ]
    )
    a, b = found.summaries
    assert (a.mean.value, a.unscored, a.gated, a.queries) == (3.5, 1, 1, 2)
    assert b.mean.value is None and b.mean.reason is not None and b.unscored == 1
    (difference,) = found.differences
    assert difference.difference.reason == NOTHING_SHARED and difference.p is None


def test_differences_are_paired_by_query() -> None:
    """Queries that differ widely hide nothing: b is one level better on each."""
    levels = [1, 2, 3, 4, 5, 6] * 5
    made = []
    for q, level in enumerate(levels):
        made.append(Scored("a", f"q{q}", float(level), JUDGE))
        made.append(Scored("b", f"q{q}", float(level + 1 - (q % 10 == 0)), JUDGE))
    (difference,) = compare(made).differences
    assert difference.difference.value == pytest.approx(-0.9)
    assert difference.difference.high is not None and difference.difference.high < -0.7
    assert difference.p is not None and difference.p < 0.001
    a, b = compare(made).summaries
    assert a.mean.high is not None and b.mean.low is not None and a.mean.high > b.mean.low


def test_only_shared_queries_are_paired() -> None:
    made = [Scored("a", f"q{q}", float(q % 7 + 1), JUDGE) for q in range(20)]
    made += [Scored("b", f"q{q}", float(q % 7), JUDGE) for q in range(1, 12)]
    made += [Scored("c", f"q{q}", 4.0, JUDGE) for q in range(20)]
    found = {(d.a, d.b): d for d in compare(made).differences}
    assert found["a", "b"].queries == 11 and found["a", "c"].queries == 20
    assert found["a", "b"].difference.value == pytest.approx(1.0)


def test_the_largest_differences_come_first() -> None:
    made = [Scored("a", f"q{q}", x, JUDGE) for q, x in enumerate((5.0, 1.0, 4.0))]
    made += [Scored("b", f"q{q}", x, JUDGE) for q, x in enumerate((4.0, 7.0, 4.0))]
    assert [(d.query, d.difference) for d in by_query(made, "a", "b")] == [
        ("q1", -6.0),
        ("q0", 1.0),
        ("q2", 0.0),
    ]


def test_scores_of_two_judges_never_enter_one_mean() -> None:
    made = [Scored("a", "q1", 5.0, JUDGE), Scored("a", "q1", 3.0, OTHER)]
    with pytest.raises(ValueError, match="one judge"):
        compare(made)
    assert {r: t.summaries[0].mean.value for r, t in compare_each(made).items()} == {
        JUDGE: 5.0,
        OTHER: 3.0,
    }


# p values


def column(values: list[float]) -> Any:
    """Their mean as the only value of a statistic."""
    statistic = mean_of(values)
    return lambda weights: statistic(weights)[:, None]


def test_p_says_what_the_interval_says() -> None:
    """Below .05 exactly where 0 lies outside, up to the resamples' own grain."""
    rng = np.random.default_rng(0)
    for shift in np.linspace(0, 0.5, 40):
        values = rng.normal(shift, 1, 30).tolist()
        ((interval, p),) = intervals_with_p(column(values), range(30), 1)
        assert interval == bootstrap(mean_of(values), range(30), 1)
        assert interval.low is not None and interval.high is not None and p is not None
        if abs(p - 0.05) > 0.004:
            assert (p < 0.05) == (interval.low > 0 or interval.high < 0)


def test_p_is_near_the_t_test_s() -> None:
    from scipy.stats import ttest_1samp

    rng = np.random.default_rng(4)
    for shift in (0.0, 0.2, 0.45, 1.2):
        values = rng.normal(shift, 1, 60)
        ((_, p),) = intervals_with_p(column(values.tolist()), range(60), 1, 10_000)
        assert p is not None
        theirs = float(ttest_1samp(values, 0).pvalue)
        assert p == pytest.approx(theirs, abs=0.02) and (p < 1e-4) == (theirs < 1e-4)


def test_holm_is_statsmodels_s_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, None, 0.005]) == [
        pytest.approx(0.03),
        pytest.approx(0.06),
        pytest.approx(0.06),
        None,
        pytest.approx(0.02),
    ]
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


# Coverage, reduced


@pytest.fixture(scope="module")
def studies() -> Any:
    spec = importlib.util.spec_from_file_location("coverage_study", ROOT / "benchmarks/coverage.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def slack(n: int) -> float:
    """Three binomial deviations of a share of .95 among ``n`` independent intervals."""
    return 3 * math.sqrt(0.95 * 0.05 / n)


def test_intervals_of_means_and_differences_hold_the_truth(studies: Any) -> None:
    found = studies.coverage(studies.levels, 100, 1)
    assert found["mean"][0] == pytest.approx(0.95, abs=slack(100))
    assert found["difference"][0] == pytest.approx(0.95, abs=slack(100))


def test_the_simulated_truth_is_the_mean_of_many(studies: Any) -> None:
    rng = np.random.default_rng(9)
    many = [r.score for _ in range(60) for r in studies.scored_study(rng, {"a": 5.2}) if r.score]
    assert np.mean(many) == pytest.approx(studies.true_level(5.2), abs=0.05)


def test_judgements_resampled_one_by_one_would_be_too_sure(
    studies: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the query as the unit is for: of eight repeats the naive interval holds about .66."""
    monkeypatch.setattr(studies, "REPEATS", 8)
    monkeypatch.setattr(studies, "QUERIES", 20)
    naive: list[bool] = []
    ours: list[bool] = []
    for number in range(60):
        made = studies.scored_study(np.random.default_rng((2, number)), {"a": 4.4})
        scores = [row.score for row in made if row.score is not None]
        for held, interval in (
            (naive, mean_interval(scores, range(len(scores)), number)),
            (ours, compare(made, number).summaries[0].mean),
        ):
            assert interval.low is not None and interval.high is not None
            held.append(interval.low <= studies.true_level(4.4) <= interval.high)
    assert sum(naive) / 60 < 0.8
    assert sum(ours) / 60 == pytest.approx(0.95, abs=slack(60))


# Two judges


def strict(made: list[Scored], by: float, ruler: Ruler) -> list[Scored]:
    return [
        Scored(r.variant, r.query, None if r.score is None else max(1.0, r.score - by), ruler)
        for r in made
    ]


def test_two_judges_stand_side_by_side_and_are_never_averaged() -> None:
    made = rows({"a": 4.5, "b": 5.5})
    found = side_by_side([*made, *strict(made, 1.0, OTHER)], (1, 7))
    (pair,) = found.pairs
    assert pair.n == 80 and pair.severity.value == pytest.approx(-1.0, abs=0.03)
    assert (pair.same_order, pair.pairs) == (1, 1)
    assert pair.spearman.value is not None and pair.spearman.value > 0.99
    assert pair.kappa.value is not None and 0.4 < pair.kappa.value < 0.9
    one, other = (found.tables[r].summaries[0].mean.value for r in (JUDGE, OTHER))
    assert one is not None and other is not None and one - other == pytest.approx(1.0, abs=0.05)


def test_judges_without_a_common_reply_are_not_paired() -> None:
    made = rows({"a": 4.5}, queries=5)
    apart = [Scored("b", r.query, r.score, OTHER) for r in made]
    found = side_by_side([*made, *apart], (1, 7))
    assert found.pairs == () and set(found.tables) == {JUDGE, OTHER}


# The bridge


def anchors(n: int = 100, noise: float = 0.4, seed: int = 0) -> list[Anchor]:
    """new = 0.8 * old + 0.4, and noise on both."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(4.2, 1.2, n)
    return [
        Anchor(f"q{i}", x + rng.normal(0, noise), 0.8 * x + 0.4 + rng.normal(0, 0.8 * noise))
        for i, x in enumerate(truth)
    ]


def test_a_bridge_finds_the_line_between_two_judges() -> None:
    found = bridge(anchors(), (1, 7))
    assert found.slope.low is not None and found.slope.high is not None
    assert found.slope.low < 0.8 < found.slope.high and found.note is None
    for level, worth in found.levels[2:6]:
        assert worth.low is not None and worth.high is not None
        assert worth.low < 0.8 * level + 0.4 < worth.high
    assert all(1 <= (worth.value or 0) <= 7 for _, worth in found.levels)


def test_a_bridge_leads_back() -> None:
    """Unlike a regression, which pulls to the middle both ways."""
    made = anchors(noise=0.8)
    forth = bridge(made, (1, 7))
    back = bridge([Anchor(a.cluster, a.new, a.old) for a in made], (1, 7))
    there = forth.at(5.0).value
    assert there is not None and back.at(there).value == pytest.approx(5.0)


def test_a_moved_mean_carries_both_doubts() -> None:
    found = bridge(anchors(), (1, 7))
    mean = Interval(5.0, 4.7, 5.3, 102)
    moved, alone = found.moved(mean), found.at(5.0)
    assert moved.value == alone.value == pytest.approx(4.4, abs=0.15)
    assert moved.half_width is not None and alone.half_width is not None
    assert moved.half_width == pytest.approx(
        math.hypot(alone.half_width, 0.3 * (found.slope.value or 0))
    )
    unsure = found.moved(Interval(5.0, None, None, 2, Text("few", "少")))
    assert unsure.low is None and unsure.reason is not None


def test_a_bridge_that_cannot_carry_says_so() -> None:
    with pytest.raises(UserError, match="Only 5"):
        bridge(anchors(5), (1, 7))
    with pytest.raises(UserError, match="same score"):
        bridge([Anchor(a.cluster, 5.0, a.new) for a in anchors()], (1, 7))
    with pytest.raises(UserError, match="do not agree"):
        bridge([Anchor(a.cluster, a.old, 8 - a.new) for a in anchors()], (1, 7))
    assert bridge(anchors(noise=2.0), (1, 7)).note is not None


# Tables

NASTY = "a|b_c *&% $#{x}~^\\ <i>[1]</i>\n=1"


@pytest.fixture
def table() -> Table:
    made = rows({NASTY: 4.0, "=SUM(A1)": 5.0, "素の基盤": 6.0})
    return summary_table(compare(made))


def test_csv_comes_back_whole_and_runs_nothing(table: Table) -> None:
    head, *body = csv.reader(io.StringIO(as_csv(table, "ja")))
    assert head[:4] == ["バリアント", "平均", "平均 95%下限", "平均 95%上限"]
    assert [line[0] for line in body] == [NASTY, "'=SUM(A1)", "素の基盤"]
    mean = table.rows[0][1]
    assert isinstance(mean, Interval)
    assert [float(x) for x in body[0][1:4]] == [mean.value, mean.low, mean.high]
    assert all(len(line) == len(head) for line in body)
    short = list(csv.reader(io.StringIO(as_csv(table, "en", intervals=False))))
    assert short[0][:3] == ["Variant", "Mean", "Queries"] and len(short[1]) == len(short[0])


def test_markdown_keeps_its_columns(table: Table) -> None:
    lines = markdown(table, "en").splitlines()
    bars = [len([x for x in line.replace(r"\|", "").split("|")]) for line in lines]
    assert len(lines) == 5 and len(set(bars)) == 1
    assert lines[1].startswith("| :--- | ---: |")
    assert r"a\|b\_c \*" in lines[2] and r"\<i\>\[1\]" in lines[2]
    mean = table.rows[2][1]
    assert isinstance(mean, Interval)
    assert f"| {mean.value:.2f} [{mean.low:.2f}, {mean.high:.2f}] |" in lines[4]
    assert "[" not in markdown(table, "en", intervals=False).splitlines()[4]


def test_latex_escapes_what_latex_would_run(table: Table) -> None:
    text = latex(table, "en")
    assert r"a\textbar{}b\_c *\&\% \$\#\{x\}\textasciitilde{}\textasciicircum{}" in text
    assert r"\begin{tabular}{lrrrrr}" in text and text.count(r"\\") == 4
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    bracket = Table(Text("t", "t"), (Column(Text("Name", "名前")),), (("[x]",),))
    assert "\n{}[x]" in latex(bracket, "en")


def test_figures_are_written_as_a_reader_wants_them() -> None:
    columns = (
        *(Column(Text("d", "d")), Column(Text("s", "s"), "share"), Column(Text("p", "p"), "p")),
        *(Column(Text("n", "n")), Column(Text("r", "r"), "points")),
    )
    cells = (Interval(-0.5, -0.9, -0.001, 9), 0.25, 0.0002, 102, 1012.6)
    line = markdown(Table(Text("t", "t"), columns, (cells,)), "en").splitlines()[2]
    assert line == "| −0.50 [−0.90, 0.00] | 25% | < 0.001 | 102 | 1013 |"
    empty = (None, None, None, None, Interval(None, None, None, 0, Text("few", "少")))
    assert markdown(Table(Text("t", "t"), columns, (empty,)), "en").count("–") == 5
    assert r"$-$0.50" in latex(Table(Text("t", "t"), columns, (cells,)), "en")


def test_every_table_has_both_languages() -> None:
    made = rows({"a": 4.0, "b": 5.0})
    comparison = compare(made)
    matches = [Match(f"q{q}", "a", "b", ("a", "b", TIE)[q % 3]) for q in range(9)]
    ratings = rate(matches)
    judges = side_by_side([*made, *strict(made, 1.0, OTHER)], (1, 7))
    for table in (
        *(summary_table(comparison), difference_table(comparison)),
        *(rating_table(ratings), win_table(ratings), judges_table(judges)),
    ):
        assert len(markdown(table, "ja").splitlines()) == 2 + len(table.rows)
        assert markdown(table, "ja") != markdown(table, "en") and table.rows
    assert "50%" in markdown(win_table(ratings), "en")
    assert "1000" in markdown(rating_table(ratings), "en")
