from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence

import pytest
import torch
from explicit_language import ExplicitLanguage, all_rows, explicit_anbn

from lmtest.errors import UsageError
from lmtest.languages import load_language
from lmtest.languages.base import Language
from lmtest.languages.prompts import prompts_of_length
from lmtest.languages.rules import compile_rules
from lmtest.models.automata import Automata
from lmtest.models.decoding import decode
from lmtest.models.hypotheses import candidates, code_lengths, hypotheses, most_rules
from lmtest.models.normative import STRINGS, Explanation, Normative, explain
from lmtest.saturation import certify
from lmtest.seeds import generator

Test = Callable[[str], bool]

# The whole grammar over a, b, written anew: what a string must be, and what a prefix must be to become such a string.
AB: dict[str, tuple[Test, Test]] = {
    "non-empty": (lambda s: s != "", lambda s: True),
    "#a even": (lambda s: s.count("a") % 2 == 0, lambda s: True),
    "#b even": (lambda s: s.count("b") % 2 == 0, lambda s: True),
    "#a = #b": (lambda s: s.count("a") == s.count("b"), lambda s: True),
    "a before b": (lambda s: "ba" not in s, lambda s: "ba" not in s),
    "b before a": (lambda s: "ab" not in s, lambda s: "ab" not in s),
    "first is a": (lambda s: s[:1] == "a", lambda s: s[:1] in ("", "a")),
    "first is b": (lambda s: s[:1] == "b", lambda s: s[:1] in ("", "b")),
    "last is a": (lambda s: s[-1:] == "a", lambda s: True),
    "last is b": (lambda s: s[-1:] == "b", lambda s: True),
}
# Five kinds; two choices each, but for #a = #b.
COST = {name: 0.0 if name == "non-empty" else math.log2(5) + (name != "#a = #b") for name in AB}
# Cheapest first; then by kind.
LISTED = sorted(AB, key=lambda name: COST[name])


def conditional(rules: Sequence[str], prefix: str) -> dict[str, float]:
    """One explanation's law after a prefix, "" for EOS: all tokens that keep the longest list that any token keeps."""
    unbroken = [name for name in LISTED if name in rules and AB[name][1](prefix)]
    while True:
        kept = [
            token
            for token in ("a", "b", "")
            if all(AB[name][1](prefix + token) if token else AB[name][0](prefix) for name in unbroken)
        ]
        if kept:
            return {token: (token in kept) / len(kept) for token in ("a", "b", "")}
        unbroken.pop()


def naive_posterior(strings: dict[str, float]) -> dict[frozenset[str], float]:
    """Every hypothesis, string by string and position by position."""
    scores: dict[frozenset[str], float] = {}
    others = [name for name in AB if name != "non-empty"]
    for size in range(4):
        for chosen in itertools.combinations(others, size):
            for flag in ((), ("non-empty",)):
                rules = frozenset((*chosen, *flag))
                score = -math.log(2) * (1 + size + 1 + sum(COST[name] for name in rules))
                for string, probability in strings.items():
                    for t in range(len(string) + 1):
                        p = conditional(list(rules), string[:t])[string[t : t + 1]]
                        score += STRINGS * probability * math.log(p) if p else -math.inf
                scores[rules] = score
    top = max(scores.values())
    weights = {rules: math.exp(score - top) for rules, score in scores.items()}
    return {rules: weight / sum(weights.values()) for rules, weight in weights.items()}


LANGUAGES = {
    "anbn": {"ab": 0.5, "aabb": 0.5},
    "empty": {"": 0.5, "bb": 0.25, "abab": 0.125, "abba": 0.125},
    "alike": {"ab": 0.999, "ba": 0.001},
    "one": {"": 1.0},
    "odd": {"b": 0.6, "bab": 0.3, "bba": 0.1},
}


@pytest.mark.parametrize("strings", LANGUAGES.values(), ids=LANGUAGES)
def test_the_posterior_is_that_of_naive_enumeration(strings: dict[str, float]) -> None:
    truth = naive_posterior(strings)
    found = Normative.fit(ExplicitLanguage("ab", strings)).explanations
    assert len({frozenset(e.rules) for e in found}) == len(found)
    assert sum(e.weight for e in found) == pytest.approx(1)
    assert [e.weight for e in found] == sorted((e.weight for e in found), reverse=True)
    for e in found:
        assert e.weight == pytest.approx(truth.pop(frozenset(e.rules)), rel=1e-9)
        assert e.bits == pytest.approx(1 + 1 + sum(1 + COST[r] for r in e.rules if r != "non-empty"))
        assert list(e.rules) == [name for name in LISTED if name in e.rules], "the costliest last"
    assert max(truth.values(), default=0.0) < 2e-12


