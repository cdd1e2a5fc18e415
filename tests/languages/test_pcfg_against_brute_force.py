"""Grammars: every method of the language against the judge, which enumerates."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from brute_force import (
    EOS,
    Grammar,
    Truth,
    Word,
    alphabet,
    ambiguous,
    derivation_entropy,
    fit,
    grammars,
    load,
    mean_length,
    merged,
    parse,
    reachable,
    render,
    truth_of_grammar,
    truth_within,
    words,
)
from hypothesis import HealthCheck, Phase, find, given, settings

GRAMMARS = {
    "catalan": "S -> S S [0.3] | a [0.7]",
    "unit cycle": "S -> A [0.5] | a [0.5]\nA -> S [0.5] | b [0.5]",
    "unit self-loop": "S -> S [0.9] | a S [0.05] | b [0.05]",
    "ε everywhere": "S -> A B [0.6] | A A A [0.4]\nA -> a A [0.5] | [0.5]\nB -> A [0.5] | b [0.25] | S [0.25]",
    "ε alone or not": "S -> A A [1.0]\nA -> [0.75] | a [0.25]",
    "left recursion": "S -> S a [0.25] | S b [0.25] | a [0.5]",
    "hidden left recursion": "S -> N S a [0.4] | b [0.6]\nN -> [0.5] | a [0.5]",
    "right recursion behind ε": "S -> a S N [0.4] | b [0.6]\nN -> N N [0.1] | [0.6] | a [0.3]",
    "mutual left recursion": "S -> A b [0.4] | a [0.6]\nA -> S a [0.5] | A b [0.25] | b [0.25]",
    "useless symbols": "S -> a A [0.5] | b [0.5]\nA -> a [1.0]\nU -> c U [0.5] | S [0.5]\nW -> W W [0.9] | c [0.1]",
    "nullable start": "S -> a S b S [0.3] | [0.7]",
    "palindromes": "S -> a S a [0.25] | b S b [0.25] | a [0.125] | b [0.125] | [0.25]",
    "dyck of two": "S -> ( S ) S [0.2] | [ S ] S [0.2] | [0.6]",
    "counted": "S -> a S b [0.5] | a b [0.5]",
    "regular": "S -> b A [1.0]\nA -> a B [0.4] | b A [0.3] | [0.3]\nB -> a A [0.5] | b B [0.5]",
    "ambiguous if-then-else": "S -> i S [0.25] | i S e S [0.25] | x [0.5]",
    "finite and ambiguous": "S -> A B [0.5] | a B b [0.5]\nA -> a [0.5] | a a [0.5]\nB -> b [0.5] | a b [0.5]",
    "the same rule twice": "S -> a S [0.25] | a S [0.25] | b [0.5]",
    "only the empty string and one symbol": "S -> [0.5] | a [0.5]",
    "one string": "S -> a b a [1.0]",
    "long right-hand side": "S -> a S b S c S a [0.05] | b b b b b b [0.2] | c [0.75]",
    "first nonterminal starts": "Z -> a S [0.5] | b [0.5]\nS -> c Z [0.5] | c [0.5]",
    "odds of a million": "S -> a S [0.000001] | b S [0.1] | c [0.899999]",
}
LONGEST = {"dyck of two": 4, "long right-hand side": 6}


@cache
def truth_named(name: str) -> Truth:
    return truth_of_grammar(parse(GRAMMARS[name]), LONGEST.get(name, 6))


@pytest.fixture(params=GRAMMARS)
def case(request: pytest.FixtureRequest):
    grammar = parse(GRAMMARS[request.param])
    return grammar, truth_named(request.param), load(kind="pcfg", grammar=render(grammar))


def close(found: object, expected: object) -> None:
    """Log-probabilities agree to 1e-9, the infinite ones exactly."""
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=1e-9, atol=1e-9)


def log(values: list[float]) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(np.array(values, dtype=float))


def check_law(language, truth: Truth) -> None:
    """Masses, next-symbol laws and membership, on strings, on prefixes and as a model."""
    assert set(language.symbols) == set(truth.symbols)
    strings = list(truth.strings)
    close(language.log_prob(strings), log(list(truth.strings.values())))
    assert language.contains(strings).tolist() == [p > 0 for p in truth.strings.values()]
    prefixes = [w for w in strings if len(w) < truth.longest]
    close(language.prefix_log_prob(prefixes), log([truth.prefixes[w] for w in prefixes]))
    live = [w for w in prefixes if truth.prefixes[w] > 0]
    for prefix in live[:: max(1, len(live) // 25)]:
        law = language.next_symbol_law(prefix)
        assert set(law) == {*truth.symbols, EOS}
        assert sum(law.values()) == pytest.approx(1, abs=1e-12)
        assert law == pytest.approx(truth.next_law(prefix), rel=1e-9, abs=1e-15)
    check_model(language, truth)


def check_model(language, truth: Truth) -> None:
    """Every row of the tensor is the next-symbol law of that prefix, NaN where the prefix is dead."""
    symbols = list(language.symbols)
    longest = truth.longest - 1
    full = [w for w in truth.strings if len(w) == longest]
    ids = [[len(symbols) + 1] + [symbols.index(s) for s in w] for w in full]
    found = language.next_log_probs(torch.tensor(ids))
    assert found.shape == (1, len(full), longest + 1, len(symbols) + 1)
    assert found.dtype == torch.float64
    expected = np.full(found.shape, math.nan)
    for i, word in enumerate(full):
        for t in range(longest + 1):
            if truth.prefixes[word[:t]] > 0:
                law = truth.next_law(word[:t])
                expected[0, i, t] = log([law[s] for s in (*symbols, EOS)])
    close(found, expected)


def check_averages(language, grammar: Grammar, truth: Truth) -> None:
    """Mean length and entropy; the judge knows the entropy of an ambiguous infinite language between two bounds."""
    assert language.mean_length() == pytest.approx(mean_length(grammar), rel=1e-9)
    assert language.mean_length() >= truth.mean_length_bound() - 1e-9
    entropy = language.entropy(draws=500, seed=3)
    assert entropy.exact == (entropy.half_width == 0)
    if truth.finite:
        assert entropy.exact
        assert entropy.value == pytest.approx(truth.entropy(), rel=1e-9, abs=1e-12)
        assert language.mean_length() == pytest.approx(truth.mean_length(), rel=1e-9)
        return
    grammar = merged(grammar)
    if entropy.exact:
        assert not ambiguous(grammar, truth.longest)
        assert entropy.value == pytest.approx(derivation_entropy(grammar), rel=1e-9)
    slack = 2.5 * entropy.half_width + 1e-9
    assert truth.entropy_bound() - slack <= entropy.value <= derivation_entropy(grammar) + slack


def check_sample(language, strings: dict[Word, float], draws: int) -> None:
    """Members only, in the right proportions, and the same ones for the same seed."""
    sample = language.sample(draws, seed=11)
    assert len(sample) == draws
    assert sample == language.sample(draws, seed=11)
    assert language.contains(sample[:50]).all()
    assert fit(map(language.vocabulary.split, sample), strings) > 1e-4


# The judge judged.


def test_judge_knows_the_catalan_numbers() -> None:
    truth = truth_of_grammar(parse(GRAMMARS["catalan"]), 7)
    for n, count in enumerate([1, 1, 2, 5, 14, 42, 132], start=1):
        assert truth.strings[("a",) * n] == pytest.approx(count * 0.3 ** (n - 1) * 0.7**n, rel=1e-12)
    assert truth.prefixes[()] == pytest.approx(1, abs=1e-12)


def test_judge_sums_over_a_unit_cycle() -> None:
    truth = truth_named("unit cycle")
    assert truth.strings[("a",)] == pytest.approx(2 / 3, rel=1e-12)
    assert truth.strings[("b",)] == pytest.approx(1 / 3, rel=1e-12)
    assert truth.finite


@pytest.mark.parametrize("name", GRAMMARS)
def test_judge_keeps_all_mass_and_every_prefix_splits_into_its_continuations(name: str) -> None:
    truth = truth_named(name)
    assert truth.prefixes[()] == pytest.approx(1, abs=1e-11)
    for word, mass in truth.prefixes.items():
        if len(word) < truth.longest:
            parts = truth.strings[word] + sum(truth.prefixes[(*word, s)] for s in truth.symbols)
            assert parts == pytest.approx(mass, rel=1e-12, abs=1e-300)


@pytest.mark.parametrize("name", ["ε everywhere", "hidden left recursion", "ambiguous if-then-else", "palindromes"])
def test_judge_agrees_with_random_derivations(name: str) -> None:
    grammar, truth, rng = parse(GRAMMARS[name]), truth_named(name), np.random.default_rng(0)

    def derive(symbol: str) -> Word:
        if symbol not in grammar:
            return (symbol,)
        rules = grammar[symbol]
        _, rhs = rules[rng.choice(len(rules), p=[p for p, _ in rules])]
        return tuple(s for part in rhs for s in derive(part))

    assert fit([derive("S") for _ in range(1500)], truth.strings) > 1e-4


def test_judge_sees_ambiguity() -> None:
    seen = {name for name in GRAMMARS if ambiguous(parse(GRAMMARS[name]), min(5, LONGEST.get(name, 5)))}
    unambiguous = {"left recursion", "useless symbols", "nullable start", "palindromes", "dyck of two", "counted"}
    unambiguous |= {"regular", "only the empty string and one symbol", "one string", "long right-hand side"}
    unambiguous |= {"first nonterminal starts", "odds of a million", "mutual left recursion"}
    assert seen == set(GRAMMARS) - unambiguous


FEATURES: dict[str, Callable[[Grammar], bool]] = {
    "ε-rule": lambda g: any(not r for a in reachable(g) & set(g) for _, r in g[a]),
    "unit cycle": lambda g: any(r == (b,) and (a,) in [q for _, q in g[b]] for a in g for _, r in g[a] for b in g),
    "left recursion": lambda g: any(r[:1] == (a,) for a in reachable(g) & set(g) for _, r in g[a]),
    "unreachable": lambda g: bool(set(g) - reachable(g)),
    "ambiguity": lambda g: ambiguous(g, 3),
    "infinite": lambda g: not truth_of_grammar(g, 5).finite,
}


@pytest.mark.parametrize("feature", FEATURES)
def test_random_grammars_have_every_feature(feature: str) -> None:
    options = settings(max_examples=300, derandomize=True, database=None, phases=[Phase.generate])
    find(grammars(), FEATURES[feature], settings=options)


# The language judged.


def test_law_of_a_grammar_equals_enumeration(case) -> None:
    _, truth, language = case
    check_law(language, truth)


def test_averages_of_a_grammar_equal_enumeration(case) -> None:
    grammar, truth, language = case
    check_averages(language, grammar, truth)


def test_samples_of_a_grammar_fit_its_law(case) -> None:
    _, truth, language = case
    check_sample(language, truth.strings, 5000)


@pytest.mark.parametrize("name", GRAMMARS)
def test_law_within_max_length_is_the_conditioned_law(name: str) -> None:
    grammar, limit = parse(GRAMMARS[name]), 4
    truth = truth_within(grammar, limit, 5 if len(alphabet(grammar)) < 4 else 4)
    language = load(kind="pcfg", grammar=render(grammar), max_length=limit)
    check_law(language, truth)
    entropy = language.entropy()
    assert (entropy.exact, entropy.half_width) == (True, 0)
    assert entropy.value == pytest.approx(truth.entropy(), rel=1e-9, abs=1e-12)
    assert language.mean_length() == pytest.approx(truth.mean_length(), rel=1e-9)
    check_sample(language, truth.strings, 2000)
    assert max(map(len, map(language.vocabulary.split, language.sample(100, seed=1)))) <= limit
    for word in words(truth.symbols, limit):
        if len(word) == limit and truth.prefixes[word] > 0:
            assert language.next_symbol_law(word) == pytest.approx({**dict.fromkeys(truth.symbols, 0.0), EOS: 1.0})


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(grammar=grammars())
def test_random_grammars_equal_enumeration(grammar: Grammar) -> None:
    truth = truth_of_grammar(grammar, 4)
    language = load(kind="pcfg", grammar=render(grammar))
    check_law(language, truth)
    check_averages(language, grammar, truth)
    check_sample(language, truth.strings, 200)


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(grammar=grammars())
def test_random_grammars_within_max_length_equal_enumeration(grammar: Grammar) -> None:
    full = truth_of_grammar(grammar, 3)
    if not any(full.strings.values()):
        return
    truth = truth_within(grammar, 3, 4)
    language = load(kind="pcfg", grammar=render(grammar), max_length=3)
    check_law(language, truth)
    assert language.entropy().value == pytest.approx(truth.entropy(), rel=1e-9, abs=1e-12)
    assert language.mean_length() == pytest.approx(truth.mean_length(), rel=1e-9)
    check_sample(language, truth.strings, 100)


# How strings and files are read.


def test_symbols_of_several_characters_are_split_at_white_space() -> None:
    language = load(kind="pcfg", grammar="S -> 'the' 'cat' S [0.25] | 'the' [0.75]")
    expected = [math.log(0.25 * 0.75), math.log(0.75), -math.inf]
    close(language.log_prob(["the cat the", "the", "thecatthe"]), expected)
    close(language.log_prob([("the", "cat", "the"), ["the"], ("t", "h", "e")]), expected)
    assert language.next_symbol_law("the") == pytest.approx({"the": 0.0, "cat": 0.25, EOS: 0.75})


def test_a_sequence_of_symbols_equals_the_str_of_single_characters() -> None:
    language = load(kind="pcfg", grammar=render(parse(GRAMMARS["counted"])))
    close(language.log_prob(["aabb"]), language.log_prob([("a", "a", "b", "b")]))


def test_the_first_nonterminal_is_the_start_unless_the_text_says_otherwise() -> None:
    rules = "A -> 'a' A [0.5] | 'b' [0.5]\nS -> A A [1.0]\n"
    close(load(kind="pcfg", grammar=rules).log_prob(["b", "bb"]), [math.log(0.5), -math.inf])
    close(load(kind="pcfg", grammar="%start S\n" + rules).log_prob(["b", "bb"]), [-math.inf, math.log(0.25)])


def test_comments_continued_lines_and_rules_on_several_lines_are_read() -> None:
    language = load(kind="pcfg", grammar="# a comment\nS -> 'a' S [0.5] | \\\n  'b' [0.25]\nS -> [0.25]\n")
    close(language.log_prob(["ab", "", "a"]), np.log([0.125, 0.25, 0.125]))


def test_terminal_and_nonterminal_of_the_same_name_are_two_symbols() -> None:
    language = load(kind="pcfg", grammar="S -> 'S' S [0.5] | 'A' [0.5]")
    close(language.log_prob(["SA", "A"]), np.log([0.25, 0.5]))


def test_unreachable_symbols_are_dropped() -> None:
    language = load(kind="pcfg", grammar="S -> 'a' [1.0]\nU -> 'c' U [1.0]")
    assert language.symbols == ("a",)
    assert language.log_prob(["c"]).tolist() == [-math.inf]


def test_no_strings_and_no_draws_give_empty_answers() -> None:
    language = load(kind="pcfg", grammar="S -> 'a' [1.0]")
    assert language.log_prob([]).shape == language.prefix_log_prob([]).shape == language.contains([]).shape == (0,)
    assert language.sample(0, seed=0) == []


def test_other_seeds_give_other_strings() -> None:
    language = load(kind="pcfg", grammar=render(parse(GRAMMARS["regular"])))
    assert language.sample(50, seed=0) != language.sample(50, seed=1)


@pytest.mark.parametrize("limit", [None, 6])
def test_rows_depend_on_nothing_that_follows_and_are_dead_from_pad_or_eos_on(limit: int | None) -> None:
    language = load(kind="pcfg", grammar=render(parse(GRAMMARS["counted"])), max_length=limit)
    a, b, eos, bos, pad = range(5)
    tokens = [[bos, a, a, b, b, eos, pad], [bos, a, a, b, a, b, b], [bos, a, bos, b, pad, pad, pad], [bos, *[pad] * 6]]
    rows = language.next_log_probs(torch.tensor(tokens))[0]
    for i, live in enumerate([5, 4, 2, 1]):
        assert rows[i].isnan().any(-1).tolist() == [t >= live for t in range(7)]
        alone = language.next_log_probs(torch.tensor([tokens[i][:live]]))[0]
        close(rows[i, :live], alone[0])


# Closed forms, where enumeration cannot reach.


def test_thousand_symbols_of_the_counted_language() -> None:
    language = load(kind="pcfg", grammar=render(parse(GRAMMARS["counted"])))
    close(language.log_prob(["a" * 500 + "b" * 500]), [500 * math.log(0.5)])
    close(
        language.prefix_log_prob(["a" * 700 + "b" * 200, "a" * 500 + "b" * 499 + "a"]), [700 * math.log(0.5), -math.inf]
    )


def test_long_string_that_one_half_of_the_grammar_finds_impossibly_rare() -> None:
    text = "S -> A [0.5] | B [0.5]\nA -> x A [0.999] | x [0.001]\nB -> x B [0.1] | y [0.9]"
    language = load(kind="pcfg", grammar=render(parse(text)))
    rare = math.log(0.5) + 400 * math.log(0.1) + math.log(0.9)  # 1e-400: no float holds it
    common = math.log(0.5) + 399 * math.log(0.999)
    strings = ["x" * 400 + "y", "x" * 400, "x" * 400 + "yx"]
    close(language.log_prob(strings), [rare, common + math.log(0.001), -math.inf])
    close(language.prefix_log_prob(strings), [rare, common, -math.inf])


def test_masses_far_below_the_smallest_float_stay_finite() -> None:
    language = load(kind="pcfg", grammar="S -> 'x' S [0.000001] | 'y' [0.999999]")
    close(language.log_prob(["x" * 399 + "y"]), [399 * math.log(1e-6) + math.log(0.999999)])
    close(language.prefix_log_prob(["x" * 400]), [400 * math.log(1e-6)])
    assert language.next_symbol_law("x" * 400) == pytest.approx({"x": 1e-6, "y": 0.999999, EOS: 0.0})


def log_catalan(n: int, p: float) -> float:
    """log P(aⁿ) under S → S S [p] | a [1 − p]."""
    trees = math.lgamma(2 * n - 1) - math.lgamma(n) - math.lgamma(n + 1)
    return trees + (n - 1) * math.log(p) + n * math.log(1 - p)


@pytest.mark.parametrize("p", [0.3, 0.49, 0.5])
def test_catalan_grammar_equals_its_closed_form(p: float) -> None:
    language = load(kind="pcfg", grammar=f"S -> S S [{p}] | 'a' [{1 - p}]")
    masses = [math.exp(log_catalan(n, p)) for n in range(1, 61)]
    close(language.log_prob(["a" * n for n in range(1, 61)]), log(masses))
    starts = [1 - math.fsum(masses[:n]) for n in range(40)]
    found = np.exp(language.prefix_log_prob(["a" * (n + 1) for n in range(40)]))
    np.testing.assert_allclose(found, starts, rtol=1e-6, atol=1e-11)
    mean = language.mean_length()
    assert mean == (math.inf if p == 0.5 else pytest.approx((1 - p) / (1 - 2 * p), rel=1e-9))


def test_critical_empty_derivations_do_not_lengthen_the_strings() -> None:
    language = load(kind="pcfg", grammar="S -> N 'a' [1.0]\nN -> N N [0.5] | [0.5]")
    close(language.log_prob(["a", "", "aa"]), [0.0, -math.inf, -math.inf])
    assert language.mean_length() == pytest.approx(1, rel=1e-9)


def test_long_ambiguous_string_sums_over_all_its_trees() -> None:
    language = load(kind="pcfg", grammar="S -> S S [0.3] | 'a' [0.7]")
    close(language.log_prob(["a" * 250]), [log_catalan(250, 0.3)])


def test_entropy_of_an_ambiguous_language_is_that_of_its_strings() -> None:
    language = load(kind="pcfg", grammar="S -> S S [0.3] | 'a' [0.7]")
    expected = -math.fsum(math.exp(log_catalan(n, 0.3)) * log_catalan(n, 0.3) for n in range(1, 1500))
    entropy = language.entropy(draws=2000, seed=5)
    assert not entropy.exact
    assert 0 < entropy.half_width < 0.2
    assert abs(entropy.value - expected) < 2 * entropy.half_width
    assert entropy.value + 2 * entropy.half_width < derivation_entropy(parse(GRAMMARS["catalan"]))


def test_entropy_of_a_plainly_deterministic_grammar_is_exact() -> None:
    entropy = load(kind="pcfg", grammar="S -> 'a' S 'b' [0.75] | 'c' [0.25]").entropy()
    assert (entropy.exact, entropy.half_width) == (True, 0)
    assert entropy.value == pytest.approx(4 * -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), rel=1e-12)


def test_entropy_of_the_same_rule_twice_is_not_the_derivations() -> None:
    entropy = load(kind="pcfg", grammar=render(parse(GRAMMARS["the same rule twice"]))).entropy(draws=2000, seed=2)
    tolerance = 1e-9 if entropy.exact else 2 * entropy.half_width
    assert abs(entropy.value - 2 * math.log(2)) <= tolerance


def test_long_max_length_conditions_the_counted_law() -> None:
    language = load(kind="pcfg", grammar=render(parse(GRAMMARS["counted"])), max_length=256)
    kept = 128 * math.log(0.5) - math.log1p(-(0.5**128))
    close(language.log_prob(["a" * 128 + "b" * 128, "a" * 129 + "b" * 129]), [kept, -math.inf])
    close(language.prefix_log_prob(["a" * 128, "a" * 129]), [kept, -math.inf])
    law = language.next_symbol_law("a" * 127)
    assert law == pytest.approx({"a": 1 / 3, "b": 2 / 3, EOS: 0.0}, rel=1e-9)


def test_probabilities_are_taken_as_written() -> None:
    language = load(kind="pcfg", grammar="S -> 'a' [0.3333333333] | 'b' [0.3333333333] | 'c' [0.3333333333]")
    np.testing.assert_allclose(language.log_prob(["a"]), math.log(0.3333333333), atol=1e-12)
