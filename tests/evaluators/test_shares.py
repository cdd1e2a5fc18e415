"""Which measures are shares: every name that an evaluator gives is on one side or the other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lmtest.evaluators import flatness
from lmtest.evaluators.contract import UNBOUNDED, is_share
from lmtest.evaluators.registry import measured
from lmtest.study import load_study
from lmtest.variants import rows

RUNS = Path(__file__).parents[2] / "runs"
STEPS = {"steps_to_threshold", "log_steps_to_threshold", "chosen_rate"}
NATS = {"excess", "cross_entropy", "forgetting"}
SHARES = ["mass", "finish_rate", "grammatical", "accuracy", "exact_match", "reached", "rate_at_edge", "majority_rate"]
SHARES += ["label_probability", "calibration_error", "order_range"]


@pytest.mark.parametrize("name", ["rule_extrapolation", "rule_extrapolation_languages", "in_context", "fine_tuning"])
def test_every_measure_of_the_shipped_studies_is_known_to_be_a_share_or_not(name: str) -> None:
    study, languages = load_study(RUNS / f"{name}.toml")
    for language in languages.values():
        for measure in {measure for measure, _, _ in measured(study.evaluators.build(language)).values}:
            no_share = {*STEPS, *NATS, "gain", *flatness.EXACT, *flatness.PROBED}
            assert is_share(measure) == (re.sub(r"_at_\d+", "", measure) not in no_share), measure
            # Rules have names of their own; what is measured of them begins with those.
            assert not is_share(measure) or measure.startswith((*SHARES, *language.rules)), f"is {measure} a share?"


def test_curvatures_losses_and_costs_are_no_shares() -> None:
    names = {*flatness.EXACT, *flatness.PROBED, rows.ADDED, rows.DIFFERENCE, rows.DIFFERENCE_FLOAT64, "kl"}
    assert names <= UNBOUNDED
    assert not any(is_share(name) for name in names)
    assert is_share("accuracy_at_150")
    assert not is_share("excess_at_150")
    assert is_share("a_rule_of_a_language_file")
