"""Rows that stand beside each other in a table: are their losses equal, and can their runs carry the difference of their values?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from itertools import combinations
from typing import Any

import pandas as pd
from scipy.special import ndtri

from lmtest.claims import statistics as st
from lmtest.claims.published import PEOPLE, TOLERANCE, welch_from_summaries
from lmtest.errors import UsageError
from lmtest.result_table import records

COMPARED_BY = ["language", "measure", "prompt_set", "decoding", "group"]
"""Rows that agree in these are compared."""
MOST_COMPARED = 100
"""Rows with each other: their pairs are looked at one by one."""
POWER = 0.8
MEASURED_ONLY = ("finish_rate",)
"""Measures that are no merit: neither compared nor held against chance."""

EQUAL, DIFFER, OPEN, UNKNOWN = "equal", "differ", "open", "unknown"

_MOST_RUNS = 1000
"""Beyond, the smallest p value of a permutation test no longer decides anything."""

Row = Mapping[str, Any]
Summary = tuple[float, float, float, float]
"""Mean, standard deviation, number of runs, what may be rounding of the mean."""


def compare_rows(table: pd.DataFrame, epsilon: float) -> pd.DataFrame:
    """A table with floors → one row a pair of compared rows, later minus earlier, in the order of the table.

    COMPARED_BY, `left right` (lines), `difference lower upper` of the values and `verdict`: "equal" (95 % interval within
    ± TOLERANCE), "differ" (it leaves out 0), "open", or "unknown" where spread or number of runs of either is; `smallest_p`
    that a two-sided permutation test can give with so many runs; `needed_runs` of each for a power of 80 % at 5 %, were the
    difference and the spreads true; `loss_difference loss_lower loss_upper` in nats per string and `loss_verdict`: "equal" where
    two one-sided tests at 5 % show it within ± `epsilon`. Welch's intervals from the summaries, widened by rounding.
    Raises UsageError on more than MOST_COMPARED rows that are compared with each other.
    """
    found = []
    chosen = table[(table["model"] != PEOPLE) & ~table["measure"].isin(MEASURED_ONLY)]
    for key, rows in chosen.groupby(COMPARED_BY, sort=False):
        if len(rows) > MOST_COMPARED:
            raise UsageError(
                f"expected at most {MOST_COMPARED} rows that are compared with each other, found {len(rows)} with "
                + ", ".join(f"{name} {part!r}" for name, part in zip(COMPARED_BY, key, strict=True))
                + "; name what belongs together in the column 'group'"
            )
        for left, right in combinations(records(rows), 2):
            pair = {"left": left["line"], "right": right["line"]}
            found.append(
                dict(zip(COMPARED_BY, key, strict=True)) | pair | _values(left, right) | _losses(left, right, epsilon)
            )
    pairs = pd.DataFrame(found, columns=[*COMPARED_BY, "left", "right", *_VALUES, *_LOSSES])
    return pairs.sort_values(["left", "right"], kind="stable", ignore_index=True)


_VALUES = ["difference", "lower", "upper", "verdict", "smallest_p", "needed_runs"]
_LOSSES = ["loss_difference", "loss_lower", "loss_upper", "loss_verdict"]


def _values(left: Row, right: Row) -> dict[str, Any]:
    a, b = _value_summary(left), _value_summary(right)
    effect, lower, upper = _interval(a, b, st.ALPHA)
    runs = a[2], b[2]
    can = smallest_p(*runs)
    verdict = _verdict(lower, upper, max(-lower, upper) <= TOLERANCE)
    needed = needed_runs(effect, a[1], b[1])
    return dict(zip(_VALUES, (effect, lower, upper, verdict, can, needed), strict=True))


def _losses(left: Row, right: Row, epsilon: float) -> dict[str, Any]:
    a, b = _loss_summary(left), _loss_summary(right)
    effect, lower, upper = _interval(a, b, st.ALPHA)
    _, inner_lower, inner_upper = _interval(a, b, 2 * st.ALPHA)
    verdict = _verdict(lower, upper, max(-inner_lower, inner_upper) < epsilon)
    return dict(zip(_LOSSES, (effect, lower, upper, verdict), strict=True))


def _verdict(lower: float, upper: float, equal: bool) -> str:
    if math.isnan(lower):
        return UNKNOWN
    if equal:
        return EQUAL
    return DIFFER if lower > 0 or upper < 0 else OPEN


@lru_cache(maxsize=4096)  # rows of several measures repeat one loss
def _interval(a: Summary, b: Summary, alpha: float) -> tuple[float, float, float]:
    """b − a with Welch's interval and rounding; NaN ends where spread or number of runs of either is not known."""
    if not (a[1] >= 0 and b[1] >= 0 and a[2] > 1 and b[2] > 1):
        return b[0] - a[0], math.nan, math.nan
    estimate, rounding = welch_from_summaries(a[:3], b[:3], alpha), a[3] + b[3]
    return estimate.effect, estimate.lower - rounding, estimate.upper + rounding


def _value_summary(row: Row) -> Summary:
    spread = row["spread"]
    if math.isnan(spread) and row["value"] in (0.0, 1.0):
        spread = 0.0  # shares that average to 0 or 1 are all so
    return row["value"], spread, row["n"], row["value_rounding"]


def _loss_summary(row: Row) -> Summary:
    """In nats per string."""
    scale = row["scale"]
    return row["loss"] * scale, row["loss_spread"] * scale, row["n"], row["loss_rounding"] * scale


def smallest_p(n: float, m: float) -> float:
    """The smallest p value of a two-sided permutation test of n against m runs; NaN where a number is not known."""
    if math.isnan(n + m):
        return math.nan
    return min(1.0, 2 * st.smallest_greater(int(min(n, _MOST_RUNS)), int(min(m, _MOST_RUNS))))


def needed_runs(difference: float, sd: float, other_sd: float) -> float:
    """Runs of each for a two-sided t test at 5 % to have a power of 80 %; NaN where the difference is 0 or a spread not known.

    The normal approximation with Guenther's correction (The American Statistician 35, 1981).
    """
    if not abs(difference) > 0 or math.isnan(sd + other_sd):
        return math.nan
    quantile = ndtri(1 - st.ALPHA / 2)
    runs = (quantile + ndtri(POWER)) ** 2 * (sd**2 + other_sd**2) / difference**2 + quantile**2 / 4
    return float(max(2, math.ceil(runs))) if math.isfinite(runs) else math.nan
