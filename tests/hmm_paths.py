"""The judge of hidden Markov mixtures: every concept and every path of states, one at a time, in plain floats."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch

from lmtest.languages.hmm import Mixture

Row = tuple[int, ...]


def paths(mixture: Mixture, length: int) -> Iterator[tuple[int, Row, float]]:
    """Concept, symbols and probability of every path of `length` ≥ 1 states that has mass."""
    weights, start = mixture.weights.tolist(), mixture.start.tolist()
    entities, properties, memory = mixture.entities.tolist(), mixture.properties.tolist(), mixture.memory.tolist()
    concepts, n_entities, n_properties = mixture.shape
    states = list(itertools.product(range(n_entities), range(n_properties)))
    for c in range(concepts):
        for path in itertools.product(states, repeat=length):
            p = weights[c] * start[c][path[0][0]][path[0][1]]
            for (v, s), (w, r) in itertools.pairwise(path):
                p *= entities[v][w] * properties[c][s][r]
            if p > 0:
                yield c, tuple(memory[v][s] for v, s in path), p


def masses(mixture: Mixture, length: int) -> list[dict[Row, float]]:
    """For each concept the probability of concept and string, for all strings of `length` that it can have."""
    found: list[defaultdict[Row, list[float]]] = [defaultdict(list) for _ in mixture.weights]
    if length == 0:
        return [{(): float(w)} for w in mixture.weights]
    for c, symbols, p in paths(mixture, length):
        found[c][symbols].append(p)
    return [{symbols: math.fsum(parts) for symbols, parts in each.items()} for each in found]


def total(each: list[dict[Row, float]]) -> dict[Row, float]:
    """The same, summed over concepts."""
    return {row: math.fsum(one.get(row, 0.0) for one in each) for row in sorted(set().union(*each))}


def mixture_at_random(
    seed: int, concepts: int, entities: int, properties: int, n_symbols: int, zeros: float = 0.0
) -> Mixture:
    """Laws from a Dirichlet, a share of their entries zero; unequal weights; symbols shared by several states."""
    rng = np.random.default_rng(seed)

    def laws(*shape: int) -> torch.Tensor:
        x = rng.dirichlet(np.ones(shape[-1]), shape[:-1]) if shape[:-1] else rng.dirichlet(np.ones(shape[-1]))
        drop = rng.random(shape) < zeros
        drop[..., 0] = False
        x = np.where(drop, 0.0, x)
        return torch.from_numpy(x / x.sum(-1, keepdims=True))

    memory = rng.integers(1, n_symbols, (entities, properties))
    memory[:, 0] = 0
    return Mixture(
        laws(concepts),
        laws(concepts, entities * properties).reshape(concepts, entities, properties),
        laws(entities, entities),
        laws(concepts, properties, properties),
        torch.from_numpy(memory),
        n_symbols,
    )
