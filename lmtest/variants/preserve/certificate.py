"""The function certificate: how far two models' next-symbol laws are apart anywhere on the support, and on impossible prompts."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from lmtest.errors import UsageError
from lmtest.languages.base import Language, Row
from lmtest.models.contract import LanguageModel
from lmtest.models.stack import StackedModel
from lmtest.seeds import generator

CHUNK_TOKENS = 65_536
EXACT_TOKENS = 1_000_000
"""Of the whole support: beyond, draws stand for it."""

LONGEST_PROMPT = 8

Stacked = TypeVar("Stacked", bound=StackedModel)


@dataclass(frozen=True)
class FunctionCertificate:
    """The largest |Δ ln p| between two models, nats, for each of S seeds: over every position of strings and of prompts."""

    ids: np.ndarray
    """Strings of the language: all of them where `exact`, else those drawn."""
    ood: np.ndarray
    """Prompts that no string starts with; NaN where there are none."""
    exact: bool


def function_certificate(
    language: Language,
    before: LanguageModel,
    after: LanguageModel,
    prompts: Sequence[Row],
    draws: int,
    rng: np.random.Generator,
) -> FunctionCertificate:
    """Compares all next-symbol laws of two models on the language's strings, and on `prompts` (those out of distribution).

    The whole support where it is small, else `draws` fresh strings. In the models' own precision: pass `double(model)` to
    tell a construction's error from rounding. Raises UsageError where the models have not the same number of seeds.
    """
    support = language.support()
    exact = support is not None and sum(len(row) + 1 for row in support.rows) <= EXACT_TOKENS
    rows = support.rows if support is not None and exact else language.sample_ids(draws, rng)
    return FunctionCertificate(
        _largest(language, before, after, rows), _largest(language, before, after, prompts), exact
    )


def impossible_prompts(language: Language, count: int) -> list[Row]:
    """Up to so many strings of up to 8 symbols that no string of the language begins with, drawn evenly by length and symbol."""
    rng = generator(0, "impossible prompts")
    longest = int(min(LONGEST_PROMPT, language.longest))
    rows = [tuple(rng.integers(len(language.symbols), size=1 + i % longest).tolist()) for i in range(4 * count)]
    dead = torch.isneginf(torch.as_tensor(language.prefix_log_prob_ids(rows)))
    return [row for row, is_dead in zip(rows, dead.tolist(), strict=True) if is_dead][:count]


def double(model: Stacked) -> Stacked:
    """A copy of a model in float64; to train it leaves the model as it is."""
    made = copy.copy(model)
    made.parameters = {
        name: value.detach().to(torch.float64, copy=True).requires_grad_() for name, value in model.parameters.items()
    }
    return made


def _largest(language: Language, before: LanguageModel, after: LanguageModel, rows: Sequence[Row]) -> np.ndarray:
    """The largest |Δ ln p| [S] over all positions of rows of token ids."""
    distinct = sorted(dict.fromkeys(rows), key=len) or [()]  # strings of one length share a chunk
    step = max(1, CHUNK_TOKENS // (len(distinct[-1]) + 1))
    found = []
    for i in range(0, len(distinct), step):
        tokens, lengths = language.vocabulary.pack(distinct[i : i + step])
        counted = torch.arange(tokens.shape[1]) <= lengths[:, None]
        found.append(_difference(before.next_log_probs(tokens), after.next_log_probs(tokens))[:, counted].amax(-1))
    largest = torch.stack(found).amax(0).numpy()
    return np.asarray(largest if rows else np.full_like(largest, np.nan))


def _difference(one: Tensor, two: Tensor) -> Tensor:
    """Laws [S, N, T, V] of two models → the largest |Δ ln p| of each [S, N, T]; none between two zeros of probability."""
    if one.shape != two.shape:
        raise UsageError(
            f"expected two models of the same seeds, found {len(one)} and {len(two)} of them; derive one from the other"
        )
    return torch.where(one == two, 0.0, (one - two).abs()).amax(-1)
