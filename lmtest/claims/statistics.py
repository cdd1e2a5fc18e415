"""The statistics behind the verdicts: pure functions on samples of seeds, safe where all seeds tie.

A sample is a float array [n], one finite value a seed. Differences are later minus earlier: mean(b) − mean(a).
Samples are independent, or paired: then they have one length, and the i-th values are of one seed.
With fewer than two seeds in a sample an interval is NaN, and so is a p value that rests on one.
Statsmodels and scipy.stats are loaded where they are used: half a second that most commands need not wait for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
import numpy.typing as npt
from scipy.special import chdtrc, chdtri

Sample = npt.NDArray[np.float64]

ALPHA = 0.05
EXACT_SPLITS = 200_000
EXACT_FLIPS = 16
RANDOM_DRAWS = 20_000
TIE = 1e-10
"""Sums closer than this, relative to the largest value, are ties: rounding must not decide a rank."""


@dataclass(frozen=True)
class Estimate:
    """An effect with its two-sided 95 % interval; the interval is a point where nothing varies."""

    effect: float
    lower: float
    upper: float


def welch(a: Sample, b: Sample) -> Estimate:
    """mean(b) − mean(a) with Welch's interval."""
    effect = float(b.mean() - a.mean())
    if min(len(a), len(b)) < 2:
        return Estimate(effect, math.nan, math.nan)
    if _constant(a) and _constant(b):
        effect = float(b[0] - a[0])
        return Estimate(effect, effect, effect)
    from statsmodels.stats.weightstats import CompareMeans

    lower, upper = CompareMeans.from_data(b, a).tconfint_diff(ALPHA, usevar="unequal")
    return Estimate(effect, float(lower), float(upper))


def mean(x: Sample) -> Estimate:
    """The mean with Student's interval."""
    if len(x) < 2:
        return Estimate(float(x.mean()), math.nan, math.nan)
    if _constant(x):
        return Estimate(float(x[0]), float(x[0]), float(x[0]))
    from statsmodels.stats.weightstats import DescrStatsW

    lower, upper = DescrStatsW(x).tconfint_mean(ALPHA)
    return Estimate(float(x.mean()), float(lower), float(upper))


def spread(x: Sample) -> Estimate:
    """The standard deviation (ddof 1) with its chi-square interval."""
    if len(x) < 2:
        return Estimate(math.nan, math.nan, math.nan)
    freedom = len(x) - 1
    sd = 0.0 if _constant(x) else float(x.std(ddof=1))
    low, high = chdtri(freedom, np.array([ALPHA / 2, 1 - ALPHA / 2]))
    return Estimate(sd, sd * math.sqrt(freedom / low), sd * math.sqrt(freedom / high))


def equivalent(a: Sample, b: Sample, margin: float) -> float:
    """p value of |mean(b) − mean(a)| < margin: two one-sided Welch t tests; 0 or 1 where neither sample varies."""
    if min(len(a), len(b)) < 2:
        return math.nan
    if _constant(a) and _constant(b):
        return float(abs(b[0] - a[0]) >= margin)
    from statsmodels.stats.weightstats import ttost_ind

    return float(ttost_ind(a, b, -margin, margin, usevar="unequal")[0])


def greater(a: Sample, b: Sample, margin: float = 0.0, seed: int = 0) -> float:
    """p value of mean(b) − mean(a) > margin: permutation test on the difference in means, ties counted against.

    Over all splits where there are at most EXACT_SPLITS, else over RANDOM_DRAWS drawn from `seed`, plus one.
    """
    n, m = len(a), len(b)
    pooled = np.concatenate([b, a + margin])  # the split's sum decides: the sum of all is the same
    threshold = pooled[:m].sum() - TIE * np.abs(pooled).max()
    if is_exact_split(n, m):
        return _splits_reaching(pooled, m, threshold) / math.comb(n + m, m)
    return (1 + int((_drawn_splits(n + m, m, seed) @ pooled >= threshold).sum())) / (1 + RANDOM_DRAWS)


