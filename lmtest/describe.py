"""What a language is, as plain facts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import numpy as np

from lmtest import limits
from lmtest.errors import LmtestError
from lmtest.languages import Language
from lmtest.languages.base import check_count
from lmtest.languages.classes import classify
from lmtest.languages.derivations import shortest_ambiguous
from lmtest.languages.distinguishability import distinguishability
from lmtest.languages.hmm_mixture import HmmMixture
from lmtest.languages.lengths import TAIL, bars, lengths
from lmtest.languages.likeliest import MOST_PREFIXES, likeliest_strings
from lmtest.languages.pcfg import Pcfg
from lmtest.languages.prompts import PromptSet, prompts_of_length, published_prompts
from lmtest.languages.rule_checks import conjunction, rule_shares
from lmtest.models.normative import Normative, explain
from lmtest.models.reference import has_normative

LIKELIEST = 10
AMBIGUITY_LENGTH = 8
"""Symbols of the strings that are searched for a second derivation."""
EXPLANATIONS = 3
"""How many of the normative predictor's likeliest rule lists are told."""
NO_FACT = object()
"""There is no such fact about a language of this kind."""


def describe(language: Language, length: int, draws: int) -> dict[str, Any]:
    """All `facts` of a language."""
    return dict(facts(language, length, draws))


def facts(language: Language, length: int, draws: int) -> Iterator[tuple[str, Any]]:
    """Symbols, law, floor of the loss (nats per string and per token), likely strings, rules, prompts of `length`, one by one.

    A fact that cannot be had, or takes too long (`limits.within`), is the text that says why.
    """
    check_count("a prompt length", length, 1)
    check_count("a number of draws", draws, 2)
    for name, fact in _facts(language, length, draws):
        try:
            with limits.within("this fact"):
                found = fact()
        except LmtestError as error:
            found = str(error)
        if found is not NO_FACT:
            yield name, found


