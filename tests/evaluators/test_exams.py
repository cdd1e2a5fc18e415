"""Exams against sums over all strings, certificates, and greedy decoding from every string's last free choice."""

import math

import numpy as np
import pytest
import torch
from explicit_language import ExplicitLanguage, explicit_anbn
from hypothesis import given, settings
from hypothesis import strategies as st

from lmtest.evaluators import exams
from lmtest.evaluators.exams import (
    Exam,
    exact_match,
    excess,
    label_batch,
    label_scores,
    language_exam,
    row_excess,
    string_batch,
    whole_batch,
)
from lmtest.languages.base import Language
from lmtest.models.decoding import decode
from lmtest.models.lstm import LstmConfig
from lmtest.models.stack import StackedModel
from lmtest.models.transformer import Transformer, TransformerConfig
from lmtest.saturation import certify
from lmtest.seeds import generator
from lmtest.training.batches import cross_entropy

LANGUAGE = ExplicitLanguage("ab", {"ab": 0.5, "aabb": 0.2, "a": 0.05, "ba": 0.25})


def small(language: Language, spread: float = 3.0) -> Transformer:
    model = TransformerConfig(layers=1, width=8, heads=2, feed_forward=8).build(language.vocabulary, (0, 5))
    with torch.no_grad():  # laws that are far from uniform
        model.parameters["output.weight"] *= spread
    return model


def examined(model: StackedModel, exam: Exam) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(exam.batch.tokens, None, exam.batch.tree)


def string_log_probs(model: StackedModel, language: Language, rows: list[tuple[int, ...]]) -> np.ndarray:
    """[S, N], symbol by symbol."""
    found = []
    for row in rows:
        laws = model.next_log_probs(language.vocabulary.pack([row])[0])[:, 0]
        found.append(sum(laws[:, t, v] for t, v in enumerate((*row, language.vocabulary.eos))))
    return torch.stack(found, 1).numpy()


@pytest.mark.parametrize("trees", [True, False])
def test_the_excess_is_the_kl_summed_over_all_strings(monkeypatch: pytest.MonkeyPatch, trees: bool) -> None:
    model = small(LANGUAGE)
    monkeypatch.setattr(model, "tree_saves", lambda *sizes: trees)
    exam = language_exam(model, LANGUAGE, 1, generator(0, "test"))
    assert exam.exact
    assert exam.count == 4
    assert (exam.batch.tree is not None) == trees
    found = excess(examined(model, exam), exam)
    expected = (
        LANGUAGE.probabilities * (np.log(LANGUAGE.probabilities) - string_log_probs(model, LANGUAGE, LANGUAGE.rows))
    ).sum(1)
    assert [value for value, _, _ in found] == pytest.approx(expected.tolist(), abs=1e-6)
    assert [value for value, _, _ in found] == pytest.approx(
        certify(LANGUAGE, model, 1, generator(0, "test")).kl, abs=1e-6
    )
    assert all(lower == value == upper for value, lower, upper in found)


@pytest.mark.parametrize("trees", [True, False])
def test_the_whole_law_has_the_loss_of_all_strings(monkeypatch: pytest.MonkeyPatch, trees: bool) -> None:
    model = small(LANGUAGE)
    monkeypatch.setattr(model, "tree_saves", lambda *sizes: trees)
    batch = whole_batch(model, LANGUAGE)
    assert batch is not None
    loss = cross_entropy(model.logits(batch.tokens, None, batch.tree), batch)
    expected = -(LANGUAGE.probabilities * string_log_probs(model, LANGUAGE, LANGUAGE.rows)).sum(1)
    assert loss.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_too_many_strings_are_examined_by_draws_with_their_exact_laws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exams, "WHOLE_TOKENS", 10)
    model = small(LANGUAGE)
    assert whole_batch(model, LANGUAGE) is None
    exam = language_exam(model, LANGUAGE, 50, generator(0, "test"))
    assert (exam.exact, exam.count) == (False, 50)
    certificate = certify_by_draws(model, 50)
    for (value, lower, upper), expected in zip(excess(examined(model, exam), exam), certificate, strict=True):
        assert (value, lower, upper) == pytest.approx(expected, abs=1e-5)


def certify_by_draws(model: Transformer, draws: int) -> list[tuple[float, float, float]]:
    class Unlisted(ExplicitLanguage):
        def list_support(self) -> None:  # type: ignore[override]
            return None

    unlisted = Unlisted("ab", {"ab": 0.5, "aabb": 0.2, "a": 0.05, "ba": 0.25})
    found = certify(unlisted, model, draws, generator(0, "test"))
    return list(zip(found.kl.tolist(), found.lower.tolist(), found.upper.tolist(), strict=True))


