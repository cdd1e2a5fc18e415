"""Flatness: how fast does the exact loss rise around a model, and what has that to do with how its weights are written?

Liu et al., ICML 2023 (arXiv 2210.14199), say that among models of equal loss the one with the smaller Hessian trace transfers
better, and estimate it with Gaussian probes on minibatches. Here the loss is that of the whole support. Its Gauss–Newton
trace is exact, what the Hessian's trace has beyond that is probed alone (it goes to 0 with the excess loss, and so does its
error), and the plain estimate stands beside the sum as a check of it.

A trace depends on how a function is written: a ReLU unit whose weights are multiplied by α going in and divided by α going
out computes the same, and its part of the trace changes by α^±2 (Dinh et al. 2017). The relative sharpness Tr DGD,
D = diag θ, does not: any rescaling θ_i → d_i θ_i divides the gradient by what it multiplies θ_i with. Half of it times σ² is
what the loss rises by, in nats per string, when every weight is multiplied by 1 + σ·noise of its own (adaptive sharpness:
Kwon et al. 2021; averaged: Andriushchenko et al. 2023). A weight that is 0 has no part in it, so that padding has none.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from scipy.special import stdtrit
from torch import Tensor

from lmtest.errors import UsageError
from lmtest.evaluators.contract import Evaluated
from lmtest.evaluators.curvature import (
    Law,
    Prefixes,
    gauss_newton,
    hutchinson,
    live_prefixes,
    product,
    string_batches,
    support_batches,
    top_eigenvalue,
)
from lmtest.evaluators.evaluator import Size
from lmtest.languages.base import Language
from lmtest.models.contract import LanguageModel
from lmtest.models.stack import StackedModel
from lmtest.models.transformer import Transformer
from lmtest.validation import Table
from lmtest.variants.preserve.certificate import double

NAME = "flatness"
PROBED = ("hessian_trace", "trace_residual", "hutchinson_trace")
"""Estimates from probes, with 95 % intervals; the other measures are known exactly, or to a residual."""
EXACT = (
    "gn_trace",
    "relative_sharpness",
    "top_eigenvalue",
    "gn_top_eigenvalue",
    "parameter_norm",
    "effective_rank",
)
TYPES = {
    "seed": "int64",
    "measure": "str",
    "value": "float64",
    "lower": "float64",
    "upper": "float64",
    "count": "int64",
}
MOST_TOKENS = 5_000_000
"""That are differentiated for one exact trace: minutes for a small model on a CPU."""


class FlatnessConfig(Table):
    """The `[evaluators.flatness]` table of a study."""

    probes: int = Field(32, ge=2)
    """Vectors that Hessian traces are estimated with."""
    law: Law = "rademacher"
    """Of the probes; published: gaussian."""

    def evaluator(self, language: Language) -> Flatness:
        """Raises UsageError where the language's strings cannot be listed, or have too many prefixes."""
        return Flatness(language, self)


