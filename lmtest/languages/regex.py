"""Regular expressions over symbols, compiled to a complete deterministic automaton by Brzozowski derivatives.

Syntax: symbols side by side, `|`, `*`, `+`, `?`, `{n}`, `{n,m}`, `{n,}`, parentheses, `.` for any symbol, `[ab]` and
`[^ab]` classes. A symbol is written as itself, as `\\x` (one character), or in quotes, `'the'` or `"("`; in an alphabet
with a symbol of several characters a bare word of letters, digits and underscores is one symbol. White space between
items is ignored. An empty pattern or alternative is the empty string.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from lmtest.errors import UsageError, nearest

MAX_STATES = 10_000
MAX_REPEAT = 1000
MAX_NESTING = 100
MAX_SIZE = 1_000_000
"""Parts of all terms together: nested repetitions such as ((a{0,100}){0,100}b){0,100} multiply."""


@dataclass(frozen=True, eq=False)
class DFA:
    """A complete automaton with start state 0: transitions int64 [states, K], accepting and alive bool [states].

    A state is alive where some string, the empty one too, leads from it to an accepting state.
    """

    transitions: np.ndarray
    accepting: np.ndarray
    alive: np.ndarray


def compile_regex(pattern: str, symbols: tuple[str, ...]) -> DFA:
    """A pattern and the K symbols → the automaton of the strings that match it as a whole.

    Raises UsageError on an unknown symbol, a syntax error, or an absurd size.
    """
    terms = _Terms(len(symbols))
    states = {_Parser(pattern, symbols, terms).parse(): 0}
    transitions: list[list[int]] = []
    order = list(states)
    for term in order:  # grows while it is read
        row = []
        for symbol in range(len(symbols)):
            target = terms.derivative(term, symbol)
            if target not in states:
                if len(states) == MAX_STATES:
                    raise UsageError(f"the regex {pattern!r} needs over {MAX_STATES} states: write a simpler one")
                states[target] = len(order)
                order.append(target)
            row.append(states[target])
        transitions.append(row)
    return DFA(
        np.array(transitions, dtype=np.int64).reshape(len(order), len(symbols)),
        np.array([terms.nullable[term] for term in order]),
        # The constructors below leave no way to write nothing but NOTHING itself, so every other term has a string.
        np.array([term != NOTHING for term in order]),
    )


NOTHING, EMPTY = 0, 1
"""The terms that stand for no string at all and for the empty string alone."""


class _Terms:
    """Terms of the algebra, each kept once and named by its index, so that equal terms are equal numbers.

    A term is ("set", symbols), ("cat", (head, tail)), ("or", terms) or ("rep", (body, low, high)); high −1 is no limit.
    """

    def __init__(self, n_symbols: int) -> None:
        self.shapes: list[tuple[str, tuple[int, ...]]] = [("set", ()), ("rep", (NOTHING, 0, 0))]
        self.nullable = [False, True]
        self.size = 0
        self.index = {shape: i for i, shape in enumerate(self.shapes)}
        self.derivatives: dict[tuple[int, int], int] = {}
        self.everything = self.rep(self.set(range(n_symbols)), 0, -1)

    def _intern(self, nullable: bool, kind: str, content: Iterable[int]) -> int:
        shape = (kind, tuple(content))
        if shape not in self.index:
            self.size += len(shape[1])
            if self.size > MAX_SIZE:
                raise UsageError("the regex grows too large while it is compiled: nest fewer bounded repetitions")
            self.index[shape] = len(self.shapes)
            self.shapes.append(shape)
            self.nullable.append(nullable)
        return self.index[shape]

    def set(self, symbols: Iterable[int]) -> int:
        return self._intern(False, "set", sorted(symbols))

    def cat(self, first: int, second: int) -> int:
        heads = []  # associated to the right, in a loop: patterns may be longer than Python's stack is deep
        while self.shapes[first][0] == "cat":
            head, first = self.shapes[first][1]
            heads.append(head)
        for head in (first, *reversed(heads)):
            if NOTHING in (head, second):
                second = NOTHING
            elif second == EMPTY:
                second = head
            elif head != EMPTY:
                second = self._intern(self.nullable[head] and self.nullable[second], "cat", (head, second))
        return second

    def union(self, terms: Iterable[int]) -> int:
        shapes = [(term, *self.shapes[term]) for term in terms]
        members = {member for term, kind, content in shapes for member in (content if kind == "or" else (term,))}
        if self.everything in members:
            return self.everything
        sets = {member for member in members if self.shapes[member][0] == "set"}
        members = members - sets | {self.set({symbol for member in sets for symbol in self.shapes[member][1]})}
        members.discard(NOTHING)
        if any(self.nullable[member] for member in members - {EMPTY}):
            members.discard(EMPTY)
        if len(members) < 2:
            return members.pop() if members else NOTHING
        return self._intern(any(self.nullable[member] for member in members), "or", sorted(members))

    def rep(self, body: int, low: int, high: int) -> int:
        if self.nullable[body]:
            low = 0  # the same strings, and what `derivative` relies on
        if high == 0 or body == EMPTY or (body == NOTHING and low == 0):
            return EMPTY
        if body == NOTHING or (low, high) == (1, 1):
            return body
        kind, content = self.shapes[body]
        if kind == "rep" and content[1:] == (0, -1):
            return body
        return self._intern(low == 0, "rep", (body, low, high))

    def derivative(self, term: int, symbol: int) -> int:
        """The term of what may follow `symbol` in the strings of `term`."""
        if (term, symbol) not in self.derivatives:
            alternatives, rest = [], term
            while self.shapes[rest][0] == "cat":
                head, rest = self.shapes[rest][1]
                alternatives.append(self.cat(self.derivative(head, symbol), rest))
                if not self.nullable[head]:
                    break
            else:
                alternatives.append(self._derivative_of_item(rest, symbol))
            self.derivatives[term, symbol] = self.union(alternatives)
        return self.derivatives[term, symbol]

    def _derivative_of_item(self, term: int, symbol: int) -> int:
        kind, content = self.shapes[term]
        if kind == "set":
            return EMPTY if symbol in content else NOTHING
        if kind == "or":
            return self.union(self.derivative(member, symbol) for member in content)
        body, low, high = content
        return self.cat(self.derivative(body, symbol), self.rep(body, max(low - 1, 0), max(high - 1, -1)))


_TOKEN = re.compile(
    r"""(?P<quoted>'[^']*'|"[^"]*")|\\(?P<escaped>.)|(?P<bounds>\{[^{}]*\})|(?P<operator>[|*+?().\[\]^{}])"""
    r"""|(?P<word>[A-Za-z0-9_]+)|(?P<space>\s+)|(?P<character>.)""",
    re.DOTALL,
)
_REPEATS = {"*": (0, -1), "+": (1, -1), "?": (0, 1)}


