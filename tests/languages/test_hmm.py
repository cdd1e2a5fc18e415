"""Hidden Markov models side by side: every path of states enumerated, and another library on the same models."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from brute_force import fit
from hmm_paths import masses, mixture_at_random, total
from hmmlearn.hmm import CategoricalHMM

from lmtest.languages.hmm import Mixture, draw, evenly, pick, read, walk

MIXTURES = {
    "one entity": mixture_at_random(1, concepts=3, entities=1, properties=4, n_symbols=4),
    "two of each": mixture_at_random(2, concepts=2, entities=2, properties=2, n_symbols=3),
    "with zeros": mixture_at_random(3, concepts=3, entities=2, properties=2, n_symbols=3, zeros=0.5),
    "one concept": mixture_at_random(4, concepts=1, entities=2, properties=2, n_symbols=2),
    "many zeros": mixture_at_random(7, concepts=2, entities=1, properties=4, n_symbols=4, zeros=0.7),
}
LONGEST = 4
each_mixture = pytest.mark.parametrize("name", MIXTURES)


def all_strings(mixture: Mixture, length: int) -> torch.Tensor:
    rows = list(itertools.product(range(mixture.n_symbols), repeat=length))
    return torch.tensor(rows, dtype=torch.int64).view(len(rows), length)


def log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf


@each_mixture
def test_joint_is_the_sum_over_all_paths_for_every_prefix(name: str) -> None:
    mixture = MIXTURES[name]
    strings = all_strings(mixture, LONGEST)
    reading = read(mixture, strings)
    for length in range(LONGEST + 1):
        each = masses(mixture, length)
        expected = [[log(one.get(tuple(row[:length]), 0.0)) for one in each] for row in strings.tolist()]
        np.testing.assert_allclose(reading.joint[:, length], expected, rtol=1e-12, atol=1e-12)
        truth = total(each)
        mass = [log(truth.get(tuple(row[:length]), 0.0)) for row in strings.tolist()]
        np.testing.assert_allclose(reading.log_mass[:, length], mass, rtol=1e-12, atol=1e-12)


@each_mixture
def test_posterior_and_law_are_ratios_of_masses_and_undefined_where_dead(name: str) -> None:
    mixture = MIXTURES[name]
    strings = all_strings(mixture, LONGEST - 1)
    reading = read(mixture, strings)
    for length in range(LONGEST):
        each, longer = masses(mixture, length), total(masses(mixture, length + 1))
        truth = total(each)
        for i, row in enumerate(strings.tolist()):
            prefix = tuple(row[:length])
            posterior, law = reading.posterior[i, length], reading.law[i, length]
            if prefix not in truth:
                assert posterior.isnan().all()
                assert law.isnan().all()
                continue
            np.testing.assert_allclose(posterior, [one.get(prefix, 0.0) / truth[prefix] for one in each], atol=1e-12)
            expected = [longer.get((*prefix, v), 0.0) / truth[prefix] for v in range(mixture.n_symbols)]
            np.testing.assert_allclose(law, expected, atol=1e-12)
            assert float(law.sum()) == pytest.approx(1, abs=1e-12)


@each_mixture
def test_strings_of_each_length_have_all_the_mass(name: str) -> None:
    for length in range(LONGEST + 1):
        mass = read(MIXTURES[name], all_strings(MIXTURES[name], length), every=False).log_mass
        assert float(mass.exp().sum()) == pytest.approx(1, abs=1e-12)


@each_mixture
def test_whole_strings_alone_are_the_last_of_every_prefix(name: str) -> None:
    for length in (0, 1, 3):
        strings = all_strings(MIXTURES[name], length)
        every, last = read(MIXTURES[name], strings), read(MIXTURES[name], strings, every=False)
        assert last.joint.shape[1] == last.law.shape[1] == 1
        torch.testing.assert_close(last.joint[:, 0], every.joint[:, -1], rtol=0, atol=0)
        torch.testing.assert_close(last.law[:, 0], every.law[:, -1], rtol=0, atol=0, equal_nan=True)


@each_mixture
def test_each_concept_alone_is_its_part_of_the_mixture(name: str) -> None:
    mixture = MIXTURES[name]
    strings = all_strings(mixture, 3)
    together = read(mixture, strings, every=False).joint[:, 0]
    for c, weight in enumerate(mixture.weights):
        alone = read(mixture.concept(c), strings, every=False).log_mass[:, 0]
        torch.testing.assert_close(alone + weight.log(), together[:, c], rtol=1e-13, atol=1e-13)


def test_a_start_of_ones_own_replaces_that_of_the_concepts() -> None:
    mixture = MIXTURES["two of each"]
    strings = all_strings(mixture, 3)
    starts = torch.zeros(len(strings), *mixture.shape, dtype=torch.float64)
    states = [(i % 2, i // 2 % 2) for i in range(len(strings))]
    for i, (v, s) in enumerate(states):
        starts[i, :, v, s] = 1.0
    found = read(mixture, strings, start=starts, every=False).log_mass[:, 0]
    for v, s in set(states):
        start = torch.zeros(mixture.shape, dtype=torch.float64)
        start[:, v, s] = 1.0
        fixed = Mixture(mixture.weights, start, mixture.entities, mixture.properties, mixture.memory, mixture.n_symbols)
        truth = total(masses(fixed, 3))
        for i, row in enumerate(strings.tolist()):
            if states[i] == (v, s):
                assert found[i].item() == pytest.approx(log(truth.get(tuple(row), 0.0)), abs=1e-12)


def test_what_is_no_symbol_is_dead_from_there_on() -> None:
    mixture = MIXTURES["two of each"]
    for stranger in (mixture.n_symbols, mixture.n_symbols + 2, 10**6):
        reading = read(mixture, torch.tensor([[1, stranger, 1]]))
        assert reading.log_mass[0].isfinite().tolist() == [True, True, False, False]
        assert reading.law[0, 2:].isnan().all()


def test_a_long_string_neither_underflows_nor_drifts() -> None:
    mixture = MIXTURES["two of each"]
    symbols, _ = draw(mixture, 1, 3000, np.random.default_rng(0))
    joint = read(mixture, torch.from_numpy(symbols), every=False).joint[0, 0]
    for c in range(len(mixture.weights)):
        expected = other_library(mixture, c).score(symbols.reshape(-1, 1)) + math.log(mixture.weights[c])
        assert joint[c].item() == pytest.approx(expected, rel=1e-10)


def other_library(mixture: Mixture, c: int) -> CategoricalHMM:
    """Concept c as a plain HMM over pairs, state v · S + s."""
    model = CategoricalHMM(n_components=mixture.start[c].numel(), n_features=mixture.n_symbols)
    model.startprob_ = mixture.start[c].flatten().numpy()
    model.transmat_ = np.kron(mixture.entities.numpy(), mixture.properties[c].numpy())
    model.emissionprob_ = np.eye(mixture.n_symbols)[mixture.memory.flatten().numpy()]
    return model


@pytest.mark.parametrize("seed", range(3))
def test_another_library_gives_every_concept_the_same_likelihood(seed: int) -> None:
    mixture = mixture_at_random(seed, concepts=3, entities=4, properties=5, n_symbols=9)
    symbols, _ = draw(mixture, 6, 40, np.random.default_rng(seed))
    joint = read(mixture, torch.from_numpy(symbols), every=False).joint[:, 0]
    for c in range(3):
        model = other_library(mixture, c)
        expected = [model.score(row.reshape(-1, 1)) + math.log(mixture.weights[c]) for row in symbols]
        np.testing.assert_allclose(joint[:, c], expected, rtol=1e-10)


@each_mixture
def test_draws_have_the_enumerated_frequencies_of_string_and_concept(name: str) -> None:
    mixture = MIXTURES[name]
    symbols, concepts = draw(mixture, 6000, 3, np.random.default_rng(5))
    law = {(str(c), *map(str, row)): p for c, one in enumerate(masses(mixture, 3)) for row, p in one.items()}
    sample = [(str(c), *map(str, row)) for c, row in zip(concepts.tolist(), symbols.tolist(), strict=True)]
    assert fit(sample, law) > 1e-4


def test_walks_begin_where_they_are_told_and_move_by_the_chains_of_their_concept() -> None:
    mixture = MIXTURES["with zeros"]
    n = 6000
    concepts, first = np.arange(n) % 3, np.arange(n) % 2
    entities, properties = walk(mixture, concepts, first, 1 - first, 2, np.random.default_rng(6))
    assert (entities[:, 0] == first).all()
    assert (properties[:, 0] == 1 - first).all()
    for c, v in itertools.product(range(3), range(2)):
        mine = (concepts == c) & (first == v)
        law = {
            (str(w), str(r)): float(mixture.entities[v, w] * mixture.properties[c, 1 - v, r])
            for w, r in itertools.product(range(2), repeat=2)
        }
        sample = [(str(w), str(r)) for w, r in zip(entities[mine, 1], properties[mine, 1], strict=True)]
        assert fit(sample, {state: p for state, p in law.items() if p > 0}) > 1e-4


def test_what_has_no_probability_is_never_picked() -> None:
    rows = np.tile(np.cumsum([0.0, 0.3, 0.0, 0.7, 0.0]), (5000, 1))
    found = pick(rows, np.random.default_rng(0))
    assert set(found.tolist()) == {1, 3}
    assert abs((found == 1).mean() - 0.3) < 0.03


def test_evenly_is_uniform() -> None:
    assert evenly(4).tolist() == [0.25] * 4
