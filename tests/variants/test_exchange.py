"""The exchange and its cost, against KL divergences summed over every document by the chain rule."""

import math
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from brute_force import load
from tiny_mixtures import OWN, prefix_masses, tiny

from lmtest.errors import UsageError
from lmtest.languages import Language, hmm_evidence, load_language
from lmtest.languages.contexts import ImprobablePrefixes, PromptContexts
from lmtest.languages.hmm_mixture import HmmMixture
from lmtest.models.decoding import decode
from lmtest.models.transformer import TransformerConfig
from lmtest.saturation import certify
from lmtest.seeds import generator
from lmtest.variants.exchange import Exchanged, exchange, exchange_cost

FAMILIES = {
    "start": (tiny(8), 2, (2,), False),
    "two lengths": (tiny(7, OWN), 1, (2, 3), False),
    "own": (tiny(8, OWN), 2, (2,), False),
    "anywhere": (tiny(9), 2, (2,), True),
    "anywhere own": (tiny(8, OWN), 1, (2,), True),
}
every_family = pytest.mark.parametrize(
    ("language", "k", "examples", "anywhere"), FAMILIES.values(), ids=FAMILIES.keys()
)
TINY = TransformerConfig(layers=1, width=8, heads=2, feed_forward=8)


@cache
def documents(language: HmmMixture) -> dict[tuple[int, ...], float]:
    """Every document and its probability."""
    masses = prefix_masses(language.mixture, language.length)
    return {word: p for word, p in masses.items() if len(word) == language.length}


def law_of_documents(language: HmmMixture, model: object) -> np.ndarray:
    """ln q(document) [S, N] of every document that has mass, by the chain rule."""
    tokens, _ = language.vocabulary.pack(list(documents(language)))
    targets = torch.nn.functional.pad(tokens[:, 1:], (0, 1), value=language.vocabulary.eos)
    laws = model.next_log_probs(tokens)
    return laws.gather(-1, targets.expand(len(laws), -1, -1)[..., None])[..., 0].sum(-1).numpy()


def masses_of_documents(language: HmmMixture) -> np.ndarray:
    return np.array(list(documents(language).values()))


def cost(language: Language, model: object, contexts: object, draws: int = 100, seed: int = 0):
    return exchange_cost(language, model, contexts, draws, generator(seed, "test"))


@every_family
def test_the_cost_of_the_language_itself_is_its_divergence_over_all_documents(language, k, examples, anywhere) -> None:
    contexts = PromptContexts(language, k, examples, anywhere)
    p, log_q = masses_of_documents(language), law_of_documents(language, Exchanged(language, contexts))[0]
    assert math.fsum(p) == pytest.approx(1, abs=1e-12)
    assert math.fsum(np.exp(log_q)) == pytest.approx(1, abs=1e-12)
    found = cost(language, language, contexts)
    assert found.exact
    assert found.value[0] > 1e-4
    assert found.value[0] == pytest.approx(math.fsum(p * (np.log(p) - log_q)), rel=1e-9)
    assert found.lower[0] == found.upper[0] == found.value[0]
    assert found.value[0] <= found.bound[0] <= found.guaranteed < math.inf
    assert found.no_second[0] == 0


@every_family
def test_the_cost_of_a_model_is_what_its_certificate_gains(language, k, examples, anywhere) -> None:
    contexts = PromptContexts(language, k, examples, anywhere)
    model = TINY.build(language.vocabulary, [4, 7, 9])
    exchanged = Exchanged(model, contexts)
    p = masses_of_documents(language)
    gained = ((law_of_documents(language, model) - law_of_documents(language, exchanged)) * p).sum(-1)
    found = cost(language, model, contexts)
    np.testing.assert_allclose(found.value, gained, rtol=1e-6, atol=1e-12)
    assert len(set(found.value)) == 3
    assert (found.value <= found.bound).all()
    assert math.isinf(found.guaranteed)