@pytest.mark.parametrize("strings", LANGUAGES.values(), ids=LANGUAGES)
def test_the_prediction_is_the_mixture_of_the_conditionals_on_every_prefix(strings: dict[str, float]) -> None:
    language = ExplicitLanguage("ab", strings)
    normative = Normative.fit(language)
    tokens, lengths = language.vocabulary.pack(rows := all_rows(2, 5))
    laws = normative.next_log_probs(tokens)[0, torch.arange(len(rows)), lengths].exp()
    for row, law in zip(rows, laws.tolist(), strict=True):
        prefix = "".join("ab"[i] for i in row)
        mixture = dict.fromkeys(("a", "b", ""), 0.0)
        for e in normative.explanations:
            for token, p in conditional(e.rules, prefix).items():
                mixture[token] += e.weight * p
        assert law == pytest.approx(list(mixture.values()), abs=1e-12)


@pytest.mark.parametrize("symbols", ["a", "ab", "abc", "([])"])
def test_the_code_lengths_are_those_of_a_prefix_code_and_no_set_counts_twice(symbols: str) -> None:
    declared = candidates(symbols)
    lists = hypotheses(len(declared) - 1, most_rules(len(symbols)))
    n, most = len(declared) - 1, most_rules(len(symbols))
    assert len(lists) == 2 * sum(math.comb(n, size) for size in range(most + 1))
    assert len({frozenset(row) for row in lists.tolist()}) == len(lists)
    assert len({c.text for c in declared}) == len(declared)
    bits = code_lengths(lists, [c.bits for c in declared])
    assert bits.min() == 2.0, "no rule: one bit that the empty string is allowed, one that the list is at its end"
    assert 0.5 < (2.0**-bits).sum() <= 1
    assert sum(2**-c.bits for c in declared[1:]) == pytest.approx(1), "the code of one rule wastes nothing"


OWN_RULES = {
    "ban_small": {"#a even", "first is b"},
    "bban_small": {"#a even", "b before a", "first is b"},
    "anbn_small": {"#a = #b", "a before b", "first is a"},
    "brackets_nested_small": {"( ), [ ] nested", "( ), [ ] irreducible"},
    "anbncn_small": {"#a = #b = #c", "a before b before c", "first is a"},
    "brackets_shuffled_small": {"( ) balanced", "[ ] balanced", "non-empty"},
}


@pytest.mark.parametrize("name", OWN_RULES)
def test_no_explanation_is_likelier_than_the_languages_own_rules(name: str) -> None:
    explanations = Normative.fit(load_language(name)).explanations
    own = [e.weight for e in explanations if set(e.rules) == OWN_RULES[name]]
    assert own == [pytest.approx(explanations[0].weight)]


def test_the_true_rules_beat_their_subsets(anbn_small: Language) -> None:
    true = frozenset({"#a = #b", "a before b", "non-empty"})
    support = anbn_small.support()
    assert support is not None
    strings = {
        "".join("ab"[i] for i in row): math.exp(p) for row, p in zip(support.rows, support.log_probs, strict=True)
    }
    posterior = naive_posterior(strings)
    for size in range(len(true)):
        for subset in itertools.combinations(true, size):
            assert posterior[frozenset(subset)] < 1e-6 * posterior[true]


def walk_finishes(difference: int, steps: int) -> float:
    """P(a fair walk that may stop at 0, with probability 1/3 each time, does so within so many tokens)."""
    at, done = {difference: 1.0}, 0.0
    for _ in range(steps):
        after: dict[int, float] = defaultdict(float)
        for place, p in at.items():
            done += p / 3 if place == 0 else 0.0
            for move in (-1, 1):
                after[place + move] += p / 3 if place == 0 else p / 2
        at = after
    return done


def test_what_is_broken_is_let_go_and_the_rest_is_kept(anbn_small: Language) -> None:
    normative, vocabulary = Normative.fit(anbn_small), anbn_small.vocabulary
    outside = prompts_of_length(anbn_small, 8)[1].rows
    broken = [row for row in outside if (1, 0) in itertools.pairwise(row)]
    laws = normative.next_log_probs(vocabulary.pack(broken)[0])[0, :, -1].exp()
    for row, law in zip(broken, laws.tolist(), strict=True):
        equal = row.count(0) == row.count(1)
        assert law == pytest.approx([1 / 3] * 3 if equal else [1 / 2, 1 / 2, 0], abs=1e-9)
        assert law[0] == law[1], "equal to the last bit: greedy decoding sees a tie"
    done = decode(normative, vocabulary, broken, 40, "sampled", 0)
    for i, row in enumerate(broken):
        whole = (*row, *done.tokens[0, i, : done.lengths[0, i]].tolist())
        assert not done.finished[0, i] or whole.count(0) == whole.count(1), "R1 is kept wherever it stops"
    chances = torch.tensor([walk_finishes(row.count(0) - row.count(1), 40) for row in broken])
    spread = float((chances * (1 - chances)).sum().sqrt())
    assert abs(float(done.finished.sum() - chances.sum())) < 3.5 * spread
    # Each rule is judged alone: where the order is not broken yet, it is kept at the price of the count.
    others = [row for row in outside if row not in broken]
    assert others == [(0,) * i + (1,) * (8 - i) for i in (3, 2, 1, 0)]
    held = normative.next_log_probs(vocabulary.pack(others)[0])[0, :, -1]
    assert (held[:, 1] == 0.0).all()


