"""Continuations of a language: the same symbols, exact laws, and splits that share no string."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from brute_force import fit, load
from explicit_language import ExplicitLanguage

from lmtest.errors import UsageError
from lmtest.languages import Language, load_language
from lmtest.languages.continuations import SHARES, Split, check_continuation, split

GEOMETRIC = {"kind": "pcfg", "grammar": "S -> 'a' S 'b' [0.9] | 'a' 'b' [0.1]"}


def parts(drawn: Split) -> list[list[tuple[int, ...]]]:
    return [drawn.train, drawn.validation, drawn.test]


@pytest.mark.parametrize(
    ("before", "after", "high", "shape"),
    [
        ("anbn_small", "anbnan_small", 16, "aba"),
        ("anbn_small", "anb2n_small", 16, "abb"),
        ("anbn", "anbnan", 85, "aba"),
        ("anbn", "anb2n", 85, "abb"),
    ],
)
def test_shipped_continuations_have_the_symbols_of_their_language_and_a_uniform_n(
    before: str, after: str, high: int, shape: str
) -> None:
    language = load_language(after)
    check_continuation(load_language(before), language)
    strings = ["".join(symbol * n for symbol in shape) for n in range(1, high + 1)]
    np.testing.assert_allclose(language.log_prob(strings), -math.log(high), atol=1e-12)
    assert language.entropy().value == pytest.approx(math.log(high), rel=1e-12)
    assert language.entropy().exact
    assert language.longest == 3 * high


def test_next_symbol_laws_of_a_continuation_are_those_of_its_strings() -> None:
    strings = {"a" * n + "b" * 2 * n: 1 / 16 for n in range(1, 17)}
    truth, language = ExplicitLanguage("ab", strings), load_language("anb2n_small")
    for prefix in ("", "a", "aaa", "aab", "aabb", "aabbb", "aabbbb"):
        assert language.next_symbol_law(prefix) == pytest.approx(truth.next_symbol_law(prefix))


def test_other_symbols_or_another_order_are_refused() -> None:
    before = load_language("anbn_small")
    check_continuation(before, load_language("palindromes"))
    for other in (
        load_language("anbncn_small"),
        ExplicitLanguage("ba", {"ab": 1.0}),
        ExplicitLanguage("a", {"a": 1.0}),
    ):
        with pytest.raises(UsageError, match="a model keeps its vocabulary"):
            check_continuation(before, other)


@pytest.mark.parametrize(
    "language", [load_language("anb2n_small"), load_language("layered_small"), load(**GEOMETRIC)], ids=str
)
def test_no_string_is_in_two_parts_and_every_draw_is_one_of_the_language(language: Language) -> None:
    for seed in range(3):
        drawn = split(language, 200, 50, seed)
        assert list(map(len, parts(drawn))) == [200, 50, 50]
        train, validation, test = map(set, parts(drawn))
        assert not train & validation | train & test | validation & test
        assert language.contains([language.vocabulary.join(row) for row in train | validation | test]).all()
        assert parts(split(language, 200, 50, seed)) == parts(drawn)
    assert parts(split(language, 200, 50, 7)) != parts(drawn)


def test_strings_are_shared_out_and_drawn_by_the_law_given_their_part() -> None:
    weights = np.arange(1, 21) / 210
    language = ExplicitLanguage("ab", {"a" * n + "b": float(p) for n, p in enumerate(weights)})
    drawn = split(language, 5000, 2000, 0)
    sizes = [len(set(part)) for part in parts(drawn)]
    assert sizes == [round(20 * share) for share in SHARES]
    for part in parts(drawn):
        law = {row: float(weights[len(row) - 1]) for row in set(part)}
        total = sum(law.values())
        assert fit(part, {row: p / total for row, p in law.items()}) > 1e-4  # type: ignore[misc]


def test_unlisted_strings_are_drawn_by_the_law_given_their_part() -> None:
    language = load(**GEOMETRIC)
    assert language.support() is None
    for part in parts(split(language, 3000, 1000, 1)):
        law = {
            row: math.exp(p) for row, p in zip(set(part), language.log_prob_ids(list(set(part))).tolist(), strict=True)
        }
        common = {row: p for row, p in law.items() if p > 0.005}
        counts = Counter(row for row in part if row in common)
        total = sum(common.values())
        assert fit(counts.elements(), {row: p / total for row, p in common.items()}) > 1e-4


@pytest.mark.parametrize("language", [load_language("layered_small"), load(**GEOMETRIC)], ids=["listed", "unlisted"])
def test_a_larger_split_begins_with_the_smaller_one(language: Language) -> None:
    small = split(language, 8, 10, 3)
    for large in (split(language, 4096, 10, 3), split(language, 8, 500, 3)):
        for few, many in zip(parts(small), parts(large), strict=True):
            assert many[: len(few)] == few


@pytest.mark.parametrize("language", [load_language("layered_small"), load(**GEOMETRIC)], ids=["listed", "unlisted"])
def test_strings_that_are_too_short_for_a_task_are_left_out(language: Language) -> None:
    drawn = split(language, 100, 40, 0, shortest=5)
    assert min(len(row) for part in parts(drawn) for row in part) >= 5
    assert list(map(len, parts(drawn))) == [100, 40, 40]


def test_splits_that_cannot_be_are_refused() -> None:
    language = load_language("anb2n_small")
    with pytest.raises(UsageError, match="found 0 and 5"):
        split(language, 0, 5, 0)
    with pytest.raises(UsageError, match="found 5 and 0"):
        split(language, 5, 0, 0)
    with pytest.raises(UsageError, match="has 2 strings of at least 45 symbols"):
        split(language, 5, 5, 0, shortest=45)
    with pytest.raises(UsageError, match="has 2 strings"):
        split(ExplicitLanguage("ab", {"a": 0.5, "b": 0.5}), 5, 5, 0)
    heavy = load(kind="pcfg", grammar="S -> 'a' [0.999999] | 'b' S [0.000001]")
    with pytest.raises(UsageError, match="expected 5, 5, 5 strings"):
        split(heavy, 5, 5, 0)
