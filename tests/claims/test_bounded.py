"""Tests for bounded values hold for every law: by enumeration of all samples of discrete laws, and against scipy and statsmodels."""

from __future__ import annotations

import math
from itertools import combinations_with_replacement, product

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from lmtest.claims import bounded
from lmtest.claims.bounded import SHARE
from lmtest.claims.statistics import Estimate, greater, spread

RNG = np.random.default_rng(8)
LEVELS = (0.01, 0.025, 0.05, 0.2)


def probability(counts: list[int], law: np.ndarray) -> float:
    return float(stats.multinomial.pmf(counts, sum(counts), law))


def two_values(successes: int, n: int) -> np.ndarray:
    return np.repeat([1.0, 0.0], [successes, n - successes])


@pytest.mark.parametrize("n", [1, 5, 8, 20])
def test_two_values_have_the_clopper_pearson_interval(n: int) -> None:
    for k in range(n + 1):
        wanted = proportion_confint(k, n, 0.05, "beta")
        assert bounded.mean_interval(two_values(k, n), SHARE) == pytest.approx(wanted, abs=1e-7)
        for bound in (0.2, 0.5, 0.9):
            assert bounded.above(two_values(k, n), 0.0, bound) == pytest.approx(stats.binom.sf(k - 1, n, bound))


@pytest.mark.parametrize("bound", [0.1, 0.45, 0.8])
@pytest.mark.parametrize("x", [RNG.random(6), np.array([0.2, 0.2, 0.7, 1.0, 1.0]), np.array([0.0, 0.45, 0.45, 0.9])])
def test_the_p_value_is_a_mean_with_random_weights_below_the_bound(x: np.ndarray, bound: float) -> None:
    draws = 200_000
    weights = RNG.dirichlet(np.ones(len(x) + 1), draws)
    wanted = float((weights @ np.append(x, 0.0) <= bound + 1e-12).mean())
    tolerance = 4 * math.sqrt(max(wanted * (1 - wanted), 1e-4) / draws)
    assert bounded.above(x, 0.0, bound) == pytest.approx(wanted, abs=tolerance)
    assert bounded.above(3 * x - 1, -1.0, 3 * bound - 1) == pytest.approx(bounded.above(x, 0.0, bound))


@pytest.mark.parametrize("values", [(0.0, 0.5, 1.0), (0.0, 0.9, 1.0), (0.4, 0.6, 1.0), (0.0, 0.05, 1.0)])
def test_no_law_of_three_values_is_rejected_more_often_than_the_level(values: tuple[float, ...]) -> None:
    n = 6
    samples = list(combinations_with_replacement(values, n))
    counts = [[sample.count(value) for value in values] for sample in samples]
    for first, second in product(np.linspace(0, 1, 9), repeat=2):
        if first + second > 1:
            continue
        law = np.array([first, second, 1 - first - second])
        mean = float(law @ values)
        p = np.array([bounded.above(np.array(sample), 0.0, mean) for sample in samples])
        weights = np.array([probability(count, law) for count in counts])
        assert all(weights[p <= level].sum() <= level + 1e-9 for level in LEVELS), (values, law)


@pytest.mark.parametrize("margin", [-0.3, 0.0, 0.2])
def test_no_two_laws_of_two_values_are_told_apart_more_often_than_the_level(margin: float) -> None:
    n = 6
    p = np.array(
        [[bounded.above_apart(two_values(i, n), two_values(j, n), margin) for j in range(n + 1)] for i in range(n + 1)]
    )
    for c in np.linspace(0, 1, 21):
        if 0 <= c + margin <= 1:
            weights = np.outer(stats.binom.pmf(range(n + 1), n, c), stats.binom.pmf(range(n + 1), n, c + margin))
            assert all(weights[p <= level].sum() <= level + 1e-9 for level in LEVELS), (margin, c)


