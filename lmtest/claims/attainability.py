"""Whether a claim can be supported at all: the smallest p value its test can give with so many seeds, after Holm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import chdtrc

from lmtest.claims import statistics as st
from lmtest.claims.check import resolve
from lmtest.claims.schema import Claim, Correlation, Difference, Heterogeneity, Order, Threshold, Trend
from lmtest.evaluators.contract import is_share

MOST_SEEDS = 64
"""Where the search for the seeds that a claim needs ends."""


Prompts = Mapping[str, Mapping[str, int]]
"""How many prompts there are, by language and prompt set."""


def attainability(claims: Sequence[Claim], n_seeds: int, prompts: Prompts | None = None) -> pd.DataFrame:
    """One row a claim: `claim kind smallest_p attainable needed_seeds`, for `n_seeds` seeds of each variant.

    `smallest_p` is raw; `attainable`: whether Holm's p value is ≤ 0.05 when every claim of the study has its smallest.
    `prompts`: how many there are (default: as many as it takes). `needed_seeds`: the fewest for which
    this claim is attainable among these claims, missing where 64 are too few.
    """
    needed: list[int | None] = [None] * len(claims)
    for n in range(1, MOST_SEEDS + 1):
        if None not in needed:
            break
        can = _attainable(claims, n, prompts)
        needed = [n if fewest is None and can[i] else fewest for i, fewest in enumerate(needed)]
    return pd.DataFrame(
        {
            "claim": pd.Series([claim.id for claim in claims], dtype="str"),
            "kind": pd.Series([claim.kind for claim in claims], dtype="str"),
            "smallest_p": pd.Series([smallest_p(claim, n_seeds, prompts) for claim in claims], dtype="float64"),
            "attainable": pd.Series(_attainable(claims, n_seeds, prompts), dtype="bool"),
            "needed_seeds": pd.Series(needed, dtype="Int64"),
        }
    )


def smallest_p(claim: Claim, n_seeds: int, prompts: Prompts | None = None) -> float:
    """The smallest raw p value that the claim's test can give with `n_seeds` seeds of each variant.

    Where the best outcome is one at which all seeds tie (a share at the end of its range, τ or ρ at 1), the p value of that: the
    guard against ties is part of the test, and what perfect models cannot support nobody should count on.
    """
    match claim:
        case Order() | Difference():
            one_sided = st.smallest_positive(n_seeds) if claim.paired else st.smallest_greater(n_seeds, n_seeds)
            return one_sided if isinstance(claim, Order) else min(1.0, 2 * one_sided)
        case Threshold() | Trend() | Correlation():
            return max(st.smallest_positive(n_seeds), _perfect(claim) ** n_seeds)
        case Heterogeneity() if n_seeds >= 2 and prompts is not None:
            # Cochran's Q is largest where every prompt tells the same seeds apart: prompts · (seeds − 1).
            sets = prompts[resolve(claim, "language", claim.language, prompts)]
            return float(chdtrc(n_seeds - 1, sets.get(str(claim.prompt_set), 0) * (n_seeds - 1)))
        case _:
            return 0.0 if n_seeds >= 2 else 1.0


def _perfect(claim: Threshold | Trend | Correlation) -> float:
    """The p value, of one seed, that perfect seeds have on the edge of the claim: how much of the range is not claimed."""
    if isinstance(claim, Correlation):
        return (1 + claim.margin) / 2
    if isinstance(claim, Trend):
        return 0.5
    if claim.bound is None or not is_share(claim.measure):  # a baseline is not known before the run
        return 0.0
    return min(1.0, max(0.0, claim.bound if claim.direction == "above" else 1 - claim.bound))


def _attainable(claims: Sequence[Claim], n_seeds: int, prompts: Prompts | None) -> npt.NDArray[np.bool_]:
    return st.holm([smallest_p(claim, n_seeds, prompts) for claim in claims]) <= st.ALPHA
