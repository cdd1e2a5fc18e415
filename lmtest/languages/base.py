"""What every language offers: its exact law, as strings in Python and as a model on tokens."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from lmtest import limits
from lmtest.errors import UsageError
from lmtest.languages.ngrams import count_strings
from lmtest.languages.regex import DFA
from lmtest.languages.rules import Rule
from lmtest.languages.vocabulary import String, Vocabulary, check_list

Row = tuple[int, ...]
"""A string as token ids."""

MOST_DRAW_WORK = 5e9
"""Σ length³ over the strings of a sampled entropy: about a minute of charts."""

PART = 50_000_000
"""Log-probabilities that are computed at once where only each string's last ones are wanted."""

SUPPORT_LIMIT = 20_000
"""Languages with at most so many strings count as small: their sums are exact."""


@dataclass(frozen=True)
class Entropy:
    """Nats per string, EOS included; `half_width` of a 95 % interval, 0 where `exact`."""

    value: float
    half_width: float
    exact: bool


@dataclass(frozen=True)
class Support:
    """All strings of a finite language: token ids, and log-probabilities [N] (float64, nats, EOS included)."""

    rows: list[tuple[int, ...]]
    log_probs: torch.Tensor


@dataclass(frozen=True, eq=False)
class PromptPattern:
    """Prompts that a language file declares: the strings of `length` symbols that match `regex`, `weight` for each."""

    regex: str
    length: int
    weight: float
    dfa: DFA


