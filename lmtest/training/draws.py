"""The strings of one step: fresh draws from the exact law, spread evenly over it where its strings can be listed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lmtest.languages.base import Language, Row

LAWS_AT_ONCE = 512
"""Strings whose next-symbol laws are asked for together: bounds the memory."""


@dataclass(frozen=True)
class Draws:
    """Where one language's training strings come from."""

    language: Language

    def rows(self, n: int, rng: np.random.Generator) -> list[Row]:
        """n strings, each string of the language n times its probability in expectation.

        Independent draws where the language cannot be listed; else systematic sampling over the strings in order of
        length: every gradient stays unbiased and varies less, and all seeds of a stack have batches of one length.
        """
        if self._listed is None:
            return self.language.sample_ids(n, rng)
        rows, cumulative = self._listed
        places = (np.arange(n) + rng.random()) / n
        return [rows[i] for i in np.searchsorted(cumulative, places, side="right").clip(max=len(rows) - 1)]

    def laws(self, rows: list[Row]) -> list[np.ndarray]:
        """For each string its next-symbol laws [length + 1, V], the one behind its last symbol included."""
        if self._listed is None:
            return self._compute(rows)
        return [self._laws[row] for row in rows]

    @cached_property
    def _listed(self) -> tuple[list[Row], np.ndarray] | None:
        support = self.language.support()
        if support is None:
            return None
        order = sorted(range(len(support.rows)), key=lambda i: (len(support.rows[i]), support.rows[i]))
        probs = support.log_probs.exp().numpy()[order]
        return [support.rows[i] for i in order], np.cumsum(probs) / probs.sum()

    @cached_property
    def _laws(self) -> dict[Row, np.ndarray]:
        assert self._listed is not None
        rows = self._listed[0]
        parts = [rows[i : i + LAWS_AT_ONCE] for i in range(0, len(rows), LAWS_AT_ONCE)]
        return dict(zip(rows, (law for part in parts for law in self._compute(part)), strict=True))

    def _compute(self, rows: list[Row]) -> list[np.ndarray]:
        laws = self.language.next_log_probs(self.language.vocabulary.pack(rows)[0])[0].exp().float().numpy()
        return [law[: len(row) + 1] for law, row in zip(laws, rows, strict=True)]
