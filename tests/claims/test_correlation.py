"""Claims that one measure predicts another across groups: Spearman's ρ of each seed, its test, and every reason to abstain."""

from __future__ import annotations

import math
import tomllib
from itertools import permutations, product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from pydantic import TypeAdapter, ValidationError
from scipy import stats

from lmtest.claims import Claim, Correlation, Evaluated, attainability, bounded, check_claims, judge
from lmtest.claims import statistics as st
from lmtest.claims.attainability import smallest_p
from lmtest.errors import UsageError
from lmtest.validation import Table, validate

TOML = """
[[claims]]
id = "fine_tuning/flatter_transfers_better"
kind = "correlation"
statement = "The flatter model needs fewer steps."
model = "transformer"
variants = ["normal", "wide", "longer", "other"]
predictor = { measure = "gn_trace", prompt_set = "support", decoding = "exact" }
measure = "log_steps_to_threshold"
prompt_set = "anbnan.full.all"
decoding = "exact"
direction = "rising"
"""
[STATED] = tomllib.loads(TOML)["claims"]
VARIANTS = STATED["variants"]
PREDICTOR, OUTCOME = "gn_trace on support (exact)", "log_steps_to_threshold on anbnan.full.all (exact)"
SEEDS = 8

Values = np.ndarray
"""Of groups and seeds."""


def correlation(**keys: Any) -> Correlation:
    found = TypeAdapter(Claim).validate_python({k: v for k, v in (STATED | keys).items() if v is not None})
    assert isinstance(found, Correlation)
    return found


def rising(seeds: int = SEEDS) -> tuple[Values, Values]:
    """Predictors and outcomes in the same order in every seed, on scales that seeds do not share."""
    base, scale = np.array([3.0, 1.0, 4.0, 2.0])[:, None], np.arange(1, seeds + 1)
    return base * scale, np.exp(base) + scale


def rows(values: Values, of: str, variants: list[str], model: str = "transformer") -> list[dict[str, Any]]:
    measure, _, where, how = of.split()
    quantity = {"measure": measure, "prompt_set": where, "decoding": how[1:-1]}
    common = {"study": "s", "language": "anbn", "model": model, "chance": math.nan, "saturated": True}
    return [
        common | quantity | {"variant": variants[group], "seed": seed, "value": float(value)}
        for (group, seed), value in np.ndenumerate(values)
    ]


