"""Ours beside theirs: one verdict for each published cell that we have measured too."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from lmtest.claims import statistics as st
from lmtest.columns import NUMBER, PUBLISHED, TEXT

TOLERANCE = 0.05
"""Differences of accuracies up to this are none."""

PEOPLE = "people"
"""The "model" of what people answered: shown beside ours, compared with none of them."""

NOT_SATURATED = "was not saturated"
TRIVIAL = "was below a trivial policy"
REPRODUCED = "reproduced"
NOT_REPRODUCED = "not reproduced"

CELL = ["language", "model", "variant", "measure", "prompt_set", "decoding"]
"""What ours and theirs have in common, in our names."""

CANDIDATE_COLUMNS = (
    dict.fromkeys([*CELL, "their_language", "label"], TEXT)
    | dict.fromkeys(["value", "value_rounding", "spread", "seeds"], NUMBER)
    | dict.fromkeys(["their_excess", "their_excess_lower", "epsilon", "trivial"], NUMBER)
    | dict.fromkeys(["source", "note"], TEXT)
)
"""What `compare_published` is handed: published cells and what is exact about their languages."""


def compare_published(rows: pd.DataFrame, measurements: pd.DataFrame, certificates: pd.DataFrame) -> pd.DataFrame:
    """Published cells (CANDIDATE_COLUMNS) → PUBLISHED, one row for each cell that we have measured, in order.

    What people answered is kept without a comparison: nothing of ours, and no verdict.

    `difference lower upper`: ours − theirs with Welch's 95 % interval over runs, theirs from mean, spread and number
    (`seeds`) alone. `verdict` is the first of these that applies:

    - "was not saturated": the published loss is above the exact entropy of their language by more than ε nats per string,
      even at the lower end of its 95 % interval over runs (rounding of the printed digits granted);
    - "was below a trivial policy": out of distribution, for a rule on the whole string, the published value is not above
      the better of stop-at-once and the uniform law on the published prompts. A rule on the completion alone is not
      judged so: stopping at once often keeps it by saying nothing; the comment tells;
    - "reproduced": the interval of the difference meets [−TOLERANCE, TOLERANCE];
    - "not reproduced": it does not, or none of our seeds has a value.

    A loss that was not published, or that its spread or digits leave open, decides nothing. Our values that are not
    finite (nothing finished) are left out of `ours ours_sd ours_seeds`; `ours_saturated` counts saturated seeds among
    all that were measured. `comment` says what else is true.
    """
    samples = _by_cell(measurements)
    saturated = _saturated_seeds(certificates)
    found = []
    for row in rows.to_dict("records"):
        sample = samples.get(tuple(row[column] for column in CELL))
        if row["model"] == PEOPLE:
            found.append(_people({str(key): value for key, value in row.items()}))
        elif sample is not None:
            good = saturated.get((row["language"], row["model"], row["variant"]), set())
            found.append(_compare({str(key): value for key, value in row.items()}, sample, good))
    return pd.DataFrame(found, columns=list(PUBLISHED)).astype(PUBLISHED)


def welch_from_summaries(
    theirs: tuple[float, float, float], ours: tuple[float, float, float], alpha: float = st.ALPHA
) -> st.Estimate:
    """Means, standard deviations (ddof 1) and numbers of two samples → ours − theirs with Welch's interval (1 − alpha, two-sided).

    A standard deviation whose number of runs is not known counts as a standard error (as of one run); a sample without one
    adds no width, and NaN ends stand where neither is known.
    """
    effect = ours[0] - theirs[0]
    known = [(sd**2 / n, n - 1) for _, sd, n in (theirs, ours) if math.isfinite(sd) and n > 1]
    known += [(sd**2, math.inf) for _, sd, n in (theirs, ours) if math.isfinite(sd) and math.isnan(n)]
    if not known or not math.isfinite(effect):
        return st.Estimate(effect, math.nan, math.nan)
    variance = sum(part for part, _ in known)
    if variance == 0:
        return st.Estimate(effect, effect, effect)
    uncertain = sum(part**2 / free for part, free in known)
    freedom = variance**2 / uncertain if uncertain else math.inf
    half = float(stdtrit(freedom, 1 - alpha / 2)) * math.sqrt(variance)
    return st.Estimate(effect, effect - half, effect + half)


def _compare(row: dict[str, Any], sample: Mapping[int, float], saturated: set[int]) -> dict[str, Any]:
    values = np.array([value for value in sample.values() if math.isfinite(value)])
    ours = float(values.mean()) if len(values) else math.nan
    sd = st.spread(values).effect if len(values) else math.nan
    good = len(saturated & sample.keys())
    estimate = welch_from_summaries((row["value"], row["spread"], row["seeds"]), (ours, sd, len(values)))
    return row | {
        "ours": ours,
        "ours_sd": sd,
        "ours_seeds": len(values),
        "ours_saturated": good,
        "difference": estimate.effect,
        "lower": estimate.lower,
        "upper": estimate.upper,
        "verdict": _verdict(row, estimate),
        "comment": "; ".join(_comments(row, estimate, len(sample), len(values), good)),
    }


def _people(row: dict[str, Any]) -> dict[str, Any]:
    nothing = dict.fromkeys(["ours", "ours_sd", "difference", "lower", "upper"], math.nan)
    comment = "not above a trivial policy" if _is_trivial(row) and _is_of_whole_string(row) else ""
    return row | nothing | {"ours_seeds": 0, "ours_saturated": 0, "verdict": "", "comment": comment}


def _verdict(row: Mapping[str, Any], estimate: st.Estimate) -> str:
    if row["their_excess_lower"] > row["epsilon"]:
        return NOT_SATURATED
    if _is_trivial(row) and _is_of_whole_string(row):
        return TRIVIAL
    return REPRODUCED if _meets(estimate) else NOT_REPRODUCED


def _meets(estimate: st.Estimate) -> bool:
    """Whether the interval (the difference itself where there is none) meets the tolerance; a NaN does not."""
    lower, upper = estimate.lower, estimate.upper
    if math.isnan(lower):
        lower = upper = estimate.effect
    return lower <= TOLERANCE + st.TIE and upper >= -TOLERANCE - st.TIE


def _is_trivial(row: Mapping[str, Any]) -> bool:
    """Whether the published value, as printed, may be no more than a trivial policy's; a NaN is not."""
    return bool(row["value"] - row["value_rounding"] <= row["trivial"])


