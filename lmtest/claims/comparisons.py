"""A claim's samples in, its comparisons out: every pair or group is put to its test, and has its interval.

Where the values of seeds are known to be bounded and tie, what assumes a law of theirs has no ground: the interval then holds the
one that is right for every law too (`bounded`), and p is the larger of the usual one and the one for every law. That is a guard.
A permutation test of "no difference at all", without a margin, assumes nothing but that the groups could be exchanged: it is exact
with ties as without, and has no need of a guard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

from lmtest.claims import bounded
from lmtest.claims import statistics as st
from lmtest.claims.bounded import Range
from lmtest.claims.groups import Pairwise
from lmtest.claims.samples import Samples
from lmtest.claims.schema import Claim, Correlation, Difference, Equivalence, Heterogeneity, Order, Threshold, Trend

CORRELATIONS: Range = (-1.0, 1.0)
"""The range of Kendall's τ and Spearman's ρ."""


@dataclass(frozen=True)
class Comparison:
    """One pair or group of a claim: its test, and whether its interval lies wholly outside the claimed region."""

    name: str
    estimate: st.Estimate
    p_value: float
    refuted: bool
    strength: float
    """How far the effect goes the claim's way; the weakest comparison speaks for the claim."""
    guarded: bool


def comparisons(claim: Claim, samples: Samples) -> list[Comparison]:
    """The comparisons of a claim, each of which must hold; the samples have to be usable."""
    x = samples.values
    match claim:
        case Equivalence():
            return [_equivalence(claim, _contrast(claim, samples, a, b)) for a, b in combinations(x, 2)]
        case Order():
            return [_order(claim, _contrast(claim, samples, a, b)) for a, b in pairwise(x)]
        case Difference():
            return [_difference(claim, _contrast(claim, samples, a, b)) for a, b in combinations(x, 2)]
        case Trend():
            taus = st.rises(list(x.values())) * (1 if claim.direction == "rising" else -1)
            return [positive(f"the trend along {', '.join(x)}", taus, 0.0, CORRELATIONS, exchangeable=True)]
        case Correlation():
            found = st.rank_correlations(list(samples.predictors.values()), list(x.values()))
            rhos = found * (1 if claim.direction == "rising" else -1)
            name = f"the correlation across {', '.join(x)}"
            return [positive(name, rhos, claim.margin, CORRELATIONS, exchangeable=claim.margin == 0)]
        case Threshold():
            return [positive(name, distances, 0.0, samples.ranges.get(name)) for name, distances in x.items()]
        case Heterogeneity():
            return [_heterogeneity(claim, samples)]


def outcome(compared: Sequence[Comparison]) -> tuple[float, bool]:
    """The raw p value of a claim, and whether it is refuted: each of its comparisons must hold."""
    return float(np.max([comparison.p_value for comparison in compared])), any(c.refuted for c in compared)


def test_name(claim: Claim, samples: Samples, guarded: bool) -> str:
    """Which test a claim was put to; `guarded`: whether seeds tied in some comparison."""
    return _usual_test(claim, samples) + ("; where seeds tie, guarded by Gaffke's bound" if guarded else "")


@dataclass(frozen=True)
class _Contrast:
    """Two samples, and how the second differs from the first."""

    name: str
    a: st.Sample
    b: st.Sample
    paired: bool
    within: Range | None

    @property
    def differences(self) -> st.Sample:
        return st.differences(self.a, self.b)

    @property
    def reach(self) -> Range:
        """The range of differences."""
        low, high = self.within or (-np.inf, np.inf)
        return low - high, high - low

    @property
    def guarded(self) -> bool:
        samples = [self.differences] if self.paired else [self.a, self.b]
        return any(_guarded(x, self.within) for x in samples)

    @property
    def estimate(self) -> st.Estimate:
        if self.paired:
            return _mean(self.differences, self.reach if self.within else None)
        estimate = st.welch(self.a, self.b)
        if self.guarded and self.within:
            estimate = bounded.widest(estimate, bounded.difference_interval(self.a, self.b, self.within))
        return estimate

    def above(self, margin: float) -> float:
        """p value of mean(b) − mean(a) > margin."""
        usual = (st.greater_pairs if self.paired else st.greater)(self.a, self.b, margin)
        return max(usual, self._guard(margin))

    def apart(self, margin: float) -> float:
        """p value of |mean(b) − mean(a)| > margin."""
        return min(1.0, 2 * min(self.above(margin), self._swapped.above(margin)))

    def close(self, margin: float) -> float:
        """p value of |mean(b) − mean(a)| < margin."""
        usual = (st.equivalent_pairs if self.paired else st.equivalent)(self.a, self.b, margin)
        return max(usual, self._guard(-margin), self._swapped._guard(-margin))

    @property
    def _swapped(self) -> _Contrast:
        return _Contrast(self.name, self.b, self.a, self.paired, self.within)

    def _guard(self, margin: float) -> float:
        """p value of mean(b) − mean(a) > margin for any law; 0 where none is needed."""
        if not self.guarded or not self.within or margin == 0:
            return 0.0
        if self.paired:
            return bounded.above(self.differences, self.reach[0], margin)
        return bounded.above_apart(self.a, self.b, margin, self.within)


