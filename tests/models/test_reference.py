from __future__ import annotations

import math

import pytest
import torch
from explicit_language import ExplicitLanguage, all_rows, explicit_anbn

from lmtest.languages.base import Language
from lmtest.languages.prompts import prompts_of_length
from lmtest.models import reference
from lmtest.models.reference import RuleKeeper, StopAtOnce, Uniform, reference_models

THREE = ExplicitLanguage(
    "abc",
    {"abc": 0.5, "aabbcc": 0.25, "": 0.25},
    {"R1": {"count": "a == b == c"}, "R2": {"regex": "a*b*c*"}, "long": {"min_length": 3}, "short": {"max_length": 9}},
)


def follow(keeper: RuleKeeper, rows: list[tuple[int, ...]], limit: int = 40) -> list[tuple[int, ...]]:
    """The greedy completions of impossible rows of one length, without their EOS."""
    tokens, eos = keeper.language.vocabulary.pack(rows)[0], keeper.language.vocabulary.eos
    for _ in range(limit):
        law, choices = keeper.next_log_probs(tokens)[0, :, -1].max(-1)
        assert (law == 0.0).all(), "the next token of an impossible prefix is certain"
        tokens = torch.cat([tokens, choices[:, None]], 1)
        if (choices == eos).all():
            completions = tokens[:, len(rows[0]) + 1 :].tolist()
            return [tuple(row[: row.index(eos)]) for row in completions]
    raise AssertionError("the rule keeper does not stop")


def best_completion(language: Language, row: tuple[int, ...], longest: int) -> tuple[int, ...]:
    """By enumeration: as many rules as possible, then those declared first, then shortest, then first in order."""

    def merit(completion: tuple[int, ...]) -> tuple[object, ...]:
        held = [rule.accepts(rule.run((*row, *completion))) for rule in language.rules.values()]
        hopeful = [rule.alive(rule.run(row)) for rule in language.rules.values()]
        kept = [h and a for h, a in zip(held, hopeful, strict=True)]
        return (-sum(kept), [not k for k in kept], len(completion), completion)

    return min(all_rows(len(language.symbols), longest), key=merit)


def impossible(language: Language, length: int) -> list[tuple[int, ...]]:
    return prompts_of_length(language, length)[1].rows


@pytest.mark.parametrize("language", [explicit_anbn(16), THREE], ids=["anbn", "three"])
def test_reference_models_are_normalised_everywhere_the_law_is_defined(language: Language) -> None:
    models = reference_models(language)
    assert list(models) == ["language", "uniform", "stop", "rule_keeper", "ngram", "normative"]
    vocabulary = language.vocabulary
    tokens, _ = vocabulary.pack([*impossible(language, 3), (0, 1), (0,)])
    tokens[-2, 3] = vocabulary.eos
    for name, model in models.items():
        law = model.next_log_probs(tokens)
        assert law.shape == (1, *tokens.shape, vocabulary.n_outputs)
        assert law.dtype == torch.float64
        defined = ~law.isnan().any(-1)
        assert (law.logsumexp(-1)[defined].abs() < 1e-12).all()
        assert defined.all() == (name != "language")


def test_a_language_without_rules_has_no_rule_keeper() -> None:
    names = list(reference_models(ExplicitLanguage("ab", {"ab": 1.0})))
    assert names == ["language", "uniform", "stop", "ngram", "normative"]


def test_a_large_alphabet_has_no_normative_predictor_and_what_is_fitted_is_fitted_once() -> None:
    assert "normative" not in reference_models(ExplicitLanguage("abcdefg", {"abcdefg": 1.0}))
    first, second = reference_models(THREE), reference_models(THREE)
    assert first["normative"] is second["normative"]
    assert first["ngram"] is second["ngram"]


def test_uniform_and_stop_are_what_they_say() -> None:
    vocabulary = THREE.vocabulary
    tokens, _ = vocabulary.pack([(0, 1)])
    assert Uniform(vocabulary).next_log_probs(tokens).exp() == pytest.approx(0.25)
    assert StopAtOnce(vocabulary).next_log_probs(tokens)[0, 0].tolist() == [[-math.inf] * 3 + [0.0]] * 3