@dataclass(frozen=True)
class Flatness:
    """The evaluator for one language; reference models have no parameters, and no rows.

    Raises UsageError where the language's strings cannot be listed, or have too many prefixes.
    """

    language: Language
    config: FlatnessConfig

    name = NAME
    last_probe_is_all = False

    def __post_init__(self) -> None:
        _check(self.language, self.prefixes)

    @cached_property
    def prefixes(self) -> Prefixes:
        return live_prefixes(self.language)

    @property
    def longest(self) -> int:
        return self.prefixes.tokens.shape[1] - 1

    def measured(self) -> Evaluated:
        """What there will be a value of; the effective rank for transformers alone."""
        return Evaluated(
            {*((m, "support", "exact") for m in EXACT), *((m, "support", "probes") for m in PROBED)}, set()
        )

    def sizes(self) -> dict[str, Size]:
        return {}

    def probed_at(self, steps: int, every: int) -> Collection[int]:
        return ()

    def probe(self, model: LanguageModel, seeds: Sequence[int], seed: int) -> list[dict[str, Any]]:
        return []

    def evaluate(self, model: LanguageModel, seeds: Sequence[int], seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Measurements, a row a seed and measure; `seed` is of the probes."""
        if isinstance(model, StackedModel):
            table = flatness(self.language, model, self.config.probes, seed, self.config.law)
        else:
            table = pd.DataFrame(columns=list(TYPES)).astype(TYPES)
        decoding = np.where(table["measure"].isin(PROBED), "probes", "exact")
        found = table.assign(evaluator=NAME, prompt_set="support", decoding=decoding, chance=math.nan)
        return found.astype({"evaluator": "str", "prompt_set": "str", "decoding": "str"}), pd.DataFrame()


def flatness(language: Language, model: StackedModel, probes: int, seed: int, law: Law = "rademacher") -> pd.DataFrame:
    """Curvature of the exact loss around each seed, nats per string: rows (seed, measure, value, lower, upper, count).

    `gn_trace`, `relative_sharpness`: Tr G and Tr DGD, exact; the count is of prefixes. `trace_residual`: Tr (H − G) from
    `probes`, with a 95 % interval; `hessian_trace`: the sum of the two; `hutchinson_trace`: Tr H from the probes alone.
    `top_eigenvalue`, `gn_top_eigenvalue`: of H and of G, with an eigenvalue within lower and upper; the count is of products.
    `parameter_norm`: Euclidean. `effective_rank`: of what the output layer reads at the prefixes, each weighted by its
    probability; NaN with count 0 where the architecture has no such thing. Raises UsageError where the strings cannot be
    listed, have too many prefixes, or on fewer than 2 probes.
    """
    if probes < 2:
        raise UsageError(f"flatness: expected at least 2 probes, for one has no standard error; found {probes}")
    prefixes = live_prefixes(language)
    _check(language, prefixes)
    model = double(model)  # in float32 a unit at its kink may fall on either side, and models of one function differ
    batches, n = support_batches(model, language), len(prefixes.lengths)
    trace, relative = gauss_newton(model, prefixes)
    hessian, residual, gn = (product(model, batches, kind) for kind in ("hessian", "residual", "gauss_newton"))
    beyond = _interval(hutchinson(residual, model, probes, seed, law))
    found = {
        "gn_trace": (*_exactly(trace), n),
        "hessian_trace": (*(trace.numpy() + end for end in beyond), probes),
        "trace_residual": (*beyond, probes),
        "hutchinson_trace": (*_interval(hutchinson(hessian, model, probes, seed, law)), probes),
        "relative_sharpness": (*_exactly(relative), n),
    }
    for measure, times in (("top_eigenvalue", hessian), ("gn_top_eigenvalue", gn)):
        value, distance, products = top_eigenvalue(times, model, seed)
        found[measure] = (*(end.numpy() for end in (value, value - distance, value + distance)), products)
    squares = torch.stack([p.detach().double().flatten(1).square().sum(1).cpu() for p in model.parameters.values()])
    found["parameter_norm"] = (*_exactly(squares.sum(0).sqrt()), model.n_parameters)
    if isinstance(model, Transformer):
        found["effective_rank"] = (*_exactly(effective_rank(representation_moment(model, language))), n)
    else:
        found["effective_rank"] = (*_exactly(torch.full((len(model.seeds),), math.nan)), 0)
    rows = [
        {"seed": s, "measure": measure, "value": value[i], "lower": lower[i], "upper": upper[i], "count": count}
        for measure, (value, lower, upper, count) in found.items()
        for i, s in enumerate(model.seeds)
    ]
    return pd.DataFrame(rows).astype(TYPES)


def representation_moment(model: Transformer, language: Language) -> Tensor:
    """Σ over prefixes of P(prefix) h hᵀ [S, D, D] float64, h what the output layer reads behind the prefix."""
    total = torch.zeros((), dtype=torch.float64)
    with torch.no_grad():
        for batch in string_batches(model, language):
            # A prefix that strings share has its mass in their parts.
            h = (model.hidden(batch.tokens).double() * batch.weights.sum(-1, keepdim=True).sqrt()).flatten(1, 2)
            total = total + (h.mT @ h).cpu()
    return total


def effective_rank(moment: Tensor) -> Tensor:
    """Second moments AᵀA [S, D, D] → exp of the entropy of A's normalised singular values [S] (Roy & Vetterli 2007)."""
    singular = torch.linalg.eigvalsh(moment).clamp_min(0.0).sqrt()
    entropy: Tensor = torch.special.entr(singular / singular.sum(-1, keepdim=True)).sum(-1)
    return entropy.exp()


def _check(language: Language, prefixes: Prefixes) -> None:
    tokens = int((prefixes.lengths + 1).sum()) * (language.vocabulary.n_outputs - 1)
    if tokens > MOST_TOKENS:
        raise UsageError(
            f"flatness: the {len(prefixes.lengths)} prefixes of {language.name} would take {tokens} tokens to differentiate, "
            f"more than {MOST_TOKENS}: lower max_length in its file, or leave the table [evaluators.flatness] out"
        )


def _exactly(value: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return value.numpy(), value.numpy(), value.numpy()


def _interval(samples: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples [S, N] → their means with 95 % interval ends, each [S]."""
    n = samples.shape[1]
    mean = samples.mean(1).numpy()
    half = stdtrit(n - 1, 0.975) * samples.std(1).numpy() / math.sqrt(n)
    return mean, mean - half, mean + half
