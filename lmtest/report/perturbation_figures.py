"""The pictures of perturbed models: what is lost in context, what it costs, and how far the failure reaches."""

from __future__ import annotations

import math
import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogFormatterMathtext, LogLocator, NullLocator

from lmtest.report.marks import BAND, BLANK, FAINT, INK, SOFT, WIDTH, Draw, model_colours, rows_of_panels
from lmtest.report.marks import spread as spread_labels
from lmtest.report.shapes import LANGUAGE, Derived, Shape, accuracy, asked, called, chosen, cost, derived, shapes
from lmtest.report.tables import Key, RunTables, records

EXACT, AROUND, FAIL, SUCCEED = "o", "s", "v", "^"
KINDS = {
    EXACT: "exchange of the exact law",
    AROUND: "exchange around a trained model",
    FAIL: "taught to fail",
    SUCCEED: "taught to succeed",
}
NOTHING_BELOW = 1e-300
"""Nats: what is smaller has no place on a logarithmic axis."""


def perturbation(run: RunTables) -> Figure | None:
    """The outcome against what the loss rises by, nats per document (log): exact, around trained models, and learned."""
    if (found := asked(run)) is None:
        return None
    measure, prompt_set, title = found
    points = _points(run, measure, prompt_set)
    if points.empty:
        return None
    positive = points["x"][points["x"] > NOTHING_BELOW]
    low = min([*positive, run.epsilon]) / 4
    high = max([*points["upper"].dropna(), *positive, run.epsilon]) * 4
    edge = low * (low / high) ** 0.05
    figure, [ax] = rows_of_panels(1, 5.0)
    ax.set_xscale("log")
    ax.set_xlim(edge * (low / high) ** 0.02, high)
    ax.set_ylim(-0.14, 1.04)
    ax.axvline(run.epsilon, color=INK, lw=0.9, zorder=1)
    ax.text(run.epsilon, 1.01, f"ε = {run.epsilon:.3g}", transform=ax.get_xaxis_transform(), ha="center", color=SOFT)
    if (points["x"] <= NOTHING_BELOW).any():
        ax.axvspan(edge * (low / high) ** 0.02, low, color=BAND, lw=0, zorder=0)
        ax.text(math.sqrt(edge * low), -0.13, "≤ 0", ha="center", color=SOFT)
    for row in records(points):
        exact, colour = row["of"].exact, row["colour"]
        x = row["x"] if row["x"] > NOTHING_BELOW else edge
        if not math.isnan(row["lower"]):
            ends = np.clip([row["lower"], row["upper"]], edge, high)
            ax.plot(ends, [row["y"]] * 2, color=colour, lw=0.9, alpha=0.3, zorder=2)
        fill = "none" if exact else BLANK if row["of"].taught else colour  # a ring: others may lie inside
        ax.plot([x], [row["y"]], row["mark"], ms=9 if exact else 5, mfc=fill, mec=colour, mew=1.6 if exact else 1.2,
                alpha=1 if exact else 0.75, zorder=5 if exact else 3, clip_on=False)  # fmt: skip
    _label_exact(ax, points, edge)
    _label_taught(ax, points, edge)
    _unperturbed(ax, run, measure, prompt_set, points)
    _decades(ax.xaxis)
    ax.set_xlabel("what the loss rises by, nats per document (log scale)")
    ax.set_ylabel(title)
    marks = [Line2D([], [], ls="", marker=mark, ms=6, mfc=INK if mark == AROUND else BLANK, mec=INK, label=text)
             for mark, text in KINDS.items() if (points["mark"] == mark).any()]  # fmt: skip
    figure.legend(handles=marks, loc="outside lower center", ncols=4, frameon=False, fontsize=8.5, handletextpad=0.2)
    return figure


