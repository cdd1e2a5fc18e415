"""Where a language stands in the Chomsky hierarchy, as far as it can be told from how it is written."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection
from typing import NamedTuple

from scipy.sparse.csgraph import connected_components

from lmtest.languages.ambiguity import _shapes
from lmtest.languages.arranged import Arranged
from lmtest.languages.base import Language
from lmtest.languages.brackets import Brackets
from lmtest.languages.grammar import Grammar
from lmtest.languages.hmm_mixture import HmmMixture
from lmtest.languages.pcfg import Pcfg
from lmtest.languages.template import Template

FINITE, REGULAR, CONTEXT_FREE, BEYOND = "finite", "regular", "context-free", "beyond context-free"


class Class(NamedTuple):
    """The class of a language, or of its family without the limits on length, and the reason in words."""

    name: str
    reason: str


def classify(language: Language) -> tuple[Class, Class]:
    """The class of the language itself, and that of the same language without limits on its lengths.

    A finite language is finite, whatever its rules: what its strings have in common is told by the second.
    """
    family = _family(language)
    if math.isfinite(language.longest):
        return Class(FINITE, f"no string has more than {int(language.longest)} symbols"), family
    if isinstance(language, Template):
        bounded = {v for v, law in zip(language.variables, language.laws, strict=True) if law.high is not None}
        return _of_template(language, bounded), family
    return family, family


def _family(language: Language) -> Class:
    if isinstance(language, Pcfg):
        return _of_grammar(language.grammar)
    if isinstance(language, Template):
        return _of_template(language)
    if isinstance(language, Arranged):
        return _of_arranged(language)
    if isinstance(language, Brackets):
        if language.nested or language.kinds == 1:
            return Class(CONTEXT_FREE, "brackets are matched on a stack, to any depth")
        return Class(BEYOND, f"{language.kinds} kinds of brackets are matched, each on a counter of its own")
    if isinstance(language, HmmMixture):
        return Class(REGULAR, "hidden Markov models have finitely many states")
    return Class("unknown", "no test is known for this kind")


def _of_grammar(grammar: Grammar) -> Class:
    """Chomsky, "A note on phrase structure grammars", 1959: without self-embedding the language is regular."""
    shapes = _shapes(grammar)
    if math.isfinite(shapes[0].longest):
        return Class(FINITE, "no rule leads back to itself with more symbols")
    _, block = connected_components(grammar.mean_matrix() > 0, directed=True, connection="strong")
    grows: dict[int, set[str]] = {}
    linear = {"left", "right"}
    for rule in grammar.productions:
        for i, symbol in enumerate(rule.rhs):
            if symbol >= 0:
                if i > 0:
                    linear.discard("left")
                if i + 1 < len(rule.rhs):
                    linear.discard("right")
                if block[symbol] == block[rule.lhs]:
                    sides = {"left": rule.rhs[:i], "right": rule.rhs[i + 1 :]}
                    found = {side for side, part in sides.items() if any(s < 0 or shapes[s].longest > 0 for s in part)}
                    grows.setdefault(int(block[symbol]), set()).update(found)
    if linear:
        return Class(REGULAR, f"every rule is {min(linear)}-linear")
    if all(len(sides) < 2 for sides in grows.values()):
        return Class(REGULAR, "no nonterminal embeds itself with symbols on both sides")
    return Class(
        CONTEXT_FREE,
        "a nonterminal embeds itself; whether a regular grammar says the same cannot be decided in general",
    )


def _of_template(language: Template, bounded: Collection[str] = ()) -> Class:
    """Exponents that stand once pump alone; one that stands twice is a stack; three times, or crossing, is beyond one.

    Those that are `bounded` have finitely many values, which a state can hold.
    """
    places: dict[str, list[int]] = {}
    runs = 0
    last: str | None = None
    for block in language.blocks:
        only = block.word[0] if len(set(block.word)) == 1 else None
        runs += only is None or only != last  # neighbours that repeat one symbol are one run of it
        last = only
        if (
            block.variable is not None
            and block.variable not in bounded
            and runs not in places.setdefault(block.variable, [])
        ):
            places[block.variable].append(runs)
    most = max(map(len, places.values()), default=0)
    if not places:
        return Class(FINITE, "no exponent varies")
    if most <= 1:
        return Class(REGULAR, f"every exponent {'without a limit ' * bool(bounded)}stands in one place")
    name = max(places, key=lambda variable: len(places[variable]))
    if most > 2:
        return Class(BEYOND, f"the exponent {name} stands in {most} places")
    twice = [ends for ends in places.values() if len(ends) == 2]
    if any(a < c < b < d or c < a < d < b for (a, b), (c, d) in itertools.combinations(twice, 2)):
        return Class(BEYOND, "two exponents cross: one must be kept while the other is read")
    return Class(CONTEXT_FREE, f"the exponent {name} stands in two places, which a stack keeps equal")


def _of_arranged(language: Arranged) -> Class:
    count = str(language.definition.get("count", ""))
    if count == "half":
        return Class(CONTEXT_FREE, "two symbols are equally many, which a counter keeps")
    return Class(REGULAR, "the parity of a count, and the order of the symbols, need finitely many states")
