"""The one definition of token ids: symbols first, then EOS, BOS and PAD."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from lmtest.errors import UsageError

EOS_NAME = "<eos>"
RESERVED = (EOS_NAME, "<bos>", "<pad>")

String = Sequence[str]
"""A string of the language: a sequence of symbols, or a Python `str` (see `Vocabulary.split`)."""


@dataclass(frozen=True)
class Vocabulary:
    """Symbols and their ids: symbol i is token i, then `eos`, `bos`, `pad`. Models predict symbols and EOS only."""

    symbols: tuple[str, ...]

    def __post_init__(self) -> None:
        for symbol in self.symbols:
            if symbol in RESERVED or symbol == "":
                raise UsageError(f"the symbol {symbol!r} is reserved: rename it (reserved: {', '.join(RESERVED)}, '')")
        if len(set(self.symbols)) != len(self.symbols):
            raise UsageError(f"the symbols {self.symbols} are not distinct")

    @property
    def eos(self) -> int:
        return len(self.symbols)

    @property
    def bos(self) -> int:
        return len(self.symbols) + 1

    @property
    def pad(self) -> int:
        return len(self.symbols) + 2

    @property
    def n_outputs(self) -> int:
        """V: what a model predicts, the symbols and EOS."""
        return len(self.symbols) + 1

    @property
    def n_inputs(self) -> int:
        """What a model may read: the symbols, EOS, BOS and PAD."""
        return len(self.symbols) + 3

    @property
    def outputs(self) -> tuple[str, ...]:
        return (*self.symbols, EOS_NAME)

    @property
    def single_characters(self) -> bool:
        return all(len(symbol) == 1 for symbol in self.symbols)

    def split(self, string: String) -> tuple[str, ...]:
        """The symbols of a string: a `str` symbol by symbol if every symbol is one character, else at white space."""
        if isinstance(string, str):
            return tuple(string) if self.single_characters else tuple(string.split())
        if not isinstance(string, Sequence) or not all(isinstance(symbol, str) for symbol in string):
            raise TypeError(f"expected a string, as a str or a sequence of symbols, found {_short(string)}")
        return tuple(string)

    def join(self, ids: Sequence[int]) -> String:
        """Token ids (no BOS, EOS or PAD) → a string: `str` where every symbol is one character, else a tuple."""
        symbols = tuple(self.symbols[i] for i in ids)
        return "".join(symbols) if self.single_characters else symbols

    def text(self, string: String) -> str:
        """The string as one reads it: symbols joined, by spaces where a symbol has several characters."""
        return ("" if self.single_characters else " ").join(self.split(string))

    def ids(self, string: String) -> tuple[int, ...] | None:
        """A string → its token ids, or None where it has an unknown symbol."""
        index = self._index
        ids = tuple(index.get(symbol, -1) for symbol in self.split(string))
        return None if -1 in ids else ids

    @cached_property
    def _index(self) -> dict[str, int]:
        return {symbol: i for i, symbol in enumerate(self.symbols)}

    def encode(self, strings: Sequence[String]) -> tuple[torch.Tensor, torch.Tensor]:
        """Strings → tokens [N, 1 + T] int64 with BOS first and PAD behind, and lengths [N] (symbols alone).

        Raises UsageError on an unknown symbol; `check_list` comes first, so a bare `str` is refused.
        """
        rows = []
        for string in check_list(strings):
            ids = self.ids(string)
            if ids is None:
                unknown = next(s for s in self.split(string) if s not in self.symbols)
                raise UsageError(f"unknown symbol {unknown!r} in {string!r}; symbols: {' '.join(self.symbols)}")
            rows.append(ids)
        return self.pack(rows)

    def pack(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of token ids → tokens [N, 1 + T] with BOS first and PAD behind, and lengths [N]."""
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        width = int(lengths.max()) if len(rows) else 0
        tokens = torch.full((len(rows), 1 + width), self.pad, dtype=torch.int64)
        tokens[:, 0] = self.bos
        for i, row in enumerate(rows):
            if row:
                tokens[i, 1 : 1 + len(row)] = torch.tensor(row, dtype=torch.int64)
        return tokens, lengths

    def pack_parts(
        self, rows: Sequence[Sequence[int]], most: int
    ) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
        """Rows of token ids → (their places in `rows`, `pack` of them) in parts of at most `most` tokens, or one row.

        One part where all of them fit; otherwise rows of like length together, so that one long row does not make all wide.
        """
        if len(rows) * (1 + max(map(len, rows), default=0)) <= most:
            yield list(range(len(rows))), *self.pack(rows)
            return
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]), reverse=True)
        while order:
            n = max(1, most // (1 + len(rows[order[0]])))
            part, order = order[:n], order[n:]
            yield part, *self.pack([rows[i] for i in part])


def check_list(strings: Sequence[String]) -> Sequence[String]:
    """Raises TypeError where anything but a list of strings is given; a bare `str` would be read as a list of symbols."""
    if isinstance(strings, str):
        raise TypeError(f"expected a list of strings, found the bare str {strings!r}; write [{strings!r}]")
    if not isinstance(strings, Sequence | np.ndarray) or isinstance(strings, bytes):
        raise TypeError(f"expected a list of strings, found {type(strings).__name__}: {_short(strings)}")
    return strings


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