def test_every_list_of_the_class_is_followed_and_dropped_from_the_end_on_every_prefix() -> None:
    declared = candidates("ab")
    assert [c.text for c in declared] == LISTED
    automata, vocabulary = Automata([c.rule for c in declared], 2), explicit_anbn(2).vocabulary
    tokens, lengths = vocabulary.pack(rows := all_rows(2, 4))
    for places in hypotheses(len(declared) - 1, 3):
        rules = tuple(LISTED[place] for place in places if place < len(declared))
        alone = Normative(vocabulary, [Explanation(rules, 0.0, 1.0)], automata, places[None])
        laws = alone.next_log_probs(tokens)[0, torch.arange(len(rows)), lengths].exp()
        for row, law in zip(rows, laws.tolist(), strict=True):
            assert law == pytest.approx(list(conditional(rules, "".join("ab"[i] for i in row)).values()))


@pytest.mark.parametrize("name", ["anbn_small", "brackets_nested_small", "brackets_shuffled_small", "dyck2"])
def test_it_is_normalised_and_causal_everywhere_and_its_kl_is_finite(name: str) -> None:
    language = load_language(name)
    normative, vocabulary = Normative.fit(language), language.vocabulary
    rows = [tuple(row) for row in generator(0, "rows").integers(0, len(language.symbols), (50, 12)).tolist()]
    tokens, _ = vocabulary.pack([*rows, *language.sample_ids(20, generator(0, "sample"))])
    tokens[0, 5] = vocabulary.eos
    full = normative.next_log_probs(tokens)
    assert full.shape == (1, *tokens.shape, vocabulary.n_outputs)
    assert full.dtype == torch.float64
    assert (full.logsumexp(-1).abs() < 1e-12).all()
    assert (full[0, 0, 5:, vocabulary.eos] == 0.0).all()
    for t in (1, 4, 9):
        assert torch.equal(Normative.fit(language).next_log_probs(tokens[:, :t]), full[:, :, :t])
    assert 0 < certify(language, normative, 200, generator(0, "test")).kl[0] < 10


@pytest.mark.parametrize(
    "entry",
    [{"count": "2*a <= b + 3 and a % 3 == 1"}, {"regex": "(ab|ba)*a?"}, {"min_length": 3}, {"max_length": 4}],
    ids=["count", "regex", "min", "max"],
)
def test_the_tables_say_what_each_token_does_to_a_rule(entry: dict[str, object]) -> None:
    rule = compile_rules({"R": entry}, "ab")["R"]
    language = explicit_anbn(2)
    tokens, lengths = language.vocabulary.pack(rows := all_rows(2, 7))
    codes = Automata([rule, rule], 2).codes(tokens.numpy())
    for row, code, length in zip(rows, codes, lengths.tolist(), strict=True):
        bits = [rule.alive(rule.run((*row, v))) for v in range(2)] + [rule.accepts(rule.run(row))]
        alive = rule.alive(rule.run(row))
        assert code[length].tolist() == [sum(bit << v for v, bit in enumerate(bits)) * alive] * 2
        assert not code[length + 1 :].any(), "behind the end"


def test_explain_gives_plain_facts(anbn_small: Language) -> None:
    facts = explain(Normative.fit(anbn_small), top=1)
    assert facts == [
        {"rules": ["#a = #b", "a before b", "first is a"], "bits": pytest.approx(13.97, abs=0.01), "weight": 0.5}
    ]


def test_too_many_symbols_are_refused() -> None:
    with pytest.raises(UsageError, match="at most 6 symbols, found 7"):
        Normative.fit(ExplicitLanguage("abcdefg", {"abcdefg": 1.0}))


def test_symbols_of_several_characters_and_quotes_are_no_problem() -> None:
    language = load_language("anbn_small")
    renamed = ExplicitLanguage("'\"", {"'\"": 0.5, "''\"\"": 0.5})
    assert Normative.fit(renamed).explanations[0].rules == ("#' = #\"", "' before \"", "first is '")
    assert Normative.fit(language).explanations[0].rules == ("#a = #b", "a before b", "first is a")
