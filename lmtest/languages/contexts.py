"""Sets of prefixes on which one may change a law a little and know the price: in-context prompts, improbable prefixes.

What a change costs is a sum over prefixes of P(prefix) times the KL of the next symbol there (the chain rule), so a set
of contexts is cut into strata: prefixes of one length each, with the probability of the stratum, exactly.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lmtest.errors import UsageError
from lmtest.languages.base import Language
from lmtest.languages.hmm import DELIMITER
from lmtest.languages.hmm_evidence import (
    ANY,
    IS_DELIMITER,
    NO_DELIMITER,
    list_given,
    log_probability,
    sample_given,
)
from lmtest.languages.hmm_mixture import HmmMixture
from lmtest.validation import Table

MOST_PREFIXES = 100_000
"""Live prefixes that are listed to find the improbable ones."""
BATCH = 8192
"""Prefixes whose law is asked for at once: bounds the memory."""
FEWEST_EXAMPLES = 2
ROUNDING = 1e-9
"""Nats: a prefix whose probability is the limit but for rounding is not below it."""


@dataclass(frozen=True, eq=False)
class Prefixes:
    """All prefixes of a stratum: symbol ids [N, length], and ln P(prefix) [N], nats."""

    symbols: Tensor
    log_probs: Tensor


Draws = Callable[[int, np.random.Generator], Tensor]
"""How many, generator → so many independent prefixes [count, length] from the law of the prefix given the stratum."""


@dataclass(frozen=True, eq=False)
class Stratum:
    """Contexts of one length, ln of their total probability (nats), and all of them or, where they are many, draws."""

    name: str
    log_probability: float
    content: Prefixes | Draws


class Contexts(ABC):
    """A set of prefixes of one language; `never` are the outputs that no variant may touch there."""

    def __init__(self, language: Language, name: str, never: tuple[int, ...]) -> None:
        self.language, self.name, self.never = language, name, never

    @abstractmethod
    def member(self, tokens: Tensor) -> Tensor:
        """Tokens [N, T] with BOS first → bool [N, T]: whether the prefix up to and including token t is a context."""

    @abstractmethod
    def strata(self) -> list[Stratum]:
        """The contexts of positive length that a document can have, by length; probability 0 where no document does."""

    def largest_gap(self) -> float:
        """A bound on (p₁ − p₂) ln(p₁/p₂) at every context that needs no draws, nats; infinite where none is known.

        p₁ ≥ p₂ are the language's own two likeliest outputs outside `never`.
        """
        return math.inf


class PromptContexts(Contexts):
    """In-context prompts: n examples of k symbols, a delimiter behind each, and k − 1 symbols of a test input.

    A prefix of n(k+1) + k − 1 symbols with the delimiter at k+1, 2(k+1), …, n(k+1), counted from 1, and nowhere else, is a
    context for every n in `examples`: for a delimiter that every state emits with probability d these have probability
    dⁿ(1−d)^(kn+k−1). With `anywhere`, so is every prefix whose last symbols are of that form, wherever they start; a longer
    prompt then holds the shorter one, so only the least n counts. Raises UsageError on n < 2 and on prompts that no
    symbol of a document can follow.
    """

    def __init__(self, language: HmmMixture, k: int, examples: Sequence[int], anywhere: bool = False) -> None:
        if k < 1:
            raise UsageError(f"expected examples of length k ≥ 1, found k = {k}")
        if not examples or len({*examples}) < len(examples) or min(examples) < FEWEST_EXAMPLES:
            raise UsageError(
                f"expected distinct numbers of examples, each at least {FEWEST_EXAMPLES}, found {list(examples)}; with fewer "
                "than two, any text up to its first or second delimiter is a prompt, and a change there is not a small one"
            )
        self.mixture, self.length = language.mixture, language.length
        asked = sorted(examples)[:1] if anywhere else sorted(examples)
        for n in asked:
            if (symbols := n * (k + 1) + k - 1) >= self.length:
                raise UsageError(
                    f"a prompt with n = {n} examples of length k = {k} has {symbols} symbols, and no symbol follows it in "
                    f"documents of {self.length}; choose smaller n or k, or a language with longer documents"
                )
        self.patterns = {n: prompt_pattern(k, n) for n in asked}
        self.anywhere = anywhere
        name = f"prompts.k{k}.n{'-'.join(map(str, self.patterns))}" + (".anywhere" if anywhere else "")
        super().__init__(language, name, (DELIMITER, language.vocabulary.eos))

    def member(self, tokens: Tensor) -> Tensor:
        symbols, found = tokens[:, 1:], torch.zeros(tokens.shape, dtype=torch.bool)
        proper = (symbols >= 0) & (symbols < self.mixture.n_symbols)
        codes = torch.where(symbols == DELIMITER, IS_DELIMITER, NO_DELIMITER)
        for pattern in self.patterns.values():
            length, wanted = len(pattern), torch.from_numpy(pattern)
            if length < tokens.shape[1]:
                windows = codes.unfold(1, length, 1) if self.anywhere else codes[:, None, :length]
                found[:, length : length + windows.shape[1]] |= (windows == wanted).all(-1)
        started = tokens[:, :1] == self.language.vocabulary.bos
        return found & torch.cat([started, proper & started], 1).long().cumprod(1).bool()

    def strata(self) -> list[Stratum]:
        if not self.anywhere:
            return [self._stratum(f"n{n}", pattern) for n, pattern in self.patterns.items()]
        (pattern,) = self.patterns.values()
        before = range(self.length - len(pattern))  # behind a whole document there is EOS, and nothing to change
        return [self._stratum(f"t{m + len(pattern)}", np.concatenate([np.full(m, ANY), pattern])) for m in before]

    def largest_gap(self) -> float:
        # Given the prefix the next symbol's law mixes those of the states that its last symbol can come from. So at
        # least two symbols are as likely as the second largest of the least probabilities, and none is likelier than
        # the largest.
        concepts, entities, properties = self.mixture.shape
        at = torch.eye(entities * properties, dtype=torch.float64).view(-1, 1, entities, properties)
        laws = self.mixture.emit(self.mixture.move(at.expand(-1, concepts, -1, -1)))  # [V·S, C, M]
        (last,) = {int(pattern[-1]) for pattern in self.patterns.values()}
        ends = (self.mixture.memory == DELIMITER).flatten() == (last == IS_DELIMITER)
        others = [symbol for symbol in range(self.mixture.n_symbols) if symbol != DELIMITER]
        laws = laws[ends][:, self.mixture.weights > 0].flatten(0, 1)[:, others]
        if len(others) < 2 or not len(laws):
            return math.inf
        return float(exchange_gap(laws.max(), laws.amin(0).topk(2).values[1]))

    def _stratum(self, name: str, evidence: np.ndarray) -> Stratum:
        mixture = self.mixture

        def draw(count: int, rng: np.random.Generator) -> Tensor:
            return sample_given(mixture, evidence, count, rng)

        listed = list_given(mixture, evidence)
        content = draw if listed is None else Prefixes(*listed)
        return Stratum(name, log_probability(mixture, evidence), content)


class ImprobablePrefixes(Contexts):
    """The prefixes of `length` symbols that some string of the language starts with, each with probability < `below`.

    Raises UsageError where there is none, and where the language has more than MOST_PREFIXES of a length on the way.
    """

    def __init__(self, language: Language, length: int, below: float) -> None:
        if length < 1 or not 0 < below <= 1:
            raise UsageError(f"expected length ≥ 1 and 0 < below ≤ 1, found length = {length}, below = {below}")
        super().__init__(language, f"improbable.length{length}.below{below:g}", (language.vocabulary.eos,))
        self.length = length
        symbols, log_probs = live_prefixes(language, length)
        chosen = log_probs < math.log(below) - ROUNDING
        if not bool(chosen.any()):
            least = (
                f"the least probable has {math.exp(float(log_probs.min())):.3g}" if len(symbols) else "there is none"
            )
            raise UsageError(
                f"no prefix of {length} symbols of {language.name} is less probable than below = {below:g}: {least}; "
                "raise `below`, or choose another length"
            )
        self.prefixes = Prefixes(symbols[chosen], log_probs[chosen])
        self._rows = {tuple(row) for row in self.prefixes.symbols.tolist()}

    def member(self, tokens: Tensor) -> Tensor:
        found = torch.zeros(tokens.shape, dtype=torch.bool)
        if self.length < tokens.shape[1]:
            rows = tokens[:, 1 : 1 + self.length].tolist()
            listed = torch.tensor([tuple(row) in self._rows for row in rows], dtype=torch.bool)
            found[:, self.length] = listed & (tokens[:, 0] == self.language.vocabulary.bos)
        return found

    def strata(self) -> list[Stratum]:
        return [Stratum(f"t{self.length}", float(self.prefixes.log_probs.logsumexp(0)), self.prefixes)]


def prompt_pattern(k: int, n: int) -> np.ndarray:
    """Where the delimiters of a prompt with n examples of length k are: evidence [n(k+1) + k − 1]."""
    positions = np.arange(1, n * (k + 1) + k)
    return np.where(positions % (k + 1) == 0, IS_DELIMITER, NO_DELIMITER)


def live_prefixes(language: Language, length: int) -> tuple[Tensor, Tensor]:
    """Every prefix of `length` symbols that some string starts with: ids [N, length], sorted, and ln P(prefix) [N].

    Raises UsageError where at some length up to it there are more than MOST_PREFIXES.
    """
    vocabulary = language.vocabulary
    tokens = torch.full((1, 1), vocabulary.bos)
    log_probs = torch.zeros(1, dtype=torch.float64)
    for t in range(1, length + 1):
        parts = [language.joint_next(batch)[:, -1, : vocabulary.eos] for batch in tokens.split(BATCH)]
        joint = torch.cat(parts) if parts else log_probs.new_zeros(0, vocabulary.eos)
        if (count := int((joint > -math.inf).sum())) > MOST_PREFIXES:
            raise UsageError(
                f"{language.name} has {count} prefixes of {t} symbols, more than the {MOST_PREFIXES} that are listed; "
                "choose a shorter length"
            )
        row, symbol = (joint > -math.inf).nonzero(as_tuple=True)
        tokens, log_probs = torch.cat([tokens[row], symbol[:, None]], 1), joint[row, symbol]
    return tokens[:, 1:], log_probs


def exchange_gap(p1: Tensor, p2: Tensor) -> Tensor:
    """(p₁ − p₂) ln(p₁/p₂), nats: the KL of exchanging two probabilities; infinite where p₂ = 0 < p₁."""
    return torch.where(p1 == p2, 0.0, (p1 - p2) * (p1.log() - p2.log()))


class PromptContextsConfig(Table):
    """Contexts of a study: `{ kind = "prompts", k = 3, examples = [2, 4, 8] }`."""

    kind: Literal["prompts"]
    k: int = Field(ge=1)
    examples: list[Annotated[int, Field(ge=FEWEST_EXAMPLES)]] = Field(min_length=1)
    anywhere: bool = False
    """At any place of a document, not at its start alone."""

    def build(self, language: Language) -> Contexts:
        """Raises UsageError where the language is no mixture of HMMs, or too short for the prompts."""
        if not isinstance(language, HmmMixture):
            raise UsageError(
                f'contexts of kind "prompts" need a language of kind "hmm_mixture", found {language.name}; '
                'choose one, or contexts of kind "improbable"'
            )
        return PromptContexts(language, self.k, self.examples, self.anywhere)


class ImprobableConfig(Table):
    """Contexts of a study: `{ kind = "improbable", length = 6, below = 0.001 }`."""

    kind: Literal["improbable"]
    length: int = Field(ge=1)
    below: float = Field(gt=0, le=1)

    def build(self, language: Language) -> Contexts:
        """Raises UsageError where the language has no such prefix, or too many."""
        return ImprobablePrefixes(language, self.length, self.below)


ContextsConfig = Annotated[PromptContextsConfig | ImprobableConfig, Field(discriminator="kind")]
"""The table of a set of contexts."""

__all__ = [
    "Contexts",
    "ContextsConfig",
    "Draws",
    "ImprobableConfig",
    "ImprobablePrefixes",
    "Prefixes",
    "PromptContexts",
    "PromptContextsConfig",
    "Stratum",
    "exchange_gap",
    "live_prefixes",
    "prompt_pattern",
]
