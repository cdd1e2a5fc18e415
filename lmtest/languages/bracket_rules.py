"""Rules about brackets: `balanced` for one pair, `nested` for several that must not cross, `irreducible` for depth."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch

from lmtest.errors import UsageError, nearest
from lmtest.languages.rule import Rule, before_end

Pair = tuple[str, str]
"""An opening symbol and the one that closes it."""


class BalancedRule(Rule):
    """`{ balanced = "()" }`: never more closes than opens in a prefix, and equally many in all; others are ignored.

    Symbols of several characters stand in a list of two, `{ balanced = ["open", "close"] }`. States are depths, −1 where
    a close came too many.
    """

    def __init__(self, name: str, value: object, symbols: Sequence[str]) -> None:
        pair = read_pair(value)
        self.name, self.text = name, f"balanced {_written(pair)}"
        self.codes = _codes([pair], symbols)

    def holds(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        depths = _depths(_moves(self.codes, tokens, lengths))
        return (depths >= 0).all(-1) & (depths[:, -1] == 0)

    def start(self) -> int:
        return 0

    def step(self, state: Hashable, symbol: int) -> int:
        assert isinstance(state, int)
        return state + self.codes[symbol] if state >= 0 else state

    def accepts(self, state: Hashable) -> bool:
        return state == 0

    def alive(self, state: Hashable) -> bool:
        assert isinstance(state, int)
        return state >= 0


class NestedRule(Rule):
    """`{ nested = ["()", "[]"] }`: the listed pairs nest properly, none crosses another; other symbols are ignored.

    A state is the stack of open kinds as the digits of a number behind a leading 1 (so 1 is the empty stack: reading,
    hashing and comparing stay cheap on long strings, which tuples in tuples would not), and 0 where the rule is broken.
    """

    def __init__(self, name: str, value: object, symbols: Sequence[str]) -> None:
        pairs = read_pairs("nested", value)
        self.name, self.text = name, f"nested {' '.join(map(_written, pairs))}"
        self.codes = _codes(pairs, symbols)
        self.base = max(len(pairs), 2)

    def holds(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return open_kinds(_moves(self.codes, tokens, lengths))[:, -1] == 0

    def start(self) -> int:
        return 1

    def step(self, state: Hashable, symbol: int) -> int:
        assert isinstance(state, int)
        code = self.codes[symbol]
        if code == 0 or state == 0:
            return state
        if code > 0:
            return state * self.base + code - 1
        matches = state > 1 and state % self.base == -code - 1
        return state // self.base if matches else 0

    def accepts(self, state: Hashable) -> bool:
        return state == 1

    def alive(self, state: Hashable) -> bool:
        return state != 0

    def twin(self, state: Hashable) -> int:
        """The same depth with the first kind throughout: on any stack exactly one close matches."""
        assert isinstance(state, int)
        if state == 0:
            return 0
        twin = 1
        while twin * self.base <= state:
            twin *= self.base
        return twin


class IrreducibleRule(Rule):
    """`{ irreducible = ["()", "[]"] }`: opens of all pairs less their closes are 0 at the end and nowhere before.

    The empty prefix aside, so the empty string does not hold; other symbols leave the depth as it is. States are depths,
    `DONE` at depth 0 behind the start, and `BROKEN` below 0 or behind `DONE`.
    """

    DONE, BROKEN = -1, -2

    def __init__(self, name: str, value: object, symbols: Sequence[str]) -> None:
        pairs = read_pairs("irreducible", value)
        self.name, self.text = name, f"irreducible {' '.join(map(_written, pairs))}"
        self.codes = [(code > 0) - (code < 0) for code in _codes(pairs, symbols)]

    def holds(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        depths = _depths(_moves(self.codes, tokens, lengths))
        places = torch.arange(depths.shape[1], device=tokens.device)
        proper = (places > 0) & (places < lengths[:, None])
        return ((depths > 0) | ~proper).all(-1) & (depths[:, -1] == 0) & (lengths > 0)

    def start(self) -> int:
        return 0

    def step(self, state: Hashable, symbol: int) -> int:
        assert isinstance(state, int)
        if state < 0:
            return self.BROKEN
        depth = state + self.codes[symbol]
        return depth if depth > 0 else self.DONE if depth == 0 else self.BROKEN

    def accepts(self, state: Hashable) -> bool:
        return state == self.DONE

    def alive(self, state: Hashable) -> bool:
        return state != self.BROKEN


def read_pair(value: object) -> Pair:
    """`"()"` or `["open", "close"]` → (open, close); UsageError for anything else."""
    parts = list(value) if isinstance(value, str | list | tuple) else []
    if len(parts) != 2 or not all(isinstance(part, str) and part for part in parts):
        raise UsageError(f'expected a pair of brackets such as "()" or ["open", "close"], found {value!r}')
    return parts[0], parts[1]


def read_pairs(kind: str, value: object) -> list[Pair]:
    """A list of pairs → (open, close) each; UsageError where it is none, or a symbol stands in it twice."""
    if not isinstance(value, list | tuple) or not value:
        raise UsageError(f'{kind} takes a list of pairs such as ["()", "[]"], found {value!r}')
    pairs = [read_pair(item) for item in value]
    symbols = [symbol for pair in pairs for symbol in pair]
    if len(set(symbols)) < len(symbols):
        raise UsageError(f"expected brackets that all differ, found {' '.join(symbols)}")
    return pairs


def open_kinds(codes: torch.Tensor) -> torch.Tensor:
    """Bracket codes [N, T] → [N, T + 1]: the innermost kind still open before each symbol and at the end.

    Codes: kind 1, 2, … opens, −kind closes, 0 is no bracket. 0 where nothing is open, −1 from where a close did not match.
    """
    n, length = codes.shape
    stack = torch.zeros(n, length + 1, dtype=codes.dtype, device=codes.device)
    depth = torch.zeros(n, 1, dtype=torch.int64, device=codes.device)
    top = torch.zeros(n, 1, dtype=codes.dtype, device=codes.device)
    tops = [top]
    for code in codes.split(1, 1):
        broken = (top < 0) | ((code < 0) & (code != -top))
        depth = (depth + code.sign()).clamp(min=0)
        # A push writes its kind; all else writes back what is there.
        stack.scatter_(1, depth, torch.where(code > 0, code, stack.gather(1, depth)))
        top = torch.where(broken, -1, stack.gather(1, depth))
        tops.append(top)
    return torch.cat(tops, 1)


def _written(pair: Pair) -> str:
    return "".join(pair) if all(len(symbol) == 1 for symbol in pair) else " … ".join(pair)


def _codes(pairs: Sequence[Pair], symbols: Sequence[str]) -> list[int]:
    """For each symbol: kind 1, 2, … where it opens, −kind where it closes, else 0."""
    codes = [0] * len(symbols)
    for kind, pair in enumerate(pairs, 1):
        if pair[0] == pair[1]:
            raise UsageError(f"expected two different symbols, found {pair[0]!r} that opens and closes")
        for symbol, code in zip(pair, (kind, -kind), strict=True):
            if symbol not in symbols:
                hint = nearest(symbol, symbols)
                raise UsageError(f"unknown symbol {symbol!r}, {hint} (symbols: {' '.join(symbols)})")
            codes[list(symbols).index(symbol)] = code
    return codes


def _moves(codes: Sequence[int], tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Symbol ids [N, T] → their codes [N, T], 0 behind the lengths."""
    table = torch.tensor(codes, device=tokens.device)
    return torch.where(before_end(tokens, lengths), table[tokens.clamp(0, len(codes) - 1)], 0)


def _depths(moves: torch.Tensor) -> torch.Tensor:
    """Moves up and down [N, T] → depths [N, T + 1], from 0."""
    return torch.cat([torch.zeros_like(moves[:, :1].sum(1, keepdim=True)), moves.cumsum(1)], 1)
