"""The likeliest strings, against sorting all of them."""

import math

import pytest

from lmtest.languages import build_language, load_language
from lmtest.languages.likeliest import likeliest_strings


@pytest.mark.parametrize("name", ["anbn_small", "layered_small", "brackets_nested_small", "ban_small", "english_small"])
@pytest.mark.parametrize("n", [1, 10, 40])
def test_they_are_the_top_of_the_sorted_list(name: str, n: int) -> None:
    language = load_language(name)
    found = likeliest_strings(language, n)
    assert found.complete
    assert found.log_probs == sorted(found.log_probs, reverse=True)
    assert len(set(found.rows)) == len(found.rows)
    assert language.log_prob_ids(found.rows).tolist() == pytest.approx(found.log_probs, abs=1e-9)
    support = language.support()
    if support is not None:
        best = sorted(support.log_probs.tolist(), reverse=True)[:n]
        assert found.log_probs == pytest.approx(best, abs=1e-9)


def test_no_string_is_likelier_than_those_found_in_an_infinite_language() -> None:
    text = "S -> S S [0.3] | '(' S ')' [0.2] | '(' ')' [0.5]"
    language = build_language("g", {"title": "t", "kind": "pcfg", "grammar": text}, "g")
    short = build_language("g", {"title": "t", "kind": "pcfg", "grammar": text, "max_length": 12}, "g").support()
    assert short is not None
    exact = language.log_prob_ids(short.rows)
    best = sorted(exact.tolist(), reverse=True)[:5]
    assert likeliest_strings(language, 5).log_probs == pytest.approx(best, abs=1e-9)


def test_a_language_with_fewer_strings_gives_them_all() -> None:
    language = build_language("g", {"title": "t", "kind": "pcfg", "grammar": "S -> 'a' [0.25] | 'b' [0.75]"}, "g")
    found = likeliest_strings(language, 10)
    assert found.rows == [(1,), (0,)]
    assert [math.exp(p) for p in found.log_probs] == pytest.approx([0.75, 0.25])


def test_a_flat_law_ends_the_search_and_says_so() -> None:
    found = likeliest_strings(load_language("ginc_shared"), 3, most=100)
    assert not found.complete
