"""How often verdicts are wrong: claims simulated at the edge of what they claim, put to the same comparisons as in `judge`.

Seeds are drawn from laws whose mean is known exactly, so that the truth lies on the bound or margin itself: there a claim is not
true, and every *supported* is an error (nominal 5 %); and every *refuted* is one of a claim that is true by a hair (2.5 %).
`python -m lmtest.claims.calibration_page > docs/calibration.md` writes the page of the documentation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from pydantic import TypeAdapter
from scipy.optimize import brentq
from scipy.stats import norm

from lmtest.claims import statistics as st
from lmtest.claims.bounded import SHARE
from lmtest.claims.comparisons import comparisons, outcome
from lmtest.claims.samples import Samples
from lmtest.claims.schema import Claim
from lmtest.seeds import generator

SPREAD = 0.1
"""The standard deviation over seeds, where a law has one for all means."""
MARGIN = 0.15
BEYOND = 0.15
"""How far beyond the bound or margin the truth lies where power is asked for."""
PROMPTS = 100
STEPS = 3
"""Groups of a trend; a correlation has five."""

Draw = Callable[[np.random.Generator, float, int, int], st.Sample]
"""generator, mean, number of seeds, number of the group → values [seeds]."""


class Law(NamedTuple):
    """How seeds vary: values of a given mean; `low` and `high` are the means between which its claims are put."""

    draw: Draw
    low: float
    high: float


class Rates(NamedTuple):
    """Shares of studies; NaN where the truth makes no error possible."""

    supported: float
    refuted: float


def _around(shape: Callable[[np.random.Generator, int], st.Sample], spreads: tuple[float, float] = (1, 1)) -> Draw:
    """Mean plus a shape of mean 0; the second group may spread more than the first."""
    return lambda rng, mean, n, group: mean + spreads[min(group, 1)] * shape(rng, n)


def _two(bottom: float) -> Draw:
    """Every seed is at `bottom` or at 1."""

    def draw(rng: np.random.Generator, mean: float, n: int, group: int) -> st.Sample:
        return np.where(rng.random(n) < (mean - bottom) / (1 - bottom), 1.0, bottom)

    return draw


def _one_then_two(rng: np.random.Generator, mean: float, n: int, group: int) -> st.Sample:
    return _two(0.0)(rng, mean, n, group) if group else np.full(n, mean)


def _clipped(rng: np.random.Generator, mean: float, n: int, group: int) -> st.Sample:
    return np.minimum(1.0, rng.normal(_latent(mean), SPREAD, n))


@lru_cache(maxsize=64)
def _latent(mean: float) -> float:
    """The centre from which a normal law that is cut at 1 has this mean."""

    def clipped_mean(centre: float) -> float:
        z = (1 - centre) / SPREAD
        return float(1 + (centre - 1) * norm.cdf(z) - SPREAD * norm.pdf(z))

    return float(brentq(lambda centre: clipped_mean(centre) - mean, -1.0, 3.0))


def _rarely_failing(rng: np.random.Generator, n: int) -> st.Sample:
    return np.where(rng.random(n) < 0.1, -0.27, 0.03) + rng.normal(0, 0.01, n)


def _grid(rng: np.random.Generator, mean: float, n: int, group: int) -> st.Sample:
    return np.round(20 * rng.normal(mean, SPREAD, n)) / 20


LAWS: Mapping[str, Law] = {
    "normal, equal spreads": Law(_around(lambda rng, n: rng.normal(0, SPREAD, n)), 0.2, 0.8),
    "normal, spreads 1 to 4": Law(_around(lambda rng, n: rng.normal(0, SPREAD, n), (0.5, 2)), 0.2, 0.8),
    "skewed to the right": Law(_around(lambda rng, n: SPREAD * (rng.exponential(size=n) - 1)), 0.2, 0.8),
    "skewed to the left": Law(_around(lambda rng, n: SPREAD * (1 - rng.exponential(size=n))), 0.2, 0.8),
    "skewed to the left, spreads 1 to 4": Law(
        _around(lambda rng, n: SPREAD * (1 - rng.exponential(size=n)), (0.5, 2)), 0.2, 0.8
    ),
    "one in ten fails, no two equal": Law(_around(_rarely_failing), 0.2, 0.8),
    "rounded to 1/20": Law(_grid, 0.2, 0.8),
    "cut at 1.0": Law(_clipped, 0.4, 0.96),
    "0 or 1, mostly 1": Law(_two(0.0), 0.3, 0.9),
    "0 or 1, mostly 0": Law(_two(0.0), 0.1, 0.4),
    "0.5 or 1": Law(_two(0.5), 0.55, 0.95),
    "one value, then 0 or 1": Law(_one_then_two, 0.3, 0.9),
}
"""Those that are bounded below stand on their lower mean, the others hang from their higher one (see `means`)."""


@dataclass(frozen=True)
class Setting:
    """A claim, and how to draw its seeds where it is only just untrue, or true by BEYOND."""

    kind: str
    law: str
    paired: bool = False
    margin: float = MARGIN
    """Of an order or a difference; without one, paired groups vary alike."""

    def __str__(self) -> str:
        return f"{self.kind}{'' if self.margin else ' without a margin'}{', paired' if self.paired else ''}: {self.law}"


def means(law: Law, shift: float) -> tuple[float, float]:
    """Two means, `shift` apart."""
    return (law.low, law.low + shift) if law.high < 0.5 else (law.high - shift, law.high)


def settings() -> list[Setting]:
    """All that the page shows, in its order."""
    found = []
    one_sample = [law for law in LAWS if "1 to 4" not in law and "one value" not in law]
    for kind in ("equivalence", "order", "difference"):
        found += [Setting(kind, law) for law in LAWS]
        found += [Setting(kind, law, paired=True) for law in one_sample]
        if kind != "equivalence":
            found += [Setting(kind, law, margin=0.0) for law in LAWS if law != "rounded to 1/20"]
            found += [Setting(kind, law, paired=True, margin=0.0) for law in one_sample if law != "rounded to 1/20"]
    found += [Setting("threshold", law) for law in one_sample]
    found += [Setting("trend", law, paired=True) for law in (*one_sample, REVERSED)]
    found += [Setting("correlation", law, paired=True) for law in (*one_sample[:5], REVERSED)]
    found += [Setting("heterogeneity", law) for law in (*PROMPT_LAWS, *SPREADS)]
    return found


REVERSED = "rarely the other way round"
"""τ (ρ) is low in most seeds and −1 in some, and 0 in the mean."""
PROMPT_LAWS: Mapping[str, Callable[[np.random.Generator], st.Sample]] = {
    "one law, prompts alike": lambda rng: np.full(PROMPTS, 0.5),
    "one law, prompts of all kinds": lambda rng: rng.random(PROMPTS),
    "one law, nearly all right": lambda rng: np.full(PROMPTS, 0.97),
}
"""How likely each prompt is answered rightly, by every seed."""
SPREADS: Mapping[str, Callable[[np.random.Generator, int], st.Sample]] = {
    "normal, at the margin": lambda rng, n: rng.normal(0.5, SPREAD, n),
    "skewed to the right, at the margin": lambda rng, n: 0.3 + SPREAD * (rng.exponential(size=n) - 1),
    "0.5 or 1, mostly 1, at the margin": lambda rng, n: np.where(rng.random(n) < 0.04174243, 0.5, 1.0),
    "0.4 or 0.6, at the margin": lambda rng, n: np.where(rng.random(n) < 0.5, 0.4, 0.6),
}
"""Means of seeds with a standard deviation of SPREAD, which is the margin."""


def rates(setting: Setting, n: int, studies: int, seed: int = 0, power: bool = False, guard: bool = True) -> Rates:
    """How often `studies` simulated studies of `n` seeds end in supported (p ≤ 0.05) and in refuted.

    `power`: where the claim holds by BEYOND, else at the edge. `guard`: whether ranges are known, so that ties are guarded against.
    """
    rng = generator(seed, "calibration", str(setting), n, "power" if power else "edge")
    claim, supported, refuted = claim_of(setting, power), 0, 0
    for _ in range(studies):
        samples = draw(setting, n, rng, power)
        if not guard:
            samples.ranges.clear()
        if not decidable(samples):
            continue  # as `judge` has it, undecided
        p, outside = outcome(comparisons(claim, samples))
        refuted += outside
        supported += p <= st.ALPHA and not outside
    untrue = setting.kind == "heterogeneity" and setting.law in PROMPT_LAWS and not power
    return Rates(supported / studies, math.nan if untrue else refuted / studies)


def decidable(samples: Samples) -> bool:
    """Whether every seed has a correlation, where one is asked for."""
    return not samples.predictors or not st.all_tied(list(samples.values.values())).any()


def claim_of(setting: Setting, power: bool = False) -> Claim:
    """A claim of the setting's kind."""
    kind, groups = setting.kind, ["a", "b"]
    table: dict[str, Any] = {"id": str(setting), "statement": "…", "kind": kind, "measure": "R1", "prompt_set": "ood"}
    match kind:
        case "heterogeneity":
            return _claim(table | {"margin": 0.0 if setting.law in PROMPT_LAWS else SPREAD / 3 if power else SPREAD})
        case "threshold":
            return _claim(table | {"variants": ["b"], "bound": 0.0})  # the samples are distances
        case "trend":
            return _claim(table | {"variants": [f"g{i}" for i in range(STEPS)]})
        case "correlation":
            groups = [f"g{i}" for i in range(5)]
            return _claim(table | {"variants": groups, "predictor": {"measure": "kl"}})
        case _:
            return _claim(table | {"variants": groups, "margin": setting.margin, "paired": setting.paired})


