from __future__ import annotations

import itertools

import numpy as np
import pytest
from explicit_language import ExplicitLanguage, all_rows, explicit_anbn

from lmtest.errors import UsageError
from lmtest.evaluators import chance
from lmtest.evaluators.chance import uniform_chance
from lmtest.languages import build_language, load_language
from lmtest.languages.base import Language
from lmtest.languages.prompts import empty_prompt, prompts_of_length, published_prompts

THREE = ExplicitLanguage(
    "abc",
    {"abc": 0.5, "aabbcc": 0.25, "": 0.125, "ab": 0.125},
    {
        "R1": {"count": "a == b == c"},
        "R2": {"regex": "a*b*c*"},
        "few": {"count": "a <= 2 and b != 1"},
        "long": {"min_length": 4},
        "short": {"max_length": 5},
    },
)


def by_enumeration(language: Language, row: tuple[int, ...], max_new_tokens: int) -> dict[str, float]:
    n_symbols = len(language.symbols)
    strings = {tuple(string) for string in language.support().rows}  # type: ignore[union-attr]
    chance = dict.fromkeys(["finish_rate", "grammatical"], 0.0)
    for name in language.rules:
        chance |= {name: 0.0, f"{name}_completion": 0.0}
    for completion in all_rows(n_symbols, max_new_tokens - 1):
        weight = (n_symbols + 1.0) ** -(len(completion) + 1)
        whole = (*row, *completion)
        chance["finish_rate"] += weight
        chance["grammatical"] += weight * (whole in strings)
        for name, rule in language.rules.items():
            chance[name] += weight * rule.accepts(rule.run(whole))
            chance[f"{name}_completion"] += weight * rule.accepts(rule.run(completion))
    return chance


@pytest.mark.parametrize("max_new_tokens", [1, 2, 3, 6])
@pytest.mark.parametrize("language", [explicit_anbn(4), THREE], ids=["anbn", "three"])
def test_chance_agrees_with_the_enumeration_of_all_completions(language: Language, max_new_tokens: int) -> None:
    rows = all_rows(len(language.symbols), 3)
    found = uniform_chance(language, rows, max_new_tokens)
    names = [n for name in language.rules for n in (name, f"{name}_completion")]
    assert list(found) == ["finish_rate", *names, "grammatical"]
    for i, row in enumerate(rows):
        expected = by_enumeration(language, row, max_new_tokens)
        assert {name: values[i] for name, values in found.items()} == pytest.approx(expected, abs=1e-14), row


@pytest.mark.parametrize("max_new_tokens", [1, 7, 300])
def test_the_finish_rate_has_its_closed_form(max_new_tokens: int) -> None:
    for language, ratio in ((explicit_anbn(4), 2 / 3), (THREE, 3 / 4)):
        found = uniform_chance(language, [(), (0, 1)], max_new_tokens)["finish_rate"]
        assert found == pytest.approx(1 - ratio**max_new_tokens, rel=1e-14)


def test_anbn_has_its_known_chance_levels() -> None:
    language = explicit_anbn(16)
    inside, outside = prompts_of_length(language, 8)
    found = uniform_chance(language, outside.rows, 300)
    assert found["R1"].mean() == pytest.approx(0.154, abs=5e-4)
    assert found["R2_completion"] == pytest.approx(0.75, abs=1e-12)  # 1/3 · Σ_j 3^-j · Σ_k 3^-k = 1/3 · (3/2)²
    assert (found["grammatical"] == 0).all()
    # From a difference of D the walk has to lose it: the classical generating function of such walks at 1/3.
    slope, at_zero = (3 - 5**0.5) / 2, 5**-0.5
    differences = np.array([abs(row.count(0) - row.count(1)) for row in outside.rows])
    assert found["R1"] == pytest.approx(at_zero * slope**differences, abs=1e-13)
    ends = uniform_chance(language, inside.rows, 300)["grammatical"]
    needed = np.array([row.count(0) - row.count(1) for row in inside.rows])
    expected = [
        sum(3.0 ** -(2 * (n - 8) + 8 + 1) for n in range(8, 17)) if d == 8 else 3.0 ** -(d + 1) for d in needed.tolist()
    ]
    assert ends == pytest.approx(expected, rel=1e-12)


def test_what_cannot_be_listed_is_not_a_number_unless_the_prompt_is_impossible(monkeypatch: pytest.MonkeyPatch) -> None:
    language = explicit_anbn(4)
    monkeypatch.setattr(language, "support", lambda limit=0: None)
    found = uniform_chance(language, [(0,), (1,)], 5)["grammatical"]
    assert np.isnan(found).tolist() == [True, False]
    assert found[1] == 0


