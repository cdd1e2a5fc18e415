"""`kind = "pcfg"`: any probabilistic context-free grammar, with its law on strings (not on derivations)."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import torch

from lmtest.errors import LmtestError, UsageError
from lmtest.languages import chart, grammar
from lmtest.languages.ambiguity import longest_string, proven_unambiguous
from lmtest.languages.base import Language, Row, Support
from lmtest.languages.normal_form import NormalForm, geometric_sum, normal_form
from lmtest.languages.sampling import sample_derivations, sample_within
from lmtest.languages.semiring import Log, Plain
from lmtest.languages.support import list_strings

LONGEST_LISTED = 10_000
"""Languages with longer strings are not listed."""

MOST_SYMBOLS = 10_000_000
"""An unbounded sampler stops with an error here rather than fill the memory (critical grammars have no mean length)."""


class Pcfg(Language):
    """A language given by a PCFG, conditioned on at most `max_length` symbols where that is set."""

    def __init__(
        self,
        text: str,
        *,
        name: str,
        title: str,
        source: str = "",
        max_length: int | None = None,
    ) -> None:
        self.text = text
        self.grammar = grammar.read(text)
        super().__init__(self.grammar.symbols, name=name, title=title, source=source, max_length=max_length)
        if max_length is not None and math.isinf(self._plain.log_norm) and math.isinf(self._log.log_norm):
            raise UsageError(f"{name}: no string has at most max_length = {max_length} symbols; raise it")

    @cached_property
    def form(self) -> NormalForm:
        return normal_form(self.grammar)

    @cached_property
    def _plain(self) -> chart.Weights:
        return chart.weights(self.form, self.max_length, Plain, scale=self._typical_log_weight())

    @cached_property
    def _log(self) -> chart.Weights:
        return chart.weights(self.form, self.max_length, Log)

    def _typical_log_weight(self) -> float:
        """Nats that one symbol costs in a typical string: what the plain chart divides by."""
        per_string, length = self._derivation_entropy(), self._unlimited_mean_length()
        # A guess that only has to be near: where it is not, the chart finds a better one or takes logarithms.
        return max(-per_string / length, -20.0) if 0 < length < math.inf and math.isfinite(per_string) else 0.0

    def joint_next(self, tokens: torch.Tensor) -> torch.Tensor:
        n = tokens.shape[1] - 1
        symbols = tokens[:, 1:]
        proper = ((symbols < len(self.symbols)).cumprod(1)).sum(1)  # symbols before the first EOS, BOS or PAD
        result = torch.full((*tokens.shape, self.vocabulary.n_outputs), -math.inf, dtype=torch.float64)
        starts = tokens[:, 0] == self.vocabulary.bos
        for part in chart.chunks(proper, len(self.form.pairs), len(self.form.mass), self.max_length):
            width = int(proper[part].max())
            part_symbols = symbols[part, :width].clamp(max=len(self.symbols) - 1)
            result[part, : width + 1] = chart.joint_next(self._plain, lambda: self._log, part_symbols)
        dead = (torch.arange(n + 1) > proper[:, None]) | ~starts[:, None]
        return result.masked_fill(dead[..., None], -math.inf)

    def sample_ids(self, n: int, rng: np.random.Generator) -> list[Row]:
        if self.max_length is not None:
            return sample_within(self.form, self._length_law, n, rng)
        rows = sample_derivations(self.grammar, n, rng, MOST_SYMBOLS)
        if rows is None:
            raise LmtestError(
                f"{self.name}: more than {MOST_SYMBOLS:,} symbols in one draw (mean length {self.mean_length():.3g}); "
                "set max_length in the language file"
            )
        return rows

    @cached_property
    def _length_law(self) -> np.ndarray:
        """[max_length + 1, K]: non-empty strings of each nonterminal by length, unnormalised."""
        assert self.max_length is not None
        return np.asarray(chart.length_law(self.form, self.max_length, Plain).numpy())

    def length_law(self, most: int) -> np.ndarray:
        """P(length = n) for n = 0 … `most`."""
        law = np.asarray(chart.length_law(self.form, max(most, 1), Plain).numpy())[: most + 1, 0]
        law[0] = self.form.empty
        if self.max_length is not None:
            law[self.max_length + 1 :] = 0.0
            law /= self._length_law[:, 0].sum() + self.form.empty
        return law

    def length_spread(self) -> float | None:
        """Standard deviation of the length without a limit: variances solve V = h + M V, h what a rule's choice adds."""
        if self.max_length is not None:
            return None
        if math.isinf(self._unlimited_mean_length()):
            return math.inf
        terminals, added = np.zeros(self.grammar.size), np.zeros(self.grammar.size)
        for rule in self.grammar.productions:
            terminals[rule.lhs] += rule.prob * sum(symbol < 0 for symbol in rule.rhs)
        means = geometric_sum(self._yielding_means) @ terminals
        for rule in self.grammar.productions:
            length = sum(1.0 if symbol < 0 else means[symbol] for symbol in rule.rhs)
            added[rule.lhs] += rule.prob * (length - means[rule.lhs]) ** 2
        return math.sqrt(_total(self._yielding_means, added))

    def mean_length(self) -> float:
        if self.max_length is None:
            return self._unlimited_mean_length()
        law = self._length_law[:, 0]
        return float(np.arange(len(law)) @ law / (law.sum() + self.form.empty))

    def _unlimited_mean_length(self) -> float:
        """E = t + M E over what yields symbols at all; infinite where that part is critical."""
        terminals = np.zeros(self.grammar.size)
        for rule in self.grammar.productions:
            terminals[rule.lhs] += rule.prob * sum(symbol < 0 for symbol in rule.rhs)
        return _total(self._yielding_means, terminals)

    @cached_property
    def _yielding_means(self) -> np.ndarray:
        means = self.grammar.mean_matrix()
        only_empty = grammar.empty_string_masses(self.grammar) == 1.0
        means[only_empty] = means[:, only_empty] = 0.0
        return means

    def _derivation_entropy(self) -> float:
        """H = h + M H, the entropy of the derivations: that of the strings where the grammar is unambiguous."""
        surprisal = np.zeros(self.grammar.size)
        for rule in self.grammar.productions:
            surprisal[rule.lhs] -= rule.prob * math.log(rule.prob)
        return _total(self.grammar.mean_matrix(), surprisal)

    @cached_property
    def unambiguous(self) -> bool:
        """Whether unambiguity is proven; it is undecidable in general, so False means "not proven"."""
        return proven_unambiguous(self.grammar)

    def exact_entropy(self) -> float | None:
        if not self.unambiguous:
            return super().exact_entropy()
        return self._derivation_entropy() if self.max_length is None else self._limited_entropy()

    def _limited_entropy(self) -> float:
        """Entropy of the conditioned law of an unambiguous grammar: Σ p ln p by length, in the entropy semiring."""
        assert self.max_length is not None
        form, law = self.form, self._length_law
        weighted = np.zeros_like(law)  # Σ over strings of length l of p ln p
        lexical, binary = form.unit_closure @ form.lexical, form.unit_closure @ form.binary
        weighted[1] = _x_log_x(lexical).sum(1)
        first, second = form.pairs.T
        for length in range(2, self.max_length + 1):
            p, q = law[1:length][:, first], law[1:length][::-1][:, second]
            mixed = weighted[1:length][:, first] * q + p * weighted[1:length][::-1][:, second]
            weighted[length] = binary @ mixed.sum(0) + _x_log_x(binary) @ (p * q).sum(0)
        total = law[:, 0].sum() + form.empty
        return float(math.log(total) - (weighted[:, 0].sum() + _x_log_x(np.array(form.empty))) / total)

    @cached_property
    def longest(self) -> float:
        return longest_string(self.grammar) if self.max_length is None else self.max_length

    def list_support(self) -> Support | None:
        return list_strings(self.form, int(self.longest)) if self.longest <= LONGEST_LISTED else None


def _total(means: np.ndarray, each: np.ndarray) -> float:
    """Expected total of `each` over a derivation from the start: (I − M)⁻¹ each; infinite where that diverges."""
    reach = grammar.reachable(means)
    counted = reach[0] & (reach @ (each > 0))  # a critical block that adds nothing does not count
    means = means * np.outer(counted, counted)
    if grammar.spectral_radius(means) > 1 - grammar.CRITICAL_TOLERANCE:
        return math.inf
    return float((geometric_sum(means) @ each)[0])


def _x_log_x(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x * np.log(np.where(x > 0, x, 1.0)), 0.0)
