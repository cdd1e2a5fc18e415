"""Prompt sets: in or out of distribution is computed from the exact law, never labelled."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmtest.errors import UsageError
from lmtest.languages.base import Language
from lmtest.seeds import generator

MAX_PROMPTS = 1_000_000
BATCH = 8192
"""Prefixes whose mass is asked for at once: bounds the memory."""


@dataclass(frozen=True, eq=False)
class PromptSet:
    """N prompts as rows of symbol ids, their prefix log-probabilities [N] (nats, −inf out of distribution), and why.

    `broken` lists for each prompt the rules that no continuation can mend; ("joint",) where the prompt is out of
    distribution although each rule for itself can still hold; () in distribution.
    """

    name: str
    rows: list[tuple[int, ...]]
    log_mass: np.ndarray
    broken: list[tuple[str, ...]]

    def select(self, name: str, chosen: Sequence[int]) -> PromptSet:
        """The prompts at the places `chosen`, under another name."""
        rows, broken = [self.rows[i] for i in chosen], [self.broken[i] for i in chosen]
        return PromptSet(name, rows, self.log_mass[list(chosen)], broken)


def prompts_of_length(language: Language, length: int) -> tuple[PromptSet, PromptSet]:
    """All prompts of so many symbols, sorted: those in distribution ("id", maybe none) and those out of it ("ood").

    Raises UsageError on a length < 1, on more than a million prompts, and where no prompt is out of distribution.
    """
    n_symbols = len(language.symbols)
    if length < 1:
        raise UsageError(f"expected a prompt length of at least 1, found {length}")
    if length * np.log(n_symbols) > np.log(MAX_PROMPTS) + 1e-9:
        raise UsageError(f"{n_symbols}^{length} prompts are more than {MAX_PROMPTS}: choose a shorter prompt length")
    rows = list(itertools.product(range(n_symbols), repeat=length))
    log_mass = np.array(_log_masses(language, length))
    broken = _broken_rules(language, length)
    dead = np.isneginf(log_mass)
    if not dead.any():
        raise UsageError(
            f"every prompt of length {length} can be completed in {language.name}: none is out of distribution; "
            "choose another prompt length"
        )
    everything = PromptSet("all", rows, log_mass, [b if d else () for b, d in zip(broken, dead, strict=True)])
    inside, outside = np.flatnonzero(~dead).tolist(), np.flatnonzero(dead).tolist()
    return everything.select("id", inside), everything.select("ood", outside)


def split_heldout(ood: PromptSet, heldout: float, seed: int) -> tuple[PromptSet, PromptSet]:
    """Splits at random into prompts that may be trained on ("ood_trained") and a share `heldout` that may not.

    The second is named "ood_heldout"; both keep the order. Raises UsageError where either would be empty.
    """
    if not 0 < heldout < 1:
        raise UsageError(f"expected a held-out share strictly between 0 and 1, found {heldout}")
    n = len(ood.rows)
    n_heldout = round(heldout * n)
    if not 0 < n_heldout < n:
        raise UsageError(f"a held-out share of {heldout} of {n} prompts leaves a part empty: change it, or the length")
    order = generator(seed, "heldout").permutation(n)
    held, trained = sorted(order[:n_heldout].tolist()), sorted(order[n_heldout:].tolist())
    return ood.select("ood_trained", trained), ood.select("ood_heldout", held)


def empty_prompt(language: Language) -> PromptSet:
    """The one prompt of no symbols ("empty")."""
    return PromptSet("empty", [()], language.prefix_log_prob_ids([()]).numpy(), [()])


def _log_masses(language: Language, length: int) -> list[float]:
    """Log prefix masses of all prompts in sorted order; only what is still alive at one length is asked at the next."""
    masses = [0.0]
    rows: list[tuple[int, ...]] = [()]
    for _ in range(length):
        longer = [(*row, symbol) for row in rows for symbol in range(len(language.symbols))]
        alive = [i for i, row in enumerate(longer) if masses[i // len(language.symbols)] > -np.inf]
        masses = [-np.inf] * len(longer)
        for batch in (alive[i : i + BATCH] for i in range(0, len(alive), BATCH)):
            values = language.prefix_log_prob_ids([longer[i] for i in batch]).tolist()
            for i, value in zip(batch, values, strict=True):
                masses[i] = value
        rows = longer
    return masses


def _broken_rules(language: Language, length: int) -> list[tuple[str, ...]]:
    """For all prompts in sorted order, the rules broken beyond repair, or ("joint",) where there is none."""
    columns: list[list[bool]] = []
    for rule in language.rules.values():
        states = [rule.start()]
        for _ in range(length):
            states = [rule.step(state, symbol) for state in states for symbol in range(len(language.symbols))]
        columns.append([rule.alive(state) for state in states])
    names = list(language.rules)
    if not columns:
        return [()] * len(language.symbols) ** length
    return [
        tuple(name for name, alive in zip(names, row, strict=True) if not alive) or ("joint",)
        for row in zip(*columns, strict=True)
    ]
