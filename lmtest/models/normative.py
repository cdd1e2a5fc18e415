"""A normative predictor in the manner of Solomonoff: explanations are lists of conditionals, weighed by ID data alone.

p(x_t | x_<t, D) = Σ_i α(p_i | D) · p_i(x_t | x_<t) with α(p_i | D) ∝ 2^−bits(p_i) · p_i(D): arXiv 2409.13728, section 5,
which proposes it over all programs and gives no algorithm. Here the p_i are the class of `lmtest.models.hypotheses`, with
its code lengths, and D is what STRINGS strings of the language say on average.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lmtest.errors import UsageError
from lmtest.languages.base import Language, Row
from lmtest.languages.vocabulary import Vocabulary
from lmtest.models.automata import MOST_SYMBOLS, Automata
from lmtest.models.hypotheses import candidates, code_lengths, hypotheses, most_rules
from lmtest.seeds import generator

STRINGS = 512
"""How many strings of the language the posterior has seen: the published training size of L4."""
DRAWS = 2000
"""Strings drawn for E ln p_h where the support cannot be listed."""
LEAST_WEIGHT = 1e-12
"""Explanations with no more posterior weight are left out, and the others' weights renormalised."""
CHUNK = 4_000_000
"""Numbers that are worked on at once."""

_COUNTS = np.array([bin(code).count("1") for code in range(256)])
_LOG_COUNTS = np.log(np.maximum(_COUNTS, 1))


@dataclass(frozen=True)
class Explanation:
    """A hypothesis: its rules as text, cheapest first, its code length in bits, and its posterior weight."""

    rules: tuple[str, ...]
    bits: float
    weight: float


