"""Contexts: members against regular expressions, strata against every prefix of a small language."""

import itertools
import math
import re
from collections import Counter

import numpy as np
import pytest
import torch
from brute_force import fit, load, parse, render, truth_of_grammar
from pydantic import BaseModel
from tiny_mixtures import OWN, prefix_masses, tiny

from lmtest.errors import UsageError
from lmtest.languages import Language, contexts, hmm_evidence, load_language
from lmtest.languages.contexts import (
    ContextsConfig,
    ImprobablePrefixes,
    Prefixes,
    PromptContexts,
    exchange_gap,
    live_prefixes,
)
from lmtest.seeds import generator
from lmtest.validation import validate

PCFG = "S -> a S b [0.3] | S a [0.15] | b T [0.35] | [0.2]\nT -> a T [0.4] | S b [0.3] | b [0.3]"
"""Ambiguous, with ε: strings of any length."""

PROMPTS = {
    "k2": (tiny(13), 2, (2, 3), False),
    "k1": (tiny(9), 1, (2, 3), False),
    "own": (tiny(8, OWN), 2, (2,), False),
    "anywhere": (tiny(9), 2, (2,), True),
    "anywhere own": (tiny(9, OWN), 2, (2,), True),
}
every_family = pytest.mark.parametrize(("language", "k", "examples", "anywhere"), PROMPTS.values(), ids=PROMPTS.keys())


def prompt_regex(k: int, examples: tuple[int, ...], anywhere: bool) -> re.Pattern[str]:
    ways = "|".join(f"([a-z]{{{k}}}/){{{n}}}[a-z]{{{k - 1}}}" for n in examples)
    return re.compile(f"[a-z/]*({ways})" if anywhere else f"({ways})")


def text(row: tuple[int, ...], language: Language) -> str:
    return "".join((*language.symbols, "E", "B", "P")[token] for token in row)


@every_family
def test_members_are_the_prefixes_that_match(language, k, examples, anywhere) -> None:
    family = PromptContexts(language, k, examples, anywhere)
    pattern = prompt_regex(k, examples, anywhere)
    rng = generator(0, "members")
    # Delimiters where a prompt wants them, give or take a few, and now and then a token that is no symbol.
    wanted = np.array(([1] * k + [0]) * 7)
    rows = np.stack([np.roll(wanted, shift)[:12] for shift in rng.integers(0, k + 1, 600)])
    noise = rng.integers(0, language.vocabulary.n_inputs, rows.shape)
    rows = np.where(rng.random(rows.shape) < rng.choice([0.0, 0.03, 0.2], (600, 1)), noise, rows)
    firsts = np.where(rng.random((600, 1)) < 0.05, noise[:, :1], language.vocabulary.bos)
    tokens = torch.from_numpy(np.concatenate([firsts, rows], 1))
    member = family.member(tokens)
    assert member.shape == tokens.shape
    for row, found in zip(tokens.tolist(), member.tolist(), strict=True):
        started = row[0] == language.vocabulary.bos
        expected = [started and pattern.fullmatch(text(row[1 : t + 1], language)) is not None for t in range(len(row))]
        assert found == expected
    assert 20 < int(member.sum()) < member.numel() / 2
    assert not family.member(tokens[:, :1]).any()
    assert family.member(tokens[:, :3]).shape == (600, 3)


def members_by_length(family, language, length: int) -> dict[int, dict[tuple[int, ...], float]]:
    """The contexts with their masses, out of all prefixes of a document that a symbol follows."""
    found: dict[int, dict[tuple[int, ...], float]] = {}
    by_length: dict[int, dict[tuple[int, ...], float]] = {}
    for word, p in prefix_masses(language.mixture, length).items():
        by_length.setdefault(len(word), {})[word] = p
    for size, words in by_length.items():
        tokens, _ = language.vocabulary.pack(list(words))
        kept = family.member(tokens)[:, -1].tolist()
        if any(kept):
            found[size] = {word: p for (word, p), keep in zip(words.items(), kept, strict=True) if keep}
    return found


SMALL = {name: case for name, case in PROMPTS.items() if name != "k2"} | {"k2": (tiny(9), 2, (2,), False)}
every_small = pytest.mark.parametrize(("language", "k", "examples", "anywhere"), SMALL.values(), ids=SMALL.keys())


@every_small
def test_strata_are_all_prefixes_that_match_with_their_masses(language, k, examples, anywhere) -> None:
    family = PromptContexts(language, k, examples, anywhere)
    expected = members_by_length(family, language, language.length - 1)
    strata = [stratum for stratum in family.strata() if stratum.log_probability > -math.inf]
    assert len(strata) == len(expected)
    for stratum, words in zip(strata, expected.values(), strict=True):
        assert stratum.log_probability == pytest.approx(math.log(math.fsum(words.values())), abs=1e-12)
        assert isinstance(stratum.content, Prefixes)
        symbols, log_probs = stratum.content.symbols.tolist(), stratum.content.log_probs
        assert dict(zip(map(tuple, symbols), log_probs.exp().tolist(), strict=True)) == pytest.approx(words, rel=1e-12)


