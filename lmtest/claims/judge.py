"""Tables in, verdicts out: each claim is put to its test, and Holm's correction runs over all claims of the study."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import pandas as pd

from lmtest.claims import statistics as st
from lmtest.claims.groups import Pairwise
from lmtest.claims.samples import Samples, Tables, draw_samples, shortages
from lmtest.claims.schema import Claim, Correlation, Difference, Equivalence, Heterogeneity, Order, Threshold, Trend

VERDICT_COLUMNS = {
    "claim": "str",
    "statement": "str",
    "verdict": "str",
    "effect": "float64",
    "lower": "float64",
    "upper": "float64",
    "p_value": "float64",
    "seeds_used": "int64",
    "seeds_asked": "int64",
    "published": "float64",
    "source": "str",
    "p_raw": "float64",
    "test": "str",
    "note": "str",
}
"""The columns of the verdict table, in order, with their types."""


@dataclass(frozen=True)
class Comparison:
    """One pair or group of a claim: its test, and whether its interval lies wholly outside the claimed region."""

    name: str
    estimate: st.Estimate
    p_value: float
    refuted: bool
    strength: float
    """How far the effect goes the claim's way; the weakest comparison speaks for the claim."""


def judge(
    claims: Sequence[Claim],
    measurements: pd.DataFrame,
    certificates: pd.DataFrame,
    completions: pd.DataFrame,
    seeds_asked: int,
    required_saturated: float,
) -> pd.DataFrame:
    """The verdict table of a study (VERDICT_COLUMNS), one row a claim, in the order of `claims`.

    `effect lower upper` are in the measure's unit (nats per string for "kl"), with a 95 % interval over seeds, and
    belong to the comparison that goes least the claim's way (where some refute the claim, the worst of those):

    - equivalence, difference: later minus earlier group; order: next minus previous;
    - trend: Kendall's τ of the values along the list, positive on the claimed side;
    - correlation: Spearman's ρ between predictor and measure across the groups, positive on the claimed side;
    - threshold: distance from the bound, positive on the claimed side (for "below" too);
    - heterogeneity: the standard deviation of the seeds' means.

    `p_raw` is the largest p value of the claim's comparisons, each of which must hold; `p_value` is Holm's over all
    claims, where a claim that could not be tested counts as failed. Supported: p_value ≤ 0.05. Refuted: the interval
    of some comparison lies wholly outside the claimed region. A margin or bound itself belongs to the region of an
    equivalence alone; a difference without a margin cannot be refuted. Undecided: the rest, and whatever the numbers
    say, a claim with a seed missing (of `seeds_asked`, per group; or without its pair), with a value that is not finite,
    with a seed whose values or predictors are all one and so have no correlation, or with less than the share
    `required_saturated` of the seeds asked saturated in some group: `note` says which.
    A paired claim uses the seeds that all its groups have; `note` names the groups that an effect is of.

    Raises UsageError where a claim does not say which of several models it is about.
    """
    tables = Tables(measurements, certificates, completions)
    findings = [_examine(claim, tables, seeds_asked, required_saturated) for claim in claims]
    table = pd.DataFrame([row for row, _ in findings], columns=list(VERDICT_COLUMNS))
    table["p_value"] = st.holm(table["p_raw"].to_numpy(dtype=np.float64))
    table["verdict"] = [
        reached or ("supported" if p <= st.ALPHA else "undecided")
        for p, (_, reached) in zip(table["p_value"], findings, strict=True)
    ]
    return table.astype(VERDICT_COLUMNS)


def _examine(claim: Claim, tables: Tables, asked: int, required: float) -> tuple[dict[str, object], str | None]:
    """A claim → its row, and its verdict unless that is for Holm's p value to say."""
    samples = draw_samples(claim, tables)
    notes = samples.notes + shortages(claim, samples, tables, asked, required)
    compared = _compare(claim, samples) if samples.usable else []
    refuting = [comparison for comparison in compared if comparison.refuted]
    reached = "undecided" if notes else "refuted" if refuting else None
    estimate = st.Estimate(math.nan, math.nan, math.nan)
    if compared:
        weakest = min(refuting or compared, key=lambda comparison: comparison.strength)
        estimate = weakest.estimate
        # Sentences name variants and models, seldom prompt sets.
        named = len(compared) > 1 or any(group.prompt_set for group in claim.groups)
        notes += [f"the effect is that of {weakest.name}"] if named else []
    row = {
        "claim": claim.id,
        "statement": claim.statement,
        "effect": estimate.effect,
        "lower": estimate.lower,
        "upper": estimate.upper,
        "p_raw": float(np.max([comparison.p_value for comparison in compared])) if compared else math.nan,
        "seeds_used": samples.seeds_used,
        "seeds_asked": asked,
        "published": math.nan if claim.published is None else claim.published,
        "source": claim.source,
        "test": _test_name(claim, samples),
        "note": "; ".join(notes),
    }
    return row, reached


