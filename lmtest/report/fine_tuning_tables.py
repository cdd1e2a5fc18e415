"""The tables of fine-tuning and of what predicts it, as rows of text."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from lmtest.claims import statistics
from lmtest.report.function_tables import flatness_table, function_table
from lmtest.report.in_context_tables import certificate_table, seeds_table
from lmtest.report.lanes import (
    CONTROLS,
    PROTOCOLS,
    SCORES,
    TITLES,
    Lane,
    baseline,
    by_seed,
    control,
    head,
    hues,
    lanes,
    loss_of,
    main_lanes,
    ordered,
    rates,
)
from lmtest.report.tables import FINE_TUNING, Key, RunTables, records
from lmtest.report.text import mean_interval, num
from lmtest.report.transfer import CHOSEN, PREDICTORS, predictor_table, sentences

STEPS = "log_steps_to_threshold"


def fine_tuning_section(run: RunTables) -> dict[str, Any]:
    """All that the page says in numbers of one language's fine-tuning."""
    config = run.resolved["config"]
    saturation = config.get("saturation", {})
    return {
        "config": config.get("evaluators", {}).get(FINE_TUNING, {}),
        "function": function_table(run),
        "gaps": gap_tables(run),
        "by_rate": rate_tables(run),
        "controls": control_words(run),
        "flatness": flatness_table(run),
        "transfer": transfer_tables(run),
        "certificates": certificate_table(run, hues(run)),
        "seeds": seeds_table(run),
        "per_token": f"{saturation['epsilon']:g}" if saturation.get("per") == "token" else "",
    }


def gap_tables(run: RunTables) -> list[dict[str, Any]]:
    """One table a task and protocol, a section a number of examples, a row a (model, variant) at its chosen rate."""
    known = ordered(run)
    tables: dict[tuple[str, str], dict[str, Any]] = {}
    for lane in lanes(run.measurements):
        loss = loss_of(run, lane)
        start = {
            "title": f"{lane.task}, {PROTOCOLS[lane.protocol]}",
            "loss": TITLES[loss],
            "right": TITLES[SCORES[loss]],
            "labels": loss == "cross_entropy",
            "sections": [],
        }
        table = tables.setdefault((lane.task, lane.protocol), start)
        rows = [_gap(run, key, lane, loss) for key in known]
        rows = [row for row in rows if row is not None]
        majority = run.measurements.loc[
            (run.measurements["measure"] == "majority_rate") & (run.measurements["prompt_set"] == str(lane)), "value"
        ]
        table["sections"].append(
            {"examples": lane.from_examples, "rows": rows, "majority": num(majority.mean()) if len(majority) else ""}
        )
    return list(tables.values())


def rate_tables(run: RunTables) -> list[dict[str, Any]]:
    """One table a lane: a row a (model, variant) that has a baseline, its gaps to it at every rate of the grid."""
    known, tables = ordered(run), []
    for lane in lanes(run.measurements):
        grid, loss, rows = rates(run.measurements, lane), loss_of(run, lane), []
        for key in known:
            before = baseline(run, key)
            if before is None or before not in known:
                continue
            own = set(by_seed(run, key, "chosen_rate", str(lane)))
            cells = [
                {
                    "ratio": ratio(run, key, before, lane.at(rate)),
                    "gap": gap(run, key, before, loss, lane.at(rate)),
                    "chosen": rate in own,
                }
                for rate in grid
            ]
            if any(cell["gap"] != "–" for cell in cells):
                rows.append({**head(run, key), "cells": cells})
        title = f"{lane.task}, {PROTOCOLS[lane.protocol]}, {lane.from_examples}"
        if rows:
            words = {"title": title, "gap": TITLES[loss][0].lower() + TITLES[loss][1:]}
            tables.append({**words, "rates": [f"{rate:g}" for rate in grid], "rows": rows})
    return tables


def ratio(run: RunTables, key: Key, before: Key, prompt_set: str) -> str:
    """Steps to the threshold over those of `before`, paired by seed: geometric mean with its 95 % t interval on logs.

    Of the seeds that reached it in both; says how many these are where not all are.
    """
    logs = paired(run, key, before, STEPS, prompt_set)
    return _with_count(_geometric(logs.dropna()), logs)


def gap(run: RunTables, key: Key, before: Key, measure: str, prompt_set: str) -> str:
    """A measure less that of `before`, paired by seed: mean with its 95 % t interval; says how many pairs where not all are."""
    differences = paired(run, key, before, measure, prompt_set)
    return _with_count(mean_interval(differences.dropna()), differences)


