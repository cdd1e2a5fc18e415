"""The pictures of in-context learning: against the examples shown, along training, and how sure a model is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from lmtest.evaluators.calibration import reliability
from lmtest.report.marks import (
    BAND,
    BLANK,
    DASHES,
    FAINT,
    INK,
    REFERENCE_LABELS,
    SOFT,
    WIDTH,
    Draw,
    above,
    grid_of_panels,
    labels_right,
    log_ticks,
    model_colours,
    rows_of_panels,
)
from lmtest.report.shapes import LANGUAGE, Shape, accuracy, called, chosen, scratch, shapes
from lmtest.report.tables import IN_CONTEXT, REFERENCE, Key, RunTables, records, select

BAYES = "the language (Bayes predictor)"
NGRAM: Key = ("ngram", REFERENCE)
DASHED = (0, (4, 3))
DOTTED = (0, (1, 1.5))


def in_context(run: RunTables) -> Figure | None:
    """Accuracy against the number of examples: a column a family of prompts, a row a length k, a thin line a seed."""
    found = shapes(run)
    if not found:
        return None
    families, ks = (list(dict.fromkeys(values)) for values in ([s.family for s in found], sorted(s.k for s in found)))
    height = 1.45 * len(ks) + 1.1 if len(families) * len(ks) > 1 else 3.8
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.subplots(
        len(ks), len(families), squeeze=False, sharex=True, sharey=True, gridspec_kw={"hspace": 0.13}
    )
    for (i, k), (j, family) in ((row, column) for row in enumerate(ks) for column in enumerate(families)):
        ax, here = axes[i, j], [shape for shape in found if (shape.family, shape.k) == (family, k)]
        _panel(ax, run, here)
        if i == 0:
            ax.set_title(family, pad=15 if _impossible(run, here) else 6)
        if j == 0:
            ax.set_ylabel(f"k = {k}")
    ns = sorted({shape.n for shape in found})
    axes[0, 0].set_xticks(_places(ns), [str(n) for n in ns])
    axes[0, 0].set_ylim(-0.03, 1.03)
    for ax in axes[-1]:
        ax.tick_params(labelbottom=True)
    figure.supxlabel("examples in the prompt, n", fontsize=9.5)
    figure.supylabel("accuracy", fontsize=9.5)
    figure.legend(handles=_handles(run), loc="outside upper center", ncols=4, frameon=False, fontsize=8.5)
    return figure


def in_context_along_training(run: RunTables) -> Figure | None:
    """Accuracy with most examples against the excess of the loss, nats per token, along training; a thin line a seed."""
    rows = select(run.trajectory, evaluator=IN_CONTEXT, measure="accuracy")
    keys = [key for key in scratch(run) if len(select(rows, model=key[0], variant=key[1]))]
    probed = [shape for shape in shapes(run) if (rows["prompt_set"] == str(shape)).any()]
    if not keys or not probed:
        return None
    shape, tokens = max(probed, key=lambda shape: shape.n), float(run.language["mean_length"]) + 1
    rows = select(rows, prompt_set=str(shape))
    rows = rows.assign(excess=rows["kl"].astype(float) / tokens)
    ends = run.certificates[~run.certificates["variant"].isin([REFERENCE, *run.derived])]
    values = np.r_[rows["excess"].to_numpy(float), ends["kl_per_token"].to_numpy(float)]
    values = values[np.isfinite(values) & (values > 0)]
    if not len(values):
        return None
    epsilon = run.epsilon / tokens
    high, low = max(values.max(), 3 * epsilon) * 1.15, min(values.min(), epsilon / 3) / 1.6
    figure, [ax] = rows_of_panels(1, 4.4)
    ax.set_xscale("log")
    ax.set_xlim(high, low)  # the loss falls to the right, as training goes
    ax.set_ylim(-0.03, 1.03)
    ax.axvspan(epsilon, low, color=BAND, lw=0, zorder=0)
    ax.axvline(epsilon, color=FAINT, lw=0.8, zorder=1)
    above(ax, epsilon, f" ε = {epsilon:.2g}: saturated", "left")
    labels = []
    for key in keys:
        colour, last = model_colours(run)[key[0]], []
        for end in records(run.certificate(key)):
            path = select(rows, model=key[0], variant=key[1], seed=end["seed"]).sort_values("step")
            final = accuracy(run, key, shape).get(end["seed"], math.nan)
            last.append(final)
            x = np.clip(np.r_[path["excess"].to_numpy(float), end["kl_per_token"]], low, high)
            ax.plot(x, np.r_[path["value"].to_numpy(float), final], color=colour, lw=0.9, alpha=0.5, ls=_dash(run, key))
            fill = colour if end["saturated"] is True else BLANK
            ax.plot(x[-1:], [final], "o", ms=5, mfc=fill, mec=colour, mew=1.2, zorder=4, clip_on=False)
        if not math.isnan(mean := float(pd.Series(last, dtype=float).mean())):
            labels.append((mean, f"{called(run, key)}  {mean:.2f}", colour, ""))
    labels += _levels(ax, run, shape)
    labels_right(ax, labels, gap=0.055)
    log_ticks(ax, low, high)
    ax.set_xlabel("loss above its floor, nats per token (log scale; training runs to the right →)")
    ax.set_ylabel(f"accuracy, {shape.n} examples of length {shape.k} ({shape.family})")
    return figure


def calibration(run: RunTables) -> Figure | None:
    """Accuracy against confidence in bins on the set with most examples: a panel a model, the Bayes predictor last."""
    at = chosen(run)
    if at is None or not {"confidence", "drawn_accuracy"} <= set(run.completions):
        return None
    shape = max(s for s in shapes(run) if (s.family, s.k) == (at.family, at.k))
    rows = select(run.completions, evaluator=IN_CONTEXT, prompt_set=str(shape)).dropna(subset=["confidence"])
    keys = [key for key in (*scratch(run), LANGUAGE) if len(select(rows, model=key[0], variant=key[1]))]
    if not keys:
        return None
    bins = int(run.resolved["config"]["evaluators"][IN_CONTEXT]["bins"])
    across = min(len(keys), 4)
    figure, axes = grid_of_panels(len(keys), across, 2.5 if across > 2 else 3.6)
    for number, (ax, key) in enumerate(zip(axes, keys, strict=True)):
        colour = INK if key == LANGUAGE else model_colours(run)[key[0]]
        own = select(rows, model=key[0], variant=key[1])
        ax.plot([0, 1], [0, 1], color=FAINT, lw=0.9, ls=DASHED, zorder=1)
        for _, seed in own.groupby("seed"):
            if key != LANGUAGE:
                table = _reliability(seed, bins)
                ax.plot(table["confidence"], table["accuracy"], color=colour, lw=0.7, alpha=0.4)
        table = _reliability(own, bins)
        ax.plot(table["confidence"], table["accuracy"], color=colour, lw=1.8)
        sizes = 6 + 60 * table["count"] / table["count"].sum()
        ax.scatter(table["confidence"], table["accuracy"], s=sizes, color=colour, zorder=4, clip_on=False)
        error = run.measured(key, "calibration_error_drawn", str(shape), "exact")["value"].astype(float).mean()
        ax.text(0.99, 0.03, f"ECE {error:.2f}", ha="right", color=colour, weight="bold", zorder=6,
                bbox={"facecolor": BLANK, "edgecolor": "none", "alpha": 0.8, "pad": 1.5})  # fmt: skip
        ax.set_xlim(-0.02, 1.02)
        ax.set_ylim(-0.02, 1.02)
        ax.set_aspect("equal")
        ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        ax.set_yticks([0, 0.5, 1], ["0", "0.5", "1"] if number % across == 0 else [""] * 3)
        ax.set_title("Bayes predictor" if key == LANGUAGE else called(run, key), fontsize=10, color=colour)
    figure.supxlabel(f"confidence ({shape.family}, {shape.n} examples of length {shape.k})", fontsize=9.5)
    figure.supylabel("right about a drawn answer", fontsize=9.5)
    return figure


FIGURES: dict[str, Draw] = {
    "in_context": in_context,
    "in_context_along_training": in_context_along_training,
    "calibration": calibration,
}


def _panel(ax: Axes, run: RunTables, here: Sequence[Shape]) -> None:
    """One family and length: models, the Bayes predictor, and what needs no learning."""
    x = _places(shape.n for shape in here)
    for key in scratch(run):
        colour, dash = model_colours(run)[key[0]], _dash(run, key)
        table = pd.DataFrame([accuracy(run, key, shape) for shape in here])  # [n, seed]
        if not table.empty:
            ax.plot(x, table.to_numpy(float), color=colour, lw=0.6, alpha=0.35, ls=dash)
            ax.plot(x, table.mean(axis=1), color=colour, lw=1.8, ls=dash, marker="o", ms=2.6, zorder=4)
    for key, colour, width in ((NGRAM, FAINT, 1.2), (LANGUAGE, INK, 1.6)):
        values = [accuracy(run, key, shape).mean() for shape in here]
        ax.plot(x, values, color=colour, lw=width, marker="o", ms=2.2, zorder=3 if key == NGRAM else 5)
    majority = [run.measured(LANGUAGE, "majority_rate", str(shape), "exact")["value"].mean() for shape in here]
    ax.plot(x, majority, color=SOFT, lw=0.9, ls=DASHED, zorder=2)
    ax.plot(
        x, [run.chance("accuracy", str(shape), "greedy") for shape in here], color=SOFT, lw=0.9, ls=DOTTED, zorder=2
    )
    if text := _impossible(run, here):
        note = ax.text(0, 1.02, text, transform=ax.transAxes, color=SOFT, fontsize=7.5, va="bottom")
        note.set_in_layout(False)  # all panels keep one size
    ax.xaxis.set_major_locator(FixedLocator(x))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.tick_params(labelsize=8)


def _impossible(run: RunTables, here: Sequence[Shape]) -> str:
    """The least and the greatest share of impossible prompts, where some are; nothing where none is."""
    shares = [float(run.measured(LANGUAGE, "zero_share", str(shape), "exact")["value"].mean()) for shape in here]
    positive = [f"{share:.0%}" if share >= 0.005 else "< 1%" for share in sorted(shares) if share > 0]
    return " to ".join(dict.fromkeys(positive[:1] + positive[-1:])) + " impossible" if positive else ""


def _levels(ax: Axes, run: RunTables, shape: Shape) -> list[tuple[float, str, str, str]]:
    """The Bayes predictor, majority and chance as lines; their labels."""
    bayes = float(accuracy(run, LANGUAGE, shape).mean())
    majority = float(run.measured(LANGUAGE, "majority_rate", str(shape), "exact")["value"].mean())
    chance = run.chance("accuracy", str(shape), "greedy")
    lines = (
        (bayes, "Bayes predictor", INK, "-"),
        (majority, "majority", SOFT, DASHED),
        (chance, "chance", SOFT, DOTTED),
    )
    found = []
    for value, text, colour, dash in lines:
        if not math.isnan(value):
            ax.axhline(value, color=colour, lw=1.1, ls=dash, zorder=1)
            found.append((value, f"{text} {value:.2f}", colour, ""))
    return found


def _handles(run: RunTables) -> list[Line2D]:
    models = [
        Line2D([], [], color=model_colours(run)[key[0]], lw=1.8, ls=_dash(run, key), marker="o", ms=2.6,
               label=called(run, key))
        for key in scratch(run)
    ]  # fmt: skip
    return [
        *models,
        Line2D([], [], color=INK, lw=1.6, marker="o", ms=2.2, label=BAYES),
        Line2D([], [], color=FAINT, lw=1.2, marker="o", ms=2.2, label=REFERENCE_LABELS["ngram"]),
        Line2D([], [], color=SOFT, lw=0.9, ls=DASHED, label="majority label"),
        Line2D([], [], color=SOFT, lw=0.9, ls=DOTTED, label="chance"),
    ]


def _dash(run: RunTables, key: Key) -> str | tuple[float, tuple[float, ...]]:
    """A line style a variant that was trained from scratch."""
    variants = list(dict.fromkeys(variant for _, variant in scratch(run)))
    return DASHES[variants.index(key[1]) % len(DASHES)]


def _places(ns: Iterable[int]) -> list[float]:
    """Numbers of examples on a scale that is nearly logarithmic and holds zero."""
    return [math.log2(n + 1) for n in ns]


def _reliability(rows: pd.DataFrame, bins: int) -> pd.DataFrame:
    return reliability(rows["confidence"].to_numpy(float), rows["drawn_accuracy"].to_numpy(float), bins)
