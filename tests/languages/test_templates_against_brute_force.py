"""Templates: every method of the language against the enumeration of all exponents."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
import torch
from brute_force import (
    EOS,
    Part,
    Truth,
    Word,
    conditioned,
    fit,
    geometric,
    load,
    template_masses,
    truth_of_strings,
    uniform,
    weights,
)

HALF, THIRD, TENTH = Fraction(1, 2), Fraction(1, 3), Fraction(1, 10)


@dataclass(frozen=True)
class Case:
    """A template as written in a file, and as the judge reads it; `finite` where no law is geometric."""

    template: str
    parts: list[Part]
    keys: dict[str, dict[str, object]]
    laws: dict[str, dict[int, Fraction]]

    @property
    def finite(self) -> bool:
        return all(key["law"] != "geometric" for key in self.keys.values())

    @property
    def symbols(self) -> Word:
        return tuple(sorted({symbol for part in self.parts for symbol in part.word}))


UNIFORM = {"law": "uniform", "low": 1, "high": 4}
UNIFORM_FROM_0 = {"law": "uniform", "low": 0, "high": 3}
GEOMETRIC = {"law": "geometric", "p": 0.5, "low": 1}
GEOMETRIC_FROM_0 = {"law": "geometric", "p": 0.75, "low": 0}
WEIGHTS = {"law": "weights", "weights": [0.5, 0.0, 0.4, 0.1], "low": 1}
WEIGHTS_FROM_0 = {"law": "weights", "weights": [0.1, 0.9], "low": 0}
LAWS = [
    (UNIFORM, uniform(1, 4)),
    (UNIFORM_FROM_0, uniform(0, 3)),
    (GEOMETRIC, geometric(HALF, 1)),
    (GEOMETRIC_FROM_0, geometric(Fraction(3, 4), 0)),
    (WEIGHTS, weights([HALF, Fraction(0), Fraction(2, 5), TENTH], 1)),
    (WEIGHTS_FROM_0, weights([TENTH, 9 * TENTH], 0)),
]

ONE_EXPONENT = {
    "a^n b^n": [Part("a", 1, "n"), Part("b", 1, "n")],
    "a^n b^n c^n": [Part("a", 1, "n"), Part("b", 1, "n"), Part("c", 1, "n")],
    "a^n b^n a^n": [Part("a", 1, "n"), Part("b", 1, "n"), Part("a", 1, "n")],
    "(ab)^n": [Part("ab", 1, "n")],
    "a^2 b^n": [Part("a", constant=2), Part("b", 1, "n")],
    "a^n b^2n": [Part("a", 1, "n"), Part("b", 2, "n")],
    "a b^n": [Part("a", constant=1), Part("b", 1, "n")],
    "a^n a^n": [Part("a", 2, "n")],
}
TWO_EXPONENTS = {
    "a^n b^m": [Part("a", 1, "n"), Part("b", 1, "m")],
    "a^n a^m": [Part("a", 1, "n"), Part("a", 1, "m")],
    "a^n b^m a^n": [Part("a", 1, "n"), Part("b", 1, "m"), Part("a", 1, "n")],
    "(ab)^n a^m": [Part("ab", 1, "n"), Part("a", 1, "m")],
}
CASES = [Case(text, parts, {"n": key}, {"n": law}) for text, parts in ONE_EXPONENT.items() for key, law in LAWS] + [
    Case(text, parts, {"n": LAWS[i][0], "m": LAWS[j][0]}, {"n": LAWS[i][1], "m": LAWS[j][1]})
    for text, parts in TWO_EXPONENTS.items()
    for i, j in [(0, 0), (1, 4), (2, 5), (3, 2), (1, 1)]
]


def name(case: Case) -> str:
    laws = ", ".join(f"{n} {key['law']} from {key['low']}" for n, key in case.keys.items())
    return f"{case.template}, {laws}"


each_case = pytest.mark.parametrize("case", CASES, ids=name)


def close(found: object, expected: object) -> None:
    """Log-probabilities agree to 1e-9, the infinite ones exactly."""
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=1e-9, atol=1e-9)


def log(values: list[float]) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(np.array(values, dtype=float))


def check_law(language, truth: Truth) -> None:
    """Masses, next-symbol laws, membership and the tensor, on all strings up to the judge's length."""
    assert set(language.symbols) == set(truth.symbols)
    strings = list(truth.strings)
    close(language.log_prob(strings), log(list(truth.strings.values())))
    close(language.prefix_log_prob(strings), log([truth.prefixes[w] for w in strings]))
    assert language.contains(strings).tolist() == [p > 0 for p in truth.strings.values()]
    live = [w for w in strings if len(w) < truth.longest and truth.prefixes[w] > 0]
    for prefix in live:
        law = language.next_symbol_law(prefix)
        assert sum(law.values()) == pytest.approx(1, abs=1e-12)
        assert law == pytest.approx(truth.next_law(prefix), rel=1e-9, abs=1e-15)
    symbols = list(language.symbols)
    full = [w for w in strings if len(w) == truth.longest - 1]
    ids = [[len(symbols) + 1] + [symbols.index(s) for s in w] for w in full]
    found = language.next_log_probs(torch.tensor(ids))[0]
    expected = np.full(found.shape, math.nan)
    for i, word in enumerate(full):
        for t in range(truth.longest):
            if truth.prefixes[word[:t]] > 0:
                law = truth.next_law(word[:t])
                expected[i, t] = log([law[s] for s in (*symbols, EOS)])
    close(found, expected)


