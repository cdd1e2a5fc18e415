"""From grammar text to a checked probabilistic grammar: what is no distribution is refused, nothing is repaired."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy.sparse.csgraph import connected_components

from lmtest import limits
from lmtest.errors import UsageError, nearest

MOST_RULES = 50_000
MOST_NONTERMINALS = 1_000
"""That are reached, as written; what limits the tables of the normal form stands there."""
SUM_TOLERANCE = 1e-9
CRITICAL_TOLERANCE = 1e-12
"""How near to 1 a spectral radius counts as 1: its own rounding error."""


@dataclass(frozen=True)
class Production:
    """lhs → rhs with a probability; in `rhs`, nonterminal i stands as i and terminal a as ~a (negative)."""

    lhs: int
    rhs: tuple[int, ...]
    prob: float


@dataclass(frozen=True)
class Grammar:
    """A consistent PCFG without useless symbols; nonterminal 0 is the start, equal rules are merged."""

    names: tuple[str, ...]
    symbols: tuple[str, ...]
    productions: tuple[Production, ...]

    @property
    def size(self) -> int:
        return len(self.names)

    def mean_matrix(self) -> np.ndarray:
        """M[A, B]: expected number of B's that one A is rewritten to."""
        matrix = np.zeros((self.size, self.size))
        for rule in self.productions:
            for symbol in rule.rhs:
                if symbol >= 0:
                    matrix[rule.lhs, symbol] += rule.prob
        return matrix

    def by_lhs(self) -> list[list[Production]]:
        """The productions of each nonterminal."""
        table: list[list[Production]] = [[] for _ in self.names]
        for rule in self.productions:
            table[rule.lhs].append(rule)
        return table


def read(text: str) -> Grammar:
    """Grammar text in nltk's PCFG notation → a checked grammar.

    Raises UsageError, with the rule or nonterminal and the number found, where the text is no distribution.
    """
    from nltk.grammar import Nonterminal, read_grammar, standard_nonterm_parser  # brings all of nltk: half a second

    try:
        start, rules = read_grammar(text, standard_nonterm_parser, probabilistic=True)
    except ValueError as error:
        raise UsageError(
            f"cannot read the grammar: {error}. Write rules as  S -> 'a' S 'b' [0.5] | 'a' 'b' [0.5], probabilities as plain decimals"
        ) from None
    limits.check("rules", len(rules), MOST_RULES, "write a smaller grammar")
    written: dict[str, dict[tuple[object, ...], float]] = defaultdict(lambda: defaultdict(float))
    zeros = [rule for rule in rules if rule.prob() == 0]
    uncommented = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    stated_zeros = re.findall(r"\[0*\.?0*\]", re.sub(r"'[^']*'|\"[^\"]*\"", "", uncommented))
    if len(zeros) > len(stated_zeros):
        raise UsageError(f"a rule without a probability, perhaps {str(zeros[0]).rsplit('[', 1)[0]}: write it in [ ]")
    for rule in rules:
        rhs = tuple(symbol.symbol() if isinstance(symbol, Nonterminal) else (symbol,) for symbol in rule.rhs())
        written[str(rule.lhs().symbol())][rhs] += rule.prob()
    for name, alternatives in written.items():
        total = sum(alternatives.values())
        if abs(total - 1) > SUM_TOLERANCE:
            raise UsageError(f"the probabilities of {name!r} sum to {total:.10g}, not to 1; they are taken as written")
        for symbol in (symbol for rhs in alternatives for symbol in rhs if not isinstance(symbol, tuple)):
            if str(symbol) not in written:
                raise UsageError(
                    f"nonterminal {symbol!r} in a rule of {name!r} has no rule; {nearest(str(symbol), written)}"
                )
    if str(start.symbol()) not in written:
        raise UsageError(f"the start symbol {start.symbol()!r} has no rule; {nearest(str(start.symbol()), written)}")
    return _check(str(start.symbol()), written)


def _check(start: str, written: dict[str, dict[tuple[object, ...], float]]) -> Grammar:
    index = {start: 0}
    names: list[str] = [start]
    symbols: dict[str, int] = {}
    productions: list[Production] = []
    for lhs, name in enumerate(names):  # grows while it is walked: what is not reached is dropped
        for rhs, prob in written[name].items():
            if prob == 0:
                continue
            ids: list[int] = []
            for symbol in rhs:
                if isinstance(symbol, tuple):
                    ids.append(~symbols.setdefault(symbol[0], len(symbols)))
                else:
                    if symbol not in index:
                        index[str(symbol)] = len(names)
                        names.append(str(symbol))
                    ids.append(index[str(symbol)])
            productions.append(Production(lhs, tuple(ids), prob))
    limits.check(f"nonterminals reached from {start!r}", len(names), MOST_NONTERMINALS, "write a smaller grammar")
    grammar = Grammar(tuple(names), tuple(symbols), tuple(productions))
    productive = _closure(grammar, lambda rule, found: all(s < 0 or s in found for s in rule.rhs))
    if 0 not in productive:
        raise UsageError(f"the language is empty: {start!r} produces no string")
    if barren := [name for i, name in enumerate(names) if i not in productive]:
        raise UsageError(
            f"nonterminal {barren[0]!r} is reached from {start!r} but produces no string; remove its rules"
        )
    if spectral_radius(means := grammar.mean_matrix()) > 1 + CRITICAL_TOLERANCE:
        mass = _ending_mass(grammar, means)
        raise UsageError(
            f"the grammar loses mass: {start!r} ends with probability {mass:.12g}, not 1 "
            f"(each rewriting makes too many nonterminals); lower the probabilities of the recursive rules"
        )
    if not symbols:
        raise UsageError(f"the only string of {start!r} is the empty one: a language needs a symbol")
    return grammar