@every_small
def test_strata_too_large_to_list_are_drawn_with_the_law_of_their_prefixes(
    language, k, examples, anywhere, monkeypatch
) -> None:
    monkeypatch.setattr(hmm_evidence, "MOST_LISTED", 0)
    family = PromptContexts(language, k, examples, anywhere)
    expected = members_by_length(family, language, language.length - 1)
    for stratum, words in zip(family.strata(), expected.values(), strict=True):
        assert not isinstance(stratum.content, Prefixes)
        total = math.fsum(words.values())
        drawn = map(tuple, stratum.content(2000, generator(0, stratum.name)).tolist())
        assert fit(drawn, {word: p / total for word, p in words.items()}) > 1e-4


@pytest.mark.parametrize(("k", "n"), [(1, 2), (3, 2), (3, 16), (5, 8)])
def test_a_shared_delimiter_gives_the_closed_form(k: int, n: int) -> None:
    (stratum,) = PromptContexts(tiny(128), k, (n,)).strata()
    expected = n * math.log(0.2) + (k * n + k - 1) * math.log(0.8)
    assert stratum.log_probability == pytest.approx(expected, abs=1e-12)


def test_a_prompt_anywhere_is_as_likely_at_every_place_behind_a_shared_delimiter() -> None:
    family = PromptContexts(tiny(30), 3, (4, 2), anywhere=True)
    strata = family.strata()
    assert family.name == "prompts.k3.n2.anywhere"  # a longer prompt holds the shorter one
    assert [stratum.name for stratum in strata] == [f"t{t}" for t in range(10, 30)]
    closed = 2 * math.log(0.2) + 8 * math.log(0.8)
    np.testing.assert_allclose([stratum.log_probability for stratum in strata], closed, atol=1e-12)


@every_small
def test_the_largest_gap_bounds_the_gap_at_every_context(language, k, examples, anywhere) -> None:
    family = PromptContexts(language, k, examples, anywhere)
    gaps = []
    for words in members_by_length(family, language, language.length - 1).values():
        laws = language.next_log_probs(language.vocabulary.pack(list(words))[0])[0, :, -1].exp()
        best = laws[:, 1 : language.vocabulary.eos].topk(2).values
        gaps += exchange_gap(best[:, 0], best[:, 1]).tolist()
    assert max(gaps) <= family.largest_gap() * (1 + 1e-12)
    assert math.isfinite(family.largest_gap())


def test_the_largest_gap_is_that_of_the_smoothed_permutation_by_hand() -> None:
    """Behind a symbol: delimiter 0.2, the permutation's symbol 0.8 (0.4 + 0.6/2), the other 0.8 (0.6/2)."""
    family = PromptContexts(tiny(12), 2, (2,))
    p1, p2 = 0.8 * 0.7, 0.8 * 0.3
    assert family.largest_gap() == pytest.approx((p1 - p2) * math.log(p1 / p2), rel=1e-12)
    certain = PromptContexts(tiny(12, transitions={"law": "smoothed_permutation", "smoothing": 0.0}), 2, (2,))
    assert math.isinf(certain.largest_gap())


def test_a_gap_is_zero_for_equals_and_infinite_beside_nothing() -> None:
    p1, p2 = torch.tensor([0.3, 0.0, 0.3, 0.6]).double(), torch.tensor([0.3, 0.0, 0.0, 0.3]).double()
    assert exchange_gap(p1, p2).tolist() == pytest.approx([0.0, 0.0, math.inf, 0.3 * math.log(2)])


