"""In-context prompts: n examples of one hidden concept, then a test input; what must come next, and how likely it all was.

After Xie et al., ICLR 2022 (arXiv 2111.02080), section 2 and appendix F.1. An example of length k is an input of k − 1
symbols and an output; a prompt is O_1 / O_2 / … / O_n / x_test. All its examples share a concept and a start property, and
each has an entity of its own. Nothing is told apart by name alone: every prompt has its probability under the law that
models are trained on, which may be zero.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lmtest.errors import UsageError
from lmtest.languages.base import Row
from lmtest.languages.hmm import DELIMITER, Mixture, Reading, read, walk
from lmtest.languages.hmm_mixture import HmmMixture
from lmtest.seeds import generator

Family = Literal["seen", "unseen", "single", "random"]
"""Concepts of the language; fresh ones by the same construction; the language's first alone; no concept at all: each
example moves at random, and only the label is a fresh concept's."""

ORDERED = 4
"""Examples of a prompt whose order is changed."""
ORDERS = tuple(itertools.permutations(range(ORDERED)))
TIE = 1e-12
"""Probabilities closer than this are equal: rounding must not choose a label."""
MOST_DRAWS = 1_000_000
"""Strings that are drawn for one example of all prompts, before those that are still missing count as impossible."""
CHUNK = 2048
"""Strings that are read, or (where fewer are wanted) drawn, at once."""


@dataclass(frozen=True, eq=False)
class InContextPrompts:
    """N prompts of one shape, n examples of length k, and what their test inputs ask for.

    `symbols` [N, n(k + 1) + k − 1] ids; `labels` [N] the likeliest output given concept, start property and test input;
    `concepts` [N] in `mixture`, which the prompts come from; `starts` [N] properties, 0 in the family "random", which has
    none; `truth` [N, M] the law of the next symbol by which `labels` are likeliest; `reading`: what the language that
    models are trained on says at the end of each prompt.
    """

    name: str
    family: Family
    k: int
    n: int
    symbols: np.ndarray
    labels: np.ndarray
    truth: np.ndarray
    concepts: np.ndarray
    starts: np.ndarray
    reading: Reading
    mixture: Mixture

    @cached_property
    def rows(self) -> list[Row]:
        """The prompts as rows of symbol ids."""
        return list(map(tuple, self.symbols.tolist()))

    @property
    def log_mass(self) -> np.ndarray:
        """ln P(prompt) [N] under the language that models are trained on, nats; −inf where it is impossible."""
        return self.reading.log_mass[:, -1].numpy()

    def first(self, count: int) -> InContextPrompts:
        """The first `count` prompts alone, under the same name."""
        few = slice(count)
        return InContextPrompts(
            *(self.name, self.family, self.k, self.n),
            *(self.symbols[few], self.labels[few], self.truth[few], self.concepts[few], self.starts[few]),
            *(Reading(self.reading.joint[few], self.reading.law[few]), self.mixture),
        )


def in_context_prompts(
    language: HmmMixture,
    family: Family,
    k: int,
    ns: Sequence[int],
    count: int,
    seed: int,
    inner_delimiters: bool = False,
    n_unseen: int = 5,
) -> list[InContextPrompts]:
    """Nested prompt sets, one for each n of `ns`: `count` test inputs behind the first n of one list of examples each.

    Without `inner_delimiters` inputs and outputs are drawn given that they hold no delimiter, which then is no label
    either; with them, as in the paper's released code, a chain may pass through it. A test input is drawn given that it has
    a label. Sets of the same arguments agree whatever other `ns` are asked for. Raises UsageError: no such prompts, or
    longer than a document.
    """
    for n in ns:
        check_prompt(language, k, n)
    _check_count("prompts", count)
    _check_count("unseen concepts", n_unseen)
    mixture = language.mixture if family in ("seen", "single") else language.unseen(n_unseen, seed)
    path: list[str | int] = ["in_context", family, k]
    rng = generator(seed, *path, "concepts")
    concepts, starts = _draw_concepts(mixture, family, count, rng)
    source = _Source(mixture, family, concepts, starts, inner_delimiters)
    inputs, labels, truth = source.tests(k, generator(seed, *path, "tests"))
    examples = [source.examples(k, generator(seed, *path, "example", i)) for i in range(max(ns, default=0))]
    sets = []
    for n in ns:
        symbols = _assemble(examples[:n], inputs)
        name, reading = f"{family}.k{k}.n{n}", _read(language.mixture, symbols)
        sets.append(InContextPrompts(name, family, k, n, symbols, labels, truth, concepts, starts, reading, mixture))
    return sets


