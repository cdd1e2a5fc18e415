"""Strings, prompts and tokens that a caller hands to a language, and to a model: an answer for each, or one clear error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hostile_inputs import examples
from hypothesis import given
from hypothesis import strategies as st

from lmtest.errors import UsageError
from lmtest.languages import Language, load_language
from lmtest.models.reference import reference_models

NAMES = ["anbn", "dyck2", "palindromes", "ban_small", "ginc_shared", "english_small", "brackets_nested_small", "sums"]
LANGUAGES = {name: load_language(name) for name in NAMES}
ODD = ["<eos>", "<bos>", "<pad>", "", "x", " ", "ab", "\x00", "😀"]


@st.composite
def strings(draw: st.DrawFn, language: Language) -> Any:
    symbols = draw(st.lists(st.sampled_from([*language.symbols, *language.symbols, *ODD]), max_size=12))
    return draw(st.sampled_from([symbols, tuple(symbols), "".join(symbols), " ".join(symbols)]))


@examples(2)
@given(st.sampled_from(NAMES), st.data())
def test_any_string_has_a_probability(name: str, data: st.DataObject) -> None:
    language = LANGUAGES[name]
    given = data.draw(st.lists(strings(language), max_size=4))
    whole, start = language.log_prob(given), language.prefix_log_prob(given)
    assert len(whole) == len(start) == len(given)
    assert (whole <= 1e-9).all()
    assert (start >= whole - 1e-9).all()
    assert (language.contains(given) == (whole > -np.inf)).all()
    for string, mass in zip(given, start, strict=True):
        if mass == -np.inf:
            with pytest.raises(UsageError, match="dead prefix"):
                language.next_symbol_law(string)
        else:
            assert sum(language.next_symbol_law(string).values()) == pytest.approx(1)


NO_LISTS = [
    5,
    "ab",
    b"ab",
    None,
    {"a": 1},
    {"a"},
    (x for x in ["ab"]),
    [3],
    [None],
    [b"ab"],
    [["a", 1]],
    [[["a"]]],
    [{"a": 1}],
]


@pytest.mark.parametrize("strings", NO_LISTS, ids=range(len(NO_LISTS)))
@pytest.mark.parametrize("method", ["log_prob", "prefix_log_prob", "contains"])
def test_what_is_no_list_of_strings_is_a_type_error(method: str, strings: Any) -> None:
    with pytest.raises(TypeError, match=r"expected a (list of strings|string)"):
        getattr(LANGUAGES["anbn"], method)(strings)


@pytest.mark.parametrize("n", [-1, True, 2.5, "3", None, float("nan")])
@pytest.mark.parametrize("name", ["sums", "ginc_shared"])
def test_numbers_of_draws_and_seeds_are_whole(name: str, n: Any) -> None:
    language = LANGUAGES[name]
    for call in (lambda: language.sample(n, 0), lambda: language.sample(1, n), lambda: language.entropy(draws=n)):
        with pytest.raises(UsageError, match="whole number ≥"):
            call()


@examples(1)
@given(
    st.sampled_from(NAMES[:4]),
    st.lists(st.lists(st.integers(-(2**40), 2**40) | st.integers(-1, 9), min_size=3, max_size=3), max_size=3),
)
def test_any_tokens_have_laws_or_none(name: str, rows: list[list[int]]) -> None:
    """A row is a distribution, or NaN throughout: never half of one."""
    language = LANGUAGES[name]
    tokens = torch.tensor(rows, dtype=torch.int64).reshape(len(rows), 3)
    law = language.next_log_probs(tokens)
    assert law.shape == (1, len(rows), 3, language.vocabulary.n_outputs)
    total = law.exp().sum(-1)
    assert bool(((total - 1).abs() < 1e-9).logical_or(law.isnan().all(-1)).all())


@pytest.mark.parametrize(
    "tokens", [torch.zeros(3), torch.zeros(3, 0, dtype=torch.int64), torch.zeros(2, 2, 2)], ids=str
)
def test_tokens_of_another_shape_are_refused(tokens: torch.Tensor) -> None:
    with pytest.raises(UsageError, match="BOS first"):
        LANGUAGES["anbn"].next_log_probs(tokens)


@examples(0.3)
@given(st.data())
def test_the_reference_models_answer_any_prompt_of_symbols(data: st.DataObject) -> None:
    language = LANGUAGES["ban_small"]
    rows = data.draw(st.lists(st.lists(st.integers(0, 1), max_size=8), min_size=1, max_size=3))
    tokens, lengths = language.vocabulary.pack(rows)
    for name, model in MODELS.items():
        law = model.next_log_probs(tokens)
        for i, end in enumerate(lengths.tolist()):
            assert name == "language" or float(law[0, i, end].exp().sum()) == pytest.approx(1)


MODELS = reference_models(LANGUAGES["ban_small"])
