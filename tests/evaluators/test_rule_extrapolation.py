"""The evaluator, validated without any training: language, rule keeper, uniform law, stop-at-once."""

import math
from functools import cache

import numpy as np
import pandas as pd
import pytest

from lmtest.errors import UsageError
from lmtest.evaluators.rule_extrapolation import RuleExtrapolation, RuleExtrapolationConfig, clustered_share
from lmtest.languages import load_language
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
    assert all(math.isnan(x) for x in clustered_share(np.array([], dtype=bool), np.array([])))


def test_repeated_prompts_widen_the_interval() -> None:
    outcomes = np.array([True, False] * 50)
    share, lower, upper = clustered_share(outcomes, np.arange(100))
    same, tied_lower, tied_upper = clustered_share(outcomes, np.arange(100) % 2)
    assert share == same == 0.5
    assert tied_upper - tied_lower > 2 * (upper - lower)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"prompt_length": 0}, "prompt length of at least 1, found 0"),
        ({"prompt_length": 40}, "more than 1000000"),
        ({"heldout": 1.0}, "strictly between 0 and 1"),
        ({"heldout": 0.001}, "leaves a part empty"),
    ],
)
def test_prompts_that_cannot_be_are_refused(table: dict[str, float], message: str) -> None:
    broken = RuleExtrapolationConfig(**table).evaluator(load_language("anbn_small"))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=message):
        _ = broken.prompt_sets


def test_a_length_without_impossible_prompts_is_refused() -> None:
    language = load_language("palindromes")  # every prefix can become a palindrome
    with pytest.raises(UsageError, match="none is out of distribution"):
        _ = RuleExtrapolationConfig(prompt_length=3).evaluator(language).prompt_sets
