"""In-context prompts against brute force: every path of states, one at a time, on mixtures of a few states."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare
from tiny_mixtures import OWN, SHARED, prefix_masses, tiny

from lmtest.errors import UsageError
from lmtest.languages.hmm import Mixture
from lmtest.languages.in_context_prompts import ORDERS, InContextPrompts, in_context_prompts, label_laws, order_sets

Word = tuple[int, ...]

SPARSE: dict[str, Any] = OWN | {
    "properties": 4,
    "vocabulary": 4,
    "transitions": {"law": "permutation_mixture", "permutations": 2, "temperature": 1.0},
    "seed": 0,
}
"""Some transitions have probability 0, and so have some prompts."""


def strings(mixture: Mixture, concept: int, start: int, length: int) -> dict[Word, float]:
    """P(string) from start property `start` (0: any state) and a uniform entity, summed over paths."""
    _, entities, properties = mixture.shape
    moves, jumps = mixture.entities.tolist(), mixture.properties[concept].tolist()
    first = [(v, s) for v in range(entities) for s in (range(properties) if start == 0 else [start])]
    masses: defaultdict[Word, float] = defaultdict(float)
    states = list(itertools.product(range(entities), range(properties)))
    for path in itertools.product(states, repeat=length):
        if path[0] in first:
            p = 1 / len(first)
            for (v, s), (w, r) in itertools.pairwise(path):
                p *= moves[v][w] * jumps[s][r]
            masses[tuple(int(mixture.memory[v, s]) for v, s in path)] += p
    return masses


def label(mixture: Mixture, concept: int, start: int, test: Word, inner: bool) -> int:
    masses = strings(mixture, concept, start, len(test) + 1)
    candidates = range(0 if inner else 1, mixture.n_symbols)
    return max(candidates, key=lambda y: (round(masses.get((*test, y), 0.0), 14), -y))


def split(prompts: InContextPrompts, row: Word) -> tuple[list[Word], Word]:
    """Examples and test input."""
    k, examples = prompts.k, []
    for i in range(prompts.n):
        assert row[(i + 1) * (k + 1) - 1] == 0
        examples.append(row[i * (k + 1) : i * (k + 1) + k])
    return examples, row[prompts.n * (k + 1) :]


@pytest.mark.parametrize("base", [OWN, SHARED, SPARSE], ids=["own", "shared", "sparse"])
@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("family", ["seen", "unseen", "single", "random"])
def test_labels_are_the_likeliest_outputs_of_all_paths(base: dict[str, Any], inner: bool, family: Any) -> None:
    language = tiny(40, base, **({"properties": 3, "vocabulary": 4} if base is SHARED else {}))
    for k in (2, 3):
        [prompts] = in_context_prompts(language, family, k, [1], 40, 5, inner, n_unseen=3)
        for row, y, c, s in zip(prompts.rows, prompts.labels, prompts.concepts, prompts.starts, strict=True):
            _, test = split(prompts, row)
            assert len(test) == k - 1
            assert y == label(prompts.mixture, c, s, test, inner)
            assert inner or y != 0


def test_label_laws_are_the_shares_of_all_paths() -> None:
    mixture = tiny(9, OWN).mixture
    inputs = np.array([*itertools.product(range(3), repeat=2)])
    for c, s in itertools.product(range(2), range(3)):
        laws = label_laws(mixture, inputs, np.full(len(inputs), c), np.full(len(inputs), s)).numpy()
        masses = strings(mixture, c, s, 3)
        for x, law in zip(inputs.tolist(), laws, strict=True):
            expected = np.array([masses.get((*x, y), 0.0) for y in range(3)])
            if expected.sum() > 0:
                assert law == pytest.approx(expected / expected.sum(), abs=1e-12)
            else:
                assert np.isnan(law).all()


def test_prompts_have_delimiters_behind_examples_and_nowhere_else() -> None:
    for k, n in ((2, 0), (3, 1), (4, 3)):
        [prompts] = in_context_prompts(tiny(40), "seen", k, [n], 50, 0)
        assert prompts.symbols.shape == (50, n * (k + 1) + k - 1)
        places = {(i + 1) * (k + 1) - 1 for i in range(n)}
        assert all({i for i, x in enumerate(row) if x == 0} == places for row in prompts.rows)
    [prompts] = in_context_prompts(tiny(40), "seen", 4, [3], 50, 0, inner_delimiters=True)
    assert any(0 in example for row in prompts.rows for example in split(prompts, row)[0])


@pytest.mark.parametrize("family", ["seen", "unseen", "single", "random"])
def test_prompt_sets_are_nested_and_do_not_depend_on_the_others(family: Any) -> None:
    language = tiny(40, OWN)
    sets = in_context_prompts(language, family, 3, [0, 1, 4], 30, 7)
    [alone] = in_context_prompts(language, family, 3, [1], 30, 7)
    assert [prompts.name for prompts in sets] == [f"{family}.k3.n{n}" for n in (0, 1, 4)]
    assert alone.rows == sets[1].rows
    zero, _, four = ([split(prompts, row) for row in prompts.rows] for prompts in sets)
    for prompts, n in zip(sets, (0, 1, 4), strict=True):
        for row, (examples, test), (_, test_0) in zip(prompts.rows, four, zero, strict=True):
            assert split(prompts, row) == (examples[:n], test) == (examples[:n], test_0)
        for what in ("labels", "concepts", "starts"):
            assert (getattr(prompts, what) == getattr(sets[0], what)).all()
    [other] = in_context_prompts(language, family, 3, [4], 30, 8)
    assert other.rows != sets[2].rows


@pytest.mark.parametrize("base", [OWN, SHARED, SPARSE], ids=["own", "shared", "sparse"])
@pytest.mark.parametrize("family", ["seen", "unseen", "random"])
def test_masses_and_laws_are_those_of_the_language(base: dict[str, Any], family: Any) -> None:
    language = tiny(8, base, **({"properties": 3, "vocabulary": 4} if base is SHARED else {}))
    masses = prefix_masses(language.mixture, 8)
    for prompts in in_context_prompts(language, family, 2, [0, 1, 2], 60, 3, inner_delimiters=True):
        expected = np.log([masses.get(row, 0.0) or math.ulp(0.0) for row in prompts.rows])
        expected[[row not in masses for row in prompts.rows]] = -math.inf
        assert prompts.log_mass == pytest.approx(expected, abs=1e-10)
        strings = [language.vocabulary.join(row) for row in prompts.rows]
        assert prompts.log_mass == pytest.approx(language.prefix_log_prob(strings), abs=1e-10)
        for string, mass, law in zip(strings, prompts.log_mass, prompts.reading.law[:, 0].numpy(), strict=True):
            if mass > -math.inf:
                assert [*law, 0.0] == pytest.approx([*language.next_symbol_law(string).values()], abs=1e-10)
            else:
                assert np.isnan(law).all()
        possible = prompts.log_mass > -math.inf
        assert prompts.reading.posterior[possible, 0].numpy() == pytest.approx(
            language.posterior([s for s, p in zip(strings, possible, strict=True) if p]), abs=1e-10
        )


def test_some_prompts_of_a_sparse_mixture_are_impossible_and_some_are_not() -> None:
    [prompts] = in_context_prompts(tiny(20, SPARSE), "unseen", 3, [3], 100, 0, inner_delimiters=True)
    assert 0 < np.isneginf(prompts.log_mass).mean() < 1


@pytest.mark.parametrize("inner", [False, True])
def test_examples_and_tests_have_the_law_of_all_paths_given_no_delimiter(inner: bool) -> None:
    language = tiny(20, OWN, vocabulary=4)
    [prompts] = in_context_prompts(language, "single", 3, [2], 4000, 11, inner)
    assert set(prompts.concepts) == {0}
    assert set(prompts.starts) == {1, 2}
    parts = [split(prompts, row) for row in prompts.rows]
    for start in (1, 2):
        chosen = [part for part, s in zip(parts, prompts.starts, strict=True) if s == start]
        for length, drawn in (
            (3, [example for examples, _ in chosen for example in examples]),
            (2, [test for _, test in chosen]),
        ):
            law = strings(language.mixture, 0, start, length)
            law = {word: p for word, p in law.items() if p > 0 and (inner or 0 not in word)}
            counts = Counter(drawn)
            assert set(counts) <= set(law)
            expected = np.array([p / sum(law.values()) * len(drawn) for p in law.values()])
            assert chisquare([counts[word] for word in law], expected).pvalue > 1e-3


def test_concepts_and_start_properties_are_uniform() -> None:
    language = tiny(9, OWN, concepts=3, properties=4)
    for family, n_concepts in (("seen", 3), ("unseen", 4), ("random", 4)):
        [prompts] = in_context_prompts(language, family, 2, [0], 3000, 1, n_unseen=4)  # type: ignore[arg-type]
        assert chisquare(np.bincount(prompts.concepts, minlength=n_concepts)).pvalue > 1e-3
        if family == "random":
            assert (prompts.starts == 0).all()
        else:
            assert chisquare(np.bincount(prompts.starts, minlength=4)[1:]).pvalue > 1e-3
            assert (prompts.starts > 0).all()


def test_unseen_concepts_are_none_of_the_language() -> None:
    language = tiny(20, OWN)
    seen, unseen = (in_context_prompts(language, f, 3, [1], 20, 2)[0] for f in ("seen", "unseen"))  # type: ignore[arg-type]
    assert seen.mixture is language.mixture
    assert len(unseen.mixture.weights) == 5
    for fresh, known in itertools.product(unseen.mixture.properties, language.mixture.properties):
        assert (fresh - known).abs().max() > 1e-6
    assert (unseen.mixture.memory == language.mixture.memory).all()


def test_random_examples_keep_an_entity_and_draw_properties_independently() -> None:
    language = tiny(20, SHARED, properties=3, entities=2, vocabulary=7)
    [prompts] = in_context_prompts(language, "random", 4, [2], 1500, 0)
    where = {int(symbol): (v, s) for (v, s), symbol in np.ndenumerate(language.mixture.memory.numpy()) if s > 0}
    pairs: Counter[tuple[int, int]] = Counter()
    entities: Counter[int] = Counter()
    for row in prompts.rows:
        for example in split(prompts, row)[0]:
            states = [where[x] for x in example]
            assert len({v for v, _ in states}) == 1
            entities[states[0][0]] += 1
            pairs[states[0][1], states[1][1]] += 1
    assert chisquare([entities[v] for v in range(2)]).pvalue > 1e-3
    assert chisquare([pairs[pair] for pair in itertools.product(range(1, 4), repeat=2)]).pvalue > 1e-3


def test_the_first_prompts_of_a_set_are_the_set_cut() -> None:
    [prompts] = in_context_prompts(tiny(20, OWN), "seen", 3, [2], 20, 0)
    few = prompts.first(5)
    assert (few.name, few.rows) == (prompts.name, prompts.rows[:5])
    assert (few.labels == prompts.labels[:5]).all()
    assert (few.log_mass == prompts.log_mass[:5]).all()


def test_order_sets_show_the_same_examples_in_all_orders_before_the_same_tests() -> None:
    language = tiny(40, OWN, vocabulary=6)
    sets, tests = 5, 3
    prompts = order_sets(language, 3, sets, tests, 4)
    assert prompts.name == "orders.k3"
    assert len(set(ORDERS)) == 24
    parts = np.array([split(prompts, row) for row in prompts.rows], dtype=object).reshape(sets, 24, tests, 2)
    shape = sets, 24, tests
    for i in range(sets):
        assert len({*prompts.concepts.reshape(shape)[i].flat}) == len({*prompts.starts.reshape(shape)[i].flat}) == 1
        base = parts[i, ORDERS.index((0, 1, 2, 3)), 0, 0]
        for j, order in enumerate(ORDERS):
            for t in range(tests):
                assert parts[i, j, t, 0] == [base[place] for place in order]
                assert parts[i, j, t, 1] == parts[i, 0, t, 1]
    assert (prompts.labels.reshape(shape) == prompts.labels.reshape(shape)[:, :1]).all()
    for row, y, c, s in zip(prompts.rows[::17], prompts.labels[::17], prompts.concepts[::17], prompts.starts[::17]):  # noqa: B905
        assert y == label(language.mixture, c, s, split(prompts, row)[1], False)
    strings = [language.vocabulary.join(row) for row in prompts.rows]
    assert prompts.log_mass == pytest.approx(language.prefix_log_prob(strings), abs=1e-10)
    assert order_sets(language, 3, sets, tests, 4).rows == prompts.rows


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 1}, "at least 2 symbols .* found k = 1"),
        ({"k": 10}, "k = 10 symbols and a delimiter do not fit documents of tiny, which have 10"),
        ({"ns": [0, -1]}, "number of examples ≥ 0, found n = -1"),
        ({"ns": [1, 2]}, "n = 2 examples of length 3 has 10 symbols, documents of tiny have 10"),
        ({"count": 0}, "number of prompts ≥ 1, found 0"),
        ({"n_unseen": 0}, "number of unseen concepts ≥ 1, found 0"),
    ],
)
def test_prompts_that_cannot_be_are_refused(arguments: dict[str, Any], message: str) -> None:
    wanted: dict[str, Any] = {"family": "seen", "k": 3, "ns": [1], "count": 5, "seed": 0} | arguments
    with pytest.raises(UsageError, match=message):
        in_context_prompts(tiny(10), **wanted)


def test_the_longest_prompt_that_leaves_room_for_its_answer_is_allowed() -> None:
    [prompts] = in_context_prompts(tiny(11), "seen", 3, [2], 5, 0)
    assert prompts.symbols.shape[1] == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sets": 0}, "number of sets of examples ≥ 1"),
        ({"tests": 0}, "number of test inputs ≥ 1"),
        ({"k": 9}, "n = 4 examples"),
    ],
)
def test_order_sets_that_cannot_be_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        order_sets(tiny(20), **({"k": 3, "sets": 1, "tests": 1, "seed": 0} | arguments))


def test_examples_that_surely_hold_a_delimiter_are_refused_and_allowed_where_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lmtest.languages.in_context_prompts.MOST_DRAWS", 20_000)
    language = tiny(20, OWN, transitions={"law": "smoothed_permutation", "smoothing": 0.0}, seed=1)
    assert (language.mixture.properties[:, 1:, 0] == 1).any()
    with pytest.raises(UsageError, match="impossible, or nearly so; choose smaller lengths k, or inner_delimiters"):
        in_context_prompts(language, "seen", 3, [1], 50, 0)
    [prompts] = in_context_prompts(language, "seen", 3, [1], 50, 0, inner_delimiters=True)
    assert len(prompts.rows) == 50
