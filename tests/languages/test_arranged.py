"""Arranged languages: every method against the enumeration of what their generator draws."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
from brute_force import load, uniform, weights
from finite_law import Masses, check_averages, check_law, check_next_laws, check_sample, given_at_most

from lmtest.errors import UsageError
from lmtest.languages import load_language


@dataclass(frozen=True)
class Case:
    """A language file's keys, and the law of the length as the judge reads it."""

    prefix: str
    count: str
    arrangement: str
    length: dict[str, object]
    lengths: dict[int, Fraction]

    def load(self, **more: object):
        keys = {"prefix": self.prefix, "counted": "a", "filler": "b", "count": self.count, "length": self.length}
        return load(kind="arranged", arrangement=self.arrangement, **keys, **more)


UNIFORM = {"law": "uniform", "low": 1, "high": 6}, uniform(1, 6)
EVEN = {"law": "uniform", "low": 0, "high": 6, "step": 2}, {n: Fraction(1, 4) for n in (0, 2, 4, 6)}
ODD = {"law": "uniform", "low": 3, "high": 7, "step": 2}, {n: Fraction(1, 3) for n in (3, 5, 7)}
UNEVEN = (
    {"law": "weights", "weights": [0.5, 0.0, 0.25, 0.0, 0.25], "low": 3},
    weights([Fraction(1, 2), Fraction(0), Fraction(1, 4), Fraction(0), Fraction(1, 4)], 3),
)
CASES = [
    Case(prefix, count, arrangement, *law)
    for arrangement in ("shuffled", "sorted")
    for prefix, count, law in (
        ("b", "even", UNIFORM),
        ("b", "even", UNEVEN),
        ("", "even", EVEN),
        ("", "half", EVEN),
        ("ca", "even", UNEVEN),
        ("c", "half", ODD),
        ("a", "half", UNEVEN),
        ("", "even_strings", UNIFORM),
        ("b", "even_strings", UNEVEN),
    )
]
each_case = pytest.mark.parametrize(
    "case", CASES, ids=lambda c: f"{c.prefix}-{c.count}-{c.arrangement}-{c.length['low']}"
)


