"""Bracket languages: every method against the enumeration of all random choices of their generators."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch
from brute_force import load
from finite_law import Masses, check_averages, check_law, check_next_laws, check_sample, given_at_most

from lmtest.errors import UsageError
from lmtest.languages import load_language
from lmtest.languages.bracket_sums import irreducible_paths
from lmtest.languages.prompts import published_prompts

PAIRS = ["()", "[]", "{}"]


def nested_strings(pairs: list[str], n: int) -> Masses:
    """The nested generator for one target, choice by choice."""
    found: Counter[tuple[str, ...]] = Counter()

    def go_on(word: str, stack: str, p: Fraction) -> None:
        if word and not stack:
            found[tuple(word)] += p
            return
        opens = [pair[0] for pair in pairs]
        match = [pair[1] for pair in pairs if stack and pair[0] == stack[-1]]
        choices = opens if not word else match if len(word) + len(stack) >= n else opens + match
        for symbol in choices:
            go_on(word + symbol, stack + symbol if symbol in opens else stack[:-1], p / len(choices))

    go_on("", "", Fraction(1))
    return dict(found)


def shuffled_strings(pairs: list[str], n: int) -> Masses:
    """The shuffled generator for one target, choice by choice."""
    found: Counter[tuple[str, ...]] = Counter()

    def go_on(word: str, p: Fraction) -> None:
        if len(word) == n:
            found[tuple(word)] += p
            return
        depths = [word.count(opening) - word.count(closing) for opening, closing in pairs]
        choices = [closing for (_, closing), depth in zip(pairs, depths, strict=True) if depth > 0]
        if len(word) + sum(depths) < n:
            choices += [pair[0] for pair in pairs]
        for symbol in choices:
            go_on(word + symbol, p / len(choices))

    go_on("", Fraction(1))
    return dict(found)


GENERATORS = {"nested": nested_strings, "shuffled": shuffled_strings}


@dataclass(frozen=True, eq=False)
class Case:
    """Kinds of brackets, the discipline, and the law of the target: as in a file, and as the judge reads it."""

    kinds: int
    discipline: str
    target: dict[str, object]
    targets: tuple[tuple[int, Fraction], ...]

    def load(self, **more: object):
        return load(kind="brackets", pairs=PAIRS[: self.kinds], target=self.target, discipline=self.discipline, **more)


def even(high: int) -> tuple[dict[str, object], tuple[tuple[int, Fraction], ...]]:
    return (
        {"law": "uniform", "low": 2, "high": high, "step": 2},
        tuple((n, Fraction(2, high)) for n in range(2, high + 1, 2)),
    )


UNEVEN = (
    {"law": "weights", "weights": [0.125, 0.0, 0.0, 0.0, 0.5, 0.0, 0.375], "low": 2},
    ((2, Fraction(1, 8)), (6, Fraction(1, 2)), (8, Fraction(3, 8))),
)
SINGLE = {"law": "uniform", "low": 6, "high": 6}, ((6, Fraction(1)),)
CASES = [
    Case(kinds, discipline, *law)
    for discipline in GENERATORS
    for kinds, law in ((1, even(10)), (1, UNEVEN), (2, even(8)), (2, UNEVEN), (2, SINGLE), (3, even(6)), (3, SINGLE))
]
each_case = pytest.mark.parametrize(
    "case", CASES, ids=lambda c: f"{c.discipline}-{c.kinds}-{c.target['law']}-{c.target['low']}"
)


@cache
def masses_of(case: Case) -> Masses:
    masses: Counter[tuple[str, ...]] = Counter()
    for n, p in case.targets:
        for word, q in GENERATORS[case.discipline](PAIRS[: case.kinds], n).items():
            masses[word] += p * q
    return dict(masses)


@each_case
def test_the_law_is_that_of_the_generator(case: Case) -> None:
    masses, language = masses_of(case), case.load()
    assert sum(masses.values()) == 1
    check_law(language, masses, {1: 11, 2: 5, 3: 4}[case.kinds])
    check_averages(language, masses)


@each_case
def test_samples_follow_the_law(case: Case) -> None:
    check_sample(case.load(), masses_of(case))


@pytest.mark.parametrize("case", [case for case in CASES if case.discipline == "shuffled" and case.targets[0][0] == 2])
def test_under_max_length_the_shuffled_law_is_conditioned(case: Case) -> None:
    language, masses = case.load(max_length=6), given_at_most(masses_of(case), 6)
    check_law(language, masses, 4)
    check_averages(language, masses)
    check_sample(language, masses)


def test_a_limit_that_limits_nothing_is_no_limit() -> None:
    case = Case(2, "nested", *even(6))
    check_averages(case.load(max_length=6), masses_of(case))


def test_symbols_may_have_several_characters() -> None:
    keys = {"target": {"law": "uniform", "low": 4, "high": 4}, "discipline": "nested"}
    language = load(kind="brackets", pairs=[["if", "fi"]], **keys)
    masses = {("if", "fi"): Fraction(1, 2), ("if", "if", "fi", "fi"): Fraction(1, 2)}
    check_next_laws(language, masses)
    check_averages(language, masses)


def test_irreducible_paths_are_counted() -> None:
    for k in range(1, 8):
        found: Counter[int] = Counter()
        for word in nested_strings(["()"], 2 * k):
            if len(word) == 2 * k:
                found[len("".join(word)) - len("".join(word).rstrip(")"))] += 1
        assert found == {j: n for j in range(1, k + 1) if (n := irreducible_paths(k, j))}


@pytest.mark.parametrize("name", ["brackets_nested", "brackets_shuffled"])
def test_at_the_published_size_the_exact_averages_are_in_the_intervals_of_samples(name: str) -> None:
    language = load_language(name)
    rows = language.sample_ids(3000, np.random.default_rng(5))
    surprisal = -language.log_prob_ids(rows).numpy()
    entropy = language.entropy()
    assert entropy.exact
    assert abs(surprisal.mean() - entropy.value) < 4 * surprisal.std() / math.sqrt(len(rows))
    lengths = np.array([len(row) for row in rows])
    assert abs(lengths.mean() - language.mean_length()) < 4 * lengths.std() / math.sqrt(len(rows))
    assert lengths.max() <= 256


@pytest.mark.parametrize("name", ["brackets_nested", "brackets_shuffled"])
def test_at_the_published_size_the_chain_of_laws_is_the_probability_of_the_string(name: str) -> None:
    language = load_language(name)
    rows = language.sample_ids(200, np.random.default_rng(6))
    tokens, lengths = language.vocabulary.pack(rows)
    laws = language.next_log_probs(tokens)[0]
    targets = torch.cat([tokens[:, 1:], torch.full_like(tokens[:, :1], language.vocabulary.eos)], 1)
    inside = torch.arange(tokens.shape[1]) <= lengths[:, None]
    targets = torch.where(targets < language.vocabulary.eos, targets, language.vocabulary.eos)
    steps = torch.where(inside, laws.gather(2, targets[:, :, None])[:, :, 0], 0.0)
    torch.testing.assert_close(steps.sum(1), language.log_prob_ids(rows), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(laws[inside].exp().sum(-1), torch.ones(int(inside.sum())).double(), rtol=0, atol=1e-12)


def test_long_shuffled_strings_have_their_entropy_step_by_step() -> None:
    # E ln(choices) over the steps of sampled strings with one target: no log-probability enters.
    language = load(
        kind="brackets", pairs=PAIRS[:2], discipline="shuffled", target={"law": "uniform", "low": 40, "high": 40}
    )
    surprisals = []
    for row in language.sample(2000, seed=3):
        depths, surprisal = Counter[str](), 0.0
        for t, symbol in enumerate(row):
            choices = sum(depth > 0 for depth in depths.values()) + 2 * (t + sum(depths.values()) < 40)
            surprisal += math.log(choices)
            depths["([".find(symbol) if symbol in "([" else ")]".find(symbol)] += 1 if symbol in "([" else -1
        surprisals.append(surprisal)
    assert abs(np.mean(surprisals) - language.entropy().value) < 4 * np.std(surprisals) / math.sqrt(len(surprisals))


def test_three_kinds_at_some_length_have_an_exact_entropy_and_eight_have_none() -> None:
    target = {"law": "uniform", "low": 2, "high": 40, "step": 2}
    assert load(kind="brackets", pairs=PAIRS, discipline="shuffled", target=target).entropy().exact
    many = [[f"open{i}", f"close{i}"] for i in range(8)]
    entropy = load(kind="brackets", pairs=many, discipline="shuffled", target=target).entropy(draws=200)
    assert not entropy.exact
    assert entropy.half_width > 0


@pytest.mark.parametrize(
    "name", ["brackets_nested", "brackets_nested_small", "brackets_shuffled", "brackets_shuffled_small"]
)
def test_published_prompts_are_weighted_as_the_nested_generator_draws_their_words(name: str) -> None:
    law = {word: p for word, p in nested_strings(PAIRS[:2], 6).items() if len(word) == 6}
    total = sum(law.values())
    language = load_language(name)
    for prompts, head in zip(published_prompts(language), ("([", ")["), strict=True):
        found = {language.vocabulary.join(row): w for row, w in zip(prompts.rows, prompts.weights, strict=True)}
        assert found == pytest.approx({head + "".join(word): float(p / total) for word, p in law.items()})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_length": 4}, "found 4 < 6: lower the target's high"),
        ({"target": {"law": "uniform", "low": 1, "high": 5, "step": 2}}, "even and at least 2, found 1"),
        ({"target": {"law": "uniform", "low": 0, "high": 6, "step": 2}}, "even and at least 2, found 0"),
        ({"target": {"law": "uniform", "low": 2, "high": 6}}, "even and at least 2, found 3"),
        ({"pairs": []}, "a list of pairs"),
        ({"pairs": ["()", "(]"]}, "brackets that all differ"),
        ({"pairs": ["(("]}, "brackets that all differ"),
        ({"pairs": ["()["]}, "a pair of brackets"),
        ({"discipline": "stacked"}, "'discipline'.*'nested' or 'shuffled'"),
    ],
)
def test_wrong_files_are_refused_with_the_reason(change: dict[str, object], message: str) -> None:
    target = {"law": "uniform", "low": 2, "high": 6, "step": 2}
    keys = {"kind": "brackets", "pairs": ["()", "[]"], "target": target, "discipline": "nested"}
    with pytest.raises(UsageError, match=message):
        load(**{**keys, **change})
