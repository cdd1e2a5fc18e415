"""In-context learning: does a model read from a prompt's examples how its test input goes on?

Xie et al., ICLR 2022 (arXiv 2111.02080). The law of the model behind each prompt is read once, and every number comes from
it: how often its likeliest output is the label, how sure it is, and what the order of the examples does. Beside them stand,
for the language itself (the Bayes predictor), how likely the prompts were and what they say of the concept. A label is the
likeliest output, not one drawn from its law: whoever knows that law is right more often than sure.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from scipy.special import entr

from lmtest.errors import UsageError
from lmtest.evaluators.answers import Answers, last_laws, mean, share
from lmtest.evaluators.calibration import calibration_error
from lmtest.evaluators.contract import Evaluated
from lmtest.evaluators.evaluator import Size, regularly
from lmtest.languages.base import Language
from lmtest.languages.distinguishability import distinguishability
from lmtest.languages.hmm_mixture import HmmMixture
from lmtest.languages.in_context_prompts import (
    ORDERED,
    ORDERS,
    Family,
    InContextPrompts,
    check_prompt,
    in_context_prompts,
    order_sets,
    prompt_length,
)
from lmtest.languages.prompts import MAX_PROMPTS
from lmtest.measurement import Interval, measurement
from lmtest.models.contract import LanguageModel
from lmtest.seeds import generator
from lmtest.validation import Table

NAME = "in_context"
CALIBRATIONS = ("calibration_error", "calibration_error_drawn")
"""Of being right about the label, which is the likeliest output, and about an answer drawn from the true law. A model that
is as sure as it should be has the second near 0 once it knows the concept, and the first far from it."""
PROBED = 200
"""Prompts of a set that are followed along training."""


class InContextConfig(Table):
    """The `[evaluators.in_context]` table of a study."""

    lengths: list[int] = Field([3], min_length=1)
    """k: symbols of an example, its output counted."""
    examples: list[int] = Field([0, 1, 2, 4, 8, 16], min_length=1)
    """n: examples of a prompt."""
    families: list[Family] = Field(["seen"], min_length=1)
    prompts: int = Field(500, ge=1, le=MAX_PROMPTS)
    """Of each set."""
    unseen: int = Field(5, ge=1)
    """Fresh concepts of the families "unseen" and "random"."""
    inner_delimiters: bool = False
    """Whether an example may hold a delimiter, as in the paper's released code."""
    order_sets: int = Field(10, ge=0, le=MAX_PROMPTS)
    """Sets of 4 examples that are shown in all 24 orders; 0: none."""
    order_tests: int = Field(20, ge=1, le=MAX_PROMPTS)
    """Test inputs behind each order."""
    bins: int = Field(15, ge=1)
    """Of the calibration error."""
    prompt_seed: int = Field(0, ge=0)

    def evaluator(self, language: Language) -> InContext:
        """Raises UsageError where the language is no mixture of hidden Markov models, and where prompts do not fit it."""
        if not isinstance(language, HmmMixture):
            raise UsageError(
                f"in_context: expected a language of kind 'hmm_mixture', found {language.name}: its documents share no "
                "hidden concept; choose another language, or leave the table [evaluators.in_context] out"
            )
        return InContext(language, self)


