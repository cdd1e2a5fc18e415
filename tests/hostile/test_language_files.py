"""Language files: whatever they hold, they are a language or one clear line, within the time that is allowed."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hostile_inputs import (
    COUNTS,
    LAWS,
    REGEXES,
    TEMPLATES,
    changed,
    changed_bytes,
    changed_text,
    examples,
    lmtest,
    nothing_half_written,
    or_refused,
    toml,
)
from hypothesis import given
from hypothesis import strategies as st

from lmtest.languages import build_language, load_language

GRAMMARS = Path(__file__).parents[2] / "grammars"
SMALL = [
    "anbn",
    "anbm",
    "ban_small",
    "dyck2",
    "english_small",
    "brackets_nested_small",
    "ginc_shared",
    "layered_small",
    "sums",
]
TEXTS = {name: (GRAMMARS / f"{name}.toml").read_text("utf-8") for name in SMALL}
VERBS = st.sampled_from(
    [
        ("describe", "--length", "3", "--draws", "50"),
        ("describe", "--length", "3", "--draws", "50", "--json"),
        ("sample", "-n", "5"),
        ("sample", "-n", "5", "--json"),
    ]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("languages")


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A shipped file with a few things wrong: in its tables, its text, or its bytes."""
    text = TEXTS[draw(st.sampled_from(SMALL))]
    return draw(
        st.one_of(
            changed(tomllib.loads(text)).map(toml),
            changed_text(text).map(lambda text: text.encode("utf-8", "surrogatepass")),
            changed_bytes(text.encode()),
        )
    )


@examples(0.6)
@given(files(), VERBS)
def test_a_faulty_file_is_one_clear_line(folder: Path, data: bytes, verb: tuple[str, ...]) -> None:
    (folder / "mine.toml").write_bytes(data)
    lmtest(verb[0], folder / "mine.toml", *verb[1:])
    lmtest("export", "lm-eval", folder / "mine.toml", "--out", folder / "task")
    nothing_half_written(folder)
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


@st.composite
def grammars(draw: st.DrawFn) -> str:
    """Any rules over a few nonterminals, whose probabilities sum to 1 more often than not."""
    names = ["S", *draw(st.lists(st.sampled_from(["A", "B", "NP"]), unique=True, max_size=3))]
    lines = []
    for name in names:
        n = draw(st.integers(1, 3))
        shares = draw(st.sampled_from([[1 / n] * n, [1.0] + [0.0] * (n - 1), [0.9] + [0.1 / max(n - 1, 1)] * (n - 1)]))
        symbols = st.lists(st.sampled_from([*names, "'a'", "'b'", "'the'"]), max_size=4)
        lines.append(f"{name} -> " + " | ".join(f"{' '.join(draw(symbols))} [{share:.12f}]" for share in shares))
    return "\n".join(lines)


