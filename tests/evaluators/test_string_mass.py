"""The mass of short strings, against brute force over all of them; and models whose masses are known in closed form."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from explicit_language import ExplicitLanguage, all_rows, explicit_anbn

from lmtest.errors import UsageError
from lmtest.evaluators import string_mass
from lmtest.evaluators.string_mass import StringMass, StringMassConfig, label_masses, rule_truths
from lmtest.languages import Language, load_language
from lmtest.languages.rules import compile_rules
from lmtest.models.reference import StopAtOnce, Uniform, reference_models
from lmtest.models.transformer import Transformer, TransformerConfig

MIXED = ExplicitLanguage(
    "abc",
    {"": 0.125, "ab": 0.25, "abc": 0.125, "cabba": 0.25, "cab": 0.25},
    {"starts": {"regex": "([ac].*)?"}, "few": {"count": "a <= 1"}, "ab": {"count": "a <= b"}},
)
CLASSES = ["mass_R1_R2", "mass_R1", "mass_R2", "mass_none"]


def evaluator(language: Language, max_length: int = 8, rules: tuple[str, ...] = ("R1", "R2")) -> StringMass:
    return StringMassConfig(max_length=max_length, rules=list(rules)).evaluator(language)


def values(rows: list[dict[str, Any]], seed: int = 0, column: str = "value") -> dict[str, float]:
    return {row["measure"]: row[column] for row in rows if row["seed"] == seed}


def transformer(language: Language, seeds: tuple[int, ...] = (0, 1, 2)) -> Transformer:
    model = TransformerConfig(layers=2, width=8, heads=2, feed_forward=16).build(language.vocabulary, seeds)
    with torch.no_grad():  # laws that are far from uniform
        model.parameters["output.weight"] *= 4
    return model


def string_probability(model: Any, language: Language, row: tuple[int, ...]) -> np.ndarray:
    """[S]: the string is read as a whole, by itself."""
    tokens, _ = language.vocabulary.pack([row])
    laws = model.next_log_probs(tokens)[:, 0]
    return laws[:, range(len(row) + 1), [*row, language.vocabulary.eos]].sum(-1).exp().numpy()


def brute_force(language: Language, model: Any, max_length: int, rules: tuple[str, ...]) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for row in all_rows(len(language.symbols), max_length):
        p = np.nan_to_num(string_probability(model, language, row))  # the language has no law behind a dead prefix
        kept = [name for name in rules if language.rules[name].accepts(language.rules[name].run(row))]
        grammatical = bool(language.log_prob_ids([row]) > -math.inf)
        said = ("_".join(["mass", *(kept or ["none"])]), "mass", *["mass_grammatical"] * grammatical)
        for name in said if row else ("mass_empty",):
            found[name] = found.get(name, np.zeros(len(p))) + p
    return found


@pytest.mark.parametrize("rules", [("starts", "few"), ("ab",), ("ab", "few", "starts")])
@pytest.mark.parametrize("name", ["language", "uniform", "stop", "rule_keeper", "transformer"])
def test_masses_are_those_of_all_strings_one_by_one(name: str, rules: tuple[str, ...]) -> None:
    model: Any = transformer(MIXED, (0, 7)) if name == "transformer" else reference_models(MIXED)[name]
    seeds = (0, 7) if name == "transformer" else (0,)
    rows = evaluator(MIXED, 4, rules).probe(model, seeds)
    truth = brute_force(MIXED, model, 4, rules)
    for i, seed in enumerate(seeds):
        for measure, value in values(rows, seed).items():
            assert value == pytest.approx(truth.get(measure, np.zeros(2))[i], abs=1e-6)
    assert set(truth) <= set(values(rows))


def test_measures_name_the_rules_that_hold() -> None:
    assert evaluator(explicit_anbn(4)).measures == [*CLASSES, "mass", "mass_grammatical", "mass_empty"]
    assert evaluator(explicit_anbn(4), rules=("R2", "R9")).measures == [
        "mass_R2",
        "mass_none",
        "mass",
        "mass_grammatical",
        "mass_empty",
    ]
    three = evaluator(MIXED, rules=("few", "ab", "starts", "few")).measures
    assert three[:4] == ["mass_few_ab_starts", "mass_few_ab", "mass_few_starts", "mass_ab_starts"]
    assert three[4:] == ["mass_few", "mass_ab", "mass_starts", "mass_none", "mass", "mass_grammatical", "mass_empty"]


@pytest.mark.parametrize("name", ["anbn_small", "dyck2", "anbn_geometric"])
def test_the_language_puts_all_its_short_mass_on_what_is_grammatical(name: str) -> None:
    language = load_language(name)
    if name == "dyck2":
        language.rules = compile_rules({"R1": {"regex": "(..)*"}, "R2": {"max_length": 64}}, language.symbols)
    longest = 4 if name == "dyck2" else 6
    found = values(evaluator(language, longest).probe(language, (0,)))
    strings = [row for row in all_rows(len(language.symbols), longest) if row]
    exact = float(language.log_prob_ids(strings).exp().sum())
    assert 0 < exact < 1
    assert found.pop("mass_empty") == pytest.approx(float(language.log_prob_ids([()]).exp()), abs=1e-12)
    for measure in ("mass", "mass_grammatical", "mass_R1_R2"):
        assert found.pop(measure) == pytest.approx(exact, abs=1e-12)
    assert set(found.values()) == {0.0}


def test_the_uniform_law_has_its_closed_form_and_is_its_own_chance() -> None:
    language = load_language("anbn_small")
    rows = evaluator(language).probe(Uniform(language.vocabulary), (0,))
    found = values(rows)
    assert found == pytest.approx(values(rows, column="chance"), abs=1e-12)
    assert found["mass"] == pytest.approx(2 / 3 - (2 / 3) ** 9, abs=1e-12)
    assert found["mass_empty"] == pytest.approx(1 / 3, abs=1e-12)
    assert found["mass_grammatical"] == pytest.approx(sum(3.0 ** -(2 * n + 1) for n in range(1, 5)), abs=1e-12)
    assert found["mass_R1_R2"] == pytest.approx(found["mass_grammatical"], abs=1e-12)
    balanced = sum(math.comb(2 * n, n) * 3.0 ** -(2 * n + 1) for n in range(1, 5))
    assert found["mass_R1_R2"] + found["mass_R1"] == pytest.approx(balanced, abs=1e-12)
    counts = values(rows, column="count")
    assert counts["mass"] == 2**9 - 2
    assert counts["mass_empty"] == 1
    assert counts["mass_grammatical"] == 4
    assert counts["mass_R1_R2"] == 4
    assert counts["mass_R2"] == sum(n + 1 for n in range(1, 9)) - 4


def test_stopping_at_once_is_all_on_the_empty_string() -> None:
    language = load_language("anbn_small")
    found = values(evaluator(language).probe(StopAtOnce(language.vocabulary), (0,)))
    assert {name for name, value in found.items() if value} == {"mass_empty"}
    assert found["mass_empty"] == 1.0


@pytest.mark.parametrize("chunk", [1, 30, 2048])
def test_cached_is_recomputed_in_whatever_chunks(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(string_mass, "ROWS", chunk)
    language = explicit_anbn(4)
    model = transformer(language)
    rows = evaluator(language, 6).probe(model, model.seeds)
    strings = all_rows(2, 6)
    tokens, _ = language.vocabulary.pack(strings)
    laws = model.next_log_probs(tokens)
    masses = torch.zeros(3, dtype=torch.float64)
    for i, row in enumerate(strings):
        masses += (len(row) > 0) * laws[:, i, range(len(row) + 1), [*row, language.vocabulary.eos]].sum(-1).exp()
    for i, seed in enumerate(model.seeds):
        found = values(rows, seed)
        assert found["mass"] == pytest.approx(float(masses[i]), abs=1e-6)
        assert math.fsum(found[name] for name in CLASSES) == pytest.approx(found["mass"], abs=1e-12)
        assert 0 < found["mass_grammatical"] < found["mass"] < 1
    assert len({values(rows, seed)["mass"] for seed in model.seeds}) == 3


def test_a_model_that_is_broken_on_a_string_it_reaches_has_no_number() -> None:
    class Broken:
        def next_log_probs(self, tokens: torch.Tensor) -> torch.Tensor:
            laws = torch.full((1, *tokens.shape, 3), -math.log(3), dtype=torch.float64)
            return laws.where((tokens[None, ..., None] != 1), math.nan)

    found = values(evaluator(explicit_anbn(4), 3).probe(Broken(), (0,)))
    assert math.isnan(found["mass"])


def test_rows_have_the_columns_of_measurements() -> None:
    [row, *_] = evaluator(explicit_anbn(4), 2).probe(Uniform(explicit_anbn(4).vocabulary), (5,))
    assert list(row) == [
        *("seed", "evaluator", "measure", "prompt_set", "decoding", "value", "lower", "upper", "count", "chance")
    ]
    assert row["lower"] == row["value"] == row["upper"]
    assert (row["seed"], row["evaluator"], row["prompt_set"], row["decoding"]) == (5, "string_mass", "strings", "exact")


def test_every_string_is_labelled_as_its_rules_say() -> None:
    strings = all_rows(3, 5)
    for rule in MIXED.rules.values():
        truths = torch.cat(rule_truths(rule, 3, 5)).tolist()
        assert truths == [rule.accepts(rule.run(row)) for row in strings]


def test_the_strings_of_four_symbols_are_counted() -> None:
    language = ExplicitLanguage("abcd", {"abcd": 1.0}, {"R1": {"regex": "(..)*"}, "R2": {"count": "a == 0"}})
    counts = values(evaluator(language).probe(StopAtOnce(language.vocabulary), (0,)), column="count")
    assert counts["mass"] == (4**9 - 1) // 3 - 1
    assert counts["mass_R1_R2"] == sum(9**n for n in range(1, 5))
    assert counts["mass_R2"] == sum(3**n for n in (1, 3, 5, 7))
    assert counts["mass_R1"] == sum(16**n - 9**n for n in range(5))
    assert counts["mass_grammatical"] == 1


def test_masses_by_label_add_up_whatever_the_labels() -> None:
    labels = [torch.arange(2**n) % 3 for n in range(6)]
    vocabulary = explicit_anbn(2).vocabulary
    assert float(label_masses(Uniform(vocabulary), vocabulary, labels, 3).sum()) == pytest.approx(1 - (2 / 3) ** 6)


@pytest.mark.parametrize("snapshots", [2, 3, 8, 20])
@pytest.mark.parametrize("steps", [0, 1, 5, 19, 20, 21, 600, 20_000])
def test_snapshots_are_distinct_from_beginning_to_end(snapshots: int, steps: int) -> None:
    found = StringMassConfig(snapshots=snapshots).evaluator(explicit_anbn(2)).probed_at(steps, 1)
    assert found[0] == 0
    assert found[-1] == steps
    assert found == sorted(set(found))
    assert len(found) == min(snapshots, steps + 1)


def test_snapshots_grow_by_equal_ratios() -> None:
    assert StringMassConfig(snapshots=5).evaluator(explicit_anbn(2)).probed_at(1000, 1) == [0, 1, 10, 100, 1000]


def test_what_cannot_be_split_or_enumerated_is_refused() -> None:
    with pytest.raises(UsageError, match=r"explicit has none of the rules R1, R2 \(its rules: starts, few, ab\)"):
        evaluator(MIXED)
    with pytest.raises(UsageError, match="none of the rules"):
        evaluator(MIXED, rules=())
    with pytest.raises(UsageError, match=r"3\^14 strings of 14 symbols are more than 2000000: lower max_length"):
        evaluator(MIXED, 14, ("ab",))
    named = ExplicitLanguage("a", {"a": 1.0}, {"R": {"min_length": 1}, "none": {"regex": "a*"}})
    with pytest.raises(UsageError, match="rename a rule"):
        evaluator(named, rules=("R", "none"))


@pytest.mark.parametrize("symbols", ["", "a"])
def test_alphabets_of_at_most_one_symbol_will_do(symbols: str) -> None:
    language = ExplicitLanguage(symbols, {symbols: 1.0}, {"R": {"max_length": 2}})
    found = values(evaluator(language, 4, ("R",)).probe(Uniform(language.vocabulary), (0,)))
    lengths = range(5 if symbols else 1)
    whole = found["mass"] + found["mass_empty"]
    assert whole == pytest.approx(sum((len(symbols) + 1.0) ** -(n + 1) for n in lengths))
    assert found["mass_grammatical"] == (0.25 if symbols else 0.0)
