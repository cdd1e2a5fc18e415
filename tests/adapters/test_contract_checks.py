"""A model that breaks the contract is told so before anything long, each breach in its own words."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lmtest.adapters.checks import check_model
from lmtest.adapters.given import Guarded
from lmtest.errors import LmtestError, UsageError
from lmtest.languages import Language
from lmtest.models.reference import Uniform, reference_models

Law = Callable[[Tensor], Tensor]


class Told:
    """A model that says what a function says."""

    def __init__(self, law: Law) -> None:
        self.law = law

    def next_log_probs(self, tokens: Tensor) -> Tensor:
        return self.law(tokens)


def uniform(tokens: Tensor, size: int = 3) -> Tensor:
    return torch.full((1, *tokens.shape, size), -math.log(size))


def tilted(amount: Tensor) -> Tensor:
    """Laws [1, N, T, 3] that say `amount` [N, T]."""
    logits = torch.stack([amount.float(), torch.zeros(amount.shape), torch.zeros(amount.shape)], -1)
    return logits.log_softmax(-1)[None]


@pytest.mark.parametrize("name", ["language", "uniform", "stop", "rule_keeper", "ngram", "normative"])
def test_reference_models_keep_the_contract(anbn_small: Language, name: str) -> None:
    assert check_model(anbn_small, reference_models(anbn_small)[name], name) == 1


def test_the_number_of_seeds_is_counted(anbn_small: Language) -> None:
    assert check_model(anbn_small, Told(lambda tokens: uniform(tokens).expand(5, -1, -1, -1)), "five") == 5


@pytest.mark.parametrize(
    ("law", "message"),
    [
        (lambda t: uniform(t, 4), r"\[seeds, \d+, \d+, 3\] of log-probabilities \(the last axis is a b <eos>\), found"),
        (lambda t: uniform(t)[0], r"expected next_log_probs to give a tensor \[seeds, .*found \(\d+, \d+, 3\)"),
        (lambda t: uniform(t)[:, :, -1:], "expected next_log_probs to give a tensor"),
        (lambda t: uniform(t)[:0], "expected next_log_probs to give a tensor"),
        (lambda t: uniform(t).numpy(), "found ndarray"),
        (lambda t: torch.ones(1, *t.shape, 3).long(), "torch.int64"),
        (lambda t: uniform(t).exp(), r"behind '' its probabilities do not sum to 1 .*apply log_softmax to logits"),
        (lambda t: uniform(t) * math.nan, r"it gives no law \(NaN\), where the language goes on"),
        (lambda t: torch.full((1, *t.shape, 3), -math.inf), "do not sum to 1"),
        (lambda t: tilted(torch.ones_like(t) * t.flip(1).cumsum(1).flip(1)), "not causal: other symbols later on"),
        (lambda t: tilted(torch.ones_like(t) * t.shape[1]), "depends on padding or on the other rows"),
        (lambda t: tilted(t.double().mean(0) + 0 * t), "not causal|depends on padding or on the other rows"),
    ],
)
def test_each_breach_has_its_own_message(anbn_small: Language, law: Law, message: str) -> None:
    model = Guarded(Told(law), anbn_small.vocabulary, "mine")
    with pytest.raises(UsageError, match=rf"(?s)^mine: .*{message}"):
        check_model(anbn_small, model, "mine")


def test_dropout_that_is_still_on_is_noticed(anbn_small: Language) -> None:
    calls: list[int] = []

    def restless(tokens: Tensor) -> Tensor:
        calls.append(1)
        return tilted(torch.full(tokens.shape, float(len(calls))))

    with pytest.raises(UsageError, match=r"another law when asked again: is dropout still on \(model.eval\(\)\)"):
        check_model(anbn_small, Told(restless), "mine")


def test_a_failure_in_a_strangers_code_is_one_line_with_its_place(anbn_small: Language) -> None:
    def broken(tokens: Tensor) -> Tensor:
        raise KeyError("no such head")

    with pytest.raises(LmtestError, match=r"mine failed on tokens of shape .*KeyError: 'no such head' \(test_contract"):
        check_model(anbn_small, Guarded(Told(broken), anbn_small.vocabulary, "mine"), "mine")


def test_the_guard_gives_float64_without_a_graph(anbn_small: Language) -> None:
    weight = torch.zeros(3, requires_grad=True)
    model = Guarded(Told(lambda t: uniform(t) + weight), anbn_small.vocabulary, "mine")
    law = model.next_log_probs(anbn_small.vocabulary.pack([(0, 1)])[0])
    assert law.dtype == torch.float64
    assert not law.requires_grad
    expected = Uniform(anbn_small.vocabulary).next_log_probs(anbn_small.vocabulary.pack([(0, 1)])[0])
    torch.testing.assert_close(law, expected, atol=1e-6, rtol=0)
