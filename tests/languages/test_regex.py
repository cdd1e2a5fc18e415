from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmtest.errors import UsageError
from lmtest.languages.regex import DFA, compile_regex


def accepts(dfa: DFA, row: tuple[int, ...]) -> bool:
    state = 0
    for symbol in row:
        state = int(dfa.transitions[state, symbol])
    return bool(dfa.accepting[state])


def check_against_re(pattern: str, python: str, symbols: str, longest: int = 7) -> None:
    dfa = compile_regex(pattern, tuple(symbols))
    judge = re.compile(python, re.DOTALL)
    for length in range(longest + 1):
        for row in itertools.product(range(len(symbols)), repeat=length):
            string = "".join(symbols[i] for i in row)
            assert accepts(dfa, row) == (judge.fullmatch(string) is not None), (pattern, string)


MANY = """
a  ab  a|b  a*  a+  a?  a*b*  a+b+  (ab)*  (a|b)*a  (ab|ba)+  a{3}  a{2,4}  a{2,}  a{0}  a{0,1}  (ab){2,3}  .  .*  .a.*b
[ab]*  [^a]  [^a]*a  a|  |a  ()  (|a)b  (a*)*  (a?){3}  (a?b?){2}  (a+|b){2,3}  ((a|b)(a|b))*  (a*b*){2}  b*(ab*ab*)*
(a|ab)(b|)  [a]|bb  [^ab]  a[^ab]|b  (a{2}){2,3}  (a{0,2}b){1,2}  ((a?){2,3}b?){2}  .*a.{3}  (.*a|b).{2}  (a|b*){2}
"""
PATTERNS = re.split(r"\s+", MANY.strip())


@pytest.mark.parametrize("pattern", ["", *PATTERNS])
def test_matches_the_same_strings_as_python(pattern: str) -> None:
    check_against_re(pattern, pattern, "ab")


@pytest.mark.parametrize("pattern", ["a*b*c*", "[^ab]*", "(a|bc)*", "a.c", "(ab?c){1,2}", "[ac]+b"])
def test_matches_the_same_strings_as_python_over_three_symbols(pattern: str) -> None:
    check_against_re(pattern, pattern, "abc", longest=6)


def joined(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    bounds = st.tuples(st.integers(0, 2), st.integers(0, 2)).map(lambda b: f"{{{b[0]},{b[0] + b[1]}}}")
    operators = st.sampled_from(["*", "+", "?", "{2}", "{1,}"]) | bounds
    return st.one_of(
        st.lists(parts, max_size=3).map("".join),
        st.lists(parts, min_size=1, max_size=3).map(lambda p: f"({'|'.join(p)})"),
        st.tuples(parts, operators).map(lambda p: f"({p[0]}){p[1]}"),
    )


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.recursive(st.sampled_from(["a", "b", ".", "[ab]", "[^b]", ""]), joined, max_leaves=8))
def test_generated_patterns_match_the_same_strings_as_python(pattern: str) -> None:
    check_against_re(pattern, pattern, "ab")


def test_alive_states_are_those_from_which_an_accepting_state_is_reached() -> None:
    for pattern in ["", *PATTERNS]:
        dfa = compile_regex(pattern, ("a", "b"))
        reaching = dfa.accepting.copy()
        for _ in range(len(reaching)):
            reaching |= reaching[dfa.transitions].any(1)
        assert (dfa.alive == reaching).all(), pattern


def test_white_space_between_items_is_ignored() -> None:
    check_against_re(" a * ( b | a ) { 1 , 2 } ", "a*(b|a){1,2}", "ab")


def test_operators_can_be_symbols_when_escaped_or_quoted() -> None:
    check_against_re(r"'('* \) \*", r"\(*\)\*", "()*")
    check_against_re('["(" \\)] "*"?', r"[()]\*?", "()*")
    check_against_re("^?[^'^']", r"\^?[^\^]", "^a")


def test_words_are_symbols_where_a_symbol_has_several_characters() -> None:
    dfa = compile_regex("the [cat dog]+ 'a b'? \\.", ("the", "cat", "dog", "a b", "."))
    matching = [row for n in range(5) for row in itertools.product(range(5), repeat=n) if accepts(dfa, row)]
    expected = [
        (0, *pets, *end, 4) for n in (1, 2) for pets in itertools.product((1, 2), repeat=n) for end in [(), (3,)]
    ]
    assert sorted(row for row in matching if row.count(1) + row.count(2) < 3) == sorted(
        row for row in expected if len(row) < 5
    )


def test_common_automata_are_small() -> None:
    sizes = {"a*b*": 3, "a*": 2, ".*": 1, "b*(ab*ab*)*": 2, "(a|b)*": 1, ".*a.{3}": 16, "a{1000}": 1002}
    assert {p: len(compile_regex(p, ("a", "b")).alive) for p in sizes} == sizes


def test_a_pattern_may_be_longer_than_the_stack_is_deep() -> None:
    assert len(compile_regex("a" * 3000 + "b?" * 100, ("a", "b")).alive) == 3102


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("ac", "unknown symbol 'c'.*symbols: a b"),
        ("'ab'", "unknown symbol 'ab'"),
        ("[a-b]", "unknown symbol '-'"),
        ("(a", "unbalanced '\\('"),
        ("a)b", "unbalanced '\\)'"),
        ("*a", "dangling '\\*'"),
        ("a|+", "dangling '\\+'"),
        ("{2}", "dangling '\\{2}'"),
        ("a*?", "dangling '\\?'"),
        ("a{2}{2}", "dangling '\\{2}'"),
        ("a{3,2}", "n ≤ m"),
        ("a{,2}", "expected {n}"),
        ("a{x}", "expected {n}"),
        ("a{2", "unexpected '{'"),
        ("a{1001}", "1000 repetitions"),
        ("a{99999999999}", "up to 1000"),
        ("[]", "empty or not closed"),
        ("[ab", "empty or not closed"),
        ("[a*]", "expected symbols in"),
        ("a]", "unexpected ']'"),
        (".*a.{20}", "over 10000 states"),
        ("(" * 200 + ")" * 200, "nested"),
    ],
)
def test_wrong_patterns_are_refused_with_the_reason(pattern: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compile_regex(pattern, ("a", "b"))
