"""How many seeds the claims of a study need: each is simulated with normal seeds, through the comparisons that judge it.

What the seeds will be like has to be assumed: the spread over seeds (`sd`), and how far beyond its bound or margin the truth lies
(`effect`; of an equivalence, how far within). Both may come from an earlier run. Nothing is trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd

from lmtest.claims import statistics as st
from lmtest.claims.attainability import MOST_SEEDS
from lmtest.claims.bounded import SHARE
from lmtest.claims.comparisons import CORRELATIONS, comparisons, outcome, positive
from lmtest.claims.groups import Pairwise
from lmtest.claims.samples import Samples, Tables, draw_samples
from lmtest.claims.schema import Claim, Correlation, Equivalence, Heterogeneity, Order, Threshold, Trend
from lmtest.errors import UsageError
from lmtest.evaluators.contract import is_share
from lmtest.seeds import generator

STUDIES = 400
"""Simulated for each claim and number of seeds: two standard errors of a power of 0.8 are 0.04."""
COMPARISONS = 8_000
"""Where a claim compares many pairs, fewer studies are simulated, but never fewer than 100."""
LEVEL = 0.5
"""Where the baseline of a share is taken to lie before a run has measured it."""
PROMPTS = 100
"""Of a heterogeneity claim, before a run has counted them."""


class Assumed(NamedTuple):
    """What a claim's seeds are taken to be like, in the unit of its effect, and who says so."""

    effect: float
    sd: float
    source: str
    level: float = LEVEL
    """The bound of a share."""
    prompts: int = PROMPTS