def masses_of(case: Case) -> Masses:
    """Every choice of the generator in turn: the length, the count, the order of the symbols."""
    masses: Counter[tuple[str, ...]] = Counter()
    for length, p in case.lengths.items():
        room = length - len(case.prefix)
        if p == 0:
            continue
        if case.count == "half":
            counts = {room // 2: p}
        elif case.count == "even":
            counts = dict.fromkeys(range(0, room + 1, 2), p / (room // 2 + 1))
        else:
            even = [s for s in itertools.product("ab", repeat=room) if s.count("a") % 2 == 0]
            counts = {c: p * n / len(even) for c, n in Counter(s.count("a") for s in even).items()}
        for c, q in counts.items():
            symbols = "b" * (room - c) + "a" * c
            orders = list(itertools.permutations(symbols)) if case.arrangement == "shuffled" else [tuple(symbols)]
            for rest, times in Counter(orders).items():
                masses[(*case.prefix, *rest)] += q * times / len(orders)
    return dict(masses)


@each_case
def test_the_law_is_that_of_the_generator(case: Case) -> None:
    masses, language = masses_of(case), case.load()
    assert sum(masses.values()) == 1
    check_law(language, masses, 8 if len(language.symbols) == 2 else 6)
    check_averages(language, masses)
    check_sample(language, masses)


@pytest.mark.parametrize("limit", [3, 5])
@each_case
def test_under_max_length_the_law_is_conditioned(case: Case, limit: int) -> None:
    language, masses = case.load(max_length=limit), given_at_most(masses_of(case), limit)
    check_law(language, masses, 5)
    check_averages(language, masses)
    check_sample(language, masses)


def test_symbols_of_several_characters_stand_apart_in_the_prefix() -> None:
    law = {"law": "uniform", "low": 3, "high": 4}
    keys = {"counted": "up", "filler": "down", "count": "even", "arrangement": "sorted", "length": law}
    language = load(kind="arranged", prefix="go down", **keys)
    assert language.symbols == ("up", "down", "go")
    masses = {
        ("go", "down", "down"): Fraction(1, 2),
        ("go", "down", "down", "down"): Fraction(1, 4),
        ("go", "down", "up", "up"): Fraction(1, 4),
    }
    check_next_laws(language, masses)
    check_averages(language, masses)


@pytest.mark.parametrize("name", ["ban", "bban", "abn", "parity"])
def test_at_the_published_size_the_closed_entropy_is_in_the_interval_of_surprisals(name: str) -> None:
    language = load_language(name)
    rows = language.sample_ids(4000, np.random.default_rng(3))
    surprisal = -language.log_prob_ids(rows).numpy()
    assert abs(surprisal.mean() - language.entropy().value) < 4 * surprisal.std() / math.sqrt(len(rows))
    lengths = np.array([len(row) for row in rows])
    assert abs(lengths.mean() - language.mean_length()) < 4 * lengths.std() / math.sqrt(len(rows))


@pytest.mark.parametrize(
    ("name", "string", "probability"),
    [
        ("ban", "b" + "ab" * 120, Fraction(1, 256 * 121 * math.comb(240, 120))),
        ("ban", "b" + "b" * 255, Fraction(1, 256 * 128)),
        ("bban", "b" * 56 + "a" * 200, Fraction(1, 256 * 128)),
        ("abn", "ab" * 128, Fraction(1, 128 * math.comb(256, 128))),
        ("parity", "ab" * 32, Fraction(1, 64 * 2**63)),
    ],
)
def test_at_the_published_size_strings_have_their_probability_to_1e_12(
    name: str, string: str, probability: Fraction
) -> None:
    expected = math.log(probability.numerator) - math.log(probability.denominator)
    assert load_language(name).log_prob([string])[0] == pytest.approx(expected, abs=1e-12)


def test_at_the_published_size_next_symbol_laws_are_exact_to_1e_12() -> None:
    # In abN after a prefix of i a and j b, by the sum over all n of what is left.
    language, i, j = load_language("abn"), 100, 90
    ways = {n: Fraction(math.comb(2 * n - i - j - 1, n - i - 1), math.comb(2 * n, n)) for n in range(i + 1, 129)}
    mass = {n: Fraction(math.comb(2 * n - i - j, n - i), math.comb(2 * n, n)) for n in range(i, 129)}
    law = language.next_symbol_law("a" * i + "b" * j)
    assert law["a"] == pytest.approx(float(sum(ways.values()) / sum(mass.values())), rel=1e-12)
    assert law["<eos>"] == 0


def test_parity_is_uniform_within_a_length() -> None:
    law = {"law": "uniform", "low": 1, "high": 5}
    keys = {"counted": "a", "filler": "b", "count": "even_strings", "arrangement": "shuffled", "length": law}
    for row, log_p in zip(*vars(load(kind="arranged", **keys).support()).values(), strict=True):
        assert float(log_p) == pytest.approx(-math.log(5 * 2 ** (len(row) - 1)), abs=1e-12)


def test_no_strings_and_no_symbols_are_fine() -> None:
    language = load_language("ban_small")
    assert language.log_prob([]).shape == (0,)
    assert language.prefix_log_prob([""])[0] == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": {"law": "uniform", "low": 1, "high": 4}, "count": "half"}, "half of 1 symbols.*step = 2"),
        ({"prefix": "bbb"}, "a length of 2 has no room for the prefix"),
        ({"filler": "a"}, "expected two different symbols"),
        ({"max_length": 1}, "at most max_length = 1; raise it"),
        ({"length": {"law": "uniform", "low": 2, "high": 1001}, "count": "even"}, "at most 1000.*found 1001"),
        ({"length": {"law": "uniform", "low": 2, "high": 7, "step": 2}}, "miss high = 7: write 6"),
        ({"length": {"law": "uniform", "low": 2, "high": 6, "step": 0}}, "step"),
        ({"length": {"law": "geometric", "p": 0.5}}, "length.*'uniform', 'weights'"),
        ({"count": "odd"}, "'count'.*'even', 'half' or 'even_strings'"),
        ({"arrangment": "sorted"}, "unknown key 'arrangment'; did you mean 'arrangement'"),
    ],
)
def test_wrong_files_are_refused_with_the_reason(change: dict[str, object], message: str) -> None:
    keys = {"counted": "a", "filler": "b", "count": "half", "arrangement": "shuffled"}
    length = {"law": "uniform", "low": 2, "high": 6, "step": 2}
    with pytest.raises(UsageError, match=message):
        load(**{"kind": "arranged", **keys, "length": length, **change})


def test_a_law_in_steps_works_in_templates_too() -> None:
    language = load(kind="template", template="a^n", n={"law": "uniform", "low": 1, "high": 7, "step": 3})
    assert language.contains(["a" * n for n in range(9)]).tolist() == [n in (1, 4, 7) for n in range(9)]
    assert language.entropy().value == pytest.approx(math.log(3), rel=1e-12)