@every_family
def test_the_probability_counts_the_contexts_that_a_document_passes_through(language, k, examples, anywhere) -> None:
    contexts = PromptContexts(language, k, examples, anywhere)
    member = contexts.member(language.vocabulary.pack(list(documents(language)))[0])[:, : language.length]
    expected = math.fsum(masses_of_documents(language) * member.sum(-1).numpy())
    assert cost(language, language, contexts).probability == pytest.approx(expected, rel=1e-12)


@every_family
def test_drawn_contexts_estimate_the_sum_within_their_interval(language, k, examples, anywhere, monkeypatch) -> None:
    contexts = PromptContexts(language, k, examples, anywhere)
    models = language, TINY.build(language.vocabulary, [0, 1])
    exact = [cost(language, model, contexts) for model in models]
    monkeypatch.setattr(hmm_evidence, "MOST_LISTED", 0)
    for model, truth in zip(models, exact, strict=True):
        found = [cost(language, model, contexts, 60, seed) for seed in range(20)]
        assert not any(f.exact for f in found)
        inside = [((f.lower <= truth.value) & (truth.value <= f.upper)).mean() for f in found]
        assert np.mean(inside) >= 0.8  # of 20 intervals at 95 %
        assert all((f.lower <= f.value).all() and (f.value <= f.upper).all() for f in found)
        assert found[0].probability == pytest.approx(truth.probability, rel=1e-12)
        assert (found[0].bound <= truth.bound + 1e-12).all()
    again = cost(language, language, contexts, 60, 3)
    np.testing.assert_array_equal(again.value, cost(language, language, contexts, 60, 3).value)


def test_intervals_of_prompts_too_rare_to_square_still_have_a_width() -> None:
    """Probability e⁻⁴⁷⁰: its square is no float."""
    chain = {"law": "permutation_mixture", "permutations": 5, "temperature": 0.5}
    rare = {"law": "shared", "probability": 0.01}
    language = tiny(460, properties=4, vocabulary=5, transitions=chain, delimiter=rare)
    contexts = PromptContexts(language, 3, (100,))
    found = cost(language, language, contexts, 6)
    assert 0 < found.probability < 1e-170
    assert 0 < found.lower[0] < found.value[0] < found.upper[0] <= found.guaranteed * (1 + 1e-9)
    with pytest.raises(UsageError, match=r"whose probability a float can hold, found at most e\^-\d+: choose fewer"):
        cost(language, language, PromptContexts(language, 1, (200,)), 6)


# The exchange of single laws.