def order_sets(
    language: HmmMixture, k: int, sets: int, tests: int, seed: int, inner_delimiters: bool = False
) -> InContextPrompts:
    """Each of `sets` sets of 4 examples in all 24 orders before each of its `tests` test inputs.

    One concept (of the language) and one start property a set; N = sets · 24 · tests prompts in this order, named
    "orders.k{k}". Raises UsageError as `in_context_prompts` does.
    """
    check_prompt(language, k, ORDERED)
    _check_count("sets of examples", sets)
    _check_count("test inputs", tests)
    mixture, path = language.mixture, ["in_context", "orders", str(k)]
    concepts, starts = _draw_concepts(mixture, "seen", sets, generator(seed, *path, "concepts"))
    demonstrating = _Source(mixture, "seen", concepts, starts, inner_delimiters)
    examples = [demonstrating.examples(k, generator(seed, *path, "example", i)) for i in range(ORDERED)]
    asking = _Source(mixture, "seen", concepts.repeat(tests), starts.repeat(tests), inner_delimiters)
    inputs, labels, truth = asking.tests(k, generator(seed, *path, "tests"))
    # [sets, orders, tests, …]: the examples are repeated along the tests, the tests along the orders.
    inputs, labels, truth = (
        np.repeat(x.reshape(sets, 1, tests, *x.shape[1:]), len(ORDERS), 1).reshape(-1, *x.shape[1:])
        for x in (inputs, labels, truth)
    )
    ordered = np.stack([np.stack([examples[i] for i in order], 1) for order in ORDERS], 1)  # [sets, orders, 4, k]
    ordered = ordered.reshape(-1, ORDERED, k).repeat(tests, 0)
    symbols = _assemble(list(ordered.swapaxes(0, 1)), inputs)
    concepts, starts = (x.repeat(len(ORDERS) * tests) for x in (concepts, starts))
    reading = _read(mixture, symbols)
    name = f"orders.k{k}"
    return InContextPrompts(name, "seen", k, ORDERED, symbols, labels, truth, concepts, starts, reading, mixture)


def check_prompt(language: HmmMixture, k: int, n: int) -> None:
    """Raises UsageError where no document can hold a prompt of n examples of length k and its answer."""
    if k < 2:
        raise UsageError(f"expected examples of at least 2 symbols (an input and an output), found k = {k}")
    if n < 0:
        raise UsageError(f"expected a number of examples ≥ 0, found n = {n}")
    if k + 1 > language.length:
        raise UsageError(
            f"examples of k = {k} symbols and a delimiter do not fit documents of {language.name}, which have "
            f"{language.length}: choose a smaller k, or a greater length in the language file"
        )
    if prompt_length(k, n) >= language.length:
        raise UsageError(
            f"a prompt of n = {n} examples of length {k} has {prompt_length(k, n)} symbols, documents of "
            f"{language.name} have {language.length}: there is no room for an answer; choose fewer or shorter examples, "
            "or a greater length in the language file"
        )


def prompt_length(k: int, n: int) -> int:
    """Symbols of a prompt with n examples of length k."""
    return n * (k + 1) + k - 1


def label_laws(mixture: Mixture, inputs: np.ndarray, concepts: np.ndarray, starts: np.ndarray) -> Tensor:
    """P(next symbol | input, concept, start property, entity uniform) [N, M] of inputs [N, T]; NaN where impossible.

    A start property of 0 stands for none: the first state is then uniform over all.
    """
    _, entities, properties = mixture.shape
    first = torch.zeros(len(inputs), 1, entities, properties, dtype=torch.float64)
    first[torch.arange(len(inputs)), 0, :, torch.from_numpy(starts)] = 1 / entities
    first[torch.from_numpy(starts == 0)] = 1 / (entities * properties)
    laws = torch.full((len(inputs), mixture.n_symbols), torch.nan, dtype=torch.float64)
    for concept in np.unique(concepts):
        [places] = np.nonzero(concepts == concept)
        symbols = torch.from_numpy(inputs[places])
        laws[places] = read(mixture.concept(int(concept)), symbols, first[places], every=False).law[:, -1]
    return laws


