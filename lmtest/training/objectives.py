"""Objectives: what a model is trained for beside the language itself.

Maximum likelihood fixes the law on strings of the language alone. The other two add the loss on completions of
*impossible* prompts, which the language's loss cannot see (Reizinger et al., ICML 2024, case study 1): the oracle is shown
completions that keep every rule that can still hold, the adversary completions that break one. Unlike the released code,
the completion counts from its first token on, and only prompts that are not held out are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from lmtest.errors import UsageError, nearest
from lmtest.languages.base import Language, Row
from lmtest.models.decoding import decode
from lmtest.models.reference import RuleKeeper
from lmtest.validation import Table

LONGEST_COMPLETION = 1_000


class _Objective(Table):
    models: list[str] | None = Field(None, min_length=1)
    """Models that are trained for it; all where none is named."""


class MaximumLikelihood(_Objective):
    """The loss of the language alone ("normal")."""

    objective: Literal["maximum_likelihood"]

    def check(self, language: Language) -> None:
        """Every language will do."""

    def targets(self, language: Language, prompts: Sequence[Row]) -> list[Row] | None:
        return None


class _Shown(_Objective):
    weight: float = Field(1.0, gt=0)
    """Factor of the completion loss (mean nats per completion token) against the language's (likewise per token)."""
    batch: int = Field(32, ge=1)
    """Prompts a step."""

    def check(self, language: Language) -> None:
        """Raises UsageError where the language has no rules to keep or to break."""
        if not language.rules:
            raise UsageError(
                f"{language.name} has no rules, so there are no completions to show: add a [rules] table to it"
            )


class Oracle(_Shown):
    """Completions that keep every rule that can still hold: the rule keeper's."""

    objective: Literal["oracle"]

    def targets(self, language: Language, prompts: Sequence[Row]) -> list[Row] | None:
        return keeper_completions(language, prompts)


class Adversarial(_Shown):
    """Completions that break `rule`: the rule keeper's and then one symbol too many (for #a = #b: off by one)."""

    objective: Literal["adversarial"]
    rule: str = "R1"

    def check(self, language: Language) -> None:
        """Raises UsageError where the language does not have the rule."""
        super().check(language)
        if self.rule not in language.rules:
            hint = nearest(self.rule, language.rules)
            raise UsageError(
                f"the adversarial objective breaks rule {self.rule!r}, which {language.name} lacks; {hint}"
            )

    def targets(self, language: Language, prompts: Sequence[Row]) -> list[Row] | None:
        self.check(language)
        kept = keeper_completions(language, prompts)
        return [_spoil(language, self.rule, prompt, good) for prompt, good in zip(prompts, kept, strict=True)]


Objective = Annotated[MaximumLikelihood | Oracle | Adversarial, Field(discriminator="objective")]


def keeper_completions(language: Language, prompts: Sequence[Row]) -> list[Row]:
    """The rule keeper's completion of each impossible prompt, without EOS."""
    done = decode(RuleKeeper(language), language.vocabulary, prompts, LONGEST_COMPLETION, "greedy", seed=0)
    if not bool(done.finished.all()):
        raise UsageError(
            f"{language.name}: the rules leave a prompt without a completion of {LONGEST_COMPLETION} symbols"
        )
    return [tuple(row[:n].tolist()) for row, n in zip(done.tokens[0], done.lengths[0], strict=True)]


def _spoil(language: Language, rule_name: str, prompt: Row, completion: Row) -> Row:
    """One more symbol, the completion's last if that breaks the rule, else the last of the vocabulary that does."""
    rule = language.rules[rule_name]
    for symbol in (*completion[-1:], *reversed(range(len(language.symbols)))):
        spoilt = (*completion, symbol)
        if not rule.accepts(rule.run(prompt + spoilt)):
            return spoilt
    return completion  # the prompt has broken the rule already, or no single symbol does
