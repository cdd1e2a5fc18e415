"""The strings of one step: fresh draws from the exact law, spread evenly over it where its strings can be listed."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from lmtest.languages.base import Language, Row


def draw(language: Language, n: int, rng: np.random.Generator) -> list[Row]:
    """n strings, each string of the language n times its probability in expectation.

    Independent draws where the language cannot be listed; else systematic sampling over the strings in order of length:
    every gradient stays unbiased and varies less, and all seeds of a stack have equally long batches to within a string.
    """
    listed = _listed(language)
    if listed is None:
        return language.sample_ids(n, rng)
    rows, cumulative = listed
    places = (np.arange(n) + rng.random()) / n
    return [rows[i] for i in np.searchsorted(cumulative, places, side="right").clip(max=len(rows) - 1)]


@lru_cache(maxsize=64)
def _listed(language: Language) -> tuple[list[Row], np.ndarray] | None:
    support = language.support()
    if support is None:
        return None
    order = sorted(range(len(support.rows)), key=lambda i: (len(support.rows[i]), support.rows[i]))
    probs = support.log_probs.exp().numpy()[order]
    return [support.rows[i] for i in order], np.cumsum(probs) / probs.sum()
