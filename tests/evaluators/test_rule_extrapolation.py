"""The evaluator, validated without any training: language, rule keeper, uniform law, stop-at-once."""

import math
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from brute_force import load
from statsmodels.stats.proportion import proportion_confint

from lmtest.errors import UsageError
from lmtest.evaluators.chance import uniform_chance
from lmtest.evaluators.rule_extrapolation import (
    RuleExtrapolation,
    RuleExtrapolationConfig,
    clustered_share,
    weighted_mean,
    wilson,
)
from lmtest.languages import Language, load_language
from lmtest.models.reference import reference_models

FINISHES = RuleExtrapolationConfig(max_new_tokens=34, samples=2000)


@cache
def evaluator() -> RuleExtrapolation:
    return FINISHES.evaluator(load_language("anbn_small"))


@cache
def table(model: str) -> pd.DataFrame:
    measurements, _ = evaluator().evaluate(reference_models(evaluator().language)[model], (0,), 0)
    return measurements.set_index(["prompt_set", "decoding", "measure"]).sort_index()


@cache
def completions(model: str) -> pd.DataFrame:
    return evaluator().evaluate(reference_models(evaluator().language)[model], (0,), 0)[1]


def test_prompts_split_as_in_the_paper() -> None:
    counts = {name: len(prompts.rows) for name, prompts in evaluator().prompt_sets.items()}
    assert counts == {"id": 5, "ood_trained": 125, "ood_heldout": 126, "empty": 1}
    trained, heldout = (set(evaluator().prompt_sets[name].rows) for name in ("ood_trained", "ood_heldout"))
    assert not trained & heldout


@pytest.mark.parametrize("model", ["language", "rule_keeper"])
@pytest.mark.parametrize("prompt_set", ["id", "empty"])
@pytest.mark.parametrize("decoding", ["greedy", "sampled"])
def test_the_language_reaches_the_ceiling_in_distribution(model: str, prompt_set: str, decoding: str) -> None:
    for measure in ("R1", "R1_finished", "R2", "nonempty", "grammatical", "finish_rate"):
        assert table(model).loc[(prompt_set, decoding, measure), "value"] == 1.0


@pytest.mark.parametrize("prompt_set", ["ood", "ood_trained", "ood_heldout"])
def test_the_rule_keeper_sets_the_ceiling_out_of_distribution(prompt_set: str) -> None:
    rows = table("rule_keeper").loc[(prompt_set, "greedy")]
    for measure in ("R1", "R1_finished", "R2_completion", "finish_rate"):
        assert rows.loc[measure, "value"] == 1.0
    assert rows.loc["grammatical", "value"] == 0.0


def test_the_language_has_no_law_out_of_distribution() -> None:
    rows = table("language").loc["ood"]
    assert rows["value"].isna().all()
    assert (rows["count"] == 0).all()
    assert set(completions("language")["prompt_set"]) == {"id", "empty"}


@pytest.mark.parametrize("decoding", ["greedy", "sampled"])
def test_the_uniform_law_matches_its_exact_chance(decoding: str) -> None:
    rows = table("uniform").reset_index()
    rows = rows[(rows["decoding"] == decoding) & (rows["count"] >= 100)]
    assert len(rows) > 20
    # Rows of one prompt set share their completions; three standard errors hold for all of them at this seed.
    spread = np.sqrt((rows["chance"] * (1 - rows["chance"])).clip(lower=0) / rows["count"])
    assert ((rows["value"] - rows["chance"]).abs() <= 3.5 * spread + 1e-12).all()


def test_stopping_at_once_scores_what_the_prompts_are() -> None:
    rows = table("stop").loc[("ood", "greedy")]
    assert rows.loc["R1", "value"] == pytest.approx(69 / 251)  # 69 of the 251 have #a = #b already
    assert rows.loc["R2_completion", "value"] == 1.0
    assert rows.loc["finish_rate", "value"] == 1.0
    assert rows.loc["R1", "count"] == 251
    assert rows.loc["R1", "chance"] == pytest.approx(0.154, abs=5e-4)


