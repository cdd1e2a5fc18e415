from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
import torch
from explicit_language import ExplicitLanguage, explicit_anbn
from hypothesis import given, settings
from hypothesis import strategies as st

from lmtest.languages import load_language
from lmtest.languages.base import Language
from lmtest.models.ngram import ORDER, NGram
from lmtest.saturation import certify
from lmtest.seeds import generator

Counts = dict[tuple[int, ...], torch.Tensor]

STRINGS = st.dictionaries(st.text("ab", max_size=6), st.integers(1, 9), min_size=1, max_size=5)


def counted(language: ExplicitLanguage) -> Counts:
    """What follows the last two tokens, by walking through every string."""
    vocabulary = language.vocabulary
    counts: Counts = defaultdict(lambda: torch.zeros(vocabulary.n_outputs, dtype=torch.float64))
    for row, probability in zip(language.rows, language.probabilities, strict=True):
        whole = [vocabulary.bos, *row, vocabulary.eos]
        for t in range(1, len(whole)):
            counts[tuple(whole[max(0, t - 2) : t])][whole[t]] += probability
    return dict(counts)


def explicit(weights: dict[str, int]) -> ExplicitLanguage:
    total = sum(weights.values())
    return ExplicitLanguage("ab", {string: weight / total for string, weight in weights.items()})


def fitted(language: ExplicitLanguage) -> NGram:
    return NGram(language.vocabulary, counted(language))


def kl(language: Language, model: NGram) -> float:
    certificate = certify(language, model, 2, generator(0, "test"))
    assert certificate.exact
    return float(certificate.kl[0])


@settings(max_examples=40, deadline=None)
@given(STRINGS)
def test_its_kl_is_the_closed_form_and_finite(weights: dict[str, int]) -> None:
    language = explicit(weights)
    p = language.probabilities
    cross_entropy = 0.0
    for count in counted(language).values():
        ratios = (count / count.sum())[count > 0]
        cross_entropy -= float((count[count > 0] * ratios.log()).sum())
    assert kl(language, fitted(language)) == pytest.approx(cross_entropy + (p * np.log(p)).sum(), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(STRINGS, st.integers(0, 2**32))
def test_no_other_model_of_its_order_is_nearer(weights: dict[str, int], seed: int) -> None:
    language, rng = explicit(weights), generator(seed, "perturbation")
    best = kl(language, fitted(language))
    for size in (1e-3, 0.1, 1.0):
        # Any law at all is the ratio of some counts, context by context.
        moved = {
            c: n / n.sum() * torch.from_numpy(np.exp(size * rng.normal(size=3))) for c, n in counted(language).items()
        }
        other = NGram(language.vocabulary, {c: n + 1e-9 for c, n in moved.items()})
        assert kl(language, other) >= best - 1e-12


@pytest.mark.parametrize("strings", [{"": 0.25, "b": 0.25, "ab": 0.5}, {"aab": 1.0}, {"aabb": 0.5, "ba": 0.5}])
def test_what_the_last_two_tokens_decide_is_fitted_exactly(strings: dict[str, float]) -> None:
    language = ExplicitLanguage("ab", strings)
    assert kl(language, fitted(language)) == pytest.approx(0, abs=1e-12)


def test_a_markov_language_is_fitted_exactly(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("ngram") / "alternation.toml"
    path.write_text(
        'title = "(ab)*"\nkind = "pcfg"\ngrammar = """\nS -> \'a\' \'b\' S [0.5] | [0.5]\n"""\n', encoding="utf-8"
    )
    language = load_language(str(path))
    bos, eos = language.vocabulary.bos, language.vocabulary.eos
    # Per string: "ab" is repeated once on average, and every repetition is followed by another with probability 1/2.
    one = torch.eye(3, dtype=torch.float64)
    counts = {
        (bos,): (one[0] + one[eos]) / 2,
        (bos, 0): one[1] / 2,
        (0, 1): (one[0] + one[eos]) / 2,
        (1, 0): one[1] / 2,
    }
    model = NGram(language.vocabulary, counts)
    certificate = certify(language, model, 200, generator(0, "test"))
    assert certificate.kl[0] == pytest.approx(0, abs=1e-12)


def test_contexts_that_never_occur_are_shortened_until_they_do() -> None:
    language = ExplicitLanguage("abc", {"ab": 0.5, "aab": 0.25, "": 0.25})
    vocabulary, model = language.vocabulary, fitted(language)

    def law(row: list[int]) -> list[float]:
        tokens = torch.tensor([[vocabulary.bos, *row]])
        return [round(p, 9) for p in model.next_log_probs(tokens)[0, 0, -1].exp().tolist()]

    assert law([]) == [0.75, 0, 0, 0.25]
    assert law([0]) == [round(1 / 3, 9), round(2 / 3, 9), 0, 0]
    assert law([0, 0]) == [0, 1, 0, 0]
    assert law([1, 0]) == [0.25, 0.75, 0, 0], "b a never occurs, a does: after BOS, and after a"
    assert law([1]) == law([1, 1]) == [0, 0, 0, 1], "b at the start never occurs, b after a does"
    tokens = 0.5 * 3 + 0.25 * 4 + 0.25
    empty = [round(count / tokens, 9) for count in (0.75 + 0.25, 0.75, 0, 1)]
    assert law([2]) == law([0, 2]) == law([2, 2]) == empty, "c never occurs: whatever came before"


def test_it_is_normalised_and_causal_everywhere() -> None:
    language = explicit_anbn(5)
    vocabulary, model = language.vocabulary, fitted(explicit_anbn(5))
    row = [vocabulary.bos, 1, 0, 0, 1, vocabulary.eos, 0, vocabulary.pad, vocabulary.pad]
    full = model.next_log_probs(torch.tensor([row, row[::-1]]))
    assert full.shape == (1, 2, len(row), 3)
    assert full.dtype == torch.float64
    assert (full.logsumexp(-1).abs() < 1e-12).all()
    for t in range(1, len(row)):
        assert torch.equal(model.next_log_probs(torch.tensor([row[:t]])), full[:, :1, :t])


def test_fit_asks_the_language_for_its_counts() -> None:
    asked: list[int] = []

    class Counting(ExplicitLanguage):
        def ngram_counts(self, order: int) -> Counts | None:
            asked.append(order)
            return counted(self) if self.name == "known" else None

    known = Counting("ab", {"ab": 0.5, "b": 0.5}, name="known")
    model = NGram.fit(known)
    assert model is not None
    assert kl(known, model) == pytest.approx(0, abs=1e-12)
    assert NGram.fit(Counting("ab", {"ab": 1.0}, name="unknown")) is None
    assert asked == [ORDER, ORDER]
