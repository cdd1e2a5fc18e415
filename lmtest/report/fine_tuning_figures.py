"""The pictures of fine-tuning: along its steps, the gap to the baseline, in the number of examples, and what predicts it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from lmtest.claims import statistics
from lmtest.report import figures
from lmtest.report.fine_tuning_tables import STEPS, paired
from lmtest.report.lanes import (
    TITLES,
    Lane,
    baseline,
    by_seed,
    hues,
    is_control,
    lanes,
    loss_of,
    main_lanes,
    ordered,
    preserving,
    rates,
)
from lmtest.report.marks import BLANK, DASHES, FAINT, INK, PALETTE, SOFT, Draw, grid_of_panels, plain_log
from lmtest.report.rows import label
from lmtest.report.tables import FINE_TUNING, Key, RunTables, select

WIDEST = 8.0
"""A ratio beyond which an interval's end does not widen the picture."""
LIFT = 0.12
"""Rows by which the chosen rate stands above the middle of its own."""


def fine_tuning_curves(run: RunTables) -> Figure | None:
    """The loss of each task along full fine-tuning at the chosen rate: a panel a task, a line a (model, variant)."""
    curves = {lane: found for lane in main_lanes(run) if (found := _curves(run, lane))}
    if not curves:
        return None
    figure, axes = grid_of_panels(len(curves), min(len(curves), 2), 3.9)
    for ax, (lane, found) in zip(axes, curves.items(), strict=True):
        steps = sorted({int(step) for table in found.values() for step in table.index if step > 0})
        ax.set_xscale("symlog", linthresh=steps[0] if steps else 1, linscale=0.5)
        for key, table in found.items():
            colour = hues(run)[key]
            ax.plot(table.index, table.mean(axis=1), **line(run, key))
            if table.shape[1] > 1 and baseline(run, key) is None:  # fifteen bands would hide each other
                ax.fill_between(table.index, table.min(axis=1), table.max(axis=1), color=colour, alpha=0.07, lw=0)
        _loss_axis(ax, found.values())
        places = [0, *_thinned(steps)]
        ax.xaxis.set_major_locator(FixedLocator(places))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        _threshold(ax, run, lane)
        ax.set_title(f"{lane.task}, {lane.from_examples}")
        ax.set_xlabel("fine-tuning step")
        ax.set_ylabel(_lower(TITLES[loss_of(run, lane)]))
    shown = {key for tables in curves.values() for key in tables}
    legend(figure, [Line2D([], [], **line(run, key)) for key in ordered(run) if key in shown])
    return figure


def fine_tuning_gap(run: RunTables) -> Figure | None:
    """Steps to the threshold over the baseline's, paired by seed: a row a variant, controls below a rule, a panel a task."""
    known = ordered(run)
    keys = [key for key in known if baseline(run, key) in known]
    found = {lane: _ratios(run, keys, lane) for lane in main_lanes(run)}
    found = {
        lane: rows for lane, rows in found.items() if any(row for by_rate in rows.values() for row in by_rate.values())
    }
    if not found:
        return None
    across = min(len(found), 3)
    figure, axes = grid_of_panels(len(found), across, 0.4 * len(keys) + 1.6)
    drawn = {at for rows in found.values() for by_rate in rows.values() for at, row in by_rate.items() if row}
    grid = [rate for rate in rates(run.measurements) if rate in drawn]
    for number, (ax, (lane, rows)) in enumerate(zip(axes, found.items(), strict=True)):
        # Ratios alone, and what shows of the intervals: one of two pairs may span the sky.
        points = [row.effect for by_rate in rows.values() for row in by_rate.values() if row]
        ends = [end for by_rate in rows.values() if (row := by_rate[None]) for end in (row.lower, row.upper)]
        shown = [end for end in ends if 1 / WIDEST < end < WIDEST]
        ax.set_xscale("log")
        ax.set_xlim(min([*points, *shown, 0.8]) / 1.15, max([*points, *shown, 1.25]) * 1.15)
        ax.axvline(1, color=INK, lw=0.9, zorder=1)
        for y, key in enumerate(keys):
            _forest_row(ax, y, rows[key], grid, hues(run)[key])
        controls = sum(is_control(run, key) for key in keys)
        if 0 < controls < len(keys):
            ax.axhline(len(keys) - controls - 0.5, color=FAINT, lw=0.8)
            ax.text(0.99, len(keys) - controls - 0.45, "controls", transform=ax.get_yaxis_transform(), ha="right", va="top",
                    fontsize=7.5, color=SOFT)  # fmt: skip
        ax.set_ylim(len(keys) - 0.4, -0.6)
        ax.set_yticks(range(len(keys)), [label(run, key) for key in keys] if number % across == 0 else [""] * len(keys))
        ax.tick_params(axis="y", length=0)
        plain_log(ax.xaxis)
        ax.set_title(f"{lane.task}\n{lane.from_examples}", fontsize=10)
    figure.supxlabel("steps to threshold ÷ those of the baseline (log scale; fewer is faster ←)", fontsize=9.5)
    _rate_legend(figure, grid)
    return figure


