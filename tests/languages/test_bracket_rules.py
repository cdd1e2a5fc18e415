"""Rules about brackets: folds, tensors and what can still come, against the definitions on all short strings."""

from __future__ import annotations

from collections.abc import Hashable
from functools import cache

import pytest
import torch
from explicit_language import all_rows

from lmtest.errors import UsageError
from lmtest.languages.rules import compile_rules

SYMBOLS = ("(", ")", "[", "]", "x")
TABLE: dict[str, dict[str, object]] = {
    "round": {"balanced": "()"},
    "square": {"balanced": ["[", "]"]},
    "nested": {"nested": ["()", "[]"]},
    "nested_one": {"nested": ["[]"]},
    "irreducible": {"irreducible": ["()", "[]"]},
    "irreducible_one": {"irreducible": [["(", ")"]]},
}
RULES = compile_rules(TABLE, SYMBOLS)
ROWS = all_rows(5, 5)
each_rule = pytest.mark.parametrize("name", TABLE)


def balanced(text: str, opening: str, closing: str) -> bool:
    prefixes = [text[:n] for n in range(len(text) + 1)]
    return text.count(opening) == text.count(closing) and all(p.count(opening) >= p.count(closing) for p in prefixes)


def nested(text: str, pairs: tuple[str, ...]) -> bool:
    """Adjacent pairs are crossed out until none is left."""
    text = "".join(symbol for symbol in text if any(symbol in pair for pair in pairs))
    while any(pair in text for pair in pairs):
        for pair in pairs:
            text = text.replace(pair, "")
    return text == ""


def irreducible(text: str, pairs: tuple[str, ...]) -> bool:
    depths = [sum(text[:n].count(p[0]) - text[:n].count(p[1]) for p in pairs) for n in range(1, len(text) + 1)]
    return bool(depths) and depths[-1] == 0 and all(depth > 0 for depth in depths[:-1])


def by_definition(name: str, row: tuple[int, ...]) -> bool:
    text = "".join(SYMBOLS[i] for i in row)
    return {
        "round": lambda: balanced(text, "(", ")"),
        "square": lambda: balanced(text, "[", "]"),
        "nested": lambda: nested(text, ("()", "[]")),
        "nested_one": lambda: nested(text, ("[]",)),
        "irreducible": lambda: irreducible(text, ("()", "[]")),
        "irreducible_one": lambda: irreducible(text, ("()",)),
    }[name]()


@cache
def true(name: str) -> set[tuple[int, ...]]:
    """The strings of up to six symbols that satisfy a rule, found once."""
    return {row for row in all_rows(5, 6) if by_definition(name, row)}


def packed(rows: list[tuple[int, ...]], filler: int) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    tokens = torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows], dtype=torch.int64)
    return tokens, torch.tensor([len(row) for row in rows])


@each_rule
@pytest.mark.parametrize("filler", [0, 1, 4, 7])
def test_holds_is_the_definition_whatever_stands_behind_the_string(name: str, filler: int) -> None:
    assert RULES[name].holds(*packed(ROWS, filler)).tolist() == [row in true(name) for row in ROWS]


@each_rule
def test_the_fold_of_steps_is_the_definition(name: str) -> None:
    rule = RULES[name]
    assert [rule.accepts(rule.run(row)) for row in ROWS] == [row in true(name) for row in ROWS]


@each_rule
def test_alive_is_whether_some_continuation_satisfies_the_rule(name: str) -> None:
    rule, continuations = RULES[name], all_rows(5, 3)
    for row in all_rows(5, 3):
        assert rule.alive(rule.run(row)) == any((*row, *more) in true(name) for more in continuations), row


@each_rule
def test_equal_states_cannot_be_told_apart_by_any_continuation(name: str) -> None:
    rule = RULES[name]
    seen: dict[Hashable, list[bool]] = {}
    for row in all_rows(5, 3):
        future = [(*row, *more) in true(name) for more in all_rows(5, 3)]
        assert seen.setdefault(rule.run(row), future) == future


@each_rule
def test_no_rows_and_no_symbols_are_fine(name: str) -> None:
    empty = torch.zeros((2, 0), dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    assert RULES[name].holds(*empty).tolist() == [by_definition(name, ())] * 2
    none = torch.zeros((0, 3), dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    assert RULES[name].holds(*none).shape == (0,)


@pytest.mark.parametrize("name", ["round", "nested", "irreducible"])
def test_deep_strings_are_no_trouble(name: str) -> None:
    rule = RULES[name]
    deep = (0,) * 3000 + (1,) * 3000
    assert rule.accepts(rule.run(deep))
    assert hash(rule.run(deep[:3000])) == hash(rule.run(deep[:3000]))
    assert not rule.alive(rule.run((*deep, 1)))


def test_symbols_of_several_characters_make_pairs_too() -> None:
    table = {"R1": {"balanced": ["if", "fi"]}, "R2": {"nested": [["if", "fi"], ["do", "done"]]}}
    rules = compile_rules(table, ("if", "fi", "do", "done"))
    crossed = (0, 2, 1, 3)
    assert [rule.accepts(rule.run(crossed)) for rule in rules.values()] == [True, False]
    assert [rule.text for rule in rules.values()] == ["balanced if … fi", "nested if … fi do … done"]
    assert RULES["nested"].text == "nested () []"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"balanced": "("}, r"'R': expected a pair of brackets such as .* found '\('"),
        ({"balanced": ["()", "[]", "x"]}, "a pair of brackets"),
        ({"balanced": 3}, "a pair of brackets"),
        ({"balanced": "<>"}, "unknown symbol '<'"),
        ({"balanced": "(("}, "two different symbols"),
        ({"nested": "()"}, "nested takes a list of pairs"),
        ({"nested": []}, "nested takes a list of pairs"),
        ({"irreducible": {"pairs": "()"}}, "irreducible takes a list of pairs"),
        ({"nested": ["()", "[)"]}, "brackets that all differ"),
        ({"nestd": ["()"]}, "did you mean 'nested'"),
    ],
)
def test_wrong_rules_are_refused_with_the_reason(entry: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compile_rules({"R": entry}, SYMBOLS)
