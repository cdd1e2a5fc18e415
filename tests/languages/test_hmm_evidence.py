"""Evidence: probabilities, lists and draws against every string of a tiny mixture, summed by plain loops."""

import math

import numpy as np
import pytest
from brute_force import fit
from tiny_mixtures import OWN, SHARED, prefix_masses, tiny

from lmtest.errors import UsageError
from lmtest.languages.hmm_evidence import (
    ANY,
    IS_DELIMITER,
    MOST_LISTED,
    NO_DELIMITER,
    list_given,
    log_probability,
    sample_given,
)
from lmtest.languages.hmm_mixture import HmmMixture
from lmtest.seeds import generator

MIXTURES = {
    "shared": tiny(6),
    "own": tiny(6, OWN),
    "sparse": tiny(6, OWN, transitions={"law": "permutation_mixture", "permutations": 2, "temperature": 0.3}),
}
every_mixture = pytest.mark.parametrize("language", MIXTURES.values(), ids=MIXTURES.keys())


def agree(word: tuple[int, ...], evidence: list[int]) -> bool:
    return all(
        code == ANY or (symbol == 0) == (code == IS_DELIMITER) for symbol, code in zip(word, evidence, strict=True)
    )


def given(language: HmmMixture, evidence: list[int]) -> dict[tuple[int, ...], float]:
    """Masses of the strings that agree with the evidence, one by one."""
    masses = prefix_masses(language.mixture, len(evidence))
    return {word: p for word, p in masses.items() if len(word) == len(evidence) and agree(word, evidence)}


def some_evidence(name: str, count: int = 12) -> list[list[int]]:
    rng = generator(0, name)
    return [rng.integers(0, 3, rng.integers(1, 7)).tolist() for _ in range(count)]


@every_mixture
def test_the_probability_is_the_sum_over_all_strings_that_agree(language: HmmMixture) -> None:
    for evidence in some_evidence("probability"):
        total = math.fsum(given(language, evidence).values())
        expected = math.log(total) if total else -math.inf
        assert log_probability(language.mixture, np.array(evidence)) == pytest.approx(expected, abs=1e-12)


@every_mixture
def test_the_list_is_that_of_all_strings_that_agree(language: HmmMixture) -> None:
    for evidence in some_evidence("list"):
        symbols, log_probs = list_given(language.mixture, np.array(evidence))
        found = dict(zip(map(tuple, symbols.tolist()), log_probs.exp().tolist(), strict=True))
        assert found == pytest.approx(given(language, evidence), rel=1e-12)
        assert len(found) == len(symbols)


@every_mixture
@pytest.mark.parametrize("evidence", [[2, 2, 1, 2, 2], [0, 1, 0, 2], [0, 0, 0, 0]], ids=["prompt", "mixed", "none"])
def test_draws_have_the_law_given_the_evidence(language: HmmMixture, evidence: list[int]) -> None:
    masses = given(language, evidence)
    total = math.fsum(masses.values())
    if not total:
        pytest.skip("such strings do not exist")
    sample = sample_given(language.mixture, np.array(evidence), 4000, generator(1, "test"))
    assert fit(map(tuple, sample.tolist()), {word: p / total for word, p in masses.items()}) > 1e-4


def test_draws_are_decided_by_their_generator() -> None:
    evidence = np.array([2, 1, 0, 2])
    first, again, other = (sample_given(MIXTURES["own"].mixture, evidence, 50, generator(s, "test")) for s in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def test_a_shared_delimiter_makes_evidence_a_run_of_coins() -> None:
    """Far beyond what a float holds: 3000 positions."""
    codes = generator(0, "coins").integers(0, 3, 3000)
    stops, others = int((codes == IS_DELIMITER).sum()), int((codes == NO_DELIMITER).sum())
    expected = stops * math.log(0.2) + others * math.log(0.8)
    assert log_probability(MIXTURES["shared"].mixture, codes) == pytest.approx(expected, rel=1e-12)
    drawn = sample_given(MIXTURES["shared"].mixture, codes, 2, generator(0, "test"))
    assert agree(tuple(drawn[0].tolist()), codes.tolist())


def test_evidence_that_no_document_agrees_with_has_no_draws() -> None:
    # A permutation of two properties, and the delimiter is one of them: it comes every second time, or always.
    fixed = {"properties": 2, "transitions": {"law": "smoothed_permutation", "smoothing": 0.0}, "concepts": 1}
    language = tiny(6, OWN, **fixed)
    impossible = np.array([1, 1, 2])
    assert log_probability(language.mixture, impossible) == -math.inf
    assert len(list_given(language.mixture, impossible)[0]) == 0
    with pytest.raises(UsageError, match="expected evidence of positive probability"):
        sample_given(language.mixture, impossible, 3, generator(0, "test"))


def test_too_many_strings_are_not_listed() -> None:
    length = math.ceil(math.log2(MOST_LISTED))
    assert list_given(tiny(4).mixture, np.full(length, NO_DELIMITER)) is None
    assert list_given(tiny(4).mixture, np.full(length - 1, NO_DELIMITER)) is not None


@pytest.mark.parametrize("evidence", [[], [0, 3], [[0, 1]], [0.5]])
def test_what_is_no_evidence_is_refused(evidence: list[float]) -> None:
    with pytest.raises(UsageError, match="expected evidence on at least one position"):
        log_probability(tiny(4, SHARED).mixture, np.array(evidence))
