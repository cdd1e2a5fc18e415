"""Can demonstrations tell the concepts apart? The condition of the paper's theorem 1, in numbers.

Xie et al., ICLR 2022 (arXiv 2111.02080), condition 1: in-context learning of concept θ* is asymptotically optimal where for
every other concept θ an example says more (Σ_j KL_j(θ*‖θ)) than delimiters and prompt starts, which are less likely in a
document than in a prompt, may mislead (ε_start + ε_delim).
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lmtest.errors import UsageError
from lmtest.languages.hmm import Mixture, read, walk
from lmtest.seeds import generator

MOST_STRINGS = 5000
"""Inputs of an example that are listed, all of them; where there are more, some are drawn."""
DRAWS = 1000
"""Inputs that are drawn, for each concept and start property."""

COLUMNS = (
    *("theta_star", "theta", "start", "kl_sum", "half_width"),
    *("epsilon_start", "epsilon_delim", "margin", "holds"),
)


def distinguishability(mixture: Mixture, k: int, seed: int = 0) -> pd.DataFrame:
    """Condition 1 for examples of length k: rows for each ordered pair θ* ≠ θ; nats.

    `kl_sum` is Σ_{j ≤ k} E KL(p(O[j] | O[<j], prompt of θ*) ‖ p(O[j] | O[<j], θ)): under θ* the prompt's start (property
    fixed, entity uniform), under θ the start behind a delimiter (whose own entity is uniform). `half_width` is of a 95 %
    interval, 0 where inputs are listed. `start` is "worst" (the start property with the smallest `margin` = kl_sum −
    epsilon_start − epsilon_delim) or "mean" (over start properties). What is infinite stays infinite; where both sides are,
    the margin is NaN and the condition does not hold. Raises UsageError on k < 1.
    """
    if k < 1:
        raise UsageError(f"expected examples of at least 1 symbol, found k = {k}")
    n_concepts, _, _ = mixture.shape
    rows = []
    for star in range(n_concepts):
        starts = epsilon_start(mixture, star)
        others = [theta for theta in range(n_concepts) if theta != star]
        delimiters = epsilon_delim(mixture, star) if others else 0.0
        for theta, (sums, halves) in zip(others, kl_sums(mixture, star, others, k, seed), strict=True):
            with np.errstate(invalid="ignore"):  # inf − inf is NaN, and meant to be
                worst = int(np.nan_to_num(sums - starts - delimiters, nan=-math.inf).argmin())
            half = math.sqrt(float((halves**2).sum())) / len(sums) if np.isfinite(sums).all() else 0.0
            mean = float(sums.mean()), half, float(starts.mean())
            for start, found in (
                ("worst", (float(sums[worst]), float(halves[worst]), float(starts[worst]))),
                ("mean", mean),
            ):
                needed = found[2] + delimiters
                rows.append((star, theta, start, *found, delimiters, found[0] - needed, found[0] > needed))
    return pd.DataFrame(rows, columns=COLUMNS)


def epsilon_start(mixture: Mixture, star: int) -> np.ndarray:
    """ln(1 / c8) [S − 1], nats, one for each start property: c8 = min over entities of P(first state | θ*) / prompt's law."""
    _, entities, _ = mixture.shape
    with np.errstate(divide="ignore"):
        return np.asarray((-np.log(entities * _behind_delimiter(mixture, star)[:, 1:].numpy())).max(0))


def epsilon_delim(mixture: Mixture, star: int) -> float:
    """2 (ln c2 − ln c1) + ln c4 − ln c3, nats, with the tightest constants.

    c1 = min over states (other than the delimiter's) of P(delimiter next | state, θ*), c2 = max over states and θ ≠ θ* of the
    same; c3, c4 = least and largest mass of the delimiter in the start law of a concept.
    """
    moves = mixture.properties[:, 1:, 0]
    others = torch.arange(len(moves)) != star
    begins = mixture.start[:, :, 0].sum(-1)
    return 2 * _log_ratio(moves[others].max(), moves[star].min()) + _log_ratio(begins.max(), begins.min())


def kl_sums(mixture: Mixture, star: int, others: list[int], k: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each θ of `others`: Σ_j KL_j(θ*‖θ) by start property [S − 1], nats, and half-widths of 95 % intervals [S − 1]."""
    _, entities, properties = mixture.shape
    n_starts = properties - 1
    listed = mixture.n_symbols ** (k - 1) <= MOST_STRINGS
    if listed:
        every = list(itertools.product(range(mixture.n_symbols), repeat=k - 1))
        inputs = np.tile(np.array(every, dtype=np.int64), (n_starts, 1))
    else:
        inputs = _drawn_inputs(mixture, star, k, generator(seed, "distinguishability", star))
    first = torch.zeros(n_starts, 1, entities, properties, dtype=torch.float64)
    first[torch.arange(n_starts), 0, :, torch.arange(1, properties)] = 1 / entities
    symbols = torch.from_numpy(inputs)
    prompt = read(mixture.concept(star), symbols, first.repeat_interleave(len(inputs) // n_starts, 0))
    weights = prompt.log_mass[:, -1].exp() if listed else torch.full((len(inputs),), n_starts / len(inputs))
    results = []
    for theta in others:
        law = read(mixture.concept(theta), symbols, _behind_delimiter(mixture, theta)[None, None]).law
        terms = torch.where(weights > 0, _kl(prompt.law, law).sum(-1), 0.0).view(n_starts, -1)
        sums = (weights.view(n_starts, -1) * terms).sum(-1).numpy()
        # One draw that θ forbids is enough: an infinite sum is infinite beyond doubt.
        drawn = np.isfinite(sums) & (not listed)
        spread = torch.where(torch.from_numpy(drawn)[:, None], terms, 0.0).std(-1, correction=0).numpy()
        results.append((sums, 1.96 * spread / math.sqrt(terms.shape[1])))
    return results


def _drawn_inputs(mixture: Mixture, star: int, k: int, rng: np.random.Generator) -> np.ndarray:
    """DRAWS inputs behind each start property of θ*, [(S − 1) · DRAWS, k − 1]."""
    _, entities, properties = mixture.shape
    starts = np.arange(1, properties).repeat(DRAWS)
    paths = walk(mixture, np.full_like(starts, star), rng.integers(entities, size=len(starts)), starts, k - 1, rng)
    return np.asarray(mixture.memory.numpy()[paths])


def _behind_delimiter(mixture: Mixture, concept: int) -> Tensor:
    """Law of the state behind a delimiter whose entity is uniform [V, S]."""
    return mixture.entities.mean(0)[:, None] * mixture.properties[concept, 0]


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL of laws [..., M] → [...], nats; infinite where q has no law, for then it forbade what led there."""
    terms = torch.where(p > 0, p * (p.log() - q.log()), 0.0).sum(-1)
    return terms.nan_to_num(nan=math.inf, posinf=math.inf).clamp_min(0.0)


def _log_ratio(upper: Tensor, lower: Tensor) -> float:
    """ln(upper / lower), nats; 0 where they are equal, both 0 included: then nothing differs."""
    return 0.0 if upper == lower else float(upper.log() - lower.log())


__all__ = ["distinguishability", "epsilon_delim", "epsilon_start", "kl_sums"]
