"""Exact n-gram counts: against counting string by string, and by what all counts must satisfy where there are too many."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from brute_force import load
from explicit_language import ExplicitLanguage
from finite_law import counts_after

from lmtest.errors import UsageError
from lmtest.languages import load_language
from lmtest.languages.base import Language

UNEVEN = {"law": "weights", "weights": [0.25, 0.0, 0.0, 0.0, 0.5, 0.0, 0.25], "low": 2}
ARRANGED = {"kind": "arranged", "counted": "a", "filler": "b", "length": UNEVEN}
LANGUAGES: dict[str, dict[str, object]] = {
    "arranged-shuffled": {**ARRANGED, "prefix": "b", "count": "even", "arrangement": "shuffled"},
    "arranged-sorted": {**ARRANGED, "prefix": "ca", "count": "half", "arrangement": "sorted"},
    "arranged-even-strings": {**ARRANGED, "count": "even_strings", "arrangement": "shuffled"},
    "template": {"kind": "template", "template": "a^n b^m a^n", "n": UNEVEN, "m": UNEVEN},
    "pcfg": {"kind": "pcfg", "grammar": "S -> 'a' S 'b' [0.5] | 'a' 'b' [0.25] | [0.25]", "max_length": 6},
} | {
    f"{discipline}-{kinds}": {
        "kind": "brackets",
        "pairs": ["()", "[]", "{}"][:kinds],
        "target": UNEVEN if kinds < 3 else {"law": "uniform", "low": 2, "high": 6, "step": 2},
        "discipline": discipline,
    }
    for discipline in ("nested", "shuffled")
    for kinds in (1, 2, 3)
}
PUBLISHED = ["ban", "bban", "abn", "parity", "anbn", "anbncn", "brackets_nested", "brackets_shuffled"]


def counts_of(language: Language, order: int) -> dict[tuple[int, ...], torch.Tensor]:
    counts = language.ngram_counts(order)
    assert counts is not None
    return counts


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("name", LANGUAGES)
def test_counts_are_those_of_all_strings(name: str, order: int) -> None:
    language = load(**LANGUAGES[name])
    support = language.support()
    masses = {
        language.vocabulary.split(language.vocabulary.join(row)): p
        for row, p in zip(support.rows, support.log_probs.exp().tolist(), strict=True)
    }
    expected = counts_after(language, masses, order)
    found = counts_of(language, order)
    assert set(found) == set(expected)
    for context, row in found.items():
        assert row.dtype == torch.float64
        np.testing.assert_allclose(row, expected[context], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("order", [1, 2, 9, 40])
def test_orders_beyond_the_length_keep_the_whole_prefix(order: int) -> None:
    language = ExplicitLanguage("ab", {"": 0.25, "ab": 0.5, "abbb": 0.25})
    found = counts_of(language, order)
    expected = counts_after(language, {(): 0.25, ("a", "b"): 0.5, ("a", "b", "b", "b"): 0.25}, order)
    assert {context: row.tolist() for context, row in found.items()} == expected


@pytest.mark.parametrize("name", PUBLISHED)
def test_at_the_published_size_counts_add_up(name: str) -> None:
    language = load_language(name)
    bos, eos = language.vocabulary.bos, language.vocabulary.eos
    counts = {order: counts_of(language, order) for order in (1, 2, 3)}
    for rows in counts.values():
        total = sum(rows.values())
        assert float(total.sum()) == pytest.approx(language.mean_length() + 1, rel=1e-9)
        assert float(total[eos]) == pytest.approx(1, rel=1e-9)
    assert list(counts[1]) == [()]
    torch.testing.assert_close(
        counts[3][(bos,)], torch.tensor(list(language.next_symbol_law(()).values()), dtype=torch.float64)
    )
    # A context of two is one of one, seen from one token further back; every context but BOS is some context's output.
    shorter: defaultdict[tuple[int, ...], torch.Tensor] = defaultdict(lambda: torch.tensor(0.0))
    for context, row in counts[3].items():
        shorter[context[-1:]] = shorter[context[-1:]] + row
    for context, row in counts[2].items():
        torch.testing.assert_close(shorter[context], row, rtol=1e-9, atol=1e-12)
        if context != (bos,):
            assert float(row.sum()) == pytest.approx(float(counts[1][()][context[0]]), rel=1e-9)


@pytest.mark.parametrize("name", ["ban", "abn", "brackets_nested", "brackets_shuffled"])
def test_at_the_published_size_counts_are_those_of_samples(name: str) -> None:
    language = load_language(name)
    found = counts_of(language, 3)
    rows = language.sample_ids(1000, np.random.default_rng(11))
    bos, eos = language.vocabulary.bos, language.vocabulary.eos
    samples: defaultdict[tuple[int, ...], list[int]] = defaultdict(lambda: [0] * len(rows))
    for i, row in enumerate(rows):
        for trigram, n in Counter(zip((bos, bos, *row), (bos, *row), (*row, eos), strict=False)).items():
            samples[trigram][i] = n
    for (first, second, output), counts in samples.items():
        expected = float(found[(second,) if second == bos else (first, second)][output])
        error = np.std(counts) / math.sqrt(len(rows))
        assert abs(np.mean(counts) - expected) < 5 * error + 5 / len(rows), (first, second, output)


def test_an_infinite_language_has_no_counts() -> None:
    assert load_language("anbn_geometric").ngram_counts(2) is None


@pytest.mark.parametrize("order", [0, -1, True, 2.0])
@pytest.mark.parametrize("name", ["anbn_small", "ban_small", "brackets_nested_small"])
def test_an_order_that_is_none_is_refused(name: str, order: int) -> None:
    with pytest.raises(UsageError, match="order of an n-gram"):
        load_language(name).ngram_counts(order)