@pytest.mark.parametrize("language", [explicit_anbn(16), THREE], ids=["anbn", "three"])
def test_the_rule_keeper_is_the_language_on_live_prefixes(language: Language) -> None:
    tokens, _ = language.vocabulary.pack(all_rows(len(language.symbols), 4))
    law, kept = language.next_log_probs(tokens), RuleKeeper(language).next_log_probs(tokens)
    live = ~law.isnan()
    assert live.any()
    assert torch.equal(law[live], kept[live])


def test_the_rule_keeper_keeps_the_count_on_every_impossible_prompt_of_length_8() -> None:
    language = explicit_anbn(16)
    keeper = RuleKeeper(language)
    _, outside = prompts_of_length(language, 8)
    for row, completion in zip(outside.rows, follow(keeper, outside.rows), strict=True):
        whole = (*row, *completion)
        assert whole.count(0) == whole.count(1), "R1 can always be kept, and is declared first"
        surplus = row.count(0) - row.count(1)
        assert completion == ((1,) * surplus if surplus > 0 else (0,) * -surplus)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_the_rule_keeper_completes_as_enumeration_does(length: int) -> None:
    keeper = RuleKeeper(THREE)
    rows = impossible(THREE, length)
    assert follow(keeper, rows) == [best_completion(THREE, row, 6) for row in rows]


@pytest.mark.parametrize(
    "rules",
    [
        {"late": {"regex": "b.*a"}, "even": {"count": "a % 2 == 0"}, "short": {"max_length": 4}},
        {"A": {"regex": "(aa)*"}, "B": {"regex": "a(aa)*"}, "C": {"min_length": 4}},
        {"A": {"regex": "(aa)*|b.*"}, "B": {"regex": "a(aa)*"}, "C": {"count": "a % 3 == 1 and b == 1"}},
        {"A": {"count": "a == b"}, "B": {"count": "a == b + 1"}, "C": {"regex": ".*bb"}},
    ],
    ids=["finite", "parities", "mixed", "contradiction"],
)
def test_rules_that_cannot_be_had_together_are_kept_as_far_as_possible(rules: dict[str, dict[str, object]]) -> None:
    language = ExplicitLanguage("ab", {"bbbbbbb": 1.0}, rules)
    keeper = RuleKeeper(language)
    for length in (1, 2, 3, 4):
        rows = impossible(language, length)
        assert follow(keeper, rows) == [best_completion(language, row, 7) for row in rows]


def test_following_does_not_depend_on_what_was_asked_before() -> None:
    rows = impossible(THREE, 3)
    forwards, backwards = RuleKeeper(THREE), RuleKeeper(THREE)
    whole = [(*row, *completion) for row, completion in zip(rows, follow(forwards, rows), strict=True)]
    for row in reversed(whole):  # the last steps first
        for t in range(len(row), 2, -1):
            assert follow(backwards, [row[:t]]) == [row[t:]]


def test_the_rule_keeper_is_causal_and_never_raises_behind_eos() -> None:
    keeper, vocabulary = RuleKeeper(THREE), THREE.vocabulary
    row = [vocabulary.bos, 1, 0, 2, 0]
    full = keeper.next_log_probs(torch.tensor([row]))
    for t in range(1, len(row) + 1):
        assert torch.equal(keeper.next_log_probs(torch.tensor([row[:t]])), full[:, :, :t])
    for filler in (vocabulary.eos, vocabulary.pad, vocabulary.bos):
        law = keeper.next_log_probs(torch.tensor([[*row, filler, 0, filler]]))
        assert torch.equal(law[:, :, : len(row)], full)
        assert (law[0, 0, len(row) :, vocabulary.eos] == 0.0).all()


def test_what_needs_more_than_the_longest_search_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "SEARCH_LENGTH", 30)
    keeper = RuleKeeper(explicit_anbn(16))
    assert follow(keeper, [(1,) + (0,) * 31]) == [(1,) * 30]
    assert follow(keeper, [(1,) + (0,) * 32]) == [()]
