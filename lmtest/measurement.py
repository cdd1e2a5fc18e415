"""One measurement: a row of the table that evaluators and perturbations fill."""

from __future__ import annotations

import math
from typing import Any

Interval = tuple[float, float, float]
"""A value and the ends of its 95 % interval, NaN where it has none."""

TYPES = {
    "seed": "int64",
    "evaluator": "str",
    "measure": "str",
    "prompt_set": "str",
    "decoding": "str",
    "value": "float64",
    "lower": "float64",
    "upper": "float64",
    "count": "int64",
    "chance": "float64",
}
"""Columns: all but those that only the caller of an evaluator knows."""


def measurement(
    seed: int,
    evaluator: str,
    measure: str,
    prompt_set: str,
    interval: Interval,
    count: int,
    *,
    decoding: str = "exact",
    chance: float = math.nan,
) -> dict[str, Any]:
    """A row: the value of one seed on so many items, beside what the uniform law scores on them (NaN: not defined)."""
    value, lower, upper = interval
    return {
        "seed": seed,
        "evaluator": evaluator,
        "measure": measure,
        "prompt_set": prompt_set,
        "decoding": decoding,
        "value": value,
        "lower": lower,
        "upper": upper,
        "count": int(count),
        "chance": chance,
    }
