"""Exact samplers for PCFGs: ancestral without a limit, top-down through the length law with one (no rejection)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np

from lmtest.languages.grammar import Grammar
from lmtest.languages.normal_form import NormalForm


def _uniforms(rng: np.random.Generator) -> Iterator[float]:
    while True:
        yield from rng.random(1024).tolist()


def _draw(cumulative: np.ndarray, u: float) -> int:
    """Index drawn from unnormalised cumulative weights; never one of weight zero."""
    return int(np.searchsorted(cumulative, u * cumulative[-1], side="right").clip(max=len(cumulative) - 1))


def sample_derivations(grammar: Grammar, n: int, rng: np.random.Generator, most: int) -> list[tuple[int, ...]] | None:
    """n strings as token ids, rewriting leftmost nonterminals; None once more than `most` symbols were drawn."""
    table = [
        (np.cumsum([rule.prob for rule in rules]).tolist(), [rule.rhs[::-1] for rule in rules])
        for rules in grammar.by_lhs()
    ]
    uniforms = _uniforms(rng)
    rows: list[tuple[int, ...]] = []
    total = 0
    for _ in range(n):
        row: list[int] = []
        stack = [0]
        while stack:
            symbol = stack.pop()
            if symbol < 0:
                row.append(~symbol)
                continue
            cumulative, bodies = table[symbol]
            u = next(uniforms) * cumulative[-1]
            choice = 0
            while cumulative[choice] <= u:
                choice += 1
            stack.extend(bodies[choice])
            if total + len(row) + len(stack) > most:
                return None
        rows.append(tuple(row))
        total += len(row)
    return rows


def sample_within(form: NormalForm, law: np.ndarray, n: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """n strings from the law conditioned on length; `law` [limit + 1, K] is the length law of each nonterminal.

    First the length, then top down: a pair and a split with the weight of all strings that have them.
    """
    uniforms = _uniforms(rng)
    lexical, binary = form.unit_closure @ form.lexical, form.unit_closure @ form.binary
    first, second = form.pairs.T

    @cache
    def splits(nonterminal: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        used = np.flatnonzero(binary[nonterminal])
        parts = law[1:length][:, first[used]] * law[1:length][::-1][:, second[used]] * binary[nonterminal, used]
        return used, np.cumsum(parts.T.ravel())

    @cache
    def letters(nonterminal: int) -> np.ndarray:
        return np.cumsum(lexical[nonterminal])

    lengths = np.cumsum(np.concatenate([[form.empty], law[1:, 0]]))
    rows: list[tuple[int, ...]] = []
    for _ in range(n):
        row: list[int] = []
        stack = [(0, _draw(lengths, next(uniforms)))]
        while stack:
            nonterminal, length = stack.pop()
            if length == 1:
                row.append(_draw(letters(nonterminal), next(uniforms)))
            elif length > 1:
                used, cumulative = splits(nonterminal, length)
                pair, split = divmod(_draw(cumulative, next(uniforms)), length - 1)
                stack.append((int(second[used[pair]]), length - 1 - split))
                stack.append((int(first[used[pair]]), split + 1))
        rows.append(tuple(row))
    return rows
