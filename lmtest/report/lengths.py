"""The law of the length of a language's strings, as a picture."""

from __future__ import annotations

import textwrap
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from lmtest.errors import UsageError
from lmtest.report.marks import FAINT, INK, PALETTE, STYLE, WIDTH, above, png

SHOWN = 0.9999
"""Of the mass: the rest would leave most of the picture empty."""


def length_picture(title: str, facts: dict[str, Any]) -> bytes:
    """The `length` that `lmtest describe` tells of a language, as a PNG: a stem a length, mean and spread above."""
    known: dict[int, float] = facts["law"]
    if not known or not np.isfinite([facts["mean"], facts["spread"]]).all():
        raise UsageError(
            "no picture of the lengths: none is known, or their mean is infinite; set max_length, or draw more (--draws)"
        )
    mass = np.cumsum(list(known.values()))
    law = dict(list(known.items())[: int(np.searchsorted(mass, SHOWN)) + 1])
    with matplotlib.rc_context(rc=STYLE | {"figure.dpi": 200}):
        figure = Figure(figsize=(WIDTH, WIDTH / 2.2))
        ax = figure.subplots()
        ax.vlines(list(law), 0, list(law.values()), color=PALETTE[0], lw=max(0.6, min(4.0, 240 / (max(law) + 1))))
        mean, spread = facts["mean"], facts["spread"]
        ax.axvline(mean, color=INK, lw=1, ls=(0, (4, 2)))
        ax.axvspan(max(mean - spread, 0), mean + spread, color=FAINT, alpha=0.12, lw=0)
        ax.set_xlim(-0.02 * max(law) - 0.5, max(law) * 1.02 + 0.5)
        ax.set_ylim(0, None)
        ax.set_xlabel("symbols of a string (EOS not counted)")
        ax.set_ylabel("probability" if facts["exact"] else "share of draws")
        ax.set_title(textwrap.shorten(title, 80, placeholder=" …"), pad=22)
        above(ax, mean, f"mean {mean:.4g} ± {spread:.4g}", "center")
        return png(figure)
