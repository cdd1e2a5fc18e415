"""Where languages stand in the Chomsky hierarchy, for languages whose place is known."""

from typing import Any

import pytest

from lmtest.languages import build_language, load_language
from lmtest.languages.classes import classify

GEOMETRIC = {"law": "geometric", "p": 0.5}


def language(**file: Any) -> Any:
    return build_language("x", {"title": "x", **file}, "x")


@pytest.mark.parametrize(
    ("name", "own", "family"),
    [
        ("anbn_small", "finite", "context-free"),
        ("anbn_geometric", "context-free", "context-free"),
        ("anbncn", "finite", "beyond context-free"),
        ("abn", "finite", "context-free"),
        ("anbm", None, "regular"),
        ("anbnan", "finite", "beyond context-free"),
        ("ban_small", "finite", "regular"),
        ("bban_small", "finite", "regular"),
        ("brackets_nested_small", "finite", "context-free"),
        ("brackets_shuffled_small", "finite", "beyond context-free"),
        ("dyck2", "finite", "context-free"),
        ("palindromes", None, "context-free"),
        ("parity", None, "regular"),
        ("ginc_shared", "finite", "regular"),
        ("layered_small", "finite", "finite"),
    ],
)
def test_shipped_languages_are_where_they_are_known_to_be(name: str, own: str | None, family: str) -> None:
    found = classify(load_language(name))
    assert found[1].name == family
    assert own is None or found[0].name == own
    assert all(each.reason for each in found)


@pytest.mark.parametrize(
    ("grammar", "expected", "reason"),
    [
        ("S -> 'a' S [0.5] | 'b' [0.5]", "regular", "right-linear"),
        ("S -> S 'a' [0.5] | 'b' [0.5]", "regular", "left-linear"),
        ("S -> 'a' S [0.3] | T [0.7]\nT -> T 'b' [0.5] | 'c' [0.5]", "regular", "no nonterminal embeds itself"),
        ("S -> 'a' T [0.5] | 'b' [0.5]\nT -> S 'c' [1.0]", "context-free", "embeds itself"),
        ("S -> S S [0.4] | 'a' [0.6]", "context-free", "cannot be decided"),
        ("S -> E S 'a' [0.5] | 'a' [0.5]\nE -> [1.0]", "regular", "no nonterminal embeds itself"),
        ("S -> 'a' 'b' [0.5] | 'b' [0.5]", "finite", "no rule leads back"),
    ],
)
def test_grammars_without_self_embedding_are_regular(grammar: str, expected: str, reason: str) -> None:
    _, family = classify(language(kind="pcfg", grammar=grammar))
    assert family.name == expected
    assert reason in family.reason


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("a^n b^n", "context-free"),
        ("a^n b^m c^n", "context-free"),
        ("a^n b^m c^m d^n", "context-free"),
        ("a^n b^m c^n d^m", "beyond context-free"),
        ("a^n b^n c^n", "beyond context-free"),
        ("a^n a^n", "regular"),
        ("a^n b^m", "regular"),
        ("(a b)^n c", "regular"),
    ],
)
def test_templates_are_told_by_where_their_exponents_stand(template: str, expected: str) -> None:
    laws = {name: GEOMETRIC for name in ("n", "m") if f"^{name}" in template}
    assert classify(language(kind="template", template=template, **laws))[1].name == expected


@pytest.mark.parametrize(
    ("template", "infinite"), [("a^n b^m c^n", "m"), ("a^n b^n c^n d^m", "m"), ("a^n b^m a^n b^m c^k", "k")]
)
def test_exponents_with_finitely_many_values_are_kept_by_a_state(template: str, infinite: str) -> None:
    bounded, endless = {"law": "uniform", "low": 1, "high": 3}, {"law": "geometric", "p": 0.5}
    laws = {name: endless if name == infinite else bounded for name in "nmk" if name in template}
    language = build_language("x", {"title": "", "kind": "template", "template": template, **laws}, "x")
    own, family = classify(language)
    assert own.name == "regular"
    assert family.name != "regular"
