"""Whether the seeds asked for can ever support a claim."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import TypeAdapter

from lmtest.claims import Claim, Difference, Equivalence, Heterogeneity, Order, Threshold, Trend, attainability
from lmtest.claims.attainability import smallest_p
from lmtest.claims.comparisons import comparisons, outcome
from lmtest.claims.samples import Samples

ON = {"statement": "It holds.", "measure": "R1", "prompt_set": "ood"}
CLAIMS: Sequence[Claim] = [
    Equivalence(id="equal", kind="equivalence", statement="Equal.", variants=["a", "b", "c"], margin=0.01),
    Order(id="order", kind="order", variants=["a", "b", "c"], **ON),
    *(Threshold(id=f"above {i}", kind="threshold", variants=["a"], bound=0.1, **ON) for i in range(4)),
    Heterogeneity(id="seeds", kind="heterogeneity", variant="a", **ON),
]


def test_seven_claims_are_attainable_with_eight_seeds_and_not_with_four() -> None:
    eight = attainability(CLAIMS, 8)
    assert list(eight.columns) == ["claim", "kind", "smallest_p", "attainable", "needed_seeds"]
    assert eight["attainable"].all()
    np.testing.assert_allclose(eight["smallest_p"], [0, 1 / 12870, *[1 / 256] * 4, 0])
    four = attainability(CLAIMS, 4).set_index("claim")["attainable"]
    assert not four[[f"above {i}" for i in range(4)]].any()
    assert four[["equal", "seeds"]].all()
    # 4 thresholds share what is left of the error: 4 / 2^7 ≤ 0.05 < 4 / 2^6.
    assert eight["needed_seeds"].tolist() == [2, 5, 7, 7, 7, 7, 2]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 20])
def test_needed_seeds_are_the_fewest_that_make_a_claim_attainable(n: int) -> None:
    table = attainability(CLAIMS, n)
    assert table["attainable"].tolist() == (table["needed_seeds"] <= n).tolist()


def test_a_two_sided_test_needs_more_seeds_than_a_one_sided_one() -> None:
    one = attainability([Order(id="o", kind="order", variants=["a", "b"], **ON)], 3)
    two = attainability([Difference(id="d", kind="difference", variants=["a", "b"], **ON)], 3)
    assert (one.loc[0, "smallest_p"], two.loc[0, "smallest_p"]) == (0.05, 0.1)
    assert (one.loc[0, "needed_seeds"], two.loc[0, "needed_seeds"]) == (3, 4)


def test_paired_claims_have_as_many_outcomes_as_sign_flips() -> None:
    pair: dict[str, Any] = {"statement": "It holds.", "measure": "accuracy", "prompt_sets": ["n0", "n16"]}
    claims: Sequence[Claim] = [
        Order(id="o", kind="order", **pair),
        Difference(id="d", kind="difference", **pair),
        Trend(id="t", kind="trend", **pair),
        Equivalence(id="e", kind="equivalence", margin=0.1, **pair),
        Order(id="p", kind="order", variants=["a", "b"], paired=True, **ON),
    ]
    assert [smallest_p(claim, 8) for claim in claims] == [1 / 256, 1 / 128, 1 / 256, 0, 1 / 256]
    assert [smallest_p(claim, 1) for claim in claims] == [1 / 2, 1, 1 / 2, 1, 1 / 2]
    assert [attainability([claim], 4).loc[0, "needed_seeds"] for claim in claims] == [5, 6, 5, 2, 5]
    # Behind the equivalence four tests share the error: 4 / 2^7 ≤ 0.05 < 4 / 2^6.
    assert attainability(claims, 8)["needed_seeds"].tolist() == [7, 7, 7, 2, 7]


def test_a_claim_beyond_the_most_seeds_tried_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("lmtest.claims.attainability"), "MOST_SEEDS", 6)
    needed = attainability(CLAIMS, 8)["needed_seeds"]
    assert isinstance(needed.dtype, pd.Int64Dtype)
    assert needed.isna().tolist() == [False, False, True, True, True, True, False]


def test_no_claims_give_an_empty_table() -> None:
    assert attainability([], 8).empty


def test_few_prompts_cannot_tell_few_seeds_apart() -> None:
    claim: Claim = TypeAdapter(Claim).validate_python(
        {
            "kind": "heterogeneity",
            "id": "h",
            "statement": "…",
            "measure": "R1",
            "prompt_set": "ood",
            "variant": "normal",
        }
    )
    # Two seeds that differ on each of three prompts in the same way: Q = 3 at one degree of freedom.
    assert smallest_p(claim, 2, {"anbn": {"ood": 3}}) == pytest.approx(0.0833, abs=1e-3)
    assert not attainability([claim], 2, {"anbn": {"ood": 3}})["attainable"].all()
    assert attainability([claim], 2, {"anbn": {"ood": 100}})["attainable"].all()


def test_prompts_are_counted_in_the_language_of_the_claim() -> None:
    claim: Claim = TypeAdapter(Claim).validate_python(
        {"kind": "heterogeneity", "id": "h", "statement": "…", "language": "long", "variant": "normal", "measure": "R1"}
        | {"prompt_set": "ood"}
    )
    prompts = {"short": {"ood": 3}, "long": {"ood": 100}}
    assert attainability([claim], 2, prompts)["attainable"].all()
    assert not attainability([claim.model_copy(update={"language": "short"})], 2, prompts)["attainable"].all()


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ({"bound": 0.9}, 0.9**8),
        ({"bound": 0.3}, 1 / 256),
        ({"bound": 0.3, "direction": "below"}, 0.7**8),
        ({"bound": 1.2}, 1.0),
        ({"bound": 0.9, "measure": "steps_to_threshold"}, 1 / 256),
        ({"baseline": "chance"}, 1 / 256),
    ],
)
def test_a_threshold_on_a_share_is_attained_at_best_by_perfect_seeds(keys: dict[str, Any], wanted: float) -> None:
    claim = Threshold(**({"id": "t", "kind": "threshold", "variants": ["a"]} | ON | keys))
    assert smallest_p(claim, 8) == pytest.approx(wanted, rel=1e-12)


def test_what_perfect_seeds_need_is_told_and_is_what_the_judge_asks_of_them() -> None:
    claim = Threshold(id="t", kind="threshold", variants=["a"], bound=0.9, **ON)
    needed = attainability([claim], 8).loc[0, "needed_seeds"]
    assert needed == 29  # 0.9²⁹ < 0.05 < 0.9²⁸
    for n in (needed - 1, needed):
        perfect = Samples({"a": np.full(n, 1.0) - 0.9}, ranges={"a": (-0.9, 1 - 0.9)})
        p, _ = outcome(comparisons(claim, perfect))
        assert p == pytest.approx(smallest_p(claim, int(n)))
        assert (p <= 0.05) == (n == needed)
