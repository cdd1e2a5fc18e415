"""All evaluators by name: what a study's `[evaluators.NAME]` tables may declare."""

from __future__ import annotations

from collections.abc import Iterable

from lmtest.evaluators.contract import Evaluated
from lmtest.evaluators.evaluator import Evaluator
from lmtest.evaluators.fine_tuning import FineTuningConfig
from lmtest.evaluators.flatness import FlatnessConfig
from lmtest.evaluators.in_context import InContextConfig
from lmtest.evaluators.rule_extrapolation import RuleExtrapolation, RuleExtrapolationConfig
from lmtest.evaluators.string_mass import StringMassConfig
from lmtest.languages.base import Language, Row
from lmtest.validation import Table


class EvaluatorsConfig(Table):
    """The `[evaluators]` table of a study; where it names none, rule extrapolation is evaluated."""

    rule_extrapolation: RuleExtrapolationConfig | None = None
    string_mass: StringMassConfig | None = None
    in_context: InContextConfig | None = None
    flatness: FlatnessConfig | None = None
    fine_tuning: FineTuningConfig | None = None

    def build(self, language: Language) -> list[Evaluator]:
        """The evaluators of one language, in the order of their tables. UsageError where one does not fit it."""
        evaluators: list[Evaluator] = []
        if self.rule_extrapolation is not None or self == EvaluatorsConfig():
            evaluators.append((self.rule_extrapolation or RuleExtrapolationConfig()).evaluator(language))
        if self.string_mass is not None:
            evaluators.append(self.string_mass.evaluator(language))
        if self.in_context is not None:
            evaluators.append(self.in_context.evaluator(language))
        if self.flatness is not None:
            evaluators.append(self.flatness.evaluator(language))
        if self.fine_tuning is not None:
            evaluators.append(self.fine_tuning.evaluator(language))
        return evaluators


def measured(evaluators: Iterable[Evaluator]) -> Evaluated:
    """What there will be a value, or an outcome for each prompt, of."""
    parts = [evaluator.measured() for evaluator in evaluators]
    return Evaluated({v for part in parts for v in part.values}, {o for part in parts for o in part.outcomes})


def trainable(evaluators: Iterable[Evaluator]) -> list[Row]:
    """The impossible prompts that objectives may be shown: those that rule extrapolation does not hold out."""
    return [row for e in evaluators if isinstance(e, RuleExtrapolation) for row in e.trainable]
