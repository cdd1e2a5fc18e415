"""Each statistic against scipy or against a definition written out by brute force, and where all seeds tie."""

from __future__ import annotations

import math
from itertools import combinations, product

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from lmtest.claims import statistics as st

RNG = np.random.default_rng(20)
PAIRS = [
    (RNG.normal(size=4), RNG.normal(0.5, 2, size=5)),
    (RNG.normal(size=6), RNG.normal(1, 0.1, size=3)),
    (np.array([0.0, 0.5, 0.5, 1.0]), np.array([0.5, 1.0, 1.0, 1.0])),
    (np.array([0.1, 0.1, 0.1]), np.array([0.3, 0.1, 0.2])),
]
TIED = [(np.full(4, 0.1), np.full(4, 0.1)), (np.full(3, 0.1), np.full(4, 0.7)), (np.full(3, 1.0), np.full(3, 0.0))]


def difference(x: np.ndarray, y: np.ndarray, axis: int = 0) -> np.ndarray:
    return np.round(x.mean(axis) - y.mean(axis), 12)


@pytest.mark.parametrize(("a", "b"), PAIRS + TIED)
@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_the_permutation_tests_are_scipys_exact_ones(a: np.ndarray, b: np.ndarray, margin: float) -> None:
    wanted = stats.permutation_test((b, a + margin), difference, alternative="greater", n_resamples=10**6)
    assert st.greater(a, b, margin) == pytest.approx(wanted.pvalue, abs=1e-12)
    if margin == 0:
        wanted = stats.permutation_test((b, a), difference, alternative="two-sided", n_resamples=10**6)
        assert st.apart(a, b) == pytest.approx(wanted.pvalue, abs=1e-12)


@pytest.mark.parametrize("x", [sample for pair in PAIRS + TIED for sample in pair])
def test_the_sign_flip_test_counts_all_flips(x: np.ndarray) -> None:
    sums = [np.dot(signs, x) for signs in product([-1, 1], repeat=len(x))]
    assert st.positive(x) == np.mean([s >= x.sum() - 1e-12 for s in sums])


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_every_split_of_pooled_seeds_is_rejected_at_most_as_often_as_its_p_value(a: np.ndarray, b: np.ndarray) -> None:
    pooled, size = np.concatenate([a, b]), len(a) + len(b)
    p = np.array(
        [
            st.greater(pooled[[i for i in range(size) if i not in chosen]], pooled[list(chosen)])
            for chosen in combinations(range(size), len(b))
        ]
    )
    assert all((p <= level).mean() <= level + 1e-12 for level in p)


def test_sampled_permutations_approach_the_exact_test_and_repeat_with_their_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a, b = PAIRS[0]
    exact = st.greater(a, b), st.positive(b)
    monkeypatch.setattr(st, "EXACT_SPLITS", 0)
    monkeypatch.setattr(st, "EXACT_FLIPS", 0)
    assert (st.greater(a, b), st.positive(b)) == pytest.approx(exact, abs=0.015)
    assert st.greater(a, b, seed=3) == st.greater(a, b, seed=3)
    assert len({st.greater(a, b, seed=seed) for seed in range(5)}) > 1
    assert st.greater(np.zeros(20), np.ones(20)) == st.smallest_greater(20, 20) == 1 / 20_001
    assert st.positive(np.ones(40)) == st.smallest_positive(40) == 1 / 20_001


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_the_smallest_p_values_are_reached_by_separated_samples_and_by_no_others(n: int) -> None:
    zeros, ones = np.zeros(n), np.ones(n)
    assert st.greater(zeros, ones) == st.smallest_greater(n, n) == pytest.approx(1 / math.comb(2 * n, n))
    assert st.apart(zeros, ones) == st.apart(ones, zeros) == pytest.approx(2 / math.comb(2 * n, n))
    assert st.positive(ones) == st.smallest_positive(n) == 0.5**n
    assert st.greater(ones, zeros) == st.greater(ones, ones) == st.apart(ones, ones) == st.positive(zeros) == 1.0


def test_rounding_does_not_break_ties() -> None:
    assert st.greater(np.full(4, 0.3), np.full(4, 0.1 + 0.2)) == 1.0
    assert st.greater(np.full(4, 0.7), np.full(4, 0.8), margin=0.1) == 1.0


@pytest.mark.parametrize(("a", "b"), PAIRS[:3])
def test_welch_and_student_intervals_are_scipys(a: np.ndarray, b: np.ndarray) -> None:
    wanted = stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
    found = st.welch(a, b)
    assert (found.lower, found.upper) == pytest.approx((wanted.low, wanted.high), rel=1e-9)
    assert found.effect == pytest.approx(b.mean() - a.mean())
    wanted = stats.ttest_1samp(b, 0).confidence_interval(0.95)
    assert (st.mean(b).lower, st.mean(b).upper) == pytest.approx((wanted.low, wanted.high), rel=1e-9)


