"""Proofs that a grammar is unambiguous, so that the entropy of its derivations is the entropy of its strings.

Undecidable in general; two sound tests: an LR automaton has no conflict (Knuth 1965), or the alternatives
of every nonterminal are disjoint and every right side splits in one way, both read off lengths, first and last symbols
(a coarse form of Brabrand, Giegerich & Møller, "Analyzing ambiguity of context-free grammars", 2010).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from lmtest.languages.grammar import Grammar

MOST_ITEMS = 500_000
"""Items of all automaton states together: beyond (seconds), nothing is proven."""
END = math.inf  # the look-ahead "end of string"; terminals are negative


def proven_unambiguous(grammar: Grammar) -> bool:
    """True only if every string provably has one derivation."""
    return _disjoint_and_rigid(grammar) or any(_deterministic(grammar, lookahead) for lookahead in (False, True))


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


def longest_string(grammar: Grammar) -> float:
    """The number of symbols of the longest string; infinite where there is none."""
    return _shapes(grammar)[0].longest


Item = tuple[int, int, float]  # rule, dot, look-ahead


def _deterministic(grammar: Grammar, lookahead: bool) -> bool:
    """Whether the augmented grammar's LR automaton has no conflict, so that every string has one rightmost derivation.

    With `lookahead` the canonical LR(1) automaton; without, the much smaller SLR(1): LR(0) items and FOLLOW sets.
    """
    shapes = _shapes(grammar)
    start = grammar.size
    rules = [(start, (0,)), *((rule.lhs, rule.rhs) for rule in grammar.productions)]
    of: list[list[int]] = [[] for _ in range(start + 1)]
    for i, (lhs, _) in enumerate(rules):
        of[lhs].append(i)

    def first(symbols: Sequence[int], after: Iterable[float]) -> set[float]:
        body = _body(symbols, shapes)
        return {*body.first, *after} if body.shortest == 0 else set(body.first)

    follow: list[set[float]] = [set() for _ in range(start)] + [{END}]
    grown = True
    while grown:
        grown = False
        for lhs, rhs in rules:
            for i, symbol in enumerate(rhs):
                if symbol >= 0 and not (more := first(rhs[i + 1 :], follow[lhs])) <= follow[symbol]:
                    follow[symbol] |= more
                    grown = True

    @cache
    def behind(rule: int, dot: int) -> _Shape:
        return _body(rules[rule][1][dot + 1 :], shapes)

    def complete(kernel: Iterable[Item]) -> frozenset[Item]:
        items, todo = set(kernel), list(kernel)
        opened: list[set[float]] = [set() for _ in of]  # look-aheads with which a nonterminal's rules are in
        while todo:
            rule, dot, ahead = todo.pop()
            rhs = rules[rule][1]
            if dot < len(rhs) and rhs[dot] >= 0:
                after: set[float] = {END}
                if lookahead:
                    body = behind(rule, dot)
                    after = {*body.first, ahead} if body.shortest == 0 else set(body.first)
                more = after - opened[rhs[dot]]
                opened[rhs[dot]] |= more
                new = {(i, 0, symbol) for i in of[rhs[dot]] for symbol in more} - items
                items |= new
                todo += new
        return frozenset(items)

    begin = complete([(0, 0, END)])
    states, todo = {begin}, [begin]
    work = 0
    while todo:
        state = todo.pop()
        shifts: dict[int, set[Item]] = {}
        reduces: dict[float, int] = {}
        for rule, dot, ahead in state:
            lhs, rhs = rules[rule]
            if dot < len(rhs):
                shifts.setdefault(rhs[dot], set()).add((rule, dot + 1, ahead))
            elif any(reduces.setdefault(after, rule) != rule for after in ([ahead] if lookahead else follow[lhs])):
                return False  # two reductions
        if any(ahead in shifts for ahead in reduces):
            return False  # shift or reduce
        for kernel in shifts.values():
            following = complete(kernel)
            work += len(following)
            if following not in states:
                states.add(following)
                todo.append(following)
            if work > MOST_ITEMS:
                return False
    return True
