"""Corners that an audit found: rare symbols, long strings, heavy tails, near-critical grammars, odd input."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from lmtest.errors import UsageError
from lmtest.languages import Language, build_language, load_language
from lmtest.languages.ambiguity import proven_unambiguous
from lmtest.languages.grammar import read


def pcfg(grammar: str, **keys: Any) -> Language:
    return build_language("x", {"title": "x", "kind": "pcfg", "grammar": grammar, **keys}, "x.toml")


def template(text: str, **keys: Any) -> Language:
    return build_language("x", {"title": "x", "kind": "template", "template": text, **keys}, "x.toml")


def geometric(p: float, low: int = 1) -> dict[str, Any]:
    return {"law": "geometric", "p": p, "low": low}


def uniform(low: int, high: int) -> dict[str, Any]:
    return {"law": "uniform", "low": low, "high": high}


@pytest.mark.parametrize(
    "grammar", ["S -> S S [0.3] | [0.6999] | 'a' [0.0001]", "S -> S S [0.4999] | [0.4999] | 'a' [0.0002]"]
)
def test_a_symbol_may_be_rare(grammar: str) -> None:
    language = pcfg(grammar)
    law = language.next_symbol_law("")
    assert math.fsum(law.values()) == pytest.approx(1)
    assert 0 < math.exp(language.log_prob(["a"])[0]) < 0.02


@pytest.mark.parametrize("keys", [{}, {"max_length": 1000}])
def test_template_masses_far_below_the_smallest_float(keys: dict[str, Any]) -> None:
    language = template("a^n b^n", n=geometric(0.9), **keys)
    expected = 399 * math.log(0.1) + math.log(0.9)
    assert language.log_prob(["a" * 400 + "b" * 400])[0] == pytest.approx(expected, rel=1e-12)
    assert language.contains(["a" * 400 + "b" * 400, "a" * 400 + "b" * 399]).tolist() == [True, False]
    assert language.prefix_log_prob(["a" * 400])[0] == pytest.approx(399 * math.log(0.1), rel=1e-12)
    assert language.next_symbol_law("a" * 400 + "b") == {"a": 0.0, "b": 1.0, "<eos>": 0.0}


def test_a_long_string_at_its_limit() -> None:
    language = pcfg("S -> 'a' S 'b' [0.5] | 'a' 'b' [0.5]", max_length=500)
    string = "a" * 250 + "b" * 250
    assert language.log_prob([string])[0] == pytest.approx(250 * math.log(0.5), rel=1e-9)
    assert language.next_symbol_law(string[:-1]) == {"a": 0.0, "b": 1.0, "<eos>": 0.0}


def test_few_long_strings_are_listed_at_once() -> None:
    support = pcfg("S -> 'a' S [0.5] | 'a' [0.5]", max_length=1000).support()
    assert support is not None
    assert sorted(map(len, support.rows)) == list(range(1, 1001))
    assert float(support.log_probs.exp().sum()) == pytest.approx(1)


def test_the_support_is_the_law() -> None:
    language = pcfg(
        "S -> S S [0.2] | 'a' [0.3] | B [0.3] | [0.2]\nB -> 'b' S [0.4] | S [0.2] | 'b' [0.4]", max_length=6
    )
    support = language.support()
    assert support is not None
    torch.testing.assert_close(language.log_prob_ids(support.rows), support.log_probs, atol=1e-10, rtol=0)
    assert float(support.log_probs.exp().sum()) == pytest.approx(1)


def test_languages_too_large_to_list_say_so_quickly() -> None:
    assert load_language("dyck2").support() is None
    assert template("a^n a^m a^k", n=uniform(1, 200), m=uniform(1, 200), k=uniform(1, 200)).support() is None


def test_an_injective_template_has_an_exact_entropy_under_a_limit() -> None:
    limited = template("a^n b^m", n=geometric(0.3), m=uniform(0, 5), max_length=12)
    support = limited.support()
    assert support is not None
    assert limited.entropy().exact
    assert limited.entropy().value == pytest.approx(float(-(support.log_probs.exp() * support.log_probs).sum()))
    large = template("a^n b^m c^k", n=uniform(1, 200), m=uniform(1, 200), k=uniform(1, 200), max_length=300).entropy()
    assert large.exact
    assert math.log(1_000_000) < large.value < math.log(200**3)


def test_what_is_too_much_work_to_sample_is_refused() -> None:
    with pytest.raises(UsageError, match="no closed form, and its draws reach"):
        pcfg("E -> E '+' E [0.499] | 'x' [0.501]").entropy()
    with pytest.raises(UsageError, match="no mean length"):
        pcfg("S -> S S [0.5] | 'a' [0.5]").entropy()


def test_near_critical_is_not_critical() -> None:
    assert pcfg("S -> 'x' S [0.9999999999] | 'a' [0.0000000001]").mean_length() == pytest.approx(1e10, rel=1e-5)
    assert pcfg("S -> S S [0.5] | 'a' [0.5]").mean_length() == math.inf
    with pytest.raises(UsageError, match=r"loses mass: 'S' ends with probability 0\.9999999"):
        pcfg("S -> S S [0.50000000001] | 'a' [0.49999999999]")


@pytest.mark.parametrize(
    "critical", ["B -> B B [0.5] | 'b' [0.5]", "B -> B B [0.5] | C [0.5]\nC -> C C [0.5] | 'b' [0.5]"]
)
def test_the_lost_mass_is_right_beside_critical_nonterminals(critical: str) -> None:
    with pytest.raises(UsageError, match=r"ends with probability 0\.8333333333"):
        pcfg("S -> A [0.5] | B [0.5]\nA -> A A [0.6] | 'a' [0.4]\n" + critical)


def test_comments_are_no_probabilities() -> None:
    assert pcfg("# it's a note\nS -> 'b' [0.0] | 'a' [1.0]").symbols == ("a",)
    with pytest.raises(UsageError, match="without a probability"):
        pcfg("# [0.0] note\nS -> 'b' | 'a' [1.0]")


def test_an_undefined_start_is_named() -> None:
    with pytest.raises(UsageError, match="start symbol 'X' has no rule"):
        pcfg("%start X\nS -> 'a' [1.0]")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"n": {"law": "weights", "weights": [0.5, math.nan]}}, "finite number"),
        ({"n": {"law": "uniform", "low": 1, "hihg": 3}}, "unknown key 'hihg'; did you mean 'high'"),
        ({"n": {"low": 1, "high": 3}}, "n: the key 'law' is missing"),
        ({"n": {"law": "unifrom", "high": 3}}, "did you mean 'uniform'"),
        ({"n": uniform(1, 3), "template": "(^n )^n"}, "cannot read"),
        ({"n": uniform(1, 3), "template": "a^{n 3}"}, "cannot read"),
        ({"n": uniform(1, 3), "template": "a^00n"}, "cannot read"),
        ({"kind": ["pcfg"], "n": uniform(1, 3)}, "unknown kind"),
    ],
)
def test_templates_that_cannot_be_meant_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_language("x", {"title": "x", "kind": "template", "template": "a^n", **keys}, "x.toml")


def test_a_group_among_words_is_one_word() -> None:
    assert template("(the)^n cat", n=uniform(1, 3)).symbols == ("the", "cat")
    assert template("(ab)^n c", n=uniform(1, 3)).symbols == ("a", "b", "c")
    assert template("'('^n ')'^n", n=uniform(1, 3)).symbols == ("(", ")")


@pytest.mark.parametrize("name", ["anbn_small", "anbn_geometric"])
def test_tokens_that_are_none_are_dead(name: str) -> None:
    language = load_language(name)
    bos = language.vocabulary.bos
    laws = language.next_log_probs(torch.tensor([[bos, 0, -1], [bos, -100, 0], [bos, 0, 99]]))[0].isnan().any(-1)
    assert laws.tolist() == [[False, False, True], [False, True, True], [False, False, True]]
    small = language.next_log_probs(torch.tensor([[bos, 0]], dtype=torch.int8))
    torch.testing.assert_close(small, language.next_log_probs(torch.tensor([[bos, 0]])))
    with pytest.raises(UsageError, match="shape"):
        language.next_log_probs(torch.tensor([bos]))


@pytest.mark.parametrize("seed", [-1, None, 1.5])
def test_a_seed_is_a_number(seed: Any) -> None:
    with pytest.raises(UsageError, match="seed that is a whole number"):
        load_language("anbn_small").sample(2, seed)


def test_unambiguity_of_many_bracket_kinds_is_proven_in_time() -> None:
    kinds = [f"'<{i}' S '{i}>' S [0.05]" for i in range(10)]
    assert proven_unambiguous(read("S -> " + " | ".join(kinds) + " | [0.5]"))
    assert not proven_unambiguous(read("S -> S S [0.3] | 'a' [0.7]"))
    assert not proven_unambiguous(read("S -> 'a' S [0.3] | 'a' [0.3] | B [0.4]\nB -> 'a' [1.0]"))


def test_nested_repetitions_are_refused_before_they_explode() -> None:
    rules = {"R": {"regex": "((a{0,100}){0,100}b){0,100}"}}
    with pytest.raises(UsageError, match="grows too large"):
        template("a^n b^n", n=uniform(1, 3), rules=rules)


def test_strings_of_very_different_weight_in_one_batch() -> None:
    language = pcfg("S -> A [0.5] | B [0.5]\nA -> 'x' A [0.999] | 'x' [0.001]\nB -> 'x' B [0.1] | 'y' [0.9]")
    strings = ["x" * 300, "x" * 300 + "y", "y", "xy"]
    expected = [
        math.log(0.5) + 299 * math.log(0.999) + math.log(0.001),
        math.log(0.5) + 300 * math.log(0.1) + math.log(0.9),
        math.log(0.45),
        math.log(0.045),
    ]
    np.testing.assert_allclose(language.log_prob(strings), expected, rtol=1e-10)
