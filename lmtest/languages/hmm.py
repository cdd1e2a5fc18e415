"""Hidden Markov models side by side: C concepts over the same symbols, read and drawn for thousands of strings at once.

A state is a pair (entity, property): two chains that move independently, and one memory that all concepts share says
which symbol a pair emits (the GINC process of Xie et al., ICLR 2022, arXiv 2111.02080, appendix F.1). A reading keeps the
law of the state given the concept and the prefix at sum 1, and the logarithm of the prefix's mass beside it: nothing
underflows, however long the string.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

DELIMITER = 0
"""The delimiter's symbol id, and the property that emits it whatever the entity."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """C concepts with V entities, S properties (0 is the delimiter's) and M symbols; all laws float64, rows sum to 1.

    Independent chains: P(v, s → w, r) = entities[v, w] · properties[c, s, r]. Emission is certain: memory[v, s].
    """

    weights: Tensor  # [C]
    start: Tensor  # [C, V, S]
    entities: Tensor  # [V, V]
    properties: Tensor  # [C, S, S]
    memory: Tensor  # [V, S] symbol ids
    n_symbols: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Concepts, entities, properties."""
        concepts, entities, properties = self.start.shape
        return concepts, entities, properties

    def move(self, states: Tensor) -> Tensor:
        """Masses of states [..., C, V, S] → those one step later."""
        return self.entities.mT @ (states @ self.properties)

    def emit(self, states: Tensor) -> Tensor:
        """Masses of states [..., C, V, S] → masses of the symbols that they emit [..., C, M]."""
        return states.flatten(-2) @ self.emissions[:-1].flatten(1).mT

    @cached_property
    def emissions(self) -> Tensor:
        """[M + 1, V, S]: 1 where a state emits the symbol; the last row is of no symbol at all, which no state emits."""
        symbols = torch.arange(self.n_symbols + 1).view(-1, 1, 1)
        return (self.memory == symbols).double()

    def concept(self, c: int) -> Mixture:
        """The mixture of concept c alone."""
        one = slice(c, c + 1)
        return Mixture(
            torch.ones(1, dtype=torch.float64),
            self.start[one],
            self.entities,
            self.properties[one],
            self.memory,
            self.n_symbols,
        )


@dataclass(frozen=True, eq=False)
class Reading:
    """What prefixes say: `joint` [N, T', C] ln P(concept, prefix), nats; `law` [N, T', M] P(next symbol | prefix).

    T' = T + 1 prefixes of each string, the empty one first, or 1: the whole string. On a dead prefix the law is NaN.
    """

    joint: Tensor
    law: Tensor

    @property
    def log_mass(self) -> Tensor:
        """ln P(prefix) [N, T'], nats; −inf where dead."""
        return self.joint.logsumexp(-1)

    @property
    def posterior(self) -> Tensor:
        """P(concept | prefix) [N, T', C]; NaN where dead."""
        return self.joint.softmax(-1)


def read(mixture: Mixture, symbols: Tensor, start: Tensor | None = None, every: bool = True) -> Reading:
    """Strings of symbol ids [N, T] → what each prefix says, or (`every` false) what the whole strings say alone.

    An id ≥ M is no symbol: the prefix is dead from there on. `start` [N or 1, C, V, S] replaces the start law. O(N·T·C·(V·S² +
    V²·S)) time, and memory for the result alone.
    """
    n, length = symbols.shape
    start = mixture.start[None] if start is None else start
    states = start.expand(n, -1, -1, -1)  # P(state | prefix, concept), before the next symbol is seen
    joint = mixture.weights.log().expand(n, -1)
    kept = [(joint, _mix(joint, mixture.emit(states)))] if every or not length else []
    seen = symbols.clamp(max=mixture.n_symbols)
    for t in range(length):
        states = states * mixture.emissions[seen[:, t], None]
        total = states.sum((-1, -2))  # [N, C]
        joint = joint + total.log()
        states = mixture.move(states / torch.where(total > 0, total, 1.0)[..., None, None])
        if every or t + 1 == length:
            kept.append((joint, _mix(joint, mixture.emit(states))))
    return Reading(torch.stack([j for j, _ in kept], 1), torch.stack([law for _, law in kept], 1))


def _mix(joint: Tensor, laws: Tensor) -> Tensor:
    """ln P(concept, prefix) [N, C] and laws given the concept [N, C, M] → the mixture's law [N, M]."""
    return (joint.softmax(-1)[..., None] * laws).sum(-2)


def walk(
    mixture: Mixture,
    concepts: np.ndarray,
    entities: np.ndarray,
    properties: np.ndarray,
    length: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Paths [N, length] of entities and of properties under `concepts` [N], from given first states [N] each."""
    moves = mixture.entities.cumsum(-1).numpy(), mixture.properties.cumsum(-1).numpy()
    paths = np.empty((2, len(concepts), length), dtype=np.int64)
    paths[:, :, 0] = entities, properties
    for t in range(1, length):
        v, s = paths[:, :, t - 1]
        for chain, cumulative in enumerate((moves[0][v], moves[1][concepts, s])):
            paths[chain, :, t] = pick(cumulative, rng)
    return paths[0], paths[1]


def draw(mixture: Mixture, n: int, length: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """n independent strings as symbol ids [n, length], and the concept [n] of each."""
    concepts = pick(np.tile(mixture.weights.cumsum(0).numpy(), (n, 1)), rng)
    _, _, n_properties = mixture.shape
    first = pick(mixture.start.flatten(1).cumsum(1).numpy()[concepts], rng)
    entities, properties = walk(mixture, concepts, first // n_properties, first % n_properties, length, rng)
    return mixture.memory.numpy()[entities, properties], concepts


def pick(cumulative: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One choice [N] from each row of cumulative laws [N, K]; never one of probability 0."""
    places = rng.random((len(cumulative), 1)) * cumulative[:, -1:]
    chosen: np.ndarray = (places >= cumulative).sum(-1)
    return chosen.clip(max=cumulative.shape[1] - 1)


def evenly(concepts: int) -> Tensor:
    """The uniform law over concepts [C]."""
    return torch.full((concepts,), 1 / concepts, dtype=torch.float64)


__all__ = ["DELIMITER", "Mixture", "Reading", "draw", "evenly", "pick", "read", "walk"]