@dataclass(frozen=True)
class InContext:
    """The evaluator for one language: its prompts are fixed, models come and go.

    Raises UsageError where a prompt does not fit a document.
    """

    language: HmmMixture
    config: InContextConfig

    def __post_init__(self) -> None:
        for k, n in self._shapes:
            try:
                check_prompt(self.language, k, n)
            except UsageError as error:
                of_orders = n == ORDERED and n not in self.config.examples
                hint = f" ({n} examples are those of `order_sets`; 0 leaves them out)" if of_orders else ""
                raise UsageError(f"in_context: {error}{hint}") from None

    name = NAME
    last_probe_is_all = False

    @property
    def longest(self) -> int:
        """Symbols of the longest prompt and its answer."""
        return max(prompt_length(k, n) for k, n in self._shapes) + 1

    @property
    def _shapes(self) -> list[tuple[int, int]]:
        """All pairs k, n."""
        ordered = [ORDERED] if self.config.order_sets else []
        return [
            *itertools.product(dict.fromkeys(self.config.lengths), dict.fromkeys([*self.config.examples, *ordered]))
        ]

    @cached_property
    def prompt_sets(self) -> dict[str, InContextPrompts]:
        """By name, for each family and k nested in n; the orders not among them."""
        c = self.config
        ns = list(dict.fromkeys(c.examples))
        return {
            prompts.name: prompts
            for family, k in itertools.product(dict.fromkeys(c.families), dict.fromkeys(c.lengths))
            for prompts in in_context_prompts(
                self.language, family, k, ns, c.prompts, c.prompt_seed, c.inner_delimiters, c.unseen
            )
        }

    @cached_property
    def orders(self) -> dict[str, InContextPrompts]:
        """The sets of examples in all orders, by name."""
        c = self.config
        if not c.order_sets:
            return {}
        return {
            prompts.name: prompts
            for k in dict.fromkeys(c.lengths)
            for prompts in [
                order_sets(self.language, k, c.order_sets, c.order_tests, c.prompt_seed, c.inner_delimiters)
            ]
        }

    def measured(self) -> Evaluated:
        """What there will be a value, or an outcome for each prompt, of; for trained models."""
        c, values, outcomes = self.config, set(), set()
        for family, k, n in itertools.product(c.families, c.lengths, c.examples):
            name = f"{family}.k{k}.n{n}"
            outcomes.add(("accuracy", name, "greedy"))
            values |= {*itertools.product(("accuracy", "accuracy_possible", "accuracy_impossible"), [name], ["greedy"])}
            values |= {*itertools.product(("label_probability", *CALIBRATIONS), [name], ["exact"])}
            if n and 0 in c.examples:
                values.add(("gain", name, "greedy"))
        for k in c.lengths if c.order_sets else ():
            outcomes.add(("accuracy", f"orders.k{k}", "greedy"))
            values |= {*itertools.product(("accuracy", "order_range"), [f"orders.k{k}"], ["greedy"])}
        return Evaluated(values, outcomes)

    def sizes(self) -> dict[str, Size]:
        """The prompt sets by name; a prompt that was drawn twice has its mass once."""
        found = {}
        for name, prompts in (self.prompt_sets | self.orders).items():
            _, places = np.unique(prompts.symbols, axis=0, return_index=True)
            found[name] = Size(len(prompts.symbols), float(np.exp(prompts.log_mass[places]).sum()))
        return found

    def probed_at(self, steps: int, every: int) -> set[int]:
        return regularly(steps, every)

    def probe(self, model: LanguageModel, seeds: Sequence[int], seed: int) -> list[dict[str, Any]]:
        """Accuracy on the sets with the fewest and the most examples of the first family and length, PROBED prompts each."""
        family, k, ns = self.config.families[0], self.config.lengths[0], self.config.examples
        rows = []
        for n in sorted({min(ns), max(ns)}):
            prompts = self.prompt_sets[f"{family}.k{k}.n{n}"].first(PROBED)
            answers = self._answers(model, prompts, seeds, seed)
            rows += [row for row in self._measure(answers, seeds) if row["measure"] == "accuracy"]
        return rows

    def evaluate(self, model: LanguageModel, seeds: Sequence[int], seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Every prompt set → measurements and answers, one row a seed (and a prompt); `seed` breaks ties in the answers.

        A prompt behind which the model has no law is left out of values and counts. The language itself has more measures.
        """
        answers = {p.name: self._answers(model, p, seeds, seed) for p in (self.prompt_sets | self.orders).values()}
        rows = []
        for name in self.prompt_sets:
            rows += self._measure(answers[name], seeds)
            prompts = answers[name].prompts
            if prompts.n and (zero := answers.get(f"{prompts.family}.k{prompts.k}.n0")) is not None:
                rows += self._gains(answers[name], zero, seeds)
            if model is self.language:
                rows += [row for s in seeds for row in _bayes(prompts, s)]
        for name in self.orders:
            rows += self._order_rows(answers[name], seeds)
        if model is self.language:
            rows += [self._distinguishable(k, s) for k in dict.fromkeys(self.config.lengths) for s in seeds]
        details = [found.table(NAME, self.language.vocabulary, seeds) for found in answers.values()]
        return pd.DataFrame(rows), pd.concat(details, ignore_index=True)

    def _answers(self, model: LanguageModel, prompts: InContextPrompts, seeds: Sequence[int], seed: int) -> Answers:
        if model is self.language:  # its law is known since the prompts were drawn
            law = prompts.reading.law.log().movedim(1, 0)
            laws = torch.nn.functional.pad(law, (0, 1), value=-math.inf)
        else:
            laws = last_laws(model, self.language.vocabulary.pack(prompts.rows)[0], len(seeds))
        noise = np.stack([generator(seed, NAME, prompts.name, s).random(laws.shape[1:]) for s in seeds])
        return Answers.judge(prompts, laws.exp().numpy(), noise)

    def _measure(self, answers: Answers, seeds: Sequence[int]) -> list[dict[str, Any]]:
        rows, chance = [], 1 / self.language.vocabulary.n_outputs
        possible = answers.prompts.log_mass > -math.inf
        for i, s in enumerate(seeds):
            defined, name = answers.defined[i], answers.prompts.name
            for measure, among in (
                ("accuracy", defined),
                ("accuracy_possible", defined & possible),
                ("accuracy_impossible", defined & ~possible),
            ):
                rows.append(_row(s, measure, name, "greedy", share(answers.accuracy[i, among]), among.sum(), chance))
            found = answers.label_probability[i, defined]
            rows.append(_row(s, "label_probability", name, "exact", mean(found), len(found), chance))
            # They are no means over prompts, and have no simple interval over them.
            for measure, right in zip(CALIBRATIONS, (answers.accuracy, answers.drawn), strict=True):
                error = calibration_error(answers.confidence[i, defined], right[i, defined], self.config.bins)
                rows.append(_row(s, measure, name, "exact", (error, math.nan, math.nan), len(found), 0.0))
        return rows

    def _gains(self, few: Answers, zero: Answers, seeds: Sequence[int]) -> list[dict[str, Any]]:
        """Accuracy with examples less that without, on the same test inputs."""
        rows = []
        for i, s in enumerate(seeds):
            both = few.defined[i] & zero.defined[i]
            gains = few.accuracy[i, both] - zero.accuracy[i, both]
            rows.append(_row(s, "gain", few.prompts.name, "greedy", mean(gains), len(gains), 0.0))
        return rows

    def _order_rows(self, answers: Answers, seeds: Sequence[int]) -> list[dict[str, Any]]:
        """Accuracy, and how far apart the best and the worst order of a set are."""
        rows, name, chance = [], answers.prompts.name, 1 / self.language.vocabulary.n_outputs
        shape = self.config.order_sets, len(ORDERS), self.config.order_tests
        whose = np.arange(len(answers.prompts.symbols)) // (shape[1] * shape[2])
        for i, s in enumerate(seeds):
            defined = answers.defined[i]
            interval = share(answers.accuracy[i, defined], whose[defined])
            rows.append(_row(s, "accuracy", name, "greedy", interval, defined.sum(), chance))
            ranges = []
            for accuracy, law in zip(answers.accuracy[i].reshape(shape), defined.reshape(shape), strict=True):
                if (common := law.all(0)).any():  # orders are compared on the same test inputs
                    ranges.append(np.ptp(accuracy[:, common].mean(1)))
            rows.append(_row(s, "order_range", name, "greedy", mean(np.array(ranges)), len(ranges), 0.0))
        return rows

    def _distinguishable(self, k: int, s: int) -> dict[str, Any]:
        """Share of the concepts that an example tells from every other, whatever its start property."""
        table = distinguishability(self.language.mixture, k, self.config.prompt_seed)
        worst = table[table["start"] == "worst"]
        shares = []
        for shift in (0, -1, 1):
            holds = worst["margin"] + shift * worst["half_width"] > 0
            shares.append(float(holds.groupby(worst["theta_star"]).all().mean()) if len(worst) else math.nan)
        count = worst["theta_star"].nunique()
        return _row(s, "distinguishable", f"concepts.k{k}", "exact", (shares[0], shares[1], shares[2]), count, math.nan)


def _bayes(prompts: InContextPrompts, seed: int) -> list[dict[str, Any]]:
    """How likely prompts are under the language, and, of those that are possible, what they say of the concept."""
    possible = prompts.log_mass > -math.inf
    log_mass = prompts.log_mass[possible]
    posterior = prompts.reading.posterior[:, -1].numpy()[possible]
    majority = prompts.labels == np.bincount(prompts.labels).argmax()
    found: list[tuple[str, Interval, int]] = [
        ("zero_share", share(~possible), len(possible)),
        ("log_mass", mean(log_mass), len(log_mass)),
        ("posterior_entropy", mean(entr(posterior).sum(-1)), len(log_mass)),
        ("majority_rate", share(majority), len(majority)),
    ]
    if prompts.family in ("seen", "single"):  # the others' concepts are none of the language's
        true = posterior[np.arange(len(posterior)), prompts.concepts[possible]]
        found.append(("posterior", mean(true), len(true)))
    return [_row(seed, measure, prompts.name, "exact", value, count, math.nan) for measure, value, count in found]


def _row(
    seed: int, measure: str, prompt_set: str, decoding: str, interval: Interval, count: int, chance: float
) -> dict[str, Any]:
    return measurement(seed, NAME, measure, prompt_set, interval, count, decoding=decoding, chance=chance)
