"""`kind = "hmm_mixture"`: every method against the enumeration of all paths, every law of the construction, every refusal."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from brute_force import fit, load
from finite_law import check_averages, check_law, check_sample, counts_after
from hmm_paths import masses, total

from lmtest.errors import UsageError
from lmtest.languages import hmm_mixture as module
from lmtest.languages import load_language
from lmtest.languages.hmm import read
from lmtest.languages.hmm_construction import PermutationMixture
from lmtest.languages.hmm_mixture import HmmMixture

MIXED = {"law": "permutation_mixture", "permutations": 3, "temperature": 0.5}
SMOOTHED = {"law": "smoothed_permutation", "smoothing": 0.6}
UNIFORM = {"law": "uniform"}
SHARED = {"law": "shared", "probability": 0.2}
OWN = {"law": "own"}
SOFTMAX = {"law": "softmax", "temperature": 1.0}
BEHIND = {"law": "delimiter"}
BASE: dict[str, object] = {
    "kind": "hmm_mixture",
    "concepts": 3,
    "properties": 2,
    "entities": 2,
    "vocabulary": 5,
    "length": 3,
    "memory": "uniform",
    "delimiter": OWN,
    "transitions": MIXED,
    "entity_transitions": MIXED,
    "entity_inertia": 0.5,
    "start": SOFTMAX,
    "seed": 7,
}
TINY: dict[str, dict[str, object]] = {
    "own": {},
    "own, from the delimiter": {"start": BEHIND},
    "own, smoothed": {"transitions": SMOOTHED, "memory": "distinct"},
    "own, one permutation": {"transitions": {**MIXED, "permutations": 1}, "entities": 1, "properties": 4, "length": 4},
    "shared": {"delimiter": SHARED, "properties": 2, "entities": 1, "length": 4},
    "shared, distinct": {"delimiter": SHARED, "properties": 3, "entities": 1, "memory": "distinct", "length": 4},
    "shared, from the delimiter": {"delimiter": SHARED, "properties": 2, "entities": 1, "start": BEHIND},
    "shared, uniform": {"delimiter": SHARED, "properties": 1, "transitions": UNIFORM, "entity_transitions": UNIFORM},
    "one concept": {"concepts": 1},
    "one symbol": {"length": 1},
    "cold": {"start": {**SOFTMAX, "temperature": 0.01}, "transitions": {**MIXED, "temperature": 0.05}},
}
SHIPPED = ["ginc_paper", "ginc_released", "ginc_shared", "ginc_shared_single", "ginc_shared_random"]
each_tiny = pytest.mark.parametrize("name", TINY)


def build(name: str = "own", **keys: object) -> HmmMixture:
    language = load(**{**BASE, **TINY[name], **keys})
    assert isinstance(language, HmmMixture)
    return language


def hmm(name: str) -> HmmMixture:
    language = load_language(name)
    assert isinstance(language, HmmMixture)
    return language


def documents(language: HmmMixture) -> dict[tuple[str, ...], Fraction]:
    """Every document with its mass, from all paths."""
    names = language.symbols
    return {
        tuple(names[v] for v in row): Fraction(p) for row, p in total(masses(language.mixture, language.length)).items()
    }


def prefixes_of(language: HmmMixture) -> list[tuple[int, ...]]:
    """All rows of up to `length` symbols."""
    lengths = range(language.length + 1)
    return [row for n in lengths for row in itertools.product(range(len(language.symbols)), repeat=n)]


# The law.


@each_tiny
def test_law_is_that_of_all_paths(name: str) -> None:
    language = build(name)
    found = documents(language)
    assert math.fsum(found.values()) == pytest.approx(1, abs=1e-12)
    check_law(language, found, longest=language.length + 1)


@each_tiny
def test_entropy_support_and_length_are_those_of_all_paths(name: str) -> None:
    language = build(name)
    check_averages(language, documents(language))
    assert language.longest == language.mean_length() == language.length
    rate = language.entropy_rate()
    assert (rate.value, rate.half_width, rate.exact) == (language.entropy().value / language.length, 0.0, True)


@each_tiny
def test_samples_have_the_frequencies_of_all_paths(name: str) -> None:
    language = build(name)
    check_sample(language, documents(language))


@each_tiny
def test_posterior_and_probability_by_concept_are_those_of_all_paths(name: str) -> None:
    language = build(name)
    rows = prefixes_of(language)
    prefixes = [language.vocabulary.join(row) for row in rows]
    posterior, by_concept = language.posterior(prefixes), language.concept_log_prob(prefixes)
    by_length = [masses(language.mixture, n) for n in range(language.length + 1)]
    for i, row in enumerate(rows):
        joint = np.array([one.get(row, 0.0) for one in by_length[len(row)]])
        if not joint.any():
            assert np.isnan(posterior[i]).all()
            assert np.isneginf(by_concept[i]).all()
            continue
        np.testing.assert_allclose(posterior[i], joint / joint.sum(), atol=1e-12)
        with np.errstate(divide="ignore"):
            np.testing.assert_allclose(by_concept[i], np.log(joint * len(joint)), rtol=1e-11, atol=1e-11)


def test_an_unknown_symbol_and_too_long_a_prefix_are_dead() -> None:
    language = build("shared")
    prefixes = ["aa?", "a" * (language.length + 1)]
    assert np.isnan(language.posterior(prefixes)).all()
    assert np.isneginf(language.concept_log_prob(prefixes)).all()
    assert np.isneginf(language.prefix_log_prob(prefixes)).all()
    assert not language.contains([*prefixes, "", "a"]).any()
    with pytest.raises(TypeError, match="list of strings"):
        language.posterior("ab")
    assert language.posterior([]).shape == (0, 3)


def test_pad_eos_and_a_second_bos_are_dead_and_so_is_a_row_without_a_first() -> None:
    language = build("shared")
    v = language.vocabulary
    for stranger in (v.pad, v.eos, v.bos):
        joint = language.joint_next(torch.tensor([[v.bos, 0, stranger, 0]]))[0]
        assert (joint > -math.inf).any(-1).tolist() == [True, True, False, False]
    for first in (0, v.pad, v.eos):
        assert language.joint_next(torch.tensor([[first, 0]])).isneginf().all()


def test_eos_is_certain_at_the_length_and_impossible_elsewhere() -> None:
    language = build("shared")
    (document,) = language.sample(1, seed=0)
    laws = [language.next_symbol_law(document[:n])["<eos>"] for n in range(language.length + 1)]
    assert laws == [0.0] * language.length + [1.0]
    longer = language.vocabulary.pack([[1] * (language.length + 2)])[0]
    assert language.joint_next(longer)[0, language.length + 1 :].isneginf().all()


@pytest.mark.parametrize("name", ["own", "shared, distinct"])
def test_strings_read_in_small_chunks_have_the_same_law(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    language = build(name)
    rows = prefixes_of(language)
    tokens = language.vocabulary.pack(rows)[0]
    together = language.joint_next(tokens), language.prefix_log_prob_ids(rows)
    monkeypatch.setattr(module, "CHUNK", 1)
    torch.testing.assert_close(language.joint_next(tokens), together[0], rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(language.prefix_log_prob_ids(rows), together[1], rtol=1e-13, atol=1e-13)


def test_a_sampled_entropy_has_the_enumerated_one_in_its_interval_and_varies_less_than_surprisal() -> None:
    language = build("shared, distinct")
    expected = language.entropy().value
    language._support = None  # as if there were too many documents to list
    inside = 0
    for seed in range(40):
        found = language.entropy(draws=200, seed=seed)
        assert not found.exact
        inside += abs(found.value - expected) <= found.half_width
    assert inside >= 34  # P(fewer | 95 %) < 0.002
    assert language.entropy(draws=200, seed=3) == language.entropy(draws=200, seed=3)
    surprisal = -language.log_prob(language.sample(200, seed=0))
    assert found.half_width < 1.96 * surprisal.std() / math.sqrt(200)
    rate = language.entropy_rate(draws=200, seed=39)
    assert (rate.value, rate.half_width) == (found.value / 4, found.half_width / 4)
    with pytest.raises(UsageError, match="whole number ≥ 2"):
        language.entropy(draws=1)


def test_a_sampled_entropy_reads_no_more_documents_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    language = load_language("ginc_shared")
    monkeypatch.setattr(module, "MOST_READ", 1)
    assert language.entropy(draws=10_000) == language.entropy(draws=2)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5, 6])
@each_tiny
def test_ngram_counts_are_those_of_all_documents(name: str, order: int) -> None:
    language = build(name)
    counts = {word: float(p) for word, p in documents(language).items()}
    expected = counts_after(language, counts, order)
    found = language.ngram_counts(order)
    assert found is not None
    assert list(found) == sorted(expected)
    for context, row in found.items():
        assert row.dtype == torch.float64
        np.testing.assert_allclose(row, expected[context], rtol=1e-11, atol=1e-13)


def test_counts_of_long_documents_add_up_and_too_many_contexts_are_none() -> None:
    language = load_language("ginc_paper")
    counts = language.ngram_counts(2)
    assert counts is not None
    assert float(sum(counts.values()).sum()) == pytest.approx(1025, rel=1e-9)
    assert language.ngram_counts(6) is None
    for order in (0, True, 1.5):
        with pytest.raises(UsageError, match="order"):
            language.ngram_counts(order)  # type: ignore[arg-type]


def test_a_language_with_too_many_documents_is_not_listed() -> None:
    for name in SHIPPED:
        assert load_language(name).support() is None


def test_a_deterministic_chain_of_any_length_is_listed() -> None:
    one = {"law": "smoothed_permutation", "smoothing": 0.0}
    keys = {
        "properties": 3,
        "memory": "distinct",
        "entity_inertia": 1.0,
        "entity_transitions": UNIFORM,
        "vocabulary": 7,
    }
    language = build(transitions=one, length=400, concepts=2, seed=3, **keys)
    support = language.support()
    assert support is not None
    assert len(support.rows) <= 2 * 2 * 3
    assert float(support.log_probs.exp().sum()) == pytest.approx(1, abs=1e-12)


# The construction.


@pytest.mark.parametrize("name", [*TINY, *SHIPPED])
def test_all_laws_sum_to_one_and_property_zero_is_the_delimiters(name: str) -> None:
    mixture = (build(name) if name in TINY else hmm(name)).mixture
    sums = mixture.start.sum((1, 2)), mixture.entities.sum(1), mixture.properties.sum(2), mixture.weights.sum(0)
    for ones in sums:
        torch.testing.assert_close(ones, torch.ones_like(ones), rtol=0, atol=1e-12)
    assert (mixture.memory[:, 0] == 0).all()
    assert (mixture.memory[:, 1:] > 0).all()
    assert (mixture.memory < mixture.n_symbols).all()


def test_a_permutation_mixture_weighs_permutations_by_a_softmax() -> None:
    temperature = 0.4
    for seed in range(20):
        law = {"law": "permutation_mixture", "permutations": 2, "temperature": temperature}
        chain = build(transitions=law, seed=seed, concepts=1, properties=5).mixture.properties[0].numpy()
        np.testing.assert_allclose(chain.sum(0), 1, atol=1e-12)  # of permutations: columns sum to 1 too
        weights = sorted({round(float(p), 12) for p in chain.ravel()} - {0.0, 1.0})
        assert len(weights) == 2
        assert sum(weights) == pytest.approx(1)
        assert 1 <= weights[1] / weights[0] <= math.exp(1 / temperature)  # softmax of two numbers in [0, 1]/t
    (one,) = build(transitions={**law, "permutations": 1}, concepts=1).mixture.properties
    assert sorted(one.flatten().tolist()) == [0.0] * 2 + [1.0] * 2


def test_permutations_are_uniform_and_weights_spread_as_the_temperature_says() -> None:
    rng = np.random.default_rng(0)
    law = PermutationMixture(law="permutation_mixture", permutations=1, temperature=1.0)
    found = [tuple(map(str, law.draw(3, rng).argmax(1))) for _ in range(3000)]
    assert fit(found, {tuple(map(str, p)): 1 / 6 for p in itertools.permutations(range(3))}) > 1e-4
    hot = PermutationMixture(law="permutation_mixture", permutations=1000, temperature=1e6).draw(4, rng)
    np.testing.assert_allclose(hot, 0.25, atol=0.06)
    cold = PermutationMixture(law="permutation_mixture", permutations=1000, temperature=1e-9).draw(4, rng)
    assert sorted(cold.ravel().tolist()) == pytest.approx([0.0] * 12 + [1.0] * 4)


def test_smoothing_zero_is_a_permutation_and_one_is_uniform() -> None:
    for smoothing in (0.0, 0.6, 1.0):
        law = {"law": "smoothed_permutation", "smoothing": smoothing}
        chain = build(transitions=law, concepts=1, properties=5).mixture.properties[0]
        high, low = 1 - smoothing + smoothing / 5, smoothing / 5
        for row in (*chain, *chain.mT):
            assert sorted(row.tolist()) == pytest.approx([low] * 4 + [high], abs=1e-12)


def test_a_shared_delimiter_is_a_coin_of_its_own_behind_every_symbol_of_every_concept() -> None:
    language = build("shared, distinct")
    mixture, d = language.mixture, 0.2
    np.testing.assert_allclose(mixture.properties[:, :, 0], d, atol=1e-15)
    np.testing.assert_allclose(mixture.properties[:, 0, 1:], (1 - d) / 3, atol=1e-15)
    rows = [row for row in prefixes_of(language) if 0 < len(row) < language.length]
    prefixes = [p for p in map(language.vocabulary.join, rows) if language.prefix_log_prob([p])[0] > -math.inf]
    assert [language.next_symbol_law(p)["/"] for p in prefixes] == pytest.approx([d] * len(prefixes))
    assert language.next_symbol_law("")["/"] != pytest.approx(d)
    assert load_language("ginc_shared").next_symbol_law("")["/"] == pytest.approx(0.1)


def test_a_start_behind_a_delimiter_is_its_row_with_the_entity_uniform() -> None:
    for name in ("own, from the delimiter", "shared, from the delimiter"):
        mixture = build(name, entities=2).mixture
        for v in range(2):
            torch.testing.assert_close(mixture.start[:, v], mixture.properties[:, 0] / 2)


def test_a_start_of_softmax_spans_as_much_as_the_temperature_says() -> None:
    for temperature in (0.1, 10.0):
        start = build(start={"law": "softmax", "temperature": temperature}, properties=50, vocabulary=60).mixture.start
        logits = start.log().flatten(1)
        spread = (logits.max(1).values - logits.min(1).values) * temperature
        assert ((spread > 0.8) & (spread <= 1)).all()  # largest minus smallest of 100 uniform numbers


def test_entities_stay_by_inertia_and_else_move_as_the_law_says() -> None:
    free = build(entity_inertia=0.0, entities=4).mixture.entities
    for inertia in (0.3, 0.9, 1.0):
        expected = inertia * torch.eye(4, dtype=torch.float64) + (1 - inertia) * free
        torch.testing.assert_close(build(entity_inertia=inertia, entities=4).mixture.entities, expected)
    np.testing.assert_allclose(build(entity_inertia=0.0, entity_transitions=UNIFORM).mixture.entities, 0.5)


def test_a_distinct_memory_has_a_symbol_for_every_pair_and_a_uniform_one_draws_them_all_alike() -> None:
    distinct = build("shared, distinct", entities=2, vocabulary=8).mixture.memory
    assert distinct.tolist() == [[0, 1, 2, 3], [0, 4, 5, 6]]
    drawn = build(memory="uniform", entities=40, properties=41, vocabulary=5).mixture.memory[:, 1:]
    assert fit([(str(s),) for s in drawn.flatten().tolist()], {(str(s),): 0.25 for s in range(1, 5)}) > 1e-4


def test_a_concept_does_not_depend_on_how_many_there_are() -> None:
    few, many = build(concepts=2).mixture, build(concepts=6).mixture
    assert torch.equal(few.start, many.start[:2])
    assert torch.equal(few.properties, many.properties[:2])
    assert torch.equal(few.entities, many.entities)
    assert torch.equal(few.memory, many.memory)
    assert not torch.equal(build(seed=8, concepts=2).mixture.properties, few.properties)


def test_unseen_concepts_are_new_and_share_memory_and_entities() -> None:
    language = build("shared, distinct")
    some, more = language.unseen(2, seed=5), language.unseen(4, seed=5)
    assert torch.equal(some.properties, more.properties[:2])
    assert torch.equal(some.start, more.start[:2])
    assert some.weights.tolist() == [0.5, 0.5]
    assert some.memory is language.mixture.memory
    assert some.entities is language.mixture.entities
    np.testing.assert_allclose(more.properties[:, :, 0], 0.2, atol=1e-15)  # by the same construction
    assert not torch.equal(language.unseen(2, seed=6).properties, some.properties)
    assert not torch.equal(build("shared, distinct", seed=8).unseen(2, seed=5).properties, some.properties)
    assert float(read(some, torch.tensor([[1, 2, 0]]), every=False).log_mass) < 0


def test_an_unseen_concept_has_no_seen_permutation() -> None:
    language = hmm("ginc_shared")
    seen = {tuple(chain[1:, 1:].argmax(1).tolist()) for chain in language.mixture.properties}
    assert len(seen) == 4
    for chain in language.unseen(60, seed=0).properties:
        assert tuple(chain[1:, 1:].argmax(1).tolist()) not in seen


def test_the_ablations_are_the_shared_language_with_one_concept_and_with_none() -> None:
    shared, single, random = (hmm(name).mixture for name in ("ginc_shared", "ginc_shared_single", "ginc_shared_random"))
    assert torch.equal(single.properties, shared.properties[:1])
    assert torch.equal(single.entities, shared.entities)
    assert torch.equal(single.memory, shared.memory)
    assert torch.equal(random.memory, shared.memory)
    law = load_language("ginc_shared_random").next_symbol_law("abc/b")
    assert list(law.values()) == pytest.approx([0.1, *[0.9 / 8] * 8, 0.0])


def test_symbols_are_letters_and_names_of_two_where_letters_are_too_few() -> None:
    assert load_language("ginc_shared").symbols == ("/", *"abcdefgh")
    assert build(vocabulary=53).symbols == ("/", *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    many = build(vocabulary=54)
    assert many.symbols[:4] == ("/", "aa", "ab", "ac")
    assert set(map(len, many.symbols[1:])) == {2}
    assert many.contains(many.sample(5, seed=0)).all()


def test_of_ten_permutations_a_third_of_the_transitions_is_zero_and_of_a_hundred_none() -> None:
    rng = np.random.default_rng(0)
    share = {
        n: np.mean(
            [
                PermutationMixture(law="permutation_mixture", permutations=n, temperature=0.1).draw(10, rng) == 0
                for _ in range(300)
            ]
        )
        for n in (10, 100)
    }
    assert share[10] == pytest.approx(0.9**10, abs=0.005)
    assert share[100] < 1e-3  # 0.9^100 = 3e-5
    assert (hmm("ginc_paper").mixture.properties > 0).all()
    assert 0.3 < float((hmm("ginc_released").mixture.properties == 0).double().mean()) < 0.4


# What is refused.


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"memory": "distinct", "vocabulary": 2}, r"2 entities × 1 properties.*found 1 beside.*raise vocabulary to 3"),
        ({"memory": "distinct", "delimiter": SHARED, "vocabulary": 4}, r"found 3 beside.*raise vocabulary to 5"),
        ({"vocabulary": 1}, "vocabulary.*greater than or equal to 2.*found 1"),
        ({"vocabulary": 2706}, "vocabulary.*less than or equal to 2705"),
        ({"properties": 1}, "expected properties ≥ 2.*found 1"),
        ({"properties": 0}, "properties.*greater than or equal to 1"),
        ({"entities": 0}, "entities.*greater than or equal to 1"),
        ({"concepts": 0}, "concepts.*greater than or equal to 1"),
        ({"length": 0}, "length.*greater than or equal to 1"),
        ({"length": 100_001}, "length.*less than or equal to 100000"),
        ({"length": 3.0}, "length.*integer"),
        ({"max_length": 2}, r"max_length ≥ length.*exactly 3 symbols, found 2"),
        ({"entity_inertia": 1.5}, "entity_inertia.*less than or equal to 1"),
        ({"start": {"law": "softmax", "temperature": 0.0}}, "start.temperature.*greater than 0.*found 0.0"),
        ({"start": {"law": "softmax"}}, "start.temperature.*missing"),
        ({"start": {"law": "soft"}}, "unknown law 'soft' in 'start'; did you mean 'softmax'"),
        ({"transitions": {**MIXED, "temperature": -1.0}}, "transitions.temperature.*greater than 0.*found -1.0"),
        ({"transitions": {**MIXED, "temperature": math.inf}}, "transitions.temperature.*finite"),
        ({"transitions": {**MIXED, "permutations": 0}}, "transitions.permutations.*greater than or equal to 1"),
        ({"transitions": {**SMOOTHED, "smoothing": 1.1}}, "transitions.smoothing.*less than or equal to 1"),
        (
            {"transitions": {**SMOOTHED, "smothing": 0.1}},
            "unknown key 'transitions.smothing'; did you mean 'smoothing'",
        ),
        ({"entity_transitions": {"permutations": 3}}, "'entity_transitions.law' is missing"),
        ({"delimiter": {"law": "shared", "probability": 1.0}}, "delimiter.probability.*less than 1"),
        ({"delimiter": {"law": "shared", "probability": 0.0}}, "delimiter.probability.*greater than 0"),
        ({"delimiter": {"law": "own", "probability": 0.1}}, "unknown key 'delimiter.probability'"),
        ({"memory": "unifrom"}, "memory"),
        ({"entites": 2}, "unknown key 'entites'; did you mean 'entities'"),
        ({"seed": None}, "'seed' is missing"),
        ({"transitions": UNIFORM, "start": BEHIND}, "concepts 0 and 1 with the same transitions and start law"),
        ({"concepts": 1000, "properties": 100, "entities": 100}, "≤ 10000000.*found 2050000000: lower one"),
    ],
)
def test_what_is_no_mixture_is_refused_by_name(keys: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(**keys)


def test_a_max_length_that_changes_nothing_is_taken() -> None:
    language = build(max_length=3)
    check_law(language, documents(language), longest=3)


def test_unseen_concepts_that_there_are_not_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 1 unseen concept, found 0"):
        build().unseen(0, seed=0)
    with pytest.raises(UsageError, match="none of the 1 concepts has, found none in 1000 draws"):
        hmm("ginc_shared_random").unseen(1, seed=0)


def test_rules_and_prompts_of_a_file_are_read() -> None:
    language = build(rules={"length": {"min_length": 3}}, prompts=[{"regex": "a(a|/)", "length": 2}])
    assert list(language.rules) == ["length"]
    assert len(language.prompts) == 1
