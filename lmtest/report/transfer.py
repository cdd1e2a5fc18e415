"""What is known of a model before it is fine-tuned, and what comes of it: rank correlations over variants and seeds."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from lmtest.claims import statistics
from lmtest.errors import UsageError
from lmtest.report.lanes import SCORES, Lane, lanes, rates
from lmtest.report.tables import FINE_TUNING, FLATNESS, REFERENCE, records, select
from lmtest.report.text import num
from lmtest.seeds import generator

Array = npt.NDArray[np.float64]

EXCESS = "kl"
PREDICTORS = {
    EXCESS: "excess of the loss",
    "gn_trace": "Gauss–Newton trace",
    "hessian_trace": "Hessian trace",
    "top_eigenvalue": "top eigenvalue",
    "relative_sharpness": "relative sharpness",
    "parameter_norm": "parameter norm",
    "effective_rank": "effective rank",
    "probe_excess": "linear probe: excess",
    "probe_exact_match": "linear probe: exact match",
    "probe_cross_entropy": "linear probe: cross-entropy",
    "probe_accuracy": "linear probe: accuracy",
}
"""Everything that may be known before, with its title."""
SHARPNESS = ("gn_trace", "hessian_trace", "top_eigenvalue", "relative_sharpness")
CHOSEN = "chosen"
COLUMNS = ("predictor", "outcome", "rate", "rho", "lower", "upper", "within", "within_lower", "within_upper", "count")
DRAWS = 2000
FEWEST = 3
"""Values that a rank correlation is of: two are always in one order."""
DIGITS = 3
"""Significant digits that predictors are ranked by: what rounding leaves between models of one function is no difference."""
ITEM = ["model", "variant", "seed"]


def predictor_table(measurements: pd.DataFrame, certificates: pd.DataFrame) -> pd.DataFrame:
    """Measurements and certificates of one language → a row a predictor, outcome and learning rate ("chosen", or the rate).

    Outcomes are of full fine-tuning: the log of steps to the threshold, and the last loss (excess or cross-entropy, nats per
    string), named "MEASURE TASK.full.N"; the linear probe, at the rate chosen for it, predicts its own task from as many
    examples. `rho`: Spearman's correlation over all (model, variant, seed), `lower`, `upper`: 95 % percentiles over 2,000
    draws of seeds, each with all its variants. `within`: mean over seeds of the correlation within one, with its t interval.
    A value that is not there because a threshold was never reached, or the loss is NaN, counts as worse than every other, tied
    with its like. NaN where fewer than 3 values differ or one side is constant, and intervals of one seed.
    Raises UsageError on more than one language.
    """
    languages = sorted(
        {str(name) for name in certificates["language"]} | {str(name) for name in measurements["language"]}
    )
    if len(languages) > 1:
        raise UsageError(f"expected rows of one language, found {', '.join(languages)}; select the rows of one of them")
    rows = measurements[measurements["variant"] != REFERENCE]
    known = _known(rows, certificates[certificates["variant"] != REFERENCE])
    fine = rows[rows["evaluator"] == FINE_TUNING]
    values = {
        name: part.set_index(ITEM)["value"].astype(float) for name, part in fine.groupby(["measure", "prompt_set"])
    }
    found = []
    for lane in (lane for lane in lanes(measurements) if lane.protocol == "full"):
        before = known | _probed(values, lane)
        grid: list[tuple[str, float | None]] = [(CHOSEN, None), *((f"{rate:g}", rate) for rate in rates(measurements))]
        for measure, (name, rate) in itertools.product(("log_steps_to_threshold", *SCORES), grid):
            outcome = values.get((measure, lane.at(rate)))
            if outcome is None:
                continue
            for predictor, predicting in before.items():
                of = {"predictor": predictor, "outcome": f"{measure} {lane}", "rate": name}
                found.append(of | _correlation(predicting, outcome))
    return pd.DataFrame(found, columns=list(COLUMNS))


def spearman(x: Array, y: Array, groups: npt.NDArray[np.intp], times: Array) -> Array:
    """Rank correlations of x and y [n], ties sharing their mean rank, where group g of the values stands `times[:, g]` times.

    `times` [D, G] → [D]; NaN where fewer than 3 values are there, or one side is constant.
    """
    weights = times[:, groups]
    members = np.eye(times.shape[1])[groups]
    total = weights.sum(1)

    def centred(values: Array) -> Array:
        below = (values < values[:, None]) + 0.5 * (values == values[:, None])
        return np.asarray(times @ (below @ members).T - total[:, None] / 2, dtype=np.float64)

    a, b = centred(x), centred(y)
    both, left, right = ((weights * one * two).sum(1) for one, two in ((a, b), (a, a), (b, b)))
    # A constant side has ranks that are all the mean, but for rounding.
    varied = (left > 1e-9) & (right > 1e-9) & ((weights > 0).sum(1) >= FEWEST)
    # Rounding must not give a correlation of 0 a sign.
    return np.where(varied, (both / np.sqrt(np.where(varied, left * right, 1.0))).round(12), math.nan)


def sentences(table: pd.DataFrame) -> dict[str, str]:
    """For each outcome which predictor, and which measure of sharpness, has the largest |ρ| at the chosen rate, whether its sign
    is the same at every rate, and which others are step sizes in disguise: their signs flip beyond the intervals."""
    return {str(outcome): _sentence(rows) for outcome, rows in table.groupby("outcome", sort=False)}


def flips(rows: pd.DataFrame, predictor: str, *, surely: bool = False) -> bool:
    """Whether a predictor of one outcome has a positive correlation at one rate of the grid and a negative one at another, …

    … and `surely` so: their intervals do not hold 0.
    """
    grid = _grid(rows, predictor)
    above, below = ("lower", "upper") if surely else ("rho", "rho")
    return bool((grid[above] > 0).any() and (grid[below] < 0).any())


def _sentence(rows: pd.DataFrame) -> str:
    chosen = select(rows, rate=CHOSEN).dropna(subset=["rho"])
    if chosen.empty:
        return "At the chosen rate either nothing differs before, or nothing after."
    ranked = records(chosen.loc[chosen["rho"].abs().sort_values(ascending=False, kind="stable").index])
    first, sharp = ranked[0], next((row for row in ranked if row["predictor"] in SHARPNESS), ranked[0])
    text = f"{_largest(first)} has the largest |ρ| at the chosen rate; {_sign(rows, first['predictor'])}."
    if sharp is not first:
        text += f" Of the measures of sharpness it is {_largest(sharp)}; {_sign(rows, sharp['predictor'])}."
    named = {first["predictor"], sharp["predictor"]}
    others = [row["predictor"] for row in ranked if row["predictor"] not in named]
    if others := [PREDICTORS[name] for name in others if flips(rows, name, surely=True)]:
        text += f" Step sizes in disguise, too (their signs flip over rates): {', '.join(others)}."
    return text[0].upper() + text[1:]


def _largest(row: dict[str, Any]) -> str:
    """A predictor with its ρ at the chosen rate."""
    return f"{PREDICTORS[row['predictor']]} ({num(row['rho'], 2)}{_interval(row)})"


def _sign(rows: pd.DataFrame, predictor: str) -> str:
    grid = _grid(rows, predictor)
    if grid.empty:
        return "at single rates nothing is known"
    if len(grid) == 1:
        return "it was measured at one rate alone"
    if not flips(rows, predictor):
        return "its sign is the same at every rate"
    high, low = (records(grid.loc[[place]])[0] for place in (grid["rho"].idxmax(), grid["rho"].idxmin()))
    ends = f"{num(high['rho'], 2)} at {high['rate']}, {num(low['rho'], 2)} at {low['rate']}"
    perhaps = "" if flips(rows, predictor, surely=True) else "perhaps, for not beyond the intervals, "
    return f"its sign flips over rates ({ends}): {perhaps}a step size in disguise"


def _grid(rows: pd.DataFrame, predictor: str) -> pd.DataFrame:
    """A predictor's correlations at the rates of the grid, where there are any."""
    return rows[(rows["predictor"] == predictor) & (rows["rate"] != CHOSEN)].dropna(subset=["rho"])


