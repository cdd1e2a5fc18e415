"""Verdicts: from tables made by hand to supported, refuted or undecided, with every reason to abstain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom
from statsmodels.stats.proportion import proportion_confint

from lmtest.claims import (
    Claim,
    Difference,
    Equivalence,
    Heterogeneity,
    Order,
    Threshold,
    Trend,
    judge,
)
from lmtest.claims import statistics as st
from lmtest.columns import VERDICTS
from lmtest.errors import UsageError

DESIGN_COLUMNS = ["claim", "statement", "verdict", "effect", "lower", "upper", "p_value"]
DESIGN_COLUMNS += ["seeds_used", "seeds_asked", "published", "source"]
ON = {"statement": "It holds.", "measure": "R1", "prompt_set": "ood"}
LOW = [0.1, 0.12, 0.14, 0.11, 0.13, 0.15, 0.16, 0.1]
MIDDLE = [0.4, 0.42, 0.44, 0.41, 0.43, 0.45, 0.46, 0.4]
HIGH = [0.8, 0.82, 0.84, 0.81, 0.83, 0.85, 0.86, 0.8]
GUARD = "; where seeds tie, guarded by Gaffke's bound"
ONES, ZEROS, TWO_VALUES = [1.0] * 8, [0.0] * 8, [1.0] * 7 + [0.5]

Samples = dict[str, list[float]]


def equivalence(margin: float, *variants: str) -> Equivalence:
    return Equivalence(
        id="s/equal", kind="equivalence", variants=list(variants), margin=margin, statement="Equal.", measure="kl"
    )


def order(*variants: str, **keys: Any) -> Order:
    return Order(kind="order", variants=list(variants), **{"id": "s/order"} | ON | keys)


def difference(*variants: str, margin: float = 0.0) -> Difference:
    return Difference(id="s/difference", kind="difference", variants=list(variants), margin=margin, **ON)


def threshold(*variants: str, **keys: Any) -> Threshold:
    return Threshold(kind="threshold", variants=list(variants), **{"id": "s/threshold"} | ON | keys)


def on_sets(kind: type[Claim], *prompt_sets: str, **keys: Any) -> Any:
    common = {"id": "s/sets", "statement": "It holds.", "measure": "R1", "kind": kind.__name__.lower()}
    return kind(**common | {"prompt_sets": list(prompt_sets)} | keys)


def heterogeneity(margin: float = 0.0) -> Heterogeneity:
    return Heterogeneity(id="s/seeds", kind="heterogeneity", variant="normal", margin=margin, **ON)


def measured(samples: Samples, chance: float = 0.2, references: dict[str, float] | None = None) -> pd.DataFrame:
    common = {"study": "s", "language": "anbn", "evaluator": "rule_extrapolation", "measure": "R1"}
    common |= {"prompt_set": "ood", "decoding": "greedy"}
    rows = [
        {"model": "lstm", "variant": variant, "seed": seed, "value": value, "chance": chance, "saturated": True}
        for variant, values in samples.items()
        for seed, value in enumerate(values)
    ] + [
        {"model": name, "variant": "reference", "seed": 0, "value": value, "chance": chance, "saturated": False}
        for name, value in (references or {}).items()
    ]
    # Rows of other measures, prompts and decodings must not enter.
    others = [{"measure": "R2_completion"}, {"prompt_set": "id"}, {"decoding": "sample"}]
    noise = [common | row | other | {"value": 0.5} for row in rows for other in others]
    return pd.DataFrame([common | row for row in rows] + noise)


def certified(samples: Samples, unsaturated: dict[str, int] | None = None) -> pd.DataFrame:
    failed = unsaturated or {}
    rows = [
        {"model": "lstm", "variant": variant, "seed": seed, "kl": value, "saturated": seed >= failed.get(variant, 0)}
        for variant, values in samples.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame([{"study": "s", "language": "anbn"} | row for row in rows])


def completed(outcomes: np.ndarray, dtype: str = "bool") -> pd.DataFrame:
    """Outcomes [prompts, seeds] → the completions of `normal`."""
    common = {"study": "s", "language": "anbn", "model": "lstm", "variant": "normal"}
    common |= {"prompt_set": "ood", "decoding": "greedy"}
    rows = [
        common | {"seed": seed, "prompt": "ab" * prompt, "replicate": replicate, "R1": True if replicate else outcome}
        for (prompt, seed), outcome in np.ndenumerate(outcomes)
        for replicate in (0, 1)
    ]
    return pd.DataFrame(rows).astype({"R1": dtype})


def verdict(claim: Claim, samples: Samples, asked: int = 8, **keys: Any) -> pd.Series:
    tables = {"measurements": measured(samples), "certificates": certified(samples), "completions": pd.DataFrame()}
    return judge([claim], **tables | keys, seeds_asked=asked, required_saturated=0.75).iloc[0]


def test_the_table_has_the_designs_columns_first_whatever_the_claims() -> None:
    for claims in ([], [order("low", "high")]):
        table = judge(claims, measured({"low": LOW, "high": HIGH}), pd.DataFrame(), pd.DataFrame(), 8, 0.75)
        assert list(table.columns) == [*DESIGN_COLUMNS, "p_raw", "test", "note"]
        assert {name: str(dtype) for name, dtype in table.dtypes.items()} == VERDICTS


@pytest.mark.parametrize(
    ("claim", "samples", "wanted", "effect"),
    [
        (equivalence(0.5, "low", "middle"), {"low": LOW, "middle": MIDDLE}, "supported", 0.3),
        (equivalence(0.2, "low", "middle"), {"low": LOW, "middle": MIDDLE}, "refuted", 0.3),
        (equivalence(0.3, "low", "middle"), {"low": LOW, "middle": MIDDLE}, "undecided", 0.3),
        (equivalence(0.5, "low", "middle", "high"), {"low": LOW, "middle": MIDDLE, "high": HIGH}, "refuted", 0.7),
        (equivalence(0.1, "a", "b"), {"a": ZEROS, "b": ZEROS}, "supported", 0.0),
        (equivalence(0.1, "a", "b"), {"a": ONES, "b": ZEROS}, "refuted", -1.0),
        (equivalence(1.0, "a", "b"), {"a": ONES, "b": ZEROS}, "undecided", -1.0),
        (order("low", "middle", "high"), {"low": LOW, "middle": MIDDLE, "high": HIGH}, "supported", 0.3),
        (order("low", "high", "middle"), {"low": LOW, "middle": MIDDLE, "high": HIGH}, "refuted", -0.4),
        (order("low", "middle", margin=0.31), {"low": LOW, "middle": MIDDLE}, "undecided", 0.3),
        (order("low", "middle", margin=0.35), {"low": LOW, "middle": MIDDLE}, "refuted", 0.3),
        (order("a", "b"), {"a": ZEROS, "b": ONES}, "supported", 1.0),
        (order("a", "b"), {"a": ONES, "b": ONES}, "undecided", 0.0),
        (order("a", "b"), {"a": ONES, "b": ZEROS}, "refuted", -1.0),
        (order("a", "b"), {"a": TWO_VALUES, "b": ONES}, "undecided", 0.0625),
        (difference("high", "low"), {"low": LOW, "high": HIGH}, "supported", -0.7),
        (difference("a", "b"), {"a": ONES, "b": ONES}, "undecided", 0.0),
        (difference("low", "middle", margin=0.2), {"low": LOW, "middle": MIDDLE}, "supported", 0.3),
        (difference("low", "middle", margin=0.4), {"low": LOW, "middle": MIDDLE}, "refuted", 0.3),
        (difference("a", "b", margin=0.1), {"a": ONES, "b": ONES}, "undecided", 0.0),
        (difference("a", "b", margin=0.6), {"a": ONES, "b": ONES}, "refuted", 0.0),
        (threshold("middle", bound=0.2), {"middle": MIDDLE}, "supported", 0.22625),
        (threshold("middle", bound=0.8), {"middle": MIDDLE}, "refuted", -0.37375),
        (threshold("middle", bound=0.8, direction="below"), {"middle": MIDDLE}, "supported", 0.37375),
        (threshold("low", "middle", bound=0.3), {"low": LOW, "middle": MIDDLE}, "refuted", -0.17375),
        (threshold("a", bound=0.9), {"a": ONES}, "undecided", 0.1),
        (threshold("a", bound=0.6), {"a": ONES}, "supported", 0.4),
        (threshold("a", bound=1.0), {"a": ONES}, "refuted", 0.0),
        (threshold("a", bound=0.0), {"a": ZEROS}, "undecided", 0.0),
        (threshold("a", bound=0.4), {"a": ZEROS}, "refuted", -0.4),
        (threshold("a", bound=0.9), {"a": TWO_VALUES}, "undecided", 0.0375),
        (threshold("low", baseline="chance"), {"low": LOW}, "refuted", -0.07375),
        (threshold("middle", baseline="chance"), {"middle": MIDDLE}, "supported", 0.22625),
    ],
)
def test_verdicts_follow_from_the_interval_and_the_claimed_region(
    claim: Claim, samples: Samples, wanted: str, effect: float
) -> None:
    row = verdict(claim, samples)
    assert row["verdict"] == wanted
    assert row["effect"] == pytest.approx(effect)
    assert row["lower"] <= row["effect"] <= row["upper"]
    assert (row["seeds_used"], row["seeds_asked"]) == (8, 8)


def test_a_refuting_pair_is_reported_even_where_another_has_the_smaller_effect() -> None:
    wide = [-1.0, 0.9, -1.1, 0.9, -1.1, 0.9, -1.0, 0.9]
    row = verdict(order("a", "wide", "b", "c"), {"a": ZEROS, "wide": wide, "b": ONES, "c": ONES})
    # No shares, with those values: their ties are taken at face value.
    assert (row["verdict"], row["effect"]) == ("refuted", 0.0)
    assert row["note"] == "the effect is that of c − b"


def test_a_baseline_is_the_reference_models_value_and_needs_no_saturation() -> None:
    table = measured({"middle": MIDDLE}, references={"stop": 0.275, "uniform": 0.9, "language": math.nan})
    above = verdict(threshold("middle", baseline="stop"), {"middle": MIDDLE}, measurements=table)
    assert (above["verdict"], above["p_raw"]) == ("supported", 1 / 256)
    assert above["effect"] == pytest.approx(np.mean(MIDDLE) - 0.275)
    assert above["note"] == ""
    below = verdict(threshold("middle", baseline="uniform"), {"middle": MIDDLE}, measurements=table)
    assert below["verdict"] == "refuted"
    for name in ("language", "rule_keeper"):
        row = verdict(threshold("middle", baseline=name), {"middle": MIDDLE}, measurements=table)
        assert row["verdict"] == "undecided"
        assert row["note"] == f"no finite value of the reference model {name} for R1 on ood (greedy)"
        assert (row["seeds_used"], math.isnan(row["effect"])) == (8, True)


def test_too_few_saturated_seeds_leave_every_verdict_open() -> None:
    samples = {"low": LOW, "high": HIGH}
    for claim in (order("low", "high"), order("high", "low"), threshold("low", bound=0.0)):
        enough = verdict(claim, samples, certificates=certified(samples, {"low": 2}))
        assert enough["verdict"] != "undecided"
        assert enough["seeds_used"] == 8
        short = verdict(claim, samples, certificates=certified(samples, {"low": 5}))
        assert short["verdict"] == "undecided"
        assert short["note"] == "only 3 of 8 seeds of low are saturated"
        assert short["effect"] == enough["effect"]


def test_a_missing_seed_or_group_leaves_the_verdict_open() -> None:
    row = verdict(order("low", "high"), {"low": LOW, "high": HIGH[:7]})
    assert (row["verdict"], row["seeds_used"]) == ("undecided", 7)
    assert row["note"] == "only 7 of 8 seeds of high are there"
    assert row["p_raw"] <= 0.001
    row = verdict(order("low", "high"), {"low": LOW})
    assert (row["verdict"], row["seeds_used"], math.isnan(row["p_value"])) == ("undecided", 0, True)
    row = verdict(order("low", "high"), {})
    assert (row["verdict"], row["seeds_used"]) == ("undecided", 0)


def test_a_value_that_is_no_number_leaves_the_verdict_open() -> None:
    for bad in (math.nan, math.inf):
        row = verdict(order("low", "high"), {"low": LOW, "high": [*HIGH[:7], bad]})
        assert (row["verdict"], row["seeds_used"]) == ("undecided", 7)
        assert row["note"] == "R1 on ood (greedy) of high is no finite number at seed 7"
        assert row[["effect", "lower", "upper", "p_value", "p_raw"]].isna().all()
    table = measured({"low": LOW}, chance=math.nan)
    row = verdict(threshold("low", baseline="chance"), {"low": LOW}, measurements=table)
    assert row["note"].startswith("chance on R1 on ood (greedy) of low is no finite number at seed 0, 1")


def test_one_seed_gives_an_effect_and_no_verdict() -> None:
    samples = {"low": LOW[:1], "high": HIGH[:1]}
    for claim in (order("low", "high"), equivalence(0.1, "low", "high"), threshold("low", bound=0.0)):
        row = verdict(claim, samples, asked=1)
        assert (row["verdict"], row["note"]) == ("undecided", "")
        assert math.isfinite(row["effect"])
        assert math.isnan(row["lower"])


def test_several_rows_a_seed_are_ambiguous() -> None:
    table = pd.concat([measured({"low": LOW, "high": HIGH}), measured({"low": LOW}).assign(evaluator="other")])
    row = verdict(order("low", "high"), {"low": LOW, "high": HIGH}, measurements=table)
    assert row["verdict"] == "undecided"
    assert "expected one row a seed" in row["note"]


def test_a_model_must_be_named_where_there_are_several() -> None:
    samples = {"low": LOW, "high": HIGH}
    table = pd.concat([measured(samples), measured(samples).assign(model="mamba")])
    with pytest.raises(UsageError, match="name one of them"):
        verdict(order("low", "high"), samples, measurements=table)
    assert verdict(order("low", "high", model="lstm"), samples, measurements=table)["verdict"] == "supported"


def spread_outcomes(rates: Sequence[float]) -> np.ndarray:
    return np.array([[prompt < 20 * rate for rate in rates] for prompt in range(20)])


def test_heterogeneity_compares_seeds_over_prompts() -> None:
    rates = [0.1, 0.9, 0.2, 0.8, 0.5, 0.4, 0.7, 0.3]
    outcomes, certificates = spread_outcomes(rates), certified({"normal": LOW})
    row = verdict(heterogeneity(), {}, completions=completed(outcomes), certificates=certificates)
    assert (row["verdict"], row["seeds_used"]) == ("supported", 8)
    assert row["effect"] == pytest.approx(np.std(rates, ddof=1))
    assert 0 < row["lower"] < row["effect"] < row["upper"]
    assert row["p_raw"] == st.heterogeneous(outcomes)
    row = verdict(heterogeneity(0.9), {}, completions=completed(outcomes), certificates=certificates)
    assert row["verdict"] == "refuted"


@pytest.mark.parametrize("rate", [0.0, 0.4, 1.0])
def test_identical_seeds_refute_only_a_heterogeneity_that_eight_seeds_would_have_shown(rate: float) -> None:
    table, keys = completed(spread_outcomes([rate] * 8)), {"certificates": certified({"normal": LOW})}
    row = verdict(heterogeneity(), {}, completions=table, **keys)
    # A ninth seed may differ: one that lies as far off as can be, with the probability that eight would all have missed.
    missed = 1 - 0.025 ** (1 / 8)
    assert (row["verdict"], row["effect"], row["p_value"]) == ("undecided", 0.0, 1.0)
    assert row["upper"] == pytest.approx(math.sqrt(missed) * max(rate, 1 - rate))
    assert verdict(heterogeneity(0.7), {}, completions=table, **keys)["verdict"] == "refuted"


@pytest.mark.parametrize("dtype", ["object", "boolean"])
def test_a_prompt_without_an_outcome_leaves_heterogeneity_open(dtype: str) -> None:
    outcomes = spread_outcomes([0.1, 0.9, 0.2, 0.8, 0.5, 0.4, 0.7, 0.3]).astype(object)
    outcomes[3, 2] = None
    keys = {"certificates": certified({"normal": LOW})}
    row = verdict(heterogeneity(), {}, completions=completed(outcomes, dtype), **keys)
    assert (row["verdict"], row["seeds_used"]) == ("undecided", 7)
    assert row["note"] == "R1 on ood (greedy) of normal is no finite number at seed 2"
    row = verdict(heterogeneity(), {}, **keys)
    assert row["note"].startswith("no outcome per prompt of R1 on ood (greedy) for normal")


def test_a_prompt_that_occurs_twice_counts_twice() -> None:
    outcomes = spread_outcomes([0.1, 0.9, 0.2, 0.8, 0.5, 0.4, 0.7, 0.3])
    table, keys = completed(outcomes), {"certificates": certified({"normal": LOW})}
    twice = verdict(heterogeneity(), {}, completions=pd.concat([table, table]), **keys)
    assert twice["p_raw"] == pytest.approx(st.heterogeneous(np.concatenate([outcomes, outcomes])))


def test_holm_runs_over_all_claims_and_can_take_a_verdict_away() -> None:
    samples = {"low": LOW[:5], "high": HIGH[:5]}
    claims = [threshold("low", bound=0.05, id=str(i)) for i in range(2)] + [order("low", "high", id="order")]
    alone = verdict(claims[0], samples, asked=5)
    assert (alone["verdict"], alone["p_value"]) == ("supported", 1 / 32)
    together = judge(claims, measured(samples), certified(samples), pd.DataFrame(), 5, 0.75)
    assert together["p_raw"].tolist() == [1 / 32, 1 / 32, 1 / 252]
    np.testing.assert_allclose(together["p_value"], [2 / 32, 2 / 32, 3 / 252])
    assert together["verdict"].tolist() == ["undecided", "undecided", "supported"]


def test_at_the_edge_of_its_region_a_claim_is_rarely_supported() -> None:
    rng, runs, seeds = np.random.default_rng(3), 400, 6
    hits = {"order": 0, "difference": 0, "threshold": 0, "equivalence": 0}
    for _ in range(runs):
        # Rounded, so that seeds tie as they do in shares of few prompts.
        a, b = np.round(rng.normal(0.5, 0.1, (2, seeds)), 1)
        hits["order"] += st.greater(a, b) <= 0.05
        hits["difference"] += st.apart(a, b) <= 0.05
        hits["threshold"] += st.positive(a - 0.5) <= 0.05
        hits["equivalence"] += st.equivalent(rng.normal(0, 0.02, seeds), rng.normal(0.1, 0.05, seeds), 0.1) <= 0.05
    noise = 3 * math.sqrt(0.05 * 0.95 / runs)
    assert all(times / runs <= 0.05 + noise for times in hits.values()), hits
    assert hits["equivalence"] > 0


def test_models_are_compared_within_one_language_and_one_variant() -> None:
    low, high = {"normal": [0.1, 0.2, 0.15, 0.12]}, {"normal": [0.8, 0.9, 0.85, 0.7]}
    both = [measured(low), measured(high).assign(model="mamba")]
    certificates = pd.concat([certified(low), certified(high).assign(model="mamba")])
    elsewhere = pd.concat([both[0].assign(model="mamba"), both[1].assign(model="lstm")]).assign(language="dyck")
    tables = {
        "measurements": pd.concat([*both, elsewhere]),
        "certificates": pd.concat([certificates, certificates.assign(language="dyck")]),
        "completions": pd.DataFrame(),
    }
    claims = [
        Order(kind="order", id=f"s/{name}", models=["lstm", "mamba"], language=name, **ON) for name in ("anbn", "dyck")
    ]
    verdicts = judge(claims, **tables, seeds_asked=4, required_saturated=1.0)
    assert verdicts["verdict"].tolist() == ["supported", "refuted"]
    with pytest.raises(UsageError, match="expected language"):
        judge(
            [Order(kind="order", id="s", models=["lstm", "mamba"], **ON)], **tables, seeds_asked=4, required_saturated=1
        )


def put_to(sets: Samples, references: dict[str, float] | None = None) -> pd.DataFrame:
    """Samples by prompt set → measurements of `normal`."""
    tables = [
        measured({"normal": values}, references=references).assign(prompt_set=name) for name, values in sets.items()
    ]
    return pd.concat([table[table["value"] != 0.5] for table in tables])  # without the noise, which has sets of its own


WIDE = [0.1, 0.9, 0.3, 0.7, 0.2, 0.8, 0.4, 0.6]
"""Seeds that differ among themselves far more than a prompt set changes any of them."""
STEP = [0.03, 0.02, 0.04, 0.03, 0.02, 0.04, 0.03, 0.03]
SETS = {f"n{i}": [x + i * d for x, d in zip(WIDE, STEP, strict=True)] for i in range(4)} | {"flat": WIDE}


@pytest.mark.parametrize(
    ("claim", "wanted", "effect", "p_raw"),
    [
        (on_sets(Order, "n0", "n1"), "supported", 0.03, 1 / 256),
        (on_sets(Order, "n0", "n1", "n3"), "supported", 0.03, 1 / 256),
        (on_sets(Order, "n1", "n0"), "refuted", -0.03, 1.0),
        (on_sets(Order, "n0", "flat"), "undecided", 0.0, 1.0),
        (on_sets(Order, "n0", "n2", margin=0.03), "supported", 0.06, 1 / 256),
        (on_sets(Order, "n0", "n1", margin=0.029), "undecided", 0.03, None),
        (on_sets(Order, "n0", "n1", margin=0.05), "refuted", 0.03, 1.0),
        (on_sets(Difference, "n1", "n0"), "supported", -0.03, 1 / 128),
        (on_sets(Difference, "n0", "n1", margin=0.05), "refuted", 0.03, 1.0),
        (on_sets(Equivalence, "n0", "n1", margin=0.05), "supported", 0.03, None),
        (on_sets(Equivalence, "n0", "n1", margin=0.01), "refuted", 0.03, None),
        (on_sets(Equivalence, "n0", "n1", "n3", margin=0.05), "refuted", 0.09, None),
        (on_sets(Trend, "n0", "n1", "flat"), "undecided", 0.0, 1.0),
        (on_sets(Trend, "n0", "n1", "n2", "n3"), "supported", 1.0, 1 / 256),
        (on_sets(Trend, "n0", "n2", "n1", "n3"), "supported", 2 / 3, 1 / 256),
        (on_sets(Trend, "n3", "n2", "n1"), "refuted", -1.0, 1.0),
        (on_sets(Trend, "n3", "n2", "n1", direction="falling"), "supported", 1.0, 1 / 256),
        (on_sets(Threshold, "n3", "n0", bound=0.05), "supported", 0.45, 1 / 256),
    ],
)
def test_prompt_sets_are_compared_seed_by_seed(claim: Claim, wanted: str, effect: float, p_raw: float | None) -> None:
    row = verdict(claim, {"normal": WIDE}, measurements=put_to(SETS))
    assert row["verdict"] == wanted
    assert row["effect"] == pytest.approx(effect)
    assert row["lower"] <= row["effect"] <= row["upper"]
    assert p_raw is None or row["p_raw"] == pytest.approx(p_raw, rel=1e-9)
    assert (row["seeds_used"], row["seeds_asked"]) == (8, 8)


def test_verdicts_on_prompt_sets_name_them_and_their_tests() -> None:
    table = put_to(SETS)
    for claim, test, note in (
        (on_sets(Order, "n0", "n1"), "exact sign-flip of paired differences, one-sided", "n1 − n0"),
        (on_sets(Difference, "n0", "n1"), "exact sign-flip of paired differences, two-sided", "n1 − n0"),
        (on_sets(Equivalence, "n0", "n1", margin=0.1), "two one-sided t tests of paired differences", "n1 − n0"),
        (on_sets(Trend, "n0", "n1"), f"exact sign-flip of Kendall's τ, one-sided{GUARD}", "the trend along n0, n1"),
        (on_sets(Threshold, "n3", bound=0.05), "exact sign-flip, one-sided", "n3"),
    ):
        row = verdict(claim, {"normal": WIDE}, measurements=table)
        assert (row["test"], row["note"]) == (test, f"the effect is that of {note}")


def test_the_baseline_of_a_prompt_set_is_that_of_the_same_prompts() -> None:
    table = put_to({"n0": WIDE}, {"stop": 0.1}), put_to({"n1": WIDE}, {"stop": 0.9})
    for name, wanted in (("n0", "supported"), ("n1", "refuted")):
        claim = on_sets(Threshold, name, baseline="stop", id=name)
        row = verdict(claim, {"normal": WIDE}, measurements=pd.concat(table))
        assert row["verdict"] == wanted
        assert row["effect"] == pytest.approx(np.mean(WIDE) - {"n0": 0.1, "n1": 0.9}[name])


def test_pairing_sees_what_independent_samples_hide_and_is_asked_for() -> None:
    samples = {"before": WIDE, "after": SETS["n1"]}
    for kind, keys in ((Order, {}), (Difference, {}), (Equivalence, {"margin": 0.05})):
        common = ON | {"id": "s", "kind": kind.__name__.lower(), "variants": ["before", "after"]} | keys
        assert verdict(kind(**common), samples)["verdict"] == "undecided"
        row = verdict(kind(**common, paired=True), samples)
        assert (row["verdict"], row["note"]) == ("supported", "")
        shuffled = put_to(SETS).sample(frac=1, random_state=0)  # the order of rows is not that of seeds
        again = verdict(on_sets(kind, "n0", "n1", **keys), {"normal": WIDE}, measurements=shuffled)
        assert again["p_raw"] == row["p_raw"]


def test_a_seed_without_its_pair_leaves_the_verdict_open() -> None:
    table = put_to(SETS)
    short = table[(table["prompt_set"] != "n1") | (table["seed"] != 3)]
    for kind in (Order, Trend):
        row = verdict(on_sets(kind, "n0", "n1", "n2"), {"normal": WIDE}, measurements=short)
        assert (row["verdict"], row["seeds_used"], row["p_raw"]) == ("undecided", 7, 1 / 128)
        assert row["note"].startswith("only 7 of 8 seeds of n1 are there; no pairs at seed 3: not in every group; ")
    # As many seeds as asked for in both groups, but not the same ones.
    shifted = table.assign(seed=table["seed"] + (table["prompt_set"] == "n1"))
    row = verdict(on_sets(Order, "n0", "n1"), {"normal": WIDE}, measurements=shifted)
    assert (row["verdict"], row["seeds_used"]) == ("undecided", 7)
    assert row["note"].startswith("no pairs at seed 0, 8: not in every group")
    nothing = verdict(on_sets(Order, "n0", "elsewhere"), {"normal": WIDE}, measurements=table)
    assert (nothing["verdict"], nothing["seeds_used"], math.isnan(nothing["p_raw"])) == ("undecided", 0, True)


def test_unsaturated_models_are_told_of_once_whatever_the_prompt_sets() -> None:
    certificates = certified({"normal": WIDE}, {"normal": 5})
    row = verdict(on_sets(Order, "n0", "n1"), {}, measurements=put_to(SETS), certificates=certificates)
    assert row["verdict"] == "undecided"
    assert row["note"] == "only 3 of 8 seeds are saturated; the effect is that of n1 − n0"
    table = put_to(SETS | {"n1": [*WIDE[:7], math.nan]})
    row = verdict(on_sets(Order, "n0", "n1"), {"normal": WIDE}, measurements=table)
    assert row["note"] == "R1 on n1 (greedy) is no finite number at seed 7"


def test_at_the_edge_of_its_region_a_paired_claim_is_rarely_supported() -> None:
    rng, runs, seeds = np.random.default_rng(4), 600, 8
    hits = dict.fromkeys(["order", "tied order", "difference", "trend", "equivalence", "tied equivalence"], 0)
    for _ in range(runs):
        own = rng.normal(0.5, 0.2, seeds)  # what a seed brings to all prompt sets
        a, b, c = own + rng.normal(0, 0.05, (3, seeds))
        # Shares of few prompts: most seeds tie.
        few, other = rng.binomial(4, np.clip(own, 0.05, 0.95), (2, seeds)) / 4
        hits["order"] += st.greater_pairs(a, b + 0.1, 0.1) <= 0.05
        hits["tied order"] += st.greater_pairs(few, other) <= 0.05
        hits["difference"] += st.apart_pairs(a, b) <= 0.05
        hits["trend"] += st.positive(st.rises(list(np.round([a, b, c], 1)))) <= 0.05
        hits["equivalence"] += st.equivalent_pairs(a, b + 0.1, 0.1) <= 0.05
        hits["tied equivalence"] += st.equivalent_pairs(few, other + 0.25, 0.25) <= 0.05
    noise = 3 * math.sqrt(0.05 * 0.95 / runs)
    assert all(times / runs <= 0.05 + noise for times in hits.values()), hits
    assert min(hits["order"], hits["equivalence"]) > 0


def test_ties_are_guarded_against_in_shares_alone() -> None:
    for measure, wanted, test in (
        ("R1", "undecided", "exact sign-flip, one-sided" + GUARD),
        ("log_steps_to_threshold", "supported", "exact sign-flip, one-sided"),
    ):
        table = measured({"a": ONES}).replace({"measure": {"R1": measure}})
        claim = threshold("a", bound=0.9, measure=measure)
        row = verdict(claim, {"a": ONES}, measurements=table)
        assert (row["verdict"], row["test"]) == (wanted, test)
    # A value outside [0, 1] tells a measure that only bears the name of a share.
    assert verdict(threshold("a", bound=0.9), {"a": [1.5] * 8})["verdict"] == "supported"


def test_the_guard_is_clopper_pearson_for_two_values_on_either_side() -> None:
    low, high = proportion_confint(7, 8, 0.05, "beta")
    values = [1.0] * 7 + [0.0]
    above, below = (verdict(threshold("a", bound=0.3, direction=way), {"a": values}) for way in ("above", "below"))
    assert above[["effect", "lower"]].tolist() == pytest.approx([7 / 8 - 0.3, low - 0.3])
    assert above["p_raw"] == max(2 / 256, binom.sf(6, 8, 0.3))
    closer = verdict(threshold("a", bound=0.5), {"a": values})
    assert closer["p_raw"] == pytest.approx(binom.sf(6, 8, 0.5))
    assert above["upper"] >= high - 0.3
    assert (below["effect"], below["upper"]) == pytest.approx((0.3 - 7 / 8, 0.3 - low))
    assert below["verdict"] == "refuted"


def test_without_a_margin_ties_need_no_guard_to_tell_groups_apart_and_with_one_they_do() -> None:
    samples = {"tied": ZEROS, "low": [x + 0.2 for x in LOW]}
    for paired in (False, True):
        p = 1 / 256 if paired else 1 / 12870
        row = verdict(order("tied", "low", paired=paired), samples)
        assert (row["verdict"], row["p_raw"]) == ("supported", pytest.approx(p))
    # How large the difference is: a seed of the tied group may lie anywhere.
    row = verdict(order("tied", "low"), samples)
    assert row["lower"] < 0 < row["effect"] < row["upper"]
    assert row["test"].endswith(GUARD)
    assert verdict(order("tied", "low", margin=0.01), samples)["verdict"] == "undecided"
    assert verdict(order("tied", "high", margin=0.01), {"tied": ZEROS, "high": HIGH})["verdict"] == "supported"
