"""The symbols of a language among the tokens of a stranger's tokenizer: one token each, whatever stands beside it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lmtest.adapters.given import PASSED_ON
from lmtest.errors import UsageError
from lmtest.languages.base import Language
from lmtest.seeds import generator

PAIRS = 4096
"""Pairs of neighbours that are tried, at most: merges show there first."""
STRINGS, LONGEST = 64, 64
"""Strings of the language, and as many of any symbols, that are tried; and how many symbols of each."""


@dataclass(frozen=True)
class Writing:
    """How a string is written for a tokenizer: what stands before its first symbol, and between symbols."""

    first: str
    between: str

    def text(self, symbols: Sequence[str]) -> str:
        return self.first + self.between.join(symbols) if symbols else ""


WRITINGS = (Writing("", ""), Writing("", " "), Writing(" ", " "))
"""As one reads it, with spaces between, and with one before each: many tokenizers have a token for a word with its space."""


@dataclass(frozen=True)
class TokenMap:
    """Token ids of a stranger's vocabulary: of each symbol, of the end and of the start; and how strings are written for it."""

    symbols: tuple[int, ...]
    eos: int
    bos: int
    writing: Writing


def map_symbols(language: Language, tokenizer: Any, eos: int | None, bos: int | None, size: int, name: str) -> TokenMap:
    """The map of a Hugging Face tokenizer, for a model of `size` tokens; `eos`, `bos`: theirs, None where it has none.

    Of end and start one may stand for both, as `<|endoftext|>` often does. Raises UsageError where both are missing, where a
    symbol is no token of its own, and where a string is not read symbol by symbol (merges), however it is written.
    """
    ends = [token for token in (eos, bos) if token is not None]
    if not ends:
        raise UsageError(
            f"{name}: expected a token that ends a string, or one that starts it; the tokenizer has neither: set eos_token "
            "(and bos_token) in its tokenizer_config.json"
        )
    reasons = []
    strings = _strings(language)
    for writing in WRITINGS if language.vocabulary.single_characters else WRITINGS[1:]:
        found = _read(language.symbols, strings, tokenizer, writing, ends)
        if isinstance(found, tuple):
            if wrong := [token for token in (*found, *ends) if not 0 <= token < size]:
                raise UsageError(
                    f"{name}: token {wrong[0]} of the tokenizer is none of the model's {size}: they do not belong "
                    "together; save the model with the tokenizer that it was trained with"
                )
            return TokenMap(found, ends[0], ends[-1], writing)
        reasons.append(found)
    why = "; ".join(dict.fromkeys(reasons))
    raise UsageError(
        f"{name}: the tokenizer does not read {language.name} symbol by symbol: {why}. Expected one token for "
        "each symbol, whatever stands beside it: give a model whose tokenizer has that (WordLevel, or of characters)"
    )


def _read(
    symbols: Sequence[str], strings: Sequence[Sequence[str]], tokenizer: Any, writing: Writing, ends: Sequence[int]
) -> tuple[int, ...] | str:
    """The token of each symbol under one writing, or why there is none."""
    tokens: dict[str, int] = {}
    for symbol in symbols:
        text = writing.text([symbol])
        ids = _encode(tokenizer, text)
        if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
            found = "unknown to it" if not ids or tokenizer.unk_token_id in ids else f"{len(ids)} tokens"
            return f"the symbol {symbol!r}, written {text!r}, is {found}"
        if ids[0] in ends or ids[0] in tokens.values():
            shared = next((s for s, token in tokens.items() if token == ids[0]), "the end of a string")
            return f"the symbol {symbol!r}, written {text!r}, is the same token as {shared!r}"
        tokens[symbol] = ids[0]
    for string in strings:
        text = writing.text(string)
        ids = _encode(tokenizer, text)
        if ids != [tokens[symbol] for symbol in string]:
            return f"{text!r} is read as {tokenizer.convert_ids_to_tokens(ids)}"
    return tuple(tokens.values())


def _encode(tokenizer: Any, text: str) -> list[int]:
    try:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    except PASSED_ON:
        raise
    except BaseException:  # noqa: BLE001 (tokenizers raise bare exceptions, as on a word that they lack, and panic)
        return []
    return ids


def _strings(language: Language) -> list[tuple[str, ...]]:
    """Pairs of symbols, strings of the language, and strings of any symbols."""
    symbols, rng = language.symbols, generator(0, "tokenizer check")
    rows: list[Sequence[int]] = list(itertools.islice(itertools.product(range(len(symbols)), repeat=2), PAIRS))
    rows += [row[:LONGEST] for row in language.sample_ids(STRINGS, rng)]
    rows += [rng.integers(len(symbols), size=1 + i % LONGEST).tolist() for i in range(STRINGS)]
    return [tuple(symbols[i] for i in row) for row in dict.fromkeys(map(tuple, rows))]
