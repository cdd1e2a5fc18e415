from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from brute_force import load
from explicit_language import ExplicitLanguage, all_rows, explicit_anbn

from lmtest.errors import UsageError
from lmtest.languages.prompts import compile_prompts, empty_prompt, prompts_of_length, published_prompts, split_heldout
from lmtest.languages.regex import compile_regex


def mixed(*prompts: tuple[str, int, float]) -> ExplicitLanguage:
    """A language with three rules that declares these prompts: (regex, length, weight)."""
    language = ExplicitLanguage(
        "abc",
        {"": 0.125, "ab": 0.25, "abc": 0.125, "cabba": 0.25, "cab": 0.25},
        {"starts": {"regex": "([ac].*)?"}, "few": {"count": "a <= 2"}, "ab": {"count": "a <= b"}},
    )
    language.prompts = compile_prompts(prompts, language.symbols)
    return language


MIXED = mixed()


@pytest.mark.parametrize("longest", [16, 128])
def test_anbn_at_length_8_has_5_prompts_in_and_251_out_of_distribution(longest: int) -> None:
    inside, outside = prompts_of_length(explicit_anbn(longest), 8)
    assert (inside.name, outside.name) == ("id", "ood")
    assert (len(inside.rows), len(outside.rows)) == (5, 251)
    joint = [row for row, broken in zip(outside.rows, outside.broken, strict=True) if broken == ("joint",)]
    assert joint == [(0,) * n + (1,) * (8 - n) for n in (3, 2, 1, 0)]
    assert Counter(outside.broken) == {("joint",): 4, ("R2",): 247}
    assert inside.broken == [()] * 5


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_in_distribution_is_a_positive_prefix_mass(length: int) -> None:
    inside, outside = prompts_of_length(MIXED, length)
    strings = {MIXED.vocabulary.join(row): p for row, p in zip(MIXED.rows, MIXED.probabilities, strict=True)}
    masses = {
        row: sum(p for string, p in strings.items() if str(string).startswith(str(MIXED.vocabulary.join(row))))
        for row in all_rows(3, length)
        if len(row) == length
    }
    assert inside.rows == [row for row, mass in masses.items() if mass > 0]
    assert outside.rows == [row for row, mass in masses.items() if mass == 0]
    assert np.exp(inside.log_mass) == pytest.approx([masses[row] for row in inside.rows])
    assert np.isneginf(outside.log_mass).all()
    for row, broken in zip(outside.rows, outside.broken, strict=True):
        dead = tuple(name for name, rule in MIXED.rules.items() if not rule.alive(rule.run(row)))
        assert broken == (dead or ("joint",))


def test_several_rules_can_be_broken_at_once() -> None:
    _, outside = prompts_of_length(MIXED, 4)
    assert dict(zip(outside.rows, outside.broken, strict=True))[1, 0, 0, 0] == ("starts", "few")


def test_there_may_be_no_prompt_in_distribution() -> None:
    inside, outside = prompts_of_length(MIXED, 6)
    assert inside.rows == []
    assert inside.broken == []
    assert inside.log_mass.shape == (0,)
    assert len(outside.rows) == 3**6


def test_without_rules_nothing_is_said_to_be_broken() -> None:
    _, outside = prompts_of_length(ExplicitLanguage("ab", {"ab": 1.0}), 2)
    assert outside.broken == [()] * 3


@pytest.mark.parametrize(
    ("length", "message"), [(0, "at least 1"), (-2, "at least 1"), (13, "more than 1000000"), (10**9, "more than")]
)
def test_impossible_lengths_are_refused(length: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        prompts_of_length(MIXED, length)


def test_a_length_without_prompts_out_of_distribution_is_refused_with_advice() -> None:
    everything = ExplicitLanguage("ab", {"a": 0.5, "b": 0.5})
    with pytest.raises(UsageError, match="choose another prompt length"):
        prompts_of_length(everything, 1)


def test_the_heldout_split_is_disjoint_complete_sorted_and_seeded() -> None:
    _, outside = prompts_of_length(explicit_anbn(16), 8)
    trained, heldout = split_heldout(outside, 0.2, seed=3)
    assert (trained.name, heldout.name) == ("ood_trained", "ood_heldout")
    assert len(heldout.rows) == 50
    assert sorted(trained.rows + heldout.rows) == outside.rows
    assert trained.rows == sorted(trained.rows)
    assert heldout.rows == sorted(heldout.rows)
    reasons = dict(zip(outside.rows, outside.broken, strict=True))
    assert heldout.broken == [reasons[row] for row in heldout.rows]
    assert len(trained.log_mass) == 201
    assert split_heldout(outside, 0.2, seed=3)[1].rows == heldout.rows
    assert split_heldout(outside, 0.2, seed=4)[1].rows != heldout.rows


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, math.nan, 0.001, 0.999])
def test_a_split_with_an_empty_part_is_refused(share: float) -> None:
    _, outside = prompts_of_length(explicit_anbn(16), 8)
    with pytest.raises(UsageError, match="held-out share"):
        split_heldout(outside, share, seed=0)


def test_the_empty_prompt_has_mass_one() -> None:
    prompts = empty_prompt(MIXED)
    assert (prompts.name, prompts.rows, prompts.broken) == ("empty", [()], [()])
    assert prompts.log_mass == pytest.approx([0.0], abs=1e-12)


