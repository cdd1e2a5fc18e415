"""Two runs side by side: the same measurement in both, with the difference over seeds."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from lmtest.claims import statistics as st

KEY = ["language", "model", "variant", "evaluator", "measure", "prompt_set", "decoding"]


def compare_runs(left: pd.DataFrame, right: pd.DataFrame) -> pd.DataFrame:
    """Two measurement tables → one row for each KEY that both have, in the order of `left`.

    Where each has one language, the two are compared even if those differ (a size against another): named as in `left`.

    Columns behind KEY: `left right` (means over seeds), `difference lower upper` (right − left, with Welch's 95 %
    interval over seeds), `left_seeds right_seeds`. Values that are not finite are left out and not counted as seeds;
    a mean of none and an interval from fewer than two are NaN.
    """
    lefts, rights = _by_key(left), _by_key(_renamed(left, right))
    rows = []
    for key in (key for key in lefts if key in rights):
        a, b = lefts[key], rights[key]
        known = len(a) > 0 and len(b) > 0
        estimate = st.welch(a, b) if known else st.Estimate(math.nan, math.nan, math.nan)
        means = [float(x.mean()) if len(x) else math.nan for x in (a, b)]
        rows.append([*key, *means, estimate.effect, estimate.lower, estimate.upper, len(a), len(b)])
    numbers = dict.fromkeys(["left", "right", "difference", "lower", "upper"], "float64")
    types = dict.fromkeys(KEY, "str") | numbers | {"left_seeds": "int64", "right_seeds": "int64"}
    return pd.DataFrame(rows, columns=list(types)).astype(types)


def _renamed(left: pd.DataFrame, right: pd.DataFrame) -> pd.DataFrame:
    if left.empty or right.empty or left["language"].nunique() > 1 or right["language"].nunique() > 1:
        return right
    return right.assign(language=left["language"].iloc[0])


def _by_key(table: pd.DataFrame) -> dict[tuple[str, ...], st.Sample]:
    if table.empty:
        return {}
    samples = {}
    for key, rows in table.groupby(KEY, sort=False, dropna=False):
        values = rows["value"].to_numpy(dtype=np.float64)
        samples[tuple(map(str, key))] = values[np.isfinite(values)]
    return samples
