"""The declared class of the normative predictor: lists of at most a few rules over an alphabet, with their code lengths.

A rule is of one of the kinds below, over the symbols of the alphabet, |Σ| = m. A hypothesis says whether the empty string
is refused ("non-empty"), and is besides an unordered set of at most `most_rules(m)` distinct rules: 3 for m ≤ 3 (that
makes 260 hypotheses for m = 2, and 5,252 for m = 3), 2 beyond (7,834 for m = 4, 253,514 for m = 6; only those whose rules
all data keep are ever looked at). Its code, in bits:

    1 (is the empty string refused?) + number of rules + 1 (unary) + Σ over rules of log2(kinds) + log2(choices)

where `kinds` is the number of kinds that have a choice over m symbols, and `choices` that of the arguments a kind can take.
A set has the code of one of its orders, and counts once; so Σ 2^−bits ≤ 1 (Kraft).

    even         #x even                            m
    equal        #x = #y, #x = #y = #z              two or three symbols, unordered
    order        x before y, x before y before z    two or three symbols, ordered: every x before every y, and so on
    first, last  first is x, last is x              m each
    balanced     x y balanced                       m (m − 1); this and what follows from m = 4 on
    nested       x y, z w nested                    two pairs of brackets: m (m − 1) (m − 2) (m − 3) / 2
    irreducible  x y, z w irreducible               two opens, two closes: depth 0 at the end, and not before; half as many

What is left out, and why: the predictor judges each rule of a list alone, so it does not see that one b too many cannot be
mended where no a may come any more. So #a ≤ #b would explain aⁿbⁿ exactly as well as #a = #b, and "a b balanced" better
than both: the first is in no language that we have, and brackets wait for an alphabet that has two kinds of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lmtest.languages.rule import Rule
from lmtest.languages.rules import compile_rules

BRACKET_SYMBOLS = 4
"""The smallest alphabet that bracket rules are asked of."""

_Letters = Sequence[int]
_Choice = tuple[str, dict[str, object]]
"""How a rule reads, with the place of symbol i as {i}; and its entry in a `[rules]` table over a, b, c, …"""


@dataclass(frozen=True)
class Candidate:
    """A rule of the grammar: how it reads, what it costs in bits, and the rule itself."""

    text: str
    bits: float
    rule: Rule


def most_rules(n_symbols: int) -> int:
    """How many rules a hypothesis over so many symbols has at most, "non-empty" not counted."""
    return 3 if n_symbols <= 3 else 2


def candidates(symbols: Sequence[str]) -> list[Candidate]:
    """All rules over an alphabet, cheapest first (ties: in the order of the kinds); "non-empty" stands first, at 0 bits.

    What it costs to say that is the one bit that every hypothesis pays.
    """
    kinds = [choices for kind in _KINDS if (choices := list(kind(len(symbols))))]
    found = [Candidate("non-empty", 0.0, _compile({"min_length": 1}, len(symbols)))]
    for choices in kinds:
        bits = math.log2(len(kinds)) + math.log2(len(choices))
        found += [Candidate(text.format(*symbols), bits, _compile(entry, len(symbols))) for text, entry in choices]
    return sorted(found, key=lambda candidate: candidate.bits)


def hypotheses(n_rules: int, most: int) -> np.ndarray:
    """Sets of at most `most` of the rules 1 … n_rules, with and without rule 0 → int64 [H, 1 + most].

    Ascending, so that a list of the cheapest first stays one; empty places hold n_rules + 1, "no rule".
    """
    none = n_rules + 1
    sets = [
        chosen + (none,) * (most - size)
        for size in range(most + 1)
        for chosen in itertools.combinations(range(1, n_rules + 1), size)
    ]
    array = np.array(sets, dtype=np.int64).reshape(len(sets), most)
    flags = np.repeat([none, 0], len(sets))
    return np.concatenate([flags[:, None], np.tile(array, (2, 1))], 1)


def code_lengths(lists: np.ndarray, bits: Sequence[float]) -> np.ndarray:
    """Lists of rules [H, 1 + most] as by `hypotheses`, cost of rules 0 … n_rules → bits of each hypothesis [H]."""
    costs = np.array([*bits, 0.0])
    sizes = (lists[:, 1:] < len(bits)).sum(1)
    lengths: np.ndarray = 2 + sizes + costs[lists[:, 1:]].sum(1)
    return lengths


def _compile(entry: dict[str, object], n_symbols: int) -> Rule:
    # Rules read symbol ids; so letters may stand for whatever the symbols are, and nothing needs quotes.
    return compile_rules({"rule": entry}, [_letter(i) for i in range(n_symbols)])["rule"]


def _letter(symbol: int) -> str:
    return chr(ord("a") + symbol)


def _groups(m: int) -> Iterator[tuple[int, ...]]:
    yield from itertools.combinations(range(m), 2)
    yield from itertools.combinations(range(m), 3)


def _joined(symbols: _Letters, between: str, before: str = "") -> str:
    return between.join(f"{before}{{{i}}}" for i in symbols)


def _even(m: int) -> Iterator[_Choice]:
    for x in range(m):
        yield f"#{{{x}}} even", {"count": f"{_letter(x)} % 2 == 0"}


def _equal(m: int) -> Iterator[_Choice]:
    for group in _groups(m):
        yield _joined(group, " = ", "#"), {"count": " == ".join(map(_letter, group))}


def _order(m: int) -> Iterator[_Choice]:
    for size in (2, 3):
        for group in itertools.permutations(range(m), size):
            # Between two of the ordered symbols anything may stand but the other ordered ones.
            others = ["".join(_letter(y) for y in group if y != x) for x in group]
            yield _joined(group, " before "), {"regex": "".join(f"[^{other}]*" for other in others)}


def _first(m: int) -> Iterator[_Choice]:
    for x in range(m):
        yield f"first is {{{x}}}", {"regex": f"{_letter(x)}.*"}


def _last(m: int) -> Iterator[_Choice]:
    for x in range(m):
        yield f"last is {{{x}}}", {"regex": f".*{_letter(x)}"}


def _balanced(m: int) -> Iterator[_Choice]:
    for x, y in itertools.permutations(range(m if m >= BRACKET_SYMBOLS else 0), 2):
        yield _joined((x, y), " ") + " balanced", {"balanced": [_letter(x), _letter(y)]}


def _nested(m: int) -> Iterator[_Choice]:
    for pairs in _two_pairs(m):
        yield _pairs_text(pairs) + " nested", {"nested": [_letter(x) + _letter(y) for x, y in pairs]}


def _irreducible(m: int) -> Iterator[_Choice]:
    symbols = range(m if m >= BRACKET_SYMBOLS else 0)
    for opens in itertools.combinations(symbols, 2):
        # Only depth counts: which close goes with which open makes no difference.
        for closes in itertools.combinations([x for x in symbols if x not in opens], 2):
            pairs = list(zip(opens, closes, strict=True))
            yield _pairs_text(pairs) + " irreducible", {"irreducible": [_letter(x) + _letter(y) for x, y in pairs]}


def _two_pairs(m: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    pairs = itertools.permutations(range(m if m >= BRACKET_SYMBOLS else 0), 2)
    for first, second in itertools.combinations(pairs, 2):
        if not set(first) & set(second):
            yield first, second


def _pairs_text(pairs: Sequence[tuple[int, int]]) -> str:
    return ", ".join(_joined(pair, " ") for pair in pairs)


_KINDS: tuple[Callable[[int], Iterator[_Choice]], ...] = (
    *(_even, _equal, _order, _first, _last),
    *(_balanced, _nested, _irreducible),
)