def _contrast(claim: Pairwise, samples: Samples, a: str, b: str) -> _Contrast:
    x, ranges = samples.values, samples.ranges
    within = ranges[a] if a in ranges and ranges[a] == ranges.get(b) else None
    return _Contrast(f"{b} − {a}", x[a], x[b], claim.is_paired, within)


def _equivalence(claim: Equivalence, pair: _Contrast) -> Comparison:
    estimate = pair.estimate
    outside = estimate.lower > claim.margin or estimate.upper < -claim.margin
    return Comparison(pair.name, estimate, pair.close(claim.margin), outside, -abs(estimate.effect), pair.guarded)


def _order(claim: Order, pair: _Contrast) -> Comparison:
    estimate = pair.estimate
    p, outside = pair.above(claim.margin), estimate.upper <= claim.margin
    return Comparison(pair.name, estimate, p, outside, estimate.effect, pair.guarded)


def _difference(claim: Difference, pair: _Contrast) -> Comparison:
    estimate = pair.estimate
    inside = claim.margin > 0 and -claim.margin <= estimate.lower and estimate.upper <= claim.margin
    return Comparison(pair.name, estimate, pair.apart(claim.margin), inside, abs(estimate.effect), pair.guarded)


def positive(name: str, x: st.Sample, margin: float, within: Range | None, exchangeable: bool = False) -> Comparison:
    """One value a seed, whose mean is to be > margin; `within`: between what the values are known to lie.

    `exchangeable`: whether groups that do not differ at all make the values symmetric about 0.
    """
    estimate, guarded = _mean(x, within), _guarded(x, within)
    p = st.positive(st.differences(np.zeros_like(x), x, margin))
    if guarded and within and not exchangeable:
        p = max(p, bounded.above(x, within[0], margin))
    return Comparison(name, estimate, p, estimate.upper <= margin, estimate.effect, guarded)


def _heterogeneity(claim: Heterogeneity, samples: Samples) -> Comparison:
    assert samples.outcomes is not None  # usable samples have them
    [(name, means)] = samples.values.items()
    within = samples.ranges.get(name)
    estimate, guarded = st.spread(means), _guarded(means, within)
    p = st.heterogeneous(samples.outcomes, claim.margin)
    if guarded and within:
        estimate = bounded.widest(estimate, (0.0, bounded.spread_upper(means, within)))
        p = max(p, bounded.spread_above(means, claim.margin)) if claim.margin > 0 else p
    return Comparison(name, estimate, p, estimate.upper <= claim.margin, estimate.effect, guarded)


def _mean(x: st.Sample, within: Range | None) -> st.Estimate:
    estimate = st.mean(x)
    return bounded.widest(estimate, bounded.mean_interval(x, within)) if within and _guarded(x, within) else estimate


def _guarded(x: st.Sample, within: Range | None) -> bool:
    return within is not None and len(x) > 1 and bounded.tied(x)


def _usual_test(claim: Claim, samples: Samples) -> str:
    sizes = [len(values) for values in samples.values.values()]
    flips = "exact" if all(n <= st.EXACT_FLIPS for n in sizes) else "sampled"
    match claim:
        case Equivalence():
            return f"two one-sided {'t tests of paired differences' if claim.paired else 'Welch t tests'}"
        case Heterogeneity():
            return "Cochran's Q" if claim.margin == 0 else "Cochran's Q and chi-square of the SD"
        case Threshold():
            return f"{flips} sign-flip, one-sided"
        case Trend():
            return f"{flips} sign-flip of Kendall's τ, one-sided"
        case Correlation():
            return f"{flips} sign-flip of Spearman's ρ, one-sided"
        case Order() | Difference():
            sides = "one-sided" if isinstance(claim, Order) else "two-sided"
            if claim.paired:
                return f"{flips} sign-flip of paired differences, {sides}"
            exact = all(st.is_exact_split(n, m) for n, m in combinations(sizes, 2))
            return f"{'exact' if exact else 'sampled'} permutation of means, {sides}"
