"""Proofs that a grammar is unambiguous, so that the entropy of its derivations is the entropy of its strings.

Undecidable in general; two sound tests: the canonical LR(1) automaton has no conflict (Knuth 1965), or the alternatives
of every nonterminal are disjoint and every right side splits in one way, both read off lengths, first and last symbols
(a coarse form of Brabrand, Giegerich & Møller, "Analyzing ambiguity of context-free grammars", 2010).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from lmtest.languages.grammar import Grammar

MOST_STATES = 2_000
END = math.inf  # the look-ahead "end of string"; terminals are negative


def proven_unambiguous(grammar: Grammar) -> bool:
    """True only if every string provably has one derivation."""
    return _disjoint_and_rigid(grammar) or _lr1(grammar)


@dataclass(frozen=True)
class _Shape:
    """What is known of the strings of a nonterminal or right side: lengths, possible first and last terminals."""

    shortest: float = math.inf
    longest: float = -math.inf
    first: frozenset[int] = frozenset()
    last: frozenset[int] = frozenset()

    def __or__(self, other: _Shape) -> _Shape:
        return _Shape(
            min(self.shortest, other.shortest),
            max(self.longest, other.longest),
            self.first | other.first,
            self.last | other.last,
        )

    def __add__(self, other: _Shape) -> _Shape:
        return _Shape(
            self.shortest + other.shortest,
            self.longest + other.longest,
            self.first | other.first if self.shortest == 0 else self.first,
            self.last | other.last if other.shortest == 0 else other.last,
        )

    def disjoint(self, other: _Shape) -> bool:
        if self.longest < other.shortest or other.longest < self.shortest:
            return True
        one_has_symbols = self.shortest > 0 or other.shortest > 0
        return one_has_symbols and (not self.first & other.first or not self.last & other.last)


def _disjoint_and_rigid(grammar: Grammar) -> bool:
    shapes = _shapes(grammar)
    for rules in grammar.by_lhs():
        for rule in rules:
            if sum(s >= 0 and shapes[s].shortest != shapes[s].longest for s in rule.rhs) > 1:
                return False  # two parts of open length: the split may not be unique
        bodies = [_body(rule.rhs, shapes) for rule in rules]
        if not all(one.disjoint(other) for one, other in itertools.combinations(bodies, 2)):
            return False
    return True


def _body(rhs: Sequence[int], shapes: Sequence[_Shape]) -> _Shape:
    body = _Shape(0, 0)
    for symbol in rhs:
        body += shapes[symbol] if symbol >= 0 else _Shape(1, 1, frozenset({symbol}), frozenset({symbol}))
    return body


def _shapes(grammar: Grammar) -> list[_Shape]:
    """Least fixed point; a longest length that still grows after as many sweeps as there are nonterminals is infinite."""
    shapes = [_Shape() for _ in grammar.names]
    sweeps = 0
    while True:
        grown = list(shapes)
        for rule in grammar.productions:
            if all(s < 0 or shapes[s].shortest < math.inf for s in rule.rhs):
                grown[rule.lhs] |= _body(rule.rhs, shapes)
        if sweeps > grammar.size:
            grown = [
                new if new.longest <= old.longest else _Shape(new.shortest, math.inf, new.first, new.last)
                for new, old in zip(grown, shapes, strict=True)
            ]
        if grown == shapes:
            return shapes
        shapes, sweeps = grown, sweeps + 1


Item = tuple[int, int, float]  # rule, dot, look-ahead


def _lr1(grammar: Grammar) -> bool:
    """Whether the canonical LR(1) automaton of the augmented grammar has no conflict."""
    shapes = _shapes(grammar)
    start = grammar.size
    rules = [(start, (0,)), *((rule.lhs, rule.rhs) for rule in grammar.productions)]

    def first(symbols: Sequence[int], lookahead: float) -> set[float]:
        body = _body(symbols, shapes)
        return {*body.first, lookahead} if body.shortest == 0 else set(body.first)

    def complete(kernel: frozenset[Item]) -> frozenset[Item]:
        items, todo = set(kernel), list(kernel)
        while todo:
            rule, dot, lookahead = todo.pop()
            rhs = rules[rule][1]
            if dot == len(rhs) or rhs[dot] < 0:
                continue
            for after in first(rhs[dot + 1 :], lookahead):
                for i, (lhs, _) in enumerate(rules):
                    if lhs == rhs[dot] and (i, 0, after) not in items:
                        items.add((i, 0, after))
                        todo.append((i, 0, after))
        return frozenset(items)

    begin = complete(frozenset({(0, 0, END)}))
    states, todo = {begin}, [begin]
    while todo:
        state = todo.pop()
        shifts: dict[int, set[Item]] = {}
        reduces: dict[float, int] = {}
        for rule, dot, lookahead in state:
            rhs = rules[rule][1]
            if dot < len(rhs):
                shifts.setdefault(rhs[dot], set()).add((rule, dot + 1, lookahead))
            elif reduces.setdefault(lookahead, rule) != rule:
                return False  # two reductions
        if any(lookahead in shifts for lookahead in reduces):
            return False  # shift or reduce
        for kernel in shifts.values():
            following = complete(frozenset(kernel))
            if following not in states:
                states.add(following)
                todo.append(following)
        if len(states) > MOST_STATES:
            return False
    return True
