"""Conditions on how often symbols occur, such as `a == b and a % 2 == 0`: their truth, and whether it can still come.

A name is the number of times that symbol occurs; a symbol that is no Python name stands in quotes, `'(' == ')'`.
Allowed: + and -, multiplication by whole numbers, `% positive number`, comparisons, also chained, and, or, parentheses.
"""

from __future__ import annotations

import ast
import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn

import numpy as np

from lmtest.errors import UsageError, nearest

MAX_NUMBER = 1_000_000
MAX_CONJUNCTIONS = 1000
SECONDS = 5.0
"""Of the solver, to decide one count: it cannot be interrupted."""


@dataclass(frozen=True)
class Linear:
    """A whole-number combination of variables, {index: coefficient} as sorted pairs, plus a constant."""

    terms: tuple[tuple[int, int], ...]
    constant: int

    def plus(self, other: Linear, factor: int = 1) -> Linear:
        """self + factor · other."""
        terms = dict(self.terms)
        for variable, coefficient in other.terms:
            terms[variable] = terms.get(variable, 0) + factor * coefficient
        kept = tuple(sorted((variable, value) for variable, value in terms.items() if value))
        return Linear(kept, self.constant + factor * other.constant)

    def value(self, columns: Sequence[Any]) -> Any:
        """The value where variable i is columns[i]: whole numbers, or arrays of one shape."""
        return sum((coefficient * columns[variable] for variable, coefficient in self.terms), self.constant)


@dataclass(frozen=True)
class Atom:
    """linear == 0, or linear ≤ 0."""

    linear: Linear
    equality: bool


