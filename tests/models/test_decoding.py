"""Decoding: greedy is argmax, ties and samples are exact, rows do not depend on each other, cache or no cache."""

import math

import numpy as np
import pytest
import torch

from lmtest.languages import Language
from lmtest.models.decoding import decode
from lmtest.models.reference import StopAtOnce, Uniform
from lmtest.models.transformer import Transformer, TransformerConfig

PROMPTS = [(), (0,), (0, 1), (1, 1, 0), (0, 0, 0, 0, 0)]


class Uncached:
    """The same model without its cache: decode must fall back to reading everything anew."""

    def __init__(self, model: Transformer) -> None:
        self.model = model

    def next_log_probs(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model.next_log_probs(tokens)


def build(language: Language, seeds: tuple[int, ...] = (0, 1, 2)) -> Transformer:
    config = TransformerConfig(layers=2, width=16, heads=2, feed_forward=32)
    model = config.build(language.vocabulary, seeds)
    with torch.no_grad():  # sharper laws, so that seeds write different and non-trivial strings
        model.parameters["output.weight"] *= 4
    return model


def test_greedy_cached_is_greedy_recomputed(anbn_small: Language) -> None:
    model = build(anbn_small)
    one = decode(model, anbn_small.vocabulary, PROMPTS, 12, "greedy", seed=0)
    two = decode(Uncached(model), anbn_small.vocabulary, PROMPTS, 12, "greedy", seed=0)
    assert torch.equal(one.tokens, two.tokens)
    assert torch.equal(one.finished, two.finished)
    assert len({tuple(row.tolist()) for row in one.tokens.flatten(0, 1)}) > 3


def test_rows_do_not_depend_on_order_or_company(anbn_small: Language) -> None:
    model = build(anbn_small)
    for decoding in ("greedy", "sampled"):
        together = decode(model, anbn_small.vocabulary, PROMPTS, 10, decoding, seed=7)
        reversed_ = decode(model, anbn_small.vocabulary, PROMPTS[::-1], 10, decoding, seed=7)
        assert torch.equal(together.tokens, reversed_.tokens.flip(1))
        alone = decode(model, anbn_small.vocabulary, PROMPTS[2:3], 10, decoding, seed=7)
        assert torch.equal(together.tokens[:, 2:3], alone.tokens)


def test_a_seed_decodes_the_same_alone_and_in_a_stack(anbn_small: Language) -> None:
    stack = decode(build(anbn_small), anbn_small.vocabulary, PROMPTS, 10, "sampled", seed=1)
    alone = decode(build(anbn_small, (1,)), anbn_small.vocabulary, PROMPTS, 10, "sampled", seed=1)
    assert torch.equal(stack.tokens[1], alone.tokens[0])


def test_the_language_samples_its_own_law(anbn_small: Language) -> None:
    draws = decode(anbn_small, anbn_small.vocabulary, [()] * 4000, 40, "sampled", seed=3)
    assert bool(draws.finished.all())
    counts = np.bincount(draws.lengths[0].numpy() // 2, minlength=17)[1:]
    chi_square = ((counts - 250.0) ** 2 / 250).sum()
    assert chi_square < 37.7  # 99.9 % quantile at 15 degrees of freedom


def test_greedy_breaks_exact_ties_at_random(anbn_small: Language) -> None:
    done = decode(Uniform(anbn_small.vocabulary), anbn_small.vocabulary, [()] * 3000, 30, "greedy", seed=0)
    share = float((done.lengths[0] == 0).double().mean())
    assert abs(share - 1 / 3) < 4 * math.sqrt(2 / 9 / 3000)


def test_stopping_at_once_finishes_with_nothing(anbn_small: Language) -> None:
    done = decode(StopAtOnce(anbn_small.vocabulary), anbn_small.vocabulary, PROMPTS, 5, "greedy", seed=0)
    assert bool(done.finished.all())
    assert int(done.lengths.sum()) == 0


def test_no_law_after_an_impossible_prompt_writes_nothing(anbn_small: Language) -> None:
    done = decode(anbn_small, anbn_small.vocabulary, [(0, 1), (1, 0)], 9, "greedy", seed=0)
    assert done.defined.tolist() == [[True, False]]
    assert done.finished.tolist() == [[True, False]]


def test_a_completion_may_use_every_new_token_for_its_end(anbn_small: Language) -> None:
    row = (0, 0, 0, 1)
    assert decode(anbn_small, anbn_small.vocabulary, [row], 3, "greedy", seed=0).finished.item()
    assert not decode(anbn_small, anbn_small.vocabulary, [row], 2, "greedy", seed=0).finished.item()


class TwoLines:
    """Two symbols and EOS with the same law, whatever came before."""

    law = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)

    def next_log_probs(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.law.log().expand(1, *tokens.shape, 3)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_samples_follow_the_law_at_its_temperature(anbn_small: Language, temperature: float) -> None:
    prompts = [()] * 4000
    done = decode(TwoLines(), anbn_small.vocabulary, prompts, 1, "sampled", seed=1, temperature=temperature)
    drawn = torch.where(done.finished, 2, done.tokens[..., 0])[0]
    expected = (TwoLines.law ** (1 / temperature)).numpy()
    expected *= 4000 / expected.sum()
    counts = np.bincount(drawn.numpy(), minlength=3)
    assert ((counts - expected) ** 2 / expected).sum() < 13.8  # 99.9 % quantile at 2 degrees of freedom


def test_sampling_grows_greedy_as_it_cools(anbn_small: Language) -> None:
    model = build(anbn_small)
    greedy = decode(model, anbn_small.vocabulary, PROMPTS, 12, "greedy", seed=0)
    cold = decode(model, anbn_small.vocabulary, PROMPTS, 12, "sampled", seed=0, temperature=1e-6)
    warm = decode(model, anbn_small.vocabulary, PROMPTS, 12, "sampled", seed=0)
    assert torch.equal(greedy.tokens, cold.tokens)
    assert not torch.equal(greedy.tokens, warm.tokens)


def test_greedy_knows_no_temperature(anbn_small: Language) -> None:
    model = build(anbn_small)
    plain = decode(model, anbn_small.vocabulary, PROMPTS, 12, "greedy", seed=0)
    hot = decode(model, anbn_small.vocabulary, PROMPTS, 12, "greedy", seed=0, temperature=9.0)
    assert torch.equal(plain.tokens, hot.tokens)
