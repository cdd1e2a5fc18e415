"""Every language file that is shipped: loads, samples, sums to one, and is what its rules say."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from brute_force import words

from lmtest.languages import load_language

FOLDER = Path(__file__).parents[2] / "grammars"
NAMES = sorted(path.stem for path in FOLDER.glob("*.toml"))
SHORT = 8
MOST = 100_000
"""Rules are compared on all strings up to SHORT symbols, fewer where that would be more than MOST strings."""


@pytest.fixture(scope="module", params=NAMES)
def language(request: pytest.FixtureRequest):
    return load_language(request.param)


def reach(language) -> int:
    """The length up to which all strings are enumerated: never beyond what the length limits leave alone."""
    k, n = len(language.symbols), min(SHORT, language.max_length or SHORT)
    while sum(k**i for i in range(n + 1)) > MOST:
        n -= 1
    return n


def test_grammars_are_shipped() -> None:
    assert {"anbn", "anbn_small"} <= set(NAMES)


def test_title_and_source_are_given_and_the_name_is_that_of_the_file(language) -> None:
    assert language.title
    assert language.source
    assert language.name in NAMES


def test_file_and_name_give_the_same_language(language) -> None:
    same = load_language(FOLDER / f"{language.name}.toml")
    assert (same.symbols, same.title, same.max_length) == (language.symbols, language.title, language.max_length)
    assert same.sample(5, seed=1) == language.sample(5, seed=1)


def test_samples_are_members_and_keep_the_limit(language) -> None:
    sample = language.sample(40, seed=0)
    assert language.contains(sample).all()
    assert language.max_length is None or max(len(language.vocabulary.split(s)) for s in sample) <= language.max_length


def test_empty_prefix_has_all_the_mass(language) -> None:
    assert language.prefix_log_prob([()])[0] == pytest.approx(0, abs=1e-9)


def test_next_symbol_laws_sum_to_one_on_prefixes_of_samples(language) -> None:
    for i, string in enumerate(language.sample(8, seed=2)):
        symbols = language.vocabulary.split(string)
        law = language.next_symbol_law(symbols[: i * len(symbols) // 7])
        assert list(law) == [*language.symbols, "<eos>"]
        assert min(law.values()) >= 0
        assert sum(law.values()) == pytest.approx(1, abs=1e-12)


def test_string_probability_is_the_product_of_the_next_symbol_laws(language) -> None:
    sample = language.sample(12, seed=3)
    tokens, lengths = language.vocabulary.encode(sample)
    rows = language.next_log_probs(tokens)[0]
    for i, n in enumerate(lengths.tolist()):
        targets = [*tokens[i, 1 : n + 1].tolist(), language.vocabulary.eos]
        chain = sum(float(rows[i, t, target]) for t, target in enumerate(targets))
        assert chain == pytest.approx(language.log_prob(sample[i : i + 1])[0], rel=1e-9, abs=1e-9)
        np.testing.assert_allclose(rows[i, : n + 1].exp().sum(-1), 1, atol=1e-12)


def test_prefix_mass_is_that_of_the_string_and_of_its_continuations(language) -> None:
    for string in language.sample(4, seed=4):
        symbols = language.vocabulary.split(string)
        prefix = symbols[: len(symbols) // 2]
        parts = [*language.prefix_log_prob([(*prefix, s) for s in language.symbols]), *language.log_prob([prefix])]
        assert np.logaddexp.reduce(parts) == pytest.approx(language.prefix_log_prob([prefix])[0], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", [name for name in NAMES if load_language(name).rules])
def test_conjunction_of_the_rules_is_the_language(name: str) -> None:
    language = load_language(name)
    strings = words(language.symbols, reach(language))
    tokens, lengths = language.vocabulary.encode(strings)
    keeps = np.ones(len(strings), dtype=bool)
    for rule in language.rules.values():
        keeps &= rule.holds(tokens[:, 1:], lengths).numpy()
    member = np.concatenate([language.contains(strings[i : i + 5000]) for i in range(0, len(strings), 5000)])
    wrong = [strings[i] for i in np.flatnonzero(keeps != member)[:5]]
    assert not wrong, f"rules and language disagree on {wrong}"


def test_rules_hold_on_samples(language) -> None:
    tokens, lengths = language.vocabulary.encode(language.sample(40, seed=5))
    for rule in language.rules.values():
        assert rule.holds(tokens[:, 1:], lengths).all()


@pytest.mark.parametrize(("name", "high"), [("anbn", 128), ("anbn_small", 16)])
def test_counted_languages_are_uniform(name: str, high: int) -> None:
    language = load_language(name)
    strings = ["a" * n + "b" * n for n in range(high + 2)]
    np.testing.assert_allclose(language.log_prob(strings[1:-1]), -math.log(high), atol=1e-12)
    assert not language.contains([strings[0], strings[-1]]).any()
    entropy = language.entropy()
    assert (entropy.exact, entropy.half_width) == (True, 0)
    assert entropy.value == pytest.approx(math.log(high), rel=1e-12)
    assert language.mean_length() == pytest.approx(high + 1, rel=1e-12)


def test_no_string_is_longer_than_the_longest(language) -> None:
    support = language.support()
    if support is not None:
        assert language.longest == max(map(len, support.rows))
    elif language.max_length is None and language.name in ("anbn_geometric", "palindromes"):
        assert language.longest == math.inf
    assert max(map(len, language.sample(200, seed=1))) <= language.longest