def test_the_language_itself_has_no_excess_and_its_likeliest_symbols_match() -> None:
    exam = language_exam(
        LstmConfig(architecture="lstm").build(LANGUAGE.vocabulary, (0,)), LANGUAGE, 1, generator(0, "x")
    )
    logits = LANGUAGE.next_log_probs(exam.batch.tokens).nan_to_num(neginf=-1e9)
    assert row_excess(logits, exam).abs().max() < 1e-12
    assert exact_match(logits, exam) == ([(1.0, 1.0, 1.0)], 3)  # "a" goes on to "ab" and "aabb": it is never alone
    assert all(math.isnan(value) for value, _, _ in excess(logits * math.nan, exam))


STRINGS = st.lists(st.text("ab", max_size=4), min_size=1, max_size=6, unique=True)


@settings(max_examples=40, deadline=None)
@given(STRINGS, st.integers(0, 1000))
def test_a_string_matches_where_greedy_decoding_from_its_last_free_choice_writes_it(
    strings: list[str], seed: int
) -> None:
    probabilities = generator(seed, "test").dirichlet(np.ones(len(strings))).tolist()
    language = ExplicitLanguage("ab", dict(zip(strings, probabilities, strict=True)))
    model = small(language, 8.0)
    ends = []
    for row, probability in zip(language.rows, probabilities, strict=True):
        alone = [t for t in range(len(row) + 1) if sum(other[:t] == row[:t] for other in language.rows) == 1]
        if alone:
            ends.append((row, alone[0], probability))
    matched = np.zeros(2)
    for row, start, probability in ends:
        done = decode(model, language.vocabulary, [row[:start]], 6, "greedy", 0)
        for s in range(2):
            written = tuple(done.tokens[s, 0, : done.lengths[s, 0]].tolist())
            matched[s] += probability * (bool(done.finished[s, 0]) and row[:start] + written == row)
    for trees in (True, False):
        model.tree_saves = lambda *sizes: trees  # type: ignore[method-assign] # noqa: B023
        exam = language_exam(model, language, 1, generator(0, "test"))
        found, n = exact_match(examined(model, exam), exam)
        assert n == len(ends)
        expected = matched / sum(probability for *_, probability in ends)
        assert [value for value, _, _ in found] == pytest.approx(expected.tolist(), abs=1e-6)


def test_no_forced_end_is_no_match_and_no_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exams, "WHOLE_TOKENS", 0)
    language = ExplicitLanguage("ab", {"a": 1 - 1e-3, "ab": 1e-3})
    model = small(language)
    exam = language_exam(model, language, 3, generator(0, "test"))
    assert exam.batch.tokens.shape == (3, 2)  # "a", whose EOS is not certain
    found, n = exact_match(examined(model, exam), exam)
    assert n == 0
    assert all(math.isnan(end) for interval in found for end in interval)


def test_strings_weigh_as_often_as_they_come() -> None:
    rows = [(0, 1), (0,), (0, 1), (0, 1)]
    model = small(LANGUAGE)
    batch = string_batch(LANGUAGE.vocabulary, rows)
    expected = -string_log_probs(model, LANGUAGE, rows).mean(1)
    assert cross_entropy(model.logits(batch.tokens), batch).tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_labels_are_asked_for_behind_the_last_symbol_and_ties_are_chance() -> None:
    language = explicit_anbn(2)
    batch = label_batch(language.vocabulary, language.rows, torch.tensor([2, 0]), 3)
    assert batch.weights.nonzero().tolist() == [[0, 2, 2], [1, 4, 0]]
    logits = torch.zeros(2, *batch.weights.shape)
    logits[1, 0, 2] = torch.tensor([0.0, 1.0, 1.0])
    logits[1, 1, 4] = torch.tensor([1.0, 2.0, 0.0])
    losses, right = label_scores(logits, batch)
    assert right[0].tolist() == pytest.approx([1 / 3, 1 / 3])
    assert right[1].tolist() == [0.5, 0.0]
    e = math.e
    assert losses[1].tolist() == pytest.approx([math.log((1 + 2 * e) / e), math.log((e + e**2 + 1) / e)])
    assert cross_entropy(logits, batch).tolist() == pytest.approx(losses.mean(1).tolist(), abs=1e-6)