@pytest.mark.parametrize(("pattern", "length"), [("[ab]*c", 4), (".*", 3), ("(ab|ba|c)*", 5), ("a|b.c|.{4}", 3)])
def test_published_prompts_are_all_strings_of_the_length_that_match(pattern: str, length: int) -> None:
    inside, outside = published_prompts(mixed((pattern, length, 1.0), ("b", 1, 1.0)))
    dfa = compile_regex(pattern, ("a", "b", "c"))
    matching = {(1,)}
    for row in itertools.product(range(3), repeat=length):
        state = 0
        for symbol in row:
            state = dfa.transitions[state, symbol]
        matching |= {row} if dfa.accepting[state] else set()
    assert sorted(inside.rows + outside.rows) == sorted(matching)
    assert inside.rows == sorted(inside.rows)
    assert outside.rows == sorted(outside.rows)


def test_published_prompts_split_by_their_mass_as_all_prompts_do() -> None:
    one, two = published_prompts(mixed((".*", 4, 0.3))), prompts_of_length(MIXED, 4)
    for published, every in zip(one, two, strict=True):
        assert (published.name, published.rows, published.broken) == (every.name, every.rows, every.broken)
        assert (published.log_mass == every.log_mass).all()
        assert published.weights == pytest.approx(every.weights, abs=1e-15)


def test_prompts_of_several_lengths_say_each_what_they_broke() -> None:
    _, outside = published_prompts(mixed(("b.*|aaa", 3, 1.0), ("b", 1, 1.0), (".*bb", 4, 1.0)))
    assert {len(row) for row in outside.rows} == {1, 3, 4}
    for row, broken in zip(outside.rows, outside.broken, strict=True):
        dead = tuple(name for name, rule in MIXED.rules.items() if not rule.alive(rule.run(row)))
        assert broken == (dead or ("joint",))


def test_a_string_that_several_entries_match_adds_its_weights() -> None:
    inside, outside = published_prompts(mixed(("[ab]c", 2, 2.0), ("b[bc]", 2, 3.0), ("a[bc]", 2, 1.0)))
    assert inside.rows == [(0, 1)]
    assert inside.weights.tolist() == [1.0]
    assert outside.rows == [(0, 2), (1, 1), (1, 2)]
    assert outside.weights == pytest.approx(np.array([3, 3, 5]) / 11, abs=1e-15)
    assert outside.select("some", [0, 2]).weights == pytest.approx([3 / 8, 5 / 8], abs=1e-15)


def test_all_prompts_weigh_the_same_and_sum_to_one() -> None:
    sets = prompts_of_length(explicit_anbn(16), 8)
    for prompts in (*sets, *split_heldout(sets[1], 0.3, seed=0), empty_prompt(MIXED)):
        assert len(set(prompts.weights)) == 1
        assert prompts.weights.sum() == pytest.approx(1.0, abs=1e-12)
    assert len(sets[1].select("none", []).weights) == 0


def test_a_few_long_prompts_are_found_among_many_strings() -> None:
    _, outside = published_prompts(mixed(("b{300}a?c{100}", 400, 1.0), ("b{99}.", 100, 1.0)))
    assert sorted(outside.rows) == sorted([(1,) * 300 + (2,) * 100, *((1,) * 99 + (i,) for i in range(3))])


def test_a_language_without_published_prompts_out_of_distribution_is_refused() -> None:
    with pytest.raises(UsageError, match="explicit has no published prompts"):
        published_prompts(mixed())
    with pytest.raises(UsageError, match="every published prompt of explicit can be completed"):
        published_prompts(mixed(("ca|ab", 2, 1.0)))


ANBN = {"kind": "template", "template": "a^n b^n", "n": {"law": "uniform", "low": 1, "high": 16}}
DYCK = {"kind": "pcfg", "grammar": "S -> 'a' S 'b' [0.5] | 'a' 'b' [0.5]"}


@pytest.mark.parametrize("keys", [ANBN, DYCK])
def test_a_language_file_declares_its_prompts(keys: dict[str, object]) -> None:
    language = load(**keys, prompts=[{"regex": "ab*a*", "length": 8}, {"regex": "a{8}", "length": 8, "weight": 2}])
    assert [(p.regex, p.length, p.weight) for p in language.prompts] == [("ab*a*", 8, 1.0), ("a{8}", 8, 2.0)]
    inside, outside = published_prompts(language)
    assert (len(inside.rows), len(outside.rows)) == (1, 7)
    assert inside.weights.tolist() == [1.0]
    assert load(**keys).prompts == []


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (
            [{"regex": "a", "length": 1}, {"regex": "a(", "length": 8}],
            r"language\.toml: prompts.1: .*unbalanced",
        ),
        ([{"regex": "ac", "length": 2}], r"language\.toml: prompts.0: .*unknown symbol 'c'"),
        ([{"regex": "a{3}", "length": 2}], r"no string of 2 symbols matches 'a\{3\}'"),
        ([{"regex": ".*", "length": 20}], "expected at most 1000000"),
        ([{"regex": ".*", "length": 19}, {"regex": "a.*", "length": 20}], "expected at most 1000000"),
        ([{"regex": "a", "length": 0}], r"prompts\.0\.length"),
        ([{"regex": "a", "length": 1, "weight": 0.0}], r"prompts\.0\.weight"),
        ([{"regex": "a", "length": 1, "weight": math.inf}], r"prompts\.0\.weight"),
        ([{"regex": "a", "length": 1, "wieght": 1.0}], r"unknown key 'prompts\.0\.wieght'; .*weight"),
        ([{"length": 1}], r"'prompts\.0\.regex' is missing"),
        ({"regex": "a", "length": 1}, "'prompts'"),
    ],
)
@pytest.mark.parametrize("keys", [ANBN, DYCK])
def test_faulty_prompts_are_refused_with_their_place(keys: dict[str, object], prompts: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(**keys, prompts=prompts)
