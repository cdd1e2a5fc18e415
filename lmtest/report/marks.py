"""What the pictures share: one style, one colour a variant, and labels that do not overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from lmtest.report.tables import RunTables

INK, SOFT, FAINT, BAND = "#222222", "#555555", "#8a8a8a", "#eef1f4"
# Told apart with any kind of colour vision; no pale ones, for the labels are in these colours too.
PALETTE = (*seaborn.color_palette("colorblind").as_hex()[:4], "#B8860B", "#56B4E9", SOFT)
KEPT, BROKEN, UNFINISHED, BLANK = "#2d2a5c", "#e3b25f", "#d9d9d9", "#ffffff"
REFERENCE_LABELS = {
    "language": "the language",
    "rule_keeper": "rule keeper",
    "uniform": "uniform law",
    "stop": "stop at once",
}
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 11.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.constrained_layout.use": True,
    "figure.dpi": 200,
}
WIDTH = 8.0
"""Inches: at 800 px a point of the font is 100/72 px."""


def colours(run: RunTables) -> dict[str, str]:
    """One colour a variant, the same in every figure."""
    return {variant: PALETTE[i % len(PALETTE)] for i, variant in enumerate(run.variants)}


def one_panel_a_model(run: RunTables, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with one row of `height` inches for each model."""
    figure = Figure(figsize=(WIDTH, height * len(run.models)))
    return figure, list(figure.subplots(len(run.models), 1, squeeze=False)[:, 0])


def title(ax: Axes, run: RunTables, model: str, text: str, pad: float = 22) -> None:
    """The title of a panel, with the model's name where there are several."""
    ax.set_title(f"{model}: {text}" if len(run.models) > 1 else text, pad=pad)


def above(ax: Axes, x: float, text: str, align: str) -> None:
    """A label just above the axes at data position x."""
    ax.text(x, 1.01, text, transform=ax.get_xaxis_transform(), ha=align, va="bottom", color=SOFT)


def log_ticks(ax: Axes, low: float, high: float) -> None:
    """Ticks at the decades in [low, high], small ones in between."""
    decades = 10.0 ** np.arange(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ax.set_xticks([x for x in decades if low <= x <= high])
    ax.set_xticks([x for d in decades for x in d * np.arange(2, 10) if low <= x <= high], minor=True)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending label places, moved so that they stand at least `gap` apart, within [low, high] where they fit."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + gap if moved else low))
    limit = high
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], limit)
        limit = moved[i] - gap
    return moved


def labels_right(ax: Axes, labels: list[tuple[float, str, str, str]], gap: float) -> None:
    """Labels (place, text, colour, second line) beside the axes; a text with a second line is bold."""
    labels = sorted(labels)
    for y, (_, text, colour, second) in zip(spread([label[0] for label in labels], gap, 0.0, 1.0), labels, strict=True):
        place: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "color": colour}
        if second:
            ax.text(1.02, y, text, va="bottom", weight="bold", **place)
            ax.text(1.02, y - 0.005, second, va="top", **place)
        else:
            ax.text(1.02, y, text, va="center", **place)