def _is_of_whole_string(row: Mapping[str, Any]) -> bool:
    return not str(row["measure"]).removesuffix("_finished").endswith("_completion")


def _comments(row: Mapping[str, Any], estimate: st.Estimate, measured: int, finite: int, good: int) -> list[str]:
    comments = []
    verdict = _verdict(row, estimate)
    if math.isnan(row["their_excess"]):
        comments.append("their loss is not known")
    elif verdict != NOT_SATURATED and 2 * row["their_excess"] - row["their_excess_lower"] > row["epsilon"]:
        comments.append("their loss does not settle whether they were saturated")
    if _is_trivial(row) and not _is_of_whole_string(row):
        comments.append(f"a trivial policy scores {row['trivial']:.3f}")
    elif _is_trivial(row) and verdict != TRIVIAL:
        comments.append(f"not above a trivial policy ({row['trivial']:.3f}) either")
    if verdict in (NOT_SATURATED, TRIVIAL) and finite:
        comments.append("ours agrees with it" if _meets(estimate) else "ours differs from it")
    if finite and math.isnan(estimate.lower):
        comments.append("no interval: neither side has a spread")
    elif finite and verdict == REPRODUCED and abs(estimate.effect) > TOLERANCE + st.TIE:
        comments.append(f"the difference is beyond {TOLERANCE}, its interval is not")
    if finite and verdict == REPRODUCED and (half := (estimate.upper - estimate.lower) / 2) > 2 * TOLERANCE:
        comments.append(f"the interval is ± {half:.2f}: little could have contradicted")
    elif finite and not math.isfinite(row["spread"]):
        comments.append("their spread is not known: the interval is of our seeds alone")
    elif finite and not math.isfinite(row["seeds"]):
        comments.append("their number of runs is not known: their spread counts as an error")
    if finite < measured:
        comments.append(f"{measured - finite} of {measured} of our seeds have no value: nothing finishes")
    if good < measured:
        comments.append(f"only {good} of {measured} of our seeds are saturated")
    if row["language"] != row["their_language"]:
        comments.append(f"ours is {row['language']}, theirs {row['their_language']}")
    return comments


def _by_cell(measurements: pd.DataFrame) -> dict[tuple[str, ...], dict[int, float]]:
    """Cell → value by seed."""
    cells: dict[tuple[str, ...], dict[int, float]] = defaultdict(dict)
    if not measurements.empty:
        keys = zip(*(measurements[name].astype(str) for name in CELL), strict=True)
        values = measurements["value"].astype("float64").tolist()
        for key, seed, value in zip(keys, measurements["seed"].tolist(), values, strict=True):
            cells[key][seed] = value
    return cells


def _saturated_seeds(certificates: pd.DataFrame) -> dict[tuple[str, ...], set[int]]:
    if certificates.empty:
        return {}
    good = certificates[certificates["saturated"].astype(bool)]
    names = ["language", "model", "variant"]
    return {tuple(map(str, key)): set(rows["seed"].tolist()) for key, rows in good.groupby(names, sort=False)}
