"""Calibration: is a model right as often as it is sure?

The expected calibration error over equal-width bins of the confidence (Guo et al., ICML 2017, arXiv 1706.04599, section 2),
and the table behind a reliability plot.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd


def reliability(confidence: np.ndarray, accuracy: np.ndarray, bins: int) -> pd.DataFrame:
    """Confidences [N] in [0, 1] and outcomes [N] (or their expectations) → a row for each bin that holds any.

    Columns: lower, upper (a bin holds its lower end; the last one holds 1 too), confidence, accuracy (means), count.
    """
    places = (confidence * bins).astype(np.int64).clip(0, bins - 1)
    table = pd.DataFrame({"bin": places, "confidence": confidence, "accuracy": accuracy, "count": 1})
    groups = table.groupby("bin").agg({"confidence": "mean", "accuracy": "mean", "count": "sum"})
    edges = {"lower": groups.index.to_numpy() / bins, "upper": (groups.index.to_numpy() + 1) / bins}
    return pd.DataFrame(edges | {name: groups[name].to_numpy() for name in groups})


def calibration_error(confidence: np.ndarray, accuracy: np.ndarray, bins: int) -> float:
    """Σ over bins of (share of items) · |mean accuracy − mean confidence|; NaN where there is no item."""
    if len(confidence) == 0:
        return math.nan
    table = reliability(confidence, accuracy, bins)
    gaps = (table["accuracy"] - table["confidence"]).abs()
    return float((gaps * table["count"]).sum() / len(confidence))
