"""What a perturbation costs, as rows of measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lmtest.languages.base import Language
from lmtest.measurement import measurement
from lmtest.variants.derivation import Derivation
from lmtest.variants.exchange import Cost
from lmtest.variants.preserve.certificate import FunctionCertificate
from lmtest.variants.preserve.tables import Preserving
from lmtest.variants.registry import Exchange

NAME = "perturbation"
FUNCTION = "function"
ADDED = "kl_added"
"""What the loss rises by, nats per string."""
DOCUMENTS = "documents"
"""Where that is summed for models that were trained on: the certificate's own strings."""
NO_ENDS = (math.nan, math.nan)
DIFFERENCE, DIFFERENCE_FLOAT64 = "function_difference", "function_difference_float64"


def derived_values(derivation: Derivation, language: Language) -> set[tuple[str, str, str]]:
    """What a claim can be about for a derived variant, whatever is evaluated: measure, prompt set, decoding.

    Raises UsageError where the language has no such contexts.
    """
    if isinstance(derivation, Preserving):
        return {(measure, where, "exact") for measure in (DIFFERENCE, DIFFERENCE_FLOAT64) for where in ("id", "ood")}
    where = derivation.contexts.build(language).name if isinstance(derivation, Exchange) else DOCUMENTS
    return {(ADDED, where, "exact")}


def exchange_rows(cost: Cost, contexts: str, seeds: Sequence[int], count: int) -> list[dict[str, Any]]:
    """The cost of an exchange by seed: what is added to the loss, its bounds, the contexts' probability and the share left alone.

    `count`: contexts that were drawn; 0 where all were summed.
    """
    rows = added_rows(cost.value, cost.lower, cost.upper, contexts, seeds, count)
    for i, seed in enumerate(seeds):
        facts = {
            "context_probability": cost.probability,
            "kl_bound": cost.bound[i],
            "kl_guaranteed": cost.guaranteed,
            "ties": cost.ties[i],
            "no_second": cost.no_second[i],
        }
        rows += [measurement(seed, NAME, name, contexts, (float(v), *NO_ENDS), count) for name, v in facts.items()]
    return rows


def added_rows(
    value: np.ndarray, lower: np.ndarray, upper: np.ndarray, where: str, seeds: Sequence[int], count: int
) -> list[dict[str, Any]]:
    """What is added to the loss, by seed, with its 95 % interval."""
    intervals = zip(value.tolist(), lower.tolist(), upper.tolist(), strict=True)
    return [measurement(seed, NAME, ADDED, where, found, count) for seed, found in zip(seeds, intervals, strict=True)]


def function_rows(measure: str, certificate: FunctionCertificate, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """The largest difference of log-probabilities between a variant and what it was made from, by seed and prompt set."""
    found = []
    for prompt_set, values in (("id", certificate.ids), ("ood", certificate.ood)):
        for seed, value in zip(seeds, values.tolist(), strict=True):
            count = 0 if math.isnan(value) else 1
            found.append(measurement(seed, FUNCTION, measure, prompt_set, (value, *NO_ENDS), count))
    return found