def _closure(grammar: Grammar, enters: Callable[[Production, set[int]], bool]) -> set[int]:
    """The least set of nonterminals that holds the left side of every rule which `enters`, given the set so far."""
    found: set[int] = set()
    while more := {rule.lhs for rule in grammar.productions if rule.lhs not in found and enters(rule, found)}:
        found |= more
    return found


def reachable(matrix: np.ndarray) -> np.ndarray:
    """Which index leads to which along positive entries, itself included; bool [K, K]."""
    reach = np.asarray((matrix > 0) | np.eye(len(matrix), dtype=bool))
    while (wider := reach.astype(np.float32) @ reach > 0).sum() > reach.sum():  # as floats: bool has no fast product
        reach = np.asarray(wider)
    return reach


def spectral_radius(matrix: np.ndarray) -> float:
    """Largest eigenvalue of a nonnegative matrix, block by block: inside a strongly connected block it is simple."""
    _, block = connected_components(matrix > 0, directed=True, connection="strong")
    parts = (np.flatnonzero(block == b) for b in range(block.max() + 1))
    return float(max(np.abs(np.linalg.eigvals(matrix[np.ix_(part, part)])).max() for part in parts))


def least_root(grammar: Grammar, productions: Iterable[Production]) -> np.ndarray:
    """Least solution x ≥ 0 of x_A = Σ p Π x_B over the given rules (terminals count as 1), by Newton's method.

    From 0 the iterates rise to the least root and double their digits (Etessami & Yannakakis, JACM 2009).
    """
    rules = list(productions)
    x = np.zeros(grammar.size)
    for _ in range(200):
        value, jacobian = np.zeros_like(x), np.zeros((x.size, x.size))
        for rule in rules:
            children = [symbol for symbol in rule.rhs if symbol >= 0]
            value[rule.lhs] += rule.prob * x[children].prod()
            for i, child in enumerate(children):
                jacobian[rule.lhs, child] += rule.prob * x[children[:i] + children[i + 1 :]].prod()
        try:
            step = np.linalg.solve(np.eye(x.size) - jacobian, value - x)
        except np.linalg.LinAlgError:
            raise UsageError(
                "the probabilities of some rules are too small beside the others to be told from 0 (a loop takes all): raise them"
            ) from None
        x = x + step
        if np.abs(step).max() < 1e-16:
            break
    return x


def _ending_mass(grammar: Grammar, means: np.ndarray) -> float:
    """P(a derivation from the start ends), where it may not: only what leads to a supercritical block is solved for."""
    reach = reachable(means)
    together = reach & reach.T
    lossy = [
        a
        for a in range(grammar.size)
        if spectral_radius(means[np.ix_(together[a], together[a])]) > 1 + CRITICAL_TOLERANCE
    ]
    open_ = [
        bool(row[lossy].any()) for row in reach
    ]  # the others end for certain; at a critical root Newton would only crawl there
    rules = [
        Production(rule.lhs, tuple(s for s in rule.rhs if s < 0 or open_[s]), rule.prob)
        for rule in grammar.productions
        if open_[rule.lhs]
    ]
    return float(least_root(grammar, rules)[0])


def empty_string_masses(grammar: Grammar) -> np.ndarray:
    """P(A ⇒ ε) for each nonterminal A; exactly 1 where A has no other string."""
    some_symbol = _closure(grammar, lambda rule, found: any(s < 0 or s in found for s in rule.rhs))
    only_empty = [a for a in range(grammar.size) if a not in some_symbol]
    # Exact ones leave the system: there (S → S S [.5] | [.5]) the root is double and Newton would crawl.
    rest = [
        Production(rule.lhs, tuple(s for s in rule.rhs if s not in only_empty), rule.prob)
        for rule in grammar.productions
        if rule.lhs in some_symbol and all(symbol >= 0 for symbol in rule.rhs)
    ]
    masses = least_root(grammar, rest)
    masses[only_empty] = 1.0
    return masses
