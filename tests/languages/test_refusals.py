"""What the languages refuse, and that the refusal names the culprit and what was found."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from brute_force import load, write_language

from lmtest.errors import UsageError
from lmtest.languages import load_language

FINE = "S -> 'a' S 'b' [0.5] | 'a' 'b' [0.5]"
TEMPLATE = {"kind": "template", "template": "a^n b^n"}
UNIFORM = {"law": "uniform", "low": 1, "high": 4}


@pytest.mark.parametrize(
    ("grammar", "culprit", "found"),
    [
        ("S -> 'a' S [0.5] | 'b' [0.495]", r"\bS\b", r"0\.995"),
        ("S -> 'a' S [0.5] | 'b' [0.5000001]", r"\bS\b", r"1\.0000001"),
        ("S -> A 'a' [1.0]\nA -> 'b' [0.5] | 'c' [0.49]", r"\bA\b", r"0\.99"),
        ("S -> 'a' [0.5] | 'b'", "S", ""),
        ("S -> 'a' [1.5] | 'b' [-0.5]", r"S", r"-0\.5"),
        ("S -> 'a' T [0.5] | 'b' [0.5]", r"\bT\b", ""),
        ("S -> 'a' A [0.5] | 'b' [0.5]\nA -> 'a' A [1.0]", r"\bA\b", ""),
        ("S -> 'a' A [0.5] | 'b' [0.5]\nA -> B [1.0]\nB -> A [1.0]", r"\b[AB]\b", ""),
        ("S -> S S [0.6] | 'a' [0.4]", r"\bS\b", r"0\.66+7"),
        ("Z -> 'b' A [1.0]\nA -> A A A [0.5] | [0.25] | 'a' [0.25]", r"\b[AZ]\b", r"0\.618|0\.6180"),
        ("S -> S S [0.50000001] | 'a' [0.49999999]", r"\bS\b", r"0\.99999996"),
        ("S -> S [1.0]", r"\bS\b", ""),
        ("S -> 'a' S [1.0]", r"\bS\b", ""),
        ("S -> '<eos>' [1.0]", "<eos>", ""),
        ("S -> 'a' '<eos>' [0.5] | 'a' [0.5]", "<eos>", ""),
        ("", "grammar", ""),
        ("S - 'a' [1.0]", "S - ", ""),
        ("S -> 'a [1.0]", "S -> ", ""),
    ],
)
def test_faulty_grammar_is_refused_with_culprit_and_number(grammar: str, culprit: str, found: str) -> None:
    with pytest.raises(UsageError, match=culprit) as refusal:
        load(kind="pcfg", grammar=grammar)
    assert refusal.match(found)


@pytest.mark.parametrize("limit", [None, 4])
def test_lossy_grammar_is_refused_whether_or_not_its_length_is_limited(limit: int | None) -> None:
    with pytest.raises(UsageError, match=r"0\.66+7"):
        load(kind="pcfg", grammar="S -> S S [0.6] | 'a' [0.4]", max_length=limit)


@pytest.mark.parametrize(
    "unused",
    ["U -> U U [0.6] | 'c' [0.4]", "U -> 'c' U [1.0]", "U -> 'c' S [1.0]", "U -> W [1.0]\nW -> 'c' U 'd' [1.0]"],
)
def test_unreachable_nonterminal_is_dropped_with_its_terminals(unused: str) -> None:
    language = load(kind="pcfg", grammar=f"{FINE}\n{unused}")
    assert sorted(language.symbols) == ["a", "b"]
    assert language.log_prob(["ab", "c"]).tolist() == [pytest.approx(math.log(0.5)), -math.inf]


def test_critical_grammar_keeps_its_mass_and_has_an_infinite_mean_length() -> None:
    language = load(kind="pcfg", grammar="S -> S S [0.5] | 'a' [0.5]")
    assert language.mean_length() == math.inf
    assert language.prefix_log_prob([""])[0] == pytest.approx(0, abs=1e-9)
    assert language.log_prob(["aa"])[0] == pytest.approx(math.log(0.125), rel=1e-9)


def test_critical_grammar_within_max_length_has_a_finite_mean_length() -> None:
    language = load(kind="pcfg", grammar="S -> S S [0.5] | 'a' [0.5]", max_length=2)
    assert language.mean_length() == pytest.approx((0.5 + 2 * 0.125) / 0.625, rel=1e-9)


def test_probabilities_within_one_in_a_thousand_million_are_accepted() -> None:
    load(kind="pcfg", grammar="S -> 'a' [0.3333333333] | 'b' [0.3333333333] | 'c' [0.3333333333]")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kind": "pcgf", "grammar": FINE}, "pcgf.*pcfg"),
        ({"kind": "pcfg", "grammer": FINE}, "grammer.*grammar"),
        ({"kind": "pcfg", "grammar": FINE, "max_lenght": 4}, "max_lenght.*max_length"),
        ({"kind": "pcfg", "grammar": FINE, "titel": "a", "title": None}, "title"),
        ({"grammar": FINE}, "kind"),
        ({"kind": "pcfg", "grammar": FINE, "title": None}, "title"),
        ({"kind": "pcfg"}, "grammar"),
        ({"kind": "pcfg", "grammar": 3}, "grammar"),
        ({"kind": "pcfg", "grammar": FINE, "title": 3}, "title"),
        ({"kind": "pcfg", "grammar": FINE, "max_length": 1}, "max_length.*1"),
        ({"kind": "pcfg", "grammar": FINE, "max_length": -1}, "max_length.*-1"),
        ({"kind": "pcfg", "grammar": FINE, "max_length": "4"}, "max_length"),
        ({"kind": "pcfg", "grammar": FINE, "max_length": 4.5}, "max_length"),
        ({"kind": "pcfg", "grammar": FINE, "max_length": True}, "max_length"),
        ({"kind": "pcfg", "grammar": FINE, "n": UNIFORM}, r"\bn\b"),
        ({"kind": "pcfg", "grammar": FINE, "rules": {"R1": {"count": "a == z"}}}, "z"),
        ({"kind": "pcfg", "grammar": FINE, "rules": {"R1": {"regex": "a*z*"}}}, "z"),
        ({"kind": "pcfg", "grammar": FINE, "rules": {"R1": {"counts": "a == b"}}}, "counts.*count"),
        ({"kind": "template", "n": UNIFORM}, "template"),
        ({**TEMPLATE}, r"\bn\b"),
        ({**TEMPLATE, "m": UNIFORM}, r"\b[nm]\b"),
        ({**TEMPLATE, "n": UNIFORM, "m": UNIFORM}, r"\bm\b"),
        ({**TEMPLATE, "n": UNIFORM, "template": "a^n b^k"}, r"\bk\b"),
        ({**TEMPLATE, "n": {"law": "uniform", "low": 5, "high": 4}}, "5.*4|4.*5"),
        ({**TEMPLATE, "n": {"law": "uniform", "low": -1, "high": 4}}, "-1"),
        ({**TEMPLATE, "n": {"law": "uniform", "low": 1}}, "high"),
        ({**TEMPLATE, "n": {"law": "uniform", "low": 1, "hihg": 4}}, "hihg.*high|high"),
        ({**TEMPLATE, "n": {"law": "unifrom", "low": 1, "high": 4}}, "unifrom.*uniform"),
        ({**TEMPLATE, "n": {"low": 1, "high": 4}}, "law"),
        ({**TEMPLATE, "n": {"law": "weights", "weights": [0.5, 0.4], "low": 1}}, r"0\.9"),
        ({**TEMPLATE, "n": {"law": "weights", "weights": [1.5, -0.5], "low": 1}}, r"-0\.5"),
        ({**TEMPLATE, "n": {"law": "weights", "weights": [], "low": 1}}, "weights"),
        ({**TEMPLATE, "n": {"law": "geometric", "p": 0.0, "low": 1}}, "0"),
        ({**TEMPLATE, "n": {"law": "geometric", "p": 1.5, "low": 1}}, r"1\.5"),
        ({**TEMPLATE, "n": {"law": "geometric", "low": 1}}, r"\bp\b"),
        ({**TEMPLATE, "n": UNIFORM, "max_length": 1}, "max_length.*1"),
        ({**TEMPLATE, "n": UNIFORM, "template": "a^n b^^n"}, r"\^"),
        ({**TEMPLATE, "n": UNIFORM, "template": "(ab^n"}, r"\("),
        ({**TEMPLATE, "n": UNIFORM, "template": ""}, "template"),
    ],
)
def test_faulty_file_is_refused_and_the_fault_is_named(keys: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=f"(?s){message}"):
        load(**keys)


def test_refusal_names_the_file(tmp_path: Path) -> None:
    path = write_language(tmp_path / "mine.toml", kind="pcfg", grammar="S -> 'a' [0.5]")
    with pytest.raises(UsageError, match=r"mine\.toml"):
        load_language(path)


def test_broken_toml_is_refused_and_the_file_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text('title = "a\nkind = pcfg\n')
    with pytest.raises(UsageError, match=r"broken\.toml"):
        load_language(path)


def test_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00title")
    with pytest.raises(UsageError, match=r"binary\.toml"):
        load_language(path)


def test_missing_file_is_refused_by_path(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing\.toml"):
        load_language(tmp_path / "missing.toml")
    with pytest.raises(UsageError, match=r"missing\.toml"):
        load_language(str(tmp_path / "missing.toml"))


def test_folder_is_not_a_language(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        load_language(tmp_path)


def test_unknown_shipped_name_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"anbnx.*anbn"):
        load_language("anbnx")


def test_path_as_text_and_as_path_give_the_same_language(tmp_path: Path) -> None:
    path = write_language(tmp_path / "mine.toml", kind="pcfg", grammar=FINE, title="mine", source="here")
    for language in (load_language(path), load_language(str(path))):
        assert (language.name, language.title, language.source) == ("mine", "mine", "here")
        assert language.sample(5, seed=0) == load_language(path).sample(5, seed=0)


# What the methods of a language refuse.

LANGUAGES = [{"kind": "pcfg", "grammar": FINE}, {"kind": "pcfg", "grammar": FINE, "max_length": 8}]
LANGUAGES += [{**TEMPLATE, "n": UNIFORM}]
each_language = pytest.mark.parametrize("keys", LANGUAGES, ids=["pcfg", "pcfg within 8", "template"])


@each_language
@pytest.mark.parametrize("method", ["log_prob", "prefix_log_prob", "contains"])
def test_bare_str_in_place_of_a_list_raises(keys: dict[str, object], method: str) -> None:
    with pytest.raises((TypeError, UsageError), match="list"):
        getattr(load(**keys), method)("ab")


@each_language
def test_unknown_symbol_has_no_mass(keys: dict[str, object]) -> None:
    language = load(**keys)
    for string in ("axb", "x", ("a", "b", "<eos>"), ("<bos>", "a", "b"), ("a", "b", "<pad>")):
        assert language.log_prob(["ab", string]).tolist() == [pytest.approx(language.log_prob(["ab"])[0]), -math.inf]
        assert language.prefix_log_prob([string]).tolist() == [-math.inf]
        assert language.contains([string, "ab"]).tolist() == [False, True]


@each_language
@pytest.mark.parametrize("prefix", ["b", "aba", "abb", "x", "ax"])
def test_dead_prefix_has_no_next_symbol_law(keys: dict[str, object], prefix: str) -> None:
    with pytest.raises(UsageError, match=prefix):
        load(**keys).next_symbol_law(prefix)


@each_language
def test_negative_number_of_draws_is_refused(keys: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="-1"):
        load(**keys).sample(-1, seed=0)
