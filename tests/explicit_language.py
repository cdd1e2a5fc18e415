"""A language given string by string: everything by enumeration, so that it can judge what is clever."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import numpy as np
import torch

from lmtest.languages.base import Language, Support
from lmtest.languages.rules import compile_rules


class ExplicitLanguage(Language):
    """`probabilities`: string → probability; `rules`: the `[rules]` table of a language file."""

    def __init__(
        self,
        symbols: str,
        probabilities: dict[str, float],
        rules: dict[str, dict[str, object]] | None = None,
        name: str = "explicit",
    ) -> None:
        super().__init__(symbols, name=name, title=name, rules=compile_rules(rules or {}, tuple(symbols)))
        assert math.isclose(sum(probabilities.values()), 1.0)
        self.rows = [self.vocabulary.ids(string) or () for string in probabilities]
        self.probabilities = np.array(list(probabilities.values()))
        masses: dict[tuple[int, ...], np.ndarray] = defaultdict(lambda: np.zeros(self.vocabulary.n_outputs))
        for row, probability in zip(self.rows, self.probabilities, strict=True):
            for t, token in enumerate((*row, self.vocabulary.eos)):
                masses[row[:t]][token] += probability
        with np.errstate(divide="ignore"):
            self.log_masses = {prefix: torch.from_numpy(np.log(mass)) for prefix, mass in masses.items()}

    def joint_next(self, tokens: torch.Tensor) -> torch.Tensor:
        joint = torch.full((*tokens.shape, self.vocabulary.n_outputs), -math.inf, dtype=torch.float64)
        for i, row in enumerate(tokens.tolist()):
            for t in range(len(row)):
                if tuple(row[1 : t + 1]) in self.log_masses:
                    joint[i, t] = self.log_masses[tuple(row[1 : t + 1])]
        return joint

    def sample_ids(self, n: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
        return [self.rows[i] for i in rng.choice(len(self.rows), size=n, p=self.probabilities)]

    def mean_length(self) -> float:
        return float(sum(len(row) * p for row, p in zip(self.rows, self.probabilities, strict=True)))

    def list_support(self) -> Support:
        return Support(self.rows, torch.from_numpy(np.log(self.probabilities)))


def explicit_anbn(longest: int) -> ExplicitLanguage:
    """a^n b^n, n uniform from 1 to `longest`, with its rules R1 (as many a as b) and R2 (all a before all b)."""
    strings = {"a" * n + "b" * n: 1 / longest for n in range(1, longest + 1)}
    return ExplicitLanguage("ab", strings, {"R1": {"count": "a == b"}, "R2": {"regex": "a*b*"}}, "anbn")


def all_rows(n_symbols: int, longest: int) -> list[tuple[int, ...]]:
    """All rows of symbol ids with at most so many symbols, shortest first, the empty one included."""
    lengths = range(longest + 1)
    return [row for length in lengths for row in itertools.product(range(n_symbols), repeat=length)]
