"""String mass: how much probability does a model give to all short strings, split by the rules that they keep?

Mészáros et al., NeurIPS 2024 (arXiv 2409.13728), figure 3, follow it along training. Here it is exact: every string of at
most so many symbols is enumerated as a node of the prefix tree, none is sampled, and the uniform law stands beside it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch import Tensor

from lmtest.errors import UsageError
from lmtest.evaluators.contract import Evaluated
from lmtest.evaluators.evaluator import Size
from lmtest.languages.base import Language
from lmtest.languages.rules import Rule
from lmtest.languages.vocabulary import Vocabulary
from lmtest.measurement import measurement
from lmtest.models.contract import LanguageModel
from lmtest.models.stack import StackedModel
from lmtest.validation import Table

NAME = "string_mass"
MAX_PREFIXES = 2_000_000
"""At the last level of the tree."""
ROWS = 2048
"""Rows times seeds that are read at once: bounds the memory, for every level of the tree may hold a cache of so many."""


class StringMassConfig(Table):
    """The `[evaluators.string_mass]` table of a study."""

    max_length: int = Field(8, ge=1, le=100)
    """Symbols of the longest strings."""
    snapshots: int = Field(8, ge=2)
    """How many times along training, the beginning and the end included."""
    rules: list[str] = Field(["R1", "R2"], max_length=8)
    """Rules by which the strings are split; those that the language lacks are left out."""

    def evaluator(self, language: Language) -> StringMass:
        return StringMass(language, self)


@dataclass(frozen=True)
class StringMass:
    """The evaluator for one language: its short strings are sorted once, models come and go.

    Raises UsageError where the language has none of the rules, or too many short strings.
    """

    language: Language
    config: StringMassConfig

    name = NAME
    last_probe_is_all = True

    def __post_init__(self) -> None:
        n_symbols, length = len(self.language.symbols), self.config.max_length
        if not self.rules:
            raise UsageError(
                f"string_mass: {self.language.name} has none of the rules {', '.join(self.config.rules)} "
                f"(its rules: {', '.join(self.language.rules) or 'none'}); name one of its own in `rules`"
            )
        if n_symbols**length > MAX_PREFIXES:
            raise UsageError(
                f"string_mass: {n_symbols}^{length} strings of {length} symbols are more than {MAX_PREFIXES}: "
                "lower max_length"
            )
        if len(self.measures) < 2 ** len(self.rules) + 3:
            raise UsageError(f"string_mass: the rules {', '.join(self.rules)} make measures of one name: rename a rule")

    @cached_property
    def rules(self) -> list[str]:
        """The rules by which the strings are split."""
        return [name for name in dict.fromkeys(self.config.rules) if name in self.language.rules]

    @property
    def measures(self) -> list[str]:
        """A class of non-empty strings for every set of rules that hold (and no other), then all of them, then the
        language's; and the empty string, alone."""
        return list(self._members)

    @property
    def longest(self) -> int:
        return self.config.max_length

    def measured(self) -> Evaluated:
        """What there will be a value of; there are no prompts."""
        return Evaluated({(measure, "strings", "exact") for measure in self.measures}, set())

    def sizes(self) -> dict[str, Size]:
        return {}

    def probed_at(self, steps: int, every: int) -> list[int]:
        """Training steps to measure at: 0, `steps`, and between them at equal ratios; all where there are no more."""
        if steps < self.config.snapshots:
            return list(range(steps + 1))
        found = [0]
        for step in np.rint(np.geomspace(steps, 1, self.config.snapshots - 1))[::-1]:
            found.append(max(int(step), found[-1] + 1))  # the first ratios round to the same step
        return found

    def evaluate(self, model: LanguageModel, seeds: Sequence[int], seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        return pd.DataFrame(self.probe(model, seeds, seed)), pd.DataFrame()

    def probe(self, model: LanguageModel, seeds: Sequence[int], seed: int = 0) -> list[dict[str, Any]]:
        """A row a seed and measure: the mass of its strings, EOS included; `count` strings, which the uniform law
        gives the mass `chance`."""
        masses = label_masses(model, self.language.vocabulary, self._labels, self._n_labels).numpy()
        sizes = np.array(
            [np.bincount(level.numpy(), minlength=self._n_labels) for level in self._labels]
        )  # [lengths, labels]
        n_outputs = float(self.language.vocabulary.n_outputs)
        uniform = n_outputs ** -np.arange(1.0, 1 + len(sizes)) @ sizes
        rows = []
        for seed, mass in zip(seeds, masses, strict=True):
            for measure, members in self._members.items():
                value = float(mass[members].sum())
                count, chance = int(sizes[:, members].sum()), float(uniform[members].sum())
                rows.append(measurement(seed, NAME, measure, "strings", (value, value, value), count, chance=chance))
        return rows

    @property
    def _n_labels(self) -> int:
        return (2 << len(self.rules)) + 1

    @cached_property
    def _members(self) -> dict[str, np.ndarray]:
        """Measure → bool [labels]. Bit i of a string's label is its i-th rule, the last bit the language.

        The empty string has the last label to itself: it keeps most rules by saying nothing, and would swamp their classes.
        """
        n = len(self.rules)
        label = np.arange(self._n_labels)
        said = label < 2 << n
        members = {}
        for size in range(n, -1, -1):
            for kept in itertools.combinations(range(n), size):
                name = "_".join(self.rules[i] for i in kept) or "none"
                members[f"mass_{name}"] = said & (label % 2**n == sum(2**i for i in kept))
        return members | {"mass": said, "mass_grammatical": said & (label >= 2**n), "mass_empty": ~said}

    @cached_property
    def _labels(self) -> list[Tensor]:
        """Per length the labels of all strings, sorted: [K^length]."""
        n_symbols, longest = len(self.language.symbols), self.config.max_length
        labels = [torch.zeros(n_symbols**length, dtype=torch.int64) for length in range(longest + 1)]
        for i, name in enumerate(self.rules):
            for level, held in zip(labels, rule_truths(self.language.rules[name], n_symbols, longest), strict=True):
                level += 2**i * held
        for length, places, log_probs in enumerate_strings(self.language, self.language.vocabulary, longest):
            labels[length][places] += 2 ** len(self.rules) * (log_probs[0] > -torch.inf)
        labels[0][:] = self._n_labels - 1
        return labels


def rule_truths(rule: Rule, n_symbols: int, longest: int) -> list[Tensor]:
    """Whether a rule holds, for all strings of K symbols, sorted: bool [K^length] for length 0 … `longest`."""
    states, which = [rule.start()], torch.zeros(1, dtype=torch.int64)
    truths = []
    for _ in range(longest + 1):
        truths.append(torch.tensor([rule.accepts(state) for state in states], dtype=torch.bool)[which])
        # One step for each distinct state, not for each string.
        places: dict[Any, int] = {}
        after = [
            places.setdefault(rule.step(state, symbol), len(places)) for state in states for symbol in range(n_symbols)
        ]
        which = torch.tensor(after, dtype=torch.int64).view(len(states), n_symbols)[which].flatten()
        states = list(places)
    return truths


def label_masses(model: LanguageModel, vocabulary: Vocabulary, labels: Sequence[Tensor], n_labels: int) -> Tensor:
    """Labels [K^length] of all strings of length 0, 1, …, sorted → probability of the strings of each [S, n_labels]."""
    totals: Tensor | None = None
    for length, places, log_probs in enumerate_strings(model, vocabulary, len(labels) - 1):
        if totals is None:
            totals = torch.zeros(len(log_probs), n_labels, dtype=torch.float64)
        totals.index_add_(1, labels[length][places], log_probs.exp())
    assert totals is not None  # the empty string comes first
    return totals


def enumerate_strings(
    model: LanguageModel, vocabulary: Vocabulary, longest: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """All strings of at most so many symbols in chunks: length, places in sorted order [M], log-probabilities [S, M].

    Nats, EOS included; float64. Goes depth first, so that memory is bounded, and leaves out what no seed gives mass to.
    """
    reader = model if isinstance(model, StackedModel) else _Rereading(model)
    n_symbols, eos = len(vocabulary.symbols), vocabulary.eos

    def visit(
        length: int, places: Tensor, mass: Tensor, law: Tensor, cache: Any
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        yield length, places, mass + law[..., eos]
        size = max(1, ROWS // (len(mass) * max(1, n_symbols)))
        for start in range(0, len(places) if length < longest else 0, size):
            chunk = slice(start, start + size)
            longer = (mass[:, chunk, None] + law[:, chunk, :eos]).flatten(1)  # [S, M·K]
            alive = (longer != -torch.inf).any(0).nonzero().flatten()
            if len(alive):
                rows, symbols = start + alive // n_symbols, alive % n_symbols
                branch = reader.select(cache, rows)
                after = reader.advance(branch, symbols.expand(len(mass), -1))
                yield from visit(length + 1, places[rows] * n_symbols + symbols, longer[:, alive], after, branch)

    law, cache = reader.prefill(*vocabulary.pack([()]), longest)
    yield from visit(0, torch.zeros(1, dtype=torch.int64), torch.zeros(len(law), 1, dtype=torch.float64), law, cache)


class _Rereading:
    """The cached path for a model without one: the cache is the tokens [N, T], which are all read anew."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model

    def prefill(self, tokens: Tensor, lengths: Tensor, room: int) -> tuple[Tensor, list[Tensor]]:
        return self.model.next_log_probs(tokens)[:, :, -1], [tokens]

    def select(self, cache: list[Tensor], rows: Tensor) -> list[Tensor]:
        return [cache[0][rows]]

    def advance(self, cache: list[Tensor], tokens: Tensor) -> Tensor:
        cache[0] = torch.cat([cache[0], tokens[0, :, None]], 1)  # every seed is given the same
        return self.model.next_log_probs(cache[0])[:, :, -1]