class CountCondition:
    """A condition on the counts of K symbols, as alternatives of conjoined atoms.

    Variables 0 … K − 1 are the counts; variable K + j is the remainder `remainders[j]`, a (linear, modulus) pair.
    `mentioned` lists the symbols that the condition depends on.
    """

    def __init__(self, text: str, symbols: Sequence[str]) -> None:
        """Raises UsageError on an unknown symbol and on anything that is not such a condition."""
        parser = _Parser(text, symbols)
        self.alternatives = parser.parse()
        self.remainders = parser.remainders
        self.mentioned: tuple[int, ...] = tuple(sorted(parser.mentioned))
        self.n_symbols = len(symbols)
        self._periods = self._find_periods()
        self._hopeful: list[tuple[int, ...]] = []
        self._hopeless: list[tuple[int, ...]] = []
        self.satisfiable_from = lru_cache(maxsize=1_000_000)(self._satisfiable_from)
        """Counts, a tuple of K whole numbers → whether the condition holds for counts + d, some whole d ≥ 0; exact."""

    def holds(self, columns: Sequence[Any]) -> Any:
        """Truth where symbol i occurs columns[i] times: K whole numbers → bool, K arrays of one shape → bool array."""
        columns = list(columns)
        for linear, modulus in self.remainders:
            columns.append(linear.value(columns) % modulus)
        truth: Any = columns[0] < 0  # false, in the shape of the columns
        for conjunction in self.alternatives:
            all_true: Any = columns[0] >= 0
            for atom in conjunction:
                value = atom.linear.value(columns)
                all_true = all_true & ((value == 0) if atom.equality else (value <= 0))
            truth = truth | all_true
        return truth

    def reduce(self, counts: Sequence[int]) -> tuple[int, ...]:
        """Smaller counts that no continuation can tell from these: for a == b, (5, 3) and (2, 0) are one."""
        reduced = list(counts)
        for support, amount in self._periods:
            surplus = amount * (min(reduced[i] for i in support) // amount)
            if surplus:
                for i in support:
                    reduced[i] -= surplus
        return tuple(reduced)

    def _find_periods(self) -> list[tuple[tuple[int, ...], int]]:
        """Sets of symbols, and an amount that may be taken from all counts in a set without changing any atom."""
        moduli = [modulus for _, modulus in self.remainders]
        amounts = sorted({1, *moduli, math.lcm(*moduli)})
        sizes = range(1, len(self.mentioned) + 1 if len(self.mentioned) <= 8 else 3)
        supports = [s for size in sizes for s in itertools.combinations(self.mentioned, size)]
        found = ([(support, amount) for amount in amounts if self._is_period(support, amount)] for support in supports)
        return [periods[0] for periods in found if periods]

    def _is_period(self, support: tuple[int, ...], amount: int) -> bool:
        def change(linear: Linear) -> int:
            return sum(amount * coefficient for variable, coefficient in linear.terms if variable in support)

        return all(change(linear) % modulus == 0 for linear, modulus in self.remainders) and all(
            change(atom.linear) == 0 for conjunction in self.alternatives for atom in conjunction
        )

    def _satisfiable_from(self, counts: tuple[int, ...]) -> bool:
        # Counts only grow: what is satisfiable from some counts is so from any smaller ones. So one answer for generous
        # counts settles a whole box of them, and few integer programs are ever solved.
        if self.holds(counts) or any(_below(counts, bound) for bound in self._hopeful):
            return True
        if any(_below(bound, counts) for bound in self._hopeless):
            return False
        answer = self._feasible(counts)
        far = 2 * max(counts) + 16
        for i in range(self.n_symbols):
            moved = (*counts[:i], far if answer else 0, *counts[i + 1 :])
            if moved != counts and (i not in self.mentioned or self._feasible(moved) == answer):
                counts = moved
        (self._hopeful if answer else self._hopeless).append(counts)
        return answer

    def _feasible(self, counts: tuple[int, ...]) -> bool:
        return any(self._conjunction_feasible(conjunction, counts) for conjunction in self.alternatives)

    def _conjunction_feasible(self, conjunction: tuple[Atom, ...], counts: tuple[int, ...]) -> bool:
        """In whole numbers: increments d ≥ 0, remainders r, quotients q; linear(counts + d) = modulus · q + r."""
        from scipy.optimize import Bounds, LinearConstraint, milp  # a third of a second that few rules need

        n, m = self.n_symbols, len(self.remainders)
        rows, lower, upper = [], [], []
        known = [*counts, *[0] * m]
        for j, (linear, modulus) in enumerate(self.remainders):
            rows.append(_row(linear, n + 2 * m))
            rows[-1][[n + j, n + m + j]] -= 1, modulus
            lower.append(-linear.value(known))
            upper.append(lower[-1])
        for atom in conjunction:
            # Dividing by the common factor rounds the bound inwards, which settles parity without any search.
            divisor = math.gcd(*(coefficient for _, coefficient in atom.linear.terms)) or 1
            bound = -atom.linear.value(known)
            if atom.equality and bound % divisor:
                return False
            rows.append(_row(atom.linear, n + 2 * m) / divisor)
            upper.append(bound // divisor)
            lower.append(upper[-1] if atom.equality else -math.inf)
        limits = [modulus - 1 for _, modulus in self.remainders]
        result = milp(
            np.zeros(n + 2 * m),
            integrality=np.ones(n + 2 * m, dtype=np.int64),
            bounds=Bounds(
                np.array([*[0.0] * (n + m), *[-math.inf] * m]), np.array([*[math.inf] * n, *limits, *[math.inf] * m])
            ),
            constraints=LinearConstraint(np.array(rows), np.array(lower, float), np.array(upper, float)),
            options={"time_limit": SECONDS},
        )
        if result.status == 0:
            found = [count + max(round(float(d)), 0) for count, d in zip(counts, result.x[:n], strict=True)]
            if self.holds(found):  # in whole numbers: the solver's tolerance is not trusted
                return True
        if result.status != 2:
            raise UsageError(
                f"cannot decide a count rule from {counts}: {result.message}; use smaller numbers, or fewer"
            )
        return False


def _below(left: tuple[int, ...], right: tuple[int, ...]) -> bool:
    return all(x <= y for x, y in zip(left, right, strict=True))


def _row(linear: Linear, width: int) -> np.ndarray:
    row = np.zeros(width)
    for variable, coefficient in linear.terms:
        row[variable] = coefficient
    return row


class _Parser:
    """Python's own syntax tree, of which only the listed nodes are read; nothing is ever evaluated."""

    def __init__(self, text: str, symbols: Sequence[str]) -> None:
        self.text, self.symbols = text, symbols
        self.remainders: list[tuple[Linear, int]] = []
        self.mentioned: set[int] = set()

    def parse(self) -> list[tuple[Atom, ...]]:
        try:
            with warnings.catch_warnings(action="ignore"):  # of what Python finds odd
                tree = ast.parse(self.text.strip(), mode="eval")
            alternatives = self._condition(tree.body)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            if isinstance(error, UsageError):
                raise
            self._fail("this is not one")
        if not self.mentioned:
            self._fail("no symbol occurs in it")
        return alternatives

    def _fail(self, problem: str) -> NoReturn:
        raise UsageError(f"expected a condition such as a == b or 2*a <= b + 1, found {self.text!r}: {problem}")

    def _condition(self, node: ast.expr) -> list[tuple[Atom, ...]]:
        match node:
            case ast.BoolOp(ast.Or(), values):
                return [conjunction for value in values for conjunction in self._condition(value)]
            case ast.BoolOp(ast.And(), values):
                return self._conjoin([self._condition(value) for value in values])
            case ast.Compare(left, operators, rights):
                sides = [self._linear(side) for side in (left, *rights)]
                return self._conjoin(
                    [
                        self._compare(operator, x.plus(y, -1))
                        for operator, x, y in zip(operators, sides, sides[1:], strict=False)
                    ]
                )
        self._fail(f"expected a comparison, found {ast.unparse(node)!r}")

    def _conjoin(self, parts: list[list[tuple[Atom, ...]]]) -> list[tuple[Atom, ...]]:
        if math.prod(map(len, parts)) > MAX_CONJUNCTIONS:
            self._fail(f"it has over {MAX_CONJUNCTIONS} alternatives; write fewer `or` and `!=` within `and`")
        return [tuple(itertools.chain(*choice)) for choice in itertools.product(*parts)]

    def _compare(self, operator: ast.cmpop, difference: Linear) -> list[tuple[Atom, ...]]:
        one = Linear((), 1)
        negated = Linear((), 0).plus(difference, -1)
        below, above = Atom(difference.plus(one), False), Atom(negated.plus(one), False)
        match operator:
            case ast.Eq():
                return [(Atom(difference, True),)]
            case ast.NotEq():
                return [(below,), (above,)]
            case ast.Lt():
                return [(below,)]
            case ast.Gt():
                return [(above,)]
            case ast.LtE():
                return [(Atom(difference, False),)]
            case ast.GtE():
                return [(Atom(negated, False),)]
        self._fail("expected one of == != < <= > >=")

    def _linear(self, node: ast.expr) -> Linear:
        linear = self._unchecked(node)
        if max(abs(linear.constant), *(abs(coefficient) for _, coefficient in linear.terms), 0) > MAX_NUMBER:
            self._fail(f"expected numbers up to {MAX_NUMBER}, found a larger one")
        return linear

    def _unchecked(self, node: ast.expr) -> Linear:
        zero = Linear((), 0)
        match node:
            case ast.Constant(bool()):
                pass
            case ast.Constant(int() as number):
                return Linear((), number)
            case ast.Name(symbol) | ast.Constant(str() as symbol):
                return self._count(symbol)
            case ast.UnaryOp(ast.USub(), operand):
                return zero.plus(self._linear(operand), -1)
            case ast.UnaryOp(ast.UAdd(), operand):
                return self._linear(operand)
            case ast.BinOp(left, ast.Add() | ast.Sub() as sign, right):
                return self._linear(left).plus(self._linear(right), 1 if isinstance(sign, ast.Add) else -1)
            case ast.BinOp(left, ast.Mult(), right):
                x, y = self._linear(left), self._linear(right)
                if not x.terms or not y.terms:
                    return zero.plus(y, x.constant) if not x.terms else zero.plus(x, y.constant)
            case ast.BinOp(left, ast.Mod(), right):
                x, y = self._linear(left), self._linear(right)
                if not y.terms and y.constant > 0:
                    return self._remainder(x, y.constant)
        self._fail(
            f"expected symbols, whole numbers, + - * by a number, % by a positive number, found {ast.unparse(node)!r}"
        )

    def _count(self, symbol: str) -> Linear:
        if symbol not in self.symbols:
            hint = nearest(symbol, self.symbols)
            self._fail(f"unknown symbol {symbol!r}, {hint} (symbols: {' '.join(self.symbols)})")
        self.mentioned.add(self.symbols.index(symbol))
        return Linear(((self.symbols.index(symbol), 1),), 0)

    def _remainder(self, linear: Linear, modulus: int) -> Linear:
        if (linear, modulus) not in self.remainders:
            self.remainders.append((linear, modulus))
        return Linear(((len(self.symbols) + self.remainders.index((linear, modulus)), 1),), 0)
