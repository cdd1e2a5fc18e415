"""Every finding comes where it should and stays away where it should not; its sentence holds the numbers."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from audit_table import write
from scipy import stats
from statsmodels.stats.power import TTestIndPower

from lmtest.audit import FINDINGS, audit
from lmtest.audit.pairs import needed_runs, smallest_p
from lmtest.errors import UsageError

Row = dict[str, str]
# aⁿbⁿ with n uniform on 1..8: entropy ln 8 = 2.0794, 10 tokens a string on average.
TINY: Row = {"language": "anbn_tiny"}
LOSS = TINY | {"loss": "2.07944", "loss_spread": "0.0001", "n": "5", "positions": "string"}
OOD = TINY | {"measure": "R1_finished", "prompt_set": "ood", "value": "0.900", "spread": "0.010", "n": "5"}
ID = OOD | {"prompt_set": "id", "value": "1.000", "spread": "0"}
FINISHED = {"measure": "finish_rate", "spread": "0"}
ONE, OTHER = {"model": "one"}, {"model": "other"}
RUNS = {"n": "2", "spread": "0.200"}

CASES: dict[str, tuple[list[Row], list[Row], str]] = {
    "loss-below-floor": (
        [LOSS | {"loss": "2.07900"}],
        [LOSS, LOSS | {"loss": "2.07900", "loss_spread": "0.001"}, LOSS | {"loss": "2.08"}],
        r"a loss of 2\.079 nats per string, where the floor is 2\.0794 nats: -0\.0004",
    ),
    "not-saturated": (
        [LOSS | {"loss": "2.09000"}],
        [LOSS, LOSS | {"loss": "2.09000", "loss_spread": "0.001"}, LOSS | {"loss": "2.08900"}],
        r"\+0\.01056 \[0\.01043, 0\.01069\] nats per string, ε = 0\.01",
    ),
    "saturation-open": (
        [LOSS | {"loss": "2.09000", "loss_spread": "0.001"}],
        [LOSS, LOSS | {"loss": "2.09000"}],
        r"\+0\.01056 \[0\.009312, 0\.01181\]",
    ),
    "too-few-digits": (
        [LOSS | {"loss": "0.122", "positions": "25"}],
        [LOSS, LOSS | {"loss": "0.12232", "positions": "17"}],
        r"half a unit of the last digit is 0\.0125 nats per string",
    ),
    "pad-in-loss": (
        [LOSS | {"loss": "0.12232", "positions": "17"}],
        [LOSS, LOSS | {"loss": "0.20794", "positions": ""}, LOSS | {"loss": "0.20794", "positions": "10"}],
        r"a mean over 17 positions, where a string has 10 tokens on average: 41\.2% of what",
    ),
    "floor-unknown": ([{"language": "critical.toml", "loss": "1.0"}], [LOSS], "no mean length"),
    "negative-kl": (
        [LOSS | {"kl": "-0.001"}],
        [LOSS | {"kl": "-0.0"}, LOSS | {"kl": "0.5"}],
        r"stated -0\.001 nats; the loss less the floor is -1",
    ),
    "kl-misstated": (
        [LOSS | {"loss": "2.17944", "kl": "0.2"}],
        [LOSS | {"loss": "2.17944", "kl": "0.1"}, LOSS | {"kl": "-0.1"}],
        r"stated 0\.2 nats; the loss less the floor is \+0\.1 nats: what was taken for the floor is 1\.979, where it is",
    ),
    "losses-differ": (
        [LOSS | ONE, LOSS | OTHER | {"loss": "2.10944"}],
        [LOSS | ONE, LOSS | OTHER | {"loss": "2.08044"}],
        r"nats per string: -0\.03 \[-0\.030\d*, -0\.02\d*\] from other \(line 3\)",
    ),
    "losses-not-shown-equal": (
        [LOSS | ONE, LOSS | OTHER | {"loss_spread": "0.050"}],
        [LOSS | ONE, LOSS | OTHER],
        r"\+0 \[-0\.06\d*, 0\.06\d*\] from other",
    ),
    "below-chance": (
        [OOD | {"value": "0.100"}],
        [OOD, OOD | {"value": "0.154"}],
        r"where the uniform law scores 0\.154",
    ),
    "at-chance": (
        [OOD | {"value": "0.160"}, OOD | {"value": "0.154", "spread": "", "n": ""}],
        [OOD, OOD | {"value": "0.100"}],
        r"0\.1\d+.*, where the uniform law scores 0\.154",
    ),
    "below-trivial": (
        [OOD | {"value": "0.200"}],
        [OOD, OOD | {"value": "0.270"}],
        r"where stopping at once scores 0\.2749",
    ),
    "at-trivial": (
        [OOD | {"value": "0.2749", "spread": "0"}],
        [OOD, OOD | {"value": "0.290"}],
        r"0\.2749, where stopping",
    ),
    "uninformative-measure": (
        [OOD | {"measure": "R2_completion_finished"}],
        [OOD],
        "0.9, where stopping at once scores 1",
    ),
    "broken-in-distribution": (
        [ID | ONE | {"measure": "grammatical_finished", "value": "0.12", "spread": "0.30", "n": "50"}],
        [ID | {"value": "0.960"}, OOD, ID | {"measure": "R1_completion_finished", "value": "0.1"}],
        r"0\.12 \[0\.0297\d, 0\.2103\] in distribution, where the language itself scores 1$",
    ),
    "chance-misstated": (
        [OOD | {"chance": "0.16"}],
        [OOD | {"chance": "0.15"}, OOD | {"chance": "0.154"}],
        r"stated 0\.16, where the uniform law scores 0\.154",
    ),
    "prompts-miscounted": (
        [TINY | {"prompt_set": "ood", "prompts": "256"}, TINY | {"prompt_set": "all", "prompts": "64"}],
        [TINY | {"prompt_set": "ood", "prompts": "251"}, TINY | {"prompt_set": "all", "prompts": "256"}],
        "stated 256, where 251 are distinct$",
    ),
    "impossible-spread": (
        [OOD | {"spread": "0.400"}],
        [OOD | {"spread": "0.300"}],
        "spread by at most 0.336., not 0.4",
    ),
    "all-or-nothing": (
        [OOD | {"value": "0.800", "spread": "0.447"}],
        [
            OOD | {"value": "0.800", "spread": "0.440"},
            ID,
            OOD | {"value": "0.800", "spread": "0.447", "model": "people"},
        ],
        r"0\.8 ± 0\.447 of 5 runs is what 4 runs at 1 and 1 at 0 give",
    ),
    "finished-only": (
        [OOD, OOD | FINISHED | {"value": "0.500"}],
        [OOD, OOD | FINISHED | {"value": "0.990"}],
        r"0\.9 of those that finish, which are 0\.5 of all",
    ),
    "finish-rate-unknown": (
        [OOD, OOD | FINISHED | {"prompt_set": "id"}],
        [OOD, OOD | FINISHED, OOD | {"measure": "R1"}],
        "no row says how many do",
    ),
    "too-few-seeds": (
        [OOD | ONE | RUNS, OOD | OTHER | RUNS | {"value": "0.700"}],
        [OOD | ONE, OOD | OTHER | {"value": "0.700"}],
        r"with 0\.[79] ± 0\.2 \(2 runs\), smallest p of a permutation test 0\.33, about 17 runs each for a power of 80 %",
    ),
    "runs-not-stated": (
        [OOD | ONE | {"n": ""}, OOD | OTHER | {"n": "", "spread": ""}],
        [OOD | ONE, ID | OTHER | {"prompt_set": "ood", "spread": ""}],
        r"no number of runs: cannot be compared with other \(line 3\)",
    ),
    "trained-on-test": (
        [OOD | {"prompts_trained": "100"}],
        [OOD, OOD | {"prompts_trained": "0"}],
        "100 of the 251 prompts were trained on",
    ),
    "chosen-on-test": ([OOD | {"chosen_by": "value"}], [OOD, OOD | {"chosen_by": "loss"}], "largest over training"),
    "sizes-differ": (
        [OOD | ONE | {"parameters": "10"}, OOD | ONE | {"parameters": "20"}],
        [OOD | ONE | {"parameters": "10"}, OOD | OTHER | {"parameters": "20"}, OOD | ONE],
        r"parameters: one \(line \d\) has [12]0",
    ),
}


@pytest.fixture(autouse=True)
def _critical(tmp_path: Path) -> None:
    text = 'title = "critical"\nkind = "pcfg"\ngrammar = "S -> S S [0.5] | \'a\' [0.5]"\n'
    (tmp_path / "critical.toml").write_text(text, encoding="utf-8")


def test_every_finding_has_its_case() -> None:
    assert set(CASES) == set(FINDINGS)


@pytest.mark.parametrize("name", CASES)
def test_a_finding_comes_where_it_should(tmp_path: Path, name: str) -> None:
    rows, _, sentence = CASES[name]
    found = audit(write(tmp_path / "t.csv", *rows)).findings
    found = found[found["finding"] == name]
    measured = [line for line, row in enumerate(rows, 2) if row.get("measure") != "finish_rate"]
    assert found["line"].tolist() == measured
    assert re.search(sentence, found["sentence"].iloc[0]), found["sentence"].iloc[0]


@pytest.mark.parametrize("name", CASES)
def test_a_finding_stays_away_where_it_should(tmp_path: Path, name: str) -> None:
    _, rows, _ = CASES[name]
    if any("model" in row or row.get("measure") == "finish_rate" for row in rows):
        tables = [rows]
    else:
        tables = [[row] for row in rows]  # each for itself: they are not there to be compared
    for table in tables:
        found = audit(write(tmp_path / "t.csv", *table)).findings
        assert name not in set(found["finding"]), found["sentence"].tolist()


def test_losses_without_a_spread_cannot_be_compared(tmp_path: Path) -> None:
    found = audit(write(tmp_path / "t.csv", LOSS | ONE | {"loss_spread": ""}, LOSS | OTHER)).findings
    [sentence] = found.loc[found["finding"] == "runs-not-stated", "sentence"]
    assert sentence == "no spread of the loss: cannot be compared with other (line 3)"


def test_epsilon_moves_what_saturation_and_equality_mean(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", LOSS | ONE | {"loss": "2.12000"}, LOSS | OTHER)
    assert {"not-saturated", "losses-differ"} <= set(audit(path).findings["finding"])
    assert audit(path, 0.05).findings.empty
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(UsageError, match="expected an ε > 0"):
            audit(path, wrong)


def test_the_slip_of_the_first_paper_is_named_in_either_unit(tmp_path: Path) -> None:
    for unit, scale in (("nats", 1.0), ("bits", math.log(2))):
        loss = 0.1300 / scale
        row = LOSS | {
            "unit": unit,
            "positions": "17",
            "loss": f"{loss:.5f}",
            "kl": f"{loss - math.log(8) / 8 / scale:.5f}",
        }
        findings = audit(write(tmp_path / "t.csv", row)).findings.set_index("finding")["sentence"]
        assert "which is ln(8)/8 of its 8 strings" in findings["negative-kl"]


def test_an_exchanged_power_is_named(tmp_path: Path) -> None:
    found = audit(write(tmp_path / "t.csv", TINY | {"prompt_set": "all", "prompts": "64"})).findings
    assert found["sentence"].tolist() == ["stated 64, where 256 are distinct: 8^2 in place of 2^8"]


def test_a_broken_row_names_those_that_are_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", ID | ONE | {"value": "0.100"}, ID | OTHER, ID | {"model": "third", "value": "0.5"})
    [first, _] = audit(path).findings.query("finding == 'broken-in-distribution'")["sentence"]
    assert first.endswith("where the language itself scores 1, and other (line 3) 1")


def test_equality_of_losses_is_two_one_sided_tests(tmp_path: Path) -> None:
    digits, epsilon = 0.5e-9, 0.01
    for spread in (0.001, 0.008, 0.009, 0.02):
        for loss in (2.08, 2.085, 2.0895):
            row = LOSS | {"positions": "string", "loss_spread": f"{spread}"}
            path = write(tmp_path / "t.csv", row | ONE | {"loss": "2.080000000"}, row | OTHER | {"loss": f"{loss:.9f}"})
            [pair] = audit(path, epsilon).comparisons.to_dict("records")
            sides = [
                stats.ttest_ind_from_stats(
                    loss + shift, spread, 5, 2.08, spread, 5, equal_var=False, alternative=side
                ).pvalue
                for shift, side in ((epsilon - 2 * digits, "greater"), (2 * digits - epsilon, "less"))
            ]
            differs = (
                stats.ttest_ind_from_stats(loss - 2 * digits, spread, 5, 2.08, spread, 5, equal_var=False).pvalue < 0.05
            )
            expected = "equal" if max(sides) < 0.05 else "differ" if differs and loss > 2.08 else "open"
            assert pair["loss_verdict"] == expected, (spread, loss)
            assert pair["loss_difference"] == pytest.approx(loss - 2.08)


def test_groups_and_measures_keep_rows_apart(tmp_path: Path) -> None:
    rows = [OOD | ONE | {"group": "x"}, OOD | OTHER | {"group": "y"}, ID | ONE | {"group": "x"}]
    assert audit(write(tmp_path / "t.csv", *rows)).comparisons.empty
    people = [OOD | ONE, OOD | {"model": "people"}]
    assert audit(write(tmp_path / "t.csv", *people)).comparisons.empty


def test_too_many_rows_to_compare_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", *[OOD] * 101)
    with pytest.raises(UsageError, match=r"expected at most 100 rows that are compared .* found 101 .* 'group'"):
        audit(path)


def test_needed_runs_have_the_power(tmp_path: Path) -> None:
    for difference, sd, other in ((0.1, 0.1, 0.1), (0.05, 0.2, 0.1), (0.3, 0.25, 0.3)):
        n = needed_runs(difference, sd, other)
        pooled = math.sqrt((sd**2 + other**2) / 2)
        power = [TTestIndPower().power(difference / pooled, runs, 0.05) for runs in (n - 2, n)]
        assert power[0] < 0.8
        assert power[1] > 0.795
    assert needed_runs(0.5, 0.0, 0.0) == 2
    assert math.isnan(needed_runs(0.0, 0.1, 0.1))
    assert math.isnan(needed_runs(0.1, math.nan, 0.1))


def test_the_smallest_p_is_that_of_all_splits() -> None:
    assert smallest_p(2, 4) == pytest.approx(2 / 15)
    assert smallest_p(1, 1) == 1
    assert smallest_p(4, 4) < 0.05
    assert smallest_p(1e9, 1e12) < 1e-3  # no factorials of a thousand million
    assert math.isnan(smallest_p(math.nan, 3))


def test_the_largest_spread_is_that_of_runs_at_the_ends(tmp_path: Path) -> None:
    for ones in range(1, 6):
        runs = np.repeat([1.0, 0.0], [ones, 6 - ones])
        row = OOD | {"n": "6", "value": f"{runs.mean():.3f}", "spread": f"{runs.std(ddof=1):.3f}"}
        found = set(audit(write(tmp_path / "t.csv", row)).findings["finding"])
        assert "impossible-spread" not in found
        assert "all-or-nothing" in found


def test_values_of_which_nothing_exact_is_known_are_named(tmp_path: Path) -> None:
    """A misspelled measure is no clean bill."""
    row = {"language": "anbn", "measure": "R1", "prompt_set": "ood", "value": "0.10", "prompt_length": "8"}
    others = ({"measure": "r1"}, {"prompt_set": "oodd"}, {"measure": "finish_rate"})
    assert audit(write(tmp_path / "t.csv", row, *(row | other for other in others))).unjudged() == [3, 4]
