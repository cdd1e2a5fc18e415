from __future__ import annotations

from collections.abc import Hashable

import pytest
import torch
from explicit_language import all_rows

from lmtest.errors import UsageError
from lmtest.languages.rules import KINDS, MAX_LENGTH, Rule, compile_rules

TABLE: dict[str, dict[str, object]] = {
    "R1": {"count": "a == b"},
    "R2": {"regex": "a*b*"},
    "few": {"count": "a <= 2 and c != 1"},
    "even": {"count": "a % 2 == 0"},
    "tail": {"regex": ".*c[ab]{1,2}"},
    "never": {"regex": "a{2}[^abc]"},
    "nonempty": {"min_length": 1},
    "long": {"min_length": 3},
    "short": {"max_length": 3},
    "none": {"min_length": 0},
}
RULES = compile_rules(TABLE, ("a", "b", "c"))
ROWS = all_rows(3, 5)


def fold(rule: Rule, row: tuple[int, ...]) -> Hashable:
    state = rule.start()
    for symbol in row:
        state = rule.step(state, symbol)
    return state


def packed(rows: list[tuple[int, ...]], filler: int) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    tokens = torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows], dtype=torch.int64)
    return tokens, torch.tensor([len(row) for row in rows])


def by_definition(name: str, row: tuple[int, ...]) -> bool:
    a, b, c = (row.count(i) for i in range(3))
    return {
        "R1": a == b,
        "R2": c == 0 and list(row) == sorted(row),
        "few": a <= 2 and c != 1,
        "even": a % 2 == 0,
        "tail": any(row[-n - 1 : -n] == (2,) and 2 not in row[-n:] for n in (1, 2) if len(row) > n),
        "never": False,
        "nonempty": len(row) >= 1,
        "long": len(row) >= 3,
        "short": len(row) <= 3,
        "none": True,
    }[name]


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("filler", [0, 2, 5])
def test_holds_is_the_fold_of_steps_and_the_definition(name: str, filler: int) -> None:
    rule = RULES[name]
    expected = [by_definition(name, row) for row in ROWS]
    assert rule.holds(*packed(ROWS, filler)).tolist() == expected
    assert [rule.accepts(rule.run(row)) for row in ROWS] == expected
    assert [rule.run(row) for row in ROWS] == [fold(rule, row) for row in ROWS]


@pytest.mark.parametrize("name", TABLE)
def test_alive_is_whether_some_continuation_satisfies_the_rule(name: str) -> None:
    rule = RULES[name]
    continuations = all_rows(3, 5)
    for row in all_rows(3, 4):
        assert rule.alive(rule.run(row)) == any(by_definition(name, (*row, *more)) for more in continuations), row


def test_equal_states_cannot_be_told_apart_by_any_continuation() -> None:
    for name, rule in RULES.items():
        seen: dict[Hashable, list[bool]] = {}
        for row in all_rows(3, 4):
            future = [by_definition(name, (*row, *more)) for more in all_rows(3, 3)]
            assert seen.setdefault(rule.run(row), future) == future


def test_states_are_few() -> None:
    counts = {name: len({rule.run(row) for row in ROWS}) for name, rule in RULES.items()}
    assert counts["R1"] == 11
    assert counts["even"] == 2
    assert counts["R2"] == 3
    assert counts["long"] == 4
    assert counts["short"] == 5


def test_no_rows_and_no_symbols_are_fine() -> None:
    for name, rule in RULES.items():
        assert (
            rule.holds(torch.zeros((2, 0), dtype=torch.int64), torch.zeros(2, dtype=torch.int64)).tolist()
            == [by_definition(name, ())] * 2
        )
        assert rule.holds(torch.zeros((0, 3), dtype=torch.int64), torch.zeros(0, dtype=torch.int64)).shape == (0,)


def test_rules_keep_their_order_name_and_text() -> None:
    assert list(RULES) == list(TABLE)
    assert all(rule.name == name for name, rule in RULES.items())
    assert RULES["R1"].text == "count a == b"
    assert RULES["long"].text == "min_length 3"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"regexp": "a"}, "'R'.*unknown kind 'regexp'.*did you mean 'regex'"),
        ({}, "expected one kind"),
        ({"regex": "a", "count": "a == b"}, "expected one kind"),
        ("a*b*", "expected one kind"),
        ({"regex": 3}, "regex takes a text, found 3"),
        ({"count": ["a == b"]}, "count takes a text"),
        ({"count": "a == d"}, "'R'.*unknown symbol 'd'"),
        ({"regex": "a(b"}, "'R'.*unbalanced"),
        ({"min_length": "3"}, "min_length takes a whole number"),
        ({"min_length": True}, "min_length takes a whole number"),
        ({"max_length": -1}, "max_length takes a whole number"),
        ({"max_length": MAX_LENGTH + 1}, "max_length takes a whole number"),
        ({"max_length": 2.0}, "max_length takes a whole number"),
    ],
)
def test_wrong_rules_are_refused_with_the_reason(entry: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compile_rules({"R": entry}, ("a", "b", "c"))


@pytest.mark.parametrize("name", ["", "grammatical", "finish_rate", "joint", "R1_completion", "R1_finished"])
def test_names_of_other_measures_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="taken by a measure"):
        compile_rules({name: {"min_length": 1}}, ("a",))


def test_every_kind_is_tested_here() -> None:
    elsewhere = {"balanced", "nested", "irreducible"}  # test_bracket_rules.py
    assert {kind for entry in TABLE.values() for kind in entry} | elsewhere == set(KINDS)
