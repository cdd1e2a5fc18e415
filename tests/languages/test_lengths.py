"""The law of lengths, exactly: against the listed strings, and against closed forms where strings cannot be listed."""

import math

import numpy as np
import pytest

from lmtest.languages import build_language, load_language
from lmtest.languages.lengths import bars, lengths


@pytest.mark.parametrize(
    "name",
    ["anbn_small", "anbncn_small", "ban_small", "bban_small", "brackets_nested_small", "brackets_shuffled_small",
     "layered_small", "palindromes", "sums", "anbm", "abn"],
)  # fmt: skip
def test_the_law_is_that_of_the_draws_and_sums_to_one(name: str) -> None:
    language = load_language(name)
    found = lengths(language, 1000)
    assert found.exact
    assert found.law.sum() == pytest.approx(1, abs=1e-6)
    assert float(found.law @ np.arange(len(found.law))) == pytest.approx(language.mean_length(), rel=1e-4)
    drawn = np.array([len(row) for row in language.sample_ids(4000, np.random.default_rng(1))])
    counts = np.bincount(drawn, minlength=len(found.law))[: len(found.law)]
    assert counts.sum() == len(drawn) or found.law[-1] < 1e-3
    se = np.sqrt(found.law * (1 - found.law) / len(drawn))
    assert (np.abs(counts / len(drawn) - found.law) <= 5 * se + 3 / len(drawn)).all()
    assert drawn.std() == pytest.approx(found.spread, rel=0.3)  # sums have a long tail


@pytest.mark.parametrize("name", ["brackets_nested_small", "brackets_shuffled_small", "ban_small", "anbncn_small"])
def test_the_law_is_the_sum_over_all_strings(name: str) -> None:
    language = load_language(name)
    support = language.support()
    if support is None:
        pytest.skip("too many strings to list")
    most = max(map(len, support.rows))
    listed = np.bincount([len(row) for row in support.rows], support.log_probs.exp().numpy(), most + 1)
    law = language.length_law(most)
    assert law is not None
    assert law == pytest.approx(listed, abs=1e-12)


def test_a_limit_conditions_the_law() -> None:
    grammar = {"title": "t", "kind": "pcfg", "grammar": "S -> 'a' S [0.5] | [0.5]"}
    free = lengths(build_language("g", grammar, "g"), 10)
    assert free.law[:4] == pytest.approx([0.5, 0.25, 0.125, 0.0625], abs=1e-15)
    assert free.spread == pytest.approx(math.sqrt(2))
    cut = lengths(build_language("g", grammar | {"max_length": 2}, "g"), 10)
    assert cut.law == pytest.approx(np.array([4, 2, 1]) / 7, abs=1e-12)
    template = {"title": "t", "kind": "template", "template": "a^n b^n", "n": {"law": "geometric", "p": 0.5, "low": 0}}
    cut = lengths(build_language("t", template | {"max_length": 4}, "t"), 10)
    assert cut.law == pytest.approx(np.array([4, 0, 2, 0, 1]) / 7, abs=1e-12)


def test_a_critical_grammar_has_no_mean_and_no_spread() -> None:
    found = lengths(
        build_language("c", {"title": "t", "kind": "pcfg", "grammar": "S -> S S [0.5] | 'a' [0.5]"}, "c"), 10
    )
    assert math.isinf(found.mean)
    assert math.isinf(found.spread)
    catalan = [0, 1 / 2, 1 / 8, 2 / 32, 5 / 128]
    assert found.law[:5] == pytest.approx(catalan, abs=1e-15)


@pytest.mark.parametrize("name", ["english_small", "palindromes", "sums"])
def test_the_spread_in_closed_form_is_that_of_the_law(name: str) -> None:
    language = load_language(name)
    closed = language.length_spread()
    law = language.length_law(3000)
    assert closed is not None
    assert law is not None
    places = np.arange(len(law))
    assert closed == pytest.approx(math.sqrt(law @ places**2 - (law @ places) ** 2), rel=1e-5)


def test_bars_are_as_high_as_the_law() -> None:
    assert bars(np.array([1.0, 0.0, 0.5, 0.125])) == "█ ▄▁"
    assert len(bars(np.full(600, 1 / 600))) <= 60
    assert bars(np.zeros(3)) == ""
