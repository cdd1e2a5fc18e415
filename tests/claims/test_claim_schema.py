"""What a claim may say in a TOML file, and what is refused."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from lmtest.claims import Claim, Equivalence, Evaluated, Threshold, check_claims
from lmtest.errors import UsageError

READER: TypeAdapter[Claim] = TypeAdapter(Claim)

STUDY = """
[[claims]]
id = "rule_extrapolation/equal_loss"
kind = "equivalence"
statement = "All three reach the same loss."
variants = ["normal", "adversarial", "oracle"]
margin = 0.01

[[claims]]
id = "rule_extrapolation/order"
kind = "order"
statement = "The oracle extrapolates best."
variants = ["adversarial", "normal", "oracle"]
measure = "R1"
prompt_set = "ood"
published = 0.437
source = "Table 1"

[[claims]]
id = "rule_extrapolation/differs"
kind = "difference"
statement = "The variants differ."
variants = ["normal", "oracle"]
measure = "R1"
prompt_set = "ood"
margin = 1

[[claims]]
id = "rule_extrapolation/above_stop"
kind = "threshold"
statement = "Better than stopping at once."
variants = ["normal"]
measure = "R1"
prompt_set = "ood"
decoding = "sample"
baseline = "stop"

[[claims]]
id = "rule_extrapolation/seeds_differ"
kind = "heterogeneity"
statement = "Seeds of equal loss differ."
variant = "normal"
measure = "R1"
prompt_set = "ood"
"""

ANBN = {"anbn": Evaluated([("R1", "ood", "greedy")], [("R1", "ood", "greedy")])}


def claim(**keys: Any) -> Claim:
    common = {"id": "s/c", "statement": "It holds.", "measure": "R1", "prompt_set": "ood"}
    return READER.validate_python(common | keys)


def test_every_kind_is_read_from_toml_and_survives_json() -> None:
    claims = TypeAdapter(list[Claim]).validate_python(tomllib.loads(STUDY)["claims"])
    assert [c.kind for c in claims] == ["equivalence", "order", "difference", "threshold", "heterogeneity"]
    assert isinstance(claims[0], Equivalence)
    assert claims[0].measure == "kl"
    assert claims[1].decoding == "greedy"
    assert [group.name for group in claims[4].groups] == ["normal"]
    for c in claims:
        assert READER.validate_json(c.model_dump_json()) == c
        assert READER.validate_python(c.model_dump()) == c


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kind": "equivalence", "variants": ["a", "b"], "margin": 0.0}, "greater than 0"),
        ({"kind": "equivalence", "variants": ["a"], "margin": 1.0}, "at least 2"),
        ({"kind": "order", "variants": ["a", "a"]}, "distinct"),
        ({"kind": "order", "variants": ["a", "b"], "models": ["c", "d"]}, "either variants"),
        ({"kind": "order"}, "either variants"),
        ({"kind": "order", "models": ["a", "b"], "model": "c"}, "found both"),
        ({"kind": "order", "variants": ["a", "b"], "variant": "c"}, "found both"),
        ({"kind": "order", "variants": ["a", "b"], "margin": "0.1"}, "valid number"),
        ({"kind": "order", "variants": ["a", "b"], "margins": 0.1}, "margins"),
        ({"kind": "order", "variants": ["a", "b"], "prompt_set": None}, "needs a prompt_set"),
        ({"kind": "order", "variants": ["a", "b"], "measure": "kl"}, "has no prompt_set"),
        ({"kind": "threshold", "variants": ["a"]}, "either bound"),
        ({"kind": "threshold", "variants": ["a"], "bound": 0.5, "baseline": "stop"}, "either bound"),
        ({"kind": "threshold", "variants": ["a"], "bound": float("nan")}, "finite"),
        ({"kind": "threshold", "variants": ["a"], "baseline": "luck"}, "chance"),
        (
            {"kind": "threshold", "variants": ["a"], "measure": "kl", "prompt_set": None, "baseline": "chance"},
            "no chance level",
        ),
        ({"kind": "heterogeneity", "variant": "a", "measure": "kl", "prompt_set": None}, "outcome per prompt"),
        ({"kind": "ordering", "variants": ["a", "b"]}, "order"),
        ({"kind": "order", "prompt_sets": ["a", "b"]}, "expected prompt_sets or prompt_set, found both"),
        ({"kind": "order", "prompt_sets": ["a", "b"], "variants": ["c", "d"], "prompt_set": None}, "or prompt_sets = "),
        ({"kind": "order", "prompt_sets": ["a"], "prompt_set": None}, "at least 2"),
        ({"kind": "order", "prompt_sets": ["a", "a"], "prompt_set": None}, "distinct"),
        (
            {"kind": "order", "prompt_sets": ["a", "b"], "prompt_set": None, "paired": False},
            "paired = true for prompt_se",
        ),
        ({"kind": "order", "prompt_sets": ["a", "b"], "prompt_set": None, "measure": "kl"}, "name the measure"),
        ({"kind": "threshold", "prompt_sets": ["a"], "prompt_set": None}, "either bound"),
        ({"kind": "threshold", "prompt_sets": ["a"], "prompt_set": None, "bound": 0.5, "paired": True}, "Extra inputs"),
        (
            {"kind": "trend", "prompt_sets": ["a", "b"], "prompt_set": None, "direction": "above"},
            "'rising' or 'falling'",
        ),
    ],
)
def test_a_malformed_claim_is_refused_with_its_reason(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        claim(**keys)


def test_a_threshold_takes_a_number_or_a_baseline() -> None:
    assert isinstance(claim(kind="threshold", variants=["a"], bound=1), Threshold)
    assert isinstance(claim(kind="threshold", variants=["a"], baseline="chance", direction="below"), Threshold)


@pytest.mark.parametrize(
    ("keys", "models", "message"),
    [
        ({"variants": ["normal", "orcale"]}, ["lstm"], "unknown variant 'orcale'; did you mean 'oracle'"),
        ({"measure": "R3"}, ["lstm"], "unknown measure 'R3'; did you mean 'R1'"),
        ({"model": "lstn"}, ["lstm", "mamba"], "unknown model 'lstn'; did you mean 'lstm'"),
        ({}, ["lstm", "mamba"], "2 models .lstm, mamba.; name one"),
    ],
)
def test_names_that_the_study_does_not_have_are_refused_with_a_hint(
    keys: dict[str, Any], models: list[str], message: str
) -> None:
    stated = claim(**({"kind": "order", "variants": ["normal", "oracle"]} | keys))
    with pytest.raises(UsageError, match=message):
        check_claims([stated], models, ["normal", "oracle"], ANBN)


def test_a_claim_compares_models_in_one_variant_and_names_its_language() -> None:
    stated = claim(kind="order", models=["mamba", "lstm"], language="dyck")
    assert [tuple(group) for group in stated.groups] == [("mamba", "mamba", None, None), ("lstm", "lstm", None, None)]
    known = {"anbn": ANBN["anbn"], "dyck": ANBN["anbn"]}
    check_claims([stated], ["lstm", "mamba"], ["normal"], known)
    for keys, message in (
        ({"language": None}, "expected language = … because the study has 2 languages"),
        ({"language": "dyk"}, "unknown language 'dyk'; did you mean 'dyck'"),
        ({"models": ["lstm", "gru"]}, "unknown model 'gru'"),
    ):
        wrong = claim(**({"kind": "order", "models": ["mamba", "lstm"], "language": "dyck"} | keys))
        with pytest.raises(UsageError, match=message):
            check_claims([wrong], ["lstm", "mamba"], ["normal"], known)


@pytest.mark.parametrize(
    ("keys", "paired"),
    [
        ({"kind": "order", "variants": ["a", "b"]}, False),
        ({"kind": "order", "models": ["a", "b"], "paired": True}, True),
        ({"kind": "order", "prompt_sets": ["a", "b"], "prompt_set": None}, True),
        ({"kind": "difference", "prompt_sets": ["a", "b"], "prompt_set": None, "paired": True}, True),
        ({"kind": "equivalence", "variants": ["a", "b"], "paired": True, "margin": 0.1}, True),
        ({"kind": "trend", "variants": ["a", "b"]}, True),
        ({"kind": "threshold", "prompt_sets": ["a"], "prompt_set": None, "bound": 0.5}, False),
        ({"kind": "heterogeneity", "variant": "a"}, False),
    ],
)
def test_seeds_are_paired_where_prompt_sets_are_compared_or_where_the_claim_says_so(
    keys: dict[str, Any], paired: bool
) -> None:
    stated = claim(**keys)
    assert stated.is_paired is paired
    assert READER.validate_json(stated.model_dump_json()) == stated
    assert READER.validate_python(stated.model_dump(mode="json", exclude_none=True)) == stated


def test_a_claim_compares_prompt_sets_and_knows_all_of_them() -> None:
    sets = ["seen.k3.n0", "seen.k3.n4", "seen.k3.n16"]
    known = {"ginc": Evaluated([("accuracy", name, "exact") for name in sets], [])}
    on: dict[str, Any] = {"kind": "order", "measure": "accuracy", "prompt_set": None, "decoding": "exact"}
    stated = claim(**on, prompt_sets=sets)
    assert [tuple(group) for group in stated.groups] == [(name, None, None, name) for name in sets]
    assert str(stated.quantity(stated.groups[2])) == "accuracy on seen.k3.n16 (exact)"
    check_claims([stated], ["lstm"], ["normal"], known)
    wrong = claim(**on, prompt_sets=[*sets, "sen.k3.n16"])
    with pytest.raises(UsageError, match=r"unknown prompt_set 'sen.k3.n16'; did you mean 'seen.k3.n16'"):
        check_claims([wrong], ["lstm"], ["normal"], known)
    with pytest.raises(UsageError, match="expected model = … because the study has 2 models"):
        check_claims([stated], ["lstm", "mamba"], ["normal"], known)
    baseline = claim(
        **on | {"kind": "threshold", "baseline": "language", "decoding": "greedy"}, prompt_sets=["id", "ood"]
    )
    both = {"anbn": Evaluated([("accuracy", name, "greedy") for name in ("id", "ood")], [])}
    with pytest.raises(UsageError, match="no law on ood prompts"):
        check_claims([baseline], ["lstm"], ["normal"], both)


def test_what_is_never_measured_together_is_refused_before_a_run() -> None:
    values = [
        ("R1", "ood", "greedy"),
        ("R1_finished", "ood", "greedy"),
        ("R1", "id", "greedy"),
        ("mass", "strings", "exact"),
    ]
    known = {"anbn": Evaluated(values, [("R1", "ood", "greedy")])}
    on = {"kind": "heterogeneity", "variant": "normal"}
    check_claims([claim(**on)], ["lstm"], ["normal"], known)
    for keys, message in (
        ({"decoding": "exact"}, r"R1 is not measured on ood \(exact\), only on id \(greedy\), ood \(greedy\)"),
        ({"prompt_set": "strings"}, "not measured on strings"),
        ({"measure": "R1_finished"} | on, "R1_finished on ood .greedy. has none of"),
        ({"prompt_set": "id"} | on, "heterogeneity needs an outcome per prompt"),
        ({"kind": "threshold", "variants": ["normal"], "baseline": "language"}, "take rule_keeper"),
    ):
        wrong = claim(
            **({"kind": "threshold", "variants": ["normal"], "bound": 0.5} | keys if "kind" not in keys else keys)
        )
        with pytest.raises(UsageError, match=message):
            check_claims([wrong], ["lstm"], ["normal"], known)


def test_known_names_pass_and_repeated_ids_do_not() -> None:
    stated = claim(kind="order", variants=["normal", "oracle"])
    keys = {"variants": ["normal", "oracle"], "margin": 1.0, "measure": "kl", "prompt_set": None}
    loss = claim(id="s/kl", kind="equivalence", **keys)
    check_claims([stated, loss], ["lstm"], ["normal", "oracle"], ANBN)
    with pytest.raises(UsageError, match="'s/c' more than once"):
        check_claims([stated, stated], ["lstm"], ["normal", "oracle"], ANBN)


def test_claims_import_without_torch() -> None:
    program = "import sys, lmtest.claims; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
