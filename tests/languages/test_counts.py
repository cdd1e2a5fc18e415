from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from lmtest.errors import UsageError
from lmtest.languages.counts import CountCondition

CONDITIONS = (
    """
a == b
a == b == c
a % 2 == 0
a % 2 == b % 3
2*a <= b + 1
a != b
a <= 3 and b >= 2
a < b < c
a + b == 5
a - b == 3 or c == 0
a % 2 == 0 and b % 2 == 0 and (a + b) % 2 == 1
(a + 2*b) % 3 == 1 and c <= 2
2*a - 2*b == 1
1 <= 3*a - 3*b <= 2
(a == b or a == 2*b) and c != 1
3*a + 5*b == 4
a + b + c <= 4 and a != 2
(a - b) % 4 == 3 and a < b
-a + 3 >= b and not_there == 0
(a % 3 + b) % 2 == 1 and b <= 1
7 - a > 2*b > 3
a == 2 or b == 3 and c == 1
a*2 == 3*b and a % 4 == 2 and a <= 9
""".strip()
    .replace("not_there", "c")
    .splitlines()
)
SYMBOLS = ("a", "b", "c")
LIMIT = 25


def table(text: str) -> np.ndarray:
    """Truth at all counts below LIMIT, by Python itself."""
    code = compile(text, "condition", "eval")
    cube = itertools.product(range(LIMIT), repeat=3)
    values = [bool(eval(code, {}, dict(zip(SYMBOLS, counts, strict=True)))) for counts in cube]
    return np.array(values).reshape((LIMIT,) * 3)


@pytest.mark.parametrize("text", CONDITIONS)
def test_truth_and_satisfiability_agree_with_enumeration(text: str) -> None:
    condition, truth = CountCondition(text, SYMBOLS), table(text)
    columns = np.indices(truth.shape)
    assert (condition.holds(columns) == truth).all()
    assert (condition.holds(torch.from_numpy(columns)).numpy() == truth).all()
    ahead = truth  # true anywhere further up each axis: every one of these conditions shows itself within the cube
    for axis in range(3):
        ahead = np.flip(np.logical_or.accumulate(np.flip(ahead, axis), axis), axis)
    for counts in itertools.product(range(7), repeat=3):
        assert condition.holds(counts) == truth[counts]
        assert condition.satisfiable_from(counts) == ahead[counts], counts
        reduced = condition.reduce(counts)
        assert all(r <= c for r, c in zip(reduced, counts, strict=True))
        assert condition.satisfiable_from(reduced) == ahead[counts]
        within = np.s_[: LIMIT - 7, : LIMIT - 7, : LIMIT - 7]
        later = truth[tuple(slice(c, None) for c in counts)][within]
        assert (truth[tuple(slice(r, None) for r in reduced)][within][tuple(map(slice, later.shape))] == later).all()


def test_an_answer_does_not_depend_on_what_was_asked_before() -> None:
    for text in CONDITIONS:
        condition = CountCondition(text, SYMBOLS)
        backwards = [condition.satisfiable_from(counts) for counts in itertools.product(range(5, -1, -1), repeat=3)]
        fresh = CountCondition(text, SYMBOLS)
        assert backwards[::-1] == [fresh.satisfiable_from(counts) for counts in itertools.product(range(6), repeat=3)]


def test_satisfiability_holds_at_large_counts() -> None:
    condition = CountCondition("a == b and a % 7 == 3 and c <= 500", SYMBOLS)
    assert condition.satisfiable_from((900, 3, 500))
    assert not condition.satisfiable_from((900, 3, 501))


def test_quoted_symbols_are_counted() -> None:
    condition = CountCondition("'(' == ')'", ("(", ")"))
    assert condition.holds((2, 2))
    assert not condition.holds((2, 1))
    assert condition.reduce((5, 3)) == (2, 0)


def test_states_of_a_parity_are_few() -> None:
    condition = CountCondition("a % 2 == 0 and b % 3 == 1", ("a", "b"))
    assert len({condition.reduce(counts) for counts in itertools.product(range(20), repeat=2)}) == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a == d", "unknown symbol 'd'.*symbols: a b c"),
        ("a = b", "expected a condition"),
        ("", "expected a condition"),
        ("a", "expected a comparison"),
        ("a*b == 1", "found 'a \\* b'"),
        ("a % b == 0", "found 'a % b'"),
        ("a % 0 == 0", "found 'a % 0'"),
        ("a < 1.5", "found '1.5'"),
        ("a == True", "found 'True'"),
        ("a in b", "one of =="),
        ("not a == b", "expected a comparison"),
        ("__import__('os') == a", "expected symbols"),
        ("1 == 1", "no symbol"),
        ("a == 10**9", "found '10 \\*\\* 9'"),
        ("a == 1000001", "up to 1000000"),
        ("1000*a*1001 == b", "up to 1000000"),
        ("-" * 5000 + "a == 1", "expected a condition"),
        (" and ".join(["a != b"] * 11), "alternatives"),
    ],
)
def test_wrong_conditions_are_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CountCondition(text, SYMBOLS)
