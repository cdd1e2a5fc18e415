from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from explicit_language import ExplicitLanguage, all_rows, explicit_anbn

from lmtest.errors import UsageError
from lmtest.languages.prompts import empty_prompt, prompts_of_length, split_heldout

MIXED = ExplicitLanguage(
    "abc",
    {"": 0.125, "ab": 0.25, "abc": 0.125, "cabba": 0.25, "cab": 0.25},
    {"starts": {"regex": "([ac].*)?"}, "few": {"count": "a <= 2"}, "ab": {"count": "a <= b"}},
)


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