def laws(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()


def test_the_two_likeliest_change_places_the_first_of_equals() -> None:
    given = laws([0.4, 0.3, 0.3], [0.2, 0.4, 0.4], [0.1, 0.3, 0.6], [0.2, 0.2, 0.6])
    expected = laws([0.3, 0.4, 0.3], [0.2, 0.4, 0.4], [0.1, 0.6, 0.3], [0.6, 0.2, 0.2])
    assert torch.equal(exchange(given, ()), expected)


def test_rounding_does_not_choose_among_equals() -> None:
    law = laws([0.4, 0.3 - 1e-14, 0.3])
    assert torch.equal(exchange(law, ()), law[:, [1, 0, 2]])


def test_what_may_not_be_exchanged_is_passed_over() -> None:
    given = laws([0.5, 0.3, 0.05, 0.15], [0.3, 0.5, 0.05, 0.15])
    assert torch.equal(exchange(given, (0,)), laws([0.5, 0.15, 0.05, 0.3], [0.3, 0.15, 0.05, 0.5]))


def test_without_a_second_the_law_stays() -> None:
    given = laws([0.0, 0.0, 1.0], [0.4, 0.0, 0.6], [math.nan] * 3)
    assert torch.equal(exchange(given, (0,)).nan_to_num(7.0), given.nan_to_num(7.0))
    with pytest.raises(UsageError, match="expected at least two outputs to exchange, found 3 of which 2 may not be"):
        exchange(given, (0, 2))


def test_only_contexts_are_touched_and_every_seed_exchanges_its_own_two() -> None:
    language = tiny(12, vocabulary=5, properties=4)
    contexts = PromptContexts(language, 2, (2,))
    model = TINY.build(language.vocabulary, range(6))
    tokens = torch.tensor([[language.vocabulary.bos, 1, 2, 0, 3, 1, 0, 2, 4], [language.vocabulary.bos, *[1] * 8]])
    before, after = (m.next_log_probs(tokens) for m in (model, Exchanged(model, contexts)))
    changed = (before != after).any(-1)
    assert changed[:, 0, 7].all()
    assert int(changed.sum()) == 6
    pairs = set()
    for old, new in zip(before[:, 0, 7].tolist(), after[:, 0, 7].tolist(), strict=True):
        first, second = sorted(range(1, 5), key=lambda v: -old[v])[:2]
        assert new[first] == old[second]
        assert new[second] == old[first]
        assert sum(x != y for x, y in zip(old, new, strict=True)) == 2
        pairs.add((first, second))
    assert len(pairs) > 1


def test_the_delimiter_is_passed_over_even_where_it_is_likeliest() -> None:
    language = tiny(9, delimiter={"law": "shared", "probability": 0.6})
    contexts = PromptContexts(language, 2, (2,))
    tokens = language.vocabulary.pack([(1, 2, 0, 1, 2, 0, 1)])[0]
    before, after = (m.next_log_probs(tokens)[0, 0, -1].exp() for m in (language, Exchanged(language, contexts)))
    assert int(before.argmax()) == int(after.argmax()) == 0
    assert before[[0, 3]].tolist() == after[[0, 3]].tolist()
    assert before[[1, 2]].tolist() == after[[2, 1]].tolist()


# Ties, no runner-up, no contexts at all.


def test_ties_cost_nothing_and_are_counted() -> None:
    language = tiny(9, concepts=1, transitions={"law": "uniform"})
    contexts = PromptContexts(language, 2, (2,))
    found = cost(language, language, contexts)
    assert found.value[0] == found.bound[0] == found.guaranteed == 0
    assert found.ties[0] == pytest.approx(1, abs=1e-12)
    assert found.no_second[0] == 0


def test_contexts_without_a_runner_up_are_left_alone_and_counted() -> None:
    certain = {"transitions": {"law": "smoothed_permutation", "smoothing": 0.0}, "concepts": 2, "properties": 2}
    language = tiny(9, **certain)
    contexts = PromptContexts(language, 2, (2,))
    found = cost(language, language, contexts)
    p, log_q = masses_of_documents(language), law_of_documents(language, Exchanged(language, contexts))[0]
    assert found.value[0] == pytest.approx(math.fsum(p * (np.log(p) - log_q)), abs=1e-12)
    # Brute force: the share of contexts, by mass, with one letter alone behind them.
    without = total = 0.0
    for word, mass in prefix_masses(language.mixture, 7).items():
        if len(word) == 7 and bool(contexts.member(language.vocabulary.pack([word])[0])[0, -1]):
            law = language.next_symbol_law(language.vocabulary.join(word))
            total += mass
            without += mass * (min(law["a"], law["b"]) == 0)
    assert 0 < without <= total
    assert found.no_second[0] == pytest.approx(without / total, abs=1e-12)
    assert found.ties[0] == 0
    assert math.isinf(found.guaranteed)


def test_prompts_that_no_document_holds_cost_nothing() -> None:
    """Functional non-identifiability: the delimiter comes every second time or always, never every third."""
    fixed = {"properties": 2, "transitions": {"law": "smoothed_permutation", "smoothing": 0.0}, "concepts": 1}
    language = tiny(9, OWN, **fixed)
    contexts = PromptContexts(language, 2, (2,))
    for model, seeds in ((language, 1), (TINY.build(language.vocabulary, [0, 1]), 2)):
        found = cost(language, model, contexts)
        assert found.exact
        assert found.probability == found.guaranteed == 0
        assert [*found.value, *found.lower, *found.upper, *found.bound] == [0.0] * 4 * seeds
        assert np.isnan(found.ties).all()
        assert np.isnan(found.no_second).all()


def test_impossible_rows_of_the_language_stay_undefined() -> None:
    language = tiny(9)
    tokens = torch.tensor([[language.vocabulary.bos, *[1, 2, 0, 1, 1, 0, 1, 1, 1, 1, 1]]])
    exchanged = Exchanged(language, PromptContexts(language, 2, (2,)))
    assert torch.equal(exchanged.next_log_probs(tokens).isnan(), language.next_log_probs(tokens).isnan())


# Any language, any contexts.


@pytest.mark.parametrize(("name", "length", "below"), [("anbn_small", 4, 1.0), ("anbn_small", 7, 0.6)])
def test_the_cost_on_improbable_prefixes_of_a_finite_language(name: str, length: int, below: float) -> None:
    language = load_language(name)
    contexts = ImprobablePrefixes(language, length, below)
    model = TINY.build(language.vocabulary, [0, 1])
    for one in (language, model):
        exchanged = certify(language, Exchanged(one, contexts), 10, generator(0, "test"))
        assert exchanged.exact
        gained = exchanged.kl - certify(language, one, 10, generator(0, "test")).kl
        np.testing.assert_allclose(cost(language, one, contexts).value, gained, rtol=1e-5, atol=1e-6)


def test_the_cost_on_improbable_prefixes_of_a_grammar() -> None:
    """S → aS | bS | ε: after every prefix a 0.45, b 0.3; the prefixes of three symbols below 0.05 are those with b b."""
    language = load(kind="pcfg", grammar="S -> 'a' S [0.45] | 'b' S [0.3] | [0.25]")
    contexts = ImprobablePrefixes(language, 3, 0.05)
    found = cost(language, language, contexts)
    mass = 3 * 0.45 * 0.3**2 + 0.3**3
    assert found.probability == pytest.approx(mass, rel=1e-9)
    assert found.value[0] == pytest.approx(mass * 0.15 * math.log(0.45 / 0.3), rel=1e-9)
    assert found.value[0] == pytest.approx(found.bound[0], rel=1e-9)


# Refusals, and where models are used.


def test_the_cost_refuses_too_few_draws_and_the_contexts_of_another_language(monkeypatch: pytest.MonkeyPatch) -> None:
    language = tiny(9)
    contexts = PromptContexts(language, 2, (2,), anywhere=True)
    with pytest.raises(UsageError, match="expected contexts of other, found contexts of tiny"):
        cost(SimpleNamespace(name="other"), language, contexts)
    monkeypatch.setattr(hmm_evidence, "MOST_LISTED", 0)
    with pytest.raises(UsageError, match=r"two draws for each of the 2 lengths of contexts .* found 3 draws in all"):
        cost(language, language, contexts, draws=3)


@pytest.mark.parametrize("decoding", ["greedy", "sampled"])
def test_a_wrapped_stack_decodes_as_the_stack_does_but_for_the_contexts(decoding: str) -> None:
    language = tiny(12)
    contexts = PromptContexts(language, 2, (2,))
    model = TINY.build(language.vocabulary, [5, 11])
    exchanged = Exchanged(model, contexts)
    assert exchanged.seeds == (5, 11)
    assert Exchanged(language, contexts).seeds == (0,)
    elsewhere, prompt = [(1, 1, 1, 1), (0, 0)], [(1, 2, 0, 1, 2, 0, 1)]
    kept, same = (decode(m, language.vocabulary, elsewhere, 1, decoding, 0) for m in (model, exchanged))
    assert torch.equal(kept.tokens, same.tokens)
    written = decode(exchanged, language.vocabulary, prompt * 30, 1, decoding, 0).tokens[..., 0]
    law = exchanged.next_log_probs(language.vocabulary.pack(prompt)[0])[:, 0, -1]
    if decoding == "greedy":
        expected = law.argmax(-1)
        expected = torch.where(expected == language.vocabulary.eos, language.vocabulary.pad, expected)
        assert (written == expected[:, None]).all()
    else:
        assert len(written.unique()) > 1