def test_an_unfinished_completion_fails_and_leaves_the_finished_ones_alone() -> None:
    short = RuleExtrapolationConfig(max_new_tokens=3).evaluator(load_language("anbn_small"))
    keeper = reference_models(short.language)["rule_keeper"]
    rows = short.evaluate(keeper, (0,), 0)[0].set_index(["prompt_set", "decoding", "measure"]).sort_index()
    rows = rows.loc[("ood", "greedy")]
    finish = rows.loc["finish_rate", "value"]
    assert 0 < finish < 1
    assert rows.loc["R1", "value"] == finish
    assert rows.loc["R1_finished", "value"] == 1.0
    assert rows.loc["R1_finished", "count"] == round(finish * 251)


def test_outcomes_stand_prompt_by_prompt() -> None:
    rows = completions("stop")
    greedy = rows[(rows["decoding"] == "greedy") & rows["prompt_set"].isin(["ood_trained", "ood_heldout"])]
    assert len(greedy) == 251
    assert (greedy["completion"] == "").all()
    assert greedy["R1"].sum() == 69
    assert (greedy["broken"] == "joint").sum() == 4
    equal = greedy["prompt"].str.count("a") == greedy["prompt"].str.count("b")
    assert (equal == greedy["R1"]).all()


def test_nothing_counted_is_nan_and_never_zero() -> None:
    assert all(math.isnan(x) for x in clustered_share(np.array([], dtype=bool), np.array([]), np.array([])))


@pytest.mark.parametrize(("share", "n"), [(0.0, 5.0), (0.3, 12.5), (0.999, 1e6), (1.0, 1.0)])
def test_wilson_is_that_of_statsmodels(share: float, n: float) -> None:
    assert wilson(share, n) == pytest.approx(proportion_confint(share * n, n, method="wilson"), abs=1e-15)


def test_repeated_prompts_widen_the_interval() -> None:
    outcomes = np.array([True, False] * 50)
    share, lower, upper = clustered_share(outcomes, np.arange(100), np.ones(100))
    same, tied_lower, tied_upper = clustered_share(outcomes, np.arange(100) % 2, np.ones(100))
    assert share == same == 0.5
    assert tied_upper - tied_lower > 2 * (upper - lower)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"prompt_length": 0}, "prompt length of at least 1, found 0"),
        ({"prompt_length": 40}, "more than 1000000"),
        ({"heldout": 0.0}, "strictly between 0 and 1"),
        ({"heldout": 1.1}, "strictly between 0 and 1"),
        ({"heldout": 0.001}, "leaves a part empty"),
    ],
)
def test_prompts_that_cannot_be_are_refused(table: dict[str, Any], message: str) -> None:
    broken = RuleExtrapolationConfig(**table).evaluator(load_language("anbn_small"))
    with pytest.raises(UsageError, match=message):
        _ = broken.prompt_sets


def test_a_length_without_impossible_prompts_is_refused() -> None:
    language = load_language("palindromes")  # every prefix can become a palindrome
    with pytest.raises(UsageError, match="none is out of distribution"):
        _ = RuleExtrapolationConfig(prompt_length=3).evaluator(language).prompt_sets


# Weights: published prompts, and intervals.


def bban(*prompts: dict[str, Any]) -> Language:
    """bⁿ aᵐ with an even number of a's: its impossible prompts start with a."""
    laws = {"n": {"law": "uniform", "low": 1, "high": 8}, "m": {"law": "uniform", "low": 0, "high": 4}}
    rules = {"R1": {"count": "a % 2 == 0"}, "R2": {"regex": "b*a*"}}
    return load(kind="template", template="b^n a^{2m}", **laws, rules=rules, prompts=list(prompts))


WEIGHTED = (
    {"regex": "ab{3}a*", "length": 6, "weight": 3.0},
    {"regex": "ab*a*", "length": 6},
    {"regex": "b*", "length": 6},
)
"""Out of distribution: the six strings abᵏa⁵⁻ᵏ with k > 0; k = 3 weighs four times as much as each of the others."""


def published(language: Language, **keys: Any) -> RuleExtrapolation:
    return RuleExtrapolationConfig(prompts="published", max_new_tokens=6, **keys).evaluator(language)