def tables(predictors: Values, outcomes: Values) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measurements and certificates; rows of other quantities, and the order of rows, must not enter."""
    variants = VARIANTS[: len(outcomes)]
    found = rows(predictors, PREDICTOR, variants) + rows(outcomes, OUTCOME, variants)
    found += rows(-outcomes, PREDICTOR.replace("exact", "probes"), variants)
    found += rows(-outcomes, OUTCOME.replace("full", "last"), variants)
    measurements = pd.DataFrame(found).sample(frac=1, random_state=0)
    seeds = range(outcomes.shape[1])
    certificates = [
        {"language": "anbn", "model": "transformer", "variant": v, "seed": s, "kl": 0.01 * s, "saturated": True}
        for v in variants
        for s in seeds
    ]
    return measurements, pd.DataFrame(certificates)


def verdict(claim: Claim, measurements: pd.DataFrame, certificates: pd.DataFrame, asked: int = SEEDS) -> pd.Series:
    return judge([claim], measurements, certificates, pd.DataFrame(), asked, 0.75).iloc[0]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    some.integers(3, 7).flatmap(
        lambda groups: some.lists(
            some.lists(some.integers(0, 4), min_size=groups, max_size=groups), min_size=2, max_size=2
        )
    )
)
def test_each_seed_has_scipys_rank_correlation_with_ties(pair: list[list[int]]) -> None:
    x, y = (np.array(values, dtype=np.float64)[:, None] for values in pair)
    # A second seed on other scales, with the order of the predictor reversed.
    predictors, outcomes = np.hstack([x, -0.1 * x]), np.hstack([y, np.exp(y)])
    found = st.rank_correlations(list(predictors), list(outcomes))
    if len({*pair[0]}) == 1 or len({*pair[1]}) == 1:
        assert np.isnan(found).all()
        assert (st.all_tied(list(predictors)) | st.all_tied(list(outcomes))).all()
        return
    wanted = [stats.spearmanr(predictors[:, i], outcomes[:, i]).statistic for i in (0, 1)]
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    assert found[1] == -found[0]
    assert not st.all_tied(list(predictors)).any()


def test_values_that_only_rounding_tells_apart_are_tied() -> None:
    rounded = np.array([0.1 + 0.2, 0.3, 1.0, 2.0])[:, None]
    outcomes = np.array([1.0, 2.0, 3.0, 4.0])[:, None]
    wanted = stats.spearmanr([0.3, 0.3, 1.0, 2.0], outcomes[:, 0]).statistic
    assert st.rank_correlations(list(rounded), list(outcomes)) == pytest.approx(wanted, abs=1e-12)
    assert st.all_tied(list(rounded[:2])).all()


@pytest.mark.parametrize("outcome", [[1.0, 2.0, 3.0], [1.0, 1.0, 2.0]])
def test_outcomes_in_random_order_are_rejected_at_most_as_often_as_the_level(outcome: list[float]) -> None:
    predictor, seeds = [np.full(1, x) for x in (1.0, 5.0, 9.0)], 4
    # Every order of the outcomes is as likely as any other, in each seed: go through all of them.
    of_order = [st.rank_correlations(predictor, [np.full(1, y) for y in order])[0] for order in permutations(outcome)]
    p = np.array([st.positive(np.array(rhos)) for rhos in product(of_order, repeat=seeds)])
    assert len(p) == 6**seeds
    assert all((p <= level).mean() <= level + 1e-12 for level in p)
    assert p.min() == 1 / 2**seeds


@pytest.mark.parametrize(
    ("keys", "factor", "wanted", "effect", "p_raw"),
    [
        ({}, 1, "supported", 1.0, 1 / 256),
        ({}, -1, "refuted", -1.0, 1.0),
        ({"direction": "falling"}, -1, "supported", 1.0, 1 / 256),
        ({"direction": "falling"}, 1, "refuted", -1.0, 1.0),
        ({"margin": 0.2}, 1, "supported", 1.0, 0.6**8),
        ({"margin": 0.5}, 1, "undecided", 1.0, 0.75**8),
    ],
)
def test_the_correlation_is_positive_on_the_claimed_side(
    keys: dict[str, Any], factor: int, wanted: str, effect: float, p_raw: float
) -> None:
    predictors, outcomes = rising()
    row = verdict(correlation(**keys), *tables(predictors, factor * outcomes))
    # All seeds tie at the end of the range of ρ: the ninth might not.
    near, far = sorted([effect, effect * (2 * 0.025 ** (1 / 8) - 1)])
    assert (row["verdict"], row["effect"]) == (wanted, effect)
    assert row[["lower", "upper"]].tolist() == pytest.approx([near, far])
    assert row["p_raw"] == pytest.approx(p_raw, rel=1e-9)
    assert (row["seeds_used"], row["seeds_asked"]) == (8, 8)
    assert row["test"].startswith("exact sign-flip of Spearman's ρ, one-sided; where seeds tie")
    assert row["note"] == ""


@pytest.mark.parametrize("margin", [0.0, 0.4])
def test_a_verdict_is_that_of_the_seeds_correlations(margin: float) -> None:
    rng = np.random.default_rng(2)
    predictors, _ = rising()
    outcomes = predictors + 2 * rng.normal(size=predictors.shape) * np.arange(1, SEEDS + 1)
    rhos = np.array([stats.spearmanr(predictors[:, i], outcomes[:, i]).statistic for i in range(SEEDS)])
    row = verdict(correlation(margin=margin), *tables(predictors, outcomes))
    half = stats.t.ppf(0.975, SEEDS - 1) * rhos.std(ddof=1) / math.sqrt(SEEDS)
    assert not bounded.tied(rhos)
    assert row[["effect", "lower", "upper"]].tolist() == pytest.approx(
        [rhos.mean(), rhos.mean() - half, rhos.mean() + half]
    )
    flips = np.array(list(product([-1, 1], repeat=SEEDS))) @ (rhos - margin)
    assert row["p_raw"] == pytest.approx((flips >= (rhos - margin).sum() - 1e-9).mean())


def test_seeds_of_one_correlation_refute_only_margins_that_are_far_above_it() -> None:
    # Ranks 1 2 3 4 and 2 1 4 3: ρ = 1 − 6 · 4 / 60 = 0.6.
    predictors = np.tile(np.array([1.0, 2.0, 3.0, 4.0])[:, None], SEEDS)
    measured = tables(predictors, predictors[[1, 0, 3, 2]])
    for margin, wanted in ((0.0, "supported"), (0.59, "undecided"), (0.6, "undecided"), (0.9, "refuted")):
        row = verdict(correlation(margin=margin), *measured)
        assert (row["verdict"], row["effect"]) == (wanted, pytest.approx(0.6))
        assert (row["p_raw"] == 1.0) == (margin >= 0.6)
        assert row["lower"] < 0.6 < row["upper"] < 0.9  # eight seeds agree, and a ninth need not


@pytest.mark.parametrize("which", ["predictor", "outcome"])
def test_a_seed_in_which_nothing_varies_leaves_the_verdict_open(which: str) -> None:
    predictors, outcomes = rising()
    constant, quantity = (predictors, PREDICTOR) if which == "predictor" else (outcomes, OUTCOME)
    constant[:, [2, 5]] = 0.7
    row = verdict(correlation(), *tables(predictors, outcomes))
    assert (row["verdict"], row["seeds_used"]) == ("undecided", 8)
    assert row["note"] == f"no correlation at seed 2, 5: {quantity} is the same in every group"
    assert row[["effect", "lower", "upper", "p_value", "p_raw"]].isna().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_no_number_leaves_the_verdict_open(bad: float) -> None:
    for which, quantity in ((0, PREDICTOR), (1, OUTCOME)):
        measured = rising()
        measured[which][1, 3] = bad
        row = verdict(correlation(), *tables(*measured))
        assert (row["verdict"], row["seeds_used"], math.isnan(row["effect"])) == ("undecided", 7, True)
        assert row["note"] == f"{quantity} of wide is no finite number at seed 3"


def test_a_seed_that_a_group_lacks_leaves_the_verdict_open_and_the_others_paired() -> None:
    measurements, certificates = tables(*rising())
    of_wide = (measurements["variant"] == "wide") & (measurements["seed"] == 3)
    row = verdict(correlation(), measurements[~of_wide], certificates)
    assert (row["verdict"], row["seeds_used"], row["effect"], row["p_raw"]) == ("undecided", 7, 1.0, 1 / 128)
    assert row["note"] == "only 7 of 8 seeds of wide are there; no pairs at seed 3: not in every group"
    # A predictor without its outcome is no seed; an outcome without its predictor is one that cannot be correlated.
    outcome = measurements["measure"] == "log_steps_to_threshold"
    assert verdict(correlation(), measurements[~(of_wide & outcome)], certificates)["note"] == row["note"]
    row = verdict(correlation(), measurements[~(of_wide & ~outcome)], certificates)
    assert row["note"] == f"{PREDICTOR} of wide is no finite number at seed 3"
    row = verdict(correlation(), measurements[measurements["variant"] != "wide"], certificates)
    assert (row["verdict"], row["seeds_used"], math.isnan(row["p_raw"])) == ("undecided", 0, True)


def test_several_predictors_a_seed_are_ambiguous() -> None:
    measurements, certificates = tables(*rising())
    twice = pd.concat([measurements, measurements[measurements["measure"] == "gn_trace"]])
    row = verdict(correlation(), twice, certificates)
    assert row["verdict"] == "undecided"
    assert row["note"].startswith(f"expected one row a seed, found several of {PREDICTOR} of normal")


def test_too_few_saturated_seeds_leave_the_verdict_open() -> None:
    measurements, certificates = tables(*rising())
    failed = (certificates["variant"] == "longer") & (certificates["seed"] < 3)
    row = verdict(correlation(), measurements, certificates.assign(saturated=~failed))
    assert (row["verdict"], row["effect"], row["p_raw"]) == ("undecided", 1.0, 1 / 256)
    assert row["note"] == "only 5 of 8 seeds of longer are saturated"


def test_one_seed_gives_an_effect_and_no_verdict() -> None:
    row = verdict(correlation(), *tables(*rising(1)), asked=1)
    assert (row["verdict"], row["effect"], math.isnan(row["lower"])) == ("undecided", 1.0, True)


def test_the_loss_may_predict() -> None:
    _, outcomes = rising()
    measurements, certificates = tables(outcomes, outcomes)
    rank = certificates["variant"].map({"normal": 3.0, "wide": 1.0, "longer": 4.0, "other": 2.0})
    row = verdict(correlation(predictor={"measure": "kl"}), measurements, certificates.assign(kl=rank))
    assert (row["verdict"], row["effect"]) == ("supported", 1.0)
    row = verdict(correlation(predictor={"measure": "kl"}), measurements, certificates)
    assert row["note"] == "no correlation at seed 0, 1, 2, 3, 4, 5, 6, 7: KL is the same in every group"


def test_models_are_correlated_across_in_one_variant() -> None:
    predictors, outcomes = rising()
    names = ["small", "large", "deep", "lstm"]
    found = [
        row
        for i, name in enumerate(names)
        for values, of in ((predictors, PREDICTOR), (outcomes, OUTCOME))
        for row in rows(values[[i]], of, ["normal"], name)
    ]
    _, certificates = tables(predictors, outcomes)
    certificates = certificates.assign(
        model=certificates["variant"].map(dict(zip(VARIANTS, names, strict=True))), variant="normal"
    )
    claim = correlation(variants=None, model=None, models=names)
    assert verdict(claim, pd.DataFrame(found), certificates)["verdict"] == "supported"


def test_a_correlation_is_read_from_toml_and_survives_json() -> None:
    claim = correlation()
    assert claim.is_paired
    assert [group.name for group in claim.groups] == VARIANTS
    assert [str(quantity) for quantity in claim.quantities(claim.groups[0])] == [OUTCOME, PREDICTOR]
    reader: TypeAdapter[Claim] = TypeAdapter(Claim)
    assert reader.validate_json(claim.model_dump_json()) == claim
    assert reader.validate_python(claim.model_dump(mode="json", exclude_none=True)) == claim
    assert correlation(direction=None).direction == "rising"
    assert correlation(predictor={"measure": "R1", "prompt_set": "ood"}).predictor.decoding == "greedy"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"variants": ["a", "b"]}, "at least 3 variants .models. to correlate across, found 2"),
        ({"variants": ["a", "b", "b"]}, "distinct"),
        ({"variants": None, "prompt_sets": ["a", "b", "c"], "prompt_set": None}, "there is nothing to correlate"),
        ({"models": ["a", "b", "c"]}, "either variants"),
        ({"predictor": None}, "Field required"),
        ({"predictor": "gn_trace"}, "valid dictionary"),
        ({"predictor": {"measure": "gn_trace"}}, "'gn_trace' needs a prompt_set, such as 'support'"),
        ({"predictor": {"measure": "kl", "prompt_set": "id"}}, "'kl' is a certificate and has no prompt_set"),
        (
            {"predictor": {k: STATED[k] for k in ("measure", "prompt_set", "decoding")}},
            "other than the outcome, found log_",
        ),
        ({"measure": "kl", "prompt_set": None, "predictor": {"measure": "kl"}}, "found KL as both"),
        ({"direction": "above"}, "'rising' or 'falling'"),
        ({"margin": -0.1}, "greater than or equal to 0"),
        ({"margin": 1.0}, "less than 1"),
        ({"margin": "0.1"}, "valid number"),
        ({"paired": True}, "Extra inputs"),
    ],
)
def test_a_malformed_correlation_is_refused_with_its_reason(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        correlation(**keys)


def test_a_wrong_key_of_the_predictor_names_the_nearest() -> None:
    class File(Table):
        claims: list[Claim]

    wrong = STATED | {"predictor": {"measure": "gn_trace", "promt_set": "support"}}
    with pytest.raises(UsageError, match=r"unknown key 'claims.0.predictor.promt_set'; did you mean 'prompt_set'"):
        validate(File, {"claims": [wrong]}, "study.toml")


def test_a_predictor_that_nobody_evaluates_is_refused_with_a_hint() -> None:
    values = [("log_steps_to_threshold", "anbnan.full.all", "exact"), ("gn_trace", "support", "exact")]
    known = {"anbn": Evaluated([*values, ("trace_residual", "support", "probes")], [])}

    def check(**predictor: str) -> None:
        check_claims([correlation(predictor=STATED["predictor"] | predictor)], ["transformer"], VARIANTS, known)

    check()
    check_claims([correlation(predictor={"measure": "kl"})], ["transformer"], VARIANTS, known)
    for wrong, message in (
        ({"measure": "gn_trase"}, "unknown measure 'gn_trase'; did you mean 'gn_trace'"),
        ({"prompt_set": "suport"}, "unknown prompt_set 'suport'; did you mean 'support'"),
        ({"decoding": "greedy"}, "unknown decoding 'greedy'"),
        ({"decoding": "probes"}, r"gn_trace is not measured on support \(probes\), only on support \(exact\)"),
    ):
        with pytest.raises(UsageError, match=message):
            check(**wrong)
    misspelt = correlation(measure="log_steps_to_treshold")
    with pytest.raises(UsageError, match="unknown measure 'log_steps_to_treshold'; did you mean 'log_steps_to_thr"):
        check_claims([misspelt], ["transformer"], VARIANTS, known)
    with pytest.raises(UsageError, match="unknown variant 'other'"):
        check_claims([correlation()], ["transformer"], VARIANTS[:3], known)


def test_eight_seeds_can_support_a_correlation_at_one_in_256() -> None:
    assert smallest_p(correlation(), 8) == 1 / 256
    table = attainability([correlation()], 8)
    assert list(table.loc[0]) == ["fine_tuning/flatter_transfers_better", "correlation", 1 / 256, True, 5]
    assert not attainability([correlation()], 4).loc[0, "attainable"]