def draw(setting: Setting, n: int, rng: np.random.Generator, power: bool) -> Samples:
    """The samples of one study: at the edge of the claim, or with the truth BEYOND it."""
    kind = setting.kind
    if kind == "heterogeneity":
        return _outcomes(setting.law, n, rng, power)
    if setting.law == REVERSED:
        return _reversed(kind, n, rng, power)
    law = LAWS[setting.law]
    if kind in ("trend", "correlation"):
        size = STEPS if kind == "trend" else 5
        ends = means(law, 2 * BEYOND if power else 0.0)
        found = {f"g{i}": law.draw(rng, mean, n, 1) for i, mean in enumerate(np.linspace(*ends, size))}
        ranks = {name: np.full(n, float(i)) for i, name in enumerate(found)} if kind == "correlation" else {}
        return Samples(found, predictors=ranks, ranges=dict.fromkeys(found, SHARE))
    if kind == "threshold":
        bound, mean = means(law, BEYOND if power else 0.0)
        return Samples({"b": law.draw(rng, mean, n, 1) - bound}, ranges={"b": (-bound, 1 - bound)})
    margin = setting.margin
    shift = (0.0 if power else margin) if kind == "equivalence" else margin + (BEYOND if power else 0.0)
    low, high = means(law, shift)
    # Paired with a margin: the first group is one value, so that the differences have the law itself, not a symmetric one.
    first = np.full(n, low) if setting.paired and margin else law.draw(rng, low, n, 0)
    return Samples({"a": first, "b": law.draw(rng, high, n, 1)}, ranges={"a": SHARE, "b": SHARE})


