"""The tables of models before fine-tuning, as rows of text: whether they compute the same, and how flat they are."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from lmtest.claims import statistics
from lmtest.report.lanes import baseline, head, preserving
from lmtest.report.overview import excess
from lmtest.report.tables import FLATNESS, FUNCTION, Key, RunTables

FLAT = {
    "gn_trace": ("Gauss–Newton trace, nats / weight²", "exact"),
    "trace_residual": ("Hessian trace beyond it, nats / weight²", "probes"),
    "hutchinson_trace": ("Hessian trace from probes alone, nats / weight²", "probes"),
    "top_eigenvalue": ("Top eigenvalue, nats / weight²", "exact"),
    "relative_sharpness": ("Relative sharpness, nats", "exact"),
    "parameter_norm": ("Parameter norm", "exact"),
    "effective_rank": ("Effective rank of representations", "exact"),
}
"""Measures of flatness with their titles and decodings."""


def function_table(run: RunTables) -> list[dict[str, Any]]:
    """One row a function-preserving variant of a model: what it does, how far its function is from the original's."""
    rows = []
    for key in run.trained:
        what = preserving(run.derived[key[1]]) if key[1] in run.derived else None
        if what is None:
            continue
        before = baseline(run, key)
        rows.append(
            {
                **head(run, key),
                "what": what,
                "parameters": parameters(run, key),
                "differences": [
                    _largest(run, key, measure, where)
                    for measure in ("function_difference", "function_difference_float64")
                    for where in ("id", "ood")
                ],
                "before": excess(run, before) if before else "–",
                "after": excess(run, key),
            }
        )
    return rows


def parameters(run: RunTables, key: Key) -> str:
    """The number of a model's parameters, as the study says or as was counted with its norm; a dash where neither did."""
    if key[1] not in run.derived or preserving(run.derived[key[1]]) is None:
        return f"{run.language['models'][key[0]]['parameters']:,}"
    counts = run.measured(key, "parameter_norm", "support", "exact")["count"]
    return f"{int(counts.iloc[0]):,}" if len(counts) else "–"


def flatness_table(run: RunTables) -> dict[str, Any]:
    """One row a (model, variant), one column a measure: means over seeds with their t intervals, or of one seed its own."""
    rows = []
    for key in run.trained:
        measured = [run.measured(key, measure, "support", decoding) for measure, (_, decoding) in FLAT.items()]
        if any(len(values) for values in measured):
            rows.append({**head(run, key), "cells": [_estimate(values) for values in measured]})
    return {"titles": [title for title, _ in FLAT.values()], "rows": rows}


def _largest(run: RunTables, key: Key, measure: str, where: str) -> str:
    rows = run.measured(key, measure, where, "exact")
    values = rows.loc[rows["evaluator"] == FUNCTION, "value"].astype(float).dropna()
    return "–" if values.empty else "0" if values.max() == 0 else f"{values.max():.1e}".replace("-", "−")


def _estimate(rows: pd.DataFrame) -> str:
    """Mean over seeds and its 95 % t interval; of one seed its own interval, of probes."""
    values = rows.loc[rows["evaluator"] == FLATNESS, ["value", "lower", "upper"]].astype(float).dropna(subset="value")
    if values.empty:
        return "–"
    found = statistics.mean(values["value"].to_numpy(float))
    ends = values.iloc[0, 1:].tolist() if len(values) == 1 else [found.lower, found.upper]
    if any(math.isnan(end) for end in ends) or ends[0] == ends[1]:
        return _short(found.effect)
    return f"{_short(found.effect)}\n{_short(ends[0])} to {_short(ends[1])}"


def _short(value: float) -> str:
    """Three significant digits, and all before the point."""
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"
    return text.replace("-", "−")
