"""Rules: properties of a string whose conjunction is a language, read symbol by symbol.

A kind of rule is a class and one line in `KINDS`; in the `[rules]` of a language file, `NAME = { KIND = value }`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

import torch

from lmtest.errors import UsageError, nearest
from lmtest.languages.bracket_rules import BalancedRule, IrreducibleRule, NestedRule
from lmtest.languages.counts import CountCondition
from lmtest.languages.regex import compile_regex
from lmtest.languages.rule import Rule, before_end

MAX_LENGTH = 1_000_000


class CountRule(Rule):
    """`{ count = "a == b" }`: a condition on how often symbols occur.

    States are counts of the symbols mentioned, reduced to smaller ones that no continuation can tell apart.
    """

    def __init__(self, name: str, value: object, symbols: Sequence[str]) -> None:
        self.name, self.text = name, f"count {value}"
        mentioned = CountCondition(_text("count", value), symbols).mentioned
        # Over the symbols mentioned alone: the others would only multiply the states.
        self.condition = CountCondition(_text("count", value), [symbols[i] for i in mentioned])
        self.places = {symbol: place for place, symbol in enumerate(mentioned)}

    def holds(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        inside = before_end(tokens, lengths)
        truth: torch.Tensor = self.condition.holds([((tokens == i) & inside).sum(-1) for i in self.places])
        return truth

    def start(self) -> tuple[int, ...]:
        return (0,) * len(self.places)

    def step(self, state: Hashable, symbol: int) -> tuple[int, ...]:
        assert isinstance(state, tuple)
        place = self.places.get(symbol)
        if place is None:
            return state
        return self.condition.reduce((*state[:place], state[place] + 1, *state[place + 1 :]))

    def accepts(self, state: Hashable) -> bool:
        assert isinstance(state, tuple)
        return bool(self.condition.holds(state))

    def alive(self, state: Hashable) -> bool:
        assert isinstance(state, tuple)
        return self.condition.satisfiable_from(state)


class RegexRule(Rule):
    """`{ regex = "a*b*" }`: the whole string matches a regular expression over symbols; states are the automaton's."""

    def __init__(self, name: str, value: object, symbols: Sequence[str]) -> None:
        self.name, self.text = name, f"regex {value}"
        dfa = compile_regex(_text("regex", value), tuple(symbols))
        self.table = torch.from_numpy(dfa.transitions)
        self.accepting = torch.from_numpy(dfa.accepting)
        self._rows: list[list[int]] = dfa.transitions.tolist()
        self._accepting: list[bool] = dfa.accepting.tolist()
        self._alive: list[bool] = dfa.alive.tolist()

    def holds(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        table, inside = self.table.to(tokens.device), before_end(tokens, lengths)
        states = torch.zeros_like(lengths)
        symbols = tokens.clamp(0, table.shape[1] - 1)  # what stands behind the lengths is looked up, never used
        for t in range(tokens.shape[1]):
            states = torch.where(inside[:, t], table[states, symbols[:, t]], states)
        return self.accepting.to(tokens.device)[states]

    def start(self) -> int:
        return 0

    def step(self, state: Hashable, symbol: int) -> int:
        assert isinstance(state, int)
        return self._rows[state][symbol]

    def accepts(self, state: Hashable) -> bool:
        assert isinstance(state, int)
        return self._accepting[state]

    def alive(self, state: Hashable) -> bool:
        assert isinstance(state, int)
        return self._alive[state]


class MinLengthRule(Rule):
    """`{ min_length = n }`: at least n symbols; states are lengths, capped at n."""

    def __init__(self, name: str, value: object, symbols: Sequence[str]) -> None:
        self.name, self.text = name, f"min_length {value}"
        self.low = _length("min_length", value)

    def holds(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return lengths >= self.low

    def start(self) -> int:
        return 0

    def step(self, state: Hashable, symbol: int) -> int:
        assert isinstance(state, int)
        return min(state + 1, self.low)

    def accepts(self, state: Hashable) -> bool:
        return state == self.low

    def alive(self, state: Hashable) -> bool:
        return True


class MaxLengthRule(Rule):
    """`{ max_length = n }`: at most n symbols; states are lengths, capped at n + 1."""

    def __init__(self, name: str, value: object, symbols: Sequence[str]) -> None:
        self.name, self.text = name, f"max_length {value}"
        self.high = _length("max_length", value)

    def holds(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return lengths <= self.high

    def start(self) -> int:
        return 0

    def step(self, state: Hashable, symbol: int) -> int:
        assert isinstance(state, int)
        return min(state + 1, self.high + 1)

    def accepts(self, state: Hashable) -> bool:
        assert isinstance(state, int)
        return state <= self.high

    def alive(self, state: Hashable) -> bool:
        return self.accepts(state)


KINDS: dict[str, Callable[[str, object, Sequence[str]], Rule]] = {
    "count": CountRule,
    "regex": RegexRule,
    "min_length": MinLengthRule,
    "max_length": MaxLengthRule,
    "balanced": BalancedRule,
    "nested": NestedRule,
    "irreducible": IrreducibleRule,
}


def compile_rules(table: Mapping[str, Mapping[str, object]], symbols: Sequence[str]) -> dict[str, Rule]:
    """The `[rules]` table of a language file → its rules by name, in the order declared.

    Raises UsageError on an unknown kind, a rule without exactly one kind, a wrong value, or a name that is taken.
    """
    rules: dict[str, Rule] = {}
    for name, entry in table.items():
        _check_name(name)
        if not isinstance(entry, Mapping) or len(entry) != 1:
            raise UsageError(f"rule {name!r}: expected one kind, such as {{ regex = 'a*b*' }}, found {entry!r}")
        [(kind, value)] = entry.items()
        if kind not in KINDS:
            hint = f"{nearest(kind, KINDS)} (kinds: {', '.join(KINDS)})"
            raise UsageError(f"rule {name!r}: unknown kind {kind!r}, {hint}")
        try:
            rules[name] = KINDS[kind](name, value, symbols)
        except UsageError as error:
            raise UsageError(f"rule {name!r}: {error}") from error
    return rules


def _check_name(name: str) -> None:
    # Rules become measures, beside the measures that every language has: two of one name would be one row too few.
    taken = ("grammatical", "finish_rate", "accuracy", "joint")
    if not name or name in taken or name.endswith(("_finished", "_completion")):
        raise UsageError(f"the rule name {name!r} is taken by a measure: choose another, such as R1")


def _text(kind: str, value: object) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{kind} takes a text, found {value!r}: put it in quotes")
    return value


def _length(kind: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_LENGTH:
        raise UsageError(f"{kind} takes a whole number from 0 to {MAX_LENGTH}, found {value!r}")
    return value


__all__ = ["KINDS", "MAX_LENGTH", "CountRule", "MaxLengthRule", "MinLengthRule", "RegexRule", "Rule", "compile_rules"]