def perturbation_by_n(run: RunTables) -> Figure | None:
    """KL of the exact exchange with its bounds, nats per document (log): one n alone, families of n, and anywhere."""
    exact = [one for one in derived(run) if one.exact and one.examples]
    if not exact:
        return None
    exact.sort(key=lambda one: (one.k, one.anywhere, len(one.examples) > 1, one.examples))
    several = len({one.k for one in exact}) > 1
    measures = ("kl_added", "kl_bound", "kl_guaranteed")
    rows = [{name: float(cost(run, one, name)["value"].mean()) for name in measures} for one in exact]
    values = [v for row in rows for v in row.values() if math.isfinite(v) and v > NOTHING_BELOW]
    if not values:
        return None
    low, high = min([*values, run.epsilon]), max([*values, run.epsilon])
    room = (high / low) ** 0.2
    figure, [ax] = rows_of_panels(1, 4.2)
    ax.set_yscale("log")
    ax.set_ylim(low / room, high * room**0.6)
    ax.set_xlim(-0.6, len(exact) - 0.4)
    ax.axhline(run.epsilon, color=INK, lw=0.9, zorder=1)
    ax.text(1.01, run.epsilon, f"ε = {run.epsilon:.3g}", transform=ax.get_yaxis_transform(), va="center", color=SOFT)
    names = []
    for x, (one, row) in enumerate(zip(exact, rows, strict=True)):
        ns = textwrap.fill(", ".join(map(str, one.examples)), 7)
        where = f"n ≥ {ns},\nanywhere" if one.anywhere else f"n = {ns}"
        names.append(f"k = {one.k},\n{where}" if several else where)
        [ends] = cost(run, one)[["lower", "upper"]].head(1).to_numpy(float)
        kl = row["kl_added"]
        at = kl if kl > NOTHING_BELOW else low / room**0.5
        tops = [v for name, v in row.items() if name != "kl_added" and math.isfinite(v) and v > NOTHING_BELOW]
        ax.plot([x] * (1 + len(tops)), [at, *tops], color=FAINT, lw=0.9, zorder=2)
        for v, half, width in zip(tops, (0.11, 0.2), (1.2, 2), strict=False):
            ax.plot([x - half, x + half], [v, v], color=SOFT, lw=width, zorder=2)
        if kl > NOTHING_BELOW and np.isfinite(ends).all():
            ax.plot([x, x], np.maximum(ends, low / room), color=INK, lw=3, alpha=0.4, zorder=3)
        ax.plot([x], [at], EXACT, ms=6.5, mfc=INK if at == kl else BLANK, mec=INK, zorder=4)
        text = f"{kl:.2g}".replace("-", "−") if at == kl else "0: no document\nhas such a prompt"
        ax.annotate(text + _outcome(run, one), (x, at), (8, -3 if at == kl else 0), textcoords="offset points", fontsize=8,
                    va="top" if at == kl else "center")  # fmt: skip
    ax.set_xticks(range(len(names)), names)
    ax.tick_params(axis="x", length=0)
    _decades(ax.yaxis)
    ax.set_ylabel("KL, nats per document (log scale)")
    handles = [
        Line2D([], [], ls="", marker=EXACT, ms=6, color=INK, label="KL of the exchange, 95 % interval"),
        Line2D([], [], color=SOFT, lw=1.2, label="P · largest gap that was read"),
        Line2D([], [], color=SOFT, lw=2, label="bound without draws"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False, fontsize=8.5)
    return figure


def spread(run: RunTables) -> Figure | None:
    """Accuracy of taught models on every prompt shape, those shown framed, beside what they were before."""
    taught = [one for one in derived(run) if one.taught]
    found = shapes(run)
    if not taught or not found:
        return None
    panels: list[tuple[Key, Derived | None]] = []
    for model in dict.fromkeys(one.key[0] for one in taught):
        own = [one for one in taught if one.key[0] == model]
        panels += [*((key, None) for key in dict.fromkeys(one.before for one in own)), *((one.key, one) for one in own)]
    rows, ns = list(dict.fromkeys((s.family, s.k) for s in found)), sorted({s.n for s in found})
    across = min(3, len(panels))
    down = math.ceil(len(panels) / across)
    figure = Figure(figsize=(WIDTH, down * (0.19 * len(rows) + 0.55) + 0.3))
    grid = figure.subplots(down, across, squeeze=False)
    several = len({key[0] for key, _ in panels}) > 1
    for number, ax in enumerate(grid.flat):
        if number >= len(panels):
            ax.set_axis_off()
            continue
        key, one = panels[number]
        values = [[float(accuracy(run, key, Shape(*row, n)).mean()) for n in ns] for row in rows]
        _heat(ax, np.array(values))
        for y, row in enumerate(rows):
            for x, n in enumerate(ns):
                if one is not None and one.covers(Shape(*row, n)):
                    ax.add_patch(Rectangle((x - 0.46, y - 0.44), 0.92, 0.88, fill=False, ec="#D55E00", lw=1.4))
        for y in (y for y in range(1, len(rows)) if rows[y][0] != rows[y - 1][0]):
            ax.axhline(y - 0.5, color=BLANK, lw=2.5)
        ax.set_xticks(range(len(ns)), [str(n) for n in ns])
        ax.set_yticks(
            range(len(rows)), [f"{f}, k = {k}" for f, k in rows] if number % across == 0 else [""] * len(rows)
        )
        ax.tick_params(length=0, labelsize=8)
        ax.spines[:].set_visible(False)
        name = key[1] if one is None else f"{key[1]} (penalty {one.config['penalty']:g})"
        ax.set_title(f"{key[0]}, {name}" if several else name, fontsize=9)
    figure.supxlabel("examples in the prompt, n", fontsize=9.5)
    return figure


FIGURES: dict[str, Draw] = {
    "perturbation": perturbation,
    "perturbation_by_n": perturbation_by_n,
    "spread": spread,
}


def _points(run: RunTables, measure: str, prompt_set: str) -> pd.DataFrame:
    """One row a seed of the derived variants that were changed on this prompt set: x with interval (cost), y (outcome)."""
    shape = chosen(run)
    rows: list[dict[str, Any]] = []
    for one in derived(run):
        if shape is not None and not one.covers(shape):
            continue
        outcome = run.measured(one.key, measure, prompt_set, "greedy").set_index("seed")["value"].astype(float)
        mark = (FAIL if one.config["lesson"] == "fail" else SUCCEED) if one.taught else EXACT if one.exact else AROUND
        colour = INK if one.exact else model_colours(run)[one.key[0]]
        table = cost(run, one).rename(columns={"value": "x"}).assign(y=outcome).reset_index().dropna(subset=["x", "y"])
        rows += [{**row, "of": one, "mark": mark, "colour": colour} for row in records(table)]
    return pd.DataFrame(rows)


def _label_exact(ax: Axes, points: pd.DataFrame, edge: float) -> None:
    """Where the exact law was changed, below its point: the exact exchange is what the others are compared with."""
    for row in records(points[points["mark"] == EXACT]):
        one = row["of"]
        ns = f"n = {one.examples[0]}" + (f" to {one.examples[-1]}" if len(one.examples) > 1 else "")
        text = ("anywhere" if one.anywhere else ns) if one.examples else one.where
        place = (row["x"] if row["x"] > NOTHING_BELOW else edge, row["y"])
        ax.annotate(text, place, (0, -8), textcoords="offset points", ha="center", va="top", fontsize=8.5, zorder=6)


def _label_taught(ax: Axes, points: pd.DataFrame, edge: float) -> None:
    """A line through the means over seeds of each lesson, in the order of the penalties, which stand beside."""
    taught, labels = points[points["mark"].isin([FAIL, SUCCEED])], []
    for (colour, mark), group in taught.groupby(["colour", "mark"], sort=False):
        places = []
        for penalty, own in group.groupby(group["of"].map(lambda one: float(one.config["penalty"]))):
            x, y = own["x"].mean(), own["y"].mean()
            places.append((x if x > NOTHING_BELOW else edge, y))
            labels.append((y, *places[-1], f"{'to fail' if mark == FAIL else 'to succeed'}, λ = {penalty:g}", colour))
        ax.plot(*zip(*places, strict=True), color=colour, lw=1, alpha=0.6, zorder=2)
    inside = [one for one in labels if one[1] > edge]
    outside = sorted(one for one in labels if one[1] <= edge)  # in one column: they must not hide each other
    moved = spread_labels([one[0] for one in outside], 0.045, -0.08, 1.0)
    for y, (_, x, mean, text, colour) in zip(
        [*(one[0] for one in inside), *moved], [*inside, *outside], strict=True
    ):  # fmt: skip
        offset = (9, 4 if y == mean else 0)
        ax.annotate(text, (x, y), offset, textcoords="offset points", color=colour, fontsize=8.5, va="center", zorder=6)


def _unperturbed(ax: Axes, run: RunTables, measure: str, prompt_set: str, points: pd.DataFrame) -> None:
    """What models reach before they are changed: a line a model, a band for its seeds, black for the exact law."""
    labels = []
    for key in dict.fromkeys(one.before for one in points["of"]):
        values = run.measured(key, measure, prompt_set, "greedy")["value"].astype(float).dropna()
        if values.empty:
            continue
        colour = INK if key == LANGUAGE else model_colours(run)[key[0]]
        ax.axhspan(values.min(), values.max(), color=colour, alpha=0.12, lw=0, zorder=0)
        ax.axhline(values.mean(), color=colour, lw=1, ls=(0, (4, 3)), zorder=1)
        name = "Bayes predictor" if key == LANGUAGE and measure == "accuracy" else called(run, key)
        labels.append(((values.mean() + 0.14) / 1.18, f"{name} {values.mean():.2f}", colour))
    labels.sort()
    for y, (_, text, colour) in zip(spread_labels([one[0] for one in labels], 0.045, 0, 1), labels, strict=True):
        ax.text(1.01, y, text, transform=ax.transAxes, color=colour, va="center", fontsize=8.5)


def _outcome(run: RunTables, one: Derived) -> str:
    """Accuracy before and after, on the shape that is looked at, or on the largest that was changed."""
    shapes_changed = [shape for shape in shapes(run) if one.covers(shape)]
    if not shapes_changed:
        return ""
    at = chosen(run)
    shape = at if at in shapes_changed else max(shapes_changed, key=lambda shape: shape.n)
    before, after = (accuracy(run, key, shape).mean() for key in (one.before, one.key))
    where = f"n = {shape.n}: " if one.anywhere or len(one.examples) > 1 else ""
    return f"\n{where}{before:.2f} → {after:.2f}"


def _decades(axis: Axis) -> None:
    """A few decades as powers of ten."""
    axis.set_major_locator(LogLocator(numticks=9))
    axis.set_major_formatter(LogFormatterMathtext())
    axis.set_minor_locator(NullLocator())


def _heat(ax: Axes, values: np.ndarray) -> None:
    """Shares as shades with their numbers; what was not measured stays blank."""
    ax.imshow(np.ma.masked_invalid(values), cmap="Blues", vmin=0, vmax=1.15, aspect="auto", interpolation="nearest")
    for y, x in np.argwhere(np.isfinite(values)):
        colour = BLANK if values[y, x] > 0.6 else INK
        ax.text(x, y, f"{values[y, x]:.2f}", ha="center", va="center", fontsize=7, color=colour)