@dataclass(frozen=True)
class _Source:
    """Where the strings of N prompts come from; one string a prompt at a time."""

    mixture: Mixture
    family: Family
    concepts: np.ndarray
    starts: np.ndarray
    inner_delimiters: bool

    def examples(self, k: int, rng: np.random.Generator) -> np.ndarray:
        """One example of each prompt [N, k]."""
        return self._draw(k, rng, lambda _, symbols: self._clean(symbols))

    def tests(self, k: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The test inputs [N, k − 1], their labels [N] and the laws of what follows them [N, M]."""

        def has_label(places: np.ndarray, symbols: np.ndarray) -> np.ndarray:
            return np.asarray(self._clean(symbols) & (self._candidates(symbols, places).max(1) > 0))

        inputs = self._draw(k - 1, rng, has_label)
        laws = self._candidates(inputs, np.arange(len(inputs)))
        truth = label_laws(self.mixture, inputs, self.concepts, self.starts).numpy()
        return inputs, (laws >= laws.max(1, keepdims=True) - TIE).argmax(1), truth  # ties: the first symbol

    def _clean(self, symbols: np.ndarray) -> np.ndarray:
        return np.asarray((symbols != DELIMITER).all(1) | self.inner_delimiters)

    def _candidates(self, inputs: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Probabilities of what may be a label [N, M]; 0 of what may not, and where the input is impossible."""
        laws = label_laws(self.mixture, inputs, self.concepts[places], self.starts[places]).nan_to_num(nan=0.0).numpy()
        if not self.inner_delimiters:
            laws[:, DELIMITER] = 0.0
        return np.asarray(laws)

    def _draw(
        self, length: int, rng: np.random.Generator, accept: Callable[[np.ndarray, np.ndarray], np.ndarray]
    ) -> np.ndarray:
        """Strings [N, length] by rejection: exactly the law of a string given that it is accepted."""
        drawn = np.empty((len(self.concepts), length), dtype=np.int64)
        waiting, draws = np.arange(len(drawn)), 0
        while len(waiting) and draws < MOST_DRAWS:
            # Several for each where few are waiting: the first that will do is taken.
            places = waiting.repeat(max(1, CHUNK // len(waiting)))
            symbols = self._strings(places, length, rng)
            kept = np.flatnonzero(accept(places, symbols))
            found, first = np.unique(places[kept], return_index=True)
            drawn[found] = symbols[kept[first]]
            waiting, draws = np.setdiff1d(waiting, found), draws + len(places)
        if len(waiting):
            c, s = self.concepts[waiting[0]], self.starts[waiting[0]]
            raise UsageError(
                f"{draws} draws of {length} symbols were not enough for {len(drawn)} prompts, the first without one under "
                f"concept {c}, start property {s}: such a string without a delimiter (and, of a test input, with an answer) "
                "is impossible, or nearly so; choose smaller lengths k, or inner_delimiters = true"
            )
        return drawn

    def _strings(self, places: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
        """One string [N', length] for each of the places, unconditioned."""
        _, n_entities, n_properties = self.mixture.shape
        entities = rng.integers(n_entities, size=len(places))
        if self.family == "random":
            paths = entities[:, None], rng.integers(1, n_properties, size=(len(places), length))
        else:
            paths = walk(self.mixture, self.concepts[places], entities, self.starts[places], length, rng)
        return np.asarray(self.mixture.memory.numpy()[paths])


def _draw_concepts(
    mixture: Mixture, family: Family, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Concepts [N] and start properties [N]."""
    n_concepts, _, n_properties = mixture.shape
    concepts = rng.integers(1 if family == "single" else n_concepts, size=count)
    starts = rng.integers(1, n_properties, size=count)
    return concepts, np.zeros_like(starts) if family == "random" else starts


def _assemble(examples: Sequence[np.ndarray], inputs: np.ndarray) -> np.ndarray:
    """Examples [N, k] each and inputs [N, k − 1] → prompts, a delimiter behind every example."""
    delimiter = np.full((len(inputs), 1), DELIMITER)
    return np.concatenate([*(part for example in examples for part in (example, delimiter)), inputs], 1)


def _read(mixture: Mixture, symbols: np.ndarray) -> Reading:
    parts = [read(mixture, chunk, every=False) for chunk in torch.from_numpy(symbols).split(CHUNK)]
    return Reading(torch.cat([part.joint for part in parts]), torch.cat([part.law for part in parts]))


def _check_count(what: str, count: int) -> None:
    if count < 1:
        raise UsageError(f"expected a number of {what} ≥ 1, found {count}")
