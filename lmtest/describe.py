"""What a language is, as plain facts."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from lmtest.errors import UsageError
from lmtest.languages import Language
from lmtest.languages.distinguishability import distinguishability
from lmtest.languages.hmm_mixture import HmmMixture
from lmtest.languages.pcfg import Pcfg
from lmtest.languages.prompts import PromptSet, prompts_of_length, published_prompts
from lmtest.models.normative import Normative, explain
from lmtest.models.reference import reference_models

EXPLANATIONS = 3
"""How many of the normative predictor's likeliest rule lists are told."""


def describe(language: Language, length: int, draws: int) -> dict[str, Any]:
    """Symbols, law, floor of the loss (nats per string and per token), likely strings, rules, prompts of `length`."""
    tokens = language.mean_length() + 1
    floor: dict[str, Any] | str
    try:
        entropy = language.entropy(draws=draws)
        floor = {
            "nats_per_string": entropy.value,
            "half_width": entropy.half_width,
            "exact": entropy.exact,
            "nats_per_token": entropy.value / tokens if math.isfinite(tokens) else 0.0,
        }
    except UsageError as error:
        if draws < 2:
            raise
        floor = str(error)
    facts: dict[str, Any] = {
        "name": language.name,
        "title": language.title,
        "source": language.source,
        "symbols": list(language.symbols),
        "max_length": language.max_length,
        "mean_length": round(language.mean_length(), 6),
        "entropy": floor,
    }
    if isinstance(language, Pcfg):
        facts["unambiguous"] = "proven" if language.unambiguous else "not proven"
    if isinstance(language, HmmMixture):
        if isinstance(floor, dict):  # EOS is certain, and counts as a token
            per_symbol = {
                key: floor[name] / language.length
                for key, name in (("value", "nats_per_string"), ("half_width", "half_width"))
            }
            facts["nats_per_symbol"] = {key: round(value, 5) for key, value in per_symbol.items()}
        facts["mixture"] = _mixture(language)
    support = language.support()
    uncounted = "too many to list" if math.isfinite(language.longest) else "infinitely many, or too many to list"
    facts["strings"] = uncounted if support is None else len(support.rows)
    facts["first_symbol"] = {symbol: round(p, 6) for symbol, p in language.next_symbol_law("").items()}
    facts["samples"] = [language.vocabulary.text(s) for s in language.sample(5, seed=0)]
    facts["rules"] = {name: rule.text for name, rule in language.rules.items()}
    normative = reference_models(language).get("normative")
    if isinstance(normative, Normative):
        facts["explanations"] = explain(normative, EXPLANATIONS)
    facts["prompts"] = _prompts(language, length)
    if language.prompts:
        facts["published_prompts"] = _split(*published_prompts(language))
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


def _prompts(language: Language, length: int) -> dict[str, Any] | str:
    if length < 1:
        raise UsageError(f"expected a prompt length of at least 1, found {length}")
    try:
        inside, outside = prompts_of_length(language, length)
    except UsageError as error:
        return str(error)
    return {"length": length} | _split(inside, outside)


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
