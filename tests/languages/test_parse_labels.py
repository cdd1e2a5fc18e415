"""Parse labels: inside and outside weights against the enumeration of all trees, and the labels that follow from them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
import torch
from brute_force import Grammar, Word, alphabet, grammars, load, parse, reachable, render, truth_of_grammar, words
from hypothesis import HealthCheck, given, settings
from nltk import CFG, Tree
from nltk.parse import BottomUpChartParser

from lmtest.errors import UsageError
from lmtest.languages import load_language
from lmtest.languages.parse_labels import NONE, ParseLabels, ParseTask, parse_labels, span_weights
from lmtest.languages.pcfg import Pcfg

GRAMMARS = {
    "catalan": "S -> S S [0.3] | a [0.7]",
    "recursive and ambiguous": "S -> i S [0.25] | i S e S [0.25] | x [0.5]",
    "unit chains": "S -> T [0.4] | U [0.6]\nT -> A B [0.5] | B [0.5]\nU -> A A [1.0]\n"
    "A -> B [0.5] | a [0.5]\nB -> b [0.7] | a b [0.3]",
    "ε in the middle": "S -> A N B [1.0]\nA -> a [0.5] | a a [0.5]\nN -> [0.5] | b [0.5]\nB -> b [0.25] | A N [0.75]",
    "long right-hand side": "S -> A b A A [0.5] | A A [0.5]\nA -> a [0.5] | b a [0.25] | a b [0.25]",
    "layers": "S -> P [0.7] | Q [0.3]\nP -> A B [1.0]\nQ -> B A [1.0]\nA -> C C [0.8] | a [0.2]\nB -> C D [0.9] | b [0.1]\n"
    "C -> a [0.5] | b [0.5]\nD -> a [0.9] | b [0.1]",
}
LONGEST = 5


def language_of(grammar: Grammar, **keys: object) -> Pcfg:
    language = load(kind="pcfg", grammar=render(grammar), **keys)
    assert isinstance(language, Pcfg)
    return language


Node = tuple[str, int, int]


def trees(grammar: Grammar, symbol: str, word: Word, at: int = 0) -> Iterator[tuple[float, tuple[Node, ...]]]:
    """Every tree of a symbol over a word: its probability, and its nonterminals with the spans that they have."""
    if symbol not in grammar:
        if word == (symbol,):
            yield 1.0, ()
        return
    for p, rhs in grammar[symbol]:
        for q, nodes in _sequences(grammar, rhs, word, at):
            yield p * q, ((symbol, at, at + len(word)), *nodes)


def _sequences(grammar: Grammar, rhs: Word, word: Word, at: int) -> Iterator[tuple[float, tuple[Node, ...]]]:
    if not rhs:
        if not word:
            yield 1.0, ()
        return
    needed = len(rhs) - 1 if not any((() in [r for _, r in rules]) for rules in grammar.values()) else 0
    for k in range(len(word) - needed + 1) if needed or rhs[1:] else [len(word)]:
        if k == 0 and needed:
            continue
        for q, rest in _sequences(grammar, rhs[1:], word[k:], at + k):
            for p, first in trees(grammar, rhs[0], word[:k], at):
                yield p * q, (*first, *rest)


def spans(n: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(n) for j in range(i + 1, n + 1)]


def rows_of(language: Pcfg, strings: list[Word]) -> list[tuple[int, ...]]:
    rows = [language.vocabulary.ids(string) for string in strings]
    assert None not in rows
    return [row for row in rows if row is not None]


@pytest.mark.parametrize("name", GRAMMARS)
def test_inside_times_outside_counts_a_nonterminal_over_a_span_in_all_trees(name: str) -> None:
    grammar = parse(GRAMMARS[name])
    language = language_of(grammar)
    names = language.grammar.names
    for n in range(1, LONGEST + 1):
        strings = words(language.symbols, n)[-(len(language.symbols) ** n) :]
        of_string = [list(trees(grammar, "S", word)) for word in strings]
        for span in spans(n):
            found = span_weights(language, rows_of(language, strings), span)
            expected = np.zeros((len(strings), len(names)))
            inside = np.zeros_like(expected)
            for row, (word, forest) in enumerate(zip(strings, of_string, strict=True)):
                for p, nodes in forest:
                    for a, i, j in nodes:
                        expected[row, names.index(a)] += p * ((i, j) == span)
                inside[row] = [sum(p for p, _ in trees(grammar, a, word[slice(*span)])) for a in names]
            np.testing.assert_allclose(found.inside.exp(), inside, rtol=1e-9, atol=1e-15)
            np.testing.assert_allclose((found.inside + found.outside).exp(), expected, rtol=1e-9, atol=1e-15)
            totals = [sum(p for p, _ in forest) for forest in of_string]
            np.testing.assert_allclose(found.total.exp(), totals, rtol=1e-9, atol=1e-15)


def with_hole(grammar: Grammar, name: str) -> Grammar:
    """The strings around one `name`, whose place "#" takes: a rule goes on with the hole in one of its children."""
    holed: Grammar = {}
    for a in grammar:
        holed[a + "#"] = [
            (p, (*rhs[:i], part + "#", *rhs[i + 1 :]))
            for p, rhs in grammar[a]
            for i, part in enumerate(rhs)
            if part in grammar
        ]
    holed[name + "#"].append((1.0, ("#",)))
    return holed | grammar


@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(grammar=grammars())
def test_weights_of_random_grammars_equal_those_of_strings_with_a_hole(grammar: Grammar) -> None:
    """ε-rules, unit cycles and left recursion included: a judge that sums power series, and knows no charts."""
    language, symbols, n = language_of(grammar), alphabet(grammar), 3

    @cache
    def of(name: str, hole: bool) -> dict[Word, float]:
        source = with_hole(grammar, name) if hole else grammar
        start = next(iter(grammar)) + "#" if hole else name
        source = {start: source[start]} | source
        return truth_of_grammar(source, n).strings if alphabet(source) else {}

    strings = words(symbols, n)[-(len(symbols) ** n) :]
    for i, j in spans(n):
        found = span_weights(language, rows_of(language, strings), (i, j))
        for k, name in enumerate(language.grammar.names):
            inside = [of(name, False).get(word[i:j], 0.0) for word in strings]
            outside = [of(name, True).get((*word[:i], "#", *word[j:]), 0.0) for word in strings]
            np.testing.assert_allclose(found.inside[:, k].exp(), inside, rtol=1e-8, atol=1e-14)
            if not alphabet({name: grammar[name]} | grammar):
                outside = [0.0] * len(strings)  # what is always empty spans nothing
            np.testing.assert_allclose(found.outside[:, k].exp(), outside, rtol=1e-8, atol=1e-14)


def test_a_nonterminal_on_a_unit_cycle_is_counted_every_time_it_spans() -> None:
    language = language_of(parse("S -> A [0.5] | a [0.5]\nA -> S [0.5] | b [0.5]"))
    found = span_weights(language, [(language.symbols.index("a"),)], (0, 1))
    counts = (found.inside + found.outside - found.total[:, None]).exp()[0]
    assert counts.tolist() == pytest.approx([4 / 3, 1 / 3])  # S (A S)^k a with weight 4^−k


def test_an_outside_weight_splits_into_the_ways_to_span_more() -> None:
    """In a binary grammar without unit rules every node but the root has one parent, whatever the string."""
    language = language_of(parse("S -> S S [0.3] | A S [0.2] | a [0.5]\nA -> S A [0.4] | b [0.6]"))
    row = rows_of(language, [tuple("abaaba")])
    counts = {}
    for span in spans(6):
        found = span_weights(language, row, span)
        counts[span] = (found.inside + found.outside - found.total[:, None]).exp()[0]
    assert sum(float(c.sum()) for c in counts.values()) == pytest.approx(2 * 6 - 1)
    assert sum(float(c.sum()) for (i, j), c in counts.items() if j == i + 1) == pytest.approx(6)
    assert counts[0, 6].tolist() == pytest.approx([1, 0])
    assert all(float(c.sum()) <= 1 + 1e-12 for c in counts.values())


def test_weights_that_no_float_holds_are_found_in_logarithms() -> None:
    grammar = parse("S -> T [0.5] | U [0.5]\nT -> x T [0.000001] | y [0.999999]\nU -> x U [0.00001] | y [0.99999]")
    language = language_of(grammar)
    n = 200
    found = span_weights(language, rows_of(language, [("x",) * n + ("y",)]), (100, n + 1))
    t, u = language.grammar.names.index("T"), language.grammar.names.index("U")
    assert float(found.inside[0, t]) == pytest.approx(100 * math.log(1e-6) + math.log(0.999999), rel=1e-12)
    assert float(found.outside[0, u]) == pytest.approx(100 * math.log(1e-5) + math.log(0.5), rel=1e-12)
    labels = parse_labels(language, ParseTask("whole"), rows_of(language, [("x",) * n + ("y",), ("y",)]))
    assert [labels.classes[i] for i in labels.labels] == ["U", "T"]
    assert float(labels.margin[0]) == pytest.approx(n * math.log(10) + math.log(0.99999 / 0.999999))


def labelled(tree: Tree | str, at: int = 0) -> Iterator[Node]:
    if isinstance(tree, str):
        return
    yield tree.label(), at, at + len(tree.leaves())
    for child in tree:
        yield from labelled(child, at)
        at += 1 if isinstance(child, str) else len(child.leaves())


@pytest.mark.parametrize("name", ["unit chains", "layers", "recursive and ambiguous"])
def test_a_nonterminal_can_span_exactly_where_nltk_finds_such_a_tree(name: str) -> None:
    grammar = parse(GRAMMARS[name])
    language = language_of(grammar)
    rules = [
        f"{a} -> " + " ".join(s if s in grammar else f"'{s}'" for s in rhs) for a in grammar for _, rhs in grammar[a]
    ]
    parser = BottomUpChartParser(CFG.fromstring("\n".join(rules)))
    for string in dict.fromkeys(tuple(s) for s in language.sample(20, seed=0) if len(s) <= 6):
        expected = {node for tree in parser.parse(string) for node in labelled(tree)}
        found = set()
        for span in spans(len(string)):
            weights = span_weights(language, rows_of(language, [string]), span)
            can = ((weights.inside + weights.outside)[0] > -math.inf).tolist()
            found |= {(a, *span) for a, spanned in zip(language.grammar.names, can, strict=True) if spanned}
        assert found == expected


# Labels.


def names_of(labels: ParseLabels) -> list[str]:
    return [labels.classes[i] for i in labels.labels.tolist()]


def test_maximum_likelihood_ignores_the_prior_and_the_posterior_does_not() -> None:
    language = language_of(parse("S -> P [0.9] | Q [0.1]\nP -> a [0.4] | b [0.6]\nQ -> a [0.8] | b [0.1] | c [0.1]"))
    rows = rows_of(language, [("a",), ("b",), ("c",), ("a",)])
    likely = parse_labels(language, ParseTask("whole"), rows)
    assert names_of(likely) == ["Q", "P", "Q", "Q"]
    assert likely.classes == ["P", "Q"]
    assert likely.counts.tolist() == [1, 3]
    assert likely.majority_rate == 0.75
    assert likely.posterior.tolist() == pytest.approx([2 / 3, 6 / 7, 1, 2 / 3])
    assert likely.margin.tolist() == pytest.approx([math.log(2), math.log(6), math.inf, math.log(2)])
    probable = parse_labels(language, ParseTask("whole", estimate="map"), rows)
    assert names_of(probable) == ["P", "P", "Q", "P"]
    assert probable.posterior.tolist() == pytest.approx([0.36 / 0.44, 0.54 / 0.55, 1, 0.36 / 0.44])
    assert probable.margin.tolist() == pytest.approx([math.log(0.36 / 0.08), math.log(54), math.inf, math.log(4.5)])


def test_over_the_whole_string_the_posterior_is_that_of_the_start_rules() -> None:
    language = load_language("layered_small")
    assert isinstance(language, Pcfg)
    support = language.support()
    assert support is not None
    rows = support.rows[::40]
    prior = {language.grammar.names[rule.rhs[0]]: rule.prob for rule in language.grammar.by_lhs()[0]}
    assert len(prior) == 6
    labels = parse_labels(language, ParseTask("whole", estimate="map"), rows)
    for i, row in enumerate(rows):
        shares = {}
        for name, p in prior.items():
            weights = span_weights(language, [row], (0, len(row)))
            shares[name] = p * float(weights.inside[0, language.grammar.names.index(name)].exp())
        best = max(shares, key=lambda name: shares[name])
        assert names_of(labels)[i] == best
        assert float(labels.posterior[i]) == pytest.approx(shares[best] / sum(shares.values()), rel=1e-9)
        assert sum(shares.values()) == pytest.approx(math.exp(language.log_prob_ids([row])[0]), rel=1e-9)


def test_the_span_alone_tells_the_likeliest_and_the_whole_string_the_most_probable() -> None:
    grammar = parse("S -> P c [0.5] | Q d [0.5]\nP -> a b [0.2] | b a [0.8]\nQ -> a b [0.9] | b a [0.1]")
    language = language_of(grammar)
    rows = rows_of(language, [tuple("abc"), tuple("bad"), tuple("abd")])
    assert names_of(parse_labels(language, ParseTask("span", (0, 2), ("P", "Q")), rows)) == ["Q", "P", "Q"]
    assert names_of(parse_labels(language, ParseTask("span", (0, 2), estimate="map"), rows)) == ["P", "Q", "Q"]


def test_strings_where_no_candidate_spans_are_a_class_of_their_own() -> None:
    language = language_of(parse("S -> A A [0.5] | a B [0.5]\nA -> a b [1.0]\nB -> b [1.0]"))
    rows = rows_of(language, [tuple("ab"), tuple("abab"), tuple("ab")])
    labels = parse_labels(language, ParseTask("span", (0, 2), ("A", "B"), "map"), rows)
    assert labels.classes == ["A", NONE]
    assert names_of(labels) == [NONE, "A", NONE]
    assert labels.posterior.isnan().tolist() == labels.margin.isnan().tolist() == [True, False, True]


def test_ties_go_to_the_first_candidate() -> None:
    rules = "S -> P [0.3] | Q [0.7]\nP -> a [0.1] | b [0.9]\nQ -> a [0.1] | c [0.9]"
    language = language_of(parse(rules))
    rows = rows_of(language, [("a",), ("b",), ("c",)])
    assert names_of(parse_labels(language, ParseTask("whole"), rows)) == ["P", "P", "Q"]
    turned = parse_labels(language, ParseTask("whole", None, ("Q", "P")), rows)
    assert names_of(turned) == ["Q", "P", "Q"]
    assert turned.classes == ["Q", "P"]
    assert turned.margin[0] == 0
    assert turned.posterior[0] == pytest.approx(0.5)


def test_labels_of_a_string_do_not_depend_on_its_company() -> None:
    language = load_language("liu_pcfg_like")
    assert isinstance(language, Pcfg)
    rows = [row for row in language.sample_ids(60, np.random.default_rng(0)) if len(row) >= 4]
    for task in (ParseTask("whole"), ParseTask("four", (0, 4)), ParseTask("two", (0, 2), estimate="map")):
        together = names_of(parse_labels(language, task, rows))
        assert together[::-1] == names_of(parse_labels(language, task, rows[::-1]))
        assert together[:9] == names_of(parse_labels(language, task, [*rows[:9], *rows[-20:]]))[:9]
        assert len(set(together)) > 4


def test_a_limit_on_length_changes_no_label_but_refuses_what_is_longer() -> None:
    grammar = parse("S -> P [0.4] | Q [0.6]\nP -> a P [0.5] | b [0.5]\nQ -> a Q [0.4] | b [0.6]")
    free, limited = language_of(grammar), language_of(grammar, max_length=4)
    rows = rows_of(free, [tuple("aab"), tuple("b"), tuple("aaab"), tuple("ab")])
    one, two = (parse_labels(language, ParseTask("whole", estimate="map"), rows) for language in (free, limited))
    assert names_of(one) == names_of(two)
    torch.testing.assert_close(one.posterior, two.posterior)
    with pytest.raises(UsageError, match="'aaaab' is not in"):
        parse_labels(limited, ParseTask("whole"), [*rows, *rows_of(free, [tuple("aaaab")])])


TASK_LANGUAGE = (
    "S -> First A [0.5] | Second A [0.5]\nFirst -> a [0.5] | b [0.5]\nSecond -> a [0.4] | b [0.6]\nA -> a [1.0]"
)


@pytest.mark.parametrize(
    ("task", "strings", "message"),
    [
        (ParseTask("t", (0, 1), ("Frist", "Second")), ["aa"], "'Frist'.*did you mean 'First'"),
        (ParseTask("t", (0, 3)), ["aa"], r"at least 3 symbols, found 1 of 1 that are shorter \(the shortest has 2\)"),
        (ParseTask("t", (1, 1)), ["aa"], r"\[1, 1\)"),
        (ParseTask("t", (-1, 1)), ["aa"], r"\[-1, 1\)"),
        (ParseTask("t", (0, 1), ("First",)), ["aa"], "at least two different candidates, found First"),
        (ParseTask("t", (0, 1), ("First", "First")), ["aa"], "two different candidates"),
        (ParseTask("t"), ["aa"], "two different candidates, found none"),
        (
            ParseTask("t", (0, 1), ("First", "Second")),
            ["aa", "aa"],
            r"one class: all 2 strings are 'First' over \[0, 1\)",
        ),
        (ParseTask("t", (0, 2), ("First", "A")), ["aa", "ba"], r"none of the candidates First, A ever spans \[0, 2\)"),
        (ParseTask("t", (0, 1), ("First", "Second"), "map"), ["aa", "ab"], "'ab' is not in language"),
        (ParseTask("t", (0, 1)), [], "at least one string"),
    ],
)
def test_faulty_task_is_refused_and_the_fault_is_named(task: ParseTask, strings: list[str], message: str) -> None:
    language = language_of(parse(TASK_LANGUAGE))
    with pytest.raises(UsageError, match=message):
        parse_labels(language, task, rows_of(language, [tuple(s) for s in strings]))


def test_tokens_that_are_no_symbols_and_spans_outside_are_refused() -> None:
    language = language_of(parse(TASK_LANGUAGE))
    with pytest.raises(UsageError, match="no EOS, BOS or PAD"):
        parse_labels(language, ParseTask("t", (0, 1)), [(0, language.vocabulary.eos)])
    with pytest.raises(UsageError, match=r"within 2 symbols, found \[1, 3\)"):
        span_weights(language, [(0, 0)], (1, 3))
    with pytest.raises(UsageError, match=r"the lengths \[1, 2\]"):
        span_weights(language, [(0, 0), (0,)], (0, 1))


def test_judge_counts_the_trees_of_the_catalan_grammar() -> None:
    ones: Grammar = {"S": [(1.0, ("S", "S")), (1.0, ("a",))]}
    assert [len(list(trees(ones, "S", ("a",) * n))) for n in range(1, 7)] == [1, 1, 2, 5, 14, 42]
    assert reachable(ones) == {"S", "a"}