def _facts(language: Language, length: int, draws: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    for name in ("name", "title", "source", "symbols", "max_length"):
        yield name, partial(getattr, language, name)
    yield "class", lambda: _class(language)
    yield "length", lambda: _lengths(language, draws)
    floor = cache(lambda: _floor(language, draws))
    yield "entropy", floor
    if isinstance(language, Pcfg):
        yield "ambiguity", lambda: _ambiguity(language)
    if isinstance(language, HmmMixture):
        yield "nats_per_symbol", lambda: _per_symbol(floor(), language.length)
        yield "mixture", lambda: _mixture(language)
    yield "strings", lambda: _strings(language)
    yield "first_symbol", lambda: {symbol: round(p, 6) for symbol, p in language.next_symbol_law("").items()}
    yield "samples", lambda: [language.vocabulary.text(s) for s in language.sample(5, seed=0)]
    yield "likeliest", lambda: _likeliest(language)
    yield "rules", lambda: _rules(language, draws)
    yield "explanations", lambda: _explanations(language)
    yield "prompts", lambda: {"length": length} | _split(*prompts_of_length(language, length))
    if language.prompts:
        yield "published_prompts", lambda: _split(*published_prompts(language))


def _floor(language: Language, draws: int) -> dict[str, Any]:
    entropy, tokens = language.entropy(draws=draws), language.mean_length() + 1
    return {
        "nats_per_string": entropy.value,
        "half_width": entropy.half_width,
        "exact": entropy.exact,
        "nats_per_token": entropy.value / tokens if math.isfinite(tokens) else "no mean length",
    }


def _per_symbol(floor: dict[str, Any], length: int) -> dict[str, float]:
    """The floor of documents of `length` symbols, in nats per symbol: EOS is certain, and counts as a token elsewhere."""
    return {
        "value": round(floor["nats_per_string"] / length, 5),
        "half_width": round(floor["half_width"] / length, 5),
    }


def _explanations(language: Language) -> Any:
    return explain(Normative.fit(language), EXPLANATIONS) if has_normative(language) else NO_FACT


def _strings(language: Language) -> int | str:
    if (support := language.support()) is not None:
        return len(support.rows)
    return "too many to list" if math.isfinite(language.longest) else "infinitely many, or too many to list"


def _class(language: Language) -> dict[str, str]:
    own, family = classify(language)
    facts = {"class": own.name, "reason": own.reason}
    return facts if own == family else facts | {"without_limits": family.name, "because": family.reason}


def _lengths(language: Language, draws: int) -> dict[str, Any]:
    """Mean, spread and law of the number of symbols; "exact" is about spread and law."""
    found = lengths(language, max(draws, 2))
    facts: dict[str, Any] = {"mean": round(found.mean, 6), "spread": round(found.spread, 6), "exact": found.exact}
    used = np.flatnonzero(found.law > 0)
    facts |= {"shortest": int(used[0]) if len(used) else None, "picture": bars(found.law)}
    facts["law"] = {int(n): float(found.law[n]) for n in used if found.law[n] > TAIL}
    return facts


def _ambiguity(language: Pcfg) -> str:
    """Proven unambiguous, a string with two derivations, or up to which length there is none."""
    if language.unambiguous:
        return "unambiguous: proven"
    row, length = shortest_ambiguous(language.grammar, AMBIGUITY_LENGTH)
    if row is not None:
        return f"ambiguous: {language.vocabulary.text(language.vocabulary.join(row))!r} has more than one derivation"
    return f"no string of at most {length} symbols has two derivations; that none has is not proven"


def _likeliest(language: Language) -> dict[str, Any] | str:
    """The likeliest strings with their probabilities, exactly."""
    found = likeliest_strings(language, LIKELIEST)
    texts = [language.vocabulary.text(language.vocabulary.join(row)) for row in found.rows]
    strings: dict[str, Any] = {t: math.exp(p) for t, p in zip(texts, found.log_probs, strict=True)}
    if found.complete:
        return strings
    return strings or f"none found among {MOST_PREFIXES} prefixes: no string is much likelier than others"


def _rules(language: Language, draws: int) -> dict[str, str]:
    """Each rule, whether it holds, and whether all of them together are the language."""
    facts = {}
    for name, found in rule_shares(language, max(draws, 2)).items():
        of = f"all {found.strings} strings" if found.exact else f"{found.strings} draws"
        held = f"holds on {of}" if found.share == 1 else f"holds on {found.share:.4%} of {of}"
        if found.broken is not None:
            held += f", not on {language.vocabulary.text(language.vocabulary.join(found.broken))!r}"
        facts[name] = f"{language.rules[name].text}: {held}"
    if (whole := conjunction(language)) is not None:
        if whole.counterexample is None:
            facts["all rules"] = f"are the language, for strings of at most {whole.length} symbols"
        else:
            text = language.vocabulary.text(language.vocabulary.join(whole.counterexample))
            facts["all rules"] = f"are not the language: {text!r} " + (
                "is a string of it and breaks one" if whole.in_language else "keeps them and is no string of it"
            )
    return facts


def _mixture(language: HmmMixture) -> dict[str, Any]:
    """What the concepts are, and whether an example tells them apart (condition 1 of arXiv 2111.02080)."""
    concepts, entities, properties = language.mixture.shape
    chains = language.mixture.properties
    facts: dict[str, Any] = {
        "concepts": concepts,
        "entities": entities,
        "properties": f"{properties}, the delimiter's included",
        "document": f"{language.length} symbols",
        "impossible_property_transitions": f"{float((chains == 0).double().mean()):.1%}",
    }
    for k in (3, 10):
        if concepts > 1 and k < language.length:
            pairs = distinguishability(language.mixture, k, 0)
            pairs = pairs[pairs["start"] == "worst"]
            facts[f"distinguishable_pairs_at_k_{k}"] = f"{int(pairs['holds'].sum())} of {len(pairs)}"
    return facts


def _split(inside: PromptSet, outside: PromptSet) -> dict[str, Any]:
    """How many prompts are in and out of distribution, why, and their weights where these differ."""
    facts: dict[str, Any] = {"in_distribution": len(inside.rows), "out_of_distribution": len(outside.rows)}
    reasons = Counter(" and ".join(broken) for broken in outside.broken if broken)
    if reasons:
        facts["broken"] = dict(reasons)
    weights = Counter(f"{weight:.6g}" for weight in outside.weights)
    if len(weights) > 1:
        facts["weights"] = dict(weights)
    return facts