def fine_tuning_examples(run: RunTables) -> Figure | None:
    """The loss after full fine-tuning at the chosen rate against the number of examples: a panel a task."""
    found: dict[str, list[Lane]] = {}
    for lane in lanes(run.measurements):
        if lane.protocol == "full" and lane.examples != "all":
            found.setdefault(lane.task, []).append(lane)
    found = {task: here for task, here in found.items() if len(here) > 1}
    if not found:
        return None
    figure, axes = grid_of_panels(len(found), min(len(found), 2), 3.9)
    for ax, (task, here) in zip(axes, found.items(), strict=True):
        ns, loss = [int(lane.examples) for lane in here], loss_of(run, here[0])
        tables = {key: pd.DataFrame([by_seed(run, key, loss, str(lane)) for lane in here]) for key in ordered(run)}
        tables = {key: table for key, table in tables.items() if table.size}
        for key, table in tables.items():
            ax.plot(ns, table.mean(axis=1), marker="o", ms=3, **line(run, key))
        _loss_axis(ax, tables.values())
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_locator(FixedLocator(ns))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        _threshold(ax, run, here[0])
        ax.set_title(task)
        ax.set_xlabel("strings to learn from")
        ax.set_ylabel(_lower(TITLES[loss]) + ", last step")
    legend(figure, [Line2D([], [], **line(run, key), marker="o", ms=3) for key in ordered(run)])
    return figure


def certificates(run: RunTables) -> Figure | None:
    """The certificates of what was trained: a variant that computes the same function has the same, beside its difference."""
    same = [name for name, config in run.derived.items() if preserving(config) is not None]
    return figures.certificates(run, same)


FIGURES: dict[str, Draw] = {
    "fine_tuning_curves": fine_tuning_curves,
    "fine_tuning_gap": fine_tuning_gap,
    "fine_tuning_examples": fine_tuning_examples,
}


def line(run: RunTables, key: Key) -> dict[str, Any]:
    """How a (model, variant) is drawn: the baseline thick, controls dashed, and what has the colour of another dotted."""
    first, again = baseline(run, key) is None, list(hues(run)).index(key) >= len(PALETTE)
    dash = DASHES[1] if is_control(run, key) else DASHES[2] if again else "-"
    style = {"lw": 3.0, "zorder": 3} if first else {"lw": 1.4, "zorder": 4}
    return {"color": hues(run)[key], "ls": dash, "label": label(run, key), **style}


def legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)


def _curves(run: RunTables, lane: Lane) -> dict[Key, pd.DataFrame]:
    """Losses by step (rows) and seed (columns), each seed at the rate that was chosen for it."""
    if not {"step", "rate", "task_loss"} <= set(run.completions):
        return {}
    names = [lane.at(rate) for rate in rates(run.measurements)]
    rows = run.completions[run.completions["evaluator"] == FINE_TUNING]
    rows = rows[rows["prompt_set"].isin(names)]
    found = {}
    for key in ordered(run):
        own = select(rows, model=key[0], variant=key[1])
        chosen = own["seed"].map(by_seed(run, key, "chosen_rate", str(lane)))
        own = own[np.isclose(own["rate"].astype(float), chosen.astype(float))]
        if len(own):
            found[key] = own.pivot(index="step", columns="seed", values="task_loss").sort_index()
    return found


class Ratio(NamedTuple):
    """A ratio of steps with its 95 % interval; `whole`: every pair reached the threshold."""

    effect: float
    lower: float
    upper: float
    whole: bool