def rows_of(evaluator: RuleExtrapolation, model: str) -> pd.DataFrame:
    measurements, _ = evaluator.evaluate(reference_models(evaluator.language)[model], (0,), 0)
    assert not measurements.duplicated(["prompt_set", "decoding", "measure"]).any()
    return measurements.set_index(["prompt_set", "decoding", "measure"]).sort_index()


def test_published_prompts_are_the_files_own() -> None:
    evaluator = published(bban(*WEIGHTED), heldout=1)
    assert {name: len(prompts.rows) for name, prompts in evaluator.prompt_sets.items()} == {
        "id": 1,
        "ood": 6,
        "empty": 1,
    }
    assert sorted(evaluator.prompt_sets["ood"].weights * 9) == pytest.approx([1, 1, 1, 1, 1, 4])
    assert evaluator.longest_prompt == 6
    assert evaluator.trainable == []


def test_published_prompts_of_a_file_without_any_are_refused() -> None:
    with pytest.raises(UsageError, match="language has no published prompts"):
        _ = published(bban()).prompt_sets


def test_a_weighted_prompt_counts_like_so_many_of_it() -> None:
    language = bban(*WEIGHTED)
    evaluator = published(language, heldout=1, decodings=["greedy"])
    prompts = evaluator.prompt_sets["ood"]
    times = np.rint(prompts.weights * 9).astype(int)
    many = [row for row, n in zip(prompts.rows, times, strict=True) for _ in range(n)]
    chance = uniform_chance(language, many, 6)
    for model in ("stop", "rule_keeper"):
        rows = rows_of(evaluator, model).loc[("ood", "greedy")]
        tables = evaluator.evaluate(reference_models(language)[model], (0,), 0)[1]
        single = tables[tables["prompt_set"] == "ood"]
        assert single["weight"].tolist() == prompts.weights.tolist()
        repeated = single.loc[single.index.repeat(times)]
        for measure in ("R1", "R2", "R1_completion", "R2_completion", "grammatical"):
            assert rows.loc[measure, "value"] == pytest.approx(repeated[measure].mean(), abs=1e-12)
            assert rows.loc[measure, "chance"] == pytest.approx(chance[measure].mean(), abs=1e-12)
            assert rows.loc[measure, "count"] == 6
        conditional = chance["R1"].mean() / chance["finish_rate"].mean()
        assert rows.loc["R1_finished", "chance"] == pytest.approx(conditional, abs=1e-12)
    stop = rows_of(evaluator, "stop").loc[("ood", "greedy", "R1"), "value"]
    even = sum(row.count(language.symbols.index("a")) % 2 == 0 for row in many)
    assert stop == pytest.approx(even / 9, abs=1e-12)
    assert stop != pytest.approx(0.5)  # what it would be without weights


@pytest.mark.parametrize("heldout", [0.5, 1.0])
@pytest.mark.parametrize("model", ["stop", "rule_keeper"])
def test_pooled_prompts_keep_their_weights_however_they_are_split(heldout: float, model: str) -> None:
    language = bban({"regex": "ab{3}a*", "length": 6, "weight": 7.0}, {"regex": "a[ab]*", "length": 6})
    greedy = rows_of(published(language, heldout=heldout, split_seed=1), model).loc[("ood", "greedy")]
    whole = rows_of(published(language, heldout=1), model).loc[("ood", "greedy")]
    pd.testing.assert_frame_equal(greedy, whole, rtol=1e-12)


def test_sampled_prompts_weigh_the_same_however_often_their_part_repeats_them() -> None:
    split = RuleExtrapolationConfig(max_new_tokens=2, heldout=0.1, samples=300).evaluator(load_language("anbn_small"))
    rows = rows_of(split, "stop").loc[("ood", "sampled")]
    assert rows.loc["R1", "count"] == 226 * 2 + 25 * 12
    assert rows.loc["R1", "value"] == pytest.approx(69 / 251)