@pytest.mark.parametrize(("a", "b"), PAIRS[:3])
@pytest.mark.parametrize("margin", [0.05, 0.5, 3.0])
def test_equivalence_is_the_worse_of_two_one_sided_welch_tests(a: np.ndarray, b: np.ndarray, margin: float) -> None:
    above = stats.ttest_ind(b + margin, a, equal_var=False, alternative="greater").pvalue
    below = stats.ttest_ind(b - margin, a, equal_var=False, alternative="less").pvalue
    assert st.equivalent(a, b, margin) == pytest.approx(max(above, below), rel=1e-9)


def test_against_a_constant_sample_only_the_other_one_varies() -> None:
    a, b = PAIRS[3]
    wanted = stats.ttest_1samp(b - a[0], 0).confidence_interval(0.95)
    assert (st.welch(a, b).lower, st.welch(a, b).upper) == pytest.approx((wanted.low, wanted.high), rel=1e-9)
    above = stats.ttest_1samp(b - a[0], -0.2, alternative="greater").pvalue
    below = stats.ttest_1samp(b - a[0], 0.2, alternative="less").pvalue
    assert st.equivalent(a, b, 0.2) == pytest.approx(max(above, below), rel=1e-9)


PAIRED = [(a, b) for a, b in [*PAIRS, *TIED] if len(a) == len(b)]
PAIRED += [(a, np.roll(b[: len(a)], 1)) for a, b in PAIRS[:1]] + [(RNG.random(8), RNG.random(8))]


@pytest.mark.parametrize(("a", "b"), PAIRED)
@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_paired_permutation_tests_are_scipys_exact_sign_flips(a: np.ndarray, b: np.ndarray, margin: float) -> None:
    def flipped(x: np.ndarray, axis: int = 0) -> np.ndarray:
        return np.round(x.mean(axis), 12)

    keys = {"permutation_type": "samples", "n_resamples": 10**6}
    wanted = stats.permutation_test((np.round(b - a - margin, 12),), flipped, alternative="greater", **keys)
    assert st.greater_pairs(a, b, margin) == pytest.approx(wanted.pvalue, abs=1e-12)
    if margin == 0:
        wanted = stats.permutation_test((np.round(b - a, 12),), flipped, alternative="two-sided", **keys)
        assert st.apart_pairs(a, b) == pytest.approx(wanted.pvalue, abs=1e-12)


@pytest.mark.parametrize(("a", "b"), [pair for pair in PAIRED if np.ptp(pair[1] - pair[0]) > 1e-9])
@pytest.mark.parametrize("margin", [0.05, 0.5, 3.0])
def test_paired_equivalence_is_the_worse_of_two_one_sided_t_tests(a: np.ndarray, b: np.ndarray, margin: float) -> None:
    above = stats.ttest_rel(b, a - margin, alternative="greater").pvalue
    below = stats.ttest_rel(b, a + margin, alternative="less").pvalue
    assert st.equivalent_pairs(a, b, margin) == pytest.approx(max(above, below), rel=1e-9)


def test_pairs_forget_what_seeds_share_and_rounding() -> None:
    a, ones = RNG.normal(0, 10, 8), np.ones(8)
    b = a + 0.1  # the same difference for every seed, up to rounding
    assert st.greater_pairs(a, b) == st.smallest_positive(8) < 0.05 < st.greater(a, b)
    assert st.greater_pairs(a, b, 0.1) == st.apart_pairs(a, b, 0.1) == st.greater_pairs(b, a) == 1.0
    assert st.equivalent_pairs(a, b, 0.2) < 1e-9
    assert st.equivalent_pairs(a, b, 0.1) == st.equivalent_pairs(b, a, 0.1) == 1.0
    assert st.equivalent_pairs(ones, ones, 0.1) == 0.0
    assert st.apart_pairs(ones, ones) == 1.0
    assert math.isnan(st.equivalent_pairs(ones[:1], ones[:1], 0.1))
    np.testing.assert_array_equal(st.differences(np.array([0.1 + 0.2, 0.7]), np.array([0.3, 0.8]), 0.0)[:1], 0.0)
    np.testing.assert_array_equal(st.differences(np.array([0.7]), np.array([0.8]), 0.1), 0.0)


