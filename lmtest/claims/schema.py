"""A claim as it stands in a study's TOML, one `[[claims]]` table each: fixed before anything is run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lmtest.claims.groups import KL, Compared, Finite, Group, Grouped, Pairwise, Stated, Text


class Equivalence(Pairwise):
    """All pairs of `variants` (`models`, `prompt_sets`) differ by less than `margin` in the mean over seeds."""

    kind: Literal["equivalence"]
    measure: Text = KL
    margin: Annotated[Finite, Field(gt=0)]


class Order(Pairwise):
    """The means of `variants` (`models`, `prompt_sets`) ascend as listed, each by more than `margin` over the one before."""

    kind: Literal["order"]
    margin: Annotated[Finite, Field(ge=0)] = 0.0


class Difference(Pairwise):
    """All pairs of `variants` (`models`, `prompt_sets`) differ by more than `margin`, in either direction."""

    kind: Literal["difference"]
    margin: Annotated[Finite, Field(ge=0)] = 0.0


class Trend(Compared):
    """The values of each seed tend to rise (fall) along `variants` (`models`, `prompt_sets`) as listed, in Kendall's sense.

    Weaker than an order: single steps may be flat or go back.
    """

    kind: Literal["trend"]
    direction: Literal["rising", "falling"] = "rising"

    @property
    def is_paired(self) -> bool:
        return True


class Threshold(Grouped):
    """Each of `variants` (`models`, `prompt_sets`) has its mean over seeds above (below) a number or a baseline.

    The baseline "chance" is the chance column of the same rows; any other is that reference model's value.
    """

    kind: Literal["threshold"]
    direction: Literal["above", "below"] = "above"
    bound: Finite | None = None
    baseline: Literal["chance", "uniform", "stop", "ngram", "normative", "language", "rule_keeper"] | None = None

    @model_validator(mode="after")
    def _has_one_bound(self) -> Threshold:
        if (self.bound is None) == (self.baseline is None):
            raise ValueError("expected either bound (a number) or baseline (a name), one of the two")
        if self.measure == KL and self.baseline == "chance":
            raise ValueError("measure 'kl' has no chance level: give a bound or a reference model as the baseline")
        return self


class Heterogeneity(Stated):
    """The seeds of one model and variant differ among themselves: by more than prompts explain, and their SD is > `margin`."""

    kind: Literal["heterogeneity"]
    margin: Annotated[Finite, Field(ge=0)] = 0.0

    @property
    def groups(self) -> list[Group]:
        return [Group(" ".join(filter(None, (self.model, self.variant))) or "the model", self.model, self.variant)]

    @model_validator(mode="after")
    def _has_prompts(self) -> Heterogeneity:
        if self.measure == KL:
            raise ValueError("heterogeneity needs a measure with an outcome per prompt, found 'kl'")
        return self


Claim = Annotated[Equivalence | Order | Difference | Trend | Threshold | Heterogeneity, Field(discriminator="kind")]
"""One claim; `kind` says which."""