def _interval(row: dict[str, Any]) -> str:
    return "" if math.isnan(row["lower"]) else f", {num(row['lower'], 2)} to {num(row['upper'], 2)}"


def _known(rows: pd.DataFrame, certificates: pd.DataFrame) -> dict[str, pd.Series]:
    """Predictors of no task, by item."""
    flat = rows[(rows["evaluator"] == FLATNESS) & rows["measure"].isin(list(PREDICTORS))]
    parts = {str(name): part.set_index(ITEM)["value"].astype(float) for name, part in flat.groupby("measure")}
    parts[EXCESS] = certificates.set_index(ITEM)["kl"].astype(float)
    return {name: parts[name] for name in PREDICTORS if name in parts}


def _probed(values: dict[Any, pd.Series], lane: Lane) -> dict[str, pd.Series]:
    """What a linear probe of the same task made of as many examples, by item."""
    probe = str(lane._replace(protocol="probe"))
    scores = (score for pair in SCORES.items() for score in pair)
    return {f"probe_{score}": values[score, probe] for score in scores if (score, probe) in values}


def _correlation(predictor: pd.Series, outcome: pd.Series) -> dict[str, float]:
    both = pd.DataFrame({"x": predictor, "y": outcome.fillna(math.inf)})
    both = both.dropna()  # an item without a predictor, or without a row of the outcome, says nothing
    x = np.array([float(f"{value:.{DIGITS}g}") for value in both["x"]])
    y, seeds = both["y"].to_numpy(float), both.index.get_level_values("seed")
    names, groups = np.unique(seeds.to_numpy(), return_inverse=True)
    nan = dict.fromkeys(COLUMNS[3:-1], math.nan)
    if len(both) < FEWEST:
        return nan | {"count": len(both)}
    [rho] = spearman(x, y, groups, np.ones((1, len(names))))
    lower = upper = math.nan
    if len(names) > 1:
        # The same draws for every predictor.
        draws = generator(0, "transfer predictors").multinomial(len(names), [1 / len(names)] * len(names), size=DRAWS)
        drawn = spearman(x, y, groups, draws.astype(float))
        drawn = drawn[~np.isnan(drawn)]
        lower, upper = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else (math.nan, math.nan)
    within = spearman(x, y, groups, np.eye(len(names)))
    within = within[~np.isnan(within)]
    mean = statistics.mean(within) if len(within) else statistics.Estimate(math.nan, math.nan, math.nan)
    return {
        **{"rho": float(rho), "lower": float(lower), "upper": float(upper)},
        **{"within": mean.effect, "within_lower": mean.lower, "within_upper": mean.upper, "count": len(both)},
    }
