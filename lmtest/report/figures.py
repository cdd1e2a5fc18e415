"""The four pictures of one language; every function is pure and leaves no state in pyplot."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from lmtest.report.marks import (
    BAND,
    BLANK,
    BROKEN,
    FAINT,
    INK,
    KEPT,
    REFERENCE_LABELS,
    SOFT,
    UNFINISHED,
    Draw,
    Series,
    above,
    labels_right,
    log_ticks,
    panels,
    rows_of_panels,
    spread,
    title,
)
from lmtest.report.prompts import group_gap, ordered_prompts
from lmtest.report.tables import HEADLINE, HEADLINES, REFERENCE, RunTables, records, select


def loss_against_rule_extrapolation(run: RunTables) -> Figure | None:
    """R1 on OOD prompts against the excess of the loss over its floor, along training; one thin line a seed."""
    wanted = {"measure": HEADLINE, "prompt_set": "ood", "decoding": "greedy"}
    paths = select(run.trajectory, **wanted)
    ends = select(run.measurements, **wanted).drop(columns="saturated")
    identity = ["model", "variant", "seed"]
    ends = ends.merge(run.certificates[[*identity, "kl", "saturated"]], on=identity)
    ends = ends[ends["variant"] != REFERENCE]
    excess = np.r_[paths["kl"].to_numpy(float), ends["kl"].to_numpy(float)]
    excess = excess[np.isfinite(excess) & (excess > 0)]
    if ends.empty or not len(excess):
        return None
    start, low = max(excess.max(), 3 * run.epsilon), min(excess.min(), run.epsilon / 3) / 1.6
    # The published values have a gutter of their own, left of where training starts.
    high = start * (start / low) ** (0.24 if run.resolved["published"] else 0.03)
    figure, axes = rows_of_panels(len(panels(run)), 4.5)
    for ax, (name, group) in zip(axes, panels(run).items(), strict=True):
        ax.set_xscale("log")
        ax.set_xlim(high, low)  # the loss falls to the right, as training goes
        ax.set_ylim(-0.04, 1.04)
        ax.axvspan(run.epsilon, low, color=BAND, lw=0, zorder=0)
        ax.axvline(run.epsilon, color=FAINT, lw=0.8, zorder=1)
        if math.log(run.epsilon / low) > 0.32 * math.log(high / low):
            above(ax, run.epsilon, f" ε = {run.epsilon:g}: saturated", "left")
        else:  # no room between ε and the floor
            above(ax, run.epsilon, f"saturated below ε = {run.epsilon:g} ", "right")
        # On a log axis the floor itself lies infinitely far to the right: the edge stands for it.
        ax.axvline(low, color=INK, lw=2.2, zorder=1, clip_on=False)
        above(ax, low, f"floor {run.floor:.4g} nats →", "center")
        labels = []
        for series in group:
            last, colour = series.of(ends), series.colour
            for row in records(last):
                path = select(series.of(paths), seed=row["seed"]).sort_values("step")
                x = np.clip(np.r_[path["kl"].to_numpy(float), row["kl"]], low, high)
                ax.plot(
                    x, np.r_[path["value"].to_numpy(float), row["value"]], color=colour, lw=0.9, alpha=0.45, zorder=2
                )
                fill = colour if row["saturated"] else BLANK
                ax.plot(x[-1:], [row["value"]], "o", ms=6, mfc=fill, mec=colour, mew=1.2, zorder=4, clip_on=False)
            if len(last) and not math.isnan(mean := last["value"].mean()):
                labels.append((mean, f"{series.name}  {mean:.2f}", colour, _range(last["value"])))
        labels_right(ax, labels, gap=0.13)
        _published_ticks(ax, run, group)
        ax.set_ylabel(f"{HEADLINE} kept: share of OOD prompts")
        log_ticks(ax, low, start)
        title(ax, name, f"{HEADLINE} on OOD prompts as the loss falls to its floor")
    exact = run.language["entropy"]
    floor = f"{run.floor:.4g}" if exact["exact"] else f"{run.floor:.4g} ± {exact['half_width']:.2g}"
    axes[-1].set_xlabel(f"loss above the floor of {floor} nats per string (log scale; training runs to the right →)")
    return figure


def rule_extrapolation_per_seed(run: RunTables) -> Figure | None:
    """R1 on held-out OOD prompts: one point a seed with its interval over prompts, one column a variant."""
    rows = select(run.measurements, measure=HEADLINE, prompt_set=run.heldout)
    greedy = rows[(rows["variant"] != REFERENCE) & (rows["decoding"] == "greedy")]
    if greedy["value"].dropna().empty:
        return None
    figure, axes = rows_of_panels(len(panels(run)), 3.9)
    for ax, (name, group) in zip(axes, panels(run).items(), strict=True):
        for i, series in enumerate(group):
            seeds, colour = series.of(greedy).dropna(subset="value"), series.colour
            for x, row in zip(i + np.linspace(-0.27, 0.27, len(seeds)), records(seeds), strict=True):
                ax.plot([x, x], [row["lower"], row["upper"]], color=colour, lw=1.3, alpha=0.55)
                fill = colour if row["saturated"] else BLANK
                ax.plot([x], [row["value"]], "o", ms=5.5, mfc=fill, mec=colour, mew=1.2, clip_on=False, zorder=4)
            if len(seeds):
                mean = seeds["value"].mean()
                ax.plot([i - 0.36, i + 0.36], [mean, mean], color=colour, lw=1.2, zorder=3)
                ax.text(i + 0.38, mean, f"{mean:.2f}", color=colour, va="center", weight="bold")
        labels = []
        for reference, text in REFERENCE_LABELS.items():
            value = run.reference(reference, HEADLINE, run.heldout, "greedy")
            if not math.isnan(value):
                ax.axhline(value, color=FAINT, lw=0.9, ls=(0, (4, 3)), zorder=1)
                text = f"chance ({text})" if reference == "uniform" else text
                labels.append((value, f"{text} {value:.2f}", SOFT, ""))
        labels_right(ax, labels, gap=0.075)
        ax.set_xticks(range(len(group)), [series.name for series in group], weight="bold")
        for tick, series in zip(ax.get_xticklabels(), group, strict=True):
            tick.set_color(series.colour)
        ax.tick_params(axis="x", length=0, labelsize=9.5 if len(group) < 6 else 8)
        ax.set_xlim(-0.5, len(group) - 0.4)
        ax.set_ylim(-0.04, 1.04)
        ax.set_ylabel(f"{HEADLINE} kept: share of prompts")
        which = "held-out OOD" if run.heldout == "ood_heldout" else "OOD"
        title(ax, name, f"{HEADLINE} on {which} prompts: one point a seed, 95 % interval over prompts", pad=8)
    return figure


def prompts(run: RunTables) -> Figure | None:
    """What each seed does on each OOD prompt: prompts from left to right, seeds from top to bottom."""
    rows = run.greedy_ood()
    if rows.empty or HEADLINE not in rows:
        return None
    finished = rows["finished"].eq(True)
    state = np.where(finished & rows[HEADLINE].eq(True), 0.0, np.where(finished, 1.0, 2.0))
    rows = rows.assign(state=state, kept=state == 0.0, weight=rows.get("weight", 1.0))
    groups, ticks, xlabel = ordered_prompts(run, rows)
    gap = group_gap(rows["prompt"].nunique())
    columns: list[str | None] = [prompt for found in groups.values() for prompt in (*found, *[None] * gap)][:-gap]
    aside = 0.012 * len(columns)
    seeds = [sum(series.of(rows)["seed"].nunique() + 1 for series in group) - 1 for group in panels(run).values()]
    figure, axes = rows_of_panels(len(seeds), 0.13 * max(seeds) + 1.6)
    for ax, (panel, group) in zip(axes, panels(run).items(), strict=True):
        grid, top = [], 0
        for series in group:
            part, colour = series.of(rows), series.colour
            if part.empty:
                continue
            table = part.pivot(index="seed", columns="prompt", values="state").reindex(columns=pd.Index(columns))
            grid += [*table.to_numpy(float), np.full(len(columns), np.nan)]
            middle = top + len(table) / 2
            name = f"{series.name}\n{len(table)} seeds" if len(table) > 1 else series.name
            ax.text(-aside, middle, name, color=colour, weight="bold", ha="right", va="center", linespacing=1.3)
            kept = f"{np.average(part['kept'], weights=part['weight']):.0%} kept"
            ax.text(len(columns) + aside, middle, kept, color=colour, weight="bold", va="center")
            top += len(table) + 1
        picture = np.ma.masked_invalid(np.array(grid[:-1]))
        ax.imshow(picture, cmap=ListedColormap([KEPT, BROKEN, UNFINISHED]), vmin=-0.5, vmax=2.5, aspect="auto",
                  interpolation="nearest", extent=(0, len(columns), top - 1, 0))  # fmt: skip
        ax.hlines(range(1, top - 1), 0, len(columns), color=BLANK, lw=0.5)
        trained = rows.loc[rows["prompt_set"] == "ood_trained", "prompt"].unique()
        if len(trained):
            marks = [i for i, prompt in enumerate(columns) if prompt in set(trained)]
            ax.broken_barh([(i, 1) for i in marks], (top - 0.2, 0.7), color="#666666", lw=0)
            ax.text(-aside, top + 0.15, "trained on", ha="right", va="center", color=SOFT)
        left = 0
        for broken, prompts in groups.items():
            end = left + len(prompts)
            ax.plot([left, end], [-0.5, -0.5], color=FAINT, lw=0.8, clip_on=False)
            wide = len(prompts) > 0.12 * len(columns)
            ax.text(left if wide else end, -0.9, f"{broken or 'nothing'} broken: {len(prompts)}" if wide else
                    f"{broken or 'nothing'}: {len(prompts)}", ha="left" if wide else "right", va="bottom")  # fmt: skip
            left = end + gap
        ax.set_xlim(0, len(columns))
        ax.set_ylim(top + 0.6, 0)
        ax.set_yticks([])
        ax.set_xticks([x for x, _ in ticks], [text for _, text in ticks])
        ax.tick_params(axis="x", length=0)
        ax.spines[:].set_visible(False)
        ax.set_xlabel(xlabel)
        title(ax, panel, f"What each seed does on each of {sum(map(len, groups.values()))} OOD prompts", pad=26)
    figure.legend(
        handles=[
            Patch(color=KEPT, label=f"finishes, {HEADLINE} kept"),
            Patch(color=BROKEN, label=f"finishes, {HEADLINE} broken"),
            Patch(color=UNFINISHED, label="does not finish"),
        ],
        loc="outside lower center", ncols=3, frameon=False, handlelength=1, handleheight=1,
    )  # fmt: skip
    return figure


def certificates(run: RunTables, left_out: Collection[str] = ()) -> Figure | None:
    """Excess nats per string with its interval, one row a seed, some variants left out; ε and margins of equivalence as lines."""
    rows = run.certificates[~run.certificates["variant"].isin([REFERENCE, *left_out])]
    values = rows[["kl", "kl_lower", "kl_upper"]].to_numpy(float).ravel()
    values = values[np.isfinite(values) & (values > 0)]
    if not len(values):
        return None
    lines = [run.epsilon, *run.margins]
    low, high = min(rows["kl"].where(rows["kl"] > 0).min(), *lines) / 3, max(values.max(), *lines) * 2
    groups = {name: [s for s in group if s.key[1] not in left_out] for name, group in panels(run).items()}
    groups = {name: group for name, group in groups.items() if group}
    largest = max(sum(len(series.of(rows)) + 1 for series in group) for group in groups.values())
    exact = rows["exact"].eq(True).all()
    figure, axes = rows_of_panels(len(groups), 0.125 * largest + 1.3)
    for ax, (name, group) in zip(axes, groups.items(), strict=True):
        top = 0
        for series in group:
            seeds, colour = series.of(rows), series.colour
            for y, row in enumerate(records(seeds), start=top):
                ends = np.clip([row["kl_lower"], row["kl_upper"]], low, high)
                ax.plot(ends, [y, y], color=colour, lw=1.3, alpha=0.55)
                fill = colour if row["saturated"] else BLANK
                ax.plot(
                    [np.clip(row["kl"], low, high)], [y], "o" if row["kl"] < high else ">", ms=5, mfc=fill, mec=colour
                )
            ax.text(-0.015, top + (len(seeds) - 1) / 2, series.name, transform=ax.get_yaxis_transform(), color=colour,
                    weight="bold", ha="right", va="center")  # fmt: skip
            top += len(seeds) + 1
        ax.set_xscale("log")
        ax.set_xlim(low, high)
        ax.set_ylim(top - 1, -1)
        ax.axvspan(low, run.epsilon, color=BAND, lw=0, zorder=0)
        ax.axvline(run.epsilon, color=INK, lw=1)
        same = " = equivalence margin" if run.epsilon in run.margins else ""
        beyond = any(margin > run.epsilon for margin in run.margins)
        above(ax, run.epsilon, f" saturated below ε = {run.epsilon:g}{same} ", "right" if beyond else "left")
        for margin in set(run.margins) - {run.epsilon}:
            ax.axvline(margin, color=FAINT, lw=1, ls=(0, (4, 3)))
            above(ax, margin, f" equivalence margin {margin:g} ", "left" if margin > run.epsilon else "right")
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        log_ticks(ax, low, high)
        title(ax, name, "Loss above the floor, one row a seed, " + ("summed exactly" if exact else "95 % interval"))
    axes[-1].set_xlabel("excess loss, nats per string (log scale)")
    return figure


FIGURES: dict[str, Draw] = {
    "loss_against_rule_extrapolation": loss_against_rule_extrapolation,
    "rule_extrapolation_per_seed": rule_extrapolation_per_seed,
    "prompts": prompts,
    "certificates": certificates,
}


def _range(values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return f"every seed {low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"seeds {low:.2f} to {high:.2f}"


def _published_ticks(ax: Axes, run: RunTables, group: list[Series]) -> None:
    """Published values as ticks on the y axis: they were not measured at our loss, so they have no place inside."""
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    finished: dict[tuple[str, str], bool] = {}
    for entry in run.resolved["published"]:
        beside = [s for s in group if s.key[1] == entry["variant"] and entry.get("model") in (None, s.key[0])]
        here = entry["prompt_set"] == "ood" and entry.get("decoding", "greedy") == "greedy"
        here = here and entry["measure"] in HEADLINES
        if beside and here and entry["value"] is not None:
            # A value that names no model stands beside all of them, in the colour of none.
            mark = (beside[0].name, beside[0].colour) if len(beside) == 1 else (str(entry["variant"]), SOFT)
            values[mark].append(float(entry["value"]))
            finished[mark] = str(entry["measure"]).endswith("_finished")
    marks = sorted((sum(found) / len(found), mark) for mark, found in values.items())
    for y, (_, mark) in zip(spread([mean for mean, _ in marks], 0.1, 0.01, 1.0), marks, strict=True):
        place: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "color": mark[1]}
        for value in values[mark]:
            ax.plot([0, 0.014], [value, value], lw=2, clip_on=False, **place)
        text = " and ".join(f"{value:.2f}" for value in sorted(values[mark]))
        note = " of finished" if finished[mark] else ""
        ax.text(0.02, y, f"published {mark[0]}:\n{text}{note}", va="center", fontsize=9, linespacing=1.1, **place)
