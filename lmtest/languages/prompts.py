"""Prompt sets: in or out of distribution is computed from the exact law, never labelled."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmtest.errors import UsageError
from lmtest.languages.base import Language, PromptPattern, Row
from lmtest.languages.regex import DFA, compile_regex
from lmtest.seeds import generator

MAX_PROMPTS = 1_000_000
BATCH = 8192
"""Prefixes whose mass is asked for at once: bounds the memory."""


@dataclass(frozen=True, eq=False)
class PromptSet:
    """N distinct prompts as rows of symbol ids, their prefix log-probabilities [N] (nats, −inf out of distribution), and why.

    `broken` lists for each prompt the rules that no continuation can mend; ("joint",) where the prompt is out of
    distribution although each rule for itself can still hold; () in distribution. `weights` [N] sum to 1.
    """

    name: str
    rows: list[Row]
    log_mass: np.ndarray
    broken: list[tuple[str, ...]]
    weights: np.ndarray

    def select(self, name: str, chosen: Sequence[int]) -> PromptSet:
        """The prompts at the places `chosen`, under another name; their weights again sum to 1."""
        rows, broken = [self.rows[i] for i in chosen], [self.broken[i] for i in chosen]
        weights = self.weights[list(chosen)]
        return PromptSet(name, rows, self.log_mass[list(chosen)], broken, weights / weights.sum())


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
    if not np.isneginf(log_mass).any():
        raise UsageError(
            f"every prompt of length {length} can be completed in {language.name}: none is out of distribution; "
            "choose another prompt length"
        )
    return _split(language, rows, log_mass, np.ones(len(rows)))


def published_prompts(language: Language) -> tuple[PromptSet, PromptSet]:
    """The prompts that the language file declares, each once, sorted: in distribution ("id", maybe none) and out ("ood").

    A string that several `[[prompts]]` match has the sum of their weights. Raises UsageError where the language declares
    no prompts, and where none of them is out of distribution.
    """
    if not language.prompts:
        raise UsageError(
            f"{language.name} has no published prompts: add [[prompts]] tables to its file, or take all of a length"
        )
    weights: dict[Row, float] = {}
    for pattern in language.prompts:
        for row in _matches(pattern.dfa, pattern.length):
            weights[row] = weights.get(row, 0.0) + pattern.weight
    rows = sorted(weights)
    log_mass = np.array(_prefix_masses(language, rows))
    if not np.isneginf(log_mass).any():
        raise UsageError(
            f"every published prompt of {language.name} can be completed in it: none is out of distribution; "
            "add one to the [[prompts]] of its file that is"
        )
    return _split(language, rows, log_mass, np.array([weights[row] for row in rows]))


def compile_prompts(declared: Sequence[tuple[str, int, float]], symbols: tuple[str, ...]) -> list[PromptPattern]:
    """The `[[prompts]]` of a language file as (regex, length, weight) → what they mean over the symbols.

    Raises UsageError on a faulty regex, on one that no string of its length matches, and on over a million prompts.
    """
    patterns, total = [], 0
    for number, (regex, length, weight) in enumerate(declared, 1):
        try:
            dfa = compile_regex(regex, symbols)
        except UsageError as error:
            raise UsageError(f"prompts.{number - 1}: {error}") from None
        count = int(_ways(dfa, length)[length][0])
        if count == 0:
            raise UsageError(
                f"prompts.{number - 1}: no string of {length} symbols matches {regex!r}; correct the regex or the length"
            )
        total += count
        if total > MAX_PROMPTS:
            raise UsageError(f"prompts: {regex!r} matches too many: expected at most {MAX_PROMPTS} prompts in all")
        patterns.append(PromptPattern(regex, length, weight, dfa))
    return patterns


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
    return PromptSet("empty", [()], language.prefix_log_prob_ids([()]).numpy(), [()], np.ones(1))


def _split(
    language: Language, rows: list[Row], log_mass: np.ndarray, weights: np.ndarray
) -> tuple[PromptSet, PromptSet]:
    """Sorted prompts by whether they have mass: "id" and "ood"."""
    dead = np.isneginf(log_mass)
    broken = [reasons if d else () for reasons, d in zip(_broken_rules(language, rows), dead, strict=True)]
    everything = PromptSet("all", rows, log_mass, broken, weights)
    inside, outside = np.flatnonzero(~dead).tolist(), np.flatnonzero(dead).tolist()
    return everything.select("id", inside), everything.select("ood", outside)


def _log_masses(language: Language, length: int) -> list[float]:
    """Log prefix masses of all prompts in sorted order; only what is still alive at one length is asked at the next."""
    masses = [0.0]
    rows: list[Row] = [()]
    for _ in range(length):
        longer = [(*row, symbol) for row in rows for symbol in range(len(language.symbols))]
        alive = [i for i, row in enumerate(longer) if masses[i // len(language.symbols)] > -np.inf]
        masses = [-np.inf] * len(longer)
        for i, value in zip(alive, _prefix_masses(language, [longer[i] for i in alive]), strict=True):
            masses[i] = value
        rows = longer
    return masses


def _prefix_masses(language: Language, rows: Sequence[Row]) -> list[float]:
    batches = (rows[i : i + BATCH] for i in range(0, len(rows), BATCH))
    return [value for batch in batches for value in language.prefix_log_prob_ids(batch).tolist()]


def _broken_rules(language: Language, rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """For each prompt the rules broken beyond repair, or ("joint",) where there is none."""
    if not language.rules:
        return [()] * len(rows)
    rules = language.rules
    # Neighbours in sorted order share a prefix, and so the states behind it.
    states = [tuple(rule.start() for rule in rules.values())]
    previous: Row = ()
    broken = []
    for row in rows:
        differ = (i for i, (x, y) in enumerate(zip(row, previous, strict=False)) if x != y)
        shared = next(differ, min(len(row), len(previous)))
        del states[shared + 1 :]
        for symbol in row[shared:]:
            pairs = zip(rules.values(), states[-1], strict=True)
            states.append(tuple(rule.step(state, symbol) for rule, state in pairs))
        dead = (name for (name, rule), state in zip(rules.items(), states[-1], strict=True) if not rule.alive(state))
        broken.append(tuple(dead) or ("joint",))
        previous = row
    return broken


def _ways(dfa: DFA, length: int) -> list[np.ndarray]:
    """How many strings of n symbols lead from each state to acceptance, n = 0 … `length`; more than enough is one too many."""
    ways = [dfa.accepting.astype(np.int64)]
    for _ in range(length):
        ways.append(np.minimum(ways[-1][dfa.transitions].sum(1), MAX_PROMPTS + 1))
    return ways


def _matches(dfa: DFA, length: int) -> list[Row]:
    """All strings of so many symbols that the automaton accepts, sorted; only prefixes that lead to one are walked."""
    useful = [(ways > 0).tolist() for ways in _ways(dfa, length)]
    after: list[list[int]] = dfa.transitions.tolist()
    walks: list[tuple[Row, int]] = [((), 0)]
    for left in reversed(range(length)):
        walks = [
            ((*row, symbol), state)
            for row, before in walks
            for symbol, state in enumerate(after[before])
            if useful[left][state]
        ]
    return [row for row, _ in walks]