def power(
    claims: Sequence[Claim],
    n_seeds: int,
    sd: float | None = None,
    effect: float | None = None,
    wanted: float = 0.8,
    run: Tables | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """One row a claim: `claim kind effect sd assumed power needed_seeds`, for `n_seeds` seeds of each variant.

    `power`: the share of simulated studies that end in supported at Holm's strictest step, 0.05 over the number of claims.
    `needed_seeds`: the fewest with at least the `wanted` power, missing where 64 are too few. `sd`, `effect`: for all claims;
    else from the tables of an earlier `run`; else two spreads, with a spread over seeds of 0.1 for shares, 0.25 for τ and ρ,
    and for other measures half the margin or bound (half the unit where that is 0); an equivalence is true by all of its margin.
    `assumed` says which: given, run or default. Raises UsageError where there are no claims, or on senseless numbers.
    """
    _check(claims, sd, effect, wanted)
    alpha = st.ALPHA / len(claims)
    rows = []
    known: dict[object, tuple[float, int | None]] = {}
    for claim in claims:
        assumed = assume(claim, sd, effect, run)
        sameness = (_shape(claim), assumed)
        if sameness not in known:
            known[sameness] = (
                simulated_power(claim, assumed, n_seeds, alpha, seed),
                _needed(claim, assumed, wanted, alpha, seed),
            )
        rows.append((claim.id, claim.kind, assumed.effect, assumed.sd, assumed.source, *known[sameness]))
    types = {"claim": "str", "kind": "str", "effect": "float64", "sd": "float64", "assumed": "str", "power": "float64"}
    return pd.DataFrame(rows, columns=[*types, "needed_seeds"]).astype(types | {"needed_seeds": "Int64"})


def assume(claim: Claim, sd: float | None, effect: float | None, run: Tables | None) -> Assumed:
    """The assumptions of one claim; an earlier run in which it cannot be tested says nothing."""
    found = None if run is None else _measured(claim, run)
    base = found or _default(claim, sd)
    source = "given" if sd is not None and effect is not None else base.source
    if source != "given" and (sd is not None or effect is not None):
        source = f"given, {base.source}"
    return base._replace(
        effect=_possible(claim, base.effect if effect is None else effect, base.level),
        sd=math.nan if isinstance(claim, Heterogeneity) else base.sd if sd is None else sd,
        source=source,
    )


def simulated_power(claim: Claim, assumed: Assumed, n_seeds: int, alpha: float, seed: int = 0) -> float:
    """The share of simulated studies in which the claim's p value is at most alpha, and it is not refuted."""
    if n_seeds < 2:
        return 0.0  # no interval
    rng = generator(seed, "power", claim.kind, n_seeds)
    studies = max(100, min(STUDIES, COMPARISONS // len(_pairs(claim))))
    supported = 0
    for _ in range(studies):
        p, refuted = _study(claim, assumed, n_seeds, rng)
        supported += p <= alpha and not refuted
    return supported / studies


def _study(claim: Claim, assumed: Assumed, n: int, rng: np.random.Generator) -> tuple[float, bool]:
    if isinstance(claim, Trend | Correlation):  # its seeds have one number each
        margin = claim.margin if isinstance(claim, Correlation) else 0.0
        values = np.clip(rng.normal(margin + assumed.effect, assumed.sd, n), *CORRELATIONS)
        return outcome([positive("", values, margin, CORRELATIONS, exchangeable=margin == 0)])
    return outcome(comparisons(claim, _draw(claim, assumed, n, rng)))


def _draw(claim: Claim, assumed: Assumed, n: int, rng: np.random.Generator) -> Samples:
    names, share = [group.name for group in claim.groups], is_share(claim.measure)
    if isinstance(claim, Heterogeneity):
        rates = rng.normal(0.5, claim.margin + assumed.effect, n)
        outcomes = rng.random((assumed.prompts, n)) < rates
        return Samples({names[0]: outcomes.mean(0)}, outcomes=outcomes, ranges={names[0]: SHARE})
    spread = assumed.sd / math.sqrt(2) if claim.is_paired else assumed.sd  # of one group; differences have sd
    centres = np.array(_centres(claim, assumed)) + (assumed.level if share and isinstance(claim, Threshold) else 0.0)
    if share and isinstance(claim, Pairwise):
        centres = centres + 0.5 - centres.mean()  # as far from both ends as can be
    values = rng.normal(centres[:, None], spread, (len(names), n))
    values = np.clip(values, *SHARE) if share else values
    if not isinstance(claim, Threshold):
        return Samples(dict(zip(names, values, strict=True)), ranges=dict.fromkeys(names, SHARE) if share else {})
    level = assumed.level if share else 0.0
    ranges = dict.fromkeys(names, (-level, 1 - level)) if share else {}
    return Samples(dict(zip(names, values - level, strict=True)), ranges=ranges)


def _centres(claim: Claim, assumed: Assumed) -> list[float]:
    """The means of the groups, relative to each other or to the bound."""
    k = len(claim.groups)
    if isinstance(claim, Equivalence):  # two at the ends, the others half-way
        gap = claim.margin - assumed.effect
        return [0.0, gap, *[gap / 2] * (k - 2)]
    if isinstance(claim, Pairwise):
        return [i * (_margin(claim) + assumed.effect) for i in range(k)]
    return [assumed.effect] * k


def _possible(claim: Claim, effect: float, level: float) -> float:
    """No more than the range of the measure leaves room for."""
    if isinstance(claim, Equivalence):
        return min(effect, claim.margin)
    if isinstance(claim, Trend | Correlation):
        return min(effect, 1.0 - _margin(claim))
    if not is_share(claim.measure):
        return effect
    if isinstance(claim, Threshold):
        return min(effect, 1 - level)
    if isinstance(claim, Heterogeneity):
        return min(effect, 0.5 - claim.margin)
    return min(effect, 1 / (len(claim.groups) - 1) - _margin(claim))


def _default(claim: Claim, sd: float | None) -> Assumed:
    if isinstance(claim, Equivalence):
        return Assumed(claim.margin, claim.margin / 2, "default")
    if isinstance(claim, Trend | Correlation):
        spread = 0.25
    elif is_share(claim.measure):
        spread = 0.1
    else:
        spread = (abs(claim.bound or 0.0) if isinstance(claim, Threshold) else _margin(claim)) / 2 or 0.5
    level = LEVEL
    if isinstance(claim, Threshold) and claim.bound is not None:
        level = claim.bound if claim.direction == "above" else 1 - claim.bound
    return Assumed(2 * (spread if sd is None else sd), spread, "default", level)


def _measured(claim: Claim, run: Tables) -> Assumed | None:
    """The effect and spread of the comparison that speaks for the claim in an earlier run."""
    samples = draw_samples(claim, run)
    if not samples.usable or samples.seeds_used < 2:
        return None
    compared = comparisons(claim, samples)
    weakest = min(range(len(compared)), key=lambda i: compared[i].strength)
    effect = compared[weakest].strength + (claim.margin if isinstance(claim, Equivalence) else -_margin(claim))
    if isinstance(claim, Heterogeneity):
        assert samples.outcomes is not None
        return Assumed(effect, math.nan, "run", prompts=len(samples.outcomes))
    if isinstance(claim, Trend):
        values = st.rises(list(samples.values.values()))
    elif isinstance(claim, Correlation):
        values = st.rank_correlations(list(samples.predictors.values()), list(samples.values.values()))
    elif isinstance(claim, Threshold):
        name, values = list(samples.values.items())[weakest]
        level = -samples.ranges[name][0] if name in samples.ranges else LEVEL
        return Assumed(effect, float(values.std(ddof=1)), "run", level)
    else:
        a, b = (samples.values[name] for name in _pairs(claim)[weakest])
        if not claim.is_paired:
            return Assumed(effect, math.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2), "run")
        values = st.differences(a, b)
    return Assumed(effect, float(values.std(ddof=1)), "run")


def _needed(claim: Claim, assumed: Assumed, wanted: float, alpha: float, seed: int) -> int | None:
    """Bisection: power rises with the seeds, but for what chance and the steps of exact tests do."""
    low, high = 1, 2
    while simulated_power(claim, assumed, high, alpha, seed) < wanted:
        if high == MOST_SEEDS:
            return None
        low, high = high, min(2 * high, MOST_SEEDS)
    while high - low > 1:
        middle = (low + high) // 2
        if simulated_power(claim, assumed, middle, alpha, seed) >= wanted:
            high = middle
        else:
            low = middle
    return high


def _margin(claim: Claim) -> float:
    return 0.0 if isinstance(claim, Threshold | Trend) else claim.margin


def _pairs(claim: Claim) -> list[tuple[str, str]]:
    names = [group.name for group in claim.groups]
    if not isinstance(claim, Pairwise):
        return [(name, name) for name in names]
    return list(pairwise(names)) if isinstance(claim, Order) else list(combinations(names, 2))


def _shape(claim: Claim) -> object:
    """What the simulation knows of a claim, beside its assumptions."""
    return claim.kind, claim.is_paired, len(claim.groups), _margin(claim), is_share(claim.measure)


def _check(claims: Sequence[Claim], sd: float | None, effect: float | None, wanted: float) -> None:
    if not claims:
        raise UsageError(
            "expected a study with claims, found none: add [[claims]] tables, and power says what they need"
        )
    for name, value, fine in (
        ("sd", sd, sd is None or (sd >= 0 and math.isfinite(sd))),
        ("effect", effect, effect is None or math.isfinite(effect)),
        ("power", wanted, 0 < wanted < 1),
    ):
        if not fine:
            expected = {"sd": "a number ≥ 0", "effect": "a number", "power": "a share between 0 and 1, such as 0.8"}[
                name
            ]
            raise UsageError(f"{name}: expected {expected}, found {value}")
