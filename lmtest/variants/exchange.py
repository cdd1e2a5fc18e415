"""The exchange: a model whose two likeliest next symbols have changed places on a set of contexts, and what that costs.

ε-non-identifiability of in-context learning (Reizinger et al., ICML 2024, arXiv 2405.01964, case study 2): on prompts the
likeliest completion becomes the second, every conditional stays normalised, and the law is hardly changed, for prompts
are rare. The price is summed over contexts, never taken as a difference of two losses, in which it would drown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from lmtest.errors import UsageError
from lmtest.languages.base import Language
from lmtest.languages.contexts import Contexts, Prefixes, Stratum
from lmtest.models.contract import LanguageModel

CHUNK_TOKENS = 65_536
TIE = 1e-9
"""Nats between two outputs that count as equally likely: nothing but rounding tells them apart."""


class Exchanged:
    """A model with its two likeliest outputs (outside `contexts.never`) exchanged wherever the prefix is a context.

    Every seed exchanges its own two; of equally likely ones the first in vocabulary order. Where the second has probability
    0 the law stays (the exchange would cost infinitely much), and so does a law that is NaN.
    """

    def __init__(self, model: LanguageModel, contexts: Contexts) -> None:
        self.model, self.contexts = model, contexts
        self.seeds: Sequence[int] = getattr(model, "seeds", (0,))
        """Of the model, where it has some: what is drawn at random belongs to them."""

    def next_log_probs(self, tokens: Tensor) -> Tensor:
        """Tokens [N, T], BOS first → [S, N, T, V] log-probabilities, nats."""
        laws = self.model.next_log_probs(tokens).clone()
        member = self.contexts.member(tokens)
        laws[:, member] = exchange(laws[:, member], self.contexts.never)
        return laws


@dataclass(frozen=True)
class Cost:
    """What the exchange adds to the certificate, nats per string, for S seeds: KL(p ‖ exchanged) − KL(p ‖ model).

    With p the language, it is Σ P(context) (p_a − p_b)(ln q_a − ln q_b) for the model's two likeliest a, b; for the
    language itself that is KL(p ‖ exchanged) = Σ P(context) (p₁ − p₂) ln(p₁/p₂). For a model that prefers the wrong one it
    may be negative.
    """

    value: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    """Ends of a 95 % interval over the contexts that were drawn; the value itself where every context was summed."""
    probability: float
    """Σ P(context): the expected number of contexts that a string passes through, a probability where they exclude
    one another. 0: no string does, and the failure there costs nothing (functional non-identifiability)."""
    bound: np.ndarray
    """Σ P · the largest (p_a − p_b)(ln q_a − ln q_b) of all contexts that were summed or drawn."""
    guaranteed: float
    """The same with a bound on every context that no draw has a part in; for the language itself, else infinite."""
    ties: np.ndarray
    """Share of the contexts (by probability) where the two are equally likely, so that the exchange changes nothing; …"""
    no_second: np.ndarray
    """… and where the second has probability 0, so that there is none. Both NaN where no string has a context."""
    exact: bool
    """Whether every context was summed."""


def exchange(log_probs: Tensor, never: Sequence[int]) -> Tensor:
    """Laws [..., V] with the log-probabilities of the two likeliest outputs outside `never` exchanged, where there are two."""
    places, best = _two_likeliest(log_probs, never)
    exchanged = log_probs.scatter(-1, places, best.flip(-1))
    return torch.where(best.isfinite().all(-1, keepdim=True), exchanged, log_probs)


def exchange_cost(
    language: Language, model: LanguageModel, contexts: Contexts, draws: int, rng: np.random.Generator
) -> Cost:
    """The cost of `Exchanged(model, contexts)` on the language: strata that list their contexts are summed exactly.

    The other strata share out `draws` contexts, drawn exactly given the stratum, and add P(stratum) × the mean; the
    interval is Student's with Welch's degrees of freedom over strata. Raises UsageError where that leaves less than two
    draws for a stratum, and where P(context) underflows.
    """
    if contexts.language is not language:
        raise UsageError(f"expected contexts of {language.name}, found contexts of {contexts.language.name}")
    strata = [stratum for stratum in contexts.strata() if stratum.log_probability > -math.inf]
    n_drawn = sum(not isinstance(stratum.content, Prefixes) for stratum in strata)
    if n_drawn and draws < 2 * n_drawn:
        raise UsageError(
            f"expected at least two draws for each of the {n_drawn} lengths of contexts that are too many to list, "
            f"found {draws} draws in all"
        )
    if not strata:
        bos = torch.full((1, 1), language.vocabulary.bos)
        zero = np.zeros(len(model.next_log_probs(bos)))  # [S]
        return Cost(zero, zero, zero, 0.0, zero, 0.0, zero + math.nan, zero + math.nan, True)
    probability = math.fsum(math.exp(stratum.log_probability) for stratum in strata)
    if probability == 0:
        most = max(stratum.log_probability for stratum in strata)
        raise UsageError(
            f"expected contexts whose probability a float can hold, found at most e^{most:.0f}: choose fewer examples"
        )
    each = draws // max(n_drawn, 1)
    parts = [_part(language, model, contexts.never, stratum, each, rng) for stratum in strata]
    value = np.sum([part.value for part in parts], axis=0)
    half = _half_width(np.array([part.error for part in parts]), each)
    own = model is language
    return Cost(
        value,
        np.maximum(value - half, 0.0) if own else value - half,  # of its own law no term is negative
        value + half,
        probability,
        probability * np.max([part.largest for part in parts], axis=0),
        probability * contexts.largest_gap() if own else math.inf,
        np.sum([part.ties for part in parts], axis=0) / probability,
        np.sum([part.no_second for part in parts], axis=0) / probability,
        n_drawn == 0,
    )


@dataclass(frozen=True, eq=False)
class _Part:
    """What one stratum adds, each [S]; `error` is the standard error of its value, 0 where it was summed."""

    value: np.ndarray
    error: np.ndarray
    largest: np.ndarray
    ties: np.ndarray
    no_second: np.ndarray


def _part(
    language: Language,
    model: LanguageModel,
    never: Sequence[int],
    stratum: Stratum,
    draws: int,
    rng: np.random.Generator,
) -> _Part:
    content = stratum.content
    if isinstance(content, Prefixes):
        symbols, weights = content.symbols, content.log_probs.exp().numpy()
    else:
        symbols = content(draws, rng)
        weights = np.full(draws, math.exp(stratum.log_probability) / draws)
    bos = torch.full((len(symbols), 1), language.vocabulary.bos)
    gap, tied, without = _gaps(language, model, never, torch.cat([bos, symbols], 1))
    value = gap @ weights
    listed = isinstance(content, Prefixes)
    error = np.zeros_like(value) if listed else gap.std(1, ddof=1) * weights[0] * math.sqrt(draws)
    return _Part(value, error, gap.max(1), tied @ weights, without @ weights)


def _gaps(
    language: Language, model: LanguageModel, never: Sequence[int], tokens: Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Contexts [N, T], BOS first → (p_a − p_b)(ln q_a − ln q_b); whether a and b are tied; whether there is no b: [S, N]."""
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for batch in tokens.split(max(1, CHUNK_TOKENS // tokens.shape[1])):
        places, best = _two_likeliest(model.next_log_probs(batch)[:, :, -1].double(), never)
        truth = language.next_log_probs(batch)[:, :, -1].exp().expand(len(places), -1, -1)
        p = truth.gather(-1, places)
        difference = best[..., 0] - best[..., 1]
        exchanged = best.isfinite().all(-1)
        gap = torch.where(exchanged, (p[..., 0] - p[..., 1]) * difference, 0.0)
        parts.append((gap, exchanged & (difference.abs() <= TIE), ~exchanged))
    gaps, tied, without = (torch.cat(part, 1).numpy() for part in zip(*parts, strict=True))
    return gaps, tied, without


def _two_likeliest(log_probs: Tensor, never: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Laws [..., V] → places and log-probabilities [..., 2] of the two likeliest outputs that may be exchanged."""
    if log_probs.shape[-1] - len({*never}) < 2:
        raise UsageError(
            f"expected at least two outputs to exchange, found {log_probs.shape[-1]} of which {len({*never})} may not be "
            "(EOS, and for prompts the delimiter); choose a language with more symbols"
        )
    allowed = log_probs.clone()
    allowed[..., list(never)] = -math.inf
    ranks = (allowed / TIE).round()  # rounding must not choose among equals
    places = ranks.sort(stable=True, dim=-1, descending=True).indices[..., :2]
    return places, allowed.gather(-1, places)


def _half_width(errors: np.ndarray, draws: int) -> np.ndarray:
    """Standard errors [strata, S] of means over `draws` draws each → half width [S] of a 95 % interval for their sum."""
    largest = errors.max(0)
    shares = (errors / np.where(largest > 0, largest, 1.0)) ** 2  # relative: squares of rare strata would underflow
    total = shares.sum(0)
    freedom = (draws - 1) * total**2 / np.where(total > 0, (shares**2).sum(0), 1.0)
    quantile = stdtrit(np.maximum(freedom, 1.0), 0.975)  # Welch and Satterthwaite
    return np.asarray(quantile * largest * np.sqrt(total))


__all__ = ["Cost", "Exchanged", "exchange", "exchange_cost"]
