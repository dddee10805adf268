"""Agreement and intervals against other libraries, by simulation, and where nothing can be said."""

from __future__ import annotations

import math

import numpy as np
import pytest

from charllm.core.statistics import (
    Interval,
    bias,
    bootstrap,
    confusion,
    labels_needed,
    mean_absolute_error,
    mean_interval,
    paired_difference,
    share_interval,
    spearman,
    weighted_kappa,
    wilson,
)
from charllm.core.weighted import kappa_of, partial_spearman_of

LEVELS = range(1, 8)


def scores(n: int, seed: int, noise: float = 1.2) -> tuple[list[int], list[int]]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(4, 1.5, n)
    two = [np.clip(np.rint(truth + rng.normal(0, noise, n)), 1, 7).astype(int) for _ in "ab"]
    return two[0].tolist(), two[1].tolist()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("ours", "theirs"), [("quadratic", "quadratic"), ("linear", "linear"), ("none", None)]
)
def test_kappa_is_scikit_learn_s(seed: int, ours: str, theirs: str | None) -> None:
    from sklearn.metrics import cohen_kappa_score

    a, b = scores(80, seed)
    expected = cohen_kappa_score(a, b, labels=list(LEVELS), weights=theirs)
    assert weighted_kappa(a, b, LEVELS, ours) == pytest.approx(expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(5))
def test_spearman_is_scipy_s(seed: int) -> None:
    from scipy.stats import spearmanr

    a, b = scores(60, seed)
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)


def test_simple_measures() -> None:
    assert bias([1, 2, 3], [2, 3, 4]) == 1.0 and mean_absolute_error([1, 5], [2, 3]) == 1.5
    assert confusion([1, 1, 2], [1, 2, 2], (1, 2)) == ((1, 1), (0, 1))
    low, high = wilson(0.9, 100)
    assert (round(low, 4), round(high, 4)) == (0.8256, 0.9448)


def test_a_partial_correlation_takes_the_third_out() -> None:
    rng = np.random.default_rng(0)
    hand = rng.normal(size=4000)
    length, judge = hand + rng.normal(size=4000), hand + rng.normal(size=4000)
    statistic = partial_spearman_of(judge.tolist(), length.tolist(), hand.tolist())
    value = float(statistic(np.ones((1, 4000)))[0])
    assert abs(value) < 0.06
    assert (spearman(judge.tolist(), length.tolist()) or 0) > 0.4


def test_nothing_is_a_number_where_nothing_can_be_said() -> None:
    assert weighted_kappa([5, 5], [5, 5], LEVELS) is None
    assert spearman([1], [1]) is None and spearman([2, 2, 2], [1, 2, 3]) is None
    assert bias([], []) is None
    few = mean_interval([1.0, 2.0], ["a", "b"])
    assert few.value == 1.5 and few.low is None and few.reason
    empty = bootstrap(kappa_of([], [], LEVELS), [])
    assert empty.value is None and empty.reason and empty.n == 0
    with pytest.raises(ValueError, match="not among"):
        weighted_kappa([8], [1], LEVELS)


def test_a_share_of_all_or_none_is_not_certain() -> None:
    found = share_interval([True] * 10, list(range(10)))
    assert found.value == 1.0 and found.low is not None and 0.6 < found.low < 0.8


def test_the_same_seed_gives_the_same_interval() -> None:
    a, b = scores(60, 1)
    one, two = (bootstrap(kappa_of(a, b, LEVELS), range(60), seed=3) for _ in "ab")
    assert one == two


def test_clusters_are_resampled_not_rows() -> None:
    """Ten copies of each row bring no more knowledge than one."""
    values = np.random.default_rng(0).normal(size=30).tolist()
    single = mean_interval(values, range(30))
    tenfold = mean_interval(values * 10, list(range(30)) * 10)
    assert single.half_width and tenfold.half_width
    assert tenfold.half_width == pytest.approx(single.half_width, rel=0.05)


def test_intervals_hold_the_truth() -> None:
    """Means over clusters, 1,500 simulated studies: 95 % intervals hold the truth 93 to 97 %."""
    rng = np.random.default_rng(0)
    held = 0
    for study in range(1500):
        clusters = np.repeat(np.arange(40), 3)
        values = rng.normal(size=40)[clusters] + rng.normal(size=120)
        found = bootstrap_mean(values.tolist(), clusters.tolist(), study)
        held += bool(
            found.low is not None and found.high is not None and found.low <= 0 <= found.high
        )
    assert 0.93 <= held / 1500 <= 0.97


def bootstrap_mean(values: list[float], clusters: list[int], seed: int) -> Interval:
    from charllm.core.weighted import mean_of

    return bootstrap(mean_of(values), clusters, seed, n=800)


def test_a_paired_difference_is_narrower_than_two_means() -> None:
    rng = np.random.default_rng(1)
    query = rng.normal(size=80)
    a, b = (
        (query + 0.3 + rng.normal(0, 0.2, 80)).tolist(),
        (query + rng.normal(0, 0.2, 80)).tolist(),
    )
    found = paired_difference(a, b, range(80))
    assert found.low is not None and found.low > 0
    assert found.half_width and found.half_width < (mean_interval(a, range(80)).half_width or 0)


def test_labels_needed_shrink_the_interval_as_promised() -> None:
    a, b = scores(50, 2)
    now = bootstrap(kappa_of(a, b, LEVELS), range(50))
    more = labels_needed(now)
    assert more > 0 and now.half_width and now.half_width > 0.15
    widths = []
    for seed in range(8):
        a, b = scores(50 + more, seed)
        widths.append(bootstrap(kappa_of(a, b, LEVELS), range(50 + more), n=500).half_width or 9)
    assert math.isclose(sum(widths) / 8, 0.15, rel_tol=0.35)
    assert labels_needed(Interval(None, None, None, 0)) == 80
    assert labels_needed(Interval(0.6, 0.5, 0.7, 200)) == 0
