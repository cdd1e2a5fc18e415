"""One verdict for each published cell: each is reached, in its order, and the interval is Welch's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy import stats

from lmtest.claims import compare_published
from lmtest.claims.published import CANDIDATE_COLUMNS, TOLERANCE, welch_from_summaries
from lmtest.columns import PUBLISHED

SPECIFIED = (
    "language model variant measure prompt_set decoding label value spread seeds their_excess trivial ours ours_sd"
)
SPECIFIED += " ours_seeds ours_saturated difference lower upper verdict comment source note"
NAN = math.nan
CELL = {"language": "anbn", "model": "lstm", "variant": "normal", "measure": "R1_finished"}
CELL |= {"prompt_set": "ood", "decoding": "greedy"}
SATURATED = {"their_excess": 0.001, "their_excess_lower": 0.0, "epsilon": 0.01}
OURS = [0.50, 0.52, 0.48, 0.51]


def published(**keys: Any) -> pd.DataFrame:
    row = CELL | {"their_language": "anbn", "label": "lstm on anbn", "value": 0.5, "value_rounding": 0.0005}
    row |= {"spread": 0.02, "seeds": 8, **SATURATED, "trivial": 0.2, "source": "paper", "note": "n"} | keys
    return pd.DataFrame([row]).astype(CANDIDATE_COLUMNS)


def measured(values: list[float], **keys: Any) -> pd.DataFrame:
    common = CELL | {"study": "s", "evaluator": "rule_extrapolation"} | keys
    return pd.DataFrame([common | {"seed": seed, "value": value} for seed, value in enumerate(values)])


def certified(seeds: int, failed: int = 0) -> pd.DataFrame:
    common = {name: CELL[name] for name in ("language", "model", "variant")}
    return pd.DataFrame([common | {"seed": seed, "saturated": seed >= failed} for seed in range(seeds)])


def compared(rows: pd.DataFrame, values: list[float] = OURS, failed: int = 0, **keys: Any) -> pd.Series:
    table = compare_published(rows, measured(values, **keys), certified(len(values), failed))
    assert list(table.columns) == SPECIFIED.split() == list(PUBLISHED)
    assert len(table) == 1
    return table.iloc[0]


@given(
    some.tuples(some.floats(-1, 1), some.floats(0.01, 1), some.integers(2, 50)),
    some.tuples(some.floats(-1, 1), some.floats(0.01, 1), some.integers(2, 50)),
)
def test_an_end_of_the_interval_is_where_welchs_test_has_p_0_05(
    theirs: tuple[float, float, int], ours: tuple[float, float, int]
) -> None:
    found = welch_from_summaries(theirs, ours)
    assert found.effect == pytest.approx(ours[0] - theirs[0])
    for end in (found.lower, found.upper):
        p = stats.ttest_ind_from_stats(ours[0] - end, *ours[1:], *theirs, equal_var=False).pvalue
        assert p == pytest.approx(0.05, abs=1e-9)


def test_the_interval_from_summaries_is_that_of_the_samples() -> None:
    rng = np.random.default_rng(0)
    theirs, ours = rng.normal(0.4, 0.1, 11), rng.normal(0.6, 0.2, 5)
    row = compared(published(value=theirs.mean(), spread=theirs.std(ddof=1), seeds=11), ours.tolist())
    wanted = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    assert (row["lower"], row["upper"]) == pytest.approx((wanted.low, wanted.high))
    assert (row["ours"], row["ours_sd"]) == pytest.approx((ours.mean(), ours.std(ddof=1)))
    assert row["difference"] == pytest.approx(ours.mean() - theirs.mean())


def test_a_spread_of_an_unknown_number_of_runs_counts_as_an_error() -> None:
    found = welch_from_summaries((0.948, 0.112, NAN), (1.0, 0.0, 8))
    half = stats.norm.ppf(0.975) * 0.112
    assert (found.lower, found.upper) == pytest.approx((0.052 - half, 0.052 + half))


@pytest.mark.parametrize("unknown", [(0.5, NAN, 8.0), (0.5, NAN, NAN), (0.5, 0.1, 1.0), (0.5, 0.0, 8.0)])
def test_a_side_without_a_spread_leaves_the_others_own_interval(unknown: tuple[float, float, float]) -> None:
    half = stats.t.ppf(0.975, 3) * 0.2 / 2
    for found, effect in (
        (welch_from_summaries(unknown, (0.6, 0.2, 4)), 0.1),
        (welch_from_summaries((0.6, 0.2, 4), unknown), -0.1),
    ):
        assert (found.effect, found.lower, found.upper) == pytest.approx((effect, effect - half, effect + half))


def test_two_sides_that_do_not_vary_differ_by_a_point_and_none_known_has_no_interval() -> None:
    point = welch_from_summaries((0.5, 0.0, 3), (0.6, 0.0, 4))
    assert point.lower == point.effect == point.upper
    alone = welch_from_summaries((0.5, NAN, NAN), (0.6, NAN, 1))
    assert alone.effect == pytest.approx(0.1)
    assert math.isnan(alone.lower)
    assert math.isnan(alone.upper)


def test_what_agrees_is_reproduced_and_what_does_not_is_not() -> None:
    row = compared(published())
    assert (row["verdict"], row["comment"]) == ("reproduced", "")
    assert (row["ours_seeds"], row["ours_saturated"], row["seeds"], row["label"]) == (4, 4, 8, "lstm on anbn")
    assert compared(published(value=0.9))["verdict"] == "not reproduced"
    assert compared(published(value=0.3))["verdict"] == "not reproduced"


def test_the_interval_decides_and_its_end_may_touch_the_tolerance() -> None:
    wide = compared(published(value=0.6, spread=0.3))
    assert wide["verdict"] == "reproduced"
    assert "the difference is beyond 0.05, its interval is not" in wide["comment"]
    assert compared(published(value=0.55, spread=0.0), [0.5] * 4)["verdict"] == "reproduced"
    assert compared(published(value=0.45, spread=0.0), [0.5] * 4)["verdict"] == "reproduced"
    assert compared(published(value=0.551, spread=0.0), [0.5] * 4)["verdict"] == "not reproduced"
    assert TOLERANCE == 0.05


def test_a_loss_above_the_floor_beyond_its_spread_was_not_saturated() -> None:
    row = compared(published(their_excess=0.7, their_excess_lower=0.65))
    assert (row["verdict"], row["their_excess"]) == ("was not saturated", 0.7)
    assert row["comment"] == "ours agrees with it"
    assert (
        "ours differs from it" in compared(published(their_excess=0.7, their_excess_lower=0.65, value=0.9))["comment"]
    )


def test_a_loss_that_its_spread_explains_decides_nothing_and_says_so() -> None:
    for lower in (-0.1, 0.01):
        row = compared(published(their_excess=0.7, their_excess_lower=lower))
        assert row["verdict"] == "reproduced"
        assert row["comment"] == "their loss does not settle whether they were saturated"
    row = compared(published(their_excess=NAN, their_excess_lower=NAN))
    assert (row["verdict"], row["comment"]) == ("reproduced", "their loss is not known")


@pytest.mark.parametrize("trivial", [0.5, 0.7, 0.4996])
def test_a_value_that_is_not_above_a_trivial_policy_as_printed_is_below_it(trivial: float) -> None:
    row = compared(published(trivial=trivial))
    assert (row["verdict"], row["trivial"]) == ("was below a trivial policy", trivial)
    assert compared(published(trivial=0.499))["verdict"] == "reproduced"
    assert compared(published(trivial=NAN))["verdict"] == "reproduced"


def test_saturation_comes_before_the_trivial_policy_and_that_before_the_difference() -> None:
    poor = {"their_excess": 0.7, "their_excess_lower": 0.65}
    row = compared(published(trivial=0.7, **poor))
    assert row["verdict"] == "was not saturated"
    assert "not above a trivial policy (0.700) either" in row["comment"]
    assert compared(published(trivial=0.7, value=0.1))["verdict"] == "was below a trivial policy"
    unknown = published(trivial=0.7, their_excess=NAN, their_excess_lower=NAN)
    assert compared(unknown)["verdict"] == "was below a trivial policy"


def test_a_rule_on_the_completion_alone_is_not_judged_by_saying_nothing() -> None:
    rows = published(measure="R2_completion_finished", value=1.0, spread=NAN, trivial=1.0)
    row = compared(rows, [1.0] * 4, measure="R2_completion_finished")
    assert (row["verdict"], row["comment"]) == (
        "reproduced",
        "a trivial policy scores 1.000; their spread is not known: the interval is of our seeds alone",
    )


def test_our_seeds_without_a_value_are_left_out_and_told() -> None:
    row = compared(published(), [0.5, NAN, 0.52, NAN])
    assert (row["ours"], row["ours_seeds"], row["ours_saturated"]) == (pytest.approx(0.51), 2, 4)
    assert "2 of 4 of our seeds have no value: nothing finishes" in row["comment"]
    none = compared(published(), [NAN, NAN])
    assert (none["verdict"], none["ours_seeds"]) == ("not reproduced", 0)
    assert none[["ours", "ours_sd", "difference", "lower", "upper"]].isna().all()
    assert none["comment"] == "2 of 2 of our seeds have no value: nothing finishes"
    assert compared(published(trivial=0.7), [NAN])["verdict"] == "was below a trivial policy"


def test_one_seed_without_a_published_spread_is_judged_by_the_difference_itself() -> None:
    row = compared(published(spread=NAN), [0.54])
    assert row["verdict"] == "reproduced"
    assert "no interval: neither side has a spread" in row["comment"]
    assert compared(published(spread=NAN), [0.56])["verdict"] == "not reproduced"


def test_unsaturated_seeds_of_ours_and_another_language_are_told() -> None:
    comment = compared(published(their_language="anbn_long"), failed=3)["comment"]
    assert comment == "only 1 of 4 of our seeds are saturated; ours is anbn, theirs anbn_long"


def test_what_we_have_not_measured_is_left_out() -> None:
    rows = pd.concat([published(), published(decoding="sampled"), published(model="mamba"), published()])
    table = compare_published(rows, measured(OURS), certified(4))
    assert table["decoding"].tolist() == ["greedy", "greedy"]
    for empty in (
        compare_published(published(), pd.DataFrame(), pd.DataFrame()),
        compare_published(rows[:0], measured(OURS), certified(4)),
    ):
        assert empty.empty
        assert empty.dtypes.astype(str).to_dict() == table.dtypes.astype(str).to_dict()


def test_people_stand_beside_ours_and_are_compared_with_nobody() -> None:
    rows = pd.concat([published(model="people"), published(model="people", value=0.1)])
    table = compare_published(rows, measured(OURS), certified(4))
    assert table["model"].tolist() == ["people", "people"]
    assert table["verdict"].tolist() == ["", ""]
    assert table[["ours", "difference", "lower", "upper"]].isna().all(axis=None)
    assert table["comment"].tolist() == ["", "not above a trivial policy"]


def test_a_wide_interval_that_reproduces_is_told() -> None:
    wide, narrow = compared(published(spread=0.5)), compared(published())
    assert wide["verdict"] == narrow["verdict"] == "reproduced"
    assert "little could have contradicted" in wide["comment"]
    assert "contradicted" not in narrow["comment"]
