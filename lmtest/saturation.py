"""Floor 4: certificates. KL(language ‖ model), a sum of per-position KLs between next-symbol laws, never negative."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from scipy.special import stdtrit
from torch import Tensor

from lmtest.languages.base import Language
from lmtest.models.contract import LanguageModel
from lmtest.validation import Table

CHUNK_TOKENS = 65_536
EXACT_TOKENS = 1_000_000
"""Of the whole support: beyond, fresh draws tell as much for less."""


class SaturationConfig(Table):
    """The `[saturation]` table of a study."""

    epsilon: float = Field(0.01, ge=1e-15, le=1e15)
    per: Literal["string", "token"] = "string"
    """What ε counts: nats per string, or (for long documents) per token."""
    draws: int = Field(2000, ge=2)
    """Fresh strings for the certificate where the language cannot be summed exactly."""
    required: float = Field(0.9, ge=0, le=1)
    """Share of the seeds asked for that must be saturated before a claim can be decided."""


@dataclass(frozen=True)
class Certificate:
    """KL of S seeds in nats per string, with 95 % interval ends (equal to it where the sum is exact)."""

    kl: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    tokens: float
    """Expected tokens of a string, EOS counted: the divisor that makes nats per token."""
    exact: bool

    def saturated(self, config: SaturationConfig) -> np.ndarray:
        """Whether the upper end is below ε."""
        return np.asarray(self.upper / (self.tokens if config.per == "token" else 1.0) < config.epsilon)

    def plus(self, kl: np.ndarray, lower: np.ndarray, upper: np.ndarray, exact: bool) -> Certificate:
        """The certificate of a model whose KL is larger by so much, known within [lower, upper] by draws of its own."""
        return replace(
            self,
            kl=np.maximum(self.kl + kl, 0.0),
            lower=np.maximum(self.lower + lower, 0.0),
            upper=self.upper + upper,
            exact=self.exact and exact,
        )


def certify(language: Language, model: LanguageModel, draws: int, rng: np.random.Generator) -> Certificate:
    """KL(language ‖ model): over the whole support where that is small, else the mean over `draws` fresh strings."""
    support = language.support()
    exact = support is not None and sum(len(row) + 1 for row in support.rows) <= EXACT_TOKENS
    if support is not None and exact:
        per_string = string_kl(language, model, support.rows)  # [S, N]
        weights = support.log_probs.exp()
        kl = torch.where(weights > 0, per_string * weights, 0.0).sum(-1).numpy()
        lower = upper = kl
    else:
        sample = string_kl(language, model, language.sample_ids(draws, rng)).numpy()
        kl = sample.mean(-1)
        with np.errstate(invalid="ignore"):
            half = stdtrit(draws - 1, 0.975) * sample.std(-1, ddof=1) / math.sqrt(draws)
        half = np.where(np.isfinite(half), half, 0.0)  # an infinite KL is infinite beyond doubt
        lower, upper = np.maximum(kl - half, 0.0), kl + half
    return Certificate(kl, lower, upper, language.mean_length() + 1, exact)


def added_kl(
    language: Language, before: LanguageModel, after: LanguageModel, draws: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """KL(language ‖ after) − KL(language ‖ before) [S] in nats per string, with 95 % interval ends, paired by string."""
    support = language.support()
    if support is not None and sum(len(row) + 1 for row in support.rows) <= EXACT_TOKENS:
        difference = string_kl(language, after, support.rows) - string_kl(language, before, support.rows)
        value = (difference * support.log_probs.exp()).sum(-1).numpy()
        return value, value, value
    rows = language.sample_ids(draws, rng)
    sample = (string_kl(language, after, rows) - string_kl(language, before, rows)).numpy()
    half = stdtrit(draws - 1, 0.975) * sample.std(-1, ddof=1) / math.sqrt(draws)
    return sample.mean(-1), sample.mean(-1) - half, sample.mean(-1) + half


def string_kl(language: Language, model: LanguageModel, rows: Sequence[tuple[int, ...]]) -> Tensor:
    """Rows of token ids → [S, N] float64: Σ over a string's positions of KL(next-symbol law ‖ model's), in nats.

    A model may have one outcome more than the language, for what it gives to no symbol: that counts as loss.
    """
    distinct = sorted(dict.fromkeys(rows), key=len)  # strings of one length share a chunk
    parts = []
    longest = max(map(len, distinct)) + 1
    step = max(1, CHUNK_TOKENS // longest)
    for i in range(0, len(distinct), step):
        tokens, lengths = language.vocabulary.pack(distinct[i : i + step])
        truth = language.next_log_probs(tokens)  # [1, N, T, V]
        # Normalised once more in float64: whatever the model's precision, a KL cannot be negative.
        guess = model.next_log_probs(tokens).double().log_softmax(-1)[..., : truth.shape[-1]]
        terms = torch.where(truth > -math.inf, truth.exp() * (truth - guess), 0.0).sum(-1).clamp_min(0.0)
        counted = torch.arange(tokens.shape[1]) <= lengths[:, None]
        parts.append(torch.where(counted, terms, 0.0).sum(-1))
    index = {row: i for i, row in enumerate(distinct)}
    return torch.cat(parts, 1)[:, [index[row] for row in rows]]