def test_without_a_split_all_impossible_prompts_are_one_set() -> None:
    language = load_language("anbn_small")
    config = {"max_new_tokens": 4, "samples": 10}
    whole = RuleExtrapolationConfig(heldout=1, **config).evaluator(language)
    split = RuleExtrapolationConfig(heldout=0.5, **config).evaluator(language)
    assert list(whole.prompt_sets) == ["id", "ood", "empty"]
    assert len(whole.prompt_sets["ood"].rows) == 251
    assert whole.trainable == []
    assert split.trainable == split.prompt_sets["ood_trained"].rows
    assert whole.longest_prompt == split.longest_prompt == 8
    keeper = reference_models(language)["rule_keeper"]
    assert pd.DataFrame(whole.probe(keeper, (0,), 0)).equals(pd.DataFrame(split.probe(keeper, (0,), 0)))
    rows = rows_of(whole, "stop")
    assert rows.loc[("ood", "greedy", "R1"), "value"] == pytest.approx(69 / 251)
    assert set(rows.index.get_level_values(0)) == {"id", "ood", "empty"}


def test_temperature_is_of_sampled_decoding_alone() -> None:
    language = load_language("anbn_small")
    cold, warm = (
        RuleExtrapolationConfig(max_new_tokens=40, samples=200, temperature=t).evaluator(language) for t in (1e-3, 1.0)
    )
    tables = [e.evaluate(language, (0,), 0)[1] for e in (cold, warm)]
    greedy, sampled = ([table[table["decoding"] == how] for table in tables] for how in ("greedy", "sampled"))
    assert greedy[0].equals(greedy[1])
    lengths = [set(table.loc[table["prompt_set"] == "empty", "completion"].str.len()) for table in sampled]
    # One more a is the likelier, until at a¹⁵ both go on with probability 1/2: cold, nothing shorter is drawn.
    assert lengths == [{30, 32}, set(range(2, 33, 2))]


def test_equal_weights_change_nothing() -> None:
    outcomes, clusters = np.arange(251) // 4 % 2 == 0, np.arange(251) // 3
    share, lower, upper = clustered_share(outcomes, np.arange(251), np.full(251, 1 / 251))
    assert share == outcomes.mean()
    assert (lower, upper) == pytest.approx(proportion_confint(share * 251, 251, method="wilson"), abs=1e-15)
    tied = clustered_share(outcomes, clusters, np.ones(251))
    assert clustered_share(outcomes, clusters, np.full(251, 0.1)) == tied
    # The design effect of equal weights, written out.
    residuals = np.bincount(clusters, outcomes - share)
    effective = share * (1 - share) / ((residuals**2).sum() / 251**2 * 84 / 83)
    assert 84 < effective < 251
    assert tied[1:] == pytest.approx(proportion_confint(share * effective, effective, method="wilson"), abs=1e-15)
    values = np.linspace(0, 1, 251) ** 2
    assert weighted_mean(values, np.full(251, 0.3)) == values.mean()


def test_unequal_weights_widen_the_interval_as_kish_says() -> None:
    outcomes, weights = np.array([True, False, True, False]), np.array([4.0, 1.0, 1.0, 1.0])
    share, lower, upper = clustered_share(outcomes, np.arange(4), weights)
    assert share == 5 / 7
    assert (lower, upper) == pytest.approx(proportion_confint(5 / 7 * 49 / 19, 49 / 19, method="wilson"))
    # A hundred outcomes that agree within each prompt are worth about as much as the prompts, not as much as 400.
    _, low, high = clustered_share(np.tile(outcomes, 100), np.arange(400) % 4, np.tile(weights, 100))
    assert (upper - lower) / 1.3 < high - low <= upper - lower
    # A prompt that hardly weighs anything is as good as not there.
    light = clustered_share(outcomes, np.arange(4), np.array([1.0, 1.0, 1.0, 1e-9]))
    assert light == pytest.approx(clustered_share(outcomes[:3], np.arange(3), np.ones(3)), abs=1e-6)


def test_exact_ties_are_broken_often_enough_to_meet_the_chance_level() -> None:
    """One greedy completion of the uniform law is a matter of luck; the evaluator takes as many as of sampled decoding."""
    language = load_language("brackets_nested_small")
    config = RuleExtrapolationConfig(prompts="published", heldout=1.0, max_new_tokens=40, samples=2000)
    rows = rows_of(config.evaluator(language), "uniform").loc[("ood", "greedy")]
    assert rows.loc["R1", "count"] >= 2000
    assert rows.loc["R1", "lower"] <= rows.loc["R1", "chance"] <= rows.loc["R1", "upper"]