@pytest.mark.parametrize("n", [3, 5, 8])
def test_separated_samples_have_the_p_value_of_fishers_combination(n: int) -> None:
    zeros, ones = np.zeros(n), np.ones(n)
    wanted = stats.combine_pvalues([0.5**n, 0.5**n], "fisher").pvalue  # the worst common mean is in the middle
    assert bounded.above_apart(zeros, ones, 0.0) == pytest.approx(wanted)
    assert bounded.above_apart(ones, zeros, 0.0) == bounded.above_apart(zeros, ones, 1.0) == 1.0
    assert bounded.above_apart(zeros, zeros, -1.0) < 0.05


@pytest.mark.parametrize(
    ("a", "b"), [(np.zeros(8), np.ones(8)), (np.ones(8), np.ones(8)), (RNG.random(5), RNG.random(5))]
)
def test_the_interval_of_a_difference_ends_where_the_test_stops_to_reject(a: np.ndarray, b: np.ndarray) -> None:
    lower, upper = bounded.difference_interval(a, b)
    assert -1 <= lower <= b.mean() - a.mean() <= upper <= 1
    if lower > -1:
        assert bounded.above_apart(a, b, lower) == pytest.approx(0.025, abs=1e-4)
    if upper < 1:
        assert bounded.above_apart(b, a, -upper) == pytest.approx(0.025, abs=1e-4)
    wide = bounded.difference_interval(4 * a - 1, 4 * b - 1, (-1.0, 3.0))
    assert wide == pytest.approx((4 * lower, 4 * upper), abs=1e-3)


@pytest.mark.parametrize("n", [5, 8, 20])
def test_the_spread_of_two_values_is_rarely_over_its_upper_end_or_told_from_the_margin(n: int) -> None:
    found = [two_values(k, n) for k in range(n + 1)]
    uppers = np.array([max(spread(x).upper, bounded.spread_upper(x, SHARE)) for x in found])
    for rate in np.linspace(0.02, 0.98, 49):
        weights = stats.binom.pmf(range(n + 1), n, rate)
        assert weights[uppers < math.sqrt(rate * (1 - rate)) - 1e-9].sum() <= 0.025 + 1e-9
    draws = RNG.random((4000, n)) < 0.2
    p = np.array([bounded.spread_above(row.astype(float), 0.4) for row in draws])
    assert (p <= 0.05).mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4000)
    assert bounded.spread_above(np.repeat([0.0, 1.0], n), 0.1) == pytest.approx(0.02**n)


def test_few_values_or_a_crowded_one_are_ties() -> None:
    assert bounded.tied(np.array([1.0] * 8))
    assert bounded.tied(np.array([0.0, 1.0, 0.0, 1.0]))
    assert bounded.tied(np.array([1.0] * 5 + [0.7, 0.8, 0.9]))
    assert not bounded.tied(np.array([1.0] * 4 + [0.6, 0.7, 0.8, 0.9]))
    assert bounded.tied(np.array([0.3, 0.1 + 0.2, 0.4]))  # two values, rounding aside


def test_the_wider_end_of_two_intervals_counts_and_a_missing_one_stays_missing() -> None:
    assert bounded.widest(Estimate(0.5, 0.4, 0.9), (0.3, 0.6)) == Estimate(0.5, 0.3, 0.9)
    found = bounded.widest(Estimate(0.5, math.nan, math.nan), (0.3, 0.6))
    assert math.isnan(found.lower)
    assert math.isnan(found.upper)


@pytest.mark.parametrize("n", [4, 6])
def test_ties_do_not_mislead_permutations_where_one_law_lies_below_the_other(n: int) -> None:
    p = np.array([[greater(two_values(i, n), two_values(j, n)) for j in range(n + 1)] for i in range(n + 1)])
    for a, b in product(np.linspace(0, 1, 11), repeat=2):
        if b <= a:
            weights = np.outer(stats.binom.pmf(range(n + 1), n, a), stats.binom.pmf(range(n + 1), n, b))
            assert all(weights[p <= level].sum() <= level + 1e-9 for level in LEVELS), (a, b)
