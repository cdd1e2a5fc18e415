"""The picture of what predicts transfer: steps to the threshold against two measures of sharpness."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lmtest.report.fine_tuning_figures import legend
from lmtest.report.fine_tuning_tables import STEPS
from lmtest.report.lanes import Lane, by_seed, hues, is_control, main_lanes, ordered
from lmtest.report.marks import BLANK, PALETTE, SOFT, Draw, grid_of_panels, plain_log
from lmtest.report.rows import label
from lmtest.report.tables import Key, RunTables

SHARPNESS = {
    "gn_trace": "Gauss–Newton trace, nats / weight²",
    "relative_sharpness": "relative sharpness, nats",
}
"""Predictors that have a panel each."""


def transfer_predictors(run: RunTables) -> Figure | None:
    """Steps to the threshold against flatness before, both logarithmic: a row a task, one point a seed."""
    measured = [measure for measure in SHARPNESS if (run.measurements["measure"] == measure).any()]
    found = [lane for lane in main_lanes(run) if any(len(by_seed(run, key, STEPS, str(lane))) for key in ordered(run))]
    if not measured or not found:
        return None
    figure, axes = grid_of_panels(len(found) * len(measured), len(measured), 3.5)
    drawn = 0
    for number, ax in enumerate(axes):
        lane, measure = found[number // len(measured)], measured[number % len(measured)]
        frames = {key: _points(run, key, measure, lane) for key in ordered(run)}
        points = pd.concat(frames.values())
        drawn += len(points)
        if points.empty:
            ax.set_axis_off()
            continue
        reached = points["y"].dropna()
        top = (reached.max() if len(reached) else 1.0) * 1.6
        ax.set_xscale("log")
        ax.set_yscale("log")
        for key, own in frames.items():
            there, never = own[own["y"].notna()], own[own["y"].isna()]
            ax.plot(there["x"], there["y"], _mark(run, key), ms=4.5, alpha=0.85, ls="", **_face(run, key))
            ax.plot(never["x"], [top] * len(never), "^", ms=5, mfc=BLANK, mec=hues(run)[key], ls="")
        if points["y"].isna().any():
            ax.text(0.01, 1.0, "△ threshold never reached", transform=ax.transAxes, color=SOFT, fontsize=8, va="bottom")
        plain_log(ax.xaxis)
        plain_log(ax.yaxis)
        ax.set_title(f"{lane.task}, {lane.from_examples}" if number % len(measured) == 0 else "", pad=14)
        ax.set_xlabel(f"{SHARPNESS[measure]} (log scale)")
        ax.set_ylabel("steps to threshold (log scale)")
    if not drawn:
        return None
    handles = [
        Line2D([], [], ls="", marker=_mark(run, key), ms=5, **_face(run, key), label=label(run, key))
        for key in ordered(run)
    ]
    legend(figure, handles)
    return figure


def _points(run: RunTables, key: Key, measure: str, lane: Lane) -> pd.DataFrame:
    """A row a seed: the predictor `x`, steps `y` (NaN where the threshold was never reached; 0 stands at 1)."""
    logs = by_seed(run, key, STEPS, str(lane))
    x = by_seed(run, key, measure, "support").reindex(logs.index)
    points = pd.DataFrame({"x": x.to_numpy(float), "y": np.exp(logs.to_numpy(float))})
    return points[points["x"] > 0]


def _mark(run: RunTables, key: Key) -> str:
    """Square where the colour is another's already."""
    return "s" if list(hues(run)).index(key) >= len(PALETTE) else "o"


def _face(run: RunTables, key: Key) -> dict[str, Any]:
    """Controls are hollow."""
    colour = hues(run)[key]
    return {"mfc": "none" if is_control(run, key) else colour, "mec": colour}


FIGURES: dict[str, Draw] = {"transfer_predictors": transfer_predictors}
