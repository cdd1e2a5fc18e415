"""How often simulated verdicts are wrong: the documentation's table, simulated again, and the laws behind it."""

from __future__ import annotations

import math
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from lmtest.claims import calibration as c
from lmtest.claims import calibration_page as page
from lmtest.claims import statistics as st
from lmtest.seeds import generator

PAGE = (Path(__file__).parents[2] / "docs" / "calibration.md").read_text(encoding="utf-8")
AGAIN = [
    c.Setting("threshold", "normal, equal spreads"),
    c.Setting("threshold", "0 or 1, mostly 1"),
    c.Setting("threshold", "one in ten fails, no two equal"),
    c.Setting("order", "normal, spreads 1 to 4"),
    c.Setting("order", "one value, then 0 or 1"),
    c.Setting("order", "0.5 or 1", paired=True),
    c.Setting("order", "one value, then 0 or 1", margin=0.0),
    c.Setting("difference", "0.5 or 1", paired=True, margin=0.0),
    c.Setting("difference", "rounded to 1/20"),
    c.Setting("equivalence", "normal, equal spreads"),
    c.Setting("equivalence", "skewed to the right", paired=True),
    c.Setting("trend", "cut at 1.0", paired=True),
    c.Setting("correlation", c.REVERSED, paired=True),
    c.Setting("heterogeneity", "one law, prompts of all kinds"),
    c.Setting("heterogeneity", "0.5 or 1, mostly 1, at the margin"),
]


def shown(setting: c.Setting, n: int) -> list[float]:
    """The three percentages of a cell of the page: false supported, false refuted, power."""
    section = PAGE.split(f"\n## {setting.kind.capitalize()}: ")[1].split("\n## ")[0]
    [line] = [line for line in section.splitlines() if line.startswith(f"| {page.label(setting)} |")]
    text = line.split("|")[2 + page.SEEDS.index(n)].replace("*", "")
    return [math.nan if number.strip() == "–" else float(number) for number in text.split("/")]


@pytest.mark.parametrize("setting", AGAIN, ids=str)
def test_other_draws_agree_with_the_page_within_four_standard_errors(setting: c.Setting) -> None:
    n, studies = 8, 400
    edge = c.rates(setting, n, studies, seed=1)
    again = [*edge, c.rates(setting, n, studies // 2, seed=1, power=True).supported]
    times = [(studies, page.STUDIES)] * 2 + [(studies // 2, page.FOR_POWER)]
    for found, wanted, (here, there) in zip(again, shown(setting, n), times, strict=True):
        if math.isnan(wanted):
            assert math.isnan(found)
            continue
        rate = max((100 * found * here + wanted * there) / (here + there), 0.5) / 100
        error = math.sqrt(rate * (1 - min(rate, 0.995)) * (1 / here + 1 / there))
        assert found == pytest.approx(wanted / 100, abs=4 * error + 0.005)


def test_a_cell_of_the_page_is_made_again_to_the_byte() -> None:
    setting = c.Setting("threshold", "0.5 or 1")
    assert f"| {page.cell(setting, 8)} |" in PAGE


def test_the_words_of_the_page_are_those_of_its_maker() -> None:
    top = page.TOP.format(studies=page.STUDIES, power=page.FOR_POWER, margin=c.MARGIN, spread=c.SPREAD, beyond=c.BEYOND)
    assert PAGE.startswith(top + "\n## ")
    assert PAGE.endswith(page.BREAKS)


def test_the_page_shows_every_setting_and_a_bold_number_wherever_an_error_is_too_frequent() -> None:
    for setting in c.settings():
        for n in page.SEEDS:
            assert len(shown(setting, n)) == 3
    for error in re.findall(r"\*\*([\d.]+)\*\*", PAGE):
        assert float(error) > 100 * page.TOO_OFTEN * 0.025 - 0.05


@pytest.mark.parametrize("kind", ["threshold", "order", "difference", "equivalence", "trend"])
@pytest.mark.parametrize("law", ["0 or 1, mostly 1", "0 or 1, mostly 0", "0.5 or 1"])
def test_two_values_are_no_longer_mistaken_for_evidence(kind: str, law: str) -> None:
    setting, studies = c.Setting(kind, law, paired=kind == "trend"), 300
    found = c.rates(setting, 5, studies)
    assert found.supported <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / studies)
    assert found.refuted <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / studies)


def test_without_the_guard_eight_perfect_seeds_support_what_is_not_true() -> None:
    setting = c.Setting("threshold", "0 or 1, mostly 1")
    assert c.rates(setting, 8, 400, guard=False).supported == pytest.approx(0.9**8, abs=0.1)
    assert c.rates(setting, 8, 400).supported == 0


def test_ten_untrue_claims_seldom_have_one_that_is_supported_after_holm() -> None:
    studies = 200
    assert c.family_wise("threshold", 8, studies) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / studies)


@pytest.mark.parametrize("name", c.LAWS)
def test_each_law_has_the_mean_that_it_says(name: str) -> None:
    law, rng = c.LAWS[name], generator(3, name)
    for mean in (*c.means(law, c.MARGIN), *c.means(law, 2 * c.BEYOND)):
        x = law.draw(rng, mean, 40_000, 1)
        assert x.mean() == pytest.approx(mean, abs=5 * x.std() / 200 + 1e-9)


@pytest.mark.parametrize("name", c.SPREADS)
def test_the_margin_of_spreads_is_their_standard_deviation(name: str) -> None:
    x = c.SPREADS[name](generator(4, name), 200_000)
    assert x.std() == pytest.approx(c.SPREAD, rel=0.02)


@pytest.mark.parametrize("kind", ["trend", "correlation"])
def test_what_is_rarely_the_other_way_round_has_no_correlation_in_the_mean(kind: str) -> None:
    samples = c.draw(c.Setting(kind, c.REVERSED), 40_000, generator(5, kind), power=False)
    outcomes = list(samples.values.values())
    found = st.rises(outcomes) if kind == "trend" else st.rank_correlations(list(samples.predictors.values()), outcomes)
    assert found.mean() == pytest.approx(0, abs=0.02)
    assert np.median(found) > 0.3


@pytest.mark.parametrize("n", [3, 5])
def test_with_equal_numbers_of_seeds_the_studentised_permutation_test_is_the_one_on_means(n: int) -> None:
    rng = np.random.default_rng(6)
    for _ in range(10):
        a, b = rng.normal(0, 1, n), rng.exponential(4, n)
        pooled = np.concatenate([a, b])

        def t(chosen: tuple[int, ...], pooled: np.ndarray = pooled) -> float:
            one, other = pooled[list(chosen)], np.delete(pooled, chosen)
            return float((one.mean() - other.mean()) / math.sqrt((one.var(ddof=1) + other.var(ddof=1)) / n))

        found = np.array([t(chosen) for chosen in combinations(range(2 * n), n)])
        observed = t(tuple(range(n, 2 * n)))
        assert st.greater(a, b) == pytest.approx((found >= observed - 1e-9).mean())
