"""Two runs side by side."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lmtest.claims import compare_runs


def measured(measure: str, values: list[float], **keys: Any) -> pd.DataFrame:
    common = {"study": "s", "language": "anbn", "model": "lstm", "variant": "normal", "evaluator": "rule_extrapolation"}
    columns = common | {"measure": measure, "prompt_set": "ood", "decoding": "greedy"} | keys
    return pd.DataFrame([columns | {"seed": seed, "value": value} for seed, value in enumerate(values)])


def test_what_both_runs_have_is_compared_over_seeds() -> None:
    a, b = [0.1, 0.2, 0.4], [0.5, 0.6, 0.9, 0.7]
    left = pd.concat([measured("R1", a), measured("R2", a), measured("R1", a, variant="oracle")])
    right = pd.concat([measured("grammatical", b), measured("R1", b)])
    table = compare_runs(left, right)
    assert len(table) == 1
    row = table.iloc[0]
    wanted = stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
    assert (row["left"], row["right"]) == pytest.approx((np.mean(a), np.mean(b)))
    assert (row["lower"], row["upper"]) == pytest.approx((wanted.low, wanted.high))
    assert row["difference"] == pytest.approx(np.mean(b) - np.mean(a))
    assert (row["left_seeds"], row["right_seeds"]) == (3, 4)


def test_a_run_equals_itself_and_ties_give_a_point() -> None:
    run = pd.concat([measured("R1", [0.3, 0.4]), measured("R2", [1.0] * 4)])
    table = compare_runs(run, run)
    assert table["measure"].tolist() == ["R1", "R2"]
    assert (table["difference"] == 0).all()
    assert table.loc[1, ["lower", "upper"]].tolist() == [0.0, 0.0]


def test_missing_values_are_left_out_and_never_zero() -> None:
    table = compare_runs(measured("R1_finished", [math.nan, 0.5, 0.7]), measured("R1_finished", [math.nan] * 2))
    row = table.iloc[0]
    assert (row["left"], row["left_seeds"], row["right_seeds"]) == (pytest.approx(0.6), 2, 0)
    assert row[["right", "difference", "lower", "upper"]].isna().all()


def test_nothing_in_common_is_an_empty_table_with_its_columns() -> None:
    table = compare_runs(measured("R1", [1.0]), pd.DataFrame())
    assert table.empty
    assert list(table.columns)[-3:] == ["upper", "left_seeds", "right_seeds"]


def test_languages_are_matched_by_name_unless_each_run_has_one() -> None:
    small, large = measured("R1", [0.1, 0.2], language="anbn_small"), measured("R1", [0.3, 0.5])
    assert compare_runs(small, large)["language"].tolist() == ["anbn_small"]
    assert compare_runs(pd.concat([small, large]), large)["language"].tolist() == ["anbn"]
