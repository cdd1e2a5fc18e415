"""`kind = "layered_pcfg"`: random PCFGs in layers, so that depth and length are bounded (Liu et al., arXiv 2210.14199).

S → S_i; S_i → A1_a A1_b; a symbol of a level rewrites to two of the next level or ends as a terminal, one of the last level
only ends. So derivations have one depth at most, strings 2^levels symbols at most, and which S_i a string came from is
a task that the loss does not train for.
"""

from __future__ import annotations

from string import ascii_letters

import numpy as np
from pydantic import Field, model_validator

from lmtest.seeds import generator
from lmtest.validation import Table

START = "S"
MOST_LEVELS = 8
MOST_RULES = 50_000


class Layered(Table):
    """What a layered grammar is drawn from; every symbol has a stream of its own."""

    starts: int = Field(ge=1)
    """S_1 …: one rule each, to a pair of level 1 that no other has; priors uniform on [0, 1], normalised."""
    levels: int = Field(ge=1, le=MOST_LEVELS)
    symbols: int = Field(ge=1)
    """Nonterminals of a level."""
    binary: int = Field(ge=1)
    """Distinct pairs of the next level that a symbol rewrites to (not on the last level)."""
    lexical: int = Field(ge=1)
    """Distinct terminals of a symbol of the last level, its own one counted."""
    terminals: int = Field(ge=1, le=MOST_RULES)
    """A terminal that no reachable rule has is not in the language."""
    terminal_probability: float = Field(ge=0, le=0.5)
    """Mean t of the weight of a symbol's own terminal, which is uniform on [0, 2t]; uniform weights share the rest."""
    seed: int = Field(ge=0)

    @model_validator(mode="after")
    def _fits(self) -> Layered:
        for key, most, of in (
            ("starts", self.symbols**2, "pairs of symbols"),
            ("binary", self.symbols**2, "pairs of symbols"),
            ("lexical", self.terminals, "terminals"),
        ):
            if getattr(self, key) > most:
                raise ValueError(f"expected {key} ≤ {most}, the number of {of}, found {getattr(self, key)}: lower it")
        rules = 2 * self.starts + self.symbols * ((self.levels - 1) * (self.binary + 1) + self.lexical)
        if rules > MOST_RULES:
            raise ValueError(f"expected at most {MOST_RULES} rules, found {rules}: lower symbols, binary or lexical")
        return self

    def grammar_text(self) -> str:
        """The grammar in nltk's PCFG notation, a line for each nonterminal."""
        rng = generator(self.seed, "starts")
        names = [f"{START}{i + 1}" for i in range(self.starts)]
        pairs = rng.choice(self.symbols**2, self.starts, replace=False)
        lines = [_line(START, dict(zip(names, _shares(rng, self.starts), strict=True)))]
        lines += [_line(name, {self._pair(1, pair): 1.0}) for name, pair in zip(names, pairs.tolist(), strict=True)]
        for level in range(1, self.levels + 1):
            lines += [self._symbol(level, i) for i in range(self.symbols)]
        return "\n".join(lines) + "\n"

    def _symbol(self, level: int, i: int) -> str:
        rng = generator(self.seed, "symbol", level, i)
        own = 2 * self.terminal_probability * rng.random()
        if level < self.levels:
            letters = [self._letter(int(rng.integers(self.terminals)))]
            rest = [self._pair(level + 1, pair) for pair in rng.choice(self.symbols**2, self.binary, replace=False)]
        else:
            letters = [self._letter(a) for a in rng.choice(self.terminals, self.lexical, replace=False).tolist()]
            letters, rest = letters[:1], letters[1:]
            own = own if rest else 1.0
        shares = _shares(rng, len(rest)) * (1 - own)
        return _line(f"A{level}_{i}", {letters[0]: own} | dict(zip(rest, shares, strict=True)))

    def _pair(self, level: int, pair: int) -> str:
        first, second = divmod(int(pair), self.symbols)
        return f"A{level}_{first} A{level}_{second}"

    def _letter(self, a: int) -> str:
        """A quoted terminal: letters where they suffice, else w1, w2, …"""
        return f"'{ascii_letters[a]}'" if self.terminals <= len(ascii_letters) else f"'w{a + 1}'"


def _shares(rng: np.random.Generator, n: int) -> np.ndarray:
    """n weights uniform on (0, 1], normalised."""
    weights = 1 - rng.random(n)
    return np.asarray(weights / weights.sum())


def _line(name: str, bodies: dict[str, float]) -> str:
    # No exponents: nltk reads plain decimals only.
    return f"{name} -> " + " | ".join(f"{body} [{share:.18f}]" for body, share in bodies.items() if share > 0)