class _Parser:
    """Recursive descent over (kind, text) tokens; kinds are "symbol", "operator" and "bounds"."""

    def __init__(self, pattern: str, symbols: Sequence[str], terms: _Terms) -> None:
        self.pattern, self.symbols, self.terms = pattern, symbols, terms
        words = any(len(symbol) > 1 for symbol in symbols)
        self.tokens: list[tuple[str, str]] = []
        for match in _TOKEN.finditer(pattern):
            kind, text = match.lastgroup or "", match[match.lastgroup or 0]
            if kind in ("operator", "bounds"):
                self.tokens.append((kind, text))
            elif kind == "word" and not words:
                self.tokens += [("symbol", character) for character in text]
            elif kind != "space":
                self.tokens.append(("symbol", text[1:-1] if kind == "quoted" else text))
        self.at = 0

    def parse(self) -> int:
        term = self._alternatives(0)
        if self.at < len(self.tokens):
            self._fail("unbalanced ')'" if self._peek(")") else f"unexpected {self.tokens[self.at][1]!r}")
        return term

    def _fail(self, problem: str) -> NoReturn:
        raise UsageError(f"in the regex {self.pattern!r}: {problem}; a symbol that is an operator stands in quotes")

    def _peek(self, *operators: str) -> bool:
        return self.at < len(self.tokens) and self.tokens[self.at] in [("operator", text) for text in operators]

    def _take(self, operator: str) -> bool:
        found = self._peek(operator)
        self.at += found
        return found

    def _alternatives(self, depth: int) -> int:
        if depth > MAX_NESTING:
            self._fail(f"more than {MAX_NESTING} nested parentheses")
        alternatives = [self._sequence(depth)]
        while self._take("|"):
            alternatives.append(self._sequence(depth))
        return self.terms.union(alternatives)

    def _sequence(self, depth: int) -> int:
        items = []
        while self.at < len(self.tokens) and not self._peek("|", ")"):
            items.append(self._repeated(self._atom(depth)))
        sequence = EMPTY
        for item in reversed(items):
            sequence = self.terms.cat(item, sequence)
        return sequence

    def _atom(self, depth: int) -> int:
        kind, text = self.tokens[self.at]
        self.at += 1
        if kind == "symbol":
            return self.terms.set([self._symbol(text)])
        if text == ".":
            return self.terms.set(range(len(self.symbols)))
        if text == "[":
            return self._class()
        if text == "(":
            inside = self._alternatives(depth + 1)
            if not self._take(")"):
                self._fail("unbalanced '('")
            return inside
        if text == "^" and "^" in self.symbols:
            return self.terms.set([self._symbol("^")])
        if kind == "bounds" or text in _REPEATS:
            self._fail(f"dangling {text!r}: there is nothing before it to repeat")
        self._fail(f"unexpected {text!r}")

    def _class(self) -> int:
        negated, members = self._take("^"), set()
        while self.at < len(self.tokens) and not self._peek("]"):
            kind, text = self.tokens[self.at]
            if kind != "symbol":
                self._fail(f"expected symbols in [ ], found {text!r}")
            members.add(self._symbol(text))
            self.at += 1
        if not self._take("]") or not members:
            self._fail("expected a class such as [ab] or [^ab], found one that is empty or not closed")
        return self.terms.set(set(range(len(self.symbols))) - members if negated else members)

    def _repeated(self, term: int) -> int:
        if not self._at_repetition():
            return term
        kind, text = self.tokens[self.at]
        low, high = self._bounds(text) if kind == "bounds" else _REPEATS[text]
        self.at += 1
        if self._at_repetition():  # elsewhere `*?` and `*+` are not about repeating twice, so no guess is made
            self._fail(f"dangling {self.tokens[self.at][1]!r}: put what it repeats in parentheses")
        return self.terms.rep(term, low, high)

    def _at_repetition(self) -> bool:
        return self._peek(*_REPEATS) or (self.at < len(self.tokens) and self.tokens[self.at][0] == "bounds")

    def _bounds(self, text: str) -> tuple[int, int]:
        match = re.fullmatch(r"\{\s*([0-9]{1,9})\s*(,\s*([0-9]{1,9})?\s*)?\}", text)
        if not match:
            self._fail(f"expected {{n}}, {{n,m}} or {{n,}} with whole numbers up to {MAX_REPEAT}, found {text}")
        low = int(match[1])
        high = low if match[2] is None else -1 if match[3] is None else int(match[3])
        if max(low, high) > MAX_REPEAT or -1 < high < low:
            self._fail(f"expected n ≤ m ≤ {MAX_REPEAT} repetitions, found {text}")
        return low, high

    def _symbol(self, text: str) -> int:
        if text not in self.symbols:
            hint = nearest(text, self.symbols)
            self._fail(f"unknown symbol {text!r}, {hint} (symbols: {' '.join(self.symbols)})")
        return self.symbols.index(text)