@pytest.mark.parametrize(
    ("k", "examples", "message"),
    [
        (0, (2,), "expected examples of length k ≥ 1, found k = 0"),
        (2, (), "expected distinct numbers of examples"),
        (2, (2, 2), "expected distinct numbers of examples"),
        (2, (1, 2), "each at least 2"),
        (3, (2, 3), "n = 3 examples of length k = 3 has 14 symbols, and no symbol follows it in documents of 14"),
    ],
)
def test_prompts_that_make_no_sense_are_refused(k: int, examples: tuple[int, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PromptContexts(tiny(14), k, examples)


# Improbable prefixes.


def check_improbable(language: Language, masses: dict[tuple[int, ...], float], length: int, below: float) -> None:
    """Members and the one stratum, against the masses of all prefixes of the length."""
    expected = {word: p for word, p in masses.items() if 0 < p < below}
    family = ImprobablePrefixes(language, length, below)
    (stratum,) = family.strata()
    symbols, log_probs = stratum.content.symbols.tolist(), stratum.content.log_probs.exp().tolist()
    assert dict(zip(map(tuple, symbols), log_probs, strict=True)) == pytest.approx(expected, rel=1e-9)
    assert stratum.log_probability == pytest.approx(math.log(math.fsum(expected.values())), abs=1e-9)
    every = list(itertools.product(range(len(language.symbols)), repeat=length))
    tokens = torch.nn.functional.pad(language.vocabulary.pack(every)[0], (0, 2), value=0)
    member = family.member(tokens)
    assert [row for row, kept in zip(every, member[:, length].tolist(), strict=True) if kept] == sorted(expected)
    assert int(member.sum()) == len(expected)
    assert not family.member(tokens[:, :length]).any()
    assert family.never == (language.vocabulary.eos,)
    assert math.isinf(family.largest_gap())


@pytest.mark.parametrize(("length", "below"), [(3, 0.2), (6, 0.3), (9, 0.1)])
def test_improbable_prefixes_of_a_finite_language(anbn_small: Language, length: int, below: float) -> None:
    masses: Counter[tuple[int, ...]] = Counter()
    for row, log_p in zip(anbn_small.support().rows, anbn_small.support().log_probs.tolist(), strict=True):
        if len(row) >= length:
            masses[row[:length]] += math.exp(log_p)
    check_improbable(anbn_small, masses, length, below)


@pytest.mark.parametrize("below", [1e-3, 0.02, 1.0])
def test_improbable_prefixes_of_brackets(below: float) -> None:
    language = load_language("dyck2")
    rows = list(itertools.product(range(4), repeat=5))
    masses = language.prefix_log_prob_ids(rows).exp().tolist()
    check_improbable(language, dict(zip(rows, masses, strict=True)), 5, below)


@pytest.mark.parametrize("below", [0.005, 0.05])
def test_improbable_prefixes_of_a_grammar(below: float) -> None:
    language = load(kind="pcfg", grammar=render(parse(PCFG)))
    truth = truth_of_grammar(parse(PCFG), 5)
    ids = {tuple(map(language.symbols.index, word)): p for word, p in truth.prefixes.items() if len(word) == 5}
    check_improbable(language, ids, 5, below)


def test_a_prefix_as_probable_as_the_limit_is_not_below_it() -> None:
    language = load(kind="pcfg", grammar=render(parse("S -> a S [0.25] | b S [0.25] | [0.5]")))
    with pytest.raises(UsageError, match=r"no prefix of 3 symbols .* the least probable has 0\.0156"):
        ImprobablePrefixes(language, 3, 0.25**3)
    assert len(ImprobablePrefixes(language, 3, 0.25**3 * 1.01).prefixes.symbols) == 8


def test_no_prefixes_and_too_many_are_refused(anbn_small: Language, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="there is none; raise `below`, or choose another length"):
        ImprobablePrefixes(anbn_small, 33, 0.5)
    for length, below in ((0, 0.5), (3, 0.0), (3, 1.5)):
        with pytest.raises(UsageError, match="expected length ≥ 1 and 0 < below ≤ 1"):
            ImprobablePrefixes(anbn_small, length, below)
    monkeypatch.setattr(contexts, "MOST_PREFIXES", 100)
    assert len(live_prefixes(load_language("dyck2"), 3)[0]) <= 100
    with pytest.raises(UsageError, match=r"dyck2 has \d+ prefixes of \d symbols, more than the 100"):
        live_prefixes(load_language("dyck2"), 8)


def test_live_prefixes_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    symbols, log_probs = live_prefixes(load_language("dyck2"), 5)
    monkeypatch.setattr(contexts, "BATCH", 7)
    again, again_probs = live_prefixes(load_language("dyck2"), 5)
    assert torch.equal(symbols, again)
    torch.testing.assert_close(log_probs, again_probs)


# As a study declares them.


class Holder(BaseModel):
    contexts: ContextsConfig


def test_a_study_declares_contexts_by_kind(anbn_small: Language) -> None:
    language = tiny(40)
    prompts = {"kind": "prompts", "k": 3, "examples": [2, 4]}
    built = validate(Holder, {"contexts": prompts}, "study").contexts.build(language)
    assert isinstance(built, PromptContexts)
    assert (built.name, built.language, built.never) == ("prompts.k3.n2-4", language, (0, language.vocabulary.eos))
    built = validate(Holder, {"contexts": {"kind": "improbable", "length": 3, "below": 0.5}}, "study")
    assert built.contexts.build(anbn_small).name == "improbable.length3.below0.5"
    with pytest.raises(UsageError, match='need a language of kind "hmm_mixture", found anbn_small'):
        validate(Holder, {"contexts": prompts}, "study").contexts.build(anbn_small)


@pytest.mark.parametrize(
    "table",
    [
        {"kind": "prompts", "k": 3, "examples": [1]},
        {"kind": "prompts", "k": 3, "examples": []},
        {"kind": "prompts", "k": 0, "examples": [2]},
        {"kind": "improbable", "length": 3, "below": 0.0},
        {"kind": "improbable", "length": 3, "below": 1.5},
        {"kind": "improbable", "length": 3, "under": 0.5},
        {"kind": "prompt", "k": 3, "examples": [2]},
    ],
)
def test_faulty_tables_are_refused(table: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="study: "):
        validate(Holder, {"contexts": table}, "study")
