"""Condition 1 of the theory against brute force: KLs over all strings and paths, constants by loops over states."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hmm_paths import mixture_at_random

from lmtest.errors import UsageError
from lmtest.languages import distinguishability as module
from lmtest.languages.distinguishability import distinguishability, epsilon_delim, epsilon_start, kl_sums
from lmtest.languages.hmm import Mixture

Word = tuple[int, ...]


def law(mixture: Mixture, concept: int, first: dict[tuple[int, int], float], length: int) -> dict[Word, float]:
    """P(string) summed over paths, from a law of the first state."""
    moves, jumps = mixture.entities.tolist(), mixture.properties[concept].tolist()
    masses: defaultdict[Word, float] = defaultdict(float)
    for path in itertools.product(itertools.product(range(len(moves)), range(len(jumps))), repeat=length):
        p = first.get(path[0], 0.0)
        for (v, s), (w, r) in itertools.pairwise(path):
            p *= moves[v][w] * jumps[s][r]
        masses[tuple(int(mixture.memory[v, s]) for v, s in path)] += p
    return masses


def behind(mixture: Mixture, concept: int) -> dict[tuple[int, int], float]:
    """Law of the state behind a delimiter of each entity alike."""
    _, entities, properties = mixture.shape
    return {
        (w, r): sum(float(mixture.entities[v, w]) for v in range(entities))
        / entities
        * float(mixture.properties[concept, 0, r])
        for w, r in itertools.product(range(entities), range(properties))
    }


def prompt_start(mixture: Mixture, s: int) -> dict[tuple[int, int], float]:
    entities = len(mixture.entities)
    return {(v, s): 1 / entities for v in range(entities)}


def kl(p: dict[Word, float], q: dict[Word, float]) -> float:
    return math.fsum(
        mass * math.log(mass / q[word]) if q.get(word, 0.0) > 0 else math.inf for word, mass in p.items() if mass > 0
    )


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("zeros", [0.0, 0.3])
def test_the_sum_of_kls_is_the_kl_of_whole_examples(k: int, zeros: float) -> None:
    infinite = 0
    for seed in range(4):
        mixture = mixture_at_random(seed, 3, 2, 3, 4, zeros)
        for star in range(3):
            others = [theta for theta in range(3) if theta != star]
            for theta, (sums, halves) in zip(others, kl_sums(mixture, star, others, k, 0), strict=True):
                expected = [
                    kl(law(mixture, star, prompt_start(mixture, s), k), law(mixture, theta, behind(mixture, theta), k))
                    for s in (1, 2)
                ]
                assert sums == pytest.approx(expected, abs=1e-10)
                assert (halves == 0).all()
                infinite += np.isinf(sums).sum()
    assert (infinite > 0) == (zeros > 0)


def test_drawn_inputs_agree_with_listed_ones_within_their_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    mixture = mixture_at_random(1, 4, 2, 4, 5)
    listed = distinguishability(mixture, 4)
    monkeypatch.setattr(module, "MOST_STRINGS", 0)
    drawn = distinguishability(mixture, 4, seed=3)
    assert (listed["half_width"] == 0).all()
    assert (drawn["half_width"] > 0).all()
    means = drawn["start"] == "mean"  # the worst start property may be another one
    errors = (drawn["kl_sum"] - listed["kl_sum"]).abs() / drawn["half_width"]
    assert (errors[means] < 1).mean() > 0.7
    assert (errors[means] < 2).all()
    assert drawn.equals(distinguishability(mixture, 4, seed=3))


def test_an_infinite_sum_is_infinite_beyond_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_STRINGS", 0)
    table = pd.concat([distinguishability(mixture_at_random(seed, 3, 2, 3, 4, 0.4), 3) for seed in range(4)])
    assert np.isinf(table["kl_sum"]).any()
    assert (table["half_width"][np.isinf(table["kl_sum"])] == 0).all()


def test_constants_are_the_tightest() -> None:
    for seed in range(4):
        mixture = mixture_at_random(seed, 3, 3, 3, 4)
        moves = mixture.properties.tolist()
        begins = [sum(float(mixture.start[c, v, 0]) for v in range(3)) for c in range(3)]
        for star in range(3):
            c1 = min(moves[star][s][0] for s in (1, 2))
            c2 = max(moves[c][s][0] for c in range(3) if c != star for s in (1, 2))
            expected = 2 * math.log(c2 / c1) + math.log(max(begins) / min(begins))
            assert epsilon_delim(mixture, star) == pytest.approx(expected, abs=1e-12)
            c8 = [min(behind(mixture, star)[v, s] / prompt_start(mixture, s)[v, s] for v in range(3)) for s in (1, 2)]
            assert epsilon_start(mixture, star) == pytest.approx([math.log(1 / c) for c in c8], abs=1e-12)


def test_the_table_has_the_worst_start_property_and_the_mean_over_all() -> None:
    mixture = mixture_at_random(2, 3, 2, 4, 5)
    table = distinguishability(mixture, 3).set_index(["theta_star", "theta", "start"])
    assert len(table) == 2 * 3 * 2
    for star, theta in itertools.permutations(range(3), 2):
        [(sums, _)] = kl_sums(mixture, star, [theta], 3, 0)
        starts = epsilon_start(mixture, star)
        worst = table.loc[star, theta, "worst"]
        mean = table.loc[star, theta, "mean"]
        assert worst["margin"] == pytest.approx((sums - starts).min() - worst["epsilon_delim"], abs=1e-12)
        assert mean["kl_sum"] == pytest.approx(sums.mean(), abs=1e-12)
        assert mean["epsilon_start"] == pytest.approx(starts.mean(), abs=1e-12)
        for row in (worst, mean):
            needed = row["epsilon_start"] + row["epsilon_delim"]
            assert row["margin"] == pytest.approx(row["kl_sum"] - needed, abs=1e-12)
            assert row["holds"] == (row["kl_sum"] > needed)
        assert worst["margin"] <= mean["margin"] + 1e-12


@pytest.mark.parametrize("k", [2, 4])
def test_a_concept_is_never_told_from_its_copy(k: int) -> None:
    mixture = mixture_at_random(5, 2, 2, 3, 4)
    twins = replace(mixture, properties=mixture.properties[[0, 0]], start=mixture.start[[0, 0]])
    table = distinguishability(twins, k)
    assert not table["holds"].any()
    assert (table["kl_sum"] <= table["epsilon_start"] + 1e-12).all()


def test_a_delimiter_that_a_state_never_reaches_makes_the_condition_unattainable() -> None:
    mixture = mixture_at_random(0, 2, 2, 3, 4)
    mixture.properties[0, 1] = torch.tensor([0.0, 0.5, 0.5])
    assert epsilon_delim(mixture, 0) == math.inf
    assert math.isfinite(epsilon_delim(mixture, 1))
    table = distinguishability(mixture, 3)
    assert not table["holds"][table["theta_star"] == 0].any()
    assert (table["margin"][table["theta_star"] == 0] == -math.inf).all()


def test_a_property_that_never_follows_a_delimiter_makes_its_start_infinite() -> None:
    mixture = mixture_at_random(0, 2, 2, 3, 4)
    mixture.properties[0, 0] = torch.tensor([0.3, 0.0, 0.7])
    assert np.isinf(epsilon_start(mixture, 0)).tolist() == [True, False]


def test_equal_starts_on_the_delimiter_cost_nothing_even_where_both_are_impossible() -> None:
    mixture = mixture_at_random(3, 2, 2, 3, 4)
    mixture.start[:, :, 0] = 0.0
    moves = mixture.properties[:, 1:, 0]
    expected = 2 * math.log(float(moves[1].max() / moves[0].min()))
    assert epsilon_delim(mixture, 0) == pytest.approx(expected, abs=1e-12)


def test_concepts_far_apart_with_a_shared_delimiter_are_distinguishable() -> None:
    chains = torch.tensor([[[0.1, 0.45, 0.45], [0.1, 0.899, 0.001], [0.1, 0.001, 0.899]]] * 2, dtype=torch.float64)
    chains[1, 1:, 1:] = chains[1, 1:, 1:].flip(-1)
    start = chains[:, :1]
    one = torch.ones(1, 1, dtype=torch.float64)
    mixture = Mixture(torch.full((2,), 0.5, dtype=torch.float64), start, one, chains, torch.tensor([[0, 1, 2]]), 3)
    table = distinguishability(mixture, 2)
    assert table["epsilon_delim"].to_list() == [0.0] * 4
    assert table["epsilon_start"].to_numpy() == pytest.approx(math.log(1 / 0.45))
    assert table["holds"].all()
    # The first symbol tells the start property alone, which a prompt chooses and a document does not.
    assert distinguishability(mixture, 1)["margin"].to_numpy() == pytest.approx(0.0, abs=1e-12)


def test_a_single_concept_has_no_pairs() -> None:
    table = distinguishability(mixture_at_random(0, 1, 2, 3, 4), 3)
    assert len(table) == 0
    assert {"theta_star", "margin", "holds"} <= set(table.columns)


def test_examples_without_symbols_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 1 symbol, found k = 0"):
        distinguishability(mixture_at_random(0, 2, 2, 3, 4), 0)
