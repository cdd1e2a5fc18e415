"""Strings with two derivations, against nltk's chart parser."""

import itertools

import nltk
import pytest

from lmtest.languages.derivations import shortest_ambiguous
from lmtest.languages.grammar import read

AMBIGUOUS = [
    "S -> S S [0.4] | 'a' [0.6]",
    "S -> 'a' S [0.3] | S 'a' [0.3] | 'a' [0.4]",
    "S -> A [0.5] | B [0.5]\nA -> 'a' 'b' [1.0]\nB -> 'a' 'b' [1.0]",
    "S -> 'i' S [0.3] | 'i' S 'e' S [0.3] | 'x' [0.4]",
    "S -> 'a' S 'b' S [0.2] | 'b' S 'a' S [0.2] | 'c' [0.6]",
    "S -> S '+' S [0.3] | 'n' [0.7]",
    "S -> 'a' 'b' 'c' T [0.5] | 'a' U [0.5]\nT -> 'd' [1.0]\nU -> 'b' 'c' 'd' [0.5] | 'x' [0.5]",
]
CLEAR = ["S -> 'a' S 'b' [0.5] | 'a' 'b' [0.5]", "S -> 'a' S 'a' [0.3] | 'b' S 'b' [0.3] | 'c' [0.4]"]


@pytest.mark.parametrize("text", AMBIGUOUS + CLEAR)
def test_the_shortest_is_the_one_that_a_parser_finds(text: str) -> None:
    grammar = read(text)
    parser = nltk.ChartParser(nltk.CFG.fromstring(_plain(text)))
    expected = None
    for length in range(1, 6):
        for row in itertools.product(range(len(grammar.symbols)), repeat=length):
            words = [grammar.symbols[i] for i in row]
            if len(list(itertools.islice(parser.parse(words), 2))) == 2:
                expected = row
                break
        if expected is not None:
            break
    found, looked = shortest_ambiguous(grammar, 5)
    assert (found is None) == (expected is None)
    if expected is not None:
        assert found is not None
        assert len(found) == looked == len(expected)
        assert len(list(itertools.islice(parser.parse([grammar.symbols[i] for i in found]), 2))) == 2
    else:
        assert looked == 5


def _plain(text: str) -> list[str]:
    import re

    return [re.sub(r"\[[\d.]+\]", "", line) for line in text.splitlines()]


@pytest.mark.parametrize("text", ["S -> S [0.5] | 'a' [0.5]", "S -> E 'a' [1.0]\nE -> E E [0.3] | [0.7]"])
def test_infinitely_many_derivations_are_more_than_one(text: str) -> None:
    assert shortest_ambiguous(read(text), 3) == ((0,), 1)


def test_the_search_says_how_far_it_came() -> None:
    letters = " | ".join(f"'{chr(97 + i)}' S [0.025]" for i in range(20)) + " | 'z' [0.5]"
    found, looked = shortest_ambiguous(read(f"S -> {letters}"), 12)
    assert found is None
    assert 2 <= looked < 12
