"""Rules read side by side over many strings at once: after each prefix, which tokens keep which rule."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from lmtest.languages.rule import Rule

MOST_SYMBOLS = 6
"""The symbols and EOS are bits of one byte."""

_BROKEN, _UNKNOWN = 0, -1


class Automata:
    """R rules over m symbols as tables that grow: states are numbered per rule when they are first met.

    The code of a state is a byte: bit v says that symbol v leaves the rule able to hold, bit m that it holds now (so
    that EOS keeps it). It is 0 exactly where the rule is broken beyond repair.
    """

    def __init__(self, rules: Sequence[Rule], n_symbols: int) -> None:
        assert n_symbols <= MOST_SYMBOLS
        self.rules, self.n_symbols = list(rules), n_symbols
        self._which = np.arange(len(self.rules))
        self._states: list[list[Hashable]] = [[None] for _ in self.rules]
        self._numbers: list[dict[Hashable, int]] = [{} for _ in self.rules]
        # One column more: what is no symbol ends the string, and with it every rule.
        self._after = np.full((len(self.rules), 16, n_symbols + 1), _UNKNOWN, dtype=np.int32)
        self._after[:, _BROKEN] = self._after[:, :, n_symbols] = _BROKEN
        self._codes = np.zeros((len(self.rules), 16), dtype=np.uint8)
        self._starts = np.array([self._number(r, rule.start()) for r, rule in enumerate(self.rules)], dtype=np.int32)

    def codes(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens [N, T], BOS first → codes uint8 [N, T, R], row t after the prefix up to token t; 0 behind its end."""
        n, length = tokens.shape
        codes = np.zeros((n, length, len(self.rules)), dtype=np.uint8)
        states = np.tile(self._starts, (n, 1))
        symbols = np.where((tokens >= 0) & (tokens < self.n_symbols), tokens, self.n_symbols)
        for t in range(length):
            if t:
                states = self._advance(states, symbols[:, t, None])
            codes[:, t] = self._codes[self._which, states]
        return codes

    def _advance(self, states: np.ndarray, symbols: np.ndarray) -> np.ndarray:
        after: np.ndarray = self._after[self._which, states, symbols]
        unknown = after == _UNKNOWN
        if unknown.any():
            rows, rules = unknown.nonzero()
            for r, state, symbol in set(
                zip(rules.tolist(), states[unknown].tolist(), symbols[rows, 0].tolist(), strict=True)
            ):
                number = self._number(r, self.rules[r].step(self._states[r][state], symbol))
                self._after[r, state, symbol] = number
            after = self._after[self._which, states, symbols]
        return after

    def _number(self, r: int, state: Hashable) -> int:
        rule, numbers = self.rules[r], self._numbers[r]
        if state in numbers:
            return numbers[state]
        if not rule.alive(state):
            numbers[state] = _BROKEN
            return _BROKEN
        number = numbers[state] = len(self._states[r])
        self._states[r].append(state)
        if number == self._codes.shape[1]:
            grown = np.full_like(self._after, _UNKNOWN)
            grown[:, :, self.n_symbols] = _BROKEN
            self._after = np.concatenate([self._after, grown], 1)
            self._codes = np.concatenate([self._codes, np.zeros_like(self._codes)], 1)
        kept = [v for v in range(self.n_symbols) if rule.alive(rule.step(state, v))]
        self._codes[r, number] = sum(1 << v for v in kept) | (rule.accepts(state) << self.n_symbols)
        return number
