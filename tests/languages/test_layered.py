"""Layered PCFGs: what their file says is what is drawn, and the laws of small ones are those of full enumeration."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from brute_force import Grammar, load, mean_length, parse, productive, reachable
from hypothesis import given, settings
from hypothesis import strategies as st

from lmtest.errors import UsageError
from lmtest.languages import load_language
from lmtest.languages.layered import Layered
from lmtest.languages.pcfg import Pcfg

SMALL: dict[str, object] = {
    "starts": 2,
    "levels": 2,
    "symbols": 2,
    "binary": 2,
    "lexical": 2,
    "terminals": 3,
    "terminal_probability": 0.2,
    "seed": 0,
}


def drawn(**changes: object) -> Grammar:
    """The judge's own reading of the grammar's text: terminals are names in quotes there."""
    return parse(Layered.model_validate(SMALL | changes).grammar_text().replace("'", ""))


def law(grammar: Grammar, symbol: str) -> Counter[tuple[str, ...]]:
    """Every string of a symbol with its probability: finite, since a level only leads to the next."""
    if symbol not in grammar:
        return Counter({(symbol,): 1.0})
    masses: Counter[tuple[str, ...]] = Counter()
    for p, rhs in grammar[symbol]:
        for parts in itertools.product(*(law(grammar, part).items() for part in rhs)):
            masses[tuple(s for word, _ in parts for s in word)] += p * math.prod(q for _, q in parts)
    return masses


def test_rules_are_those_that_the_file_asks_for() -> None:
    grammar = drawn(starts=3, levels=3, symbols=4, binary=5, lexical=6, terminals=9)
    assert [rhs for _, rhs in grammar["S"]] == [("S1",), ("S2",), ("S3",)]
    pairs = [grammar[f"S{i}"] for i in (1, 2, 3)]
    assert all(len(rules) == 1 and rules[0][0] == 1 and len(rules[0][1]) == 2 for rules in pairs)
    assert len({rules[0][1] for rules in pairs}) == 3
    for level, i in itertools.product((1, 2), range(4)):
        rules = grammar[f"A{level}_{i}"]
        assert sorted(len(rhs) for _, rhs in rules) == [1, 2, 2, 2, 2, 2]
        assert len({rhs for _, rhs in rules}) == 6
        assert all(part.startswith(f"A{level + 1}_") for _, rhs in rules if len(rhs) == 2 for part in rhs)
    for i in range(4):
        assert len({rhs for _, rhs in grammar[f"A3_{i}"]}) == 6
        assert all(rhs[0] not in grammar for _, rhs in grammar[f"A3_{i}"])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    sizes=st.fixed_dictionaries({key: st.integers(1, 3) for key in ("starts", "levels", "binary", "lexical", "seed")}),
    t=st.sampled_from([0.0, 0.18, 0.5]),
)
def test_every_layered_grammar_is_a_law_on_strings_of_bounded_length(sizes: dict[str, int], t: float) -> None:
    knobs = SMALL | sizes | {"terminal_probability": t}
    grammar = drawn(**knobs)
    assert all(math.fsum(p for p, _ in rules) == pytest.approx(1, abs=1e-12) for rules in grammar.values())
    assert productive(grammar) == set(grammar)
    language = load(kind="layered_pcfg", **knobs)
    assert 2 <= language.longest <= 2 ** sizes["levels"]
    assert language.mean_length() == pytest.approx(mean_length(grammar), rel=1e-9)
    if t == 0:
        assert language.mean_length() == pytest.approx(2 ** sizes["levels"], rel=1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_law_of_a_small_layered_grammar_equals_enumeration(seed: int) -> None:
    truth = law(drawn(seed=seed), "S")
    language = load(kind="layered_pcfg", **(SMALL | {"seed": seed}))
    strings = list(truth)
    np.testing.assert_allclose(language.log_prob(strings), np.log(list(truth.values())), rtol=1e-9)
    entropy = -math.fsum(p * math.log(p) for p in truth.values())
    assert language.entropy().exact
    assert language.entropy().value == pytest.approx(entropy, rel=1e-9)


def test_a_symbol_is_drawn_from_a_stream_of_its_own() -> None:
    few, more = drawn(levels=3), drawn(levels=3, starts=4)
    assert {name: rules for name, rules in few.items() if name.startswith("A")} == {
        name: rules for name, rules in more.items() if name.startswith("A")
    }
    assert drawn() == drawn()
    assert drawn() != drawn(seed=1)


def test_weight_of_a_symbols_own_terminal_has_the_mean_that_is_asked_for() -> None:
    grammar = drawn(levels=3, symbols=300, terminals=10)
    own = [p for name in grammar if name.startswith(("A1", "A2")) for p, rhs in grammar[name] if len(rhs) == 1]
    assert len(own) == 600
    assert np.mean(own) == pytest.approx(0.2, abs=4 * 0.4 / math.sqrt(12 * 600))
    assert 0 < min(own) < 0.02 < 0.38 < max(own) < 0.4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"starts": 5}, "starts ≤ 4, the number of pairs of symbols, found 5"),
        ({"binary": 5}, "binary ≤ 4"),
        ({"lexical": 4}, "lexical ≤ 3, the number of terminals"),
        ({"levels": 0}, "levels"),
        ({"levels": 9}, "levels"),
        ({"terminal_probability": 0.6}, "terminal_probability"),
        ({"symbols": 1000, "binary": 100}, "at most 50000 rules"),
        ({"seed": -1}, "seed"),
        ({"terminal": 3}, "terminal.*terminals"),
    ],
)
def test_faulty_layered_file_is_refused_and_the_fault_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(kind="layered_pcfg", **(SMALL | changes))


def test_missing_key_of_a_layered_file_is_named() -> None:
    with pytest.raises(UsageError, match=r"the key 'levels' is missing"):
        load(kind="layered_pcfg", **{key: value for key, value in SMALL.items() if key != "levels"})


# What is shipped.


def test_shipped_small_one_is_listed_exactly() -> None:
    language = load_language("layered_small")
    assert isinstance(language, Pcfg)
    truth = law(parse(language.text.replace("'", "")), "S")
    support = language.support()
    assert support is not None
    listed = {
        tuple(language.vocabulary.join(row)): float(p) for row, p in zip(support.rows, support.log_probs, strict=True)
    }
    assert set(listed) == set(truth)
    assert len(truth) < 20_000
    assert max(map(len, truth)) == language.longest == 8
    assert max(abs(listed[word] - math.log(p)) for word, p in truth.items()) < 1e-9
    assert len(language.symbols) == 8
    assert language.entropy().exact


def test_shipped_large_one_has_the_published_sizes() -> None:
    language = load_language("liu_pcfg_like")
    assert isinstance(language, Pcfg)
    grammar = parse(language.text.replace("'", ""))
    assert reachable(grammar) == set(grammar) | set(language.symbols)
    assert (len(grammar), len(language.symbols), language.longest) == (50, 200, 16)
    assert language.mean_length() == pytest.approx(10.63, abs=0.2)  # published: 10.63
    assert language.mean_length() == pytest.approx(mean_length(grammar), rel=1e-9)