def _reversed(kind: str, n: int, rng: np.random.Generator, power: bool) -> Samples:
    up, down = (
        ([1.0, 0.0, 2.0], [2.0, 1.0, 0.0])
        if kind == "trend"
        else ([1.0, 2.0, 0.0, 4.0, 3.0], [4.0, 3.0, 2.0, 1.0, 0.0])
    )
    value = 1 / 3 if kind == "trend" else 0.6
    often = 1.0 if power else 1 / (1 + value)
    turned = rng.random(n) >= often
    found = {f"g{i}": np.where(turned, d, u) for i, (u, d) in enumerate(zip(up, down, strict=True))}
    ranks = {name: np.full(n, float(i)) for i, name in enumerate(found)} if kind == "correlation" else {}
    return Samples(found, predictors=ranks)


def _outcomes(law: str, n: int, rng: np.random.Generator, power: bool) -> Samples:
    if law in PROMPT_LAWS:
        chances = PROMPT_LAWS[law](rng)[:, None]
        own = rng.normal(0, SPREAD, n) if power else np.zeros(n)
        outcomes = rng.random((PROMPTS, n)) < chances + own
    else:
        right = np.rint(PROMPTS * SPREADS[law](rng, n))
        outcomes = rng.permuted(np.tile(np.arange(PROMPTS)[:, None], (1, n)), axis=0) < right
    return Samples({"model": outcomes.mean(0)}, outcomes=outcomes, ranges={"model": SHARE})


def family_wise(kind: str, n: int, studies: int, claims: int = 10, seed: int = 0) -> float:
    """How often a study of so many claims, none of them true, has one that is supported after Holm."""
    setting = Setting(kind, "normal, equal spreads")
    rng, claim, wrong = generator(seed, "family", kind, n), claim_of(setting), 0
    for _ in range(studies):
        raw = [outcome(comparisons(claim, draw(setting, n, rng, False)))[0] for _ in range(claims)]
        wrong += bool((st.holm(raw) <= st.ALPHA).any())
    return wrong / studies


def _claim(table: dict[str, Any]) -> Claim:
    claim: Claim = TypeAdapter(Claim).validate_python(table)
    return claim
