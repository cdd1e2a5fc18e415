"""Every method of a language with a finite law, against its strings and their probabilities listed by someone else."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from fractions import Fraction

import numpy as np
import pytest
from brute_force import EOS, Word, fit, truth_of_strings

Masses = dict[Word, Fraction]


def close(found: object, expected: object) -> None:
    """Log-probabilities agree to 1e-12 or so, the infinite ones exactly."""
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=1e-12, atol=1e-12)


def log(values: object) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(np.array(values, dtype=float))


def check_law(language, masses: Masses, longest: int) -> None:
    """Masses of all strings up to `longest` and of all members, and the next-symbol laws, NaN where dead."""
    truth = truth_of_strings(masses, language.symbols, longest)
    strings = list(truth.strings)
    close(language.log_prob(strings), log(list(truth.strings.values())))
    close(language.prefix_log_prob(strings), log([truth.prefixes[w] for w in strings]))
    close(language.log_prob(list(masses)), log([float(p) for p in masses.values()]))
    assert language.contains(strings).tolist() == [p > 0 for p in truth.strings.values()]
    check_next_laws(language, masses)


def check_next_laws(language, masses: Masses) -> None:
    """The tensor of next-symbol laws on all members, each with one symbol behind it that is wrong or right."""
    after: defaultdict[Word, Counter[str]] = defaultdict(Counter)
    for word, p in masses.items():
        for t, output in enumerate((*word, EOS)):
            after[word[:t]][output] += p
    rows = [(*word, symbol) for word, symbol in zip(masses, itertools.cycle(language.symbols), strict=False)]
    tokens, _ = language.vocabulary.encode(rows)
    expected = np.full((*tokens.shape, len(language.symbols) + 1), math.nan)
    for i, row in enumerate(rows):
        for t in range(len(row) + 1):
            if row[:t] in after:
                law, total = after[row[:t]], sum(after[row[:t]].values())
                expected[i, t] = log([float(Fraction(law[s]) / total) for s in (*language.symbols, EOS)])
    close(language.next_log_probs(tokens)[0], expected)


def check_averages(language, masses: Masses) -> None:
    """Entropy, mean length and support."""
    entropy = language.entropy()
    assert (entropy.exact, entropy.half_width) == (True, 0)
    expected = -math.fsum(float(p) * math.log(p) for p in masses.values())
    assert entropy.value == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert language.mean_length() == pytest.approx(float(sum(p * len(w) for w, p in masses.items())), rel=1e-12)
    support = language.support()
    words = [language.vocabulary.split(language.vocabulary.join(row)) for row in support.rows]
    assert len(set(words)) == len(words)
    found = dict(zip(words, support.log_probs.tolist(), strict=True))
    assert found == pytest.approx({w: math.log(p) for w, p in masses.items()}, rel=1e-12, abs=1e-12)


def check_sample(language, masses: Masses) -> None:
    """4000 strings, which the seed decides."""
    sample = language.sample(4000, seed=7)
    assert sample == language.sample(4000, seed=7)
    assert language.sample(0, seed=7) == []
    assert fit(map(tuple, sample), {w: float(p) for w, p in masses.items()}) > 1e-4


def given_at_most(masses: Masses, limit: int) -> Masses:
    """The law given at most `limit` symbols."""
    total = sum(p for w, p in masses.items() if len(w) <= limit)
    return {w: p / total for w, p in masses.items() if len(w) <= limit}


def counts_after(language, masses: Masses, order: int) -> dict[tuple[int, ...], list[float]]:
    """Expected number of each output behind each context of order − 1 tokens, string by string."""
    vocabulary = language.vocabulary
    counts: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for word, p in masses.items():
        ids = [vocabulary.bos, *vocabulary.ids(word), vocabulary.eos]
        for t in range(1, len(ids)):
            counts[tuple(ids[max(0, t - order + 1) : t])][ids[t]] += p
    return {context: [float(row[v]) for v in range(vocabulary.n_outputs)] for context, row in counts.items()}