class Language(ABC):
    """A set of strings with an exact probability each; every method uses the law conditioned on `max_length`.

    A kind of language supplies `joint_next` and `sample_ids`, and where it can do better, the rest.
    """

    def __init__(
        self,
        symbols: Sequence[str],
        *,
        name: str,
        title: str,
        source: str = "",
        max_length: int | None = None,
        rules: dict[str, Rule] | None = None,
    ) -> None:
        self.vocabulary = Vocabulary(tuple(symbols))
        self.name, self.title, self.source, self.max_length = name, title, source, max_length
        self.rules: dict[str, Rule] = rules or {}
        self.prompts: list[PromptPattern] = []
        """The prompts that the language file publishes, if it does; in or out of distribution is not said here."""
        self.definition: dict[str, Any] = {}
        """The language file as plain data, where it came from one."""

    def __repr__(self) -> str:
        return f"<language {self.name}: {self.title}>"

    @property
    def symbols(self) -> tuple[str, ...]:
        return self.vocabulary.symbols

    # What a kind supplies.

    @abstractmethod
    def joint_next(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [N, T] with BOS first → [N, T, V] float64: log P(string starts with the prefix, then v); nats.

        Row t belongs to the prefix up to and including token t; for EOS it is the log-probability of the string that
        is just that prefix. −inf where dead, and on rows that hold a PAD, an EOS or a BOS that is not the first.
        """

    @abstractmethod
    def sample_ids(self, n: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
        """n independent strings as token ids."""

    @abstractmethod
    def mean_length(self) -> float:
        """Expected number of symbols of a string, EOS not counted; may be infinite."""

    @abstractmethod
    def list_support(self) -> Support | None:
        """All strings with their log-probabilities, or None where there are more than SUPPORT_LIMIT."""

    @property
    def longest(self) -> float:
        """Symbols of the longest string; infinite where there is none, and where it is not known."""
        if self.max_length is not None:
            return self.max_length
        support = self.support()
        return math.inf if support is None else max(map(len, support.rows))

    @cached_property
    def _support(self) -> Support | None:
        return self.list_support()

    def support(self, limit: int = SUPPORT_LIMIT) -> Support | None:
        """All strings with their log-probabilities, or None where there are more than `limit` (at most SUPPORT_LIMIT)."""
        support = self._support
        return support if support is not None and len(support.rows) <= limit else None

    def count_completions(self, rows: Sequence[Row], most: int) -> np.ndarray | None:
        """Prefixes as rows of symbol ids → how many strings go on by exactly r symbols, float64 [N, most + 1].

        None where the language has too many strings to list, and no better way to count them.
        """
        if (support := self.support()) is None:
            return None
        counts = {tuple(row): np.zeros(most + 1) for row in rows}
        for length in {len(row) for row in counts}:
            for string in support.rows:
                more = len(string) - length
                if 0 <= more <= most and string[:length] in counts:
                    counts[string[:length]][more] += 1
        return np.array([counts[tuple(row)] for row in rows]).reshape(len(rows), most + 1)

    def length_law(self, most: int) -> np.ndarray | None:
        """P(length = n) for n = 0 … `most`, EOS not counted; None where it is only known by drawing."""
        if (support := self.support()) is None:
            return None
        found = np.bincount([len(row) for row in support.rows], support.log_probs.exp().numpy(), most + 1)
        return np.asarray(found[: most + 1])

    def length_spread(self) -> float | None:
        """Standard deviation of the length in closed form, where there is one beside `length_law`."""
        return None

    def exact_entropy(self) -> float | None:
        """Nats per string in closed form, or None where the language has none."""
        support = self.support()
        return None if support is None else float(-(support.log_probs.exp() * support.log_probs).sum())

    def ngram_counts(self, order: int) -> dict[Row, torch.Tensor] | None:
        """Context → how often, per string, each output is expected behind it, [V] float64; None where nothing exact will do.

        A context is the last order − 1 tokens before a position, fewer near the start, where BOS is the first: order 3
        has (bos,), (bos, a), (a, b), …, and order 1 has () alone. Only contexts that occur. Raises UsageError on order < 1.
        """
        support = self.support()
        return None if support is None else count_strings(self.vocabulary, support.rows, support.log_probs.exp(), order)

    # The contract on strings.

    def sample(self, n: int, seed: int) -> list[String]:
        """n independent strings from the exact law; the same `seed` gives the same strings."""
        check_count("a number of strings", n, 0)
        limits.check("strings at once", n, limits.MOST_DRAWN, "draw fewer")
        return [self.vocabulary.join(row) for row in self.sample_ids(n, _generator(seed))]

    def log_prob(self, strings: Sequence[String]) -> np.ndarray:
        """Strings → log-probabilities [N] float64, nats, EOS included, summed over all derivations; −inf outside."""
        return self._rowwise(strings, self.log_prob_ids)

    def prefix_log_prob(self, prefixes: Sequence[String]) -> np.ndarray:
        """Prefixes → log of the mass of all strings that start so, [N] float64, nats; −inf where dead."""
        return self._rowwise(prefixes, self.prefix_log_prob_ids)

    def next_symbol_law(self, prefix: String) -> dict[str, float]:
        """Probability of each symbol and of "<eos>" after a prefix; raises UsageError on a dead prefix."""
        if (ids := self.vocabulary.ids(prefix)) is None:
            raise UsageError(f"dead prefix {prefix!r}: it has a symbol that {self.name} does not know")
        joint = self.joint_next(self.vocabulary.pack([ids])[0])[0, -1]
        if not math.isfinite(float(joint.max())):
            raise UsageError(f"dead prefix {prefix!r}: no string of {self.name} starts so; there is no next-symbol law")
        return dict(zip(self.vocabulary.outputs, joint.softmax(-1).tolist(), strict=True))

    def contains(self, strings: Sequence[String]) -> np.ndarray:
        """Strings → bool [N]: whether the probability is positive."""
        return self.log_prob(strings) > -math.inf

    def entropy(self, draws: int = 10_000, seed: int = 0) -> Entropy:
        """Entropy of the strings, nats per string: the floor of every model's loss.

        Exact for finite (enumerable) support or proven unambiguity, else the mean of −log p over `draws` samples. Raises
        UsageError where neither will do: an ambiguous grammar without a mean length.
        """
        exact = self.exact_entropy()
        if exact is not None:
            return Entropy(max(exact, 0.0), 0.0, True)
        if math.isinf(self.mean_length()):
            raise UsageError(
                f"the entropy of {self.name} has no closed form, and its strings have no mean length to draw them by; "
                "set max_length in the language file"
            )
        check_count("a number of draws", draws, 2)
        rows = self.sample_ids(draws, _generator(seed))
        if (work := sum(len(row) ** 3 for row in set(rows))) > MOST_DRAW_WORK:
            raise UsageError(
                f"the entropy of {self.name} has no closed form, and its draws reach {max(map(len, rows))} symbols: about "
                f"{work / MOST_DRAW_WORK:.0f} times the work that is allowed; set max_length, or ask for fewer draws"
            )
        surprisal = -self.log_prob_ids(rows)
        half_width = 1.96 * float(surprisal.std()) / math.sqrt(draws)
        return Entropy(float(surprisal.mean()), half_width, False)

    # The same on token ids.

    def log_prob_ids(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Rows of token ids → log-probabilities [N] float64."""
        distinct = list(dict.fromkeys(map(tuple, rows)))  # samples repeat their short strings
        log_probs = self._last_joint(distinct)[:, self.vocabulary.eos]
        index = {row: i for i, row in enumerate(distinct)}
        return log_probs[[index[tuple(row)] for row in rows]]

    def prefix_log_prob_ids(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Rows of token ids → log prefix masses [N] float64."""
        return self._last_joint(rows).logsumexp(-1)

    def _last_joint(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Rows of token ids → the last row of their `joint_next`, [N, V] float64."""
        longest = 1 + max(map(len, rows), default=0)
        limits.check(
            f"log-probabilities of a string ({longest} positions, {self.vocabulary.n_outputs} outputs)",
            longest * self.vocabulary.n_outputs,
            PART,
            "ask about shorter strings, or of fewer symbols",
        )
        last = torch.empty(len(rows), self.vocabulary.n_outputs, dtype=torch.float64)
        for part, tokens, lengths in self.vocabulary.pack_parts(rows, PART // self.vocabulary.n_outputs):
            last[part] = self.joint_next(tokens)[torch.arange(len(part)), lengths]
        return last

    def _rowwise(self, strings: Sequence[String], function: Callable[[Sequence[Row]], torch.Tensor]) -> np.ndarray:
        rows = [self.vocabulary.ids(string) for string in check_list(strings)]
        known = [i for i, row in enumerate(rows) if row is not None]
        values = np.full(len(rows), -math.inf)
        if known:
            values[known] = function([row for row in rows if row is not None]).numpy()
        return values

    # The contract as a model.

    def next_log_probs(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [N, T], BOS first → next-symbol laws [1, N, T, V] float64, nats; NaN at dead positions.

        T positions; V = the symbols and EOS; one "seed". The exact law is a model that every evaluator accepts.
        """
        if tokens.dim() != 2 or tokens.shape[1] < 1:
            raise UsageError(f"expected tokens of shape [strings, positions], BOS first, found {tuple(tokens.shape)}")
        tokens = tokens.long()
        # What is no token at all is as dead as PAD.
        known = (tokens >= 0) & (tokens <= self.vocabulary.pad)
        return self.joint_next(tokens.where(known, self.vocabulary.pad)).log_softmax(-1)[None]  # all −inf → NaN


def check_count(what: str, n: object, least: int) -> None:
    """Raises UsageError where n is no whole number of at least `least`."""
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < least:
        raise UsageError(f"expected {what} that is a whole number ≥ {least}, found {n!r}")


def _generator(seed: int) -> np.random.Generator:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise UsageError(f"expected a seed that is a whole number ≥ 0, found {seed!r}")
    return np.random.default_rng(seed)