def _ratios(run: RunTables, keys: Sequence[Key], lane: Lane) -> dict[Key, dict[float | None, Ratio | None]]:
    """By (model, variant) and rate (None: the chosen one) the ratio of steps; None where too few pairs reached the threshold."""
    found: dict[Key, dict[float | None, Ratio | None]] = {}
    for key in keys:
        before = baseline(run, key)
        assert before is not None
        found[key] = {}
        for rate in (*rates(run.measurements), None):
            pairs = paired(run, key, before, STEPS, lane.at(rate)).to_numpy(float)
            logs = pairs[np.isfinite(pairs)]
            found[key][rate] = None
            if len(logs) and (rate is None or 2 * len(logs) >= len(pairs)):
                estimate = statistics.mean(logs)
                effect, lower, upper = (math.exp(end) for end in (estimate.effect, estimate.lower, estimate.upper))
                found[key][rate] = Ratio(effect, lower, upper, len(logs) == len(pairs))
    return found


def _forest_row(
    ax: Axes, y: int, by_rate: dict[float | None, Ratio | None], grid: Sequence[float], colour: str
) -> None:
    """The chosen rate bold with its interval, below it the rates of the grid lighter, the lowest on top."""
    for i, rate in enumerate(grid):
        if (row := by_rate[rate]) is not None:
            ax.plot([row.effect], [y + _offset(i, len(grid))], _mark(i), ms=4, color=colour, alpha=0.4, mew=0, zorder=3)
    if (row := by_rate[None]) is None:
        ax.text(0.03, y - LIFT, "threshold not reached", transform=ax.get_yaxis_transform(), ha="left", va="center", fontsize=7.5,
                color=SOFT)  # fmt: skip
        return
    if math.isfinite(row.lower):
        ax.plot([row.lower, row.upper], [y - LIFT, y - LIFT], color=colour, lw=2, zorder=4, solid_capstyle="butt")
    inner, edge = (colour, BLANK) if row.whole else (BLANK, colour)
    ax.plot([row.effect], [y - LIFT], "o", ms=7, zorder=5, mfc=inner, mec=edge, mew=0.8 if row.whole else 1.5)


def _rate_legend(figure: Figure, grid: Sequence[float]) -> None:
    handles = [
        Line2D([], [], ls="", marker=_mark(i), ms=5, color=INK, alpha=0.4, mew=0, label=f"rate {rate:g}")
        for i, rate in enumerate(grid)
    ]
    handles.append(Line2D([], [], marker="o", ms=7, color=INK, lw=2, label="chosen rates, 95 % interval"))
    figure.legend(handles=handles, loc="outside upper center", ncols=6, frameon=False, fontsize=8.5)


def _mark(i: int) -> str:
    return "v<>^sDph"[i % 8]


def _offset(i: int, n: int) -> float:
    return 0.3 if n == 1 else 0.16 + 0.26 * i / (n - 1)


def _loss_axis(ax: Axes, tables: Iterable[pd.DataFrame]) -> None:
    """Logarithmic; where some losses are not positive, linear below the smallest that is."""
    values = np.concatenate([table.to_numpy(float).ravel() for table in tables])
    found = values[np.isfinite(values)]
    positive = found[found > 0]
    if len(positive) and (found > 0).all():
        ax.set_yscale("log")
        plain_log(ax.yaxis)
    elif len(positive):
        ax.set_yscale("symlog", linthresh=float(positive.min()), linscale=0.4)


def _threshold(ax: Axes, run: RunTables, lane: Lane) -> None:
    value = run.resolved["config"].get("evaluators", {}).get(FINE_TUNING, {}).get("threshold")
    if value is not None and loss_of(run, lane) == "excess":
        ax.axhline(value, color=SOFT, lw=0.9, ls=DASHES[3], zorder=1)
        ax.text(0, value, f" threshold {value:g}", transform=ax.get_yaxis_transform(), ha="left", va="bottom", fontsize=7.5,
                color=SOFT)  # fmt: skip


def _thinned(steps: Sequence[int]) -> list[int]:
    """Steps whose labels do not run into each other on a logarithmic axis."""
    kept: list[int] = []
    for step in reversed(steps):
        if not kept or step * 1.8 <= kept[-1]:
            kept.append(step)
    return kept[::-1]


def _lower(title: str) -> str:
    return title[0].lower() + title[1:]
