"""Packing: every string has its own place, and padding stays below a tenth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmtest.languages import load_language, shipped_languages
from lmtest.seeds import generator
from lmtest.training.draws import Draws
from lmtest.training.packing import MOST_PADDING, best_fit, pack

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=40)


@given(LENGTHS, st.integers(0, 20))
def test_no_two_strings_share_a_token(lengths: list[int], more: int) -> None:
    capacity = max(lengths) + more
    taken: set[tuple[int, int]] = set()
    for (row, column), length in zip(best_fit(lengths, capacity), lengths, strict=True):
        cells = {(row, column + i) for i in range(length)}
        assert column + length <= capacity
        assert not cells & taken
        taken |= cells


@given(LENGTHS)
def test_one_group_never_wastes_more_than_a_tenth(lengths: list[int]) -> None:
    _, rows, columns = pack([lengths])
    assert 1 - sum(lengths) / (rows * columns) <= MOST_PADDING


@pytest.mark.parametrize("name", shipped_languages())
def test_batches_of_eight_seeds_of_the_shipped_languages_waste_at_most_a_tenth(name: str) -> None:
    language = load_language(name)
    draws = [language.sample_ids(64, generator(seed, "test")) for seed in range(8)]
    groups = [[len(row) + 1 for row in rows] for rows in draws]
    _, rows, columns = pack(groups)
    assert 1 - max(map(sum, groups)) / (rows * columns) <= MOST_PADDING


SIX = ["ban_small", "bban_small", "anbn_small", "brackets_nested_small", "anbncn_small", "brackets_shuffled_small"]


@pytest.mark.parametrize("name", SIX)
def test_no_step_of_the_table_of_six_languages_spends_over_a_tenth_on_padding(name: str) -> None:
    source = Draws(load_language(name))
    for step in range(10):
        draws = [source.rows(128, generator(seed, "test", step)) for seed in range(8)]
        groups = [[len(row) + 1 for row in rows] for rows in draws]
        _, rows, columns = pack(groups)
        assert 1 - sum(map(sum, groups)) / (8 * rows * columns) <= MOST_PADDING + 0.005


@pytest.mark.parametrize("name", ["ban_small", "brackets_nested_small"])
def test_systematic_draws_give_every_string_its_share(name: str) -> None:
    language = load_language(name)
    support = language.support()
    assert support is not None
    source = Draws(language)
    n, times = 64, 2000
    counts = dict.fromkeys(support.rows, 0)
    for step in range(times):
        for row in source.rows(n, generator(0, "test", step)):
            counts[row] += 1
    expected = support.log_probs.exp().numpy() * n * times
    found = np.array([counts[row] for row in support.rows])
    # Within a step a count is its expectation rounded up or down: variance at most that of one coin.
    fraction = expected / times % 1
    deviations = np.abs(found - expected) / np.sqrt(times * np.maximum(fraction * (1 - fraction), 1e-3))
    assert deviations.max() < 5.5


def test_a_language_that_cannot_be_listed_is_sampled() -> None:
    language = load_language("dyck2")
    assert Draws(language).rows(5, generator(1, "test")) == language.sample_ids(5, generator(1, "test"))
