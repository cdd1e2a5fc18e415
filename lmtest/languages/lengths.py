"""How long the strings of a language are: the law of their length, its mean and its spread."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lmtest.languages.base import Language

LONGEST, FARTHEST = 512, 8192
"""Lengths are told apart up to the first, as nearly all strings of the languages that are learnt are shorter; where more than
half of the strings are longer, further, up to the second."""
TAIL = 1e-9
"""What is longer may weigh so much and the spread still counts as exact."""


@dataclass(frozen=True)
class Lengths:
    """P(length = n) for n = 0, 1, …, and the standard deviation; `exact`, or counted over draws.

    `spread` is infinite where strings have no mean length, and where it cannot be had exactly it is that of the draws.
    """

    law: np.ndarray
    mean: float
    spread: float
    exact: bool


def lengths(language: Language, draws: int, seed: int = 0) -> Lengths:
    """The law of the number of symbols (EOS not counted) of a language's strings."""
    mean = language.mean_length()
    most = int(min(language.longest, LONGEST))
    law = language.length_law(most)
    while law is not None and law.sum() < 0.5 and most < min(language.longest, FARTHEST):
        most = int(min(language.longest, 2 * most))
        law = language.length_law(most)
    if law is None:
        found = np.array([len(row) for row in language.sample_ids(draws, np.random.default_rng(seed))])
        return Lengths(np.bincount(found) / draws, mean, float(found.std()), False)
    places = np.arange(len(law))
    if 1 - law.sum() < TAIL:
        return Lengths(law, mean, math.sqrt(max(float(law @ places**2) - float(law @ places) ** 2, 0.0)), True)
    if (spread := language.length_spread()) is not None:
        return Lengths(law, mean, spread, True)
    found = np.array([len(row) for row in language.sample_ids(draws, np.random.default_rng(seed))])
    return Lengths(law, mean, float(found.std()), False)


def bars(law: np.ndarray, width: int = 60) -> str:
    """A law as a line of bars, one or several lengths to a bar: ▁ to █ by probability, a blank where there is none."""
    if not law.any():
        return ""
    # Longer ones are too rare to show, and would leave most of the line empty.
    law = law[: int(np.searchsorted(law.cumsum(), 0.999 * law.sum())) + 1]
    step = math.ceil(len(law) / width)
    mass = np.pad(law, (0, -len(law) % step)).reshape(-1, step).sum(1)
    marks = np.ceil(mass / mass.max() * 8 - 1e-9).astype(int)
    return "".join(" ▁▂▃▄▅▆▇█"[mark] for mark in marks)
