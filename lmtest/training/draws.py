"""The strings of one step: fresh draws from the exact law, spread evenly over short and long ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from lmtest.languages.base import Language, Row
from lmtest.seeds import generator

POOL = 16
"""Steps that share one pool of independent draws, where a language cannot be listed."""
LAWS_AT_ONCE = 512
"""Strings whose next-symbol laws are asked for together: bounds the memory."""


@dataclass(frozen=True)
class Draws:
    """Where one language's training strings come from."""

    language: Language

    def rows(self, n: int, seed: int, step: int) -> list[Row]:
        """The n strings of a seed at a step: each string of the language n times its probability in expectation.

        Where the language can be listed, systematic sampling over its strings in order of length. Else independent draws,
        dealt out to POOL steps so that each gets its share of short and of long ones. So every string counts as often as
        in independent draws, gradients vary less, and all seeds of a stack have batches of nearly one length.
        """
        if self._listed is None:
            return [strings[step % POOL] for strings in _pool(self.language, n, seed, step // POOL)]
        rows, cumulative = self._listed
        places = (np.arange(n) + generator(seed, "data", step).random()) / n
        return [rows[i] for i in np.searchsorted(cumulative, places, side="right").clip(max=len(rows) - 1)]

    def laws(self, rows: list[Row]) -> list[np.ndarray]:
        """For each string its next-symbol laws [length + 1, V], the one behind its last symbol included."""
        if self._listed is None:
            return self._in_parts(rows)
        return [self._laws[row] for row in rows]

    def laws_at(self, n: int, seed: int, step: int) -> list[np.ndarray]:
        """The laws of the strings of a seed at a step."""
        if self._listed is None:
            return [laws[step % POOL] for laws in _pool_laws(self, n, seed, step // POOL)]
        return self.laws(self.rows(n, seed, step))

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
        return dict(zip(rows, self._in_parts(rows), strict=True))

    def _in_parts(self, rows: list[Row]) -> list[np.ndarray]:
        parts = [rows[i : i + LAWS_AT_ONCE] for i in range(0, len(rows), LAWS_AT_ONCE)]
        return [law for part in parts for law in self._compute(part)]

    def _compute(self, rows: list[Row]) -> list[np.ndarray]:
        laws = self.language.next_log_probs(self.language.vocabulary.pack(rows)[0])[0].exp().float().numpy()
        return [law[: len(row) + 1] for law, row in zip(laws, rows, strict=True)]


@lru_cache(maxsize=64)
def _pool(language: Language, n: int, seed: int, block: int) -> list[list[Row]]:
    """n lists of POOL strings, neighbours in length, each in random order: one string of each list for every step."""
    rng = generator(seed, "data", block)
    pool = sorted(language.sample_ids(n * POOL, rng), key=len)
    return [[pool[i * POOL + int(j)] for j in rng.permutation(POOL)] for i in range(n)]


@lru_cache(maxsize=16)
def _pool_laws(draws: Draws, n: int, seed: int, block: int) -> list[list[np.ndarray]]:
    """The laws of a pool's strings, likewise: to ask for them together costs little more than to ask for one step's."""
    pool = _pool(draws.language, n, seed, block)
    laws = iter(draws.laws([row for strings in pool for row in strings]))
    return [[next(laws) for _ in strings] for strings in pool]
