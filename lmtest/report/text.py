"""Numbers, intervals and completions as one reads them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd

from lmtest.claims import statistics

SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
SHOWN = 30
"""Characters of a completion that the table of prompts shows; the whole of it is the cell's tooltip."""


def num(value: Any, digits: int = 3) -> str:
    """A number with `digits` decimals, or as many significant digits where it is small; NaN and None are a dash."""
    if value is None or value is pd.NA:
        return "–"
    if isinstance(value, str):
        return value or "–"
    value = float(value)
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    small = digits > 1 and value != 0 and abs(value) < 10 ** (1 - digits)
    return (f"{value:#.{digits - 1}g}" if small else f"{value:.{digits}f}").replace("-", "−")


def percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.0%}"


def duration(seconds: Any) -> str:
    """Seconds as hours, minutes and seconds."""
    if not isinstance(seconds, int | float):
        return "–"
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return " ".join(f"{n} {unit}" for n, unit in ((hours, "h"), (minutes, "min"), (rest, "s")) if n) or "0 s"


def between(lower: Any, upper: Any) -> str:
    """An interval; a dash where there is none."""
    text = f"{num(lower)} to {num(upper)}"
    return "–" if text == "– to –" else text


def over_seeds(values: pd.Series) -> str:
    """Mean and, on a line of its own, range over seeds, and over how many where some are NaN; a dash where all are."""
    sample = values.to_numpy(dtype=np.float64)  # a page has thousands of cells
    defined = sample[~np.isnan(sample)]
    if len(defined) == 0:
        return "–"
    low, high, mean = num(defined.min()), num(defined.max()), num(defined.mean())
    text = mean if low == high else f"{mean}\n{low} to {high}"
    return text if len(defined) == len(values) else f"{text}\n{len(defined)} of {len(values)} seeds"


def mean_interval(values: pd.Series) -> str:
    """Mean over seeds and, on a line of its own, its 95 % t interval; no interval for one seed or infinite values."""
    sample = values.dropna().to_numpy(dtype=np.float64)
    if not np.isfinite(sample).all() or len(sample) < 2:
        return num(sample.mean()) if len(sample) else "–"
    estimate = statistics.mean(sample)
    second = "every seed" if estimate.lower == estimate.upper else between(estimate.lower, estimate.upper)
    return f"{num(estimate.effect)}\n{second}"


def mean_sd(mean: Any, sd: Any) -> str:
    """Mean ± standard deviation, where there is one."""
    return num(mean) if "–" in (num(mean), num(sd)) else f"{num(mean)} ± {num(sd)}"


def short(completion: str, finished: bool) -> str:
    """A completion in few characters: runs of four and more as powers, the rest cut; says where it did not finish."""
    if not completion:
        return "⟨stops⟩" if finished else "… (unfinished)"
    if " " not in completion:
        runs = ((symbol, len(list(run))) for symbol, run in itertools.groupby(completion))
        completion = "".join(s + str(n).translate(SUPERSCRIPTS) if n > 3 else s * n for s, n in runs)
    cut = completion if len(completion) <= SHOWN else completion[:SHOWN] + "…"
    return cut if finished else f"{cut.removesuffix('…')}… (unfinished)"