class Normative:
    """The posterior mixture of the explanations' conditionals; the weights are fixed, whatever the prompt.

    After any prefix, an explanation holds every token (symbol or EOS) for equally likely that keeps all rules of its list
    which the prefix has not broken beyond repair: a symbol keeps a rule that can still hold after it, EOS one that holds
    now. Where no token keeps all, rules are dropped from the end of the list, the costliest first, until one does. So it
    is defined on impossible prompts. Each rule is judged alone: that two of them can no longer both hold is not seen.
    """

    def __init__(
        self, vocabulary: Vocabulary, explanations: Sequence[Explanation], automata: Automata, lists: np.ndarray
    ) -> None:
        """`lists` [explanations, places]: for each explanation the rules of `automata`, R for an empty place."""
        self.vocabulary = vocabulary
        self.explanations = list(explanations)
        self._automata, self._lists = automata, lists
        self._weights = np.array([explanation.weight for explanation in explanations])
        size = vocabulary.n_outputs
        kept = (np.arange(1 << size)[:, None] >> np.arange(size)) & 1
        self._laws = kept / np.maximum(kept.sum(1, keepdims=True), 1)  # [codes, V]

    @classmethod
    def fit(cls, language: Language) -> Normative:
        """The predictor that has seen STRINGS strings of the language: log-likelihood STRINGS · E ln p_h(x), in nats.

        The expectation is over the whole support where that can be listed, else over DRAWS fixed draws. A hypothesis that
        gives one of these strings probability 0 is out. Raises UsageError on more than MOST_SYMBOLS symbols.
        """
        if (size := len(language.symbols)) > MOST_SYMBOLS:
            raise UsageError(
                f"expected a language of at most {MOST_SYMBOLS} symbols, found {size}: its class is too large"
            )
        rows, masses = _data(language)
        tokens, lengths = language.vocabulary.pack(rows)
        # Only rules that every string keeps can be part of a hypothesis that survives; "non-empty" has place 0.
        non_empty, *others = candidates(language.symbols)
        survivors = [non_empty, *(c for c in others if bool(c.rule.holds(tokens[:, 1:], lengths).all()))]
        lists = hypotheses(len(survivors) - 1, most_rules(size))
        if not bool((lengths > 0).all()):
            lists = lists[lists[:, 0] > 0]
        automata = Automata([c.rule for c in survivors], size)
        codes, weights = _positions(automata, tokens.numpy(), lengths.numpy(), masses)
        bits = code_lengths(lists, [c.bits for c in survivors])
        log_weights = STRINGS * _log_likelihoods(codes, weights, lists, size) - bits * math.log(2)
        posterior = np.exp(log_weights - log_weights.max())
        posterior /= posterior.sum()
        best = np.argsort(-posterior, kind="stable")
        best = best[posterior[best] > LEAST_WEIGHT]
        posterior /= posterior[best].sum()
        explanations = [
            Explanation(
                tuple(survivors[r].text for r in places if r < len(survivors)), float(bits[i]), float(posterior[i])
            )
            for i, places in zip(best.tolist(), lists[best].tolist(), strict=True)
        ]
        return cls(language.vocabulary, explanations, automata, lists[best])

    def next_log_probs(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [N, T], BOS first → [1, N, T, V] float64, nats; EOS for certain from an EOS or PAD on."""
        array = tokens.cpu().numpy()
        codes = self._automata.codes(array)
        distinct, which = _unique(codes.reshape(-1, codes.shape[-1]))
        laws = self._law(distinct)[which].reshape(*array.shape, -1)
        ended = (array[:, 1:] >= self.vocabulary.eos).cumsum(1) > 0
        laws[:, 1:][ended] = np.eye(self.vocabulary.n_outputs)[self.vocabulary.eos]
        return torch.from_numpy(laws).log().to(tokens.device)[None]

    def _law(self, codes: np.ndarray) -> np.ndarray:
        """Codes [N, R] → the mixture's law [N, V].

        The sum is over probabilities, not logarithms: none is below LEAST_WEIGHT / V.
        """
        n_codes = len(self._laws)
        laws = np.empty((len(codes), self.vocabulary.n_outputs))
        step = max(1, CHUNK // max(len(self.explanations), n_codes * laws.shape[1]))
        for i in range(0, len(codes), step):
            kept = _kept(codes[i : i + step], self._lists, self.vocabulary.n_outputs)  # [n, explanations]
            places = kept + np.arange(len(kept))[:, None] * n_codes
            weights = np.broadcast_to(self._weights, kept.shape)
            mass = np.bincount(places.ravel(), weights.ravel(), len(kept) * n_codes).reshape(-1, n_codes)
            # Not a matrix product: equal probabilities stay equal to the last bit, and greedy decoding sees the tie.
            laws[i : i + step] = (mass[:, :, None] * self._laws).sum(1)
        return laws


def explain(normative: Normative, top: int = 5) -> list[dict[str, Any]]:
    """The `top` likeliest explanations as plain facts: rules, bits of code, posterior weight."""
    return [{"rules": list(e.rules), "bits": e.bits, "weight": e.weight} for e in normative.explanations[:top]]


def _kept(codes: np.ndarray, lists: np.ndarray, n_outputs: int) -> np.ndarray:
    """Codes [N, R], lists [H, places] → the tokens that each list allows after each prefix, as int64 codes [N, H]."""
    everything = (1 << n_outputs) - 1
    codes = np.where(codes == 0, everything, codes)  # a broken rule asks for nothing any more
    codes = np.concatenate([codes, np.full((len(codes), 1), everything)], 1)
    kept = np.full((len(codes), len(lists)), everything)
    going = np.ones(kept.shape, dtype=bool)
    for place in lists.T:
        narrowed = kept & codes[:, place]
        going &= narrowed > 0  # where no token is left, this rule and all behind it are dropped
        kept = np.where(going, narrowed, kept)
    return kept


def _data(language: Language) -> tuple[list[Row], np.ndarray]:
    """Strings of the language and their probabilities, or fixed draws and equal ones."""
    if (support := language.support()) is not None:
        masses = support.log_probs.exp().numpy()
        return [row for row, mass in zip(support.rows, masses, strict=True) if mass > 0], masses[masses > 0]
    rows = language.sample_ids(DRAWS, generator(0, "normative"))
    return rows, np.full(DRAWS, 1 / DRAWS)


def _positions(
    automata: Automata, tokens: np.ndarray, lengths: np.ndarray, masses: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The positions of strings, alike ones merged: codes uint8 [P, R], and how many a string has on average [P]."""
    step = max(1, CHUNK // (tokens.shape[1] * len(automata.rules)))
    parts, weights = [], []
    for i in range(0, len(tokens), step):
        inside = np.arange(tokens.shape[1]) <= lengths[i : i + step, None]
        part, which = _unique(automata.codes(tokens[i : i + step])[inside])
        each = np.repeat(masses[i : i + step], lengths[i : i + step] + 1)
        parts.append(part)
        weights.append(np.bincount(which, each, len(part)))
    codes, which = _unique(np.concatenate(parts))
    return codes, np.bincount(which, np.concatenate(weights), len(codes))


def _unique(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of bytes [N, R] → distinct rows, and which of them each row is [N]."""
    distinct, which = np.unique(codes, axis=0, return_inverse=True)
    return distinct, which.reshape(-1)


def _log_likelihoods(codes: np.ndarray, weights: np.ndarray, lists: np.ndarray, n_symbols: int) -> np.ndarray:
    """E ln p_h(x) of each hypothesis [H], in nats: on strings that keep all rules, −Σ ln(number of tokens kept)."""
    scores = []
    step = max(1, CHUNK // len(codes))
    for i in range(0, len(lists), step):
        kept = _kept(codes, lists[i : i + step], n_symbols + 1)
        scores.append(-(weights @ _LOG_COUNTS[kept]))
    return np.concatenate(scores)
