"""Certificates: zero for the language, closed form for the uniform law, inf for stop-at-once, never negative."""

import math

import numpy as np
import pytest
import torch

from lmtest.languages import Language, load_language
from lmtest.models.reference import RuleKeeper, StopAtOnce, Uniform
from lmtest.models.transformer import TransformerConfig
from lmtest.saturation import SaturationConfig, certify, string_kl
from lmtest.seeds import generator


def kl(language: Language, model: object, draws: int = 300) -> np.ndarray:
    return certify(language, model, draws, generator(0, "test")).kl  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["anbn_small", "anbn_geometric", "dyck2", "english_small", "sums"])
def test_the_language_and_the_rule_keeper_sit_at_the_floor(name: str) -> None:
    language = load_language(name)
    assert abs(kl(language, language)[0]) < 1e-10
    if language.rules:
        assert abs(kl(language, RuleKeeper(language))[0]) < 1e-10


def test_the_uniform_law_is_as_far_as_the_closed_form_says(anbn_small: Language) -> None:
    expected = (anbn_small.mean_length() + 1) * math.log(3) - math.log(16)
    certificate = certify(anbn_small, Uniform(anbn_small.vocabulary), 10, generator(0, "test"))
    assert certificate.exact
    assert certificate.kl[0] == pytest.approx(expected, abs=1e-10)
    assert certificate.lower[0] == certificate.upper[0] == certificate.kl[0]
    assert certificate.tokens == 18


def test_a_model_that_forbids_what_the_language_does_is_infinitely_far(anbn_small: Language) -> None:
    assert math.isinf(kl(anbn_small, StopAtOnce(anbn_small.vocabulary))[0])
    geometric = load_language("anbn_geometric")
    certificate = certify(geometric, StopAtOnce(geometric.vocabulary), 50, generator(0, "test"))
    assert math.isinf(certificate.kl[0])
    assert math.isinf(certificate.upper[0])
    assert not certificate.saturated(SaturationConfig())[0]


def test_the_exact_sum_is_the_definition(anbn_small: Language) -> None:
    """Σ p(w) ln p(w)/q(w) over strings, q by the chain rule: no per-position KL."""
    model = TransformerConfig(layers=1, width=8, heads=2, feed_forward=8).build(anbn_small.vocabulary, [0, 1])
    support = anbn_small.support()
    assert support is not None
    tokens, lengths = anbn_small.vocabulary.pack(support.rows)
    laws = model.next_log_probs(tokens)
    expected = np.zeros(2)
    for i, (row, log_p) in enumerate(zip(support.rows, support.log_probs.tolist(), strict=True)):
        targets = [*row, anbn_small.vocabulary.eos]
        log_q = laws[:, i, torch.arange(len(targets)), targets].sum(-1).numpy()
        expected += math.exp(log_p) * (log_p - log_q)
        assert int(lengths[i]) == len(row)
    np.testing.assert_allclose(kl(anbn_small, model), expected, atol=1e-10)


def test_draws_estimate_the_exact_sum_within_their_interval(
    anbn_small: Language, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = TransformerConfig(layers=1, width=8, heads=2, feed_forward=8).build(anbn_small.vocabulary, range(20))
    exact = kl(anbn_small, model)
    monkeypatch.setattr(type(anbn_small), "support", lambda self, limit=0: None)
    sampled = certify(anbn_small, model, 400, generator(0, "test"))
    assert not sampled.exact
    assert np.all(sampled.lower <= sampled.upper)
    inside = (sampled.lower <= exact) & (exact <= sampled.upper)
    assert inside.all()  # one set of draws for all seeds: all in or (one time in twenty) out together
    assert np.ptp(sampled.upper - sampled.lower) > 0


def test_per_position_terms_are_never_negative(anbn_small: Language) -> None:
    model = TransformerConfig(layers=1, width=8, heads=2, feed_forward=8).build(anbn_small.vocabulary, [0])
    rows = anbn_small.sample_ids(50, generator(1, "test"))
    assert bool((string_kl(anbn_small, model, rows) >= 0).all())
    assert bool((string_kl(anbn_small, anbn_small, rows) >= 0).all())


def test_saturation_per_token_divides_by_the_expected_tokens(anbn_small: Language) -> None:
    certificate = certify(anbn_small, Uniform(anbn_small.vocabulary), 10, generator(0, "test"))
    per_token = certificate.kl[0] / 18
    assert certificate.saturated(SaturationConfig(epsilon=per_token * 1.01, per="token"))[0]
    assert not certificate.saturated(SaturationConfig(epsilon=per_token * 1.01))[0]
