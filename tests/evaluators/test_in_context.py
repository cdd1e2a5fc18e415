"""The evaluator without any training: the language, the uniform law, stop-at-once, an oracle, and laws made by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from scipy import stats
from statsmodels.stats.proportion import proportion_confint
from tiny_mixtures import OWN, SHARED, tiny

from lmtest.errors import UsageError
from lmtest.evaluators import answers
from lmtest.evaluators.answers import mean
from lmtest.evaluators.calibration import calibration_error
from lmtest.evaluators.in_context import InContext, InContextConfig
from lmtest.languages import load_language
from lmtest.languages.distinguishability import distinguishability
from lmtest.languages.hmm_mixture import HmmMixture
from lmtest.languages.in_context_prompts import ORDERS
from lmtest.models.reference import StopAtOnce, Uniform
from lmtest.models.transformer import Transformer, TransformerConfig

RICH: dict[str, Any] = SHARED | {"concepts": 3, "properties": 3, "entities": 2, "vocabulary": 7}
SPARSE: dict[str, Any] = OWN | {
    "properties": 4,
    "vocabulary": 4,
    "transitions": {"law": "permutation_mixture", "permutations": 2, "temperature": 1.0},
    "seed": 0,
}
"""Some prompts of unseen concepts have probability 0."""

CONFIG = InContextConfig(examples=[0, 1, 4], families=["seen", "unseen"], prompts=60, order_sets=3, order_tests=5)


@cache
def rich() -> InContext:
    return CONFIG.evaluator(tiny(40, RICH))


@cache
def sparse() -> InContext:
    config = InContextConfig(
        families=["seen", "unseen"], examples=[0, 1, 5], prompts=80, inner_delimiters=True, order_sets=4, order_tests=3
    )
    return config.evaluator(tiny(40, SPARSE))


def table(evaluator: InContext, model: Any, seeds: tuple[int, ...] = (0,)) -> pd.DataFrame:
    return evaluator.evaluate(model, seeds, 0)[0].set_index(["seed", "prompt_set", "measure"]).sort_index()


@cache
def transformer() -> Transformer:
    model = TransformerConfig(layers=1, width=8, heads=2, feed_forward=16).build(rich().language.vocabulary, (0, 5))
    with torch.no_grad():  # laws that are far from uniform
        model.parameters["output.weight"] *= 4
    return model


class Scripted:
    """The law behind a prompt [V] by a function of its row, one seed."""

    def __init__(self, language: HmmMixture, law: Callable[[tuple[int, ...]], Any]) -> None:
        self.size, self.law = language.vocabulary.n_outputs, law

    def next_log_probs(self, tokens: torch.Tensor) -> torch.Tensor:
        laws = torch.full((1, *tokens.shape, self.size), math.nan, dtype=torch.float64)
        for i, row in enumerate(tokens.tolist()):
            laws[0, i, -1] = torch.as_tensor(self.law(tuple(row[1:])), dtype=torch.float64).log()
        return laws


def certain(language: HmmMixture, symbol: int) -> np.ndarray:
    return np.eye(language.vocabulary.n_outputs)[symbol]


@pytest.mark.parametrize("evaluator", [rich, sparse], ids=["shared", "sparse"])
def test_the_language_is_measured_by_its_own_next_symbol_laws(evaluator: Callable[[], InContext]) -> None:
    language, found = evaluator().language, table(evaluator(), evaluator().language)
    for name, prompts in evaluator().prompt_sets.items():
        hits, label_probabilities, confidences = [], [], []
        for row, y in zip(prompts.rows, prompts.labels, strict=True):
            string = language.vocabulary.join(row)
            if language.prefix_log_prob([string])[0] > -math.inf:
                law = np.array([*language.next_symbol_law(string).values()])
                best = law >= law.max() - 1e-12
                hits.append(best[y] / best.sum())
                label_probabilities.append(law[y])
                confidences.append(law.max())
        rows = found.loc[0, name]
        for measure in ("accuracy", "accuracy_possible"):
            assert rows.loc[measure, "value"] == pytest.approx(np.mean(hits), abs=1e-12)
            assert rows.loc[measure, "count"] == len(hits)
            low, high = proportion_confint(sum(hits), len(hits), method="wilson")
            assert (rows.loc[measure, "lower"], rows.loc[measure, "upper"]) == pytest.approx((low, high), abs=1e-9)
        assert math.isnan(rows.loc["accuracy_impossible", "value"])
        assert rows.loc["accuracy_impossible", "count"] == 0
        assert rows.loc["label_probability", "value"] == pytest.approx(np.mean(label_probabilities), abs=1e-12)
        expected = calibration_error(np.array(confidences), np.array(hits), 15)
        assert rows.loc["calibration_error", "value"] == pytest.approx(expected, abs=1e-12)


def test_the_language_says_how_likely_prompts_are_and_what_they_tell() -> None:
    evaluator = sparse()
    language, found = evaluator.language, table(evaluator, evaluator.language)
    shares = set()
    for name, prompts in evaluator.prompt_sets.items():
        strings = [language.vocabulary.join(row) for row in prompts.rows]
        masses, rows = language.prefix_log_prob(strings), found.loc[0, name]
        live = masses > -math.inf
        posterior = language.posterior([s for s, alive in zip(strings, live, strict=True) if alive])
        entropy = [-sum(p * math.log(p) for p in each if p > 0) for each in posterior.tolist()]
        for measure, value, count in (
            ("zero_share", 1 - live.mean(), len(live)),
            ("log_mass", masses[live].mean(), live.sum()),
            ("posterior_entropy", np.mean(entropy), live.sum()),
            ("majority_rate", max(np.bincount(prompts.labels)) / len(live), len(live)),
        ):
            assert rows.loc[measure, "value"] == pytest.approx(value, abs=1e-9)
            assert rows.loc[measure, "count"] == count
            assert rows.loc[measure, "decoding"] == "exact"
        if prompts.family == "seen":
            true = posterior[np.arange(len(posterior)), prompts.concepts[live]]
            assert rows.loc["posterior", "value"] == pytest.approx(true.mean(), abs=1e-9)
        else:
            assert "posterior" not in rows.index
        shares.add(rows.loc["zero_share", "value"] > 0)
    assert shares == {False, True}
    worst = distinguishability(language.mixture, 3).query("start == 'worst'")
    row = found.loc[0, "concepts.k3"].loc["distinguishable"]
    assert row["value"] == worst.groupby("theta_star")["holds"].all().mean()
    assert row["count"] == 2


@pytest.mark.parametrize("evaluator", [rich, sparse], ids=["shared", "sparse"])
def test_the_uniform_law_scores_its_exact_chance(evaluator: Callable[[], InContext]) -> None:
    vocabulary = evaluator().language.vocabulary
    rows, details = evaluator().evaluate(Uniform(vocabulary), (0,), 0)
    rows = rows[rows["count"] > 0]
    assert rows["value"].to_numpy() == pytest.approx(rows["chance"].to_numpy(), abs=1e-15)
    for measure in ("accuracy", "label_probability"):
        assert (rows["chance"][rows["measure"] == measure] == 1 / vocabulary.n_outputs).all()
    assert {"calibration_error", "gain", "order_range"} <= set(rows["measure"][rows["chance"] == 0])
    # What stands for it in the table of answers is drawn.
    low, high = stats.binom.interval(0.999, len(details), 1 / vocabulary.n_outputs)
    assert low <= details["accuracy"].sum() <= high


def test_stopping_at_once_is_never_right() -> None:
    rows, details = rich().evaluate(StopAtOnce(rich().language.vocabulary), (0,), 0)
    right = rows[rows["measure"].isin(["accuracy", "label_probability", "gain", "order_range"])]
    assert (right["value"] == 0).all()
    assert (rows["value"][rows["measure"] == "calibration_error"] == 1).all()
    assert set(details["completion"]) == {"<eos>"}
    assert not details["accuracy"].any()


def test_an_oracle_is_always_right() -> None:
    evaluator = rich()
    labels = {
        row: y
        for prompts in (evaluator.prompt_sets | evaluator.orders).values()
        for row, y in zip(prompts.rows, prompts.labels.tolist(), strict=True)
        if prompts.n == 4  # shorter prompts are drawn under several concepts, with different labels
    }
    oracle = Scripted(evaluator.language, lambda row: certain(evaluator.language, labels.get(row, 1)))
    rows, details = evaluator.evaluate(oracle, (0,), 0)
    shown = ["seen.k3.n4", "unseen.k3.n4", "orders.k3"]
    rows = rows[rows["prompt_set"].isin(shown)].set_index(["measure", "prompt_set"])
    for measure in ("accuracy", "accuracy_possible", "label_probability"):
        assert (rows.loc[measure, "value"] == 1).all()
        assert rows.loc[measure, "upper"].to_numpy() == pytest.approx(1.0)
    assert (rows.loc["calibration_error", "value"] == 0).all()
    assert rows.loc[("order_range", "orders.k3"), "value"] == 0
    assert details["accuracy"][details["prompt_set"].isin(shown)].all()


def test_ties_are_shared_equally() -> None:
    [name] = [n for n in rich().prompt_sets if n == "seen.k3.n1"]
    language, prompts = rich().language, rich().prompt_sets[name]
    half = (certain(language, 1) + certain(language, 2)) / 2
    rows, details = rich().evaluate(Scripted(language, lambda _: half), (0,), 0)
    share = np.isin(prompts.labels, (1, 2)).mean() / 2
    row = rows.query("measure == 'accuracy' and prompt_set == @name").iloc[0]
    assert row["value"] == pytest.approx(share, abs=1e-12)
    drawn = details["completion"][details["prompt_set"] == name]
    assert set(drawn) == {language.symbols[1], language.symbols[2]}
    assert (details["confidence"] == 0.5).all()


def test_gains_are_paired_differences_on_the_same_test_inputs() -> None:
    found, details = rich().evaluate(transformer(), (0, 5), 0)
    rows = found.set_index(["seed", "prompt_set", "measure"])
    for seed in (0, 5):
        hits = {
            name: part["accuracy"].to_numpy(dtype=float)
            for name, part in details[details["seed"] == seed].groupby("prompt_set")
        }
        for family in ("seen", "unseen"):
            for n in (1, 4):
                difference = hits[f"{family}.k3.n{n}"] - hits[f"{family}.k3.n0"]
                row = rows.loc[(seed, f"{family}.k3.n{n}", "gain")]
                assert row["value"] == pytest.approx(difference.mean(), abs=1e-12)
                interval = stats.ttest_1samp(difference, 0).confidence_interval()
                assert (row["lower"], row["upper"]) == pytest.approx((interval.low, interval.high), abs=1e-9)
                assert row["count"] == 60
    assert not (rows.index.get_level_values("measure") == "gain")[rows.index.get_level_values(1) == "seen.k3.n0"].any()


def test_without_prompts_without_examples_there_are_no_gains() -> None:
    evaluator = InContextConfig(examples=[1, 2], prompts=5, order_sets=0).evaluator(tiny(20, RICH))
    rows, _ = evaluator.evaluate(Uniform(evaluator.language.vocabulary), (0,), 0)
    assert "gain" not in set(rows["measure"])
    assert {measure for measure, _, _ in evaluator.measured().values} == set(rows["measure"])


def test_order_ranges_are_those_of_accuracies_by_order() -> None:
    evaluator = rich()
    language, prompts = evaluator.language, evaluator.orders["orders.k3"]
    last = Scripted(
        language, lambda row: certain(language, row[-4] if len(row) > 3 else 0)
    )  # the last example's output
    row = table(evaluator, last).loc[(0, "orders.k3")]
    hits = [row[-4] == y for row, y in zip(prompts.rows, prompts.labels, strict=True)]
    ranges = []
    for i in range(3):
        of_set = hits[i * 24 * 5 : (i + 1) * 24 * 5]
        shares = [sum(of_set[j * 5 : (j + 1) * 5]) / 5 for j in range(len(ORDERS))]
        ranges.append(max(shares) - min(shares))
    assert max(ranges) > 0
    assert row.loc["order_range", "value"] == pytest.approx(np.mean(ranges), abs=1e-12)
    assert row.loc["order_range", "count"] == 3
    assert row.loc["accuracy", "value"] == pytest.approx(np.mean(hits), abs=1e-12)
    assert row.loc["accuracy", "count"] == 3 * 24 * 5


def test_orders_are_compared_on_the_test_inputs_that_have_a_law_in_all_of_them() -> None:
    evaluator = rich()
    language, prompts = evaluator.language, evaluator.orders["orders.k3"]
    lawless = {prompts.rows[0], *prompts.rows[240:]}  # one test of one order; and a whole set
    model = Scripted(
        language, lambda row: certain(language, row[-4]) * math.nan if row in lawless else certain(language, 1)
    )
    row = table(evaluator, model).loc[(0, "orders.k3")]
    undefined = [r in lawless for r in prompts.rows]
    assert row.loc["accuracy", "count"] == len(prompts.rows) - sum(undefined)
    assert row.loc["order_range", "count"] == 2
    assert row.loc["order_range", "value"] == 0


def test_impossible_prompts_are_counted_apart() -> None:
    evaluator = sparse()
    found = table(evaluator, Uniform(evaluator.language.vocabulary))
    both = 0
    for name, prompts in evaluator.prompt_sets.items():
        rows, dead = found.loc[0, name], np.isneginf(prompts.log_mass)
        assert rows.loc["accuracy", "count"] == len(dead)
        assert rows.loc["accuracy_impossible", "count"] == dead.sum()
        assert rows.loc["accuracy_possible", "count"] == (~dead).sum()
        assert math.isnan(rows.loc["accuracy_impossible", "value"]) == (not dead.any())
        both += 0 < dead.sum() < len(dead)
    assert both > 0
    _, details = evaluator.evaluate(evaluator.language, (0,), 0)
    assert details["possible"].all()
    assert details["accuracy"].dtype == bool


def test_a_model_without_any_law_has_no_numbers() -> None:
    rows, details = rich().evaluate(Scripted(rich().language, lambda _: math.nan), (0,), 0)
    assert (rows["count"] == 0).all()
    assert rows["value"].isna().all()
    assert len(details) == 0


def test_a_stack_answers_as_its_laws_do_each_seed_for_itself() -> None:
    model = transformer()
    found, details = rich().evaluate(model, (0, 5), 0)
    prompts = rich().prompt_sets["seen.k3.n4"]
    laws = model.next_log_probs(rich().language.vocabulary.pack(prompts.rows)[0])[:, :, -1].exp().numpy()
    for i, seed in enumerate((0, 5)):
        of_seed = details[(details["seed"] == seed) & (details["prompt_set"] == "seen.k3.n4")]
        assert of_seed["confidence"].to_numpy() == pytest.approx(laws[i].max(-1), abs=1e-6)
        label_probability = laws[i, np.arange(60), prompts.labels]
        assert of_seed["label_probability"].to_numpy() == pytest.approx(label_probability, abs=1e-6)
        right = laws[i].argmax(-1) == prompts.labels
        assert (of_seed["accuracy"].to_numpy() == right).all()
        row = found.query("seed == @seed and prompt_set == 'seen.k3.n4' and measure == 'accuracy'").iloc[0]
        assert row["value"] == pytest.approx(right.mean(), abs=1e-12)


@pytest.mark.parametrize("chunk", [1, 4000])
def test_no_answer_depends_on_the_batch(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    whole, whole_details = rich().evaluate(transformer(), (0, 5), 0)
    monkeypatch.setattr(answers, "CHUNK", chunk)
    parts, part_details = rich().evaluate(transformer(), (0, 5), 0)
    assert parts["value"].to_numpy() == pytest.approx(whole["value"].to_numpy(), abs=1e-6, nan_ok=True)
    assert (part_details["completion"] == whole_details["completion"]).all()


def test_what_is_announced_is_what_is_measured() -> None:
    rows, details = rich().evaluate(transformer(), (0, 5), 0)
    announced = rich().measured()
    assert {*rows[["measure", "prompt_set", "decoding"]].itertuples(index=False, name=None)} == set(announced.values)
    sets = {("accuracy", *pair) for pair in details[["prompt_set", "decoding"]].itertuples(index=False, name=None)}
    assert sets == set(announced.outcomes)
    assert set(announced.outcomes) <= set(announced.values)
    assert not rows.duplicated(["seed", "measure", "prompt_set", "decoding"]).any()


def test_answers_are_a_row_a_seed_and_prompt() -> None:
    _, details = rich().evaluate(transformer(), (0, 5), 0)
    sets = rich().prompt_sets | rich().orders
    assert len(details) == 2 * sum(len(prompts.rows) for prompts in sets.values())
    assert details.index.is_unique
    assert details["finished"].all()
    assert set(details["evaluator"]) == {"in_context"}
    for (_, name), part in details.groupby(["seed", "prompt_set"]):
        prompts = sets[name]  # type: ignore[index]
        vocabulary = rich().language.vocabulary
        assert part["prompt"].to_list() == [vocabulary.text(vocabulary.join(row)) for row in prompts.rows]
        assert part["label"].to_list() == [vocabulary.symbols[y] for y in prompts.labels]
        assert part["weight"].sum() == pytest.approx(1.0)
        assert (part["accuracy"] == (part["completion"] == part["label"])).all()


def test_the_probe_is_the_accuracy_with_the_fewest_and_the_most_examples() -> None:
    probed = pd.DataFrame(rich().probe(transformer(), (0, 5), 0))
    assert set(probed["prompt_set"]) == {"seen.k3.n0", "seen.k3.n4"}
    assert set(probed["measure"]) == {"accuracy"}
    whole, _ = rich().evaluate(transformer(), (0, 5), 0)
    both = probed.merge(whole, on=["seed", "measure", "prompt_set", "decoding"])
    assert len(both) == len(probed) == 4
    assert (both["value_x"] == both["value_y"]).all()
    assert rich().probed_at(10, 4) == {0, 4, 8, 10}


def test_sizes_count_prompts_and_add_the_masses_of_distinct_ones() -> None:
    sizes = rich().sizes()
    assert set(sizes) == {*rich().prompt_sets, "orders.k3"}
    language, prompts = rich().language, rich().prompt_sets["seen.k3.n0"]
    mass = np.exp(language.prefix_log_prob([language.vocabulary.join(row) for row in set(prompts.rows)])).sum()
    assert sizes["seen.k3.n0"].count == 60
    assert sizes["seen.k3.n0"].mass == pytest.approx(mass, abs=1e-12)
    assert sizes["orders.k3"].count == 3 * 24 * 5


def test_repeated_lengths_examples_and_families_count_once() -> None:
    config = InContextConfig(lengths=[3, 2, 3], examples=[2, 0, 2], families=["seen", "seen"], prompts=3, order_sets=1)
    evaluator = config.evaluator(tiny(30, RICH))
    assert [*evaluator.prompt_sets] == ["seen.k3.n2", "seen.k3.n0", "seen.k2.n2", "seen.k2.n0"]
    assert [*evaluator.orders] == ["orders.k3", "orders.k2"]
    assert evaluator.longest == 4 * 4 + 2 + 1


def test_intervals_of_means() -> None:
    assert all(map(math.isnan, mean(np.empty(0))))
    assert mean(np.array([2.0]))[0] == 2.0
    assert math.isnan(mean(np.array([2.0]))[1])
    assert mean(np.full(5, 0.25)) == (0.25, 0.25, 0.25)
    values = np.array([0.0, 1.0, 4.0])
    interval = stats.ttest_1samp(values, 0).confidence_interval()
    assert mean(values) == pytest.approx((5 / 3, interval.low, interval.high))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"lengths": [1]}, "in_context: expected examples of at least 2 symbols"),
        ({"lengths": [20]}, "k = 20 symbols and a delimiter do not fit documents of tiny, which have 20"),
        ({"examples": [0, 5]}, "n = 5 examples of length 3 has 22 symbols, documents of tiny have 20"),
        ({"examples": [0], "lengths": [4]}, "n = 4 .* 0 leaves them out"),
        ({"examples": [-1]}, "number of examples ≥ 0, found n = -1"),
    ],
)
def test_prompts_that_do_not_fit_a_document_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        InContextConfig(**({"examples": [0, 1]} | config)).evaluator(tiny(20, RICH))


@pytest.mark.parametrize(
    "config",
    [
        {"lengths": []},
        {"examples": []},
        {"families": ["foreign"]},
        {"prompts": 0},
        {"unseen": 0},
        {"order_sets": -1},
        {"bins": 0},
        {"prompt_seed": -1},
        {"n": 3},
    ],
)
def test_tables_that_make_no_sense_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        InContextConfig(**config)


def test_other_languages_are_refused() -> None:
    with pytest.raises(UsageError, match="expected a language of kind 'hmm_mixture', found anbn_small"):
        InContextConfig().evaluator(load_language("anbn_small"))


def test_who_knows_the_concept_is_calibrated_for_drawn_answers_and_not_for_labels() -> None:
    evaluator = InContextConfig(examples=[16], prompts=400, order_sets=0).evaluator(load_language("ginc_shared"))
    rows, _ = evaluator.evaluate(evaluator.language, (0,), 0)
    found = rows[rows["prompt_set"] == "seen.k3.n16"].set_index("measure")["value"]
    prompts = evaluator.prompt_sets["seen.k3.n16"]
    assert np.allclose(prompts.truth.sum(-1), 1)
    assert found["calibration_error_drawn"] < 0.05 < 0.3 < found["calibration_error"]