def apart(a: Sample, b: Sample, margin: float = 0.0, seed: int = 0) -> float:
    """p value of |mean(b) − mean(a)| > margin: twice the smaller of the two one-sided permutation tests, at most 1."""
    return min(1.0, 2 * min(greater(a, b, margin, seed), greater(b, a, margin, seed)))


def positive(x: Sample, seed: int = 0) -> float:
    """p value of mean(x) > 0: sign-flip permutation test (the null: symmetric about 0), ties counted against.

    Over all 2^n flips up to n = EXACT_FLIPS, else over RANDOM_DRAWS drawn from `seed`, plus one.
    """
    threshold = x.sum() - TIE * np.abs(x).max()
    if len(x) <= EXACT_FLIPS:
        sums = np.zeros(1)
        for value in x:
            sums = np.concatenate([sums + value, sums - value])
        return float((sums >= threshold).mean())
    return (1 + int((_drawn_flips(len(x), seed) @ x >= threshold).sum())) / (1 + RANDOM_DRAWS)


def differences(a: Sample, b: Sample, margin: float = 0.0) -> Sample:
    """b − a − margin of each seed of paired samples; rounding is no difference."""
    found = b - a - margin
    found[np.abs(found) <= TIE * (np.abs(a) + np.abs(b) + abs(margin))] = 0.0
    return found


def equivalent_pairs(a: Sample, b: Sample, margin: float) -> float:
    """p value of |mean of b − a| < margin over paired seeds: two one-sided t tests; 0 or 1 where differences are all one."""
    if len(a) < 2:
        return math.nan
    from statsmodels.stats.weightstats import DescrStatsW

    sides = differences(a, b, -margin), differences(b, a, -margin)
    return max(
        float(side[0] <= 0) if _constant(side) else float(DescrStatsW(side).ttest_mean(alternative="larger")[1])
        for side in sides
    )


def greater_pairs(a: Sample, b: Sample, margin: float = 0.0) -> float:
    """p value of mean of b − a > margin over paired seeds: sign-flip permutation test of the differences."""
    return positive(differences(a, b, margin))


def apart_pairs(a: Sample, b: Sample, margin: float = 0.0) -> float:
    """p value of |mean of b − a| > margin over paired seeds: twice the smaller of the two sign-flip tests, at most 1."""
    return min(1.0, 2 * min(greater_pairs(a, b, margin), greater_pairs(b, a, margin)))


def rises(values: Sequence[Sample]) -> Sample:
    """Kendall's τ_a of each seed's values (paired samples, in order) with their places, in [−1, 1]; a tie counts 0."""
    signs = np.stack([np.sign(differences(a, b)) for a, b in combinations(values, 2)])
    return np.asarray(signs.mean(0), dtype=np.float64)


def rank_correlations(predictors: Sequence[Sample], outcomes: Sequence[Sample]) -> Sample:
    """Spearman's ρ of each seed across groups (two paired samples a group), in [−1, 1]; NaN where one of the two is all tied.

    Tied values share their mean rank. Where at most one of the two has ties, ρ is symmetric about 0 for outcomes in random order.
    """
    x, y = _centred_ranks(predictors), _centred_ranks(outcomes)
    scale = np.sqrt((x * x).sum(0) * (y * y).sum(0))
    rhos = np.divide((x * y).sum(0), scale, out=np.full(scale.shape, math.nan), where=scale > 0)
    return np.asarray(rhos, dtype=np.float64)


def all_tied(values: Sequence[Sample]) -> npt.NDArray[np.bool_]:
    """Whether each seed has the same value in all groups (one paired sample a group), rounding aside."""
    return np.asarray((_centred_ranks(values) == 0).all(0), dtype=np.bool_)


def heterogeneous(outcomes: npt.NDArray[np.bool_], margin: float = 0.0) -> float:
    """p value of "seeds differ, with SD > margin", from outcomes [prompts, seeds]: Cochran's Q.

    Q knows no margin: where one is stated, the chi-square test of the seed means' variance must reject as well.
    1 where every prompt has one outcome for all seeds; NaN for fewer than two seeds.
    """
    if outcomes.shape[1] < 2:
        return math.nan
    if not (outcomes != outcomes[:, :1]).any():
        return 1.0
    from statsmodels.stats.contingency_tables import cochrans_q

    p = float(cochrans_q(outcomes.astype(int)).pvalue)
    if margin > 0:
        freedom = outcomes.shape[1] - 1
        p = max(p, float(chdtrc(freedom, freedom * (spread(outcomes.mean(0)).effect / margin) ** 2)))
    return p