def check_averages(language, masses: dict[Word, Fraction | float], finite: bool) -> None:
    entropy = language.entropy(draws=2000, seed=1)
    assert entropy.exact == (entropy.half_width == 0)
    assert entropy.exact or not finite
    expected = -math.fsum(float(p) * math.log(p) for p in masses.values() if p > 0)
    assert abs(entropy.value - expected) <= (1e-9 if entropy.exact else 2 * entropy.half_width)
    assert language.mean_length() == pytest.approx(float(sum(p * len(w) for w, p in masses.items())), rel=1e-9)


def check_sample(language, masses: dict[Word, Fraction | float]) -> None:
    sample = language.sample(2000, seed=7)
    assert sample == language.sample(2000, seed=7)
    assert language.contains(sample[:100]).all()
    assert fit(map(tuple, sample), {w: float(p) for w, p in masses.items()}) > 1e-4


def longest(symbols: Word) -> int:
    return {1: 10, 2: 7, 3: 5}[len(symbols)]


# The judge judged.


def test_judge_sums_over_equal_strings() -> None:
    masses = template_masses(TWO_EXPONENTS["a^n a^m"], {"n": uniform(1, 2), "m": uniform(1, 2)})
    assert masses == {("a",) * 2: Fraction(1, 4), ("a",) * 3: HALF, ("a",) * 4: Fraction(1, 4)}


@each_case
def test_judge_keeps_all_mass(case: Case) -> None:
    assert abs(1 - sum(template_masses(case.parts, case.laws).values())) < 3e-15


# The language judged.


@each_case
def test_template_equals_enumeration(case: Case) -> None:
    masses = template_masses(case.parts, case.laws)
    language = load(kind="template", template=case.template, **case.keys)
    check_law(language, truth_of_strings(masses, case.symbols, longest(case.symbols)))
    check_averages(language, masses, case.finite)
    check_sample(language, masses)


@pytest.mark.parametrize("limit", [4, 7])
@each_case
def test_template_within_max_length_equals_the_conditioned_enumeration(case: Case, limit: int) -> None:
    masses = conditioned(template_masses(case.parts, case.laws), limit)
    language = load(kind="template", template=case.template, max_length=limit, **case.keys)
    check_law(language, truth_of_strings(masses, case.symbols, longest(case.symbols)))
    check_averages(language, masses, finite=True)
    check_sample(language, masses)
    assert max(map(len, language.sample(50, seed=2))) <= limit


@each_case
def test_long_strings_of_a_template_have_their_mass_too(case: Case) -> None:
    masses = {w: p for w, p in template_masses(case.parts, case.laws).items() if p > 0}
    language = load(kind="template", template=case.template, **case.keys)
    some = sorted(masses, key=len)[:40]
    close(language.log_prob(some), log([float(masses[w]) for w in some]))
    assert not language.contains([(*w, "a") for w in some if (*w, "a") not in masses and case.finite]).any()


# Closed forms and the reading of files.


def test_weight_zero_is_outside_the_language() -> None:
    language = load(kind="template", template="a^n b^n", n=WEIGHTS)
    assert language.contains(["ab", "aabb", "aaabbb"]).tolist() == [True, False, True]


def test_uniform_law_has_the_entropy_of_its_number_of_strings() -> None:
    entropy = load(kind="template", template="a^n b^n", n={"law": "uniform", "low": 1, "high": 128}).entropy()
    assert (entropy.exact, entropy.half_width) == (True, 0)
    assert entropy.value == pytest.approx(math.log(128), rel=1e-12)


def test_geometric_law_far_out_keeps_its_mass() -> None:
    language = load(kind="template", template="a^n b^n", n={"law": "geometric", "p": 0.25, "low": 1})
    expected = math.log(0.25) + 299 * math.log(0.75)
    close(language.log_prob(["a" * 300 + "b" * 300]), [expected])
    close(language.prefix_log_prob(["a" * 300, "a" * 300 + "b"]), [299 * math.log(0.75), expected])


def test_exponent_law_with_one_value_gives_one_string() -> None:
    language = load(kind="template", template="a^n b^n", n={"law": "uniform", "low": 2, "high": 2})
    close(language.log_prob(["aabb", "ab", ""]), [0.0, -math.inf, -math.inf])
    assert language.entropy().value == pytest.approx(0, abs=1e-12)


def test_template_without_exponents_is_one_string() -> None:
    close(load(kind="template", template="a b^2").log_prob(["abb", "ab"]), [0.0, -math.inf])
