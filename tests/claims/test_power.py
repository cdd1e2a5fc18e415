"""How many seeds a claim needs: the simulation against closed forms, assumptions from runs and by default, the command."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tomli_w
from pydantic import TypeAdapter
from scipy import stats
from statsmodels.stats.power import TTestIndPower, TTestPower

from lmtest import cli
from lmtest.claims import Claim
from lmtest.claims.power import STUDIES, Assumed, assume, power, simulated_power
from lmtest.claims.samples import Tables
from lmtest.errors import UsageError

ON: dict[str, Any] = {"statement": "…", "measure": "R1", "prompt_set": "ood"}
STEPS = ON | {"measure": "log_steps_to_threshold"}
NOISE = 4 * math.sqrt(0.25 / STUDIES)
STUDY = Path(__file__).parents[2] / "runs" / "rule_extrapolation.toml"


def claim(kind: str, **keys: Any) -> Claim:
    found: Claim = TypeAdapter(Claim).validate_python(ON | {"id": f"s/{kind}", "kind": kind} | keys)
    return found


@pytest.mark.parametrize(("n", "effect"), [(8, 0.5), (8, 1.0), (20, 0.5)])
def test_one_sample_has_nearly_the_power_of_the_t_test(n: int, effect: float) -> None:
    found = simulated_power(
        claim("threshold", variants=["a"], bound=0.0, **{"measure": "kl", "prompt_set": None}),
        Assumed(effect, 1, ""),
        n,
        0.05,
    )
    assert found == pytest.approx(TTestPower().power(effect, n, 0.05, alternative="larger"), abs=NOISE)
    pairs = claim("order", variants=["a", "b"], paired=True, margin=2.0, **{"measure": "log_steps_to_threshold"})
    assert simulated_power(pairs, Assumed(effect, 1, ""), n, 0.05) == pytest.approx(found, abs=NOISE)


@pytest.mark.parametrize(("kind", "sides"), [("order", "larger"), ("difference", "two-sided")])
@pytest.mark.parametrize("n", [8, 20])
def test_two_samples_have_nearly_the_power_of_the_t_test(kind: str, sides: str, n: int) -> None:
    found = simulated_power(claim(kind, variants=["a", "b"], **{"measure": "forgetting"}), Assumed(1.0, 1, ""), n, 0.05)
    assert found == pytest.approx(TTestIndPower().power(1.0, n, 0.05, alternative=sides), abs=NOISE)


def test_two_equal_groups_are_found_equivalent_as_often_as_both_one_sided_tests_reject() -> None:
    n, margin, studies = 10, 1.5, 4000
    x = np.random.default_rng(3).normal(size=(2, studies, n))
    gaps, errors = x[0].mean(1) - x[1].mean(1), np.sqrt(x.var(axis=2, ddof=1).sum(0) / n)
    wanted = ((margin - np.abs(gaps)) / errors > stats.t.ppf(0.95, 2 * n - 2)).mean()
    equal = claim("equivalence", variants=["a", "b"], margin=margin, **{"measure": "kl", "prompt_set": None})
    assert simulated_power(equal, Assumed(margin, 1, ""), n, 0.05) == pytest.approx(wanted, abs=NOISE)


@pytest.mark.parametrize("kind", ["trend", "correlation", "heterogeneity", "threshold"])
def test_power_rises_with_the_seeds_and_vanishes_without_an_effect(kind: str) -> None:
    keys: dict[str, Any] = {"variants": ["a", "b", "c"]}
    keys |= {"predictor": {"measure": "kl"}} if kind == "correlation" else {}
    keys = {"heterogeneity": {"variant": "a"}, "threshold": {"variants": ["a"], "bound": 0.3}}.get(kind, keys)
    stated = claim(kind, **keys)
    assumed = assume(stated, None, None, None)
    few, many = (simulated_power(stated, assumed, n, 0.01) for n in (3, 12))
    assert few < many
    assert many > 0.8
    assert simulated_power(stated, assumed._replace(effect=0.0), 12, 0.05) <= 0.05 + 3 * math.sqrt(
        0.05 * 0.95 / STUDIES
    )
    assert simulated_power(stated, assumed, 1, 0.05) == 0


def test_the_needed_seeds_are_the_fewest_with_the_wanted_power() -> None:
    claims = [claim("order", id=str(i), variants=["a", "b"], paired=True) for i in range(3)]
    row = power(claims, 8).loc[0]
    assumed, alpha = assume(claims[0], None, None, None), 0.05 / 3
    assert simulated_power(claims[0], assumed, row["needed_seeds"], alpha) >= 0.8
    assert simulated_power(claims[0], assumed, row["needed_seeds"] - 1, alpha) < 0.8
    assert row["power"] == simulated_power(claims[0], assumed, 8, alpha)
    assert power(claims, 8, wanted=0.99).loc[0, "needed_seeds"] > row["needed_seeds"]
    assert power(claims[:1], 8).loc[0, "needed_seeds"] < row["needed_seeds"]  # fewer claims share the error


def test_perfect_seeds_need_as_many_as_their_bound_takes() -> None:
    row = power([claim("threshold", variants=["a"], bound=0.9)], 8, sd=0.0, effect=0.1).loc[0]
    assert (row["effect"], row["power"]) == (pytest.approx(0.1), 0)
    assert row["needed_seeds"] == math.ceil(math.log(0.05) / math.log(0.9))
    assert pd.isna(power([claim("threshold", variants=["a"], bound=0.96)], 8, sd=0.0).loc[0, "needed_seeds"])


@pytest.mark.parametrize(
    ("kind", "keys", "wanted"),
    [
        ("order", {"variants": ["a", "b"]}, (0.2, 0.1)),
        ("order", {"variants": ["a", "b", "c"], "margin": 0.4}, (0.1, 0.1)),  # no room for more between 0 and 1
        ("order", {"variants": ["a", "b"], "margin": 0.1, **STEPS}, (0.1, 0.05)),
        ("difference", {"variants": ["a", "b"], **STEPS}, (1.0, 0.5)),
        ("equivalence", {"variants": ["a", "b"], "margin": 0.02}, (0.02, 0.01)),
        ("threshold", {"variants": ["a"], "bound": 0.9}, (0.1, 0.1)),
        ("threshold", {"variants": ["a"], "bound": 0.9, "direction": "below"}, (0.2, 0.1)),
        ("threshold", {"variants": ["a"], "bound": 1e-10, **STEPS}, (1e-10, 5e-11)),
        ("trend", {"variants": ["a", "b"]}, (0.5, 0.25)),
        ("heterogeneity", {"variant": "a", "margin": 0.4}, (0.1, math.nan)),
    ],
)
def test_without_a_run_the_truth_is_two_spreads_beyond_the_margin(
    kind: str, keys: dict[str, Any], wanted: tuple[float, float]
) -> None:
    assumed = assume(claim(kind, **keys), None, None, None)
    assert (assumed.effect, assumed.sd) == pytest.approx(wanted, nan_ok=True)
    assert assumed.source == "default"


def run(values: dict[str, list[float]]) -> Tables:
    rows = [
        {"language": "anbn", "model": "lstm", "variant": variant, "seed": seed, "measure": "R1", "prompt_set": "ood"}
        | {"decoding": "greedy", "value": value, "chance": 0.1}
        for variant, found in values.items()
        for seed, value in enumerate(found)
    ]
    return Tables(pd.DataFrame(rows), pd.DataFrame(), pd.DataFrame())


def test_effects_and_spreads_of_a_run_are_those_of_the_weakest_comparison() -> None:
    a, b, c = [0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.7, 0.6], [0.8, 0.9, 0.7, 1.0]
    tables = run({"a": a, "b": b, "c": c})
    variants = ["a", "b", "c"]
    found = assume(claim("order", variants=variants, margin=0.1), None, None, tables)
    sd = math.sqrt((np.var(b, ddof=1) + np.var(c, ddof=1)) / 2)
    assert found[:3] == (pytest.approx(np.mean(c) - np.mean(b) - 0.1), pytest.approx(sd), "run")
    found = assume(claim("order", variants=["a", "b"], paired=True), None, None, tables)
    assert found[:2] == pytest.approx((np.mean(b) - np.mean(a), np.std(np.subtract(b, a), ddof=1)))
    found = assume(claim("equivalence", variants=["a", "b"], margin=0.5), None, None, tables)
    assert found.effect == pytest.approx(0.5 - (np.mean(b) - np.mean(a)))
    found = assume(claim("threshold", variants=["b"], baseline="chance"), None, None, tables)
    assert (found.effect, found.sd, found.level) == pytest.approx((np.mean(b) - 0.1, np.std(b, ddof=1), 0.1))
    found = assume(claim("threshold", variants=["b"], bound=0.8, direction="below"), None, None, tables)
    assert (found.effect, found.level) == pytest.approx((0.8 - np.mean(b), 0.2))
    found = assume(claim("trend", variants=variants), None, None, tables)
    assert found[:2] == pytest.approx((11 / 12, np.std([1, 1, 2 / 3, 1], ddof=1)))  # one seed ties
    given = assume(claim("order", variants=variants), 0.3, None, tables)
    assert (given.sd, given.source) == (0.3, "given, run")
    assert assume(claim("order", variants=variants), 0.3, 0.1, tables)[:3] == (0.1, 0.3, "given")


def test_a_run_without_the_claims_values_leaves_the_defaults() -> None:
    assumed = assume(claim("order", variants=["a", "other"]), None, None, run({"a": [0.1, 0.2]}))
    assert (assumed.effect, assumed.sd, assumed.source) == (0.2, 0.1, "default")


def test_a_claim_that_the_run_refutes_has_no_power_with_any_seeds() -> None:
    tables = run({"a": [0.7, 0.8, 0.9, 0.75], "b": [0.1, 0.2, 0.3, 0.15]})
    row = power([claim("order", variants=["a", "b"], paired=True)], 8, run=tables).loc[0]
    assert row["effect"] < 0
    assert row["power"] == 0
    assert pd.isna(row["needed_seeds"])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"sd": -1.0}, "sd: expected a number ≥ 0, found -1"),
        ({"sd": math.nan}, "sd: expected a number ≥ 0, found nan"),
        ({"effect": math.inf}, "effect: expected a number, found inf"),
        ({"wanted": 80}, r"power: expected a share between 0 and 1, such as 0\.8, found 80"),
    ],
)
def test_senseless_assumptions_are_refused(keys: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        power([claim("order", variants=["a", "b"])], 8, **keys)


def test_a_study_without_claims_needs_none() -> None:
    with pytest.raises(UsageError, match=r"expected a study with claims, found none: add \[\[claims\]\] tables"):
        power([], 8)


def lmtest(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    monkeypatch.setattr("sys.argv", ["lmtest", *map(str, words)])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    return int(exit_.value.code or 0)


def test_the_command_prints_a_row_a_claim_and_the_same_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lmtest.claims.power.COMPARISONS", 0)  # 100 studies: the numbers are others' concern
    table = tomllib.loads(STUDY.read_text(encoding="utf-8"))
    kept = {found["id"].split("/")[1]: found for found in table["claims"]}
    kept["R2_kept"]["bound"] = 0.97
    table["claims"] = [kept[name] for name in ("normal_beats_chance", "R2_kept", "seeds_differ")]
    file = tmp_path / "study.toml"
    file.write_text(tomli_w.dumps(table), encoding="utf-8")
    assert lmtest(monkeypatch, "power", file, "--seeds", "0-5", "--sd", "0.1", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["claim"] for row in rows] == [found["id"] for found in table["claims"]]
    assert set(rows[0]) == {"claim", "kind", "effect", "sd", "assumed", "power", "needed_seeds"}
    assert [row["needed_seeds"] is None for row in rows] == [False, True, False]
    assert lmtest(monkeypatch, "power", file, "--seeds", "0-5", "--sd", "0.1") == 0
    text = capsys.readouterr().out
    for word in ("power with 6 seeds", "seeds for 80%", "seeds_differ", "given, default", "> 64", "–", "0.05/3"):
        assert word in text


def test_what_cannot_be_read_is_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lmtest(monkeypatch, "power", tmp_path / "none.toml") == 2
    assert "none.toml" in capsys.readouterr().err
    assert lmtest(monkeypatch, "power", STUDY, "--from", tmp_path / "nowhere") == 2
    assert "no run directory" in capsys.readouterr().err
    assert lmtest(monkeypatch, "power", STUDY, "--from", tmp_path) == 2
    assert "it is no finished run" in capsys.readouterr().err