def holm(p_values: npt.ArrayLike) -> Sample:
    """Holm's adjusted p values [k]; a NaN stays NaN and weighs on the others as a test that failed."""
    raw = np.asarray(p_values, dtype=np.float64)
    known = np.nan_to_num(raw, nan=1.0)
    # Not statsmodels' multipletests: it collects garbage at every call, and attainability calls this for 64 numbers of seeds.
    order = np.argsort(known)
    adjusted = np.empty_like(known)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(known[order] * np.arange(len(known), 0, -1)))
    return np.where(np.isnan(raw), np.nan, adjusted)


def is_exact_split(n: int, m: int) -> bool:
    """Whether `greater` and `apart` go through all splits of samples of these sizes."""
    return math.comb(n + m, m) <= EXACT_SPLITS


def smallest_greater(n: int, m: int) -> float:
    """The smallest p value that `greater` can give with n and m seeds; `apart` gives at least twice that."""
    return 1 / math.comb(n + m, m) if is_exact_split(n, m) else 1 / (1 + RANDOM_DRAWS)


def smallest_positive(n: int) -> float:
    """The smallest p value that `positive` and `greater_pairs` can give with n seeds; `apart_pairs` gives at least twice that."""
    return 0.5**n if n <= EXACT_FLIPS else 1 / (1 + RANDOM_DRAWS)


def _centred_ranks(values: Sequence[Sample]) -> Sample:
    """Ranks [groups, seeds] of each seed's values among the groups, less their mean: exact in floats."""
    table = np.stack(values)
    order = table.argsort(0)
    ascending = np.take_along_axis(table, order, 0)
    steps = np.cumsum(differences(ascending[:-1], ascending[1:]) > 0, axis=0)  # rounding is no step
    places = np.zeros_like(table)
    np.put_along_axis(places, order[1:], steps.astype(np.float64), 0)
    from scipy.stats import rankdata

    return np.asarray(rankdata(places, axis=0) - (len(table) + 1) / 2, dtype=np.float64)


def _constant(x: Sample) -> bool:
    return bool((x == x[0]).all())  # the variance of equal floats need not be 0


def _splits_reaching(pooled: Sample, chosen: int, threshold: float) -> int:
    """How many choices of so many values have a sum of at least the threshold: the two halves' sums meet in the middle."""
    half = len(pooled) // 2
    (left, left_sizes), (right, right_sizes) = _subsets(pooled[:half]), _subsets(pooled[half:])
    found = 0
    for size in range(chosen + 1):
        ascending = np.sort(right[right_sizes == chosen - size])
        needed = threshold - left[left_sizes == size]
        found += int((len(ascending) - np.searchsorted(ascending, needed)).sum())
    return found


def _subsets(values: Sample) -> tuple[Sample, npt.NDArray[np.int64]]:
    """The sums of all subsets, and how many values each has."""
    sums, sizes = np.zeros(1), np.zeros(1, dtype=np.int64)
    for value in values:
        sums, sizes = np.concatenate([sums, sums + value]), np.concatenate([sizes, sizes + 1])
    return sums, sizes


@lru_cache(maxsize=4)
def _drawn_splits(size: int, chosen: int, seed: int) -> Sample:
    """RANDOM_DRAWS random choices of so many values, as rows of 0 and 1."""
    first = np.tile(np.arange(size) < chosen, (RANDOM_DRAWS, 1))
    return np.random.default_rng(seed).permuted(first, axis=1).astype(np.float64)


@lru_cache(maxsize=4)
def _drawn_flips(size: int, seed: int) -> Sample:
    return np.random.default_rng(seed).choice([-1.0, 1.0], size=(RANDOM_DRAWS, size))
