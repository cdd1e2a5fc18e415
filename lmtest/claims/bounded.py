"""Tests and intervals for the mean of bounded values, whatever their law: what ties leave of the evidence.

Eight seeds that all score 1.0 say nothing about how a rare failing seed would score, so symmetry, shifts and t tests have no
ground to stand on. Known bounds have: Gaffke's statistic, which for two values is the exact binomial (Clopper–Pearson) test, and
for n seeds at the upper end 1 tells them from a mean of b with p = bⁿ.

Gaffke, Mathematical Methods of Statistics 14(4), 2005; for two values its level is a theorem, for other laws a conjecture that no
counterexample is known to. Two samples: Fisher's combination of a test of each, at the worst mean that they could share.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from scipy.special import stdtr

from lmtest.claims.statistics import ALPHA, Estimate, Sample

Range = tuple[float, float]
"""Between what a value is known to lie."""

SHARE: Range = (0.0, 1.0)
GRID = 16
"""Steps of the search for the worst common mean, before its neighbourhood is searched more finely."""
DIGITS = 12
"""Values that agree to so many digits are one: rounding is no variety."""


def tied(x: Sample) -> bool:
    """Whether a sample has fewer than three distinct values, or more than half of its seeds at one of them."""
    counts = Counter(x.round(DIGITS).tolist())
    return len(counts) < 3 or max(counts.values()) > len(x) / 2


def above(x: Sample, low: float, bound: float) -> float:
    """p value of mean(x) > bound, for values that are nowhere below `low`; it needs no upper end."""
    return _above(_key(x, low), bound - low)


def mean_interval(x: Sample, within: Range, level: float = ALPHA) -> Range:
    """The two-sided interval of the mean, at 1 − `level`, for values within the given range."""
    low, high = within
    return low + _lower(_key(x, low), high - low, level / 2), high - _lower(_key(-x, -high), high - low, level / 2)


def above_apart(a: Sample, b: Sample, margin: float, within: Range = SHARE) -> float:
    """p value of mean(b) − mean(a) > margin for independent samples of values within one range, two seeds or more each.

    A sample that ties is tested for any law, one that does not by Student's t.
    """
    low, high = within
    width = high - low
    first, second = _Test(_key(-a, -high), tied(a)), _Test(_key(b, low), tied(b))
    return _apart(first, second, margin / width, width)


def difference_interval(a: Sample, b: Sample, within: Range = SHARE) -> Range:
    """The two-sided 95 % interval of mean(b) − mean(a): the margins that `above_apart` does not reject, either way."""
    width = within[1] - within[0]

    def lowest(x: Sample, y: Sample) -> float:
        return width * _root(lambda m: above_apart(x, y, m * width, within), -1.0, 1.0, ALPHA / 2)

    return lowest(a, b), -lowest(b, a)


def widest(estimate: Estimate, ends: Range) -> Estimate:
    """The estimate with an interval that holds both its own and the given one."""
    return Estimate(estimate.effect, min(estimate.lower, ends[0]), max(estimate.upper, ends[1]))


def spread_upper(x: Sample, within: Range) -> float:
    """An upper end (97.5 %) of the standard deviation: that of the root mean square distance from the commonest value."""
    [(centre, _)] = Counter(x.tolist()).most_common(1)
    farthest = max(within[1] - centre, centre - within[0]) ** 2
    return math.sqrt(max(0.0, mean_interval((x - centre) ** 2, (0.0, farthest))[1]))


def spread_above(x: Sample, margin: float) -> float:
    """p value of "the standard deviation is > margin": half the squared differences of disjoint pairs have the variance as mean."""
    half = len(x) // 2
    return above((x[:half] - x[half : 2 * half]) ** 2 / 2, 0.0, margin**2)


def _key(x: Sample, low: float) -> tuple[float, ...]:
    """Heights over the lower end, ascending; equal samples, however ordered, are computed once."""
    return tuple(sorted(max(0.0, round(value - low, DIGITS)) for value in x.tolist()))


@lru_cache(maxsize=4096)
def _above(heights: tuple[float, ...], bound: float) -> float:
    """P(Σ Dᵢ hᵢ ≤ bound), D uniform on the simplex over the heights and one more at 0.

    With Dᵢ = Eᵢ / ΣE of exponentials it is P(Σ gains · E ≤ Σ losses · E): a race of two relay teams whose runners forget how
    long they have been running, so that runner g comes in before runner l with probability l / (g + l).
    """
    gains = [h - bound for h in heights if h > bound]
    losses = [bound - h for h in (0.0, *heights) if h < bound]
    if not losses or not gains:
        return float(not gains)
    at = [1.0] + [0.0] * (len(losses) - 1)  # by how many losses have come in before the gains so far
    for gain in gains:
        late = 0.0
        for j, loss in enumerate(losses):
            here = at[j] + late
            at[j] = here * loss / (gain + loss)
            late = here * gain / (gain + loss)
    return min(1.0, math.fsum(at))


@lru_cache(maxsize=4096)
def _lower(heights: tuple[float, ...], width: float, level: float) -> float:
    return _root(lambda bound: _above(heights, bound), 0.0, width, level)


class _Test(NamedTuple):
    """A sample, as heights, and which test its mean is put to."""

    heights: tuple[float, ...]
    for_any_law: bool

    def above(self, bound: float) -> float:
        """p value of mean > bound."""
        if self.for_any_law:
            return _above(self.heights, bound)
        n = len(self.heights)
        mean = math.fsum(self.heights) / n
        error = math.sqrt(math.fsum((h - mean) ** 2 for h in self.heights) / (n - 1) / n)
        return float(stdtr(n - 1, (bound - mean) / error))


@lru_cache(maxsize=4096)
def _apart(a: _Test, b: _Test, margin: float, width: float) -> float:
    """The heights of `a` are those below the upper end, of `b` those over the lower one; the margin is in widths."""

    def product(c: float) -> float:  # the mean of a is c or more, and hence that of b would be c + margin or more
        return a.above((1 - c) * width) * b.above(min(max((c + margin) * width, 0.0), width))

    if margin >= 1:
        return 1.0
    low, high = max(0.0, min(1.0, -margin)), min(1.0, 1 - margin)
    if low == high:
        return _fisher(product(low))
    # Student's tails make two peaks possible: a grid finds the higher one.
    step = (high - low) / GRID
    largest, best = max((product(low + i * step), i) for i in range(GRID + 1))
    ends = low + max(0, best - 1) * step, low + min(GRID, best + 1) * step
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(lambda c: -product(c), bounds=ends, method="bounded", options={"xatol": 1e-4})
    return _fisher(max(-float(found.fun), largest))


def _fisher(product: float) -> float:
    """P(U·V ≤ product) for independent uniforms."""
    return product * (1 - math.log(product)) if 0 < product < 1 else float(product >= 1)


def _root(p: Callable[[float], float], low: float, high: float, level: float) -> float:
    """The bound, between two ends, up to which the ascending p stays at or below the level."""
    if p(low) > level:
        return low
    if p(high) <= level:
        return high
    from scipy.optimize import brentq

    return float(brentq(lambda bound: p(bound) - level, low, high, xtol=1e-8))
