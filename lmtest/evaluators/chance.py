"""Exact chance levels: what the uniform law scores on the same prompts within the same number of new tokens."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Sequence

import numpy as np

from lmtest.errors import UsageError
from lmtest.languages.base import Language
from lmtest.languages.rules import Rule

NEGLIGIBLE = 1e-17
"""Completions longer than this much of the mass survives are left out: below the rounding of the sum itself."""
MAX_STATES = 2_000_000


def uniform_chance(
    language: Language,
    rows: Sequence[Sequence[int]],
    max_new_tokens: int,
    rules: Collection[str] | None = None,
) -> dict[str, np.ndarray]:
    """Prompts as N rows of symbol ids → exact probabilities [N] when each new token is uniform over V outputs.

    "finish_rate": EOS comes within `max_new_tokens` new tokens, itself counted. For each rule NAME (all, or those in
    `rules`): "NAME", finished and prompt with completion satisfies the rule; "NAME_completion", finished and the
    completion alone does (NaN where that takes more than MAX_STATES rule states). "grammatical": finished and in the
    language; NaN where its strings can neither be listed nor counted, unless the prompt is out of distribution, where it
    is 0. Raises UsageError on no new tokens.
    """
    if max_new_tokens < 1:
        raise UsageError(f"expected at least 1 new token, found {max_new_tokens}")
    n_symbols = len(language.symbols)
    chance = {"finish_rate": np.full(len(rows), 1 - (n_symbols / (n_symbols + 1)) ** max_new_tokens)}
    asked = (
        language.rules if rules is None else {name: language.rules[name] for name in language.rules if name in rules}
    )
    for name, rule in asked.items():
        starts = [rule.run(row) for row in rows]
        values = _rule_chance(rule, {rule.start(), *starts}, n_symbols, max_new_tokens)
        chance[name] = np.array([values[state] for state in starts], dtype=float)
        chance[f"{name}_completion"] = np.full(len(rows), values[rule.start()])
    chance["grammatical"] = _grammatical_chance(language, rows, max_new_tokens)
    return chance


def _rule_chance(rule: Rule, starts: Iterable[Hashable], n_symbols: int, max_new_tokens: int) -> dict[Hashable, float]:
    """For each starting state: the probability to stop in time, and in a state that the rule accepts.

    The value of a state with m tokens to go is the mean over EOS (1 if it accepts) and over the symbols of the value of
    the next state with m − 1 to go: one backward pass serves all starting states.
    """
    horizon = max_new_tokens
    if n_symbols:
        horizon = min(horizon, math.ceil(math.log(NEGLIGIBLE) / math.log(n_symbols / (n_symbols + 1))))
    twins = {state: rule.twin(state) for state in starts}
    places = {state: place for place, state in enumerate(dict.fromkeys(filter(rule.alive, twins.values())))}
    level, successors = list(places), []
    for _ in range(horizon - 1):
        longer = []
        for state in level:
            for symbol in range(n_symbols):
                after = rule.twin(rule.step(state, symbol))
                if after not in places and rule.alive(after):
                    places[after] = len(places)
                    longer.append(after)
                successors.append(places.get(after, -1))
        level = longer
        if len(places) > MAX_STATES:
            return {state: math.nan if twin in places else 0.0 for state, twin in twins.items()}
    # One more place, the last, stands for dead states, and for what follows the last token.
    after_each = np.full((len(places) + 1, n_symbols), -1, dtype=np.int64)
    after_each.flat[: len(successors)] = successors
    accepts = np.array([*map(rule.accepts, places), False], dtype=float)
    value = np.zeros(len(places) + 1)
    for _ in range(horizon):
        value = (accepts + value[after_each].sum(1)) / (n_symbols + 1)
        value[-1] = 0.0
    return {state: float(value[places[twin]]) if twin in places else 0.0 for state, twin in twins.items()}


def _grammatical_chance(language: Language, rows: Sequence[Sequence[int]], max_new_tokens: int) -> np.ndarray:
    """[N]: each string that starts with the prompt and is short enough is drawn with V to minus its new tokens."""
    counts = language.count_completions([tuple(row) for row in rows], max_new_tokens - 1)
    if counts is None:
        dead = np.isneginf(language.prefix_log_prob_ids(rows).numpy())
        return np.where(dead, 0.0, math.nan)
    n_outputs = len(language.symbols) + 1.0
    return np.asarray(counts @ n_outputs ** -np.arange(1.0, max_new_tokens + 1))
