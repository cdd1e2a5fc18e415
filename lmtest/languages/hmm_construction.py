"""What the file of an HMM mixture says, drawn into matrices: the GINC process, knob by knob (Xie et al., arXiv 2111.02080, F.1).

Every concept is drawn from a stream of its own, so that it does not depend on how many there are; the memory and the
entities' chain, which all concepts share, are too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from lmtest.errors import UsageError
from lmtest.languages.hmm import DELIMITER, Mixture, evenly
from lmtest.seeds import generator
from lmtest.validation import Table

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
MOST_SYMBOLS = 1 + len(LETTERS) ** 2
"""The delimiter, and all names of two letters."""
MOST_WORK = 10_000_000
"""Concepts · entities · properties · (entities + properties + vocabulary): multiplications to read one symbol."""
SAME = 1e-12
"""Concepts whose laws differ nowhere by more are identical."""
ATTEMPTS = 1000
"""Draws of one unseen concept before we say that there is none."""

Temperature = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class PermutationMixture(Table):
    """`{ law = "permutation_mixture", permutations = 100, temperature = 0.1 }`: Σ w_i P_i over uniform random permutations.

    w = softmax((u − 0.5)/temperature), u uniform on [0, 1]. The paper mixes 100; its released code mixes 10.
    """

    law: Literal["permutation_mixture"]
    permutations: int = Field(ge=1, le=1000)
    temperature: Temperature

    def draw(self, size: int, rng: np.random.Generator) -> np.ndarray:
        """A transition matrix [size, size]."""
        weights = _softmax(rng.random(self.permutations), self.temperature)
        images = rng.permuted(np.tile(np.arange(size), (self.permutations, 1)), axis=1)
        chain = np.zeros((size, size))
        np.add.at(chain, (np.arange(size), images), weights[:, None])
        return chain


class SmoothedPermutation(Table):
    """`{ law = "smoothed_permutation", smoothing = 0.6 }`: (1 − η)·P + η/size, P a uniform random permutation, η the smoothing.

    So η = 0 is the permutation itself, and η = 1 is uniform.
    """

    law: Literal["smoothed_permutation"]
    smoothing: float = Field(ge=0, le=1)

    def draw(self, size: int, rng: np.random.Generator) -> np.ndarray:
        """A transition matrix [size, size]."""
        return (1 - self.smoothing) * np.eye(size)[rng.permutation(size)] + self.smoothing / size


class UniformTransitions(Table):
    """`{ law = "uniform" }`: every state moves everywhere alike (the ablation "random tokens", its figure 10)."""

    law: Literal["uniform"]

    def draw(self, size: int, _: np.random.Generator) -> np.ndarray:
        """A transition matrix [size, size]."""
        return np.full((size, size), 1 / size)


class SharedDelimiter(Table):
    """`{ law = "shared", probability = 0.1 }`: d behind every state of every concept, and behind it a uniform property.

    So whether a symbol is the delimiter is a coin of its own, and tells nothing about the concept.
    """

    law: Literal["shared"]
    probability: float = Field(gt=0, lt=1)


class OwnDelimiter(Table):
    """`{ law = "own" }`: property 0 is the delimiter's, with transitions of each concept's own, as in the paper."""

    law: Literal["own"]


class SoftmaxStart(Table):
    """`{ law = "softmax", temperature = 10.0 }`: softmax((u − 0.5)/temperature) over a concept's states, u uniform on [0, 1]."""

    law: Literal["softmax"]
    temperature: Temperature


class DelimiterStart(Table):
    """`{ law = "delimiter" }`: the property as behind a delimiter, the entity uniform."""

    law: Literal["delimiter"]


Transitions = Annotated[PermutationMixture | SmoothedPermutation | UniformTransitions, Field(discriminator="law")]


