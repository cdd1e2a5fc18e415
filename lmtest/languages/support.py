"""All strings of a grammar up to a length, bottom up: sets of strings with their masses, by nonterminal and length."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch

from lmtest.languages.base import SUPPORT_LIMIT, Row, Support
from lmtest.languages.normal_form import NormalForm

MOST_SYMBOLS = 20_000_000
"""Symbols of all strings in all sets together: beyond, the language counts as too large to list."""

Strings = dict[Row, float]
"""Strings with their log masses."""


def list_strings(form: NormalForm, longest: int) -> Support | None:
    """All strings of at most `longest` symbols, normalised among them; None where there are more than SUPPORT_LIMIT."""
    lexical, binary = form.unit_closure @ form.lexical, form.unit_closure @ form.binary
    used = _room_of(form, longest)
    sets: list[list[Strings]] = [[{} for _ in used]]  # by length, then nonterminal
    total = symbols = 0
    for length in range(1, longest + 1):
        pairs = [_products(sets, int(b), int(c), length) for b, c in form.pairs] if length > 1 else []
        row: list[Strings] = []
        for a, room in enumerate(used):
            if length > room:
                row.append({})
                continue
            letters: list[tuple[float, Strings]] = (
                [(math.log(w), {(x,): 0.0}) for x, w in enumerate(lexical[a]) if w > 0] if length == 1 else []
            )
            parts = [(math.log(binary[a, p]), strings) for p, strings in enumerate(pairs) if binary[a, p] > 0]
            row.append(_union([*letters, *parts]))
            # In one context, different strings of a nonterminal make different strings of the start.
            if len(row[-1]) > SUPPORT_LIMIT:
                return None
            symbols += length * len(row[-1])
        sets.append(row)
        total += len(row[0])
        if total > SUPPORT_LIMIT or symbols > MOST_SYMBOLS:
            return None
    found: Strings = {(): math.log(form.empty)} if form.empty > 0 else {}
    for row in sets:
        found |= row[0]
    log_masses = torch.tensor(list(found.values()), dtype=torch.float64)
    return Support(list(found), log_masses - log_masses.logsumexp(0))


def _products(sets: list[list[Strings]], first: int, second: int, length: int) -> Strings:
    splits = ((sets[k][first], sets[length - k][second]) for k in range(1, length))
    return _union(
        (log_left, {left + right: log_right for right, log_right in rights.items()})
        for lefts, rights in splits
        if rights
        for left, log_left in lefts.items()
    )


def _union(parts: Iterable[tuple[float, Strings]]) -> Strings:
    """The sum of sets of strings, each with a log weight in front."""
    union: Strings = {}
    for log_weight, strings in parts:
        for string, log_mass in strings.items():
            log_mass += log_weight
            before = union.get(string)
            union[string] = log_mass if before is None else float(np.logaddexp(before, log_mass))
        if len(union) > SUPPORT_LIMIT:
            break  # the caller sees that there are too many
    return union


def _room_of(form: NormalForm, longest: int) -> list[int]:
    """The longest string of each nonterminal that fits into a string of the start of at most `longest` symbols."""
    size = len(form.mass)
    shortest = np.full(size, math.inf)
    shortest[form.lexical.sum(1) > 0] = 1
    around = np.full(size, math.inf)  # fewest symbols beside it
    around[0] = 0
    unit, pairs = np.argwhere(form.unit > 0), np.argwhere(form.binary > 0)
    for _ in range(size):
        for a, b in unit:
            shortest[a] = min(shortest[a], shortest[b])
        for a, p in pairs:
            b, c = form.pairs[p]
            shortest[a] = min(shortest[a], shortest[b] + shortest[c])
    for _ in range(size):
        for a, b in unit:
            around[b] = min(around[b], around[a])
        for a, p in pairs:
            b, c = form.pairs[p]
            around[b] = min(around[b], around[a] + shortest[c])
            around[c] = min(around[c], around[a] + shortest[b])
    return [int(max(longest - x, 0)) if x < math.inf else 0 for x in around]
