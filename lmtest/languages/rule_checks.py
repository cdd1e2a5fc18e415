"""Whether a language keeps its declared rules, and whether these say all of it."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import torch

from lmtest.languages.base import PART, Language, Row

MOST_STRINGS, MOST_SYMBOLS = 50_000, 20
"""Strings over the alphabet that are compared, all up to one length, and symbols of the longest."""


class RuleShare(NamedTuple):
    """How much of the language's mass keeps a rule; over all of its `strings`, or over so many draws."""

    share: float
    strings: int
    exact: bool
    broken: Row | None
    """A string that breaks it."""


def rule_shares(language: Language, draws: int, seed: int = 0) -> dict[str, RuleShare]:
    """By rule: 1 where it holds on every string."""
    support = language.support()
    rows = support.rows if support is not None else language.sample_ids(draws, np.random.default_rng(seed))
    mass = (
        support.log_probs.exp() if support is not None else torch.full((len(rows),), 1 / len(rows), dtype=torch.float64)
    )
    found = {}
    for name, held in _held(language, rows).items():
        broken = (~held).nonzero().flatten()
        share = float(mass[held].sum()) if len(broken) else 1.0
        found[name] = RuleShare(share, len(rows), support is not None, rows[int(broken[0])] if len(broken) else None)
    return found


class Agreement(NamedTuple):
    """Up to which length the strings that keep all rules are those of the language; else a shortest string of one alone."""

    length: int
    counterexample: Row | None
    in_language: bool


def conjunction(language: Language) -> Agreement | None:
    """Whether all rules together are the language, over every string of a few symbols; None without rules.

    Limits on length are no rules: a string that keeps all of them may be a counterexample that is only too long, or too short.
    """
    if not language.rules:
        return None
    rows: list[Row] = []
    length = -1
    longest = min(language.longest, MOST_SYMBOLS)
    while length < longest and len(rows) + len(language.symbols) ** (length + 1) <= MOST_STRINGS:
        length += 1
        rows += itertools.product(range(len(language.symbols)), repeat=length)
    inside = language.log_prob_ids(rows) > -torch.inf
    held = torch.stack([*_held(language, rows).values()]).all(0)
    differ = (inside != held).nonzero().flatten()
    if len(differ):
        first = int(differ[0])
        return Agreement(len(rows[first]) - 1, rows[first], bool(inside[first]))
    return Agreement(length, None, False)


def _held(language: Language, rows: list[Row]) -> dict[str, torch.Tensor]:
    held = {name: torch.empty(len(rows), dtype=torch.bool) for name in language.rules}
    for part, tokens, ends in language.vocabulary.pack_parts(rows, PART):
        for name, rule in language.rules.items():
            held[name][part] = rule.holds(tokens[:, 1:], ends)
    return held