def paired(run: RunTables, key: Key, before: Key, measure: str, prompt_set: str) -> pd.Series:
    """A measure less that of `before`, by seed that both were measured on; NaN where one has no value."""
    both = [by_seed(run, one, measure, prompt_set) for one in (key, before)]
    seeds = both[0].index.intersection(both[1].index)
    first, second = (one.loc[seeds].to_numpy(float) for one in both)
    both_infinite = np.isinf(first) & np.isinf(second)
    return pd.Series(first - np.where(both_infinite, math.nan, second), index=seeds)


def transfer_tables(run: RunTables) -> list[dict[str, Any]]:
    """One table an outcome, a row a predictor: rank correlations pooled and within seeds, at the chosen rate and at each.

    `main`: of the lane that is looked at where one must do.
    """
    found, tables = predictor_table(run.measurements, run.certificates), []
    words, main = sentences(found), {str(lane) for lane in main_lanes(run)}
    for outcome, part in found.groupby("outcome", sort=False):
        cells = {(row["predictor"], row["rate"]): row for row in records(part)}
        grid = [str(rate) for rate in dict.fromkeys(part["rate"]) if rate != CHOSEN]
        rows = [
            {
                "label": PREDICTORS[name],
                "within": _rho(cells.get((name, CHOSEN)), "within"),
                "count": cells[name, CHOSEN]["count"] if (name, CHOSEN) in cells else "–",
                "cells": [_rho(cells.get((name, rate))) for rate in (CHOSEN, *grid)],
            }
            for name in dict.fromkeys(part["predictor"])
        ]
        about = {"title": _outcome(str(outcome)), "main": str(outcome).split(" ")[1] in main}
        tables.append({**about, "sentence": words[str(outcome)], "rates": grid, "rows": rows})
    return tables


def control_words(run: RunTables) -> list[str]:
    """What the controls say that this study has."""
    found = {control(run.derived[variant]) for variant in run.variants if variant in run.derived}
    return [text for name, text in CONTROLS.items() if name in found]


def _gap(run: RunTables, key: Key, lane: Lane, loss: str) -> dict[str, Any] | None:
    """A row of the gap table; None where this was not fine-tuned so."""
    name, before = str(lane), baseline(run, key)
    logs = by_seed(run, key, STEPS, name)
    if logs.empty:
        return None

    def beside(measure: str) -> str:
        return "" if before is None else gap(run, key, before, measure, name)

    chosen = sorted(set(by_seed(run, key, "chosen_rate", name)))
    return {
        **head(run, key),
        "steps": _with_count(_geometric(logs.dropna(), 1), logs, "reached"),
        "ratio": "" if before is None else ratio(run, key, before, name),
        "loss": mean_interval(by_seed(run, key, loss, name)),
        "loss_gap": beside(loss),
        "right": mean_interval(by_seed(run, key, SCORES[loss], name)),
        "right_gap": beside(SCORES[loss]),
        "forgetting": mean_interval(by_seed(run, key, "forgetting", name)),
        "rate": ", ".join(f"{rate:g}" for rate in chosen) or "–",
        "edge": bool((by_seed(run, key, "rate_at_edge", name) > 0).any()),
    }


def _geometric(logs: pd.Series, digits: int = 2) -> str:
    """exp of the mean of logs and, on a line of its own, of its 95 % t interval; no interval for one value."""
    if logs.empty:
        return "–"
    found = statistics.mean(logs.to_numpy(float))
    middle = num(math.exp(found.effect), digits)
    if math.isnan(found.lower):
        return middle
    same = found.lower == found.upper
    ends = f"{num(math.exp(found.lower), digits)} to {num(math.exp(found.upper), digits)}"
    return f"{middle}\n{'every seed' if same else ends}"


def _with_count(text: str, values: pd.Series, what: str = "pairs") -> str:
    """Says of how many values it is, where some are NaN."""
    count = int(values.notna().sum())
    return text if count == len(values) else f"{text}\n{count} of {len(values)} {what}"


def _rho(row: dict[str, Any] | None, name: str = "rho") -> str:
    if row is None:
        return "–"
    lower, upper = (row["lower"], row["upper"]) if name == "rho" else (row["within_lower"], row["within_upper"])
    return num(row[name], 2) if math.isnan(lower) else f"{num(row[name], 2)}\n{num(lower, 2)} to {num(upper, 2)}"


def _outcome(name: str) -> str:
    """ "log_steps_to_threshold anbnan.full.all" in words."""
    measure, lane = name.split(" ")
    task, _, examples = lane.split(".")
    words = {STEPS: "steps to threshold"} | {score: score.replace("_", "-") + " at the last step" for score in SCORES}
    return f"{task}, {Lane(task, 'full', examples).from_examples}: {words[measure]}"
