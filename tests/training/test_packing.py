"""Packing: every string has its own place, and padding stays below a tenth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import ROOT

from lmtest.languages import load_language, shipped_languages
from lmtest.seeds import generator
from lmtest.study import load_study
from lmtest.training.batches import packed_batch, whole
from lmtest.training.draws import POOL, Draws
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


STUDIES = ["rule_extrapolation_languages", "rule_extrapolation_languages_paper"]
CELLS = [(name, language) for name in STUDIES for language in load_study(ROOT / "runs" / f"{name}.toml")[1]]


@pytest.mark.parametrize(("study", "language"), CELLS)
def test_no_step_of_the_tables_of_six_languages_spends_over_a_tenth_on_padding(study: str, language: str) -> None:
    loaded, languages = load_study(ROOT / "runs" / f"{study}.toml")
    config = loaded.training_of(language, "mamba")
    vocabulary = languages[language].vocabulary
    if config.batch == "support":
        support = languages[language].support()
        assert support is not None
        batches = [packed_batch(vocabulary, [whole(support.rows, [1.0] * len(support.rows))])]
    else:
        source = Draws(languages[language])
        steps = range(2 * POOL if study == STUDIES[0] else POOL)
        draws = [[source.rows(config.batch, seed, step) for seed in range(config.stack)] for step in steps]
        batches = [packed_batch(vocabulary, [whole(rows, [1.0] * len(rows)) for rows in groups]) for groups in draws]
    for batch in batches:
        assert int((batch.tokens == vocabulary.pad).sum()) <= MOST_PADDING * batch.tokens.numel() + 1e-6


@pytest.mark.parametrize("name", ["ban_small", "brackets_nested_small"])
def test_systematic_draws_give_every_string_its_share(name: str) -> None:
    language = load_language(name)
    support = language.support()
    assert support is not None
    source = Draws(language)
    n, times = 64, 2000
    counts = dict.fromkeys(support.rows, 0)
    for step in range(times):
        for row in source.rows(n, 0, step):
            counts[row] += 1
    expected = support.log_probs.exp().numpy() * n * times
    found = np.array([counts[row] for row in support.rows])
    # Within a step a count is its expectation rounded up or down: variance at most that of one coin.
    fraction = expected / times % 1
    deviations = np.abs(found - expected) / np.sqrt(times * np.maximum(fraction * (1 - fraction), 1e-3))
    assert deviations.max() < 5.5


def test_a_language_that_cannot_be_listed_is_sampled_independently_and_every_draw_is_used_once() -> None:
    language = load_language("dyck2")
    source = Draws(language)
    for block in (0, 1):
        used = [row for step in range(POOL) for row in source.rows(5, 3, block * POOL + step)]
        assert sorted(used) == sorted(language.sample_ids(5 * POOL, generator(3, "data", block)))
    assert source.rows(5, 3, 7) == source.rows(5, 3, 7)
    assert source.rows(5, 3, 7) != source.rows(5, 4, 7)
