"""The pictures of a study of several architectures or languages; every function is pure and leaves no state in pyplot."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from lmtest.claims.published import PEOPLE
from lmtest.report.marks import (
    BAND,
    BLANK,
    BROKEN,
    DASHES,
    FAINT,
    INK,
    KEPT,
    PALETTE,
    SOFT,
    Draw,
    above,
    by_model,
    colours,
    grid_of_panels,
    model_colours,
    spread,
)
from lmtest.report.rows import label
from lmtest.report.shapes import called, scratch
from lmtest.report.tables import HEADLINE, HEADLINES, REFERENCE, Key, RunTables, select

SMALLEST_MASS = 1e-4
CLASSES = (KEPT, PALETTE[0], BROKEN, FAINT, *PALETTE[2:])
"""Colours of the classes of strings: all rules kept, one of them, the other, none, and more where there are more rules."""


def rule_extrapolation_by_architecture(run: RunTables) -> Figure | None:
    """R1 on OOD prompts, greedy: a panel a language, a row an architecture, a dot a seed; published values as ticks."""
    if len(run.models) * len(run.languages) == 1:
        return None
    views = [view for view in map(run.of, run.languages) if not _headline(view).empty]
    if not views:
        return None
    rows = max(len(view.trained) + _asked_people(view) for view in views)
    across = min(2, len(views))
    figure, axes = grid_of_panels(len(views), across, 0.3 * rows + 0.95)
    for number, (ax, view) in enumerate(zip(axes, views, strict=True)):
        measured = _headline(view)
        names, marks = [], [INK] * _asked_people(view)
        for y, key in enumerate(view.trained):
            colour = colours(view)[key]
            names.append(label(view, key))
            marks.insert(y, colour)
            seeds = select(measured, model=key[0], variant=key[1]).dropna(subset="value")
            fills = [colour if saturated else BLANK for saturated in seeds["saturated"].eq(True)]
            places = y - 0.06 + np.linspace(-0.12, 0.12, len(seeds))
            ax.scatter(
                seeds["value"], places, s=17, c=fills, edgecolors=colour, linewidths=0.9, zorder=4, clip_on=False
            )
            if len(seeds):
                mean = seeds["value"].mean()
                ax.plot([mean, mean], [y - 0.3, y + 0.18], color=colour, lw=2, zorder=5)
                ax.text(1.03, y, f"{mean:.2f}", color=colour, va="center", transform=ax.get_yaxis_transform())
            _published_tick(ax, view, key, y + 0.27)
        if _asked_people(view):
            names.append(PEOPLE)
            _published_tick(ax, view, (PEOPLE, ""), len(view.trained))
        _baselines(ax, view)
        ax.set_ylim(rows - 0.4, -0.6)
        ax.set_xlim(-0.02, 1.02)
        ax.set_yticks(range(len(names)), names if number % across == 0 else [""] * len(names))
        for tick, colour in zip(ax.get_yticklabels(), marks, strict=True):
            tick.set_color(colour)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.set_title(view.languages[0], pad=17)
        if number >= len(views) - across:
            ax.set_xlabel(f"{HEADLINE} kept: share of OOD prompts")
    return figure


def loss_by_architecture(run: RunTables) -> Figure | None:
    """Excess nats per string against the training step, log-log: a panel a language, a line an architecture."""
    columns = ["language", "model", "variant", "seed", "step", "kl"]
    paths = run.trajectory[columns].drop_duplicates(columns[:-1])
    paths = paths[(paths["step"] > 0) & (paths["kl"] > 0) & np.isfinite(paths["kl"].astype(float))]
    paths = paths[~paths["variant"].isin(run.derived)]  # they begin at the floor, and count their steps anew
    views = [view for name, view in zip(run.languages, map(run.of, run.languages), strict=True)
             if (paths["language"] == name).any()]  # fmt: skip
    if not views or len(run.models) * len(run.languages) == 1:
        return None
    across = min(2, len(views))
    figure, axes = grid_of_panels(len(views), across, 2.6 if across > 1 else 3.8)
    for number, (ax, view) in enumerate(zip(axes, views, strict=True)):
        here = select(paths, language=view.languages[0])
        low, high = min(here["kl"].min(), view.epsilon) / 1.5, max(here["kl"].max(), view.epsilon) * 1.5
        first, last = max(1, here["step"].min()), here["step"].max()
        ends = []
        # Where all but one variant are derived, and hence not here, models have the colours.
        plain = by_model(view) or (bool(view.derived) and len({key[1] for key in scratch(view)}) == 1)
        paint = {key: model_colours(view)[key[0]] for key in view.trained} if plain else colours(view)
        for key in view.trained:
            own = select(here, model=key[0], variant=key[1])
            colour, dash = paint[key], DASHES[0 if plain else view.models.index(key[0]) % len(DASHES)]
            if own.empty:
                continue
            for _, path in own.groupby("seed"):
                path = path.sort_values("step")
                ax.plot(path["step"], path["kl"], color=colour, lw=0.6, alpha=0.3)
            mean = own.groupby("step")["kl"].mean()
            ax.plot(mean.index, mean, color=colour, lw=1.8, ls=dash)
            name = called(view, key) if view.derived else label(view, key)
            ends.append((math.log(mean.iloc[-1] / low) / math.log(high / low), name, colour))
        ax.axhspan(low, view.epsilon, color=BAND, lw=0, zorder=0)
        ax.axhline(view.epsilon, color=INK, lw=0.9, zorder=1)
        ax.text(first, view.epsilon, f" ε = {view.epsilon:g}", va="bottom", color=SOFT, fontsize=8.5)
        ends.sort()
        gap = 0.062 * 3.8 / (3.8 if across == 1 else 2.2)
        for y, (_, text, colour) in zip(spread([end[0] for end in ends], gap, 0, 1), ends, strict=True):
            ax.text(1.02, y, text, color=colour, va="center", fontsize=8.5, transform=ax.transAxes)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlim(first, max(last, 2 * first))
        ax.set_ylim(low, high)
        _plain(ax)
        ax.set_title(view.languages[0])
        if number % across == 0:
            ax.set_ylabel("excess, nats per string")
        if number >= len(views) - across:
            ax.set_xlabel("training step")
    return figure


def string_mass(run: RunTables) -> Figure | None:
    """Mass of short strings by the rules that they keep, along training: a row a language, a panel an architecture.

    Means over seeds; short bars at the right edge are the language's own masses.
    """
    rows = select(run.trajectory, evaluator="string_mass", prompt_set="strings")
    rows = rows[~rows["measure"].isin(["mass", "mass_grammatical", "mass_empty"])]
    if rows.empty:
        return None
    views = [view for view in map(run.of, run.languages) if (rows["language"] == view.languages[0]).any()]
    several = len(views) > 1
    across = min(max(len(view.trained) for view in views), 7 if several else 3)
    places = [(view, key) for view in views for key in [*view.trained, *[None] * (-len(view.trained) % across)]]
    figure, axes = grid_of_panels(len(places), across, 1.4 if several else 2.4)
    classes = list(dict.fromkeys(rows["measure"]))
    paint = dict(zip(classes, (CLASSES[i % len(CLASSES)] for i in range(len(classes))), strict=True))
    last = int(rows["step"].max())
    for number, (ax, (view, key)) in enumerate(zip(axes, places, strict=True)):
        if key is None:
            ax.set_axis_off()
            continue
        own = select(rows, language=view.languages[0], model=key[0], variant=key[1])
        for measure, colour in paint.items():
            path = select(own, measure=measure).groupby("step")["value"].mean().clip(lower=SMALLEST_MASS)
            ax.plot(path.index, path, color=colour, lw=1.5, clip_on=False)
            truth = view.reference("language", measure, "strings", "exact")
            if truth > 0:
                edge = max(truth, SMALLEST_MASS)
                ax.plot([1.03, 1.13], [edge, edge], color=colour, lw=2.6, clip_on=False,
                        transform=ax.get_yaxis_transform(), solid_capstyle="butt")  # fmt: skip
        ax.set_xscale("symlog", linthresh=1)
        ax.set_yscale("log")
        ax.set_xlim(0, max(last, 1))
        ax.set_ylim(SMALLEST_MASS, 1)
        decades = range(0, math.ceil(math.log10(last + 1)), 1 if not several else 2)
        ax.xaxis.set_major_locator(FixedLocator([0.0, *(10.0**i for i in decades)]))
        ax.xaxis.set_minor_locator(NullLocator())
        _plain(ax)
        ax.yaxis.set_major_locator(FixedLocator([1e-4, 1e-2, 1]))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.tick_params(labelsize=7.5 if several else 9)
        if number % across:
            ax.set_yticklabels([])
        if number < len(places) - across:
            ax.set_xticklabels([])
        if not several:
            ax.set_title(label(view, key), fontsize=10)
            continue
        name = ax.text(0, 1.04, _in_two_lines(label(view, key)), transform=ax.transAxes, va="bottom", fontsize=8)
        name.set_in_layout(False)  # a long name must not make its panel narrow: the title keeps room for it
        ax.set_title(view.languages[0] if key == view.trained[0] else " ", fontsize=9.5, pad=24)
    handles = [Line2D([], [], color=colour, lw=2.2, label=_class_name(name)) for name, colour in paint.items()]
    figure.supxlabel("training step", fontsize=9.5)
    figure.supylabel("probability of all short strings", fontsize=9.5)
    figure.legend(handles=handles, loc="outside upper center", ncols=min(4, len(handles)), frameon=False,
                  title="strings that keep")  # fmt: skip
    return figure


FIGURES: dict[str, Draw] = {
    "rule_extrapolation_by_architecture": rule_extrapolation_by_architecture,
    "loss_by_architecture": loss_by_architecture,
    "string_mass": string_mass,
}


def _in_two_lines(name: str) -> str:
    """A long name cut at the underscore nearest to its middle: panels are narrow."""
    places = [i for i, letter in enumerate(name) if letter == "_"] if len(name) > 14 else []
    if not places:
        return name
    cut = min(places, key=lambda i: abs(2 * i - len(name))) + 1
    return f"{name[:cut]}\n{name[cut:]}"


def _headline(view: RunTables) -> pd.DataFrame:
    rows = select(view.measurements, measure=HEADLINE, prompt_set=view.heldout, decoding="greedy")
    return rows[rows["variant"] != REFERENCE].dropna(subset="value")


def _published(view: RunTables, key: Key) -> list[dict[str, Any]]:
    """Published greedy values of the headline measure on OOD prompts that stand beside one row."""
    found = []
    for entry in view.published_values():
        asked = entry["measure"] in HEADLINES and entry.get("decoding", "greedy") == "greedy"
        asked = asked and str(entry["prompt_set"]).startswith("ood") and not pd.isna(entry["value"])
        model = entry.get("model")
        here = model == key[0] if isinstance(model, str) else len(view.models) == 1
        if asked and here and (key[0] == PEOPLE or entry["variant"] == key[1]):
            found.append(entry)
    return found


def _asked_people(view: RunTables) -> bool:
    return bool(_published(view, (PEOPLE, "")))


def _published_tick(ax: Axes, view: RunTables, key: Key, y: float) -> None:
    for entry in _published(view, key):
        value, deviation = float(entry["value"]), entry.get("spread")
        if deviation is not None and not math.isnan(deviation):
            ends = np.clip([value - deviation, value + deviation], 0, 1)
            ax.plot(ends, [y, y], color=SOFT, lw=0.9, zorder=3, clip_on=False)
        ax.plot([value], [y], "|", color=INK, ms=7, mew=1.6, zorder=3, clip_on=False)


def _baselines(ax: Axes, view: RunTables) -> None:
    """Chance and stop-at-once as vertical lines, labelled above: together where they are close to each other."""
    texts = {"uniform": ("chance", (0, (1, 1.5))), "stop": ("stop at once", (0, (5, 3)))}
    values = {name: view.reference(name, HEADLINE, view.heldout, "greedy") for name in texts}
    found = sorted((value, *texts[name]) for name, value in values.items() if not math.isnan(value))
    for value, _, dash in found:
        ax.axvline(value, color=SOFT, lw=1.1, ls=dash, zorder=1)
    labels = [(value, f"{text} {value:.2f}") for value, text, _ in found]
    if len(labels) == 2 and labels[1][0] - labels[0][0] < 0.35:
        labels = [(min(labels[0][0], 0.3), ", ".join(text for _, text in labels))]
    for value, text in labels:
        above(ax, value, text, "left" if value < 0.6 else "right")


def _class_name(measure: str) -> str:
    rules = measure.removeprefix("mass_").split("_")
    if rules == ["none"]:
        return "none of them"
    return " and ".join(rules) if len(rules) > 1 else f"{rules[0]} alone"


def _plain(ax: Axes) -> None:
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