def _compare(claim: Claim, samples: Samples) -> list[Comparison]:
    x = samples.values
    match claim:
        case Equivalence():
            return [_equivalence(claim, x, a, b) for a, b in combinations(x, 2)]
        case Order():
            return [_order(claim, x, a, b) for a, b in pairwise(x)]
        case Difference():
            return [_difference(claim, x, a, b) for a, b in combinations(x, 2)]
        case Trend():
            return [_trend(claim, x)]
        case Correlation():
            return [_correlation(claim, samples)]
        case Threshold():
            return [_threshold(name, distances) for name, distances in x.items()]
        case Heterogeneity():
            assert samples.outcomes is not None  # usable samples have them
            [(name, means)] = x.items()
            estimate = st.spread(means)
            p = st.heterogeneous(samples.outcomes, claim.margin)
            return [Comparison(name, estimate, p, estimate.upper <= claim.margin, estimate.effect)]


def _equivalence(claim: Equivalence, x: dict[str, st.Sample], a: str, b: str) -> Comparison:
    estimate = _estimate(claim, x[a], x[b])
    outside = estimate.lower > claim.margin or estimate.upper < -claim.margin
    p = (st.equivalent_pairs if claim.paired else st.equivalent)(x[a], x[b], claim.margin)
    return Comparison(f"{b} − {a}", estimate, p, outside, -abs(estimate.effect))


def _order(claim: Order, x: dict[str, st.Sample], a: str, b: str) -> Comparison:
    estimate = _estimate(claim, x[a], x[b])
    p = (st.greater_pairs if claim.paired else st.greater)(x[a], x[b], claim.margin)
    return Comparison(f"{b} − {a}", estimate, p, estimate.upper <= claim.margin, estimate.effect)


def _difference(claim: Difference, x: dict[str, st.Sample], a: str, b: str) -> Comparison:
    estimate = _estimate(claim, x[a], x[b])
    inside = claim.margin > 0 and -claim.margin <= estimate.lower and estimate.upper <= claim.margin
    p = (st.apart_pairs if claim.paired else st.apart)(x[a], x[b], claim.margin)
    return Comparison(f"{b} − {a}", estimate, p, inside, abs(estimate.effect))


def _estimate(claim: Pairwise, a: st.Sample, b: st.Sample) -> st.Estimate:
    return st.mean(st.differences(a, b)) if claim.paired else st.welch(a, b)


def _trend(claim: Trend, x: dict[str, st.Sample]) -> Comparison:
    taus = st.rises(list(x.values())) * (1 if claim.direction == "rising" else -1)
    estimate = st.mean(taus)
    return Comparison(
        f"the trend along {', '.join(x)}", estimate, st.positive(taus), estimate.upper <= 0, estimate.effect
    )


def _correlation(claim: Correlation, samples: Samples) -> Comparison:
    found = st.rank_correlations(list(samples.predictors.values()), list(samples.values.values()))
    rhos = found * (1 if claim.direction == "rising" else -1)
    estimate, p = st.mean(rhos), st.positive(st.differences(np.zeros_like(rhos), rhos, claim.margin))
    name = f"the correlation across {', '.join(samples.values)}"
    return Comparison(name, estimate, p, estimate.upper <= claim.margin, estimate.effect)


def _threshold(name: str, distances: st.Sample) -> Comparison:
    estimate = st.mean(distances)
    return Comparison(name, estimate, st.positive(distances), estimate.upper <= 0, estimate.effect)


def _test_name(claim: Claim, samples: Samples) -> str:
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
