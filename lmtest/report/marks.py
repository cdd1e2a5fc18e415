"""What the pictures share: one style, one colour a variant or an architecture, and labels that do not overlap."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from lmtest.report.tables import Key, RunTables, select

INK, SOFT, FAINT, BAND = "#222222", "#555555", "#8a8a8a", "#eef1f4"
# Told apart with any kind of colour vision, by lightness where not by hue; no pale ones, for the labels are in these
# colours too, and no grey, for that is what reference models are in.
PALETTE = (*seaborn.color_palette("colorblind").as_hex()[:4], "#CC79A7", "#56B4E9", "#332288", "#7A5C00",
           "#117733", "#882255", "#B8860B", "#44AA99")  # fmt: skip
KEPT, BROKEN, UNFINISHED, BLANK = "#2d2a5c", "#e3b25f", "#d9d9d9", "#ffffff"
DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (4, 1.5, 1, 1.5)))
"""Line styles of what colours do not tell apart."""
REFERENCE_LABELS = {
    "language": "the language",
    "rule_keeper": "rule keeper",
    "normative": "normative",
    "ngram": "3-gram",
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
}
WIDTH = 8.0
"""Inches: at 800 px a point of the font is 100/72 px."""


Draw = Callable[[RunTables], Figure | None]
"""Draws a picture, or gives None where the run has nothing that it could show."""


def draw(pictures: Mapping[str, Draw], run: RunTables, dots: int = 200) -> dict[str, bytes | None]:
    """Name → PNG with so many dots per inch, or None."""
    with matplotlib.rc_context(rc=STYLE | {"figure.dpi": dots}):
        figures = {name: function(run) for name, function in pictures.items()}
        return {name: None if figure is None else png(figure) for name, figure in figures.items()}


def png(figure: Figure) -> bytes:
    """A figure as a PNG."""
    FigureCanvasAgg(figure)  # an Agg canvas of its own, so that no display and no pyplot is asked for
    try:
        return _saved(figure)
    except ValueError:  # dollar signs in a name or a title that are no mathematics
        for text in figure.findobj(Text):
            assert isinstance(text, Text)
            text.set_parse_math(False)
        return _saved(figure)


def _saved(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "constrained_layout not applied"
        )  # too narrow for its labels: drawn all the same
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


@dataclass(frozen=True)
class Series:
    """What has a colour of its own in a panel: a trained (model, variant) and how it is called there."""

    key: Key
    name: str
    colour: str

    def of(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Its rows, by seed."""
        return select(frame, model=self.key[0], variant=self.key[1]).sort_values("seed", kind="stable")


def by_model(run: RunTables) -> bool:
    """Whether models have colours, rather than variants: one variant of several models."""
    return len(run.variants) == 1 and len(run.models) > 1


def colours(run: RunTables) -> dict[Key, str]:
    """A colour for each trained (model, variant), the same in every figure."""
    names, place = (run.models, 0) if by_model(run) else (run.variants, 1)
    palette = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}
    return {key: palette[key[place]] for key in run.trained}


def model_colours(run: RunTables) -> dict[str, str]:
    """A colour for each trained model, where variants are told apart otherwise."""
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(run.models)}


def panels(run: RunTables) -> dict[str, list[Series]]:
    """What a panel shows, by its title: a panel a model, its variants in colours; or one with all models in colours."""
    colour = colours(run)
    if by_model(run):
        return {"": [Series(key, key[0], colour[key]) for key in run.trained]}
    return {
        model if len(run.models) > 1 else "": [
            Series(key, key[1], colour[key]) for key in run.trained if key[0] == model
        ]
        for model in run.models
    }


def rows_of_panels(number: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with `number` panels below each other, each `height` inches high."""
    figure = Figure(figsize=(WIDTH, height * number))
    return figure, list(figure.subplots(number, 1, squeeze=False)[:, 0])


def grid_of_panels(number: int, across: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with `number` panels in rows of `across`, each `height` inches high."""
    down = math.ceil(number / across)
    figure = Figure(figsize=(WIDTH, height * down))
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for spare in axes[number:]:
        spare.set_axis_off()
    return figure, axes[:number]


def title(ax: Axes, panel: str, text: str, pad: float = 22) -> None:
    """The title of a panel, with the panel's name where there are several."""
    ax.set_title(f"{panel}: {text}" if panel else text, pad=pad)


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


def plain_log(axis: Axis) -> None:
    """Plain numbers at the decades of what a logarithmic axis shows, and at more places of each where these are few."""
    low, high = sorted(axis.get_view_interval())
    decades = 10.0 ** np.arange(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    width = math.log10(high / low)
    between = (1, 1.5, 2, 3, 5, 7) if width < 0.9 else (1, 2, 5) if width < 2.2 else (1,)
    axis.set_major_locator(FixedLocator([d * m for d in decades for m in between if low <= d * m <= high]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


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
