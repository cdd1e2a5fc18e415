"""A grammar as matrices: binary rules over non-empty strings, with ε, unit and left-corner tails summed in closed form.

Nonterminals of the normal form generate the *non-empty* strings of the grammar's nonterminals with the same weights; the
empty string's mass stands apart. Chains of unit rules are summed by (I − W)⁻¹, chains of left corners by
(I − W − P)⁻¹ (Jelinek & Lafferty, Computational Linguistics 1991; Stolcke, Computational Linguistics 1995).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lmtest import limits
from lmtest.languages.grammar import Grammar, empty_string_masses, reachable


@dataclass(frozen=True)
class NormalForm:
    """A → B C with weight, A → B with weight, A → a with weight; nonterminal 0 is the start. K nonterminals, P pairs."""

    empty: float  # mass of the empty string
    mass: np.ndarray  # [K] mass of the non-empty strings of each nonterminal
    unit: np.ndarray  # [K, K] W: weight of A → B
    lexical: np.ndarray  # [K, symbols] weight of A → a
    pairs: np.ndarray  # [P, 2] the distinct right sides B C
    binary: np.ndarray  # [K, P] weight of A → pair

    @cached_property
    def unit_closure(self) -> np.ndarray:
        """[K, K] U = (I − W)⁻¹: all chains of unit rules."""
        return geometric_sum(self.unit)

    @cached_property
    def left(self) -> np.ndarray:
        """[P, K] one-hot of each pair's first nonterminal."""
        return np.asarray(np.eye(len(self.mass))[self.pairs[:, 0]])

    @cached_property
    def right(self) -> np.ndarray:
        """[P, K] one-hot of each pair's second nonterminal."""
        return np.asarray(np.eye(len(self.mass))[self.pairs[:, 1]])


def geometric_sum(matrix: np.ndarray) -> np.ndarray:
    """I + A + A² + … = (I − A)⁻¹ for a nonnegative A of spectral radius below 1, with its zeros exact."""
    inverse = np.linalg.inv(np.eye(len(matrix)) - matrix)
    # Rounding would leave 1e-17 where no chain leads, and make dead prefixes alive.
    return np.where(reachable(matrix), inverse, 0.0).clip(min=0.0)


def check_tables(size: int, n_pairs: int, n_symbols: int, limit: int) -> None:
    """Raises UsageError where K nonterminals, P pairs and V − 1 symbols, by so many lengths, make too large a table."""
    limits.check(
        f"numbers in a table ({size} nonterminals of the normal form, {n_pairs} pairs of them, {n_symbols} symbols, "
        f"{limit + 1} lengths)",
        (limit + 1) * size * max(size, n_pairs, n_symbols),
        limits.MOST_NUMBERS,
        "lower max_length" if limit else "write a smaller grammar",
    )


def normal_form(grammar: Grammar) -> NormalForm:
    """Binarises the rules, then moves every ε to where it is skipped: O(size of the grammar) rules."""
    empty: list[float] = list(empty_string_masses(grammar))
    index: dict[tuple[int, ...], int] = {}  # a right side (or a lone terminal) that needed a nonterminal of its own
    todo: list[tuple[int, tuple[int, ...], float]] = [(r.lhs, r.rhs, r.prob) for r in grammar.productions]
    unit: list[tuple[int, int, float]] = []
    lexical: list[tuple[int, int, float]] = []
    binary: list[tuple[int, int, int, float]] = []

    def nonterminal(rhs: tuple[int, ...]) -> int:
        if len(rhs) == 1 and rhs[0] >= 0:
            return rhs[0]
        if rhs not in index:
            index[rhs] = len(empty)
            check_tables(len(empty), 0, 0, 0)  # before long right sides have filled the memory
            empty.append(float(np.prod([empty[s] if s >= 0 else 0.0 for s in rhs])))
            todo.append((index[rhs], rhs, 1.0))
        return index[rhs]

    for lhs, rhs, prob in todo:  # grows while it is walked
        if len(rhs) == 1 and rhs[0] < 0:
            lexical.append((lhs, ~rhs[0], prob))
        elif len(rhs) == 1:
            unit.append((lhs, rhs[0], prob))
        elif rhs:
            first, second = nonterminal(rhs[:1]), nonterminal(rhs[1:])
            binary.append((lhs, first, second, prob))
            unit.append((lhs, first, prob * empty[second]))
            unit.append((lhs, second, prob * empty[first]))

    size, n_symbols = len(empty), len(grammar.symbols)
    mass = 1 - np.array(empty)
    binary = [rule for rule in binary if mass[rule[1]] > 0 and mass[rule[2]] > 0]
    pairs = sorted({(first, second) for _, first, second, _ in binary})
    place = {pair: p for p, pair in enumerate(pairs)}
    check_tables(size, len(pairs), n_symbols, 0)
    tables = np.zeros((size, size)), np.zeros((size, n_symbols)), np.zeros((size, len(pairs)))
    for lhs, child, weight in unit:
        tables[0][lhs, child] += weight * (mass[child] > 0)
    for lhs, symbol, weight in lexical:
        tables[1][lhs, symbol] += weight
    for lhs, first, second, weight in binary:
        tables[2][lhs, place[first, second]] += weight
    return NormalForm(empty[0], mass, tables[0], tables[1], np.array(pairs, dtype=np.int64).reshape(-1, 2), tables[2])
