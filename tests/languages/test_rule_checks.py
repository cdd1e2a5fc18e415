"""Whether rules hold, and whether they are all of the language."""

from typing import Any

import pytest

from lmtest.languages import build_language, load_language
from lmtest.languages.rule_checks import conjunction, rule_shares


def language(**file: Any) -> Any:
    return build_language("x", {"title": "x", **file}, "x")


@pytest.mark.parametrize("name", ["anbn_small", "ban_small", "brackets_nested_small", "anbncn_small", "anbn_geometric"])
def test_shipped_rules_hold(name: str) -> None:
    for found in rule_shares(load_language(name), 500).values():
        assert found.share == 1
        assert found.broken is None


def test_a_broken_rule_has_its_mass_and_a_witness() -> None:
    grammar = "S -> 'a' [0.25] | 'b' [0.75]"
    found = rule_shares(language(kind="pcfg", grammar=grammar, rules={"one": {"regex": "a"}}), 10)["one"]
    assert (found.share, found.strings, found.exact, found.broken) == (pytest.approx(0.25), 2, True, (1,))
    drawn = rule_shares(
        language(
            kind="pcfg", grammar="S -> 'a' S [0.5] | 'b' [0.5]", rules={"one": {"regex": "a*b"}, "no": {"regex": "a*"}}
        ),
        200,
    )
    assert (drawn["one"].share, drawn["one"].exact) == (1.0, False)
    assert drawn["no"].share == 0.0


def test_rules_that_are_the_language_agree_with_it_on_every_string() -> None:
    found = conjunction(load_language("anbn_geometric"))
    assert found is not None
    assert found.counterexample is None
    assert found.length == 14  # 2^15 − 1 strings, and those of 15 symbols would be too many
    assert conjunction(language(kind="pcfg", grammar="S -> 'a' [1.0]")) is None


def test_the_shortest_counterexample_is_told_with_its_side() -> None:
    grammar = "S -> 'a' S 'b' [0.5] | 'a' 'b' [0.5]"
    loose = conjunction(language(kind="pcfg", grammar=grammar, rules={"R2": {"regex": "a*b*"}}))
    assert loose is not None
    assert (loose.counterexample, loose.in_language) == ((), False)
    tight = conjunction(
        language(kind="pcfg", grammar=grammar, rules={"few": {"max_length": 2}, "ab": {"regex": "a+b+"}})
    )
    assert tight is not None
    assert (tight.counterexample, tight.in_language) == ((0, 0, 1, 1), True)