def test_too_many_states_give_no_number_rather_than_a_wrong_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chance, "MAX_STATES", 50)
    found = uniform_chance(THREE, [(), (0, 0, 0)], 100)
    assert np.isnan(found["R1"]).all()
    assert not np.isnan(found["R2"]).any()


def test_a_rule_broken_beyond_repair_has_no_chance() -> None:
    found = uniform_chance(THREE, [(1, 0), (0, 0, 0)], 50)
    assert found["R2"][0] == 0
    assert found["few"][1] == 0
    assert found["R2_completion"][0] > 0


def test_the_empty_prompt_and_its_completion_are_one() -> None:
    found = uniform_chance(THREE, empty_prompt(THREE).rows, 20)
    for name in THREE.rules:
        assert found[name] == found[f"{name}_completion"]


def test_no_prompts_give_no_numbers() -> None:
    assert all(values.shape == (0,) for values in uniform_chance(THREE, [], 5).values())


def test_no_new_tokens_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        uniform_chance(THREE, [()], 0)


@pytest.mark.parametrize("prompt", ["", "([", ")(", "[()", "(("])
def test_nested_brackets_have_the_chance_of_brute_force_and_need_few_states(prompt: str) -> None:
    language = load_language("brackets_nested_small")
    row = language.vocabulary.ids(prompt)
    assert row is not None
    n_symbols, new_tokens = 4, 6
    rule = language.rules["nested"]
    kept = 0.0
    for length in range(new_tokens):
        for more in itertools.product(range(n_symbols), repeat=length):
            kept += rule.accepts(rule.run((*row, *more))) * (n_symbols + 1.0) ** -(length + 1)
    assert uniform_chance(language, [row], new_tokens)["nested"][0] == pytest.approx(kept, rel=1e-12)
    assert np.isfinite(uniform_chance(language, [row], 300)["nested"][0])


SMALL = ["ban_small", "bban_small", "abn_short", "brackets_nested_small", "brackets_shuffled_small", "three_kinds"]


def countable(name: str) -> Language:
    if name == "abn_short":
        law = {"law": "uniform", "low": 2, "high": 8, "step": 2}
        table = {"kind": "arranged", "title": "", "counted": "a", "filler": "b", "length": law, "count": "half"}
        return build_language(name, table | {"arrangement": "sorted", "prefix": "ba"}, name)
    if name == "three_kinds":
        law = {"law": "weights", "low": 2, "weights": [0.5, 0.0, 0.0, 0.0, 0.5]}
        table = {"kind": "brackets", "title": "", "pairs": ["()", "[]", "{}"], "target": law, "discipline": "shuffled"}
        return build_language(name, table, name)
    return load_language(name)


@pytest.mark.parametrize("name", SMALL)
def test_completions_are_counted_as_they_are_listed(name: str) -> None:
    language = countable(name)
    support = language.support()
    assert support is not None
    prefixes = sorted({row[:t] for row in support.rows[::7] for t in range(len(row) + 1)})[::3]
    prefixes += [(), (1,), (0, 0, 1), tuple(range(len(language.symbols))), support.rows[-1]]
    for most in (0, 1, 4, 30):
        counted = language.count_completions(prefixes, most)
        np.testing.assert_array_equal(counted, Language.count_completions(language, prefixes, most))


@pytest.mark.parametrize("name", ["ban", "brackets_nested", "brackets_shuffled"])
def test_chance_of_a_grammatical_completion_is_exact_at_published_sizes(name: str) -> None:
    language = load_language(name)
    inside, outside = published_prompts(language)
    chance = uniform_chance(language, [*inside.rows, *outside.rows], 300, rules=[])["grammatical"]
    assert (chance[: len(inside.rows)] > 0).all()
    assert (chance[len(inside.rows) :] == 0).all()
    # The first steps by brute force: what is over by the fourth new token.
    row, n = inside.rows[0], len(language.symbols)
    few = uniform_chance(language, [row], 5, rules=[])["grammatical"][0]
    longer = [(*row, *more) for r in range(5) for more in itertools.product(range(n), repeat=r)]
    weights = (n + 1.0) ** -np.array([len(string) - len(row) + 1 for string in longer])
    assert few == pytest.approx(float(weights @ (language.log_prob_ids(longer) > -np.inf).numpy()), rel=1e-12)