def test_the_trend_of_a_seed_is_kendalls_tau_with_ties_as_nothing() -> None:
    values = np.round(RNG.random((5, 30)), 1)
    for seed, tau in enumerate(st.rises(list(values))):
        x = values[:, seed]
        assert tau == pytest.approx(sum(np.sign(x[j] - x[i]) for i, j in combinations(range(5), 2)) / 10)
    distinct = RNG.permuted(np.tile(np.arange(6.0)[:, None], (1, 20)), axis=0)
    for seed, tau in enumerate(st.rises(list(distinct))):
        assert tau == pytest.approx(stats.kendalltau(range(6), distinct[:, seed]).statistic)
    assert st.rises([np.full(3, 0.3), np.full(3, 0.1 + 0.2)]).tolist() == [0.0] * 3


def test_constant_samples_give_point_intervals_and_certain_equivalence() -> None:
    for value in (0.0, 0.1, 1.0):
        x = np.full(7, value)
        assert st.mean(x) == st.Estimate(value, value, value)
        assert st.welch(x, x) == st.spread(x) == st.Estimate(0.0, 0.0, 0.0)
        assert st.equivalent(x, x + 0.5, 0.6) == 0.0
        assert st.equivalent(x, x + 0.5, 0.4) == 1.0
    assert st.equivalent(np.zeros(5), np.ones(5), 1.0) == 1.0


def test_one_seed_has_no_interval() -> None:
    one = np.array([0.5])
    for estimate in (st.welch(one, np.ones(4)), st.mean(one), st.spread(one)):
        assert math.isnan(estimate.lower)
        assert math.isnan(estimate.upper)
    assert math.isnan(st.equivalent(one, one, 1.0))
    assert math.isnan(st.heterogeneous(np.ones((5, 1), dtype=bool)))


def test_the_spread_interval_leaves_two_and_a_half_percent_at_each_end() -> None:
    x = PAIRS[0][1]
    found, square = st.spread(x), x.var(ddof=1) * (len(x) - 1)
    assert found.effect == pytest.approx(x.std(ddof=1))
    assert stats.chi2.sf(square / found.lower**2, len(x) - 1) == pytest.approx(0.025)
    assert stats.chi2.cdf(square / found.upper**2, len(x) - 1) == pytest.approx(0.025)


def test_cochrans_q_is_its_formula() -> None:
    outcomes = RNG.random((30, 5)) < np.linspace(0.3, 0.7, 5)
    k, seeds, prompts = 5, outcomes.sum(0), outcomes.sum(1)
    q = (k - 1) * (k * (seeds**2).sum() - seeds.sum() ** 2) / (k * prompts.sum() - (prompts**2).sum())
    assert st.heterogeneous(outcomes) == pytest.approx(stats.chi2.sf(q, k - 1))
    assert st.heterogeneous(outcomes, margin=1e-9) == st.heterogeneous(outcomes)
    assert st.heterogeneous(outcomes, margin=5.0) > 0.999


@pytest.mark.parametrize("row", [[True] * 3, [False] * 3])
def test_seeds_that_agree_on_every_prompt_are_not_heterogeneous(row: list[bool]) -> None:
    assert st.heterogeneous(np.array([row, [True] * 3, [False] * 3])) == 1.0


def test_holm_steps_down_and_counts_a_missing_test_as_failed() -> None:
    p = [0.04, 0.001, math.nan, 0.012]
    wanted = []
    for value in (0.04, 0.001, 1.0, 0.012):
        ordered = sorted([0.04, 0.001, 1.0, 0.012])
        wanted.append(min(1.0, max((4 - i) * other for i, other in enumerate(ordered) if other <= value)))
    found = st.holm(p)
    assert math.isnan(found[2])
    np.testing.assert_allclose(found[[0, 1, 3]], [wanted[0], wanted[1], wanted[3]])
    assert len(st.holm([])) == 0


def test_holm_is_that_of_statsmodels_with_ties_too() -> None:
    for p in (RNG.random(12), np.round(RNG.random(12), 1), RNG.random(12) / 50, np.ones(3), np.zeros(3)):
        np.testing.assert_array_equal(st.holm(p), multipletests(p, method="holm")[1])


@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 5), (7, 3), (6, 6)])
def test_two_halves_count_the_splits_that_listing_them_counts(n: int, m: int) -> None:
    for digits in (1, 12):
        a, b = np.round(RNG.normal(size=n), digits), np.round(RNG.normal(size=m), digits)
        pooled = np.concatenate([a, b])
        sums = [sum(pooled[list(chosen)]) for chosen in combinations(range(n + m), m)]
        assert st.greater(a, b) == pytest.approx(np.mean(np.array(sums) >= b.sum() - 1e-9))