def is_a_distribution(table: dict[str, Any]) -> None:
    """The language, if it is one, says the same in sampling, membership, string and prefix probability."""
    language = or_refused(lambda: build_language("mine", table, "mine.toml"))
    rows = None if language is None else or_refused(lambda: language.sample(20, seed=0))
    if language is None or rows is None:
        return
    rows = [row for row in rows if len(row) < 30]
    assert language.contains(rows).all()
    assert (language.log_prob(rows) <= language.prefix_log_prob(rows) + 1e-9).all()
    for row in rows[:3]:
        for end in {0, len(row) // 2, len(row)}:
            law = language.next_symbol_law(row[:end])
            assert abs(sum(law.values()) - 1) < 1e-9
    assert abs(language.prefix_log_prob([()])[0]) < 1e-6


@examples(1.5)
@given(grammars(), st.sampled_from([None, 1, 3, 12]))
def test_a_grammar_is_a_distribution_or_refused(grammar: str, most: int | None) -> None:
    table = {"title": "", "kind": "pcfg", "grammar": grammar}
    is_a_distribution(table if most is None else table | {"max_length": most})


@examples(1)
@given(TEMPLATES, st.fixed_dictionaries({"n": LAWS, "m": LAWS}), st.sampled_from([None, 1, 20, 10**6]))
def test_a_template_is_a_distribution_or_refused(template: str, laws: dict[str, Any], most: int | None) -> None:
    used = {name: law for name, law in laws.items() if name in template}
    table = {"title": "", "kind": "template", "template": template} | used
    if most != 10**6 and not (most is None and "1000" in template):  # long strings are exact too, and slow
        is_a_distribution(table if most is None else table | {"max_length": most})
    else:
        or_refused(lambda: build_language("mine", table, "mine.toml"))


RULES = st.dictionaries(
    st.sampled_from(["R1", "R2", "x"]),
    st.one_of(
        st.fixed_dictionaries({"regex": REGEXES}),
        st.fixed_dictionaries({"count": st.one_of(COUNTS, st.text(alphabet="ab%<>=!+*-01 ()andor", max_size=30))}),
        st.fixed_dictionaries({"min_length": st.integers(-1, 10**7)}),
        st.sampled_from([{"balanced": [["a", "b"]]}, {"nested": [["a"]]}, {"irreducible": "ab"}, {}, {"regex": 5}]),
    ),
)


@examples(1)
@given(RULES)
def test_rules_are_decided_or_refused(rules: dict[str, Any]) -> None:
    """Where the rules can be read, each says on every short string what its states say."""
    table = {"title": "", "kind": "template", "template": "a^n b^n", "n": {"law": "uniform", "low": 1, "high": 3}}
    language = or_refused(lambda: build_language("mine", table | {"rules": rules}, "mine.toml"))
    if language is None:
        return
    rows = [(0, 0, 1), (1, 0), (), (0, 1, 1, 0)]
    tokens, ends = language.vocabulary.pack(rows)
    for rule in language.rules.values():
        held = rule.holds(tokens[:, 1:], ends).tolist()
        for row, holds in zip(rows, held, strict=True):
            state = rule.start()
            for symbol in row:
                state = rule.step(state, symbol)
            assert rule.accepts(state) == holds
            assert rule.alive(state) or not holds


@pytest.mark.parametrize("name", SMALL)
def test_the_shipped_file_itself_is_fine(name: str) -> None:
    assert load_language(name).sample(1, seed=0)


def test_what_a_file_says_cannot_steer_the_terminal(folder: Path) -> None:
    title = "\x1b]0;renamed\x07\x1b[2J :smile:"
    (folder / "esc.toml").write_bytes(
        toml({"title": title, "kind": "pcfg", "grammar": "S -> 'a' [0.5] | '\x1b[31m' [0.5]"})
    )
    for verb in (("describe", "--length", "1", "--draws", "10"), ("sample",)):
        done = lmtest(verb[0], folder / "esc.toml", *verb[1:])
        assert "\x1b" not in done.out
        assert "\x07" not in done.out
    assert ":smile:" in lmtest("describe", folder / "esc.toml", "--draws", "10").out


def test_a_critical_grammar_is_described_as_far_as_it_can_be(folder: Path) -> None:
    (folder / "critical.toml").write_bytes(toml({"title": "", "kind": "pcfg", "grammar": "S -> S S [0.5] | 'a' [0.5]"}))
    done = lmtest("describe", folder / "critical.toml", "--length", "2", "--draws", "50")
    assert "no mean length" in done.out
    assert "prompts" in done.out


def test_an_audit_does_not_wait_for_ever(folder: Path) -> None:
    names = [f"N{i}" for i in range(30)]
    rules = "\n".join(
        f"{a} -> " + " | ".join(f"{a} {b} [{0.4 / 30:.12f}]" for b in names) + " | 'a' [0.6]" for a in names
    )
    (folder / "slow.toml").write_bytes(toml({"title": "", "kind": "pcfg", "grammar": rules, "max_length": 300}))
    (folder / "t.csv").write_text("language,loss\nslow.toml,1.0\n", "utf-8")
    lmtest("audit", folder / "t.csv")
