"""Strings with two derivations: the shortest of a grammar, by counting derivations bottom up as 0, 1 or more.

min(·, 2) carries sums to sums and products to products, so the least fixed point of the counts in {0, 1, 2} is min(count, 2),
for infinitely many derivations (unit cycles, ε-loops) too.
"""

from __future__ import annotations

from lmtest.languages.base import Row
from lmtest.languages.grammar import Grammar

MOST_STEPS = 1_000_000
"""Pairs of strings that are put together before the search gives up on longer ones."""

Counts = dict[Row, int]


def shortest_ambiguous(grammar: Grammar, longest: int) -> tuple[Row | None, int]:
    """A shortest string with two derivations, if one has at most `longest` symbols; and the length up to which all were looked at."""
    rules = _binary(grammar)
    table: list[dict[int, Counts]] = []  # by length, then part
    steps = 0
    for length in range(longest + 1):
        here: dict[int, Counts] = {part: {} for part in rules}
        table.append(here)
        changed = True
        while changed:
            changed = False
            for part, bodies in rules.items():
                counts: Counts = {}
                for body in bodies:
                    for row, count in _strings(body, length, table):
                        counts[row] = min(counts.get(row, 0) + count, 2)
                        steps += 1
                        if steps > MOST_STEPS:
                            return None, length - 1
                if counts != here[part]:
                    here[part], changed = counts, True
        if ambiguous := [row for row, count in here[0].items() if count > 1]:
            return min(ambiguous), length
    return None, longest


def _binary(grammar: Grammar) -> dict[int, list[tuple[int, ...]]]:
    """Rules of at most two parts: a longer right side is its first part and the rest, which gets a number of its own."""
    rules: dict[int, list[tuple[int, ...]]] = {a: [] for a in range(grammar.size)}
    rest: dict[tuple[int, ...], int] = {}
    for rule in grammar.productions:
        owner, body = rule.lhs, rule.rhs
        while len(body) > 2:
            known = body[1:] in rest
            number = rest.setdefault(body[1:], grammar.size + len(rest))
            rules[owner].append((body[0], number))
            if known:
                break
            owner, body = number, body[1:]
            rules[owner] = []
        else:
            rules[owner].append(body)
    return rules


def _strings(body: tuple[int, ...], length: int, table: list[dict[int, Counts]]) -> list[tuple[Row, int]]:
    """The strings of exactly `length` symbols of a right side, each with min(its derivations, 2)."""
    if not body:
        return [((), 1)] if length == 0 else []
    if len(body) == 1:
        return list(_of(body[0], length, table).items())
    return [
        (left + right, min(one * two, 2))
        for k in range(length + 1)
        for left, one in _of(body[0], k, table).items()
        for right, two in _of(body[1], length - k, table).items()
    ]


def _of(symbol: int, length: int, table: list[dict[int, Counts]]) -> Counts:
    if symbol < 0:
        return {(~symbol,): 1} if length == 1 else {}
    return table[length][symbol]