class Construction(Table):
    """All that a mixture is drawn from; states are (entity, property), and property 0 emits the delimiter."""

    concepts: int = Field(ge=1, le=1000)
    properties: int = Field(ge=1, le=100)
    """With an own delimiter its property is one of them; a shared one comes on top."""
    entities: int = Field(ge=1, le=100)
    vocabulary: int = Field(ge=2, le=MOST_SYMBOLS)
    """Symbols, the delimiter counted."""
    memory: Literal["distinct", "uniform"]
    """Every (entity, property) its own symbol, in order; or symbols drawn uniformly, as in the paper."""
    delimiter: Annotated[SharedDelimiter | OwnDelimiter, Field(discriminator="law")]
    transitions: Transitions
    entity_transitions: Transitions
    entity_inertia: float = Field(ge=0, le=1)
    """Weight of the identity in the entities' chain: how often an entity stays for certain."""
    start: Annotated[SoftmaxStart | DelimiterStart, Field(discriminator="law")]
    seed: int = Field(ge=0)

    @model_validator(mode="after")
    def _fits(self) -> Construction:
        if self.emitting < 1:
            raise ValueError(
                f"expected properties ≥ 2 where one of them is the delimiter's own, found {self.properties}: "
                "raise properties, or share the delimiter"
            )
        if self.memory == "distinct" and self.entities * self.emitting > self.vocabulary - 1:
            raise ValueError(
                f"expected a symbol for each of {self.entities} entities × {self.emitting} properties (the delimiter's not "
                f"counted), found {self.vocabulary - 1} beside the delimiter: "
                f'raise vocabulary to {self.entities * self.emitting + 1}, or set memory = "uniform"'
            )
        size = self.emitting + 1
        work = self.concepts * self.entities * size * (self.entities + size + self.vocabulary)
        if work > MOST_WORK:
            raise ValueError(
                "expected concepts · entities · properties · (entities + properties + vocabulary) ≤ "
                f"{MOST_WORK} (the delimiter's property counted), found {work}: lower one of them"
            )
        return self

    @property
    def emitting(self) -> int:
        """Properties beside the delimiter's."""
        return self.properties - (self.delimiter.law == "own")

    def symbols(self) -> tuple[str, ...]:
        """The delimiter "/", then letters a–zA–Z, or where these are too few, names of two letters."""
        few = self.vocabulary - 1 <= len(LETTERS)
        names = list(LETTERS) if few else [first + second for first in LETTERS for second in LETTERS]
        return ("/", *names[: self.vocabulary - 1])

    def mixture(self) -> Mixture:
        """The uniform mixture of the concepts; raises UsageError where two of them are identical."""
        start, properties = _stack([self._concept("concepts", c) for c in range(self.concepts)])
        for a, b in combinations(range(self.concepts), 2):
            if _same(start[a], start[b]) and _same(properties[a], properties[b]):
                raise UsageError(
                    f"expected concepts that differ, found concepts {a} and {b} with the same transitions and start law: "
                    "ask for fewer concepts or more properties, or take another seed"
                )
        entities = self.entity_transitions.draw(self.entities, generator(self.seed, "entities"))
        entities = self.entity_inertia * np.eye(self.entities) + (1 - self.entity_inertia) * entities
        return Mixture(
            evenly(self.concepts), start, torch.from_numpy(entities), properties, self._memory(), self.vocabulary
        )

    def unseen(self, mixture: Mixture, n: int, seed: int) -> Mixture:
        """n fresh concepts in place of the mixture's: transitions that none of those has; its memory and entities stay.

        Raises UsageError on n < 1, and where the construction leaves no other transitions.
        """
        if n < 1:
            raise UsageError(f"expected at least 1 unseen concept, found {n}")
        start, properties = _stack([self._unseen(mixture.properties, seed, c) for c in range(n)])
        return replace(mixture, weights=evenly(n), start=start, properties=properties)

    def _unseen(self, seen: Tensor, seed: int, c: int) -> tuple[np.ndarray, np.ndarray]:
        # Few permutations of few properties: one that is drawn afresh may be a seen one.
        for attempt in range(ATTEMPTS):
            start, properties = self._concept("unseen", seed, c, attempt)
            if not any(_same(torch.from_numpy(properties), other) for other in seen):
                return start, properties
        raise UsageError(
            f"expected transitions that none of the {self.concepts} concepts has, found none in {ATTEMPTS} draws: "
            "the construction has too few (raise properties, or take another law of transitions)"
        )

    def _concept(self, *stream: str | int) -> tuple[np.ndarray, np.ndarray]:
        """Start law [V, S] and property matrix [S, S] of the concept that a stream draws."""
        rng = generator(self.seed, *stream)
        chain = self.transitions.draw(self.properties, rng)
        if self.delimiter.law == "shared":
            d = self.delimiter.probability
            behind = np.full((1, self.properties), (1 - d) / self.properties)
            stop = np.full((1 + self.properties, 1), d)
            chain = np.concatenate([stop, np.concatenate([behind, (1 - d) * chain])], 1)
        if self.start.law == "delimiter":
            start = np.tile(chain[DELIMITER] / self.entities, (self.entities, 1))
        else:
            start = _softmax(rng.random(self.entities * len(chain)), self.start.temperature)
        return start.reshape(self.entities, -1), chain

    def _memory(self) -> Tensor:
        """Symbol ids [V, S]."""
        shape = self.entities, self.emitting
        if self.memory == "distinct":
            table = 1 + np.arange(shape[0] * shape[1]).reshape(shape)
        else:
            table = generator(self.seed, "memory").integers(1, self.vocabulary, shape)
        return torch.from_numpy(np.pad(table, ((0, 0), (1, 0)), constant_values=DELIMITER))


def _softmax(u: np.ndarray, temperature: float) -> np.ndarray:
    # softmax((u − 0.5)/t), shifted by its largest: the temperature may be as low as one likes.
    with np.errstate(over="ignore"):
        weights = np.exp((u - u.max()) / temperature)
    return np.asarray(weights / weights.sum())


def _stack(concepts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[Tensor, Tensor]:
    starts, properties = (torch.from_numpy(np.stack(part)) for part in zip(*concepts, strict=True))
    return starts, properties


def _same(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= SAME)


__all__ = ["Construction"]
