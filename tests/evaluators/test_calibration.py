"""Calibration by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmtest.evaluators.calibration import calibration_error, reliability


def test_the_error_is_the_weighted_gap_of_the_bins() -> None:
    confidence = np.array([0.1, 0.3, 0.35, 0.9, 1.0])
    accuracy = np.array([0.0, 1.0, 0.0, 1.0, 1.0])
    # Bins [0, .25), [.25, .5), [.5, .75), [.75, 1].
    expected = (1 * abs(0.0 - 0.1) + 2 * abs(0.5 - 0.325) + 2 * abs(1.0 - 0.95)) / 5
    assert calibration_error(confidence, accuracy, 4) == pytest.approx(expected, abs=1e-12)


def test_the_reliability_table_has_a_row_for_each_bin_that_holds_any() -> None:
    table = reliability(np.array([0.5, 0.6, 1.0, 0.0]), np.array([1.0, 0.0, 1.0, 0.0]), 2)
    assert table["lower"].to_list() == [0.0, 0.5]
    assert table["upper"].to_list() == [0.5, 1.0]
    assert table["count"].to_list() == [1, 3]
    assert table["confidence"].to_numpy() == pytest.approx([0.0, 0.7])
    assert table["accuracy"].to_numpy() == pytest.approx([0.0, 2 / 3])


def test_one_bin_compares_the_means() -> None:
    confidence, accuracy = np.array([0.2, 0.4, 0.9]), np.array([1.0, 1.0, 0.0])
    assert calibration_error(confidence, accuracy, 1) == pytest.approx(abs(2 / 3 - 0.5), abs=1e-12)


def test_nothing_has_no_error() -> None:
    assert math.isnan(calibration_error(np.empty(0), np.empty(0), 15))
    assert len(reliability(np.empty(0), np.empty(0), 15)) == 0


@given(st.integers(1, 40), st.integers(1, 100), st.integers(1, 30))
def test_who_is_right_as_often_as_sure_has_none(n_outputs: int, n: int, bins: int) -> None:
    sure = np.full(n, 1 / n_outputs)
    assert calibration_error(sure, sure, bins) == pytest.approx(0.0, abs=1e-12)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1), st.integers(1, 20))
def test_bins_hold_every_item_once_and_the_error_is_a_share(items: list[tuple[float, bool]], bins: int) -> None:
    confidence = np.array([c for c, _ in items])
    accuracy = np.array([float(a) for _, a in items])
    table = reliability(confidence, accuracy, bins)
    assert table["count"].sum() == len(items)
    assert (table["confidence"] >= table["lower"] - 1e-9).all()
    assert (table["confidence"] <= table["upper"] + 1e-9).all()
    assert abs(accuracy.mean() - confidence.mean()) - 1e-9 <= calibration_error(confidence, accuracy, bins) <= 1 + 1e-9
